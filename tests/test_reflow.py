"""Rectified flow: paths that were learnt from their own ends are straighter, and go where they went before."""

from __future__ import annotations

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from plane import Exact, Planar, drawn, mixture
from torch import nn

from maquette import api
from maquette.codecs.pixels import Pixels
from maquette.contracts import Network
from maquette.experiment import Fit
from maquette.objectives.reflow import Reflow
from maquette.processes.flow import flow
from maquette.processes.gaussian import Balanced
from maquette.runs import Run, build
from maquette.samplers.solvers import Euler, Heun
from maquette.storage import read_verified
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

pytestmark = pytest.mark.usefixtures("narrow")

PROCESS = flow(reading=Balanced(0.75))


def system_of(net: Network, teacher: Network | None, pool: int = 1024) -> System:
    nets: dict[str, nn.Module] = {"main": net, "ema": copy.deepcopy(net)}
    nets |= {} if teacher is None else {"teacher": teacher}
    objective = Reflow(PROCESS, (2,), pool=pool if teacher else 0, walk=16)
    frozen = () if teacher is None else ("teacher",)
    return System(nets, objective, Euler(PROCESS, (2,), 4), Pixels(), frozen=frozen, follow={"ema": ("main", 0.99)})


@torch.no_grad()
def bend(net: Network, n: int = 500) -> float:
    """How far a path's velocity strays from the line between its ends, squared and averaged (Liu 2023, eq. 5)."""
    times = PROCESS.grid(40)[:, None].expand(-1, n)
    path = [PROCESS.prior((2,), Streams.of(6, n))]
    for t, s in pairwise(times):
        path.append(PROCESS.heun(net, path[-1], t, s))
    line = path[0] - path[-1]
    speeds = [(a - b) * 40 for a, b in pairwise(path)]
    return float(torch.stack([(speed - line).square().sum(1).mean() for speed in speeds]).mean())


@pytest.mark.slow
def test_a_second_flow_is_straighter_and_ends_where_the_first_did() -> None:
    torch.manual_seed(0)
    teacher = Exact(PROCESS)
    system = system_of(Planar(), teacher)
    for _ in run(system, mixture(2048), Progress(Fit(steps=600, batch=64, lr=5e-3))):
        pass
    student = system.steady("main")
    end = drawn(Heun(PROCESS, (2,), 50), teacher)
    assert bend(student) < 0.25 * bend(teacher), (bend(student), bend(teacher))
    for steps in (1, 2):
        far = [float((drawn(Euler(PROCESS, (2,), steps), net) - end).square().sum(1).mean().sqrt()) for net in (student, teacher)]
        assert far[0] < 0.5 * far[1], (steps, far)


def test_pairs_are_walked_once_and_used_again() -> None:
    class Counting(Exact):
        rows = 0

        def forward(self, x: Any, **told: Any) -> Any:
            self.rows += len(x)
            return super().forward(x, **told)

    teacher = Counting(PROCESS)
    system = system_of(Planar(), teacher, pool=48)
    objective, each = system.objective, 2 * 16 - 1  # Heun's last step is Euler's
    assert isinstance(objective, Reflow)
    for step, fresh in enumerate((32, 4, 4)):
        before = teacher.rows
        x, z, _ = objective.pairs(system, {}, Streams.of(step, 32))
        assert teacher.rows - before == fresh * each and x.shape == z.shape == (32, 2)
        x_t = z
        for t, s in pairwise(PROCESS.grid(16)):
            x_t = PROCESS.heun(teacher, x_t, t.expand(32), s.expand(32))
        torch.testing.assert_close(x_t, x, atol=1e-5, rtol=1e-5)  # each pair is a noise and where it is carried
    assert int(objective.filled) == 40
    for step in range(3, 8):
        objective.pairs(system, {}, Streams.of(step, 32))
    assert int(objective.filled) == 60 and bool((objective.codes != 0).any(1).all())  # the oldest were replaced


def test_without_a_teacher_it_is_the_first_rectified_flow() -> None:
    system = system_of(Planar(), None)
    x = torch.randn(16, 2)
    loss, _ = system.objective.straighten(system, {"code": x}, Streams.of(0, 16), 0)  # type: ignore[operator]
    rng = Streams.of(0, 16)
    z, t = rng.fork(1).normal(2), rng.fork(0).uniform()
    x_t = (1 - t[:, None]) * x + t[:, None] * z
    guess = PROCESS.denoise(system.nets["main"], x_t, t)  # type: ignore[arg-type]
    velocity = (x_t - guess) / t[:, None]
    torch.testing.assert_close(loss, (velocity - (z - x)).square().mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("drop", 2.0), ("pool", -1), ("fresh", 0.0), ("walk", 0)])
def test_dials_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Reflow(PROCESS, (2,), **{name: value})


def test_the_pairs_are_part_of_the_run(tmp_path: Path) -> None:
    """From a flow, then from that reflow: each resumes bit for bit, pairs and labels included. A curved teacher is refused."""
    api.train("flow", out=tmp_path / "one", steps=1, batch=8, quiet=True)
    dials: dict[str, Any] = {"pool": 32, "walk": 2, "batch": 8, "quiet": True, "checkpoint_every": 2}
    whole = api.train("reflow", teacher=str(tmp_path / "one"), out=tmp_path / "two", steps=4, **dials)
    objective = whole.system.objective
    assert isinstance(objective, Reflow) and int(objective.filled) == 11
    assert set(objective.about_label[:11].tolist()) <= set(range(10)) and objective.about_label[:11].any()  # type: ignore[operator,union-attr]
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "two", cut)
    shutil.rmtree(Run.open(cut).checkpoints()[-1])
    again = api.resume(cut, quiet=True)
    one, two = (read_verified(session.run.checkpoints()[-1])["model.safetensors"] for session in (whole, again))
    assert one == two
    assert build("reflow", {"teacher": str(tmp_path / "two")}, 0)[0].system.frozen == ("teacher",)
    api.train("edm", out=tmp_path / "edm", steps=1, batch=8, quiet=True)
    with pytest.raises(ValueError, match="does not follow the straight path"):
        build("reflow", {"teacher": str(tmp_path / "edm")}, 0)
