"""Pictures that get back what they lost: what is left, how far it is dissolved, that samples obey it, how they are judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from maquette import api
from maquette.conditioners.degraded import Degraded
from maquette.conditioners.label import Labels
from maquette.data import Data, Facts
from maquette.data.core import image_data
from maquette.distributed import World
from maquette.experiment import Experiment
from maquette.metrics import restoration
from maquette.metrics.evidence import Evidence
from maquette.nn.degrade import Coarse, Grey
from maquette.processes.flow import flow
from maquette.recipes import UnknownName
from maquette.recipes.restoration import palette
from maquette.report.pictures import grid, png
from maquette.streams import Streams
from maquette.train import Progress, take_step

pytestmark = pytest.mark.usefixtures("narrow")

WHOLE = (3, 8, 8)


def halves(count: int = 64) -> Data:
    """Two colours a picture, one above the other: uint8[N,3,8,8]."""
    rng, columns = np.random.default_rng(0), {}
    for part, rows in (("train", count), ("held", 24)):
        colours = rng.integers(0, 256, (rows, 3, 2), np.uint8)
        columns[part] = {"image": torch.from_numpy(colours.repeat(4, 2)[..., None].repeat(8, 3))}
    return image_data(Facts("halves", "image", "simulated", "", "", "", {}), columns)


def folder_of(data: Data, path) -> str:
    path.mkdir()
    for i, image in enumerate(data.train.all()["image"]):
        (path / f"{i}.png").write_bytes(png(grid(image[None], zoom=1)))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return folder_of(halves(), tmp_path_factory.mktemp("halves") / "pictures")


def fitted(experiment: Experiment, steps: int) -> Experiment:
    experiment.system.learn(experiment.data.train)
    progress = Progress(replace(experiment.fit, steps=steps, batch=32, bf16=False, decay=0.5), seed=0)
    experiment.system.train()
    for _ in range(steps):
        take_step(experiment.system, experiment.data, progress, World())
    experiment.system.eval()
    return experiment


@pytest.fixture(scope="module")
def detail(folder) -> Experiment:
    return fitted(palette(data=folder, factor=2), 45)


# -- what is told --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Coarse(WHOLE, 2), Grey(WHOLE)], ids=["coarse", "grey"])
def test_what_is_left_is_made_of_the_row_or_said_whole_or_small(loss):
    part, images = Degraded(loss), torch.rand(2, *WHOLE)
    own = part({"image": images}).field
    whole, small = (part({"source": source}).field for source in (images, loss.of(images)))
    assert torch.equal(own, whole) and torch.equal(own, small) and own.shape == (2, part.channels, 8, 8)
    assert float(own.min()) >= -1 and torch.equal(part({"image": images}, drop=1.0).field, own)  # it is never dropped
    assert loss.plain(loss.of(images)).shape == images.shape
    with pytest.raises(ValueError, match=r"a source is of \(3, 4, 5\); this system takes "):
        part({"source": torch.rand(2, 3, 4, 5)})


def test_coarse_pixels_are_means_and_grey_is_brightness():
    images = torch.zeros(1, 3, 4, 4)
    images[:, 0, :2, 0] = 1
    assert Coarse((3, 4, 4), 2).of(images)[0, 0].tolist() == [[0.5, 0], [0, 0]]
    assert float(Grey((3, 4, 4)).of(images)[0, 0, 0, 0]) == pytest.approx(0.299)
    odd = Coarse((1, 7, 10), 2)
    assert odd.of(torch.rand(2, 1, 7, 10)).shape == (2, 1, 4, 5) and odd.field(torch.rand(2, 1, 4, 5)).shape == (2, 1, 7, 10)


def test_the_level_is_told_and_what_is_left_dissolves_with_it():
    part, images = Degraded(Coarse(WHOLE, 2), flow(), most=0.6, level=0.1), torch.rand(3, *WHOLE)
    assert part.options == ("noise",) and part.guess(Streams.of(0, 3))["noise"].tolist() == pytest.approx([0.1] * 3)
    said = {"image": images, "noise": torch.tensor([0.0, 0.3, 1.0])}
    told, clean = part(said, rng=Streams.of(0, 3)), part({"image": images, "noise": torch.zeros(3)}, rng=Streams.of(0, 3))
    far = (told.field - clean.field).flatten(1).norm(dim=1)
    assert far[0] == 0 < far[1] < far[2] and torch.equal(told.vector[0], clean.vector[0])
    assert not torch.equal(told.vector[1], told.vector[2])
    null = part(said, drop=1.0, rng=Streams.of(0, 3))
    assert torch.equal(null.field, told.field)  # what is guided away from lies under the same noise
    with pytest.raises(ValueError, match=r"noise is 1\.5; it must lie in 0 .. 1, nearest is 1"):
        part({"image": images, "noise": torch.tensor([0.0, 0.5, 1.5])})


def test_levels_of_training_are_even_and_independent_of_who_is_dropped():
    part = Degraded(Coarse(WHOLE, 2), flow(), most=0.6)
    levels = part._level({}, 4000, Streams.of(1, 4000))
    assert 0 <= float(levels.min()) < 0.01 and 0.59 < float(levels.max()) <= 0.6 and abs(float(levels.mean()) - 0.3) < 0.01
    told = Labels((1.0,))({"label": torch.zeros(4000).long()}, drop=0.5, rng=Streams.of(1, 4000))
    gone = told.vector[:, 0] == 0
    assert abs(float(levels[gone].mean() - levels[~gone].mean())) < 0.02


def test_what_the_network_makes_changes_with_the_level(folder):
    system = palette(data=folder, augment=0.5).system.eval()
    net = system.nets["main"]
    with torch.no_grad():
        for weight in net.parameters():  # blocks begin as nothing
            weight.normal_(std=0.1)
    x, t, images = torch.randn(1, *WHOLE), torch.tensor([0.5]), torch.rand(1, *WHOLE)
    low, high = (system.condition({"image": images, "noise": torch.tensor([level])}) for level in (0.0, 0.4))
    assert torch.equal(low.field, high.field)  # without streams nothing is dissolved: only what is told differs
    with torch.no_grad():
        assert (net(x, t=t, cond=low) - net(x, t=t, cond=high)).abs().max() > 1e-3


# -- samples -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"factor": 2}, {"task": "colour"}], ids=["detail", "colour"])
def test_what_has_not_learnt_yet_makes_what_needs_no_model(folder, how):
    system, images = palette(data=folder, **how).system, halves().held.all()["image"][:4]
    left = system.conditioner.worsened(images)
    made = system.sample(4, about={"source": left}, seed=0)["code"]
    torch.testing.assert_close(made, (system.conditioner.loss.field(left) * 2 - 1).expand_as(made), atol=1e-4, rtol=0)


def test_samples_obey_what_is_left(detail):
    loss, system = Coarse(WHOLE, 2), detail.system
    left = loss.of(halves().held.all()["image"])
    made = loss.of(system.sample(len(left), about={"source": left}, seed=0)["image"])
    near, far = ((made - other).square().mean().sqrt() for other in (left, left.roll(1, 0)))
    assert near < 0.1 < 0.25 < far
    assert system.conditions({"source": left}, Streams.of(0, len(left)))[1] is None  # nothing to guide away from


def test_samples_are_judged_by_what_they_give_back(detail):
    data = halves()
    found = {name: figure.value for name, figure in restoration.measure(Evidence(data, detail.system)).items()}
    assert found["PSNR, kept"] > 20 and found["PSNR, plain"] > 20 and found["PSNR, restored"] > 17
    told = Evidence(data, detail.system, n=20).requests()
    assert told is not None and told["source"].shape == (20, 3, 4, 4)  # of training rows, not of the few that are kept
    again = restoration.decibels(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1), 255)
    assert again[0] == pytest.approx(20.0)


def test_a_picture_to_start_from_is_small_or_is_made_small(folder, tmp_path):
    run = tmp_path / "run"
    api.train("palette", data=folder, out=run, steps=2, batch=8, quiet=True)
    whole = halves().held.all()["image"][:1]
    small = Coarse(WHOLE, 2).of(whole)
    for name, picture in (("whole", whole), ("small", small)):
        (tmp_path / f"{name}.png").write_bytes(png(grid(picture, zoom=1)))
    made = {name: api.sample(run, 2, start=tmp_path / f"{name}.png") for name in ("whole", "small")}
    torch.testing.assert_close(made["whole"]["code"], made["small"]["code"], atol=0.02, rtol=0)
    Image.new("RGB", (5, 5)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"5x5 .*8x8 .* or 4x4"):
        api.sample(run, 2, start=tmp_path / "odd.png")
    kept = api.sample(run, 4)["source"]  # nobody gave a picture: of those that it keeps
    assert bool(((api.load(run).system.conditioner.examples[None] - kept[:, None]).abs().amax((2, 3, 4)) == 0).any(1).all())


def test_how_far_a_start_is_dissolved_can_be_said(folder, tmp_path):
    api.train("palette", data=folder, augment=0.5, out=tmp_path / "run", steps=2, batch=8, quiet=True)
    run = api.load(tmp_path / "run")
    made = [run.sample(2, seed=0, about={"noise": level})["noise"].tolist() for level in (0.25, [0.0, 1.0])]
    assert made == [[0.25, 0.25], [0.0, 1.0]] and run.sample(1)["noise"].tolist() == [0.0]
    with pytest.raises(ValueError, match="noise 'much'"):
        run.sample(2, about={"noise": "much"})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "digits", "task": "colour"}, "'digits' are grey"),
        ({"data": "stdlib"}, "holds text"),
        ({"data": "digits", "factor": 1}, r"factor is 1; it must lie in 2 .. 4 .*nearest is 2"),
        ({"data": "digits", "factor": 9}, "nearest is 4"),
        ({"task": "colour", "factor": 4}, "factor is 4, which does nothing in palette for the task colour"),
        ({"data": "digits", "depth": 0}, "depth is 0"),
        ({"data": "digits", "augment": 2.0}, "augment is 2.0; .* nearest is 1"),
    ],
)
def test_bad_arguments_are_named(how, says):
    with pytest.raises(ValueError, match=says):
        palette(**how)


def test_an_unknown_task_is_named():
    with pytest.raises(UnknownName, match=r"'color'. Did you mean 'colour'"):
        palette(data="digits", task="color")
