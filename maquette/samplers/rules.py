"""What may be written, and where it ends: biases, stop strings, thinking, a grammar. Knows the text that symbols stand for.

Everything here is a function of the page alone, so that beams may change places and drafts be taken back.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Codec, Dials
from maquette.samplers.choosing import NONE, Penalties
from maquette.samplers.grammar import Grammar
from maquette.samplers.thinking import FREELY, Thinking, Thought
from maquette.samplers.tools import TOOLS
from maquette.samplers.writing import leading

if TYPE_CHECKING:
    from maquette.system import System

PARTIAL = 3  # symbols that may stand before a stop string and hold the first bytes of its first character


@dataclass(frozen=True)
class Rules(Dials):
    """What is written, whoever chooses.

    Args:
        stop: texts that end a sample; it ends before the first of them that it writes.
        bias: added to the logits of symbols: {17: 2.5, " the": -100}; a key is a symbol's number, or a text that is one symbol.
        schema: a JSON schema, as JSON: the text is an instance of it, written as Python's json.dumps would, spaces and all.
        regex: the text matches the whole of it.
        grammar: the text is what this Lark grammar's rule `start` makes.
        thinking: how long it thinks.
        tools: what the text may call for: "calculator", which writes what stands behind "<<347*28="; "" = nothing.
    """

    stop: tuple[str, ...] = ()
    bias: Mapping[int | str, float] = field(default_factory=dict)
    schema: str = ""
    regex: str = ""
    grammar: str = ""
    thinking: Thinking = FREELY
    tools: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop is {list(self.stop)!r}; each must be a text of at least one character")
        for key, value in self.bias.items():
            if not isinstance(value, int | float) or not value < math.inf:
                raise ValueError(f"bias of {key!r} is {value!r}; it must be a number that is added to a logit, below infinity")
        said = [name for name in ("schema", "regex", "grammar") if getattr(self, name)]
        if said and self.thinking.any:
            raise ValueError(
                f"{said[0]} is given, which holds all of a text, and a budget, which writes into it; give one of them"
            )
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} are given; a text keeps to one of schema, regex, grammar")
        if self.tools and self.tools not in TOOLS:
            raise ValueError(f"tools is {self.tools!r}; allowed are '' (none) and {', '.join(map(repr, TOOLS))}")
        if self.tools and said:
            raise ValueError(f"{said[0]} is given, which holds all of a text, and tools, which write into it; give one of them")
        if self.schema:
            try:
                json.loads(self.schema)
            except ValueError as error:
                raise ValueError(f"schema is not JSON: {error}") from None

    @property
    def any(self) -> bool:
        held = self.schema or self.regex or self.grammar
        return bool(self.stop or self.bias or held or self.tools) or self.thinking.any


FREE = Rules()


def steering(system: System, known: Tensor, rules: Rules, penalties: Penalties = NONE) -> Steering | None:
    """What rules and penalties make of a page of which bool[n,T] is known; None where there are none, at no cost.

    Raises:
        ValueError: a rule that this system's symbols cannot keep, or a grammar that is none.
    """
    return Steering(system, known, rules, penalties) if rules.any or penalties.any else None


class Steering:
    """Rules and penalties at work on one page."""

    def __init__(self, system: System, known: Tensor, rules: Rules, penalties: Penalties):
        if (rules.stop or rules.schema or rules.regex or rules.grammar) and system.codec.field != "text":
            raise ValueError(f"this run makes {system.codec.field}s; stop, schema, regex and grammar are for text")
        self.codec, self.known, self.penalties, self.stop = system.codec, known, penalties, rules.stop
        self.first = leading(known)
        self.bias = {_symbol(system, key): float(value) for key, value in rules.bias.items()}
        self.window = max((len(text.encode()) for text in self.stop), default=0) + PARTIAL
        self.thought = Thought(system, rules.thinking) if rules.thinking.any else None
        self.tool = TOOLS[rules.tools](system) if rules.tools else None
        self.grammar: Grammar | None = None
        if rules.schema or rules.regex or rules.grammar:
            self.grammar = Grammar(system.codec, len(known), schema=rules.schema, regex=rules.regex, lark=rules.grammar)

    def __call__(self, logits: Tensor, code: Code, place: int, rows: Tensor | None = None) -> Tensor:
        """Logits [n,V] of the symbol at `place` of a page, -inf where it may not stand.

        Args:
            rows: of which row of the known page each is, int64[n]; None = they are its rows.
        """
        logits, known, first = logits.float().clone(), self.known, self.first
        if rows is not None:
            known, first = known[rows], first[rows]
        if self.penalties.any:
            logits = self.penalties.take(logits, code[:, :place], known[:, :place])
        if self.bias:
            symbols = torch.tensor(list(self.bias), device=logits.device)
            if int(symbols.max()) >= logits.shape[-1]:
                raise ValueError(f"bias names symbol {int(symbols.max())}; this run has 0 .. {logits.shape[-1] - 1}")
            logits = logits.index_add(1, symbols, logits.new_tensor(list(self.bias.values())).expand(len(logits), -1))
        if self.thought is not None:
            logits = self.thought(logits, code, place, known)
        if self.tool is not None:
            logits = self.tool(logits, code, place, known)
        if self.grammar is not None:
            for i, begun in enumerate(first.tolist()):
                if begun <= place and not bool(known[i, place]):
                    allowed = self.grammar.allowed(i, code[i, begun:place].tolist(), logits.shape[-1], code.shape[1] - place)
                    if allowed is not None:
                        logits[i] = logits[i].masked_fill(~allowed.to(logits.device), -torch.inf)
        return logits

    def over(self, code: Code, place: int, ended: Tensor, rows: Tensor | None = None) -> Tensor:
        """bool[n]: rows that have ended, by now also because the symbol at `place` finished a stop string."""
        if not self.stop:
            return ended
        first = (self.first if rows is None else self.first[rows]).tolist()
        over = ended.clone()
        for i in (~ended).nonzero()[:, 0].tolist():
            text = _text(self.codec, code[i, max(first[i], place + 1 - self.window) : place + 1])
            over[i] = any(stop in text for stop in self.stop)
        return over

    def cut(self, code: Code) -> Code:
        """A finished page, each row ending before its first stop string."""
        return cut(self.codec, self.stop, code, self.first)


def through(codec: Codec, stop: tuple[str, ...], code: Code, first: Tensor) -> Code:
    """A page, IGNORE behind the symbol that finished a row's first stop string; `first` as `cut` has it."""
    code = code.clone()
    for row, at in zip(code, first.tolist(), strict=True):
        sizes = range(len(row) - at + 1)
        size = bisect_left(sizes, True, key=lambda size: any(one in _text(codec, row[at : at + size]) for one in stop))
        row[at + size :] = IGNORE
    return code


def cut(codec: Codec, stop: tuple[str, ...], code: Code, first: Tensor) -> Code:
    """A finished page, each row ending before its first stop string: ended from there on.

    What stands in a symbol before the string stays, in symbols of its own.

    Args:
        first: where what was written begins in each row, int64[n].
    """
    if not stop:
        return code
    rows = [_cut(codec, stop, row, at) for row, at in zip(code, first.tolist(), strict=True)]
    width = max(map(len, rows))
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=codec.ends[0]) for row in rows])


def _cut(codec: Codec, stop: tuple[str, ...], row: Tensor, first: int) -> Tensor:
    text = _text(codec, row[first:])
    places = [text.find(one) for one in stop if one in text]
    if not places:
        return row
    wanted = text[: min(places)]
    for kept in range(len(row) - first, -1, -1):
        head = _text(codec, row[first : first + kept])
        if not wanted.startswith(head):
            continue
        rest = codec.encode([wanted[len(head) :]])[0].to(row.device) if head != wanted else row[:0]
        made = torch.cat([row[: first + kept], rest])
        if _text(codec, made[first:]) == wanted:
            return torch.nn.functional.pad(made, (0, max(0, len(row) - len(made))), value=codec.ends[0])
    return row  # unreachable where encoding a text loses nothing


def _text(codec: Codec, symbols: Tensor) -> str:
    return codec.decode(symbols[None])[0] if len(symbols) else ""


def _symbol(system: System, key: int | str) -> int:
    """The symbol that a bias means.

    Raises:
        ValueError: it means none, or several.
    """
    if isinstance(key, int) or key.lstrip("-").isdigit():
        if int(key) < 0:
            raise ValueError(f"bias names symbol {key}; symbols are 0 and up")
        return int(key)
    if system.codec.field != "text":
        raise ValueError(f"bias names {key!r}; this run makes {system.codec.field}s, whose symbols go by number")
    code = system.codec.encode([key])[0]
    found = code[code != IGNORE].tolist()
    if len(found) != 1:
        raise ValueError(f"bias names {key!r}, which is {len(found)} symbols, {found}; name one symbol by its text or its number")
    return found[0]
