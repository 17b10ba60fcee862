"""Shortcut models: long steps learnt from one's own half steps, the length told, a flow's network that learns to hear it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from plane import Exact, Planar, drawn, mixture
from torch import nn

from maquette import api
from maquette.codecs.pixels import Pixels
from maquette.contracts import Condition, Network, tell
from maquette.experiment import Fit
from maquette.objectives.denoising import Denoising
from maquette.objectives.shortcut import Shortcut
from maquette.processes.flow import flow
from maquette.processes.gaussian import Balanced
from maquette.processes.karras import karras
from maquette.processes.strides import Strides
from maquette.runs import build
from maquette.samplers.solvers import Euler, Heun, Strider
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

PROCESS, STRIDES = flow(reading=Balanced(0.75)), Strides(16)


def system_of(net: Network, share: float = 0.25, decay: float = 0.9, strides: Strides = STRIDES) -> System:
    nets = {"main": net, "ema": copy.deepcopy(net), "target": copy.deepcopy(net)}
    objective, sampler = Shortcut(PROCESS, strides, share=share), Strider(PROCESS, (2,), strides=strides)
    return System(nets, objective, sampler, Pixels(), follow={"ema": ("main", 0.99), "target": ("main", decay)})


class Field(Network):
    """A velocity field, read as such by `PROCESS`."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.bend, self.weight = bend, nn.Parameter(torch.zeros(()))

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        velocity = torch.tensor([0.7, -0.3]) + self.bend * torch.cat([t[:, None], -x[:, :1]], 1)
        (alpha, sigma), t = PROCESS.levels(t, x), t[:, None]
        skip, out = PROCESS.reading.scales(alpha, sigma)
        return (x - t * velocity - skip * x) / out.clamp(min=1e-6) + 0 * self.weight


# -- the mechanism -----------------------------------------------------------------------------------------------------------


def test_a_straight_field_has_nothing_to_learn_of_long_steps_and_a_bent_one_has() -> None:
    """Where all paths are straight lines at even speed, one step of 2d ends where two of d do (eq. 3)."""
    points = {"code": torch.randn(256, 2, generator=torch.Generator().manual_seed(0))}
    losses = {}
    for bend in (0.0, 1.0):
        system = system_of(Field(bend), share=1.0)
        loss, logs = system.objective.agree(system, points, Streams.of(0, 256), 0)  # type: ignore[operator]
        losses[bend] = float(loss.detach())
        assert set(logs) == {"steps"}
    assert losses[0.0] < 1e-6 and losses[1.0] > 1e-2, losses


def test_the_target_is_two_half_steps_told_as_such() -> None:
    """Line by line: v = (v1 + v2) / 2 (eq. 5), both asked of the target with the half length, from multiples of the length."""
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Listening(Planar):
        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            asked.append((t, cond.vector))
            return super().forward(x, t=t, cond=cond)

    torch.manual_seed(0)
    net = Listening(STRIDES.width)
    system, grid = system_of(net, share=1.0), PROCESS.grid(16)
    x, rng = torch.randn(64, 2), Streams.of(3, 64)
    loss, _ = system.objective.agree(system, {"code": x}, rng, 0)  # type: ignore[operator]
    (t, half), (middle, same), (again, whole) = asked
    cells = 2 ** (whole.argmax(1) + 1)
    assert torch.equal(t, again) and torch.equal(half, same) and set(cells.tolist()) == {2, 4, 8, 16}
    assert torch.equal(half, STRIDES.told(cells // 2)) and float(half[cells == 2].abs().sum()) == 0  # d = 0: the velocity
    place = ((1 - t) * 16).round().long()
    assert bool((place % cells == 0).all()) and torch.allclose(middle, grid[place + cells // 2])
    end, x_t = grid[place + cells], PROCESS.corrupt(x, t, rng.fork(1))

    def velocity(at: torch.Tensor, time: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return (at - PROCESS.denoise(net, at, time, Condition(told))) / time[:, None]

    first = velocity(x_t, t, half)
    second = velocity(x_t - (t - middle)[:, None] * first, middle, half)
    expected = (velocity(x_t, t, whole) - (first + second) / 2).square().mean()
    assert float(end.min()) == 0
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert all(p.grad is None for p in system.nets["target"].parameters())


def test_a_quarter_of_the_rows_learn_long_steps_and_the_others_the_velocity() -> None:
    lengths: list[torch.Tensor] = []

    class Listening(Planar):
        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            lengths.append(cond.vector.sum(1))
            return super().forward(x, t=t, cond=cond)

    system, x = system_of(Listening(STRIDES.width)), torch.randn(32, 2)
    before = x.clone()
    _, logs = system.objective.agree(system, {"code": x}, Streams.of(0, 32), 0)  # type: ignore[operator]
    assert [len(told) for told in lengths] == [8, 8, 32] and lengths[2].tolist() == [1.0] * 8 + [0.0] * 24
    assert set(logs) == {"velocity", "steps"} and torch.equal(x, before)
    alone = system_of(Planar(STRIDES.width), share=0.0)  # none at all: flow matching
    loss, _ = alone.objective.agree(alone, {"code": x}, Streams.of(0, 32), 0)  # type: ignore[operator]
    untold = Untold(alone.nets["main"])  # type: ignore[arg-type]
    plain = System({"main": untold}, Denoising(PROCESS), Euler(PROCESS, (2,)), Pixels())
    same, _ = plain.objective.restore(plain, {"code": x}, Streams.of(0, 32), 0)  # type: ignore[operator]
    torch.testing.assert_close(loss, same)


class Untold(Network):
    """A network of shortcuts that is always told the shortest length."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        return self.net(x, t=t, cond=Condition(x.new_zeros(len(x), STRIDES.width)))


def test_one_step_is_better_than_a_flows_and_worse_when_it_is_not_told() -> None:
    """Through the real loop, on a known density: after as many steps, of how far ends lie from those of the exact ODE."""
    end = drawn(Heun(PROCESS, (2,), 50), Exact(PROCESS))
    fit, data = Fit(steps=300, batch=128, lr=6e-3), mixture(2048)
    torch.manual_seed(0)
    system = system_of(Planar(STRIDES.width))
    nets = {"main": Planar(), "ema": Planar()}
    plain = System(nets, Denoising(PROCESS), Euler(PROCESS, (2,)), Pixels(), follow={"ema": ("main", 0.99)})
    for made in (system, plain):
        for _ in run(made, data, Progress(fit)):
            pass
    student = system.steady("main")

    def far(sample: torch.Tensor) -> float:
        return float((sample - end).square().sum(1).mean().sqrt())

    one = far(drawn(Strider(PROCESS, (2,), 1, strides=STRIDES), student))
    four = far(drawn(Strider(PROCESS, (2,), 4, strides=STRIDES), student))
    blunt = far(drawn(Euler(PROCESS, (2,), 1), plain.steady("main")))
    deaf = far(drawn(Euler(PROCESS, (2,), 1), Untold(student)))
    assert one < 0.5 * blunt and one < 0.5 * deaf, (one, blunt, deaf)
    assert four < 0.5 * blunt and far(drawn(Strider(PROCESS, (2,), 16, strides=STRIDES), student)) < 0.5 * blunt, (four, blunt)


# -- lengths -----------------------------------------------------------------------------------------------------------------


def test_lengths_are_powers_of_two_and_the_shortest_is_told_as_nothing() -> None:
    assert Strides(8).width == 3
    assert Strides(8).told(torch.tensor([1, 2, 4, 8])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [Strides(8).of(steps) for steps in (1, 2, 4, 8, 20)] == [8, 4, 2, 1, 1]
    cells, place = Strides(8).draw(Streams.of(0, 3000))
    assert bool((place % cells == 0).all()) and bool((place + cells <= 8).all())
    assert all(0.3 < float((cells == length).float().mean()) < 0.37 for length in (2, 4, 8))
    assert set(place[cells == 2].tolist()) == {0, 2, 4, 6}
    for finest in (0, 1, 12):
        with pytest.raises(ValueError, match=f"finest is {finest}; it must be a power of two"):
            Strides(finest)
    for steps, near in ((3, 2), (5, 4), (12, 8)):
        with pytest.raises(ValueError, match=rf"steps is {steps}; .* 1, 2, 4, 8, and 16 or more; nearest is {near}"):
            Strider(PROCESS, (2,), steps, strides=STRIDES)
    for name in ("drop", "share"):
        with pytest.raises(ValueError, match=f"{name} is 1.5"):
            Shortcut(PROCESS, STRIDES, **{name: 1.5})


@pytest.mark.parametrize("process", [flow(), PROCESS, karras(0.7)])
def test_an_aim_is_where_a_step_comes_from(process: Any) -> None:
    x_t, guess, t, s = torch.randn(5, 2), torch.randn(5, 2), torch.full((5,), 0.8), torch.full((5,), 0.3)
    torch.testing.assert_close(process.aim(x_t, t, process.step(guess, x_t, t, s), s), guess, rtol=1e-3, atol=1e-3)


def test_what_is_told_stands_behind_the_vector() -> None:
    more = torch.ones(2, 1)
    assert torch.equal(tell(None, more).vector, more)  # type: ignore[arg-type]
    told = tell(Condition(torch.zeros(2, 3), field=torch.ones(2, 1, 4, 4)), more)
    assert told.vector.tolist() == [[0, 0, 0, 1]] * 2 and told.field is not None  # type: ignore[union-attr]


# -- runs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["flow", pytest.param("dit", marks=pytest.mark.slow)])
def test_a_student_begins_as_its_teacher_deaf_to_lengths(recipe: str, tmp_path: Path) -> None:
    """Any number of Euler's steps draws at first what the teacher draws; trained, it hears the length. Guidance works too."""
    api.train(recipe, out=tmp_path / "one", steps=3, quiet=True, batch=16)
    theirs, system = api.load(tmp_path / "one").system, build("shortcut", {"teacher": str(tmp_path / "one")}, 0)[0].system
    for steps in (1, 4):
        own = system.sample(3, seed=1, sampler=Strider(PROCESS, (1, 8, 8), steps, strides=Strides(8)))["code"]
        torch.testing.assert_close(own, theirs.sample(3, seed=1, sampler=Euler(PROCESS, (1, 8, 8), steps))["code"])
    trained = api.train("shortcut", teacher=str(tmp_path / "one"), out=tmp_path / "two", steps=4, batch=16, quiet=True)
    assert float(trained.system.nets["main"].told.weight[:, 10:].detach().abs().max()) > 0  # type: ignore[union-attr,operator,index]
    plain, guided = (api.sample(tmp_path / "two", 2, seed=1, dials={"steps": 2, "guidance": g})["code"] for g in (1, 3))
    assert not torch.equal(plain, guided)
    with pytest.raises(ValueError, match="steps is 3"):
        api.sample(tmp_path / "two", 2, dials={"steps": 3})


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    api.train("edm", out=tmp_path / "edm", steps=1, batch=8, quiet=True)
    with pytest.raises(ValueError, match="does not follow the straight path; shortcut needs"):
        build("shortcut", {"teacher": str(tmp_path / "edm")}, 0)
