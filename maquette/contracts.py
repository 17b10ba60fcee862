"""Every word of the house: what a part must be so that the one loop, the samplers and the verbs can use it.

Shapes: B batch, T length, S spatial, C channels, V vocabulary, D width. Knows nothing of any family of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

Batch = dict[str, Any]  # a field per modality: {"image": float[B,C,H,W] in 0..1, "text": list[str], "label": int64[B]}
Code = Tensor  # what networks see: float[B,*S] or int64[B,T]
Logs = dict[str, Tensor]
IGNORE = -1  # never a target; in a start it means "write here", as NaN does where codes are numbers


@dataclass(frozen=True)
class Condition:
    """What a network may be told. Absent slots are None.

    vector [B,D]; tokens [B,L,D], or symbols int64[B,L] where the network embeds them itself, with mask bool[B,L] (True = real);
    field [B,C,*S], aligned with the code; document int64[B,T], which of several that share a row each symbol is of: each is read
    as if it were alone.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    field: Tensor | None = None
    document: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same condition with every present slot changed: to another device, to some of its rows."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: change(slot) for name, slot in present.items()})


def tell(cond: Condition | None, more: Tensor) -> Condition:
    """A condition, and `more` numbers [B,D] told behind its vector."""
    cond = cond or Condition()
    return replace(cond, vector=more if cond.vector is None else torch.cat([cond.vector, more], 1))


def ended(code: Code, end: int, most: int) -> Code:
    """Rows of unlike lengths, filled up with IGNORE, each with `end` behind it: int64[B,T] -> [B,T+1], cut to at most `most`."""
    code = nn.functional.pad(code, (0, 1), value=IGNORE)
    over = code == IGNORE
    return code.masked_fill(over & (over.cumsum(1) == 1), end)[:, :most]


class Codec(nn.Module):
    """Data <-> code. `field` names the batch field it reads and writes.

    A codec of sequences has `bos`, the symbol that begins one, `ends`, those that end one that may end before its length (`bos`
    alone, unless it says otherwise), and `length`, how many symbols one has, `books` of them per place; where each place stands
    for a patch of a picture, `grid` is how many rows and columns of them there are, in raster order. Where not `begins`, `bos`
    stands before a sequence that would begin with nothing, and the first symbol of any other begins it. Where `whole`, nothing
    is written behind what a sample begins with.
    Where `lossy`, decoding a code gives data that only resemble what was encoded.
    """

    field: str = "image"
    lossy: bool = False
    books: int = 1
    grid: tuple[int, int] | None = None
    bos: int = 0
    begins: bool = True
    whole: bool = False
    length: int = 0

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.bos,)

    def encode(self, data: Any) -> Code:
        raise NotImplementedError

    def decode(self, code: Code) -> Any:
        raise NotImplementedError

    def learn(self, data: Any) -> None:
        """Fit to the training data before the first step (a tokenizer's merges). Most codecs have nothing to learn."""


class Network(nn.Module):
    """Tensor -> tensor, always called through `__call__` so that wrappers see every call.

    `edges` names the sub-modules that touch what goes in and out (embeddings, stems, heads): Muon leaves their matrices and
    kernels to AdamW, wherever the network lies within another. One that is `selective` may be told `only` int64[B,K], the places
    that are to be read out, and gives logits [B,K,V] of these alone.
    """

    edges: tuple[str, ...] = ()
    selective: bool = False

    def forward(self, x: Tensor, *, t: Tensor | None = None, cond: Condition | None = None, state: Any = None) -> Tensor:
        raise NotImplementedError

    def begin(self, batch: int, length: int) -> Any:
        """Memory for incremental decoding (a KV cache), or None when the network must see everything again."""
        return None


class Around(Network):
    """A network around another, `net`: it remembers, and may be told where to read, as that one."""

    net: Network

    @property
    def selective(self) -> bool:  # type: ignore[override]
        return self.net.selective

    def begin(self, batch: int, length: int) -> Any:
        return self.net.begin(batch, length)


class Conditioner(nn.Module):
    """Raw batch fields -> Condition. `drop` is the chance that a row gets the null condition; 1 gives it to all.

    It reads its `fields`, and of its `options` those that a batch brings. Where not `drops`, what it tells is always told, and
    there is nothing to guide by. `rng` is for what it draws besides: the same streams tell the same.
    """

    fields: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    drops: bool = True
    shapes: tuple[tuple[int, ...], ...] = ()  # of sources, where they are not taken whole

    def learn(self, data: Any) -> None:
        """Fit to the training data before the first step, as codecs do. Most conditioners have nothing to learn."""

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition | None:
        raise NotImplementedError

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        """The fields it reads that nobody said: from their training distribution, or from those that were `said`, which win."""
        return {}

    def asked(self, batch: Batch) -> Batch:
        """What samples are told that are to be judged beside these rows: its fields, as the rows have them."""
        return {name: batch[name] for name in self.fields if name in batch}

    def seen(self, pictures: Tensor) -> Batch:
        """What is said by showing it pictures [B,C,H,W] in 0..1, for others like them; {} where it reads nothing off any."""
        return {}

    def notes(self, batch: Batch) -> list[str]:
        """What whoever said this should know of how it was heard: what had to be left out."""
        return []

    def every(self) -> list[tuple[Batch, float]]:
        """Each value its fields can take, as a batch of one row, with its log-probability; [] when uncountable."""
        return []


@runtime_checkable
class Process(Protocol):
    """How data dissolves, and how a denoiser is read. One object serves the objective and the sampler. t in 0..1 dissolves."""

    def times(self, rng: Streams) -> Tensor:
        """Training times [B]."""

    def grid(self, steps: int) -> Tensor:
        """Sampling times [steps + 1], from the prior's down to the data's."""

    def prior(self, shape: tuple[int, ...], rng: Streams) -> Tensor:
        """A fully dissolved code [B, *shape]."""

    def corrupt(self, x: Code, t: Tensor, rng: Streams) -> Tensor:
        """x at time t [B]."""

    def denoise(self, net: Network, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """The network's reading of x_t: an estimate of x, or logits over its symbols [B,T,V]."""

    def distance(self, guess: Tensor, x: Code, x_t: Tensor, t: Tensor) -> Tensor:
        """Training loss of a guess, per row [B]."""


@dataclass(frozen=True)
class Phase:
    """One player's move: which roles it trains, every how many steps, until which (0 = for ever) and since which, and at which
    share of the learning rate. Likelihood models are games with one player. Where its loss is a mean over `targets` of a batch
    and not over rows, that says how many a batch has, or None: parts of a batch then count by these.
    """

    name: str
    roles: tuple[str, ...]
    every: int
    move: Callable[..., tuple[Tensor, Logs]]
    until: int = 0
    since: int = 0
    pace: float = 1.0
    targets: Callable[[Batch], Tensor | None] | None = None

    def due(self, step: int) -> bool:
        """Whether it is made at a step."""
        return step % self.every == 0 and step >= self.since and (not self.until or step < self.until)


_Move = TypeVar("_Move", bound=Callable[..., tuple[Tensor, Logs]])


def phase(*roles: str, every: int = 1) -> Callable[[_Move], _Move]:
    """Mark an objective's method `(self, system, batch, rng, step) -> (loss, logs)` as a phase that trains `roles`.

    Roles that the system lacks, or that are frozen, are passed over.
    """

    def mark(move: _Move) -> _Move:
        move.phase = (roles, every)  # type: ignore[attr-defined]
        return move

    return mark


class Objective(nn.Module):
    """How roles learn: one or more `@phase` methods, run in the order they are written."""

    bound: str = ""  # how `score` stands to the true likelihood: "exact", "ELBO", "any-order ELBO"; "" = no likelihood

    @property
    def voice(self) -> Objective:
        """The objective whose capabilities are the system's: itself, unless it is made of others."""
        return self

    def phases(self) -> list[Phase]:
        """Its phases; one whose cadence is an argument overrides this."""
        marked = {
            name: move for cls in reversed(type(self).__mro__) for name, move in vars(cls).items() if hasattr(move, "phase")
        }
        return [
            Phase(name, move.phase[0], move.phase[1], getattr(self, name), targets=self.targets) for name, move in marked.items()
        ]

    def ends(self) -> int:
        """The step at which all of its phases are over; 0 = one goes on for as long as it may."""
        untils = [phase.until for phase in self.phases()]
        return max(untils, default=0) if all(untils) else 0

    def targets(self, batch: Batch) -> Tensor | None:
        """How many targets its losses are the means of, [], where it can be told and these are not as many in every row."""
        return None

    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor | None:
        """Negative log-likelihood in nats [B] (or the bound on it that `bound` names), given the batch's own condition."""
        return None


class NeedsStart(ValueError):
    """This system makes nothing out of nothing: it rebuilds or changes the `start` it is given. The message says what."""


class Sampler(Protocol):
    """An iterator of drafts; the last one is the sample. A frozen dataclass whose fields are the dials a user may turn.

    One that cannot do without a start raises NeedsStart when it has none.
    """

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
        """Drafts of n codes. `start`: what the sample grows from; `null`: the null condition, for guidance."""


@runtime_checkable
class Spelled(Protocol):
    """A codec of texts that says how its symbols are spelled, so that a text can be held to a grammar as it is written."""

    def spelling(self) -> str | list[bytes]:
        """Its tokenizer.json, or the bytes that each symbol stands for."""


Turns = Sequence[Mapping[str, Any]]  # a conversation: [{"role": "user", "content": "..."}, {"role": "assistant", ...}, ...]


@runtime_checkable
class Conversing(Protocol):
    """A codec of texts that may know how a conversation is written in its symbols; `converses` says whether it does."""

    bos: int
    begins: bool

    @property
    def ends(self) -> tuple[int, ...]: ...

    @property
    def converses(self) -> bool: ...

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]: ...

    def converse(self, conversations: Sequence[Turns], *, reply: bool = True) -> list[list[int]]:
        """Symbols of each conversation, its own beginning included; where `reply`, up to where an answer begins."""

    def taught(self, conversations: Sequence[Turns]) -> list[tuple[list[int], list[bool]]]:
        """Symbols of each conversation, whole, and which of them are answers': what a model learns to write."""

    def filled(self, rows: Sequence[Sequence[int]]) -> Code:
        """Rows of symbols as a code."""


class Dials:
    """A frozen dataclass whose fields are dials, all of them: a part of a sampler, or a sampler whose parts have dials too.

    On the command line and in a record they stand side by side: no two parts of a sampler have a dial of the same name.
    """


@runtime_checkable
class Adopting(Protocol):
    """A sampler that can begin with whole pictures: a codec's to rebuild, ones to vary or to find the latent of."""

    def adopt(self, system: System, code: Code) -> Code:
        """The start that stands for the pictures whose code this is, a row each."""


@runtime_checkable
class Completing(Protocol):
    """A sampler of numbers that writes what a start leaves open, NaN, and keeps what it knows."""

    def without(self, code: Code, away: Tensor) -> Code:
        """The start that has a code [B,C,h,w] of pictures, open wherever it could tell of their part `away`, bool[H,W]."""


@runtime_checkable
class Growing(Sampler, Protocol):
    """A sampler whose samples grow from the points of a space, so that others lie between any two of them."""

    def roots(self, system: System, n: int, *, cond: Condition | None = None, rng: Streams) -> Tensor:
        """The points [n,...] that `draw` would begin from."""

    def between(self, first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        """Points [n,...] that lie a share [n] in 0..1 of the way from some [n,...] to others [n,...]."""

    def grow(
        self, system: System, roots: Tensor, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Iterator[Code]:
        """Drafts of what grows from points, as `draw` has them. Unless a sampler says otherwise, they are its starts."""
        yield from self.draw(system, len(roots), start=roots, cond=cond, null=null, rng=rng)


@runtime_checkable
class Tracing(Protocol):
    """A sampler that finds the points its samples would grow from."""

    def trace(
        self, system: System, code: Code, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Tensor:
        """The points [B,...] from which codes nearest to these grow."""


@runtime_checkable
class Reporting(Protocol):
    """A sampler that says how likely it held the symbols it drew: an engine outside, or one of older weights.

    Whoever learns from what it wrote weighs each symbol by how likely it is by now over that.
    """

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
        """What `draw` ends in, and the log-probability of each symbol where it was drawn, float32[n,T]; NaN where none was:
        of what a start brought, what was forced, what lies behind an end."""


@runtime_checkable
class Restoring(Protocol):
    """A conditioner that is told of pictures which lost something, for samples that are to have it again."""

    def worsened(self, images: Tensor) -> Tensor:
        """What is left of pictures [B,C,H,W] in 0..1."""

    def plain(self, left: Tensor) -> Tensor:
        """The pictures [B,C,H,W] that are made of what is left without a model."""


def restoring(conditioner: Conditioner | None) -> Restoring | None:
    """The part of a conditioner that does so."""
    parts = () if conditioner is None else conditioner.modules()
    return next((part for part in parts if isinstance(part, Restoring)), None)


@runtime_checkable
class Exhibiting(Protocol):
    """A sampler with more to show than samples."""

    def exhibit(self, system: System, code: Code) -> dict[str, Tensor]:
        """What a strip of pictures shows, in a sentence -> the pictures [lines,columns,C,H,W] in 0..1; `code`: held-out rows."""


@runtime_checkable
class Comparing(Protocol):
    """An objective whose system puts two fields of a batch, its `sides`, into one space: "image" and "text", two texts."""

    sides: tuple[str, ...]

    def embed(self, system: System, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B,P] of those of its sides that a batch brings."""


@runtime_checkable
class Classifying(Protocol):
    """An objective whose system says of which kind a row is."""

    def logits(self, system: System, batch: Batch) -> Tensor:
        """Of each kind of each row, [B,K]."""


@runtime_checkable
class Judging(Protocol):
    """An objective whose system says what answers are worth."""

    def worth(self, system: System, batch: Batch) -> Tensor:
        """Of each of the answers that share a row of a batch of `data.comparisons`: float32[B,K]."""


@runtime_checkable
class Departing(Protocol):
    """An objective whose system departs from a reference."""

    def log_ratios(self, system: System, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of each answer over that under the reference, float32[B,K], and symbols of each, int64[B,K]."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer lives."""
    tensor: Tensor | None = next(module.parameters(), None)
    tensor = tensor if tensor is not None else next(module.buffers(), None)
    return tensor.device if tensor is not None else torch.device("cpu")
