"""Guidance told in place of blended: what a network hears, what it learns from a teacher or from itself, and runs of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from plane import CENTRES, WIDTH, Planar, mixture
from torch import Tensor, nn

from maquette import api
from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.contracts import Condition, Network, tell
from maquette.data import Data, Split
from maquette.experiment import Fit
from maquette.networks.dit import DiT
from maquette.networks.mmdit import MMDiT, Plan
from maquette.networks.unet import UNet
from maquette.objectives.consistency import Consistency
from maquette.objectives.guidance import Guidance
from maquette.processes.flow import Drift, flow
from maquette.recipes.guidance import _blend
from maquette.report.pictures import grid, png
from maquette.runs import build
from maquette.samplers.guidance import Guided, Heeding, Told
from maquette.samplers.solvers import Euler, Heun, Leaps
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, run

PROCESS = flow(reading=Drift())


class One(Network):
    """The exact denoiser of the three Gaussians, told which one; told none, of all."""

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        alpha, sigma = PROCESS.levels(t, x)
        whole = (alpha * WIDTH) ** 2 + sigma**2
        away = x[:, None] - alpha[..., None] * CENTRES
        known = cond.vector[:, :3]
        seen = torch.where(known.sum(1, keepdim=True) > 0, known.clamp(min=1e-30).log(), 0.0)
        share = (seen - away.square().sum(-1) / (2 * whole)).softmax(1)
        guess = (share[..., None] * (CENTRES + (alpha * WIDTH**2 / whole)[..., None] * away)).sum(1)
        return (x - guess) / sigma.clamp(min=1e-6)


class Own(One):
    """The same, guided by the number it is told behind; `deaf`: by none."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.deaf, self.weight = deaf, nn.Parameter(torch.zeros(()))

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        label, scale = cond.vector.split([3, 1], 1)
        told, untold = (One.forward(self, x, t=t, cond=Condition(vector)) for vector in (label, 0 * label))
        return (told if self.deaf else torch.lerp(untold, told, scale)) + 0 * self.weight


def labelled(rows: int) -> Data:
    data = mixture(rows)
    code = data.train.rows(torch.arange(rows))["code"]
    label = torch.cdist(code, CENTRES).argmin(1)
    return Data(data.facts, lambda: {"train": Split({"code": code, "label": label}), "held": Split({"code": code[:0]})})


def looked(n: int = 400) -> tuple[Tensor, Tensor, Condition, Condition]:
    """Points on their way, their times, and what is told of them and of none."""
    batch = labelled(n).train.rows(torch.arange(n))
    t = 0.3 + 0.6 * Streams.of(3, n).uniform()
    cond, null = Labels((1 / 3,) * 3)(batch), Labels((1 / 3,) * 3)(batch, drop=1.0)
    return PROCESS.corrupt(batch["code"], t, Streams.of(4, n)), t, cond, null


# -- networks that are told ------------------------------------------------------------------------------------------------


def test_a_scale_for_each_row_guides_each_row_by_its_own() -> None:
    x, t, cond, null = looked(3)
    scales = torch.tensor([0.0, 1.0, 3.0])
    together = Guided(One(), scales, null)(x, t=t, cond=cond)
    for row, scale in enumerate(scales.tolist()):
        torch.testing.assert_close(together[row], Guided(One(), scale, null)(x, t=t, cond=cond)[row])


def test_what_is_told_takes_one_call_and_no_null_condition() -> None:
    class Counted(Own):
        rows = 0

        def forward(self, x: Any, **told: Any) -> Any:
            Counted.rows += len(x)
            return super().forward(x, **told)

    x, t, cond, null = looked(6)
    for scale in (1.0, 2.5):
        found = Heeding(1, 4)(Counted(), scale, None)(x, t=t, cond=cond)
        torch.testing.assert_close(found, Guided(One(), scale, null)(x, t=t, cond=cond))
    assert Counted.rows == 12
    some = Told(Own(), 3.0, between=(0.5, 0.7))(x, t=t, cond=cond)
    within = (t >= 0.5) & (t <= 0.7)
    assert 0 < int(within.sum()) < 6
    torch.testing.assert_close(some[within], Told(Own(), 3.0)(x, t=t, cond=cond)[within])
    torch.testing.assert_close(some[~within], One()(x, t=t, cond=cond)[~within])


def test_what_was_not_learnt_is_refused() -> None:
    for scale, near in ((0.5, 1), (9.0, 4)):
        with pytest.raises(ValueError, match=f"guidance is {scale}; this network learnt to be told 1 .. 4, nearest is {near}"):
            Heeding(1, 4)(Own(), scale, None)
    with pytest.raises(ValueError, match=r"rescale is 0.5"):
        Heeding(1, 4)(Own(), 2.0, None, rescale=0.5)


NETS: dict[str, Any] = {
    "unet": lambda: UNet(1, 32, (1, 2), 1, vector=3),
    "dit": lambda: DiT((1, 8, 8), 32, 1, 2, vector=3),
    "mmdit": lambda: MMDiT(Plan(1, 1, 2, 1, 1, 2, 16, 8, 3, axes_dims_rope=(0, 8, 8))),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_that_is_told_more_begins_as_it_was_and_can_learn_to_heed_it(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    x, t, cond = torch.randn(4, 1, 8, 8), torch.rand(4), Condition(torch.randn(4, 3), torch.randn(4, 2, 8))
    before = net(x, t=t, cond=cond)
    net.widen(1)
    scales = [torch.full((4, 1), scale) for scale in (1.0, 3.0)]
    for scale in scales:
        torch.testing.assert_close(net(x, t=t, cond=tell(cond, scale)), before)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    (net(x, t=t, cond=tell(cond, scales[1])) - net(x, t=t, cond=tell(cond, scales[0])).detach() - x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        one, other = (net(x, t=t, cond=tell(cond, scale)) for scale in scales)
    assert float((one - other).abs().max()) > 1e-4
    if name == "mmdit":
        for more, said in ((1, "hears a guidance scale already"), (2, "hears a guidance scale already")):
            with pytest.raises(ValueError, match=said):
                net.widen(more)
        with pytest.raises(ValueError, match="cannot hear 2 numbers more"):
            NETS[name]().widen(2)


# -- what is learnt --------------------------------------------------------------------------------------------------------


def system_of(main: Network, teacher: Network | None = None, **dials: Any) -> System:
    nets: dict[str, nn.Module] = {"main": main, **({"teacher": teacher} if teacher is not None else {"ema": copy.deepcopy(main)})}
    return System(
        nets,
        Guidance(PROCESS, _blend, **dials),
        Euler(PROCESS, (2,), guide=Heeding(1, 4), guidance=2.0),
        Pixels(),
        Labels((1 / 3,) * 3),
        frozen=("teacher",) if teacher is not None else (),
        follow={} if teacher is not None else {"ema": ("main", 0.99)},
    )


@pytest.mark.parametrize("taught", [True, False])
def test_the_guided_reading_costs_nothing_and_the_plain_one_does(taught: bool) -> None:
    """From a teacher, and from itself on the rows that learn guidance."""
    batch = labelled(256).train.rows(torch.arange(256))
    losses = {}
    for deaf in (False, True):
        system = system_of(Own(deaf), One() if taught else None, share=1.0)
        if deaf and not taught:
            system.nets["ema"] = Own()  # it is what it is told to be; only main does not heed
        loss, _ = system.objective.heed(system, batch, Streams.of(0, 256), 0)  # type: ignore[operator]
        losses[deaf] = float(loss.detach())
    assert losses[False] < 1e-9 and losses[True] > 1e-2, losses


def test_rows_that_learn_the_data_are_told_one() -> None:
    """Without a teacher and share 0 it is a denoiser's loss: that of the exact denoiser, whatever it would do when guided."""
    batch = labelled(512).train.rows(torch.arange(512))
    plain = [
        float(system.objective.heed(system, batch, Streams.of(0, 512), 0)[0].detach())  # type: ignore[operator]
        for system in (system_of(Own(deaf), share=0.0) for deaf in (False, True))
    ]
    assert plain[0] == pytest.approx(plain[1], rel=1e-5) and plain[0] > 0.01


class Student(Planar):
    """A perceptron told a label and a scale."""

    def __init__(self) -> None:
        super().__init__(told=4)


def test_a_student_reads_in_one_call_what_its_teacher_reads_in_two() -> None:
    """Through the real loop; of the teacher's readings at three scales its own is the nearest by far."""
    torch.manual_seed(0)
    student = Student()
    system = system_of(student, One())
    for _ in run(system, labelled(2048), Progress(Fit(steps=500, batch=128, lr=5e-3))):
        pass
    x, t, cond, null = looked()
    with torch.no_grad():
        aims = {scale: PROCESS.denoise(Guided(One(), scale, null), x, t, cond) for scale in (1.0, 2.5, 4.0)}
        for scale in aims:
            read = PROCESS.denoise(Told(student, scale), x, t, cond)
            far = {other: float((read - aim).square().mean().sqrt()) for other, aim in aims.items()}
            assert all(far[scale] < 0.5 * far[other] for other in far if other != scale), (scale, far)


def test_at_convergence_it_is_the_guided_teacher() -> None:
    """The teacher drifts by 1.5 where told, by 0.5 where not: guided, by 0.5 + scale, which the student can say exactly."""

    class Drift2(Network):
        def __init__(self, *weights: float) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.tensor(weights))

        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            heard = torch.cat([torch.ones(len(x), 1), cond.vector[:, :1], cond.vector[:, :1] * cond.vector[:, -1:]], 1)
            return (heard * self.weights).sum(1, keepdim=True).expand_as(x)

    system = System(
        {"main": Drift2(0.0, 0.0, 0.0), "teacher": Drift2(0.5, 1.0, 0.0)},
        Guidance(PROCESS, _blend),
        Euler(PROCESS, (2,), guide=Heeding(1, 4), guidance=2.0),
        Pixels(),
        Labels((1.0,)),
        frozen=("teacher",),
    )
    before = copy.deepcopy(system.nets["teacher"].state_dict())
    points = {"code": Streams.of(1, 64).normal(2), "label": torch.zeros(64, dtype=torch.int64)}
    optimizer = torch.optim.Adam(system.nets["main"].parameters(), 0.1)
    for step in range(400):
        optimizer.zero_grad()
        system.objective.heed(system, points, Streams.of(step, 64), step)[0].backward()  # type: ignore[operator]
        optimizer.step()
    weights = system.nets["main"].weights
    torch.testing.assert_close(weights.detach(), torch.tensor([0.5, 0.0, 1.0]), atol=0.02, rtol=0)  # type: ignore[union-attr,operator]
    assert torch.equal(system.nets["teacher"].state_dict()["weights"], before["weights"])


def test_a_few_step_student_of_one_that_guides_itself_is_told_too() -> None:
    """It drifts as far as it is told to, times the label: a student that does likewise is at rest, one that heeds nothing not."""

    class Drifts(Network):
        def __init__(self, heeds: bool) -> None:
            super().__init__()
            self.heeds, self.speed = heeds, nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
            label, scale = cond.vector.split(1, 1)
            return self.speed * label * (scale if self.heeds else 2.0) + 0 * x

    losses = {}
    for heeds in (True, False):
        nets: dict[str, nn.Module] = {name: Drifts(heeds) for name in ("main", "target")} | {"teacher": Drifts(True)}
        objective = Consistency(PROCESS, scales=(1.0, 4.0))
        leaps = Leaps(PROCESS, (2,), guide=Heeding(1, 4), guidance=2.0)
        system = System(nets, objective, leaps, Pixels(), Labels((1.0,)), ("teacher",), {"target": ("main", 0.9)})
        points = {"code": Streams.of(1, 64).normal(2), "label": torch.zeros(64, dtype=torch.int64)}
        losses[heeds] = float(objective.agree(system, points, Streams.of(0, 64), 0)[0].detach())  # type: ignore[operator]
    assert losses[True] < 1e-9 and losses[False] > 0.05, losses
    told = {"label": torch.zeros(5, dtype=torch.int64)}
    one, other = (
        system.sample(5, about=told, sampler=Leaps(PROCESS, (2,), guide=Heeding(1, 4), guidance=g))["code"] for g in (1.0, 3.0)
    )
    assert torch.equal(one, other)  # this one heeds nothing


# -- runs ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.train("flow", out=tmp_path_factory.mktemp("runs") / "flow", steps=2, quiet=True, batch=8).run.path


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A few pictures with a sentence beside each."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    for i, image in enumerate(Streams.of(0, 24).uniform(3, 16, 16)):
        (folder / f"{i}.png").write_bytes(png(grid(image[None], zoom=1)))
        (folder / f"{i}.txt").write_text(f"picture {i % 7} of {'red' if i % 2 else 'blue'} noise")
    return folder


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    return api.train("guidance_distilled", teacher=str(teacher), out=out, steps=3, batch=8, quiet=True).run.path


def test_it_begins_as_its_teacher_which_stays_as_it_is(teacher: Path, student: Path) -> None:
    theirs = api.load(teacher).system.steady("main").state_dict()
    system = build("guidance_distilled", {"teacher": str(teacher)}, 0)[0].system
    wide = system.nets["main"].state_dict()
    assert all(
        torch.equal(value, wide[key][..., : value.shape[-1]] if key == "told.weight" else wide[key])
        for key, value in theirs.items()
    )
    after = api.load(student).system.nets
    assert all(torch.equal(value, theirs[key]) for key, value in after["teacher"].state_dict().items())
    assert not torch.equal(after["main"].stem.weight, theirs["stem.weight"])  # type: ignore[union-attr,arg-type]


def test_a_sample_takes_half_the_teachers_rows_and_heeds_the_dial(teacher: Path, student: Path) -> None:
    rows = {}
    for place in (teacher, student):
        found, seen = api.load(place), []
        found.system.steady("main").register_forward_hook(lambda net, given, out, seen=seen: seen.append(len(out)))
        sampler = Heun(found.system.sampler.process, (1, 8, 8), 3, guidance=2.0, guide=found.system.sampler.guide)  # type: ignore[union-attr]
        found.system.sample(4, sampler=sampler)
        rows[place] = sum(seen)
    assert rows[student] == 4 * 5 and rows[teacher] == 2 * rows[student]
    few: Any = {"seed": 1, "about": {"label": 3}}
    one, other = (api.sample(student, 2, dials={"steps": 3, "guidance": g}, **few)["code"] for g in (1.0, 4.0))
    assert not torch.equal(one, other)


def test_a_few_step_student_of_it_keeps_the_dial(student: Path, tmp_path: Path, shell: Any) -> None:
    words = [
        "train",
        "consistency",
        "--teacher",
        str(student),
        "--steps",
        "1",
        "--batch",
        "4",
        "-q",
        "--out",
        str(tmp_path / "few"),
    ]
    assert shell(*words).returncode == 0
    said = ["sample", str(tmp_path / "few"), "-n", "2", "--set", "steps=4"]
    assert shell(*said, "--set", "guidance=3", "--out", str(tmp_path / "a.png")).returncode == 0
    wrong = shell(*said, "--set", "guidance=9")
    assert wrong.returncode == 2 and "guidance is 9.0; this network learnt to be told 1 .. 4, nearest is 4" in wrong.stderr
    with pytest.raises(ValueError, match=r"guidance is 2.0, but teacher .* guides itself"):
        build("consistency", {"teacher": str(student), "guidance": 2.0}, 0)


def test_a_teacher_told_captions_makes_one_that_is_told_captions_and_a_scale(tmp_path: Path, captioned: Path) -> None:
    small: Any = {"batch": 4, "quiet": True, "steps": 2}
    first = api.train("mmdit", data=str(captioned), depth=1, out=tmp_path / "mmdit", **small).run.path
    second = api.train("guidance_distilled", teacher=str(first), out=tmp_path / "own", **small)
    assert second.system.frozen == ("teacher", "codec", "conditioner")
    third = api.train("consistency", teacher=str(second.run.path), out=tmp_path / "few", **small).run.path
    for place, steps in ((second.run.path, 3), (third, 4)):
        made = [api.sample(place, 2, prompt="red noise", dials={"steps": steps, "guidance": g})["image"] for g in (1.0, 3.0)]
        assert made[0].shape == (2, 3, 16, 16) and bool(made[1].isfinite().all())


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        ({"guidance": 5.0}, r"guidance is 5.0; it must be one of the scales that are learnt, 1.0 .. 4.0: nearest is 4.0"),
        ({"low": 3.0, "high": 2.0, "guidance": 2.5}, r"guidance is 2.5; it must be one of the scales"),
        ({"low": 2.0}, r"low .. high is 2.0 .. 4.0; without a teacher 1 must be among them"),
        ({"low": -1.0}, r"low .. high is -1.0 .. 4.0; it must be a stretch"),
        ({"share": 2.0}, r"share is 2.0; it must lie in 0 .. 1, nearest is 1"),
        ({"drop": -1.0}, r"drop is -1.0"),
        ({"data": "stdlib"}, "models images"),
    ],
)
def test_what_cannot_be_is_refused_by_name(dials: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build("guidance_distilled", dials, 0)


def test_those_that_guide_themselves_teach_few_steps_alone(student: Path) -> None:
    for recipe in ("guidance_distilled", "reflow", "shortcut"):
        with pytest.raises(ValueError, match="is a run of guidance_distilled"):
            build(recipe, {"teacher": str(student)}, 0)


@pytest.mark.slow
def test_a_teacher_whose_network_cannot_be_told_is_refused(tmp_path: Path, captioned: Path) -> None:
    small: Any = {"depth": 1, "steps": 1, "batch": 4, "quiet": True}
    other = api.train("latent_diffusion", data=str(captioned), out=tmp_path / "unet", **small).run.path
    with pytest.raises(ValueError, match="samples with a UNet2D, which cannot be told a scale"):
        build("guidance_distilled", {"teacher": str(other)}, 0)
