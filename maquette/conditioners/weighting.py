"""Prompts in which some words count more: "a (red:1.3) circle on [grey]". Knows the marks and readings, no pipeline.

diffusers leaves the rule to others. Here a symbol's states are moved from those of the empty prompt at its place, by its weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maquette.conditioners.prompt import Prompt, Reading

STEP = 1.1  # what a pair of brackets without a number does
PARTS = re.compile(r"\\[\\()\[\]]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


class Weighted(nn.Module):
    """A reading that heeds brackets: (word) counts 1.1 times, (word:1.3) 1.3 times, [word] 1 / 1.1 times; nested ones multiply.

    A bracket that is meant as such is written \\( or \\); one without a partner reaches to the end. The vector is not weighed.
    """

    def __init__(self, reading: Reading):
        super().__init__()
        self.reading: Reading
        self.reading, self.masked = reading, reading.masked

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        parted = [weigh(text) for text in texts]
        plain = [text for text, _ in parted]
        if all(weight == 1 for _, weights in parted for weight in weights):
            return self.reading(plain)
        states, mask, vector = self.reading([*plain, ""])
        places = self.reading.tokens.places(plain)
        rows = [[1.0 if at < 0 else weights[at] for at in row] for (_, weights), row in zip(parted, places, strict=True)]
        weight = torch.tensor(rows, dtype=states.dtype, device=states.device)[..., None]
        return torch.lerp(states[-1:], states[:-1], weight), mask[:-1], None if vector is None else vector[:-1]

    def unheard(self, texts: Sequence[str]) -> list[str]:
        return self.reading.unheard([weigh(text)[0] for text in texts])

    def learn(self, texts: Sequence[str]) -> None:
        self.reading.learn([weigh(text)[0] for text in texts])


def heed(conditioner: nn.Module | None) -> None:
    """Let whatever reads captions in a conditioner heed brackets, from now on.

    Raises:
        ValueError: nothing in it reads any.
    """
    prompts = [part for part in conditioner.modules() if isinstance(part, Prompt)] if conditioner is not None else []
    made: dict[nn.Module, Weighted] = {}
    for readings in (prompt.readings for prompt in prompts):
        for i, reading in enumerate(readings):
            if isinstance(reading, Reading):
                readings[i] = made.setdefault(reading, Weighted(reading))
    if not made:
        raise ValueError("--weigh weighs the words of captions, and this run reads none by an encoder that could")


def weigh(text: str) -> tuple[str, list[float]]:
    """The text without marks, and the weight of each of its characters."""
    plain: list[str] = []
    weights: list[float] = []
    open_: list[tuple[str, int]] = []  # a bracket, and where it stands in the plain text

    def close(factor: float, start: int) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for part in PARTS.findall(text):
        if part in ("(", "["):
            open_.append((part, len(weights)))
        elif part.endswith(")") and part[0] in ":)" and open_ and open_[-1][0] == "(":
            close(float(part[1:-1]) if part[0] == ":" else STEP, open_.pop()[1])
        elif part == "]" and open_ and open_[-1][0] == "[":
            close(1 / STEP, open_.pop()[1])
        else:
            told = part[1:] if part[0] == "\\" and len(part) == 2 else part
            plain.append(told)
            weights += [1.0] * len(told)
    for bracket, start in open_:
        close(STEP if bracket == "(" else 1 / STEP, start)
    return "".join(plain), weights
