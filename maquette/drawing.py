"""The verbs that draw: sample, interpolate, vary. Knows open runs, dials, and how samples are written and progress is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from maquette.best import best_answers, best_pictures
from maquette.conditioners.weighting import heed
from maquette.contracts import IGNORE, Batch, Code, Turns
from maquette.dials import described, dials_of, turned
from maquette.loading import drafted, load
from maquette.mending import check_mending, examples_of, mended
from maquette.opened import Loaded
from maquette.report.bar import Bar
from maquette.report.pictures import check_suffix, save_samples
from maquette.runs import Report
from maquette.samplers.solvers import Solver
from maquette.samplers.writing import Writer
from maquette.saying import asked_by
from maquette.wording import Pieces

BATCH = 256  # samples drawn side by side
PATIENCE = 2.0  # seconds after which it is shown how far what is drawn is


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
    check: str | Path = "",
    repair: int = 0,
    allow_code_exec: bool = False,
    weigh: bool = False,
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
        quiet: no progress, which is shown on stderr where drawing takes seconds.
        check: a file of examples, `assert f([1, 2]) == 3`, that programs written behind the prompt are run on, walled in: adds
            "wrong", what goes wrong first with each, "" where it passes.
        repair: times that one which fails is written again behind what went wrong (a run of codex on `repairs`).
        allow_code_exec: run programs at all.
        weigh: brackets in captions weigh words: "a (red:1.3) circle on [grey]", as `conditioners.weighting` has them.
    """
    _check_asked(n, chat, prompt, start, suffix, hide, mask, best_of, judge)
    if not start or hide or mask:
        _check_strength(dials, f"beside --{'hide' if hide else 'mask'}" if start else "without --start")
    examples = examples_of(check) if check else {}
    found = load(path, step=step, device=device, trust=trust, size=size, bits=bits)
    check_mending(found.system, found.facts.name, check, repair, allow_code_exec, prompt)
    if weigh:
        heed(found.system.conditioner)
    if out:
        check_suffix(found.system.codec.field, Path(out))
    sampler = _sampler_of(found, dials or {}, draft, best_of, judge, device, trust)
    if "negative" in (about or {}) and dials_of(sampler).get("guidance") == 1:
        raise ValueError(
            "--about says what not to draw, negative, which guidance alone hears, and guidance is 1: --set guidance=3"
        )
    begun = found.begun(start, n, hide, sampler, mask) if start else {}
    told = {**begun.pop("about", {}), **(about or {})}
    if judge:
        judging = load(judge, device=device, trust=trust)
        batch = _chosen(found, judging, n, best_of, chat, told, prompt, seed=seed, sampler=sampler)
    else:
        begins = prompt.rstrip() if check else prompt  # a text is not cut behind white space
        how = {"logprobs": logprobs, "truncate": truncate, **begun}
        with ExitStack() as stack:
            watch: Callable[[int, int, Code], None] | None = None
            if tell is not None:
                watch = _told_of(found, sampler, tell, chat, grows=not suffix)
            elif not quiet:
                watch = _watched(stack, found, n, sampler, begun)
            side = BATCH if tell is None else 1
            how |= {"chat": chat, "suffix": suffix, "sampler": sampler, "watch": watch, "batch": side}
            batch = found.sample(n, seed=seed, about=told, prompt=begins, **how)
        if isinstance(watch, Pieces):
            watch.finish()
    if check:
        batch |= mended(found.system, prompt, batch["text"], examples, repair, seed, sampler)
    if about or prompt:
        _note(found, batch)
    if out:
        more = {"chat": chat, "suffix": suffix, "judge": str(judge), "best_of": best_of if judge else 0, "bits": bits}
        more |= {"check": str(check), "repair": repair, "weigh": weigh}
        asked = {"seed": seed, "prompt": prompt, "about": about or {}, **{name: each for name, each in more.items() if each}}
        _save(found, batch, out, asked, sampler)
    return batch


def _chosen(
    found: Loaded, judge: Loaded, n: int, best_of: int, chat: str | Turns, told: dict[str, Any], prompt: str, **how: Any
) -> Batch:
    """Of `best_of` samples for each of n the one that a judge likes best: answers to a chat, or pictures of captions."""
    if found.system.codec.field != "text":
        return best_pictures(found, judge, n, best_of, about=told, prompt=prompt, **how)
    if told:
        raise ValueError(f"--judge orders answers to --chat alone, and is no use for what --about {told} says")
    return best_answers(found, judge, n, best_of, chat=chat, **how)


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
    if start and tuple(seeds) != (0, 1):
        raise ValueError(f"--seeds {','.join(map(str, seeds))} and --start {start} both say what the ends are; give one of them")
    _check_strength(dials, "between two samples")
    found = load(path, step=step, device=device, trust=trust)
    field = found.system.codec.field
    if out:
        check_suffix(field, Path(out))
    sampler = turned(found.system.sampler, dials or {})
    source = tuple(part for part in start.split(",") if part)
    batch = found.between(n, seeds=seeds, source=source, about=about, prompt=prompt, sampler=sampler)
    if about or prompt:
        _note(found, batch)
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
    weigh: bool = False,
) -> Batch:
    """A sample and n variations of it, n + 1 in all, in a line from left to right where `out` is a .png.

    Args:
        seed, pick: sample number `pick`, counted from 0, of those that `sample` draws under the seed.
        start: or a picture, in place of a sample: the first of the line is what the run makes of it.
        strength: how far the variations lie from it: 0 is the same, 1 another.
        about, prompt: what `sample` was told; another one tells the same sample otherwise.
        dials: fields of the run's sampler, changed for this call.
        size, weigh: as `sample` has them.
    """
    if start and pick:
        raise ValueError(f"--pick {pick} and --start {start} both say what is varied; give one of them")
    _check_strength(dials, "here, where --strength says how far variations lie")
    found = load(path, step=step, device=device, trust=trust, size=size)
    if weigh:
        heed(found.system.conditioner)
    field = found.system.codec.field
    if out:
        check_suffix(field, Path(out))
    sampler = turned(found.system.sampler, dials or {})
    batch = found.vary(n, seed=seed, pick=pick, source=start, strength=strength, about=about, prompt=prompt, sampler=sampler)
    if about or prompt:
        _note(found, batch)
    if out:
        own = {"start": str(start)} if start else {"seed": seed, "pick": pick}
        asked = {**own, "strength": strength, "prompt": prompt, "about": about or {}, **({"weigh": True} if weigh else {})}
        _save(found, batch, out, asked, sampler, n + 1)
    return batch


def _note(found: Loaded, batch: Batch) -> None:
    """Say on stderr what of what samples were told nobody heard."""
    if found.system.conditioner is not None:
        for note in found.system.conditioner.notes(batch):
            print(f"note: {note}", file=sys.stderr)


def _check_strength(dials: dict[str, Any] | None, where: str) -> None:
    """Refuse a dial that only whole pictures hear which samples start from."""
    if "strength" in (dials or {}):
        raise ValueError(
            f"--set strength says how much is forgotten of a whole picture that samples start from, and does nothing {where}"
        )


def _save(found: Loaded, batch: Batch, out: str | Path, asked: dict[str, Any], sampler: Any, columns: int | None = None) -> None:
    """Samples as a file that says how to draw them again.

    Raises:
        ValueError: they are no numbers.
    """
    made = batch[found.system.codec.field]
    if isinstance(made, Tensor) and (wrong := int((~made.isfinite()).flatten(1).any(1).sum())):
        raise ValueError(
            f"{wrong} of {len(made)} samples are no finite numbers, and not written: is a dial, or a weight, too large?"
        )
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
        return drafted(found.system.sampler, draft, dials, device=device, trust=trust)
    return turned(found.system.sampler, dials)


def _check_asked(
    n: int,
    chat: str | Turns,
    prompt: str,
    start: str | Path,
    suffix: str,
    hide: str,
    mask: str | Path,
    best_of: int,
    judge: str | Path,
) -> None:
    """Refuse what cannot be asked of any run, before one is opened."""
    if n < 1:
        raise ValueError(f"-n {n} is not above 0")
    if best_of < 1 or (judge and best_of == 1):
        raise ValueError(f"--best-of {best_of} --judge '{judge}': samples to choose from are above 1, and 1 is no choice")
    if judge and start:
        raise ValueError(f"--judge orders samples by their captions, and is no use for what begins with --start {start}")
    if judge and suffix:
        raise ValueError(f"--judge orders answers to --chat, and is no use for what ends with --suffix {suffix!r}")
    if chat and (prompt or start):
        raise ValueError(f"--chat and {'--prompt' if prompt else '--start'} both say what samples begin with; give one")
    if chat and suffix:
        raise ValueError(f"--chat asks for an answer, which is not to end with --suffix {suffix!r}; give --prompt, or no suffix")
    if (hide or mask) and not start:
        raise ValueError(
            f"{f'--hide {hide}' if hide else f'--mask {mask}'} says what of a picture is open; give one with --start"
        )


def _told_of(found: Loaded, sampler: Any, tell: Callable[[int, str], None], chat: str | Turns, grows: bool) -> Pieces:
    """What hears of drafts and tells of their texts, but for the conversation that they begin with.

    Raises:
        ValueError: what is drawn are no texts.
    """
    field = found.system.codec.field
    if field != "text":
        raise ValueError(f"this run makes {field}s; only a text can be told of piece by piece")
    known = asked_by(found.system, chat, sampler) if chat else None
    after = 0 if known is None else int((known != IGNORE).sum())
    return Pieces(found.system.codec, tell, dials_of(sampler).get("stop", ()), grows and getattr(sampler, "grows", False), after)


def _watched(stack: ExitStack, found: Loaded, n: int, sampler: Any, begun: dict[str, Any]) -> Callable[[int, int, Code], None]:
    """What is told of every draft, and shows a bar on stderr once that has taken `PATIENCE` seconds.

    It counts a solver's steps and the symbols of what is written; of other samples those that are done.
    """
    each = 0
    if isinstance(sampler, Solver):
        each = sampler.drafts(whole="start" in begun and "seen" not in begun)
    elif isinstance(sampler, Writer):
        each = dials_of(sampler).get("length", 0) or found.system.codec.length
    steps, began, shown = -(-n // BATCH) * each if each else n, time.monotonic(), False
    bar = Bar(f"{found.run.record['recipe']}, {n} samples", steps)

    def watch(drawn: int, row: int, code: Code) -> None:
        nonlocal shown
        done = drawn if isinstance(sampler, Solver) else row // BATCH * each + code.shape[1] if each else row
        gone = time.monotonic() - began
        if gone > PATIENCE and not shown:
            stack.enter_context(bar)
            shown = True
        if shown:
            bar.step(Report(min(done, steps), steps, gone))

    return watch
