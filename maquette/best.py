"""The best of several samples, as another run finds them: pictures by their captions, answers by what they are worth.

Knows two open runs; turns no dials and writes no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Comparing, Conversing, Judging, Sampler, Turns
from maquette.data.comparisons import judged
from maquette.opened import Loaded, prompted
from maquette.saying import fields_of
from maquette.streams import Streams

ROWS = 64  # that are judged side by side


def best_pictures(
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
    _check(n, of)
    compare = judge.system.objective
    if not isinstance(compare, Comparing) or set(compare.sides) != {"image", "text"}:
        raise ValueError(f"{judge.run.path} is a run of {judge.run.record['recipe']}, which compares no pictures; clip does")
    if judge.facts.shape != found.facts.shape:
        mine, theirs = ("x".join(map(str, facts.shape)) for facts in (found.facts, judge.facts))
        raise ValueError(f"{judge.run.path} compares pictures of {theirs}, and {found.run.path} draws {mine}")
    conditioner = found.system.conditioner
    if conditioner is None or "text" not in conditioner.fields:
        raise ValueError(f"{found.run.path} hears no captions that its samples could be judged by")
    said = prompted(about, "text", prompt) if prompt else about or {}
    told = fields_of(found.system, found.facts, said, n) or {}
    if "text" not in told:
        told["text"] = conditioner.guess(Streams.of(seed, n, device=found.system.device).fork(0), told)["text"]
    rows = torch.arange(n).repeat_interleave(of)
    asked = {key: value[rows] if isinstance(value, Tensor) else [value[i] for i in rows.tolist()] for key, value in told.items()}
    drawn = found.sample(n * of, seed=seed, about=asked, sampler=sampler)

    def closeness(some: list[int]) -> Tensor:
        seen = compare.embed(judge.system, {"image": drawn["image"][some], "text": [asked["text"][i] for i in some]})
        return (seen["image"] * seen["text"]).sum(1)

    return _kept(drawn, n, of, "closeness", closeness)


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
    _check(n, of)
    objective, codec = judge.system.objective.voice, judge.system.codec
    if not isinstance(objective, Judging) or not isinstance(codec, Conversing):
        raise ValueError(f"{judge.run.path} is a run of {judge.run.record['recipe']}, which judges no answers; reward does")
    if not chat:
        raise ValueError("--judge orders answers, and there is nothing to answer; ask with --chat")
    drawn = found.sample(n * of, seed=seed, chat=chat, sampler=sampler)
    asked: Turns = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
    talks: list[Turns] = [[*asked, {"role": "assistant", "content": text}] for text in drawn["text"]]

    def worth(some: list[int]) -> Tensor:
        return objective.worth(judge.system, judged(codec, [talks[i] for i in some]))[:, 0]

    return _kept(drawn, n, of, "worth", worth)


def _check(n: int, of: int) -> None:
    if n < 1 or of < 1:
        raise ValueError(f"n is {n} and the best of {of} is wanted; both must be 1 or more")


@torch.no_grad()
def _kept(drawn: Batch, n: int, of: int, name: str, score: Callable[[list[int]], Tensor]) -> Batch:
    """Of n times `of` samples, side by side, the n with the highest score, and their scores under a name."""
    scores = torch.cat([score(some.tolist()).cpu() for some in torch.arange(n * of).split(ROWS)]).view(n, of)
    kept = (scores.argmax(1) + of * torch.arange(n)).tolist()
    picked = {key: value[kept] if isinstance(value, Tensor) else [value[i] for i in kept] for key, value in drawn.items()}
    return {**picked, name: scores.amax(1)}
