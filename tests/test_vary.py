"""Variations: randomness turned a little, a sample and those near it, told the same or otherwise, and pictures likewise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maquette import api
from maquette.between import vary
from maquette.contracts import NeedsStart
from maquette.dials import turned as dialled
from maquette.nn.paths import arc, line
from maquette.report.pictures import grid, png
from maquette.streams import Streams, Turned

pytestmark = pytest.mark.usefixtures("narrow")


def turned(share: float, rows: int = 3) -> tuple[Turned, Streams, Streams]:
    """Streams of seed 1 turned towards those of seed 2, and both."""
    own, other = Streams.of(1, rows), Streams.of(2, rows)
    return Turned(own.keys, other.keys, torch.full((rows,), share)), own, other


@pytest.mark.parametrize(("share", "which"), [(0.0, 1), (1.0, 2)])
def test_at_the_ends_of_the_turn_each_draw_is_one_of_the_two(share: float, which: int) -> None:
    for make in (
        lambda rng: rng.normal(5),
        lambda rng: rng.uniform(2, 3),
        lambda rng: rng.integers(9, 4),
        lambda rng: rng.choose(torch.zeros(3, 7)),
        lambda rng: rng.fork(3).normal(4),
        lambda rng: rng[1:].later(2).normal(3),
    ):
        both = turned(share)
        assert torch.equal(make(both[0]), make(both[which]))
        assert both[0].drawn == both[which].drawn


def test_in_between_every_draw_keeps_its_distribution() -> None:
    """Any mixture less than this one would make variations that the model would not draw: too near its mean."""
    rng, own, _ = turned(0.6, 40_000)
    mine, made = own.normal(1)[:, 0], rng.normal(1)[:, 0]
    assert abs(float(made.std()) - 1) < 0.02 and abs(float(torch.corrcoef(torch.stack([mine, made]))[0, 1]) - 0.8) < 0.01
    uniform = rng.uniform(1)[:, 0].sort().values
    assert float((uniform - torch.linspace(0, 1, len(uniform))).abs().max()) < 0.01
    assert float(uniform.min()) > 0 and float(uniform.max()) < 1
    assert rng.integers(4).bincount().minimum(torch.tensor(9_700)).sum() > 38_700
    assert torch.equal(turned(0.6, 9)[0].normal(2)[4:6], turned(0.6, 9)[0][4:6].normal(2))


def test_ways_meet_their_ends_to_the_bit() -> None:
    a, b = Streams.of(0, 3).normal(2, 5), Streams.of(1, 3).normal(2, 5)
    for way in (line, arc):
        assert torch.equal(way(a, b, torch.zeros(3)), a) and torch.equal(way(a, b, torch.ones(3)), b)
        each = way(a, b, torch.tensor([0.0, 0.5, 1.0]))
        torch.testing.assert_close(each[1], way(a[1:2], b[1:2], torch.tensor([0.5]))[0])


# -- runs ------------------------------------------------------------------------------------------------------------------


FEW: dict[str, dict[str, Any]] = {"flow": {"steps": 3}, "ddpm": {"steps": 4}, "edm": {"steps": 3, "churn": 5.0}}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flow", "edm", "stylegan2")]


@pytest.fixture(scope="module", params=["ddpm", "vae", "gan", *SLOW])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each family that has points, hardly trained; of diffusions those whose steps add noise of their own, too."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    session = api.train(request.param, depth=1, steps=1, batch=8, seed=1, out=folder, quiet=True)
    image = session.data.held.rows(torch.tensor([2]))["image"]
    (folder / "a.png").write_bytes(png(grid(image, zoom=1)))
    return SimpleNamespace(path=folder, recipe=request.param, image=image, dials=FEW.get(request.param, {}))


def test_the_first_is_the_sample_and_the_others_lie_as_far_as_strength_says(run: Any) -> None:
    drawn = [api.sample(run.path, n, seed=7, dials=run.dials) for n in (4, 6)]
    torch.testing.assert_close(drawn[0]["code"][3], drawn[1]["code"][3], atol=1e-4, rtol=1e-4)
    away = []
    for strength in (0.0, 0.2, 1.0):
        made = api.vary(run.path, 2, seed=7, pick=3, strength=strength, dials=run.dials)
        assert made["image"].shape[0] == 3 and made["label"].tolist() == [int(drawn[0]["label"][3])] * 3
        torch.testing.assert_close(made["code"][0], drawn[0]["code"][3], atol=1e-4, rtol=1e-4)
        away.append(float((made["code"][1:] - made["code"][0]).square().mean().sqrt()))
        if strength:
            assert not torch.equal(made["code"][1], made["code"][2])
    assert away[0] < 1e-4 and away[0] < away[1] < away[2]
    most = api.vary(run.path, 3, seed=7, pick=3, strength=1.0, dials=run.dials)
    torch.testing.assert_close(most["code"][:3], made["code"], atol=1e-4, rtol=1e-4)  # however many there are


def test_at_full_strength_nothing_of_the_sample_is_left(run: Any) -> None:
    """It is as far from the sample as any other, also where steps add noise of their own."""
    found, about = api.load(run.path), {"label": torch.zeros(81, dtype=torch.int64)}
    sampler = dialled(found.system.sampler, run.dials)
    made = vary(found.system, 80, seed=7, strength=1.0, about={"label": about["label"][:1]}, sampler=sampler)["code"].flatten(1)
    plain = found.system.sample(81, seed=8, about=about, sampler=sampler)["code"].flatten(1)
    near, apart = (float((rows[1:] - made[:1]).square().mean()) for rows in (made, plain))
    assert abs(near / apart - 1) < 0.25


def test_the_same_sample_told_otherwise(run: Any) -> None:
    """Its randomness, another label: what `sample` would have drawn, had it been told that."""
    told = api.sample(run.path, 3, seed=5, about={"label": [1, 2, 3]}, dials=run.dials)
    same = api.vary(run.path, 1, seed=5, pick=2, strength=0.0, about={"label": [1, 2, 3]}, dials=run.dials)
    assert same["label"].tolist() == [3, 3]
    torch.testing.assert_close(same["code"][0], told["code"][2], atol=1e-4, rtol=1e-4)
    other = api.sample(run.path, 3, seed=5, about={"label": 8}, dials=run.dials)
    remixed = api.vary(run.path, 1, seed=5, pick=2, strength=0.0, about={"label": 8}, dials=run.dials)
    torch.testing.assert_close(remixed["code"][0], other["code"][2], atol=1e-4, rtol=1e-4)


def test_pictures_are_varied_where_they_can_be_traced(run: Any) -> None:
    given: Any = {
        "start": run.path / "a.png",
        "about": {"label": 4},
        "dials": {**run.dials, **({"churn": 0.0} if run.recipe == "edm" else {})},
    }
    if run.recipe == "gan":
        with pytest.raises(ValueError, match="finds no way between pictures"):
            api.vary(run.path, 2, **given)
        return
    if run.recipe == "stylegan2":
        pytest.skip("its pictures are found by descent, which tests/test_stylegan2.py does once")
    made = [api.vary(run.path, 2, strength=strength, **given)["code"] for strength in (0.0, 0.3)]
    torch.testing.assert_close(made[0][0], made[0][2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made[0][0], made[1][0], atol=1e-4, rtol=1e-4)
    assert float((made[1][1:] - made[1][0]).abs().max()) > 1e-3 and not torch.equal(made[1][1], made[1][2])


# -- what is refused, and the shell ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs") / "flow"
    session = api.train("flow", depth=1, steps=1, batch=8, out=folder, quiet=True)
    for i, row in enumerate(session.data.held.rows(torch.tensor([0, 1]))["image"]):
        (folder / f"{i}.png").write_bytes(png(grid(row[None], zoom=1)))
    (folder / "two").mkdir()
    for i in range(2):
        (folder / f"{i}.png").rename(folder / "two" / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": 1.5}, r"strength is 1.5; it must lie in 0 .. 1, from the same to another; nearest is 1"),
        ({"strength": -0.1}, r"nearest is 0"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"pick": -1}, "pick is -1; samples are counted from 0"),
        ({"pick": 3, "start": "two"}, "both say what is varied; give one of them"),
        ({"dials": {"strength": 0.4}}, "does nothing here, where --strength says how far variations lie"),
        ({"start": "two"}, "holds 2 pictures; it must be one"),
        ({"out": "x.txt"}, "suffix for samples of image"),
        ({"prompt": "a star"}, "text"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flow: Any, given: dict[str, Any], said: str) -> None:
    given = {key: flow / value if key == "start" else value for key, value in given.items()}
    with pytest.raises(ValueError, match=said):
        api.vary(flow, **given)


def test_runs_of_symbols_are_not_varied(tmp_path: Any) -> None:
    run = api.train("pixelcnn", depth=1, steps=1, batch=8, out=tmp_path / "run", quiet=True).run.path
    with pytest.raises(ValueError, match="finds no variation of samples; this run can interpolate and vary nothing"):
        api.vary(run)


def test_the_shell_varies_what_it_sampled(flow: Any, tmp_path: Any, shell: Any) -> None:
    few = ["--set", "steps=2", "--about", '{"label": 3}']
    assert shell("sample", str(flow), "-n", "4", "--seed", "7", *few, "--out", str(tmp_path / "a.npz")).returncode == 0
    done = shell("vary", str(flow), "--seed", "7", "--pick", "2", "-n", "2", *few, "--out", str(tmp_path / "b.npz"))
    assert done.returncode == 0 and "the sample and 2 variations" in done.stdout
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as two:
        assert np.array_equal(one["image"][2], two["image"][0]) and len(two["image"]) == 3
        assert '"pick": 2' in str(two["parameters"]) and '"strength": 0.3' in str(two["parameters"])
    assert shell("vary", str(flow), "--pick", "1", "-n", "2", *few).returncode == 0
    assert (flow / "samples" / "vary-seed-0-pick-1.png").exists()
    wrong = shell("vary", str(flow), "--strength", "3")
    assert wrong.returncode == 2 and "strength is 3.0" in wrong.stderr


def test_runs_that_draw_nothing_say_so(flow: Any) -> None:
    found = api.load(flow)
    found.system.sampler = None
    with pytest.raises(NeedsStart, match="draws nothing"):
        vary(found.system, 2)
