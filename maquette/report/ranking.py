"""Whether several seeds put the systems in one order: ranks that the intervals bear out, and the pairs that swap.

Knows evaluations as dictionaries (the rows of compare.json) and what an Estimate is; no terminal and no page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from maquette.metrics.estimate import Estimate, compare
from maquette.report.axes import finite
from maquette.report.standing import estimate_of, seeds_of
from maquette.report.story import listed

Pair = tuple[str, str]


@dataclass(frozen=True)
class Ranking:
    """One metric's order of the recipes, seed by seed. Pairs that the intervals do not tell apart are ties, never ranked apart.

    Args:
        metric: what they are ranked by, and among those measured under one signature only.
        ranks: recipe -> its rank with each seed, 1 + how many are better beyond the intervals' doubt; the best mean first.
        agreed: (better, worse), told apart with every seed, alike.
        swapped: pairs told apart in one order with one seed and in the other with another.
        tied: pairs that some seed does not tell apart and none swaps.
        tau: Kendall's tau-b between the orders of two seeds, ties among them (Kendall 1945); the lowest over pairs of seeds,
            None where a seed tells no pair apart.
        left_out: recipes that lack the figure with some seed.
    """

    metric: str
    ranks: dict[str, tuple[int, ...]]
    agreed: tuple[Pair, ...]
    swapped: tuple[Pair, ...]
    tied: tuple[Pair, ...]
    tau: float | None
    left_out: tuple[str, ...] = ()

    @property
    def means(self) -> dict[str, float]:
        """recipe -> mean rank over the seeds."""
        return {name: sum(ranks) / len(ranks) for name, ranks in self.ranks.items()}

    @property
    def verdict(self) -> str:
        """stable, swaps, or open: no pair is told apart with every seed, so there is no order to be stable."""
        return "swaps" if self.swapped else "stable" if self.agreed else "open"

    def asdict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "means": self.means, "verdict": self.verdict}


def rankings(rows: Sequence[dict[str, Any]]) -> list[Ranking]:
    """The order of the recipes by every metric that says which way is better; [] for a comparison of one seed."""
    seeds = seeds_of(rows)
    full = list(dict.fromkeys(str(row.get("recipe") or "?") for row in rows))
    short = [name.rpartition(":")[2] for name in full]
    titles = {name: name if short.count(cut) > 1 else cut for name, cut in zip(full, short, strict=True)}
    placed = {(titles[str(row.get("recipe") or "?")], row["training_seed"]): row.get("metrics") or {} for row in rows if seeds}
    metrics = dict.fromkeys(name for figures in placed.values() for name in figures if not name.endswith("(real)"))
    return [made for metric in metrics for made in _by_signature(metric, list(titles.values()), seeds, placed)]


def _by_signature(
    metric: str, titles: list[str], seeds: list[int], placed: dict[tuple[str, int], dict[str, Any]]
) -> list[Ranking]:
    """A metric's ranking among the recipes of each signature; those of one recipe alone are no ranking."""
    groups: dict[Any, dict[str, list[Estimate]]] = {}
    for title in titles:
        saved = [placed.get((title, seed), {}).get(metric) for seed in seeds]
        read = [estimate_of(metric, entry) for entry in saved if entry and entry.get("better")]
        read = [estimate for estimate in read if finite(estimate.value) is not None]
        if len(read) == len(seeds) and len({estimate.signature for estimate in read}) == 1:
            groups.setdefault(read[0].signature, {})[title] = read
    measured = {title for figures in groups.values() for title in figures}
    lacking = tuple(
        title for title in titles if title not in measured and any(metric in placed.get((title, s), {}) for s in seeds)
    )
    return [_ranking(metric, figures, lacking) for figures in groups.values() if len(figures) > 1]


def _ranking(metric: str, figures: dict[str, list[Estimate]], lacking: tuple[str, ...]) -> Ranking:
    """The order of recipes with an estimate per seed each, all measured alike."""
    count = len(next(iter(figures.values())))
    pairs = list(combinations(figures, 2))
    orders = {pair: [compare(a, b) for a, b in zip(figures[pair[0]], figures[pair[1]], strict=True)] for pair in pairs}
    ranks = {
        name: tuple(
            1 + sum(order[seed] == (-1 if pair[0] == name else 1) for pair, order in orders.items() if name in pair)
            for seed in range(count)
        )
        for name in figures
    }
    swapped = [pair for pair in pairs if {1, -1} <= set(orders[pair])]
    agreed = [pair if orders[pair][0] > 0 else pair[::-1] for pair in pairs if set(orders[pair]) in ({1}, {-1})]
    tied = [pair for pair in pairs if 0 in orders[pair] and pair not in swapped]
    taus = [
        _tau([orders[pair][i] for pair in pairs], [orders[pair][j] for pair in pairs]) for i, j in combinations(range(count), 2)
    ]
    known = [tau for tau in taus if tau is not None]
    tau = min(known) if len(known) == len(taus) else None
    ordered = dict(sorted(ranks.items(), key=lambda item: sum(item[1])))
    return Ranking(metric, ordered, tuple(agreed), tuple(swapped), tuple(tied), tau, lacking)


def _tau(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Kendall's tau-b of two orders of the same pairs, each 1, -1 or 0 for a tie."""
    apart = sum(map(abs, first)) * sum(map(abs, second))
    return sum(a * b for a, b in zip(first, second, strict=True)) / math.sqrt(apart) if apart else None


def told(found: Sequence[Ranking], seeds: Sequence[int]) -> list[str]:
    """Who leads with every seed, and whether the order is the same with each, in sentences."""
    lines: list[str] = []
    won: dict[str, list[str]] = {}
    led: dict[str, list[str]] = {}
    for ranking in found:
        name = next(iter(ranking.ranks))
        if all((name, other) in ranking.agreed for other in ranking.ranks if other != name):
            won.setdefault(name, []).append(ranking.metric)
        elif ranking.agreed:
            first = min(ranking.means.values())
            led.setdefault(listed([name for name, mean in ranking.means.items() if mean == first]), []).append(ranking.metric)
    over = f"seeds {listed([str(seed) for seed in seeds])}"
    lines += [f"{name} is best with every seed, beyond the intervals' doubt, on {listed(each)}." for name, each in won.items()]
    lines += [
        f"No winner can be named with every seed on {listed(each)}; first in mean rank: {names}." for names, each in led.items()
    ]
    stable, unsaid = ([r for r in found if r.verdict == verdict] for verdict in ("stable", "open"))
    if stable:
        words = [f"{r.metric} ({len(r.agreed)} of {_pairs(r)} pairs told apart)" for r in stable]
        lines.append(f"The ranking is stable over {over} on {listed(words)}; pairs that are not told apart are ties.")
    for ranking in found:
        if ranking.swapped:
            swaps = listed([f"{a} with {b}" for a, b in ranking.swapped])
            lines.append(f"The ranking by {ranking.metric} is not stable over {over}: the order of {swaps} turns round.")
    if unsaid:
        lines.append(f"No two systems are told apart with every seed on {listed([r.metric for r in unsaid])}.")
    return lines


def _pairs(ranking: Ranking) -> int:
    return len(ranking.ranks) * (len(ranking.ranks) - 1) // 2


def rank_words(ranks: Sequence[int]) -> str:
    """(1, 2) -> "1.5 (1 2)": the mean, and the rank with each seed."""
    return f"{sum(ranks) / len(ranks):.3g} ({' '.join(map(str, ranks))})"


def stability_words(ranking: Ranking) -> str:
    """How far the order holds: "stable, 5 of 6 pairs, tau 0.9"."""
    held = f"{len(ranking.agreed)} of {_pairs(ranking)} pairs"
    tau = "" if ranking.tau is None else f", tau {ranking.tau:.2f}"
    swaps = f", swap {listed([f'{a}/{b}' for a, b in ranking.swapped])}" if ranking.swapped else ""
    return f"{ranking.verdict}, {held}{tau}{swaps}"


def plain_ranking(rows: Sequence[dict[str, Any]]) -> str:
    """The ranks as plain text, a line per metric; '' for a comparison of one seed."""
    found, seeds = rankings(rows), seeds_of(rows)
    if not found:
        return ""
    lines = [f"mean rank (and with seed {', '.join(map(str, seeds))}): 1 + how many are better beyond the intervals' doubt"]
    for ranking in found:
        ordered = ", ".join(f"{name} {rank_words(ranks)}" for name, ranks in ranking.ranks.items())
        lines.append(f"{ranking.metric}: {ordered}: {stability_words(ranking)}")
        lines += [f"  not measured with every seed: {', '.join(ranking.left_out)}"] if ranking.left_out else []
    return "\n".join(lines) + "\n"
