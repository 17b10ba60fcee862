"""A prompt that learns one new word, everything else as it is: textual inversion (Gal 2022, arXiv:2208.01618).

Knows encoders by their first sub-module that touches symbols; not the networks that are told, and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maquette.conditioners.prompt import Prompt, Reading
from maquette.contracts import Batch, Condition, Conditioner
from maquette.networks.clip import Text
from maquette.streams import Streams


class Coined(Conditioner):
    """A prompt in which a word is a symbol of its own, with a vector in every encoder; its parameters are those vectors alone.

    The prompt is no part of it: another role holds it, frozen, and its tokenizers gain the word. At a call the vector stands in
    the encoder's table of symbols.

    Args:
        prompt: what is told; its tokenizers may yet be loaded.
        word: the new word.
        like: words whose vectors' mean it begins as.

    Raises:
        ValueError: the word is one symbol already.
    """

    def __init__(self, prompt: Prompt, word: str, like: str):
        super().__init__()
        self._prompt = (prompt,)  # a tuple hides it from PyTorch: its weights are not this module's
        self.word, self.fields, self.options = word, prompt.fields, prompt.options
        self.tables = {place: _table(reading) for place, reading in enumerate(prompt.parts) if isinstance(reading, Reading)}
        self.like, self.coined = like, False
        widths = {place: self._weight(place, table).shape[1] for place, table in self.tables.items()}
        self.vectors = nn.ParameterDict({str(place): nn.Parameter(torch.zeros(width)) for place, width in widths.items()})
        self._coin()

    @torch.no_grad()
    def _coin(self) -> None:
        """Give the word a symbol, and its first vector, in every encoder; not before their tokenizers have learned."""
        readings = {place: cast(Reading, self.prompt.parts[place]) for place in self.tables}
        if self.coined or not all(len(reading.tokens.learned) for reading in readings.values()):
            return
        for place, reading in readings.items():
            alike = reading.tokens.symbols(self.like)
            if len(reading.tokens.symbols(self.word)) == 1:
                raise ValueError(
                    f"word is {self.word!r}, which is one symbol of the prompt's tokenizer already; make one up, such as '<it>'"
                )
            weight = self._weight(place, self.tables[place])
            mean = weight[torch.tensor(alike, device=weight.device)].mean(0)
            self.vectors[str(place)].copy_(mean)
            reading.tokens.coin(self.word)
        self.coined = True

    @property
    def prompt(self) -> Prompt:
        return self._prompt[0]

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        told = {"drop": drop, "rng": rng}
        return functional_call(self.prompt, self.weights(), (batch,), told, tie_weights=False)

    def weights(self) -> dict[str, Tensor]:
        """The encoders' tables of symbols by name, each with the word's vector in its row."""
        found = {}
        for place, table in self.tables.items():
            weight, vector = self._weight(place, table), self.vectors[str(place)]
            at = cast(Reading, self.prompt.parts[place]).tokens.tokenizer.token_to_id(self.word)
            assert at is not None  # learned and loaded tokenizers have it
            rows = [weight[:at], vector[None].to(weight.dtype), weight[at + 1 :]]
            found[f"readings.{place}.encoder.{table}.weight"] = torch.cat([row for row in rows if len(row)])
        return found

    def learn(self, data: Any) -> None:
        """As a prompt learns, from texts without the word, which then is a symbol of its own."""
        if not self.coined:
            texts = list(data.columns[self.fields[0]])
            others = [text for text in texts if self.word not in text]
            for part in self.prompt.parts:
                part.learn(others or texts)
            self._coin()
        self.prompt.learn(data)

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return self.prompt.guess(rng, said)

    def notes(self, batch: Batch) -> list[str]:
        return self.prompt.notes(batch)

    def unheard(self, texts: Sequence[str]) -> list[str]:
        """What of each text no encoder hears."""
        return self.prompt.unheard(texts)

    def _weight(self, place: int, table: str) -> Tensor:
        return cast(Tensor, cast(Reading, self.prompt.parts[place]).encoder.get_submodule(table).weight)


def _table(reading: Reading) -> str:
    """The name of an encoder's table of symbols."""
    return "text_model.embeddings.token_embedding" if isinstance(reading.encoder, Text) else "shared"
