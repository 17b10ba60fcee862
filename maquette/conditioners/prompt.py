"""A prompt as what diffusion networks are told: states and vectors of text encoders, put together as each family wants them.

Knows encoders and their tokenizers; not the networks that are told, and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from maquette.conditioners.captions import Captions
from maquette.contracts import Batch, Condition, device_of, tell
from maquette.data.tokens import Tokens
from maquette.networks.clip import Text
from maquette.networks.t5 import T5Encoder
from maquette.streams import Streams


class Read(Protocol):
    """What prompts are made of: list[str] -> states [B,L,D], those the networks may see bool[B,L], a vector [B,P] or None."""

    masked: bool

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]: ...

    def unheard(self, texts: Sequence[str]) -> list[str]:
        """What of each text is cut off."""

    def learn(self, texts: Sequence[str]) -> None:
        """Learn the symbols of texts, where none are known yet."""


class Reading(nn.Module):
    """One encoder and its tokenizer.

    Args:
        tokens: the tokenizer; it says how long texts are, and cuts longer ones.
        encoder: the encoder.
        skip: layers, counted from the last, whose doing the states do not show.
        norm: whether the states pass the final normalisation.
        masked: the encoder does not see the symbols that fill a text up, and the networks are told which those are.
        vocab: symbols that a tokenizer may learn, where the encoder embeds more; 0 = all that it embeds.
        pooled: the vector is the mean of a text's states (Saharia 2022, Imagen, sec. 2.3), not the encoder's.
    """

    def __init__(
        self,
        tokens: Tokens,
        encoder: Text | T5Encoder,
        *,
        skip: int = 0,
        norm: bool = True,
        masked: bool = False,
        vocab: int = 0,
        pooled: bool = False,
    ):
        super().__init__()
        self.tokens, self.encoder = tokens, encoder
        self.skip, self.norm, self.masked, self.pooled = skip, norm, masked, pooled
        self.vocab = vocab or encoder.plan.vocab_size

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        ids, real = self.tokens(texts)
        ids, real = (each.to(device_of(self.encoder)) for each in (ids, real))
        states, vector = self.encoder.read(ids, real if self.masked else None, self.skip, self.norm)
        if self.pooled:
            vector = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        return states, real if self.masked else torch.ones_like(real), vector

    def unheard(self, texts: Sequence[str]) -> list[str]:
        return self.tokens.unheard(texts)

    def learn(self, texts: Sequence[str]) -> None:
        if not len(self.tokens.learned):
            self.tokens.learn(texts, self.vocab)


class Silence(nn.Module):
    """In the place of an encoder that was left out: states of zeros.

    Args:
        length, width: of the states.
    """

    masked = False
    zeros: Tensor

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("zeros", torch.zeros(length, width), persistent=False)

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        states = self.zeros.expand(len(texts), -1, -1)
        return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device), None

    def unheard(self, texts: Sequence[str]) -> list[str]:
        return list(texts)

    def learn(self, texts: Sequence[str]) -> None:
        pass


class Prompt(Captions):
    """Captions list[str] -> tokens [B,L,D] and a vector [B,P]; the null condition is the negative prompt's, by default "".

    A batch may bring "negative", a text per row, told where the caption is dropped, and "numbers" float[B,N], told instead of
    `numbers`. A caption too long is cut; `notes` say what no encoder hears. Learns what its tokenizers do not know yet, and
    keeps some captions, checkpointed, for samples that nobody said anything about.

    Args:
        tokens: readings whose states are told, one group behind another along the length; within a group along the channels.
            Groups narrower than the widest are filled up with zeros.
        vector: readings whose vectors are told, one behind another.
        numbers: told behind the vector.
        blank: the null condition without a negative prompt is zeros; its numbers stay (SDXL).
        field: of the batch, the captions'.

    Raises:
        ValueError: no captions, or not as many negative prompts or numbers as captions; a group without a reading, a vector
            of an encoder that has none; data to learn from that have no captions.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[nn.Module]],
        vector: Sequence[nn.Module] = (),
        *,
        numbers: Sequence[float] = (),
        blank: bool = False,
        field: str = "text",
    ):
        super().__init__(field)
        if not tokens or not all(tokens):
            raise ValueError("a prompt needs at least one reading in each group of tokens")
        parts = list(dict.fromkeys([*(one for group in tokens for one in group), *vector]))
        self.readings = nn.ModuleList(parts)
        self.groups, self.vectors = (
            [[parts.index(one) for one in group] for group in tokens],
            [parts.index(one) for one in vector],
        )
        self.numbers, self.blank = tuple(numbers), blank
        self.options = ("negative", "numbers") if numbers else ("negative",)

    @property
    def parts(self) -> list[Read]:
        """Each reading once."""
        return cast("list[Read]", list(self.readings))

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        texts = batch[self.fields[0]]
        told = self._encode(texts) if drop < 1 else self._null(batch, len(texts))
        if 0 < drop < 1 and rng is not None:
            told = _either(rng.uniform() >= drop, told, self._null(batch, len(texts)))
        return tell(told, self._numbers(batch, len(texts), told)) if self.numbers else told

    def unheard(self, texts: Sequence[str]) -> list[str]:
        """What of each text no encoder hears, for it is too long: "" where nothing."""
        rests = zip(*(part.unheard(texts) for part in self.parts), strict=True)
        return [min(each, key=len) for each in rests]

    def notes(self, batch: Batch) -> list[str]:
        said = dict.fromkeys(text for name in (self.fields[0], "negative") for text in batch.get(name) or ())
        cut = zip(said, self.unheard(list(said)), strict=True) if said else ()
        return [f"no encoder hears the end of {_short(text)}: {_short(rest)}" for text, rest in cut if rest]

    def learn(self, data: Any) -> None:
        texts = self.keep(data)
        for part in self.parts:
            part.learn(texts)

    def _encode(self, texts: Sequence[str]) -> Condition:
        """What the networks are told of texts; of equal ones the encoders read one."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"a list of captions is wanted, a row each, not {texts!r}")
        once = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = [part(list(once)) for part in self.parts]
        groups = [torch.cat([found[i][0] for i in group], 2) for group in self.groups]
        width = max(group.shape[2] for group in groups)
        tokens = torch.cat([nn.functional.pad(group, (0, width - group.shape[2])) for group in groups], 1)
        mask = torch.cat([found[group[0]][1] for group in self.groups], 1) if any(part.masked for part in self.parts) else None
        vectors = [vector for i in self.vectors if (vector := found[i][2]) is not None]
        if len(vectors) < len(self.vectors):
            raise ValueError("a reading whose vector is to be told has none: its encoder is no CLIP, and it pools no states")
        told = Condition(torch.cat(vectors, 1) if vectors else None, tokens, mask)
        rows = torch.tensor([once[text] for text in texts], device=tokens.device)
        return told if len(once) == len(texts) else told.map(lambda slot: slot[rows])

    def _null(self, batch: Batch, rows: int) -> Condition:
        told = self._encode(self.instead(batch, rows))
        if batch.get("negative") is not None or not self.blank:
            return told
        return replace(told.map(torch.zeros_like), mask=told.mask)

    def _numbers(self, batch: Batch, rows: int, told: Condition) -> Tensor:
        assert told.tokens is not None
        said = batch.get("numbers")
        given = torch.tensor(self.numbers).expand(rows, -1) if said is None else torch.as_tensor(said)
        if given.shape != (rows, len(self.numbers)):
            raise ValueError(f"numbers is of shape {tuple(given.shape)}; it must be ({rows}, {len(self.numbers)})")
        return given.to(told.tokens)


def _short(text: str, most: int = 60) -> str:
    """A text as a message names it."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def _either(kept: Tensor, told: Condition, null: Condition) -> Condition:
    """Rows of one condition where kept bool[B], else of the other."""
    slots: dict[str, Tensor] = {}
    for f in fields(Condition):
        one, other = getattr(told, f.name), getattr(null, f.name)
        if one is not None:
            slots[f.name] = torch.where(kept.to(one.device).view(-1, *[1] * (one.dim() - 1)), one, other)
    return Condition(**slots)


# -- as the pipelines of diffusers tell them -----------------------------------------------------------------------------


def stable_diffusion(tokens: Tokens, text: Text, skip: int = 0, field: str = "text") -> Prompt:
    """Stable Diffusion 1 and 2 (Rombach 2022): one CLIP's states, normalised.

    Args:
        skip: of its last layers, left out, in the negative prompt too (where diffusers, told to skip, leaves out none).
    """
    return Prompt([[Reading(tokens, text, skip=skip)]], field=field)


def stable_diffusion_xl(
    first: tuple[Tokens, Text],
    second: tuple[Tokens, Text],
    sizes: Sequence[float] = (1024, 1024, 0, 0, 1024, 1024),
    blank: bool = True,
    field: str = "text",
) -> Prompt:
    """Stable Diffusion XL (Podell 2023): two CLIPs' states before the last layer; the second's projection and six sizes.

    Args:
        sizes: the picture's height and width before it was cut out, the rows and columns cut off above and to the left, and the
            height and width it is wanted in.
        blank: as force_zeros_for_empty_prompt in the pipeline's model_index.json.
    """
    one, two = (Reading(*each, skip=1, norm=False) for each in (first, second))
    return Prompt([[one, two]], [two], numbers=sizes, blank=blank, field=field)


def stable_diffusion_3(first: tuple[Tokens, Text], second: tuple[Tokens, Text], t5: Read, field: str = "text") -> Prompt:
    """Stable Diffusion 3 (Esser 2024): XL's states, filled up to T5's width, before T5's; both projections.

    Args:
        t5: a `Reading` of T5, or a `Silence` as long and as wide.
    """
    one, two = (Reading(*each, skip=1, norm=False) for each in (first, second))
    return Prompt([[one, two], [cast(nn.Module, t5)]], [one, two], field=field)


def flux(clip: tuple[Tokens, Text], t5: tuple[Tokens, T5Encoder], guidance: float | None = None, field: str = "text") -> Prompt:
    """Flux: T5's states, and the vector of a CLIP without a projection.

    Args:
        guidance: told behind the vector, to networks that were taught to guide themselves (guidance_embeds); None = not told.
    """
    return Prompt([[Reading(*t5)]], [Reading(*clip)], numbers=() if guidance is None else (guidance,), field=field)
