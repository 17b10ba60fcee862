"""Vectors as symbols and back: a learned codebook, several in a row, or a fixed grid. Knows neither encoders nor images.

A quantiser turns vectors float[B,T,D] into symbols int64[B,T,Q], one of each of its Q books, and a gradient passes straight
through. Its state is buffers, so a run resumes with it; what is random comes from the rows' own streams.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.ranks import gathered, summed
from maquette.streams import Streams

MOST = 1 << 16  # symbols of a codebook


class Quantizer(nn.Module):
    """What every quantiser offers. `width` D; `symbols` of a book; `books` Q, each of which adds a symbol per vector."""

    width: int
    symbols: int
    books: int = 1

    def forward(self, x: Tensor, rng: Streams | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """float[B,T,D] -> its nearest points z [B,T,D] (gradient: x's own), symbols int64[B,T,Q], squared errors [B].

        The errors' gradient pulls x towards its points. In training, with `rng`, codebooks learn from what they see.
        """
        raise NotImplementedError

    def embed(self, code: Tensor) -> Tensor:
        """int64[B,T,Q] -> the points that the symbols stand for, float32[B,T,D]."""
        raise NotImplementedError

    @property
    def nats(self) -> float:
        """What a vector's symbols cost when all are equally likely: Q log(symbols)."""
        return self.books * math.log(self.symbols)


def straight_through(x: Tensor, z: Tensor) -> Tensor:
    """z on the way forward, the gradient of x on the way back (Bengio 2013; van den Oord 2017, sec. 3.2)."""
    return x + (z - x).detach()


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """[B,T,D] and points [K,D] -> int64[B,T]: the point at the smallest distance (van den Oord 2017, eq. 1)."""
    return (book.square().sum(1) - 2 * x @ book.T).argmin(-1)


class VectorQuantizer(Quantizer):
    """The nearest of K learned points, each the moving average of the vectors it stands for (van den Oord 2017, app. A.1).

    A point that hardly any vector chooses is dead, and is put on a vector of the batch (Dhariwal 2020, Jukebox, app. B.2). At
    first all are dead: the codebook begins as vectors of the first batch. The averages move once per call, so a batch cut in
    micro-batches moves them several times; ranks pool their vectors, and keep equal books.

    Args:
        width: D.
        symbols: K.
        decay: of the averages.
        least: a point is dead when its average count falls to this share of what it would be if all were used alike.

    Raises:
        ValueError: too few or too many symbols, or a decay or share outside 0 .. 1.
    """

    book: Tensor
    count: Tensor
    total: Tensor
    revived: Tensor

    def __init__(self, width: int, symbols: int, decay: float = 0.98, least: float = 0.1):
        super().__init__()
        if not 2 <= symbols <= MOST:
            raise ValueError(f"symbols is {symbols}; a codebook holds 2 .. {MOST}, nearest is {min(max(symbols, 2), MOST)}")
        for name, value in (("decay", decay), ("least", least)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must lie in 0 .. 1 (without 1)")
        self.width, self.symbols, self.decay, self.least = width, symbols, decay, least
        self.register_buffer("book", torch.randn(symbols, width))
        self.register_buffer("count", torch.zeros(symbols))  # average number of vectors of a batch that chose the point
        self.register_buffer("total", torch.zeros(symbols, width))  # average sum of them
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, rng: Streams | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x = x.float()
        seen = x.detach()
        learning = rng is not None and self.training and torch.is_grad_enabled()  # not when another player looks
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 cannot tell near points apart
            if learning and rng is not None:
                self.revive(seen, rng)
            code = self.nearest(seen)
            z = self.book[code]
            if learning:
                self.follow(seen, code)
        return straight_through(x, z), code[..., None], (x - z).square().flatten(1).sum(1)

    def embed(self, code: Tensor) -> Tensor:
        return self.book[code[..., 0]]

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """[B,T,D] -> int64[B,T]: the point at the smallest distance."""
        return nearest(x, self.book)

    @torch.no_grad()
    def follow(self, x: Tensor, code: Tensor) -> None:
        """N <- g N + (1 - g) n; m <- g m + (1 - g) sum x; point = m / N (app. A.1, eqs. 6-8)."""
        chosen = F.one_hot(code.flatten(), self.symbols).float()
        count, total = summed(chosen.sum(0), chosen.T @ x.flatten(0, 1))
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        alive = self.count > 1e-6
        self.book[alive] = self.total[alive] / self.count[alive][:, None]

    @torch.no_grad()
    def revive(self, x: Tensor, rng: Streams) -> None:
        """Put dead points on vectors of the batch (of all ranks), drawn without replacement by the rows' streams."""
        (rows,) = summed(x.new_tensor([float(x.shape[0] * x.shape[1])]))
        fair = float(rows) / self.symbols
        dead = (self.count <= self.least * fair).nonzero()[:, 0]
        if not len(dead):
            return
        order, vectors = rng.fork(1).uniform(x.shape[1]).flatten(), x.flatten(0, 1)
        own = order.topk(min(len(dead), len(order))).indices
        order, vectors = gathered(order[own]), gathered(vectors[own])
        chosen = order.topk(min(len(dead), len(order))).indices
        dead = dead[: len(chosen)]
        self.book[dead], self.count[dead], self.total[dead] = vectors[chosen], fair, vectors[chosen] * fair
        self.revived += len(dead)


class LearnedQuantizer(Quantizer):
    """The nearest of K points that are parameters, and learn by gradient as all else (van den Oord 2017, eq. 3).

    Its errors are commitment's, and a quarter of them again, by which points come to the vectors that chose them.

    Args:
        width: D.
        symbols: K.
    """

    pull = 0.25

    def __init__(self, width: int, symbols: int):
        super().__init__()
        if not 2 <= symbols <= MOST:
            raise ValueError(f"symbols is {symbols}; a codebook holds 2 .. {MOST}, nearest is {min(max(symbols, 2), MOST)}")
        self.width, self.symbols = width, symbols
        self.embedding = nn.Embedding(symbols, width)
        nn.init.uniform_(self.embedding.weight, -1 / symbols, 1 / symbols)

    def forward(self, x: Tensor, rng: Streams | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x, book = x.float(), self.embedding.weight.float()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            code = nearest(x, book)
        z = book[code]
        error = (x - z.detach()).square() + self.pull * (x.detach() - z).square()
        return straight_through(x, z), code[..., None], error.flatten(1).sum(1)

    def embed(self, code: Tensor) -> Tensor:
        return self.embedding.weight[code[..., 0]].float()


class ResidualQuantizer(Quantizer):
    """Q codebooks in a row: each one quantises what those before it left over (Zeghidour 2021, SoundStream, alg. 1).

    Args:
        width: D.
        symbols: of each book.
        books: Q.
        decay, least: as in VectorQuantizer.
    """

    def __init__(self, width: int, symbols: int, books: int, decay: float = 0.98, least: float = 0.1):
        super().__init__()
        if books < 1:
            raise ValueError(f"books is {books}; it must be 1 or more")
        self.width, self.symbols, self.books = width, symbols, books
        self.levels = nn.ModuleList(VectorQuantizer(width, symbols, decay, least) for _ in range(books))

    def forward(self, x: Tensor, rng: Streams | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x = x.float()
        whole, codes, error = torch.zeros_like(x), [], x.new_zeros(len(x))
        for i, level in enumerate(self.levels):
            z, code, miss = level(x - whole, rng.fork(10 + i) if rng is not None else None)
            whole, error = whole + z.detach(), error + miss
            codes.append(code)
        return straight_through(x, whole), torch.cat(codes, -1), error

    def embed(self, code: Tensor) -> Tensor:
        """A code with fewer than Q books gives the coarser point."""
        parts = [self.levels[i].embed(code[..., i : i + 1]) for i in range(code.shape[-1])]  # type: ignore[operator]
        return torch.stack(parts).sum(0)


class FiniteScalarQuantizer(Quantizer):
    """Each channel bounded by tanh and rounded to a few levels; the codebook is their product (Mentzer 2023, FSQ, app. A.1).

    Nothing is learned and nothing can die. Points lie in -1 .. 1.

    Args:
        levels: values that each channel takes; the paper advises 5 or more, and (8, 6, 5) for about 2^8 symbols.

    Raises:
        ValueError: no channels, or one with fewer than 2 levels.
    """

    steps: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...] = (8, 6, 5)):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {tuple(levels)}; each channel takes 2 or more, for example 8,6,5")
        self.width, self.symbols = len(levels), math.prod(levels)
        self.register_buffer("steps", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False)

    def bound(self, x: Tensor) -> Tensor:
        """[..., D] -> values that round to whole numbers: -(L-1)/2 .. (L-1)/2 for odd L, -L/2 .. L/2 - 1 for even L."""
        half = (self.steps - 1) * (1 - 1e-3) / 2
        offset = torch.where(self.steps % 2 == 1, 0.0, 0.5)
        return torch.tanh(x + torch.tan(offset / half)) * half - offset

    def forward(self, x: Tensor, rng: Streams | None = None) -> tuple[Tensor, Tensor, Tensor]:
        bounded = self.bound(x.float())
        whole, half = bounded.round().detach(), self.steps // 2
        code = ((whole.long() + half) * self.basis).sum(-1)
        return straight_through(bounded, whole) / half, code[..., None], x.new_zeros(len(x), dtype=torch.float32)

    def embed(self, code: Tensor) -> Tensor:
        half = self.steps // 2
        return (code // self.basis % self.steps - half) / half
