"""Ranks over several seeds: ties where the intervals do not tell apart, pairs that swap, what the report says of both."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from maquette.metrics.estimate import Estimate, Signature
from maquette.report.bar import plain_table
from maquette.report.page import render
from maquette.report.ranking import plain_ranking, rankings, told
from maquette.report.standing import BEST, columns, names


def row(recipe: str, seed: int, fd: float | None, bound: str = "", half: float = 0.1) -> dict[str, Any]:
    """A row of compare.json with one figure; None = this run failed."""
    about = {"recipe": recipe, "run": f"runs/x/{recipe}-seed{seed}", "training_seed": seed, "skipped": {}}
    if fd is None:
        return {**about, "status": "failed", "error": "no luck", "metrics": {}}
    signature = Signature("FD", reference="held@abab", samples=80, rows=20, options=(("bound", bound),) if bound else ())
    figure = json.loads(json.dumps(Estimate(fd, fd - half, fd + half, 80, signature, "lower").asdict()))
    return {**about, "status": "ok", "error": "", "metrics": {"FD": figure}}


def rows(**figures: tuple[float | None, ...]) -> list[dict[str, Any]]:
    return [row(recipe, seed, fd) for recipe, each in figures.items() for seed, fd in enumerate(each)]


def test_a_clear_order_is_stable() -> None:
    (found,) = rankings(rows(flow=(1.0, 1.1), vae=(3.0, 3.2), gan=(2.0, 2.1)))
    assert found.ranks == {"flow": (1, 1), "gan": (2, 2), "vae": (3, 3)}
    assert found.means == {"flow": 1.0, "gan": 2.0, "vae": 3.0}
    assert (found.verdict, found.tau, found.swapped, found.tied) == ("stable", 1.0, (), ())
    assert told([found], [0, 1])[0] == "flow is best with every seed, beyond the intervals' doubt, on FD."
    assert set(found.agreed) == {("flow", "vae"), ("flow", "gan"), ("gan", "vae")}


def test_pairs_whose_intervals_overlap_are_ties() -> None:
    """The values of flow and edm change places; the intervals never told them apart, so their ranks do not differ."""
    (found,) = rankings(rows(flow=(1.0, 1.05), edm=(1.05, 1.0), vae=(3.0, 3.0)))
    assert found.ranks == {"flow": (1, 1), "edm": (1, 1), "vae": (3, 3)}
    assert found.tied == (("flow", "edm"),) and found.verdict == "stable" and found.tau == 1.0
    first, stable = told([found], [0, 1])
    assert first == "No winner can be named with every seed on FD; first in mean rank: flow and edm."
    assert stable.startswith("The ranking is stable over seeds 0 and 1 on FD (2 of 3 pairs told apart)")


def test_a_pair_that_swaps_makes_it_unstable() -> None:
    (found,) = rankings(rows(flow=(1.0, 2.0), gan=(2.0, 1.0), vae=(3.0, 3.0)))
    assert found.swapped == (("flow", "gan"),) and found.verdict == "swaps"
    assert found.ranks == {"flow": (1, 2), "gan": (2, 1), "vae": (3, 3)} and found.tau == pytest.approx(1 / 3)
    words = told([found], [0, 1])
    assert words[-1] == "The ranking by FD is not stable over seeds 0 and 1: the order of flow with gan turns round."


def test_tau_counts_ties() -> None:
    """One pair told apart with one seed only: tau-b = (C - D) / sqrt(n0 n1) over the pairs that each tells apart."""
    (found,) = rankings(rows(a=(1.0, 1.0), b=(1.05, 2.0), c=(3.0, 3.0)))
    assert found.tau == pytest.approx(2 / math.sqrt(2 * 3)) and found.tied == (("a", "b"),)
    (open_,) = rankings(rows(a=(1.0, 1.0), b=(1.05, 1.05)))
    assert open_.verdict == "open" and open_.tau is None
    assert told([open_], [0, 1]) == ["No two systems are told apart with every seed on FD."]


def test_what_was_not_measured_with_every_seed_or_not_alike_is_not_ranked() -> None:
    (found,) = rankings(rows(flow=(1.0, 1.1), gan=(2.0, None), vae=(3.0, 3.0)))
    assert list(found.ranks) == ["flow", "vae"] and found.left_out == ("gan",)
    mixed = [row("a", s, 1.0, "ELBO") for s in (0, 1)] + [row(r, s, v, "exact") for r, v in (("b", 1), ("c", 2)) for s in (0, 1)]
    (found,) = rankings(mixed)
    assert list(found.ranks) == ["b", "c"] and found.left_out == ()
    assert rankings([row("a", 0, 1.0), row("b", 0, 2.0)]) == []  # one seed: nothing to say


def test_three_seeds() -> None:
    (found,) = rankings(rows(a=(1.0, 2.0, 1.0), b=(2.0, 1.0, 2.0)))
    assert found.tau == -1.0 and found.ranks["a"] == (1, 2, 1) and found.means["a"] == pytest.approx(4 / 3)


def test_the_report_shows_every_seed_and_marks_the_best_of_each() -> None:
    made = rows(flow=(1.0, 2.0), gan=(2.0, 1.0), vae=(5.0, 5.0))
    (column,) = columns(made)
    assert [cell.mark for cell in column.cells] == [BEST, "", "", BEST, "", ""]
    assert names(made) == ["flow-seed0", "flow-seed1", "gan-seed0", "gan-seed1", "vae-seed0", "vae-seed1"]
    page = render({"rows": made, "data": {"name": "strokes"}, "budget": "60s", "seed": 0, "seeds": [0, 1]}, [])
    assert "Three systems on strokes" in page and "with seeds 0 and 1" in page and "Ranks over seeds" in page
    assert "the order of flow with gan turns round" in page and "swaps, 2 of 3 pairs, tau 0.33, swap flow/gan" in page
    alone = render({"rows": made[::2], "data": {"name": "strokes"}}, [])
    assert "Ranks over seeds" not in alone and "seeds" not in alone.split("</style>")[1].split("<script>")[0]
    words = plain_ranking(made)
    assert "FD: flow 1.5 (1 2), gan 1.5 (2 1), vae 3 (3 3): swaps" in words and "gan-seed1" in plain_table(made)
    assert plain_ranking(made[::2]) == ""
