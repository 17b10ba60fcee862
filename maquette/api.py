"""The verbs: train, resume, sample, interpolate, vary, evaluate, compare, embed, search, export, compress, decompress, load,
show, doctor.

The command line says the same ones. Knows runs, reports and how work is shown; decides no exit code and parses no command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from maquette import exhibits, finding, loading, lossless, parcel, recipes, storage
from maquette.baselines import judge_baselines
from maquette.between import ends_of
from maquette.compare import compare
from maquette.contracts import Comparing
from maquette.data import open_data
from maquette.dials import described, dials_of
from maquette.doctor import doctor
from maquette.drawing import interpolate, sample, vary
from maquette.evaluate import choose, judge, undisturbed
from maquette.experiment import Experiment
from maquette.hub import export as publish
from maquette.hub import ggml, onnx, pipelines, written
from maquette.loading import evaluation_of, is_published, load
from maquette.metrics.evidence import Evidence
from maquette.opened import Loaded, uses_of_pictures
from maquette.report.bar import Board
from maquette.report.card import write_card
from maquette.report.page import write_run_page
from maquette.runs import Run, build
from maquette.training import begin, pursue, resume, train

__all__ = [
    "Loaded",
    "baselines",
    "begin",
    "compare",
    "compress",
    "decompress",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "interpolate",
    "load",
    "pursue",
    "resume",
    "sample",
    "search",
    "show",
    "train",
    "vary",
]


# -- export --------------------------------------------------------------------------------------------------------------


def export(path: str | Path, out: str | Path, *, to: str = "", step: int | None = None, trust: bool = False) -> str:
    """Write a run, or what was published, as a folder that another library opens, and makes the same samples from.

    Possible for published pipelines and language models, for runs that train one on, for runs of `networks.unet2d` over a chain
    of steps on pixels, and for runs of transformers of a published family. Of an adapter or a word that was learnt for a
    pipeline or a model, the small file is written that is then loaded beside it.

    Args:
        to: the other library: diffusers, hf for transformers, gguf for llama.cpp, onnx for onnxruntime; "" = diffusers or hf, by
            what this makes.

    Returns:
        The class of theirs that opens it, or the method of that class: "StableDiffusionPipeline.load_lora_weights".

    Raises:
        UnknownName: no such library.
        ValueError: another library has nothing that this could be written as.
    """
    writers: dict[str, Callable[[Loaded, Path], str]] = {"diffusers": _to_diffusers, "hf": _to_transformers, "gguf": _to_ggml}
    writers |= {"onnx": lambda found, out: onnx.write(found.system, out)}
    if to and to not in writers:
        raise recipes.UnknownName("library to export to", to, list(writers))
    found = load(path, step=step, device="cpu", trust=trust)
    usual = "hf" if found.system.codec.field == "text" else "diffusers"
    return writers[to or usual](found, Path(out))


def _source(found: Loaded, file: str) -> Path | None:
    """The published folder with such a file that a system was opened from, or that its run trained on; None of one made here."""
    own = isinstance(found.run, pipelines.Published)
    told = [str(found.run.path)] if own else found.run.record["arguments"].values()
    said = [value for value in told if isinstance(value, str) and value]
    return next((Path(value) for value in said if (Path(value) / file).is_file()), None)


def _to_diffusers(found: Loaded, out: Path) -> str:
    source = _source(found, pipelines.INDEX)
    return publish.compose(found.system, out) if source is None else publish.write(found.system, source, out)


def _model(found: Loaded) -> tuple[Path | None, bool]:
    """The published model that a system began as, through runs that were tuned on, too; None of one made here. And whether what
    it has learnt since lies on that as it is, with no other run and no adapter between."""
    record, bare, here = found.run.record, True, found.run.path
    if isinstance(found.run, pipelines.Published):
        return (here if (here / "config.json").is_file() else None), True
    while True:
        told = [Path(value) for value in record["arguments"].values() if isinstance(value, str) and value]
        if source := next((path for path in told if (path / "config.json").is_file()), None):
            return source, bare and not record["arguments"].get("adapter")
        if not (before := record.get("built_on")):
            return None, False
        record, bare = next(iter(before.values())), False


def _to_transformers(found: Loaded, out: Path) -> str:
    source, bare = _model(found)
    return written.write(found.system, out, source, bare)


def _to_ggml(found: Loaded, out: Path) -> str:
    return ggml.write(found.system, out, _model(found)[0])


# -- embed and search ----------------------------------------------------------------------------------------------------


def embed(
    path: str | Path,
    source: str | Path,
    out: str | Path = "",
    *,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> finding.Shelf:
    """The vectors that a run which compares gives to pictures, or to passages of text; written by `out`'s suffix if it is given.

    Args:
        source: pictures, a folder or an .npz, of a run that compares some; or text, a folder, a file, or JSONL rows with "text".
        out: .npz or .safetensors, which `search` takes in place of the source; or .npy, the array alone.
    """
    if out:
        finding.check_suffix(Path(out))
    shelf = finding.shelved(load(path, step=step, device=device, trust=trust), Path(source))
    if out:
        finding.keep(shelf, Path(out))
    return shelf


def search(
    path: str | Path,
    source: str | Path,
    query: str,
    k: int = 5,
    *,
    words: bool = True,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> list[dict[str, Any]]:
    """The k pictures or passages of a source that are nearest to a query: "name", "cosine", "text" of each, the nearest first.

    Args:
        source: as `embed` has it; or what it wrote.
        query: words; or a picture's file, of a run that compares pictures.
        words: the words that a passage shares with the query count, too; else its vector alone.
    """
    found = load(path, step=step, device=device, trust=trust)
    return finding.nearest(found, finding.shelved(found, Path(source)), query, k, words)


# -- compress ------------------------------------------------------------------------------------------------------------


def compress(
    path: str | Path, source: str | Path, out: str | Path, *, step: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Write pictures or text as a file of about as many bits as a run's model says they hold; `decompress` brings them back.

    Args:
        source: a text file; or a picture, a folder of them, or an .npz with "image" (and "label"), of the run's size and levels.

    Returns:
        "bytes" of the file, "model_bits" that the model gives its symbols, "symbols", and "rows".

    Raises:
        ValueError: the run has no exact likelihood, or the source is not of its kind.
    """
    found = load(path, step=step, device=device)
    code, told = parcel.fold(Path(source), found.facts, found.system.codec)
    packed = lossless.pack(found.system, code, told)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    storage.replace_durably(Path(out), packed.data)
    return {"bytes": len(packed.data), "model_bits": packed.bits, "symbols": packed.symbols, "rows": len(code)}


def decompress(path: str | Path, source: str | Path, out: str | Path, *, step: int | None = None, device: str = "cpu") -> None:
    """Bring back what `compress` wrote with the same run and checkpoint, on the same kind of machine.

    Args:
        out: a file for text; for pictures an .npz, a .png (of one), or a folder.

    Raises:
        ValueError: the file is damaged, another model's, or another machine's.
    """
    if not Path(source).is_file():
        raise lossless.Unreadable(f"there is no file {source}")
    found = load(path, step=step, device=device)
    code, told = lossless.unpack(found.system, Path(source).read_bytes())
    parcel.unfold(code, told, found.facts, found.system.codec, Path(out))


# -- evaluate and show ---------------------------------------------------------------------------------------------------


def evaluate(
    path: str | Path,
    *,
    n: int = 0,
    seed: int = 0,
    only: list[str] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
    allow_code_exec: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Score a run on its held-out data; writes eval.json, report.html and the model card, and returns what eval.json holds.

    Args:
        allow_code_exec: run the programs that it writes, walled in (`maquette.sandbox`), where its data have checks for them.
        quiet: do not show on stderr what is being measured, and how many of the samples are drawn.
    """
    if seed < 0:
        raise ValueError(f"--seed {seed}: a seed of evaluation is 0 or more")
    chosen = choose(only)
    found = load(path, step=step, device=device, trust=trust)
    run = found.trained
    evidence = Evidence(found.data, found.system, n=n or None, seed=seed, executes=allow_code_exec)
    with undisturbed(found.system), nullcontext() if quiet else Board(["scoring"]) as board:
        result = judge(evidence, chosen, _told_to(board, evidence) if board else None)
    record = run.record
    told = {
        "run": str(path),
        "recipe": record["recipe"],
        "arguments": record["arguments"],
        "step": found.progress.step,
        "seconds": round(found.progress.seconds, 3),
        "setup_seconds": record["setup_seconds"],
        "parameters": record["parameters"],
        "sampler": described(found.system.sampler),
        "n": evidence.n,
        "seed": seed,
        **_plain(result),
    }
    storage.replace_durably(run.path / "eval.json", (json.dumps(told, indent=1) + "\n").encode())
    with undisturbed(found.system):
        kept = exhibits.kept(evidence)
    if kept:
        exhibits.save(run.path / "samples" / "eval.npz", kept)
    write_run_page(run.path / "report.html", {"record": record, "eval": told, "log": run.rows(), **kept})
    write_card(run.path / "README.md", record, told)
    return told


def _told_to(board: Board, evidence: Evidence) -> Callable[[str, float], None]:
    """What tells a board which metric is at work; how many of its samples are drawn the evidence tells it."""

    def tell(stage: str, share: float) -> None:
        board.show({"scoring": (stage, share)})

    evidence.tell = partial(tell, f"{evidence.n:,} samples")
    return tell


def baselines(
    data: str, *, size: int = 0, seed: int = 0, out: str | Path = "", allow_code_exec: bool = False
) -> dict[str, dict[str, dict[str, Any]]]:
    """What any model must beat on a data set: baseline -> figure -> value. Written to `out` as JSON if it is given.

    For images: the training rows themselves (a perfect copier), a Gaussian and independent pixels per class. For text: xz.

    Args:
        allow_code_exec: run the programs that n-grams and a memory of the training rows write, walled in, where there are checks.
    """
    found = _plain(judge_baselines(open_data(data, size), seed, allow_code_exec))
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        storage.replace_durably(Path(out), (json.dumps(found, indent=1) + "\n").encode())
    return found


def _plain(value: Any) -> Any:
    """JSON's own types: estimates and signatures as dictionaries, NaN as null."""
    if hasattr(value, "asdict"):
        return _plain(value.asdict())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(name: str) -> dict[str, Any]:
    """What a run is and how far, or a published pipeline; or a recipe: its arguments, roles, phases, capabilities."""
    if (recipe := recipes.named(name)) in recipes.catalogue() or ":" in name:
        name = recipe
        experiment, _ = build(name, {}, 0)
        return {
            "recipe": name,
            "about": recipes.find(name).__doc__,
            "arguments": recipes.signature(recipes.find(name)),
            **anatomy(experiment),
        }
    if is_published(name):
        return loading.published(Path(name)).record
    found = Run.open(name)
    rows = found.rows()
    kept: list[dict[str, Any]] = []
    for folder in found.checkpoints():
        try:
            storage.read_verified(folder)
            kept.append({"step": int(folder.name.removeprefix("step-")), "verified": True})
        except storage.Damaged as error:
            kept.append({"step": int(folder.name.removeprefix("step-")), "verified": False, "why": str(error)})
    return {**found.record, "last": rows[-1] if rows else {}, "checkpoints": kept, "eval": evaluation_of(found.path)}


def anatomy(experiment: Experiment) -> dict[str, Any]:
    """A system's parts and what it can do, read from the parts themselves."""
    system = experiment.system
    fates = {**dict.fromkeys(system.frozen, "frozen"), **{f: f"follows {leader}" for f, (leader, *_) in system.follow.items()}}
    roles = {k: net for k, net in system.roles().items() if next(net.parameters(), None) is not None}
    main = system.steady("main") if "main" in system.nets else None
    return {
        "roles": {
            k: {"parameters": sum(p.numel() for p in net.parameters()), "fate": fates.get(k, "learns")}
            for k, net in roles.items()
        },
        "phases": {p.name: {"trains": list(system.learners(p)), "every": p.every} for p in system.objective.phases()},
        "sampler": described(system.sampler),
        "can": {
            "likelihood": system.objective.bound or "no",
            "conditional": list(system.conditioner.fields) if system.conditioner else [],
            "guidance": system.conditioner is not None and "guidance" in dials_of(system.sampler),
            "interpolation, variation": ends_of(system, system.sampler),
            "given pictures": uses_of_pictures(system, experiment.data.facts),
            "comparison": list(system.objective.sides) if isinstance(system.objective, Comparing) else [],
            "lossless coding": not lossless.unfit(system),
            "incremental decoding": main is not None and hasattr(main, "begin") and main.begin(1, 2) is not None,
        },
    }
