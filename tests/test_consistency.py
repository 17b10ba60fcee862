"""Consistency models: the boundary, the fixed point, a student that leaps where its teacher walks, and runs built on runs."""

from __future__ import annotations

import copy
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from plane import CENTRES, Exact, Planar, drawn, mixture
from torch import nn

from maquette import api
from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.contracts import Network
from maquette.experiment import Fit
from maquette.objectives.consistency import Consistency
from maquette.processes.flow import Drift, flow
from maquette.processes.gaussian import Balanced, Betas, Clean, Gaussian, Velocity
from maquette.processes.karras import karras
from maquette.recipes.distillation import _guided
from maquette.runs import Run, RunError, build
from maquette.samplers.solvers import Euler, Heun, Leaps
from maquette.storage import read_verified
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run


def system_of(process: Gaussian, net: Network, teacher: Network | None = None, **dials: int) -> System:
    nets: dict[str, nn.Module] = {"main": net, "ema": copy.deepcopy(net), "target": copy.deepcopy(net)}
    follow = {"ema": ("main", 0.99), "target": ("main", 0.9)}
    nets |= {"teacher": teacher} if teacher is not None else {}
    frozen = ("teacher",) if teacher is not None else ()
    return System(nets, Consistency(process, **dials), Leaps(process, (2,)), Pixels(), frozen=frozen, follow=follow)


@pytest.mark.parametrize("process", [flow(), flow(reading=Balanced(0.7)), karras(), Gaussian(Betas(), Velocity())])
def test_at_the_datas_end_a_leap_stays_where_it_is(process: Gaussian) -> None:
    """c_skip = 1 and c_out = 0 exactly, whatever the network says (Song 2023, eq. 5)."""
    Consistency(process)
    x = torch.randn(4, 3)
    guess = process.denoise(lambda x, **_: 1000 * x + 7, x, torch.zeros(4))  # type: ignore[arg-type]
    torch.testing.assert_close(guess, x, atol=1e-6, rtol=1e-6)


def test_a_reading_without_that_boundary_is_refused() -> None:
    with pytest.raises(ValueError, match="must be x itself"):
        Consistency(flow(reading=Clean()))


@pytest.mark.parametrize(("name", "value"), [("drop", 2.0), ("intervals", 0), ("intervals", 99), ("period", 0)])
def test_dials_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Consistency(flow(), **{name: value})


def test_the_path_is_cut_finer_as_training_goes() -> None:
    objective = Consistency(flow(), intervals=4, most=20, period=10)
    assert [objective.cuts(step) for step in (0, 9, 10, 20, 30, 10**9)] == [4, 4, 8, 16, 20, 20]


def test_the_true_leap_costs_nothing_and_the_denoiser_does() -> None:
    """Data N(m, v): the ODE's end is known, and it is where the loss is least."""
    process, mean, variance = flow(reading=Drift()), 0.3, 0.25

    class Line(Network):
        def __init__(self, leaps: bool) -> None:
            super().__init__()
            self.leaps, self.weight = leaps, nn.Parameter(torch.zeros(()))

        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            alpha, sigma = process.levels(t, x)
            whole = alpha**2 * variance + sigma**2
            gain = math.sqrt(variance) / whole.sqrt() if self.leaps else alpha * variance / whole
            return (x - mean - gain * (x - alpha * mean)) / sigma.clamp(min=1e-6) + 0 * self.weight

    losses = {}
    points = {"code": mean + math.sqrt(variance) * Streams.of(1, 256).normal(2)}
    for leaps in (True, False):
        system = system_of(process, Line(leaps), Line(False), intervals=64, most=64)
        loss, logs = system.objective.agree(system, points, Streams.of(0, 256), 0)  # type: ignore[operator]
        losses[leaps] = float(loss.detach())
        assert logs["intervals"] == 64
    assert losses[True] < 0.1 * losses[False], losses


def test_a_student_leaps_to_where_its_teacher_walks() -> None:
    """Through the real loop: a step of the student ends near fifty of the teacher's from the same noise; one of its does not."""
    process = flow(reading=Balanced(0.7))
    torch.manual_seed(0)
    teacher = Exact(process)
    system = system_of(process, Planar(), teacher, intervals=4, most=16, period=100)
    for _ in run(system, mixture(2048), Progress(Fit(steps=300, batch=96, lr=6e-3))):
        pass
    n = 500
    end = drawn(Heun(process, (2,), 50), teacher, n)
    one = drawn(Leaps(process, (2,)), system.steady("main"), n)
    blunt = drawn(Leaps(process, (2,)), teacher, n)
    four = drawn(Leaps(process, (2,), 4), system.steady("main"), n)
    far = [float((x - end).square().sum(1).mean().sqrt()) for x in (one, blunt)]
    assert far[0] < 0.45 * far[1], far
    for sample in (one, four):
        away, which = torch.cdist(sample, CENTRES).min(1)
        assert (which.bincount(minlength=3) > 0.2 * n).all() and float(away.mean()) < 0.55
    assert float(torch.cdist(blunt, CENTRES).min(1).values.mean()) > 0.8


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guided_teacher_makes_a_student_that_needs_no_guidance(scale: float) -> None:
    """The teacher drifts by 1 where told and by 0 where not: under guidance 3 the student that drifts by 3 is at rest."""

    class Drifts(Network):
        def __init__(self, speed: float) -> None:
            super().__init__()
            self.speed = nn.Parameter(torch.tensor(speed))

        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            return self.speed * cond.vector.expand_as(x)

    process = flow(reading=Drift())
    losses = {}
    for speed in (1.0, 3.0):
        nets: dict[str, nn.Module] = {name: Drifts(speed) for name in ("main", "target")} | {"teacher": Drifts(1.0)}
        guide = partial(_guided, scale) if scale != 1 else None
        objective = Consistency(process, drop=0.5, guide=guide)
        system = System(nets, objective, Leaps(process, (2,)), Pixels(), Labels((1.0,)), ("teacher",), {"target": ("main", 0.9)})
        points = {"code": Streams.of(1, 64).normal(2), "label": torch.zeros(64, dtype=torch.int64)}
        losses[speed] = float(objective.agree(system, points, Streams.of(0, 64), 0)[0].detach())  # type: ignore[operator]
    assert losses[scale] < 1e-9 and losses[4.0 - scale] > 0.1, losses


@pytest.mark.parametrize(
    ("dials", "why"),
    [
        ({"guidance": math.inf, "teacher": "x"}, "guidance is inf"),
        ({"guidance": 2.0}, "guidance is 2.0, but there is no teacher"),
    ],
)
def test_guidance_that_cannot_be_is_refused(dials: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build("consistency", dials, 0)


def test_leaps_dissolve_again_between_steps() -> None:
    """Algorithm 1, line by line."""
    process = flow(reading=Balanced(0.7))
    net, n = Exact(process), 5
    rng = Streams.of(5, n)  # as `drawn` has them
    x = process.denoise(net, process.prior((2,), rng), torch.ones(n))
    for t in (0.75, 0.5, 0.25):
        x = process.denoise(net, (1 - t) * x + t * rng.normal(2), torch.full((n,), t))
    torch.testing.assert_close(drawn(Leaps(process, (2,), 4), net, n), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn(Leaps(process, (2,), 4, fresh=0.0), net, n), drawn(Euler(process, (2,), 4), net, n))
    with pytest.raises(ValueError, match=r"fresh is 1.5"):
        Leaps(process, (2,), fresh=1.5)


# -- a run built on a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    api.train("flow", out=out, steps=2, quiet=True, batch=8)
    return out


def test_a_student_begins_as_its_teacher_which_stays_as_it_is(teacher: Path, tmp_path: Path) -> None:
    theirs = api.load(teacher).system.steady("main").state_dict()
    system = build("consistency", {"teacher": str(teacher)}, 0)[0].system
    for role in ("main", "ema", "target", "teacher"):
        assert all(torch.equal(value, theirs[key]) for key, value in system.nets[role].state_dict().items())
    assert system.frozen == ("teacher",)
    session = api.train("consistency", teacher=str(teacher), out=tmp_path / "s", steps=2, batch=8, quiet=True)
    after = session.system.nets
    assert all(torch.equal(value, theirs[key]) for key, value in after["teacher"].state_dict().items())
    assert not torch.equal(after["main"].stem.weight, theirs["stem.weight"])  # type: ignore[union-attr,arg-type]
    assert session.sample(2)["image"].shape == (2, 1, 8, 8)


def test_a_student_outlives_its_teachers_folder(teacher: Path, tmp_path: Path) -> None:
    """Trained on relative to a folder that is then taken away, it loads, samples the same, and resumes bit for bit."""
    there = tmp_path / "teacher"
    shutil.copytree(teacher, there)
    whole = api.train("consistency", teacher=str(there), out=tmp_path / "whole", steps=4, batch=8, checkpoint_every=2, quiet=True)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(Run.open(cut).checkpoints()[-1])  # as if it had been killed after step 2
    before = whole.sample(2, seed=1)["code"]
    api.resume(there, steps=4, quiet=True)  # the teacher trains on: no matter
    shutil.rmtree(there)
    assert torch.equal(api.load(tmp_path / "whole").sample(2, seed=1)["code"], before)
    again = api.resume(cut, quiet=True)
    one, two = (read_verified(session.run.checkpoints()[-1])["model.safetensors"] for session in (whole, again))
    assert one == two
    shutil.rmtree(cut / "checkpoints")
    with pytest.raises(RunError, match="there is no run at"):  # nothing but the teacher has the weights to begin with
        api.resume(cut, quiet=True)


def test_teachers_that_cannot_teach_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run at"):
        build("consistency", {"teacher": str(tmp_path / "nothing")}, 0)
    with pytest.raises(ValueError, match=r"1 x 8 x 8 in 10 classes.*1 x 32 x 32"):
        build("consistency", {"teacher": str(teacher), "data": "font_digits"}, 0)
    for recipe, dials, why in (("gan", {}, "is a run of gan"), ("ddpm", {"depth": 1}, "estimates the noise")):
        api.train(recipe, out=tmp_path / recipe, steps=1, batch=8, quiet=True, **dials)
        with pytest.raises(ValueError, match=why):
            build("consistency", {"teacher": str(tmp_path / recipe)}, 0)
