"""The verbs: train, resume, sample, interpolate, vary, evaluate, compare, embed, search, export, compress, decompress, load,
show, doctor.

The command line says the same ones. Knows runs, reports and how work is shown; decides no exit code and parses no command line.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from maquette import exhibits, finding, lossless, opened, parcel, recipes, storage
from maquette.baselines import judge_baselines
from maquette.between import ends_of
from maquette.compare import compare
from maquette.contracts import IGNORE, Batch, Code, Comparing, Turns
from maquette.data import open_data
from maquette.dials import described, dials_of, turned
from maquette.doctor import doctor
from maquette.evaluate import choose, judge, undisturbed
from maquette.experiment import Experiment
from maquette.hub import export as publish
from maquette.hub import ggml, onnx, pipelines, written
from maquette.metrics.evidence import Evidence
from maquette.opened import Loaded, evaluation_of, is_published, load, uses_of_pictures
from maquette.report.bar import Bar
from maquette.report.card import write_card
from maquette.report.page import write_run_page
from maquette.report.pictures import check_suffix, save_samples
from maquette.runs import Report, Run, build
from maquette.samplers.solvers import Solver
from maquette.saying import asked_by
from maquette.training import begin, pursue, resume, train
from maquette.wording import Pieces

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


# -- sample --------------------------------------------------------------------------------------------------------------


def sample(
    path: str | Path,
    n: int = 16,
    *,
    out: str | Path = "",
    seed: int = 0,
    about: dict[str, Any] | None = None,
    prompt: str = "",
    chat: str | Turns = "",
    suffix: str = "",
    start: str | Path = "",
    hide: str = "",
    mask: str | Path = "",
    dials: dict[str, Any] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
    best_of: int = 1,
    judge: str | Path = "",
    size: str = "",
    draft: str | Path = "",
    logprobs: bool = False,
    truncate: bool = False,
    tell: Callable[[int, str], None] | None = None,
    bits: int = 0,
    quiet: bool = True,
) -> Batch:
    """Draw n samples from a run or a published pipeline; written by `out`'s suffix (.png, .npz, .txt, .json) if it is given.

    Args:
        chat: what a user says, or a whole conversation, [{"role": "user", "content": ...}, ...], for a run that answers.
        suffix: how a text ends, of a run that fills holes (codex): what is written stands between the prompt and it.
        start: pictures to grow from, a file, a folder or an .npz: to describe, to translate, to rebuild, to vary (as far as the
            dial `strength` says), to find in a space of styles; or, with part of each unseen, to complete: the rest stays, to the
            bit.
        hide: the part that is unseen: bottom, top, left, right, middle, around.
        mask: a picture of the run's size, white where what is to be filled lies, in place of `hide`.
        dials: fields of the run's sampler, changed for this call: {"steps": 50, "guidance": 2}; of one that writes symbols also
            "sampler", another in its place: "beam", "contrastive", "best_of", "speculative".
        best_of: samples drawn for each that is kept: the one that the run itself finds likeliest, of texts; or the one closest to
            its caption, says
        judge: a run that compares pictures with captions, such as clip's; of answers to a chat, a run of reward.
        size: of a published pipeline's images, in pixels: "512" or height x width, "512x768".
        draft: what guesses the symbols of texts, for the run to check several at once: another run of the same symbols, "lookup"
            (what the text itself has shown before), or "ahead" (the run's own guesses, where it learnt any).
        logprobs: add "symbols", "logprobs" and "finished" (`wording.spoken`) to what is written symbol by symbol.
        truncate: leave out the beginning of a prompt that is longer than the run's context, which else is refused.
        tell: called with a sample's number and the next piece of its text, as it is drawn; samples are then drawn one by one.
        bits: of the matrices of a transformer that writes: 32, 16, 8 or 4; fewer are faster and lose a little. 0 = as trained.
        quiet: no progress, which of published pipelines is shown on stderr.
    """
    _check_best_of(best_of, judge, start or suffix)
    if n < 1:
        raise ValueError(f"-n {n} is not above 0")
    if chat and (prompt or start):
        raise ValueError(f"--chat and {'--prompt' if prompt else '--start'} both say what samples begin with; give one")
    found = load(path, step=step, device=device, trust=trust, size=size, bits=bits)
    if out:
        check_suffix(found.system.codec.field, Path(out))
    sampler = _sampler_of(found, dials or {}, draft, best_of, judge, device, trust)
    if (hide or mask) and not start:
        raise ValueError(
            f"{f'--hide {hide}' if hide else f'--mask {mask}'} says what of a picture is open; give one with --start"
        )
    begun = found.begun(start, n, hide, sampler, mask) if start else {}
    told = {**begun.get("about", {}), **(about or {})}
    with ExitStack() as stack:
        watch: Callable[[int, int, Code], None] | None = None
        if not quiet and isinstance(found.run, pipelines.Published) and isinstance(sampler, Solver):
            steps = sampler.drafts(whole="start" in begun and "seen" not in begun)
            watch = _watched(stack, f"{found.run.record['recipe']}, {n} samples", steps)
        if tell is not None:
            known = asked_by(found.system, chat, sampler) if chat else None
            watch = _told_of(found, sampler, tell, 0 if known is None else int((known != IGNORE).sum()), grows=not suffix)
        if judge:
            by = load(judge, device=device, trust=trust)
            if found.system.codec.field == "text":
                batch = opened.best_answers(found, by, n, best_of, seed=seed, chat=chat, sampler=sampler)
            else:
                batch = opened.best_of(found, by, n, best_of, seed=seed, about=told, prompt=prompt, sampler=sampler)
        else:
            own = {name: begun[name] for name in ("start", "seen") if name in begun}
            batch = found.sample(
                n,
                seed=seed,
                about=told,
                prompt=prompt,
                chat=chat,
                suffix=suffix,
                sampler=sampler,
                watch=watch,
                batch=256 if tell is None else 1,
                logprobs=logprobs,
                truncate=truncate,
                **own,
            )
        if isinstance(watch, Pieces):
            watch.finish()
    if about and found.system.conditioner is not None:
        for note in found.system.conditioner.notes(batch):
            print(f"note: {note}", file=sys.stderr)
    if out:
        asked = {"seed": seed, "prompt": prompt, "about": about or {}, **({"chat": chat} if chat else {})}
        asked |= {"suffix": suffix} if suffix else {}
        asked |= {"best_of": best_of, "judge": str(judge)} if judge else {}
        asked |= {"bits": bits} if bits else {}
        _save(found, batch, out, asked, sampler)
    return batch


def interpolate(
    path: str | Path,
    n: int = 9,
    *,
    out: str | Path = "",
    seeds: tuple[int, int] = (0, 1),
    start: str = "",
    about: dict[str, Any] | None = None,
    prompt: str = "",
    dials: dict[str, Any] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Batch:
    """Draw n samples on the way from one to another, in a line from left to right where `out` is a .png.

    Args:
        seeds: from the first sample under the one to the first under the other, told what the first is told.
        start: or between two pictures: two files with a comma between, or a folder or .npz of two.
        dials: fields of the run's sampler, changed for this call.
    """
    if len(seeds) != 2:
        raise ValueError(f"--seeds {','.join(map(str, seeds))} is {len(seeds)} seeds; it must be two: the ends")
    found = load(path, step=step, device=device, trust=trust)
    field = found.system.codec.field
    if out:
        check_suffix(field, Path(out))
    sampler = turned(found.system.sampler, dials or {})
    source = tuple(part for part in start.split(",") if part)
    batch = found.between(n, seeds=seeds, source=source, about=about, prompt=prompt, sampler=sampler)
    if out:
        _save(found, batch, out, {"seeds": seeds, "start": start, "prompt": prompt, "about": about or {}}, sampler, n)
    return batch


def vary(
    path: str | Path,
    n: int = 4,
    *,
    out: str | Path = "",
    seed: int = 0,
    pick: int = 0,
    start: str | Path = "",
    strength: float = 0.3,
    about: dict[str, Any] | None = None,
    prompt: str = "",
    dials: dict[str, Any] | None = None,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
    size: str = "",
) -> Batch:
    """A sample and n variations of it, n + 1 in all, in a line from left to right where `out` is a .png.

    Args:
        seed, pick: sample number `pick`, counted from 0, of those that `sample` draws under the seed.
        start: or a picture, in place of a sample: the first of the line is what the run makes of it.
        strength: how far the variations lie from it: 0 is the same, 1 another.
        about, prompt: what `sample` was told; another one tells the same sample otherwise.
        dials: fields of the run's sampler, changed for this call.
        size: of a published pipeline's images, as `sample` has it.
    """
    found = load(path, step=step, device=device, trust=trust, size=size)
    field = found.system.codec.field
    if out:
        check_suffix(field, Path(out))
    sampler = turned(found.system.sampler, dials or {})
    batch = found.vary(n, seed=seed, pick=pick, source=start, strength=strength, about=about, prompt=prompt, sampler=sampler)
    if out:
        own = {"start": str(start)} if start else {"seed": seed, "pick": pick}
        _save(found, batch, out, {**own, "strength": strength, "prompt": prompt, "about": about or {}}, sampler, n + 1)
    return batch


def _save(found: Loaded, batch: Batch, out: str | Path, asked: dict[str, Any], sampler: Any, columns: int | None = None) -> None:
    """Samples as a file that says how to draw them again."""
    info = {"run": str(found.run.path), "recipe": found.run.record["recipe"], "step": found.progress.step, **asked}
    save_samples(batch, found.system.codec.field, Path(out), {**info, "sampler": described(sampler)}, columns=columns)


def _sampler_of(
    found: Loaded, dials: dict[str, Any], draft: str | Path, best_of: int, judge: str | Path, device: str, trust: bool
) -> Any:
    """A run's sampler with its dials turned; one that keeps the likeliest of several texts, or checks a draft's guesses.

    Raises:
        ValueError: the best of several pictures is wanted, and nobody to judge them.
    """
    if best_of > 1 and not judge:
        if found.system.codec.field != "text":
            raise ValueError(
                f"--best-of {best_of} of {found.system.codec.field}s: give --judge too, a run that compares (clip's)"
            )
        dials = {"sampler": "best_of", "of": best_of, **dials}
    if draft:
        return opened.drafted(found.system.sampler, draft, dials, device=device, trust=trust)
    return turned(found.system.sampler, dials)


def _check_best_of(best_of: int, judge: str | Path, start: str | Path) -> None:
    if best_of < 1 or (judge and best_of == 1):
        raise ValueError(f"--best-of {best_of} --judge '{judge}': samples to choose from are above 1, and 1 is no choice")
    if judge and start:
        raise ValueError(f"--judge orders samples by their captions, and is no use for what begins with --start {start}")


def _told_of(found: Loaded, sampler: Any, tell: Callable[[int, str], None], after: int = 0, grows: bool = True) -> Pieces:
    """What hears of drafts and tells of their texts.

    Raises:
        ValueError: what is drawn are no texts, or no drafts that grow.
    """
    field = found.system.codec.field
    if field != "text":
        raise ValueError(f"this run makes {field}s; only a text can be told of piece by piece")
    grows = grows and getattr(sampler, "grows", False)
    return Pieces(found.system.codec, tell, dials_of(sampler).get("stop", ()), grows, after)


def _watched(stack: ExitStack, title: str, steps: int) -> Callable[[int, int, Code], None]:
    """A bar on stderr that is told of every draft."""
    bar, began = stack.enter_context(Bar(title, steps)), time.monotonic()
    return lambda drawn, row, code: bar.step(Report(min(drawn, steps), steps, time.monotonic() - began))


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
    found = opened.load(path, step=step, device="cpu", trust=trust)
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


def _to_transformers(found: Loaded, out: Path) -> str:
    return written.write(found.system, out, _source(found, "config.json"))


def _to_ggml(found: Loaded, out: Path) -> str:
    return ggml.write(found.system, out, _source(found, "config.json"))


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
) -> dict[str, Any]:
    """Score a run on its held-out data; writes eval.json, report.html and the model card, and returns what eval.json holds.

    Args:
        allow_code_exec: run the programs that it writes, walled in (`maquette.sandbox`), where its data have checks for them.
    """
    if seed < 0:
        raise ValueError(f"--seed {seed}: a seed of evaluation is 0 or more")
    chosen = choose(only)
    found = load(path, step=step, device=device, trust=trust)
    run = found.trained
    evidence = Evidence(found.data, found.system, n=n or None, seed=seed, executes=allow_code_exec)
    with undisturbed(found.system):
        result = judge(evidence, chosen)
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


def baselines(data: str, *, size: int = 0, seed: int = 0, out: str | Path = "") -> dict[str, dict[str, dict[str, Any]]]:
    """What any model must beat on a data set: baseline -> figure -> value. Written to `out` as JSON if it is given.

    For images: the training rows themselves (a perfect copier), a Gaussian and independent pixels per class. For text: xz.
    """
    found = _plain(judge_baselines(open_data(data, size), seed))
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
        return opened.published(Path(name)).record
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
