"""What a caller says of samples, as the batch fields that a conditioner reads, or as a turn to answer. Knows no family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maquette import recipes
from maquette.contracts import Batch, Code, Conversing, Sampler, Turns
from maquette.data import Facts
from maquette.data.conversations import check_turns, opening
from maquette.dials import dials_of
from maquette.system import System


def fields_of(system: System, facts: Facts, about: dict[str, Any], n: int) -> Batch | None:
    """What a caller says of the samples, as batch fields of n rows; only what the system's conditioner reads is taken."""
    if not about:
        return None
    known = heard(system)
    for key in about:
        if key not in known:
            raise recipes.UnknownName("field of --about", key, known or ["(this run takes none)"])
    readers: dict[str, Callable[[Facts, Any, int], Any]] = {"label": _labels, "source": _origins, "image": _sources}
    readers |= {"text": _sentences, "negative": _sentences, "numbers": _numbers, "full": _numbers, "noise": _levels}
    return {key: readers[key](facts, value, n) if key in readers else value for key, value in about.items()}


def untold(system: System, n: int) -> Batch | None:
    """What is said of n samples that begin with something, where nobody described it: no caption, and none made up."""
    return {"text": [""] * n} if system.codec.field != "text" and "text" in heard(system) else None


def heard(system: System) -> list[str]:
    """The fields that a system's conditioner reads."""
    return [] if system.conditioner is None else [*system.conditioner.fields, *system.conditioner.options]


def worded(system: System) -> str:
    """The field of words that a system's conditioner reads; "" where it reads none."""
    fields, texts = heard(system), system.codec.field == "text"
    return next((field for field in ("text", "source") if field in fields and (field == "text" or texts)), "")


def _origins(facts: Facts, said: Any, n: int) -> Any:
    """What samples are made from: texts, of data that are texts; else pictures."""
    return _sentences(facts, said, n) if facts.field == "text" else _sources(facts, said, n)


def _sentences(facts: Facts, said: Any, n: int) -> list[str]:
    """One sentence or several in turn: n of them."""
    given = said if isinstance(said, list) else [said]
    if not given or not all(isinstance(text, str) for text in given):
        raise ValueError(f"--about says {said!r}, which is no sentence and no list of sentences")
    return [given[i % len(given)] for i in range(n)]


def _numbers(facts: Facts, said: Any, n: int) -> Tensor:
    """Numbers that are told behind a prompt's vector, the same for all or a row each: float[n,N]."""
    try:
        given = torch.as_tensor(said, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"--about says numbers {said!r}; write a list of numbers") from None
    return given.reshape(-1).expand(n, -1) if given.ndim < 2 else given


def _levels(facts: Facts, said: Any, n: int) -> Tensor:
    """One level or several in turn: float[n]."""
    given = said if isinstance(said, list) else said.tolist() if isinstance(said, Tensor) else [said]
    if not given or not all(isinstance(level, int | float) for level in given):
        raise ValueError(f"--about says noise {said!r}; write a number from 0 to 1, or a list of them")
    return torch.tensor([float(given[i % len(given)]) for i in range(n)])


def _labels(facts: Facts, said: Any, n: int) -> Tensor:
    """Classes by number or name, one or several in turn: int64[n]."""
    given = said if isinstance(said, list) else [said]
    if not given:
        raise ValueError("--about names no label: 'label' is an empty list")
    labels = [_class(facts, value) for value in given]
    return torch.tensor([labels[i % len(labels)] for i in range(n)])


def _sources(facts: Facts, said: Any, n: int) -> Tensor:
    """Images to make others from, or to write of: float[n,C,H,W]."""
    if not isinstance(said, Tensor) or len(said) != n:
        raise ValueError(f"about must bring {n} images, float[{n},C,H,W]; from the command line give them as --start")
    return said


def _class(facts: Facts, value: Any) -> int:
    if str(value) in facts.classes:
        return facts.classes.index(str(value))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(facts.classes):
        return value
    raise recipes.UnknownName("label", value, list(facts.classes))


def asked_by(system: System, chat: str | Turns, sampler: Sampler) -> Code:
    """What an answer to a conversation grows from, or to what a user says: int64[1,T], with room for it.

    Raises:
        ValueError: this run knows no turns; what is said is no conversation, or leaves no room for an answer.
    """
    codec = system.codec
    if not isinstance(codec, Conversing) or not codec.converses:
        raise ValueError(
            "this run knows no turns of a conversation, and --chat is one; `maquette train sft --run RUN` teaches it to answer, "
            "and --prompt gives the beginning of a text"
        )
    turns = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
    check_turns(turns)
    return opening(codec, [turns], codec.length, int(dials_of(sampler).get("length", 0)))
