"""Numbers as people read them, and the scales of small charts drawn as SVG. Knows no metric and no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


def finite(value: Any) -> float | None:
    """A number, or None for what is absent, not a number or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def decimals(halves: Sequence[float], values: Sequence[float]) -> int:
    """Decimals that a typical interval's half-width deserves: two digits of it where it begins with 1 or 2, else one.

    Where there are no intervals, about three digits of the largest value.
    """
    halves = sorted(h for h in halves if h > 0)
    scale = halves[len(halves) // 2] if halves else max((abs(v) for v in values if v), default=1.0) / 10
    power = math.floor(math.log10(scale))
    return min(5, max(0, (1 if scale < 3 * 10.0**power else 0) - power))


def count(value: Any) -> str:
    """1437 -> '1,437'; large ones in thousands and millions: '352 k', '6.8 M'."""
    number = finite(value)
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:.{1 if scaled < 10 else 0}f} {unit}"
    return f"{number:,.0f}"


def short(value: Any) -> str:
    """A number in about three digits, without an exponent where it can do without one."""
    number = finite(value)
    if number is None:
        return "–"
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if size < -3 or size > 5:
        return f"{number:.2g}"
    return f"{number:,.{max(0, 2 - size)}f}"


def duration(seconds: Any) -> str:
    """0.42 -> '0.4 s', 75 -> '1 min 15 s', 7300 -> '2 h 2 min'."""
    number = finite(seconds)
    if number is None or number < 0:
        return "–"
    if number < 60:
        return f"{number:.1f} s" if number < 9.95 else f"{number:.0f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers within low .. high."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Ones, twos and fives of each decade within low .. high; fewer where there are many decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for parts in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(first, last + 1) for m in parts if low <= m * 10.0**e <= high]
        if len(found) <= 5:
            return found
    return found[:: math.ceil(len(found) / 5)]


@dataclass(frozen=True)
class Scale:
    """Data -> pixels, linear or logarithmic. `start` and `end` are where low and high are drawn."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low * 1e-3))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, wanted: int = 4) -> list[float]:
        found = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, wanted)
        return found if len(found) > 1 else ticks(self.low, self.high, wanted)


def fitted(values: Sequence[float], start: float, end: float, margin: float = 0.06, steep: float = 20.0) -> Scale:
    """A scale that holds the values: logarithmic where they are positive and span more than `steep` to one."""
    low, high = min(values), max(values)
    if low > 0 and high / low > steep:
        grow = (high / low) ** margin
        return Scale(low / grow, high * grow, start, end, log=True)
    pad = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - pad, high + pad, start, end)


def text(x: float, y: float, words: str, colour: str = "muted", anchor: str = "start", size: float = 11, more: str = "") -> str:
    """A piece of text in an SVG; colours are the page's, with a fallback that reads on white and on black."""
    style = f"fill:var(--{colour},#777);font-size:{size}px{';' + more if more else ''}"
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" style="{style}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "rule", width: float = 1, more: str = "") -> str:
    style = f"stroke:var(--{colour},#8886);stroke-width:{width:g}{';' + more if more else ''}"
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" style="{style}"/>'
