"""Texts that another program writes, which sees symbols and a copy of the weights. Knows no such program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from maquette.contracts import IGNORE, Code, Condition
from maquette.samplers.writing import leading, page
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Answer = tuple[Sequence[int], Sequence[float]]  # symbols, the one that ends a text among them, and the log-probability of each


class Engine(Protocol):
    """A program that continues texts."""

    def learn(self, weights: Mapping[str, Tensor]) -> None:
        """Hear of the weights, by name, before each batch. It may take them, or go on with those it has."""

    def write(self, prompts: list[list[int]], room: list[int], seeds: list[int]) -> Sequence[Answer]:
        """An answer behind each prompt, of as many symbols as there is room for or fewer, drawn under its seed."""


@dataclass(frozen=True)
class Outside:
    """A sampler whose symbols an engine outside draws.

    Args:
        engine: what writes.
    """

    engine: Engine

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """One draft int64[n,T]: what is finished."""
        yield self.reported(system, n, start=start, cond=cond, null=null, rng=rng)[0]

    def reported(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> tuple[Code, Tensor]:
        """Answers behind starts, int64[n,T], and what the engine says of each symbol's log-probability, float32[n,T].

        Raises:
            ValueError: something is told besides symbols, a start has a hole, or the answers are no answers to them.
        """
        if cond is not None:
            raise ValueError("an engine outside sees symbols alone, and this system's network is told more")
        device = rng.keys.device
        code, known = page(n, start, 0, int(system.codec.length), device)
        begun = leading(known)
        if bool((begun < known.sum(1)).any()):
            raise ValueError("an engine outside continues texts, and a start here has a hole before its end")
        self.engine.learn({name: value.detach() for name, value in system.steady("main").state_dict().items()})
        prompts = [row[:count] for row, count in zip(code.tolist(), begun.tolist(), strict=True)]
        room = [code.shape[1] - len(prompt) for prompt in prompts]
        answers = self.engine.write(prompts, room, rng.keys.tolist())
        if len(answers) != n:
            raise ValueError(f"the engine outside gave {len(answers)} answers to {n} prompts")
        logs = torch.full(code.shape, torch.nan, device=device)
        for i, ((symbols, found), most) in enumerate(zip(answers, room, strict=True)):
            if len(symbols) > most or len(found) != len(symbols):
                raise ValueError(
                    f"answer {i} of the engine outside has {len(symbols)} symbols and {len(found)} log-probabilities; "
                    f"they must be as many, and at most {most}"
                )
            row = slice(len(prompts[i]), len(prompts[i]) + len(symbols))
            code[i, row], logs[i, row] = torch.tensor(list(symbols), device=device), torch.tensor(list(found), device=device)
        return code.masked_fill(code == IGNORE, int(system.codec.bos)), logs
