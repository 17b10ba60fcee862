"""A run or a published pipeline, open: its system with its weights, and what it draws of what it is told.

Knows runs, checkpoints and pipelines' folders; trains nothing and judges nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette import checkpoint, parcel, storage
from maquette.between import between, ends_of, vary
from maquette.codecs.text import Text
from maquette.completion import fitting, hidden, started
from maquette.contracts import (
    IGNORE,
    Adopting,
    Batch,
    Code,
    Codec,
    Comparing,
    Completing,
    Conversing,
    Judging,
    NeedsStart,
    Sampler,
    Turns,
)
from maquette.data import Data, Facts
from maquette.data.comparisons import judged
from maquette.data.conversations import replies
from maquette.dials import described, dials_of, turned
from maquette.experiment import Experiment
from maquette.hub import language, models, pipelines
from maquette.hub.pipelines import Published
from maquette.networks.stepping import stepping
from maquette.networks.transformer import Transformer
from maquette.runs import Run, RunError, rebuild
from maquette.samplers.speculative import Another, Draft, Foresight, Speculative
from maquette.samplers.writing import Writer
from maquette.saying import asked_by, fields_of, untold, worded
from maquette.streams import Streams
from maquette.system import DRAWS_NOTHING, System
from maquette.train import Progress
from maquette.wording import spoken


@dataclass(frozen=True)
class Loaded:
    """A run, open: its system with a checkpoint's weights, its data (read when asked for), its progress.

    Or a published pipeline, which has no data and has made no progress here.
    """

    run: Run | Published
    experiment: Experiment
    progress: Progress
    refused: tuple[str, ...] = ()  # newer checkpoints that did not verify, and why

    @property
    def system(self) -> System:
        return self.experiment.system

    @property
    def trained(self) -> Run:
        """The run.

        Raises:
            RunError: it is a published pipeline.
        """
        if isinstance(self.run, Run):
            return self.run
        what, how = (
            ("model", "finetune_text --model")
            if self.run.record["data"]["field"] == "text"
            else ("pipeline", "finetune --pipeline")
        )
        raise RunError(
            f"{self.run.path} is a published {what} ({self.run.record['recipe']}), no run: it has no data to be judged by and "
            f"no steps to resume; `maquette train maquette.hub.finetune:{how} {self.run.path}` makes a run of it"
        )

    @property
    def data(self) -> Data:
        return self.experiment.data

    @property
    def facts(self) -> Facts:
        return self.experiment.data.facts

    def sample(
        self,
        n: int = 16,
        *,
        seed: int = 0,
        about: dict[str, Any] | None = None,
        prompt: str = "",
        chat: str | Turns = "",
        start: Code | None = None,
        seen: Tensor | None = None,
        sampler: Sampler | None = None,
        watch: Callable[[int, int, Code], None] | None = None,
        batch: int = 256,
        logprobs: bool = False,
        truncate: bool = False,
        suffix: str = "",
    ) -> Batch:
        """n samples.

        Args:
            about: what to make, e.g. {"label": 3}, or from what: {"source": float[n,C,H,W] in 0..1}.
            prompt: how a text begins; of a system that reads captions, the caption; of one that reads texts, what it reads.
            chat: what a user says, or a whole conversation, [{"role": "user", "content": ...}, ...]: each text is an answer.
            start: what each sample grows from, as `System.sample` has it; `begun` makes one of pictures.
            seen: pictures [n,C,H,W] that the samples are to agree with, NaN where they are open; `begun` has them too.
            sampler: another than the run's own.
            watch: called at every draft, as `System.sample` has it.
            batch: samples drawn side by side; what each is does not depend on it.
            truncate: leave out the beginning of a text's prompt that is longer than the run's context.
            logprobs: add what `wording.spoken` says of the symbols of texts, where they were written one after another.
            suffix: how a text ends: what is written stands between the prompt and it (runs of codex).
        """
        if n < 1:
            raise ValueError(f"n is {n}; it must be 1 or more")
        sampler = sampler or self.system.sampler
        if sampler is None:
            raise NeedsStart(DRAWS_NOTHING)
        if prompt and (field := worded(self.system)):
            about, prompt = {**(about or {}), field: prompt}, ""
        told = fields_of(self.system, self.facts, about or {}, n)
        if chat:
            start = asked_by(self.system, chat, sampler).expand(n, -1).to(self.system.device)
        elif prompt or suffix:
            start = _prompted(self.system, prompt, n, sampler, truncate, suffix)
        elif start is not None and told is None:
            told = fitting(self.system, start, Streams.of(seed, n, device=self.system.device).fork(2)) or untold(self.system, n)
        made = self.system.sample(n, batch=batch, about=told, start=start, seed=seed, sampler=sampler, watch=watch)
        if logprobs and isinstance(sampler, Writer) and self.system.codec.field == "text":
            made |= spoken(self.system, made, start)
        if chat and start is not None:
            made["text"] = replies(self.system.codec, made["code"], start)
        if seen is not None:
            made["image"] = torch.where(seen.isnan(), made["image"], seen)
        return made

    @torch.no_grad()
    def begun(
        self, source: str | Path, n: int, hide: str = "", sampler: Sampler | None = None, mask: str | Path = ""
    ) -> dict[str, Any]:
        """What `sample` grows n samples from, as its own arguments: a picture, a folder of them or an .npz, in turn.

        A system told of pictures is told these, to translate them or to write of them; one whose sampler adopts whole pictures (a
        codec's, a space of styles, a denoiser's) begins with them; one that writes symbol by symbol, or that keeps what it knows,
        completes them.

        Args:
            hide: the part of each that is left open (bottom where this is empty and there is nothing else to do with a picture).
            mask: a picture that is white where each is left open, in place of `hide`.
            sampler: another than the run's own.

        Raises:
            ValueError: there are no pictures, or this run can do nothing with them.
        """
        uses = uses_of_pictures(self.system, self.facts)
        if not uses and self.system.codec.field != "image":
            raise ValueError(f"this run makes {self.system.codec.field}s; only pictures can be a start that is a file")
        sampler = sampler or self.system.sampler
        if sampler is None:
            raise NeedsStart(DRAWS_NOTHING)
        if hide and mask:
            raise ValueError(f"--hide {hide} and --mask {mask} both say what is left open; allowed is one of them")
        whole = not (hide or mask) and uses[:1] != ["completed"]
        if uses and not whole and "completed" not in uses:
            raise ValueError(
                f"this run takes whole pictures and completes none, so that nothing of them can be hidden: {str(hide or mask)!r}"
            )
        if not uses:
            raise ValueError(
                "this run can do nothing with a picture: its code is not made of symbols, and its sampler takes none"
            )
        away = parcel.mask(Path(mask), self.facts) if mask else hidden(hide or "bottom", *self.facts.shape[1:])
        shapes = self.system.conditioner.shapes if self.system.conditioner is not None else ()
        images = parcel.pictures(Path(source), self.facts, exact=not whole, shapes=shapes)[
            0
        ]  # what is seen of one to complete stays as it is
        if not len(images):
            raise ValueError(f"{source} has no picture in it")
        rows = images[torch.arange(n) % len(images)].to(self.system.device)
        if not whole:
            start = started(self.system, sampler, rows, away)
            return {"start": start, "seen": rows.masked_fill(away.to(rows.device), torch.nan)}
        if uses[0] == "varied" and self.system.conditioner is not None:
            return {"about": self.system.conditioner.seen(rows)}
        field = {"translated": "source", "described": "image"}.get(uses[0])
        told: dict[str, Any] = {"about": {field: rows}} if field else {}
        if isinstance(sampler, Adopting) and not shapes:  # else samples would begin with what is to be found
            told["start"] = sampler.adopt(self.system, self.system.encode({"image": rows}))
        return told

    def between(
        self,
        n: int = 9,
        *,
        seeds: tuple[int, int] = (0, 1),
        source: tuple[str | Path, ...] = (),
        about: dict[str, Any] | None = None,
        prompt: str = "",
        sampler: Sampler | None = None,
    ) -> Batch:
        """n samples on the way from one to another (`between.between`), of two seeds or of two pictures.

        Args:
            source: files that hold two pictures together, in place of the seeds.

        Raises:
            ValueError: not two pictures, or this run finds no way between any.
        """
        told, pictures = self._said(about, prompt), self._traced(source, 2, "two: the ends", sampler)
        return between(self.system, n, seeds=seeds, pictures=pictures, about=told, sampler=sampler)

    def vary(
        self,
        n: int = 4,
        *,
        seed: int = 0,
        pick: int = 0,
        source: str | Path = "",
        strength: float = 0.3,
        about: dict[str, Any] | None = None,
        prompt: str = "",
        sampler: Sampler | None = None,
    ) -> Batch:
        """A sample, or a picture, and n variations of it (`between.vary`): n + 1 rows, itself the first.

        Args:
            pick: which of the samples under the seed, counted from 0.
            source: a file that holds a picture, in place of the sample.
            about, prompt: as `sample` was told; where another one is said, the same sample told otherwise.

        Raises:
            ValueError: not one picture, or this run varies none.
        """
        told, picture = self._said(about, prompt, pick), self._traced((source,) if source else (), 1, "one", sampler)
        return vary(self.system, n, seed=seed, pick=pick, picture=picture, strength=strength, about=told, sampler=sampler)

    def _said(self, about: dict[str, Any] | None, prompt: str, row: int = 0) -> Batch:
        """What a caller says of one sample, in one row: the one that the sample of this number would be told."""
        said = {**(about or {}), "text": prompt} if prompt else about or {}
        told = fields_of(self.system, self.facts, said, max(0, row) + 1) or {}
        return {k: v[row : row + 1] for k, v in told.items()}

    def _traced(self, source: tuple[str | Path, ...], count: int, wanted: str, sampler: Sampler | None) -> Tensor | None:
        """So many pictures from files; None where no file is named."""
        if not source:
            return None
        if "pictures" not in ends_of(self.system, sampler or self.system.sampler):
            raise ValueError("this run finds no way between pictures: its sampler has no points that they would grow from")
        pictures = torch.cat([parcel.pictures(Path(part), self.facts, exact=False)[0] for part in source])
        if len(pictures) != count:
            raise ValueError(f"--start {','.join(map(str, source))} holds {len(pictures)} pictures; it must be {wanted}")
        return pictures.to(self.system.device)


def best_of(
    found: Loaded,
    judge: Loaded,
    n: int = 16,
    of: int = 8,
    *,
    seed: int = 0,
    about: dict[str, Any] | None = None,
    prompt: str = "",
    sampler: Sampler | None = None,
) -> Batch:
    """n samples, each the one of `of` for its caption that the judge finds closest to it; the cosine of each as "closeness".

    Which sample is kept follows from the judge, so that a figure of adherence by the same judge is no longer fair.

    Args:
        judge: a run of pictures beside captions, such as clip's.
        about, prompt, sampler: as `Loaded.sample` has them; captions that nobody said are drawn as they are there.

    Raises:
        ValueError: `of` is no number of samples; the judge compares nothing, or pictures of another shape; no captions.
    """
    if n < 1 or of < 1:
        raise ValueError(f"n is {n} and the best of {of} is wanted; both must be 1 or more")
    compare = judge.system.objective
    if not isinstance(compare, Comparing) or set(compare.sides) != {"image", "text"}:
        raise ValueError(f"{judge.run.path} is a run of {judge.run.record['recipe']}, which compares no pictures; clip does")
    if judge.facts.shape != found.facts.shape:
        mine, theirs = ("x".join(map(str, facts.shape)) for facts in (found.facts, judge.facts))
        raise ValueError(f"{judge.run.path} compares pictures of {theirs}, and {found.run.path} draws {mine}")
    conditioner = found.system.conditioner
    if conditioner is None or "text" not in conditioner.fields:
        raise ValueError(f"{found.run.path} hears no captions that its samples could be judged by")
    said = {**(about or {}), **({"text": prompt} if prompt else {})}
    told = fields_of(found.system, found.facts, said, n) or {}
    if "text" not in told:
        told["text"] = conditioner.guess(Streams.of(seed, n, device=found.system.device).fork(0), told)["text"]
    rows = torch.arange(n).repeat_interleave(of)
    asked = {key: value[rows] if isinstance(value, Tensor) else [value[i] for i in rows.tolist()] for key, value in told.items()}
    drawn = found.sample(n * of, seed=seed, about=asked, sampler=sampler)
    closeness = []
    for some in torch.arange(n * of).split(256):
        seen = compare.embed(judge.system, {"image": drawn["image"][some], "text": [asked["text"][i] for i in some.tolist()]})
        closeness.append((seen["image"] * seen["text"]).sum(1).cpu())
    near = torch.cat(closeness).view(n, of)
    kept = near.argmax(1) + of * torch.arange(n)
    picked = {
        key: value[kept] if isinstance(value, Tensor) else [value[i] for i in kept.tolist()] for key, value in drawn.items()
    }
    return {**picked, "closeness": near.amax(1)}


def best_answers(
    found: Loaded,
    judge: Loaded,
    n: int = 16,
    of: int = 8,
    *,
    seed: int = 0,
    chat: str | Turns = "",
    sampler: Sampler | None = None,
) -> Batch:
    """n answers to a conversation, each the one of `of` that the judge finds worth most; that worth of each as "worth".

    What is kept is better by this judge than it is in truth, and the more so the larger `of` (Gao 2022).

    Args:
        judge: a run of reward, or of dpo.

    Raises:
        ValueError: `of` is no number of samples; the judge judges no answers; there is nothing to answer.
    """
    if n < 1 or of < 1:
        raise ValueError(f"n is {n} and the best of {of} is wanted; both must be 1 or more")
    worth, codec = judge.system.objective, judge.system.codec
    if not isinstance(worth, Judging) or not isinstance(codec, Conversing):
        raise ValueError(f"{judge.run.path} is a run of {judge.run.record['recipe']}, which judges no answers; reward does")
    if not chat:
        raise ValueError("--judge orders answers, and there is nothing to answer; ask with --chat")
    drawn = found.sample(n * of, seed=seed, chat=chat, sampler=sampler)
    asked: Turns = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
    talks: list[Turns] = [[*asked, {"role": "assistant", "content": text}] for text in drawn["text"]]
    with torch.no_grad():
        each = [
            worth.worth(judge.system, judged(codec, [talks[i] for i in some.tolist()]))[:, 0].cpu()
            for some in torch.arange(n * of).split(64)
        ]
    worths = torch.cat(each).view(n, of)
    kept = worths.argmax(1) + of * torch.arange(n)
    picked = {
        key: value[kept] if isinstance(value, Tensor) else [value[i] for i in kept.tolist()] for key, value in drawn.items()
    }
    return {**picked, "worth": worths.amax(1)}


def uses_of_pictures(system: System, facts: Facts) -> list[str]:
    """What a system does with pictures it is given: described, translated, varied, taken whole, completed; [] = nothing."""
    told = system.conditioner.fields if system.conditioner is not None else ()
    if system.sampler is not None and "image" in told:
        return ["described"]
    if system.codec.field != "image" or system.sampler is None:
        return []
    if "source" in told:
        return ["translated"]
    blank = torch.zeros(1, *facts.shape, device=system.device)
    whole = isinstance(system.sampler, Adopting)
    code = system.encode({"image": blank})
    parts = isinstance(system.sampler, Completing) and code.dim() == 4 if code.is_floating_point() else not whole
    varied = system.conditioner is not None and bool(system.conditioner.seen(blank))
    return ["varied" if varied else "taken whole"] * (whole or varied) + ["completed"] * parts


def load(
    path: str | Path | Run,
    *,
    step: int | None = None,
    device: str = "auto",
    trust: bool = False,
    size: str = "",
    bits: int = 0,
) -> Loaded:
    """Open a run with its newest checkpoint that verifies (or that of `step`). Needs no data on this machine.

    A run made by a recipe of your own names code to import: that is done if it is imported already, or with `trust`. A folder
    that diffusers' pipelines, or transformers' language models, are saved to opens alike; nothing in it is run.

    Args:
        size: of the images that a published pipeline makes, in pixels: "512", or height x width, "512x768".
        bits: of the matrices of transformers over symbols, 32, 16, 8 or 4, in which they then write faster; 0 = they stay as
            they are.

    Raises:
        RunError: no such run, none of its checkpoints can be used, or it names code that nobody said to trust.
        ValueError: a published folder that cannot be opened: what is not built, missing, left over or misshapen is named. Or
            bits of what is no transformer over symbols.
    """
    if not isinstance(path, Run) and is_published(path):
        if bits:
            raise ValueError(f"bits are {bits}; a published pipeline has no transformer over symbols to pack: only 0")
        return _published(Path(path), step, device, size)
    if size:
        raise ValueError(f"size is {size}; only a published pipeline makes images of another size than its own")
    found = path if isinstance(path, Run) else Run.open(path)
    refused: list[str] = []
    if step is None:
        _, files, refused = found.newest()
    else:
        files = storage.read_verified(found.at(step))
    for reason in refused:
        print(f"passed over: {reason}", file=sys.stderr)
    experiment = rebuild(found, trust)
    experiment.system.to(pick_device(device))
    progress = checkpoint.restore(files, experiment.system)
    experiment.system.eval()
    if bits:
        _pack(experiment.system, bits)
    return Loaded(found, experiment, progress, tuple(refused))


def _pack(system: System, bits: int) -> None:
    """Put transformers over symbols into so many bits."""
    some = {name: net for name, net in system.nets.items() if isinstance(net, Transformer)}
    if not some:
        raise ValueError(f"bits are {bits}; this run has no transformer over symbols to pack: only 0")
    system.nets.update({name: stepping(net, bits) for name, net in some.items()})


def is_published(path: str | Path) -> bool:
    """Whether a folder holds a pipeline as diffusers saves them, or a language model as transformers does.

    Raises:
        RunError: it holds a single model of one, which makes nothing by itself.
    """
    folder = Path(path)
    if (folder / "run.json").exists():
        return False
    if language.is_one(folder):
        return True
    if (folder / "config.json").is_file() and not (folder / pipelines.INDEX).is_file():
        raise RunError(
            f"{folder} holds one model, {models.name_of(folder)}, and no pipeline: it makes nothing by itself; "
            "maquette.hub.models.read(folder) opens it as a network"
        )
    return (folder / pipelines.INDEX).is_file()


def field_of(path: str | Path) -> str:
    """The field of what a run, or a published pipeline, makes: "image", "text"."""
    record = published(Path(path)).record if is_published(path) else Run.open(path).record
    return str(record.get("makes") or record["data"]["field"])


def published(folder: Path) -> Published:
    """What a published folder holds, by its configurations and headers alone.

    Raises:
        ValueError, FileNotFoundError: as `pipelines.published`, `language.published`.
    """
    return language.published(folder) if language.is_one(folder) else pipelines.published(folder)


def _published(folder: Path, step: int | None, device: str, size: str) -> Loaded:
    found, text = published(folder), language.is_one(folder)
    if step is not None:
        raise RunError(f"{folder} is a published {'model' if text else 'pipeline'}, no run: it has no checkpoint of step {step}")
    if text and size:
        raise ValueError(f"size is {size}; {folder} is a language model, which makes no images")
    experiment = language.read(folder) if text else pipelines.read(folder, _sides(size))
    experiment.system.to(pick_device(device))
    return Loaded(found, experiment, Progress(experiment.fit))


def _sides(size: str) -> tuple[int, int] | None:
    """Height and width from "512" or "512x768"; None where nothing is said."""
    parts = [part.strip() for part in size.lower().split("x")] if size else []
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"size '{size}' is no size: write pixels as 512, or height x width as 512x768")
    return (int(parts[0]), int(parts[-1])) if parts else None


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: this process's GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None


def _prompted(system: System, prompt: str, n: int, sampler: Sampler, truncate: bool = False, suffix: str = "") -> Code:
    """A prompt as the start of n samples: its code, then room to write as much as the sampler's length says.

    Where a text is to end with a suffix, that stands before the room too, as the codec has texts with a hole.

    Raises:
        ValueError: a system that makes no texts; a prompt that leaves no room in the context, unless it may be truncated.
    """
    if system.codec.field != "text":
        raise ValueError(f"this run makes {system.codec.field}s; --prompt is for text")
    code = _around(system.codec, prompt, suffix) if suffix else system.codec.encode([prompt])
    if system.codec.whole:
        return code.expand(n, -1).to(system.device)
    most, asked = system.codec.length, dials_of(sampler).get("length", 0)
    if (over := code.shape[1] - most + 1) > 0:
        if not truncate or suffix:
            raise ValueError(
                f"the prompt has {code.shape[1]} symbols, {over} more than the {most - 1} that leave room in this run's context "
                f"of {most}; shorten it, or give --truncate to leave out its beginning"
            )
        code = code[:, -max(1, most - (asked or most // 2)) :]
    room = asked or most - code.shape[1]
    return torch.nn.functional.pad(code, (0, room), value=IGNORE).expand(n, -1).to(system.device)


def _around(codec: Codec, prompt: str, suffix: str) -> Code:
    """A text with a hole, int64[1,T].

    Raises:
        ValueError: a codec that knows none.
    """
    if not isinstance(codec, Text) or not codec.holed:
        raise ValueError("this run only continues texts: --suffix is for one that fills holes, of the recipe codex")
    return codec.filled([codec.around(prompt, suffix)])


def drafted(
    sampler: Sampler | None, draft: str | Path, dials: dict[str, Any], *, device: str = "auto", trust: bool = False
) -> Sampler:
    """A sampler with its dials turned, that writes what a draft guesses ("lookup", "ahead", or the folder of a run) and it keeps.

    Raises:
        ValueError: the sampler is none that could; the run writes no symbols one after another.
    """
    made = turned(sampler, {"sampler": "speculative", **dials})
    if not isinstance(made, Speculative):
        raise ValueError(f"--draft {draft} is for the sampler 'speculative', not for {described(made)['name']}")
    own: dict[str, Draft] = {"lookup": made.draft, "ahead": Foresight()}
    if str(draft) in own:
        return replace(made, draft=own[str(draft)])
    if not Path(draft).exists():
        raise ValueError(f"--draft {draft} is no folder of a run; allowed are one, and {' and '.join(map(repr, own))}")
    found = load(draft, device=device, trust=trust)
    if not isinstance(found.system.sampler, Writer) or "main" not in found.system.nets:
        raise ValueError(f"--draft {draft} is a run of {found.run.record['recipe']}, which writes no symbols one after another")
    return replace(made, draft=Another(found.system, str(draft)))


def evaluation_of(folder: Path) -> dict[str, Any] | None:
    """What a run's newest evaluation says; None before the first."""
    path = folder / "eval.json"
    return json.loads(path.read_text()) if path.exists() else None
