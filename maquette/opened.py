"""A run or a published pipeline, open: its system with its weights, and what it draws of what it is told.

Knows what a system may begin with; not where it was opened from, trains nothing and judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette import parcel
from maquette.between import between, ends_of, vary
from maquette.codecs.text import Text
from maquette.completion import fitting, hidden, started
from maquette.contracts import IGNORE, Adopting, Batch, Code, Codec, Completing, NeedsStart, Sampler, Turns
from maquette.data import Data, Facts
from maquette.data.conversations import replies
from maquette.dials import dials_of
from maquette.experiment import Experiment
from maquette.hub.pipelines import Published
from maquette.runs import Run, RunError
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
        if chat and (prompt or suffix or start is not None):
            other = "prompt" if prompt else "suffix" if suffix else "start"
            raise ValueError(f"chat and {other} are given, and both say what samples are written behind; give one")
        if truncate and self.system.codec.field != "text":
            raise ValueError(f"this run makes {self.system.codec.field}s; only the prompt of a text is truncated")
        sampler = sampler or self.system.sampler
        if sampler is None:
            raise NeedsStart(DRAWS_NOTHING)
        if prompt and (field := worded(self.system)):
            about, prompt = prompted(about, field, prompt), ""
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
        said = prompted(about, "text", prompt) if prompt else about or {}
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


def prompted(about: dict[str, Any] | None, field: str, prompt: str) -> dict[str, Any]:
    """What is said of samples, a prompt among it.

    Raises:
        ValueError: other words are said in its place.
    """
    other = (about or {}).get(field, prompt)
    if any(words not in ("", prompt) for words in (other if isinstance(other, list) else [other])):
        raise ValueError(f"the prompt is {prompt!r}, and --about says {field} {other!r}; give one of them")
    return {**(about or {}), field: prompt}


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
            what, how = (
                ("prompt and suffix have", "") if suffix else ("prompt has", ", or give --truncate to leave out its beginning")
            )
            raise ValueError(
                f"the {what} {code.shape[1]} symbols, {over} more than the {most - 1} that leave room in this run's context "
                f"of {most}; shorten {'them' if suffix else 'it'}{how}"
            )
        code = code[:, -max(1, most - (asked or most // 2)) :]
    room = min(asked or most, most - code.shape[1])
    return torch.nn.functional.pad(code, (0, room), value=IGNORE).expand(n, -1).to(system.device)


def _around(codec: Codec, prompt: str, suffix: str) -> Code:
    """A text with a hole, int64[1,T].

    Raises:
        ValueError: a codec that knows none.
    """
    if not isinstance(codec, Text) or not codec.holed:
        raise ValueError("this run only continues texts: --suffix is for one that fills holes, of the recipe codex")
    return codec.filled([codec.around(prompt, suffix)])
