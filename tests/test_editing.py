"""Editing: pictures varied, filled where they are open, and joined by paths; what is given stays to the bit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maquette import api
from maquette.codecs.pixels import Pixels
from maquette.completion import hidden, started
from maquette.contracts import Adopting, Completing, Growing, Network, Tracing
from maquette.processes.flow import flow
from maquette.processes.gaussian import Cosine, Gaussian, Noise
from maquette.processes.strides import Strides
from maquette.report.pictures import grid, png
from maquette.samplers.multistep import PLMS
from maquette.samplers.oneshot import Translate
from maquette.samplers.solvers import DDIM, DPM, Ancestral, Churn, Euler, Heun, Leaps, Solver, Strider
from maquette.streams import Streams

PATHS = {"flow": flow(), "cosine": Gaussian(Cosine(), Noise())}
SOLVERS = [Euler, Heun, Churn, DPM, DDIM, PLMS, Ancestral, Leaps]
TOGETHER = 0.9  # correlation of the two numbers


class Pair(Network):
    """The exact denoiser of two numbers of deviation 1 that go together, answering in its process's terms."""

    def __init__(self, process: Gaussian) -> None:
        super().__init__()
        self.process = process
        self.spread = torch.tensor([[1.0, TOGETHER], [TOGETHER, 1.0]], dtype=torch.float64)

    def forward(self, x: Any, *, t: Any = None, cond: Any = None, state: Any = None) -> Any:
        alpha, sigma = (level.double() for level in self.process.levels(t, x))
        whole = alpha[..., None].square() * self.spread + sigma[..., None].square() * torch.eye(2)
        guess = alpha * torch.linalg.solve(whole, x.double()[..., None])[..., 0] @ self.spread
        skip, out = self.process.reading.scales(alpha, sigma)
        return ((guess - skip * x) / out).float()


def filled(solver: Solver, start: Tensor, seed: int = 0) -> Tensor:
    system: Any = SimpleNamespace(steady=lambda role: Pair(solver.process))
    *_, x = solver.draw(system, len(start), start=start, rng=Streams.of(seed, len(start)))
    return x


FILLING = [(Heun, "flow"), (DPM, "cosine"), (DDIM, "flow"), (PLMS, "cosine"), (Ancestral, "cosine"), (Churn, "flow")]
FILLING += [
    pytest.param(solver, "cosine" if path == "flow" else "flow", marks=pytest.mark.slow) for solver, path in tuple(FILLING)
]


@pytest.mark.parametrize(("solver", "path"), FILLING)
def test_what_is_filled_follows_what_is_known(path: str, solver: type[Solver]) -> None:
    """p(second | first = 1.5) is N(1.35, 0.436^2); replacement alone comes half as far, resampling nearly all the way."""
    start = torch.tensor([[1.5, math.nan]]).expand(1000, -1)
    x = filled(solver(PATHS[path], (2,), 16, resample=12), start)
    assert bool((x[:, 0] == 1.5).all())
    assert abs(float(x[:, 1].mean()) - TOGETHER * 1.5) < 0.1 and abs(float(x[:, 1].std()) - 0.436) < 0.12
    once = filled(solver(PATHS[path], (2,), 16, resample=1), start)
    assert float(once[:, 1].mean()) < float(x[:, 1].mean()) - 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_keeps_what_it_knows_and_each_row_alone_is_the_same(solver: type[Solver]) -> None:
    made = solver(PATHS["cosine"], (2,), 5, resample=2)
    start = torch.tensor([[0.3, math.nan], [math.nan, -0.7], [math.nan, math.nan]])
    x = filled(made, start)
    assert bool((x == start)[~start.isnan()].all()) and bool(x.isfinite().all())
    assert not torch.equal(x, filled(made, start, seed=1))
    torch.testing.assert_close(filled(made, start[:1])[0], x[0])
    loose = [x]
    if solver is DDIM:
        loose.append(filled(DDIM(PATHS["cosine"], (2,), 5, clip=0.5, loose=True), start))
    assert all(bool((found == start)[~start.isnan()].all()) for found in loose)


def test_capabilities_are_what_parts_offer() -> None:
    solver = Euler(flow(), (1, 4, 4))
    assert all(isinstance(solver, word) for word in (Adopting, Completing, Growing, Tracing))
    assert not isinstance(Translate(), Completing) and not isinstance(Translate(), Growing)
    shown = api.show("flow")["can"], api.show("gan")["can"], api.show("pixelcnn")["can"]
    assert [can["given pictures"] for can in shown] == [["taken whole", "completed"], [], ["completed"]]
    assert [can["interpolation, variation"] for can in shown] == [["samples", "pictures"], ["samples"], []]
    with pytest.raises(ValueError, match="resample is 0"):
        Euler(flow(), (2,), resample=0)


def test_open_places_are_those_of_which_some_is_away() -> None:
    """No code that is kept tells of what is hidden, and where codes are patches a patch with a hole in it is open."""
    solver, images = Euler(flow(), (1, 8, 8)), torch.rand(2, 1, 8, 8)
    away = hidden("middle", 8, 8)
    system: Any = SimpleNamespace(encode=lambda batch: Pixels(256).encode(batch["image"]))
    start = started(system, solver, images, away)
    assert torch.equal(start.isnan(), away.expand(2, 1, -1, -1))
    assert torch.equal(start[..., ~away], Pixels(256).encode(images)[..., ~away])
    other = torch.where(away, 1 - images, images)
    assert torch.equal(started(system, solver, other, away).nan_to_num(9), start.nan_to_num(9))
    one = torch.zeros(8, 8, dtype=torch.bool)
    one[5, 2] = True
    code = solver.without(torch.zeros(1, 3, 2, 2), one)
    assert code.isnan()[0].tolist() == [[[False, False], [True, False]]] * 3
    with pytest.raises(ValueError, match="has no places"):
        solver.without(torch.zeros(1, 3), one)


# -- runs ------------------------------------------------------------------------------------------------------------------


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flow", "ddim", "edm", "dit", "latent_diffusion")]


@pytest.fixture(scope="module", params=["ddpm", "mmdit", *SLOW])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each denoiser, of pixels and of latents, hardly trained, and one of its pictures."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    latents = request.param in ("latent_diffusion", "mmdit")
    more: dict[str, Any] = {"size": 16, "batch": 4} if latents else {"batch": 8}
    session = api.train(request.param, depth=1, steps=2, seed=1, out=folder, quiet=True, **more)
    image = session.data.held.rows(torch.tensor([2]))["image"]
    (folder / "a.png").write_bytes(png(grid(image, zoom=1)))
    return SimpleNamespace(path=folder, image=image, picture=folder / "a.png", facts=session.data.facts)


def test_pictures_are_varied_as_far_as_strength_says(run: Any) -> None:
    given: Any = {"start": run.picture, "seed": 4}
    made = [api.sample(run.path, 2, dials={"strength": s, "steps": 5}, **given)["code"] for s in (0.1, 1.0)]
    with torch.no_grad():
        code = api.load(run.path).system.encode({"image": run.image})
    near, far = (float((x - code).square().mean()) for x in made)
    assert near < far and not torch.equal(made[0][0], made[0][1])


def test_what_is_seen_stays_to_the_bit_and_the_rest_is_drawn(run: Any) -> None:
    steps: Any = {"dials": {"steps": 3, "resample": 2}}
    for part in ("left", "around"):
        away = hidden(part, *run.image.shape[2:])
        made = api.sample(run.path, 3, start=run.picture, hide=part, seed=5, **steps)["image"]
        assert torch.equal(made[..., ~away], run.image[..., ~away].expand(3, -1, -1))
        assert not torch.equal(made[0][..., away], made[1][..., away])
    other = api.sample(run.path, 3, start=run.picture, hide=part, seed=6, **steps)["image"]
    assert torch.equal(other[..., ~away], made[..., ~away]) and not torch.equal(other, made)


def test_a_mask_says_what_is_filled(run: Any, tmp_path: Any) -> None:
    away = torch.zeros(run.image.shape[2:], dtype=torch.bool)
    away[1:4, 2:6] = True
    (tmp_path / "m.png").write_bytes(png(grid(away[None, None].float(), zoom=1)))
    given: Any = {"start": run.picture, "dials": {"steps": 3, "resample": 1}}
    made = api.sample(run.path, 2, mask=tmp_path / "m.png", out=tmp_path / "x.png", **given)["image"]
    assert torch.equal(made[..., ~away], run.image[..., ~away].expand(2, -1, -1))
    assert not torch.equal(made[0], made[1])


def test_between_two_samples_and_two_pictures_lies_a_line(run: Any, tmp_path: Any) -> None:
    dials: Any = {"steps": 6}
    made = api.interpolate(run.path, 5, seeds=(3, 7), out=tmp_path / "strip.png", dials=dials)
    height, width = run.image.shape[2:]
    with Image.open(tmp_path / "strip.png") as strip:
        wide, high = strip.size
    assert made["image"].shape[0] == 5 and wide > 4 * high * width / height
    moved = [float((a - b).square().mean()) for a, b in zip(made["code"][1:], made["code"], strict=False)]
    ends = float((made["code"][0] - made["code"][-1]).square().mean())
    assert min(moved) > 0 and max(moved) < ends
    if "ddpm" not in run.path.name:  # its noise is fresh, and its strips are DDIM's
        first = api.sample(run.path, 1, seed=3, dials=dials)
        torch.testing.assert_close(made["code"][0], first["code"][0], atol=1e-4, rtol=1e-4)
    two = f"{run.picture},{run.picture}"
    same = api.interpolate(run.path, 3, start=two, dials=dials)["code"]
    torch.testing.assert_close(same[0], same[-1], atol=1e-3, rtol=1e-3)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs") / "flow"
    session = api.train("flow", depth=1, steps=1, batch=8, out=folder, quiet=True)
    image = session.data.held.rows(torch.tensor([0, 1]))["image"]
    for name, rows in (("a", image[:1]), ("b", image[1:])):
        (folder / f"{name}.png").write_bytes(png(grid(rows, zoom=1)))
    for name, values in (("small", np.zeros((4, 4))), ("empty", np.zeros((8, 8))), ("full", np.ones((8, 8)))):
        (folder / f"{name}.png").write_bytes(png(grid(torch.from_numpy(values)[None, None].float(), zoom=1)))
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("small", r"small.png is 4x4; this run's pictures are 8x8"),
        ("empty", "white nowhere, so that there is nothing to write"),
        ("full", "white all over, so that nothing of the picture is kept"),
        ("text", "text.png: not an image of a kind that is read"),
        ("nowhere", "nowhere.png is no file"),
    ],
)
def test_masks_that_say_nothing_are_refused(pixels: Any, mask: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        api.sample(pixels, 1, start=pixels / "a.png", mask=pixels / f"{mask}.png")


def test_words_that_contradict_each_other_are_refused(pixels: Any) -> None:
    for given, said in (
        ({"start": pixels / "a.png", "hide": "left", "mask": pixels / "a.png"}, "both say what is left open"),
        ({"hide": "left"}, "give one with --start"),
        ({"dials": {"strength": 0.4}}, "and does nothing without --start"),
        ({"start": pixels / "a.png", "hide": "left", "dials": {"strength": 0.4}}, "and does nothing beside --hide"),
        ({"truncate": True}, "this run makes images; only the prompt of a text is truncated"),
        ({"mask": pixels / "a.png"}, "give one with --start"),
        ({"start": pixels / "a.png", "hide": "below"}, "allowed are bottom"),
        ({"start": pixels / "small.png"}, "are 4x4 with 1 channel; this run's are 8x8"),
    ):
        with pytest.raises(ValueError, match=said):
            api.sample(pixels, 1, **given)
    for given, said in (
        ({"seeds": (1, 2, 3)}, "is 3 seeds; it must be two"),
        ({"n": 1}, "n is 1; it must be at least 2"),
        ({"seeds": (3, 7), "start": "a.png,b.png"}, "both say what the ends are"),
        ({"start": str(pixels / "a.png")}, "holds 1 pictures; it must be two"),
    ):
        with pytest.raises(ValueError, match=said):
            api.interpolate(pixels, **given)


def test_two_pictures_come_back_at_the_ends_of_their_path(pixels: Any) -> None:
    """To the grey level, where the steps are DDIM's own or more than a few."""
    both = f"{pixels / 'a.png'},{pixels / 'b.png'}"
    made = api.interpolate(pixels, 4, start=both, dials={"steps": 20}, about={"label": 3})
    found = api.load(pixels)
    rows = torch.cat([found.begun(pixels / f"{name}.png", 1, "left")["seen"] for name in "ab"])
    seen = ~rows.isnan()
    assert float((made["image"][[0, 3]] - rows)[seen].abs().mean()) < 0.02
    assert made["label"].tolist() == [3] * 4 and not torch.equal(made["image"][1], made["image"][2])


@pytest.mark.parametrize("recipe", ["vae", "gan", "stylegan2"])
def test_other_families_have_paths_too(recipe: str, tmp_path: Any) -> None:
    run = api.train(recipe, depth=1, steps=1, batch=8, out=tmp_path / recipe, quiet=True).run.path
    made = api.interpolate(run, 4, seeds=(2, 5), about={"label": 1})
    first = api.sample(run, 1, seed=2, about={"label": 1})
    torch.testing.assert_close(made["code"][0], first["code"][0], atol=1e-5, rtol=1e-5)
    assert not torch.equal(made["code"][0], made["code"][-1])
    if recipe == "gan":
        with pytest.raises(ValueError, match="finds no way between pictures"):
            api.interpolate(run, 4, start="a.png,b.png")


def test_runs_of_symbols_have_no_path(tmp_path: Any) -> None:
    run = api.train("pixelcnn", depth=1, steps=1, batch=8, out=tmp_path / "run", quiet=True).run.path
    with pytest.raises(ValueError, match="finds no way between samples; this run can interpolate and vary nothing"):
        api.interpolate(run, 4)


def test_steps_told_their_length_are_edited_too() -> None:
    told: Any = SimpleNamespace(steady=lambda role: lambda x, t, cond: -x * cond.vector[:, :1])
    solver = Strider(flow(), (2,), 4, strides=Strides())
    start = torch.tensor([[0.5, math.nan]])
    *_, x = solver.draw(told, 1, start=start, rng=Streams.of(0, 1))
    assert x[0, 0] == 0.5
    *_, grown = solver.grow(told, solver.roots(told, 1, rng=Streams.of(0, 1)), rng=Streams.of(0, 1))
    *_, plain = solver.draw(told, 1, rng=Streams.of(0, 1))
    torch.testing.assert_close(grown, plain)


def test_the_shell_has_both_verbs(pixels: Any, tmp_path: Any, shell: Any) -> None:
    picture = str(pixels / "a.png")
    call = ["sample", str(pixels), "-n", "2", "--start", picture, "--hide", "right", "--set", "steps=2"]
    assert shell(*call, "--out", str(tmp_path / "x.npz")).returncode == 0
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["image"][0, :, :, :4], arrays["image"][1, :, :, :4])
    call = ["interpolate", str(pixels), "--seeds", "3,7", "-n", "4", "--set", "steps=2"]
    assert shell(*call, "--out", str(tmp_path / "strip.png")).returncode == 0
    wrong = shell(*call[:-4], "--seeds", "3")
    assert wrong.returncode == 2 and "it must be two" in wrong.stderr
