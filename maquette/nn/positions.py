"""Where symbols stand: rotary (plain or stretched beyond what was trained on), learned, or a score per distance.

Tensors in, tensors out. C channels of a head, H heads, T new positions, S positions seen so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.nn.embed import GridPlaces
from maquette.nn.rows import fit, turned

Turn = tuple[Tensor, Tensor]
Stretch = Callable[[Tensor, float], tuple[Tensor, float]]  # frequencies [C/2] and their base -> others, and a factor of cos, sin


class Positions(nn.Module):
    """One of the ways below; what a way does not use stays as it is here."""

    def enter(self, h: Tensor, first: int, place: Tensor | None = None) -> Tensor:
        """Embeddings [B,T,D] of positions first .. first + T - 1, or at `place` int64[B,T], told where they stand."""
        return h

    def turn(self, first: int, length: int, device: torch.device) -> Turn | None:
        """cos and sin [T,C] by which queries and keys turn."""
        return None

    def bias(self, new: int, seen: int, device: torch.device) -> Tensor | None:
        """What is added to the scores of the `new` last of `seen` positions: [1,H,T,S]."""
        return None

    def check(self, length: int) -> None:
        """Raises ValueError where a sequence is longer than the positions there are."""


class Rotary(Positions):
    """Channel i of queries and keys turns with channel i + C/2 (Su 2021, eq. 15, in the order of Llama's published weights).

    Args:
        turned: channels C of a head that turn.
        theta: base of the frequencies.
        stretch: how they are changed for longer sequences than were trained on: Linear, NTK, YaRN, Llama3; None = not.
    """

    def __init__(self, width: int, heads: int, turned: int, theta: float = 10000.0, stretch: Stretch | None = None):
        super().__init__()
        self.turned, self.theta, self.stretch = turned, theta, stretch

    def turn(self, first: int, length: int, device: torch.device) -> Turn:
        return turns(first, length, self.turned, self.theta, device, self.stretch)


class Learned(Positions):
    """A learned vector per position, or the sums of one for each axis of a grid (GPT-2, BERT, DALL-E).

    Args:
        count: positions, or places along each axis.
    """

    def __init__(self, width: int, heads: int, turned: int, count: int | tuple[int, ...] = 1024):
        super().__init__()
        self.count = count if isinstance(count, int) else math.prod(count)
        self.table = nn.Embedding(count, width) if isinstance(count, int) else GridPlaces(count, width)

    def enter(self, h: Tensor, first: int, place: Tensor | None = None) -> Tensor:
        weight: Tensor = self.table.weight  # type: ignore[assignment]
        if place is not None:
            return h + weight[place]
        self.check(first + h.shape[1])
        return h + weight[first : first + h.shape[1]]

    def check(self, length: int) -> None:
        if length > self.count:
            raise ValueError(f"{length} positions are {length - self.count} more than the {self.count} learned")


class Alibi(Positions):
    """A score that falls with the distance, at another slope per head (Press 2022, sec. 3)."""

    def __init__(self, width: int, heads: int, turned: int):
        super().__init__()
        self.heads = heads

    def slopes(self, device: torch.device) -> Tensor:
        """float32[H]: powers of 2^(-8/H); where H is no power of 2, those of the one below, then every other of the one above."""
        whole = 1 << (self.heads.bit_length() - 1)
        some = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
        more = [2 ** (-4 * (2 * i + 1) / whole) for i in range(self.heads - whole)]
        return torch.tensor(some + more, device=device)

    def bias(self, new: int, seen: int, device: torch.device) -> Tensor:
        place = torch.arange(seen, device=device)
        far = (place[seen - new :, None] - place).abs()
        return -self.slopes(device)[None, :, None, None] * far


class Relative(Positions):
    """A learned score per head and class of distance, the same in every layer (Raffel 2020, sec. 2.1).

    Args:
        count: classes.
        furthest: distances from here on are one class.
        both: half of the classes are for what is ahead; False = nothing ahead is ever seen.
    """

    def __init__(self, width: int, heads: int, turned: int, count: int = 32, furthest: int = 128, both: bool = False):
        super().__init__()
        self.furthest, self.both = furthest, both
        self.scores = nn.Embedding(count, heads)

    def bias(self, new: int, seen: int, device: torch.device) -> Tensor:
        place = torch.arange(seen, device=device)
        classes = buckets(place[None] - place[seen - new :, None], self.scores.num_embeddings, self.furthest, self.both)
        return self.scores(classes).permute(2, 0, 1)[None]


def buckets(distance: Tensor, count: int, furthest: int, both: bool = True) -> Tensor:
    """The class of each distance (positive = ahead), int64 -> int64 in 0 .. count - 1 (Raffel 2020, sec. 2.1).

    Half of the classes are for what is ahead, if `both` ways count. Of each half, the first half are single distances; the rest
    grow geometrically up to `furthest`, and hold everything beyond.
    """
    half = count // 2 if both else count
    single = half // 2
    far = distance.abs() if both else (-distance).clamp(min=0)
    # in float32, in this order: distances on the edge of a class fall where the published weights learned them
    grown = torch.log(far.float() / single) / math.log(furthest / single) * (half - single)
    grown = (single + grown.clamp(max=half).long()).clamp(max=half - 1)
    return torch.where(far < single, far, grown) + (half * (distance > 0) if both else 0)


@dataclass(frozen=True)
class Linear:
    """Positions divided by a factor (Chen 2023)."""

    factor: float

    def __call__(self, speed: Tensor, theta: float) -> tuple[Tensor, float]:
        return speed / self.factor, 1.0


@dataclass(frozen=True)
class NTK:
    """The base grows, so that the slowest frequency is divided by the factor and the fastest is kept (NTK-aware, bloc97 2023)."""

    factor: float

    def __call__(self, speed: Tensor, theta: float) -> tuple[Tensor, float]:
        half = len(speed)
        return speed * self.factor ** (-torch.arange(half, device=speed.device) / max(1, half - 1)), 1.0


@dataclass(frozen=True)
class YaRN:
    """Slow frequencies divided by the factor, fast ones kept, a ramp between (Peng 2023, eq. 19-23).

    Args:
        factor: how much longer sequences may be.
        original: positions that were trained on.
        fast, slow: turns over those, from which on a frequency is kept, and down to which it is divided.
        gain: of cos and sin; None = 0.1 ln(factor) + 1 (eq. 22).
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    gain: float | None = None

    def __call__(self, speed: Tensor, theta: float) -> tuple[Tensor, float]:
        half = len(speed)
        first, last = (half * math.log(self.original / (n * 2 * math.pi)) / math.log(theta) for n in (self.fast, self.slow))
        low, high = max(math.floor(first), 0), min(math.ceil(last), 2 * half - 1)
        ramp = ((torch.arange(half, device=speed.device) - low) / max(high - low, 0.001)).clamp(0, 1)
        gain = warmth(self.factor) if self.gain is None else self.gain
        return speed / self.factor * ramp + speed * (1 - ramp), gain


def warmth(factor: float, slope: float = 1.0) -> float:
    """By how much attention is sharpened over longer sequences (Peng 2023, eq. 22)."""
    return 0.1 * slope * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True)
class Llama3:
    """Wave lengths above original / low are divided by the factor, those below original / high kept (Dubey 2024)."""

    factor: float
    original: int
    low: float = 1.0
    high: float = 4.0

    def __call__(self, speed: Tensor, theta: float) -> tuple[Tensor, float]:
        kept = ((self.original * speed / (2 * math.pi) - self.low) / (self.high - self.low)).clamp(0, 1)
        return speed / self.factor * (1 - kept) + speed * kept, 1.0


def turns(
    first: int,
    length: int,
    width: int,
    theta: float = 10000.0,
    device: torch.device | None = None,
    stretch: Stretch | None = None,
) -> Turn:
    """cos and sin [T,C] of positions first .. first + length - 1, for heads of `width` channels (Su 2021, eq. 15).

    Channel i turns with channel i + C/2, as in Llama's published weights.
    """
    speed, gain = theta ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width), 1.0
    if stretch is not None:
        speed, gain = stretch(speed, theta)
    place = torch.arange(first, first + length, dtype=torch.float32, device=device)
    angle = (place[:, None] * speed).repeat(1, 2)
    return angle.cos() * gain, angle.sin() * gain


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """[..., T, D] turned by its positions' angles, in x's precision."""
    cos, sin = turn
    if x.ndim == 4 and cos.shape == x.shape[2:] and fit(x, 32):
        return turned(x, cos, sin)
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)


def picture_turns(
    before: int, high: int, wide: int, axes: tuple[int, ...], theta: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """cos and sin [before + high * wide, D / 2, 2] of `before` tokens that have no place, then of a picture's.

    `axes`: how many channels of a head do not turn, how many turn by the row and how many by the column (Su 2021, eq. 15, along
    each, as Flux). Channel 2 i turns with channel 2 i + 1: for `rotate_pairs`.
    """

    def along(length: int, width: int) -> Tensor:
        speed = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * speed  # on the CPU: not every device has float64
        return torch.stack([angle.cos(), angle.sin()], -1).float().to(device)

    still, down, across = axes
    rows, columns = along(high, down).repeat_interleave(wide, 0), along(wide, across).repeat(high, 1, 1)
    none = along(1, still).expand(high * wide, -1, -1)
    turn = torch.cat([none, rows, columns], 1)
    return torch.cat([along(1, sum(axes)).expand(before, -1, -1), turn])


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """[B,T,H,D] turned by its positions' cos and sin [T,D/2,2], in x's precision: neighbours times e^(i angle), as one number.

    A compiler of graphs is shown the same in real numbers, which it knows how to write.
    """
    if fit(x) and x.ndim == 4:
        cos, sin = turn.repeat_interleave(2, 1).unbind(-1)
        return turned(x.transpose(1, 2), cos, sin, pairs=True).transpose(1, 2)
    pairs = x.float().contiguous().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), turn[:, None].unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
    made = torch.view_as_complex(pairs) * torch.view_as_complex(turn)[:, None]
    return torch.view_as_real(made).flatten(-2).to(x.dtype)
