"""Randomness as a pure function: one independent stream per sample, on any device, in any batch.

A stream is a key; its n-th draw is a hash of (key, n, element), so a sample never depends on the batch it is
drawn in, two ranks draw what one process would, and a resumed run has no generator state to restore.
The hash is the SplitMix64 finaliser (Steele, Lea & Flood 2014) over a Weyl sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WEYL = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed 64-bit integer
_STEP = 0x632BE59BD9B4E019
_LOW32 = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64[...]: a bijection whose output bits look independent."""
    y = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(-0x40A7B892E31B1A47)  # in place: a third of the memory
    z = (y >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(y).mul_(-0x6B2FB644ECCEEE15)
    return (z >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(z)


def _signed(x: int) -> int:
    """An integer modulo 2^64, as torch's int64 holds it."""
    x &= 0xFFFFFFFFFFFFFFFF
    return x - (1 << 64) if x >> 63 else x


def mix(*parts: int) -> int:
    """One key from several integers, order mattering: `mix(seed, step, phase)`. The same finaliser on Python integers."""
    key, whole = 0, 0xFFFFFFFFFFFFFFFF
    for part in parts:
        key = (key * _STEP + part + 1) * _WEYL & whole
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & whole
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & whole
        key ^= key >> 31
    return _signed(key)


class Streams:
    """B independent random streams. Each draw advances all of them together.

    Args:
        keys: int64[B], one key per sample.
    """

    def __init__(self, keys: Tensor, drawn: int = 0):
        self.keys, self.drawn = keys, drawn

    @classmethod
    def of(cls, seed: int, n: int, first: int = 0, device: torch.device | str = "cpu") -> Streams:
        """Streams of samples `first .. first + n - 1` under `seed`: sample i is the same whatever `first` and `n`."""
        index = torch.arange(first, first + n, dtype=torch.int64, device=device)
        return cls(_mix(index * _STEP + mix(seed)))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | Tensor) -> Streams:
        """The streams of some of the samples, at the same place in their sequences."""
        return Streams(self.keys[rows], self.drawn)

    def fork(self, tag: int) -> Streams:
        """Streams that are independent of these, for a part that draws an unknown number of times."""
        return Streams(_mix(self.keys * _STEP + mix(tag)))

    def later(self, draws: int) -> Streams:
        """The same streams, so many draws on, while these stay where they are."""
        ahead = self[:]
        ahead.drawn += draws
        return ahead

    def _bits(self, count: int) -> Tensor:
        self.drawn += 1
        base = _mix(self.keys + _signed(_WEYL * self.drawn))
        return _mix(base[:, None] + _STEP * torch.arange(1, count + 1, device=base.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on (0, 1), float32[B, *shape]: 23 bits, never 0 or 1."""
        bits = self._bits(math.prod(shape))
        return (((bits >> 41) & 0x7FFFFF).float() + 0.5).mul_(2.0**-23).reshape(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32[B, *shape] (Box & Muller 1958; tails to 6.6 sigma)."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        radius = ((((bits >> 32) & _LOW32).float() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = (bits & _LOW32).float().mul_(2.0**-32 * 2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on 0 .. high - 1, int64[B, *shape]. Modulo bias below high / 2^62."""
        bits = self._bits(math.prod(shape)) & 0x3FFFFFFFFFFFFFFF
        return (bits % high).reshape(len(self), *shape)

    def choose(self, logits: Tensor) -> Tensor:
        """One draw per row from softmax(logits): [B, *S, V] -> int64[B, *S] (Gumbel-max; -inf is never chosen)."""
        gumbel = -torch.log(-torch.log(self.uniform(*logits.shape[1:])))
        return (logits.float() + gumbel).argmax(-1)

    def rank(self, *shape: int) -> Tensor:
        """A random permutation of `shape[-1]` places per row, as ranks: int64[B, *shape]."""
        return self.uniform(*shape).argsort(-1).argsort(-1)


class Turned(Streams):
    """Streams turned towards others: each draw keeps its distribution, and `share` says how much of it is the others'.

    Normal draws are sqrt(1 - share^2) of one and share of the other; share 0 draws what the first alone would, to the bit, and 1
    what the other would. Uniform ones move as the normal draws of the same ranks do.

    Args:
        keys: int64[B], of the streams that are turned.
        towards: int64[B], of the others.
        share: float[B] in 0..1.
    """

    def __init__(self, keys: Tensor, towards: Tensor, share: Tensor, drawn: int = 0):
        super().__init__(keys, drawn)
        self.towards, self.share = towards, share

    def __getitem__(self, rows: slice | Tensor) -> Turned:
        return Turned(self.keys[rows], self.towards[rows], self.share[rows], self.drawn)

    def fork(self, tag: int) -> Turned:
        return Turned(super().fork(tag).keys, Streams(self.towards).fork(tag).keys, self.share)

    def _beside(self) -> Streams:
        """The others, where these are."""
        return Streams(self.towards, self.drawn)

    def normal(self, *shape: int) -> Tensor:
        other = self._beside().normal(*shape)
        share = self.share.reshape(-1, *[1] * len(shape))
        return (1 - share.square()).sqrt() * super().normal(*shape) + share * other

    def uniform(self, *shape: int) -> Tensor:
        other = self._beside().uniform(*shape)
        own, share = super().uniform(*shape), self.share.reshape(-1, *[1] * len(shape))
        turned = (1 - share.square()).sqrt() * torch.special.ndtri(own) + share * torch.special.ndtri(other)
        between = torch.special.ndtr(turned).clamp(2.0**-24, 1 - 2.0**-24)
        return torch.where(share == 0, own, torch.where(share == 1, other, between))

    def integers(self, high: int, *shape: int) -> Tensor:
        """The others' as often as `share` says: whole numbers do not move a little."""
        other, coin = self._beside().integers(high, *shape), Streams(_mix(self.keys + self.towards), self.drawn).uniform(*shape)
        return torch.where(coin < self.share.reshape(-1, *[1] * len(shape)), other, super().integers(high, *shape))


def keys_of(seeds: Sequence[int], device: torch.device | str = "cpu") -> Streams:
    """One stream per seed, for requests that each bring their own: `keys_of([7])` draws what `Streams.of(7, 1)` does."""
    return Streams(torch.cat([Streams.of(seed, 1, device=device).keys for seed in seeds]))
