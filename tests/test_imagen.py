"""Imagen: what reads captions never learns from a picture, small pictures come first, high guidance stays within bounds."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maquette import api
from maquette.contracts import Condition, Network
from maquette.data import Data, Facts
from maquette.data.core import image_data
from maquette.distributed import World
from maquette.experiment import Experiment
from maquette.nn.degrade import Coarse
from maquette.processes.flow import flow
from maquette.processes.gaussian import Clean, Gaussian
from maquette.recipes.cascade import imagen, imagen_base
from maquette.report.pictures import grid, png
from maquette.samplers.solvers import DPM
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, take_step

pytestmark = pytest.mark.usefixtures("narrow")

FEW = 4  # steps of samplers
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}


def squares(count: int = 48) -> Data:
    """A coloured square somewhere on grey: uint8[N,3,8,8], captioned."""
    rng, columns = np.random.default_rng(0), {}
    for part, rows in (("train", count), ("held", 24)):
        pixels, words = np.full((rows, 3, 8, 8), 128, np.uint8), []
        for i in range(rows):
            name, (y, x) = list(COLOURS)[i % 3], rng.integers(0, 5, 2)
            pixels[i, :, y : y + 4, x : x + 4] = np.array(COLOURS[name])[:, None, None]
            words.append(f"a {name} square {'high' if y < 2 else 'low'} up")
        columns[part] = {"image": torch.from_numpy(pixels), "text": words}
    return image_data(Facts("squares", "image", "simulated", "", "", "", {}), columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("squares")
    rows = squares().train.all()
    for i, (image, text) in enumerate(zip(rows["image"], rows["text"], strict=True)):
        (place / f"{i}.png").write_bytes(png(grid(image[None], zoom=1)))
        (place / f"{i}.txt").write_text(text)
    return str(place)


@pytest.fixture(scope="module")
def base_run(folder, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("base") / "run"
    api.train("imagen_base", data=folder, size=4, words=12, pretrain=1, steps=2, checkpoint_every=2, batch=4, out=out, quiet=True)
    return str(out)


@pytest.fixture(scope="module")
def second(folder, base_run, tmp_path_factory) -> Any:
    out = tmp_path_factory.mktemp("second") / "run"
    api.train("imagen", data=folder, base=base_run, steps=2, checkpoint_every=2, batch=4, out=out, quiet=True)
    found = api.load(out)
    stage = found.system.conditioner.parts[1]
    for system in (found.system, stage.before):
        system.sampler = replace(system.sampler, steps=FEW)
    return found


def steps(experiment: Experiment, count: int, batch: int = 4) -> list[dict[str, Tensor]]:
    progress = Progress(replace(experiment.fit, steps=count, batch=batch, bf16=False), seed=0)
    experiment.system.train()
    return [take_step(experiment.system, experiment.data, progress, World()) for _ in range(count)]


def of(folder: str, seed: int = 0, **how) -> Experiment:
    torch.manual_seed(seed)
    experiment = imagen(**{"data": folder, "words": 12, **how})
    experiment.system.learn(experiment.data.train)
    return experiment


# -- what reads captions -------------------------------------------------------------------------------------------------


def test_what_reads_captions_is_frozen_once_it_has_read_and_learns_from_no_picture(folder):
    """The same captions beside other pictures: the encoder of text is the same to the bit, and stays so when it is done."""
    plain, other = (replace(of(folder, pretrain=2), data=squares()) for _ in range(2))
    other.data.train.columns["image"] = other.data.train.columns["image"].flip(0)
    for each in (plain, other):
        each.system.learn(each.data.train)
    first = copy.deepcopy(plain.system.conditioner.state_dict())
    logs = steps(plain, 2), steps(other, 2)
    learnt = [copy.deepcopy(each.system.conditioner.state_dict()) for each in (plain, other)]
    words = [name for name in learnt[0] if "readings" in name]
    assert words and all(torch.equal(learnt[0][name], learnt[1][name]) for name in words)
    assert sum(not torch.equal(first[name], learnt[0][name]) for name in words) > 10
    assert not torch.equal(logs[0][1]["base_restore/loss"], logs[1][1]["base_restore/loss"])
    progress = Progress(replace(plain.fit, steps=4, batch=4), seed=0, step=2)
    plain.system.train()
    late = [take_step(plain.system, plain.data, progress, World()) for _ in range(2)]
    after = plain.system.conditioner.state_dict()
    assert all(torch.equal(learnt[0][name], after[name]) for name in words)
    assert "text_restore/loss" in logs[0][1] and not any("text_restore/loss" in row for row in late)
    assert {"base_restore/loss", "restore/loss"} <= late[0].keys()


def test_the_mean_of_a_captions_states_is_told_with_the_time(folder):
    system = of(folder).system.eval()
    prompt = system.conditioner.parts[0]
    with torch.no_grad():
        told = prompt({"text": ["a red square high up", "a red square"]})
        ids, real = prompt.readings[0].tokens(["a red square high up", "a red square"])
        means = [states[each].mean(0) for states, each in zip(told.tokens, real, strict=True)]
    torch.testing.assert_close(told.vector, torch.stack(means))
    assert len(ids[0]) > int(real[1].sum())  # what fills a text up is no part of it
    net, x = system.nets["base"], torch.randn(2, 3, 4, 4)
    torch.nn.init.normal_(net.net.conv_out.weight)
    first, other = (net(x, t=torch.full((2,), 0.5), cond=replace(told, vector=v)) for v in (told.vector, -told.vector))
    assert (first - other).abs().max() > 1e-3


def test_the_encoder_of_text_learns_to_fill_in_words(folder):
    experiment = of(folder, words=8)
    (phase, *_) = experiment.system.objective.phases()
    assert (phase.name, phase.roles, phase.until) == ("text_restore", ("conditioner",), 200)
    parameters = experiment.system.turn(phase)
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    losses = []
    for step in range(80):
        loss, _ = phase.move(experiment.system, experiment.data.train.rows(torch.arange(32)), Streams.of(step, 32), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    (part,) = (part for part in experiment.system.objective.parts if getattr(part, "name", "") == "text")
    filling = part._system[0]
    code = filling.encode({"text": ["a red square low up", "a blue square high up"]})
    with torch.no_grad():
        found = filling.nets["main"](code.index_fill(1, torch.tensor([3]), filling.objective.process.mask)).argmax(2)
    assert filling.decode(code)[0].split()[2] == "square" and torch.equal(found[:, 3], code[:, 3])


@pytest.mark.slow
def test_a_base_and_what_it_reads_by_stay_as_they_were(second, base_run):
    base = api.load(base_run).system
    roles, system = second.system.roles(), second.system
    assert set(system.frozen) == {"base", "conditioner"}
    before, after = base.steady("main").state_dict(), roles["base"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    one, two = (
        {k: v for k, v in part.state_dict().items() if "readings" in k} for part in (base.conditioner, roles["conditioner"])
    )
    assert [*one.values()] and all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


# -- stages --------------------------------------------------------------------------------------------------------------


def test_prompts_go_through_the_first_stage(second, base_run):
    """What it is told and which noise it begins with are all that the small picture follows from."""
    made = second.sample(3, prompt="a red square low up", seed=5)
    assert made["text"] == ["a red square low up"] * 3 and made["source"].shape == (3, 3, 4, 4)
    streams = Streams.of(5, 3).fork(0).fork(1).fork(0)  # of guesses, of the second part, of the stage
    base = api.load(base_run).system
    base.sampler = replace(base.sampler, steps=FEW)
    *_, (code, _) = base.stream(3, about={"text": made["text"]}, rng=streams)
    assert torch.equal(made["source"], base.decode(code))
    alone = second.system.sample(1, about={"text": ["a red square low up"]}, seed=5, first=2)
    assert torch.equal(alone["source"][0], made["source"][2])
    torch.testing.assert_close(alone["code"][0], made["code"][2], atol=2e-4, rtol=0)
    for other in ({"text": "a blue square high up"}, {"negative": "green"}):
        told = {"text": "a red square low up", **other}
        assert not torch.equal(second.sample(3, about=told, seed=5)["source"], made["source"])


def test_a_small_picture_that_is_given_takes_the_first_stages_place(second, tmp_path):
    small = Coarse((3, 8, 8), 2).of(squares().held.all()["image"][:1])
    (tmp_path / "small.png").write_bytes(png(grid(small, zoom=1)))
    made = api.sample(second.run.path, 2, prompt="a red square", start=tmp_path / "small.png", about={"noise": 0.0})
    torch.testing.assert_close(made["source"], small.expand(2, -1, -1, -1), atol=0.003, rtol=0)
    assert made["image"].shape == (2, 3, 8, 8) and made["noise"].tolist() == [0.0, 0.0]


def test_captions_of_rows_are_asked_for_and_their_pictures_are_not(second):
    asked = second.system.conditioner.asked(second.data.train.rows(torch.arange(2)))
    assert set(asked) == {"text"}


def test_the_second_stage_is_told_the_rows_own_picture_and_attends_to_its_caption(folder):
    system = of(folder).system.eval()
    rows = squares().train.rows(torch.arange(4))
    told, null = system.conditions({**rows, "noise": torch.zeros(4)}, Streams.of(0, 4))
    assert told is not None and null is not None and not torch.equal(told.tokens, null.tokens)
    assert torch.equal(told.field, null.field) and told.field.shape == (4, 3, 8, 8)  # guided away from the caption alone
    net: Any = system.nets["main"]
    with torch.no_grad():
        for weight in net.net.net.conv_out.parameters():
            weight.normal_(std=0.1)
        x, t = torch.randn(4, 3, 8, 8), torch.full((4,), 0.5)
        plain = net(x, t=t, cond=told)
        for name, slot in (("tokens", null.tokens), ("vector", told.vector.flip(1)), ("field", told.field.flip(0))):
            assert (net(x, t=t, cond=replace(told, **{name: slot})) - plain).abs().max() > 1e-4, name


# -- dynamic thresholding ------------------------------------------------------------------------------------------------


class Pulled(Network):
    """The exact denoiser of pixels N(mean, 0.1^2), the mean what is told."""

    def forward(self, x: Any, *, t: Any = None, cond: Condition | None = None, state: Any = None) -> Any:
        assert cond is not None and cond.field is not None
        alpha, sigma = (1 - t)[:, None, None, None], t[:, None, None, None]
        return cond.field + alpha * 0.01 * (x - alpha * cond.field) / ((alpha * 0.1).square() + sigma.square())


def test_dynamic_thresholding_keeps_high_guidance_from_saturating():
    """Guided 8 times as far, means of up to 0.6 leave the bounds; clipped, most pixels lie on them (Saharia 2022, sec. 2.3)."""
    process = Gaussian(flow().schedule, Clean())
    system: Any = SimpleNamespace(steady=lambda role: Pulled())
    means = torch.linspace(-0.6, 0.6, 64).view(1, 1, 8, 8).expand(4, -1, -1, -1)
    told, null = Condition(field=means), Condition(field=torch.zeros(4, 1, 8, 8))
    shares, order = {}, {}
    for name, how in {
        "clipped": {"clip": 1.0},
        "static": {"quantile": 0.99},
        "dynamic": {"quantile": 0.99, "most": 10.0},
    }.items():
        sampler = DPM(process, (1, 8, 8), steps=10, guidance=8.0, **how)
        *_, x = sampler.draw(system, 4, cond=told, null=null, rng=Streams.of(0, 4))
        shares[name] = float((x.abs() > 0.99).float().mean())
        order[name] = float(torch.corrcoef(torch.stack([x.flatten(), means.flatten()]))[0, 1])
        assert float(x.abs().max()) < 1.3
    assert shares["clipped"] > 0.5 and shares["static"] > 0.5 and shares["dynamic"] < 0.1
    assert order["dynamic"] > order["clipped"] + 0.02


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "digits"}, "images without captions"),
        ({"depth": 0}, "depth is 0"),
        ({"words": 2}, "words is 2"),
        ({"pretrain": 0}, "pretrain is 0"),
        ({"factor": 1}, r"factor is 1; it must lie in 2 .. 4"),
        ({"augment": -1.0}, "augment is -1.0; .* nearest is 0"),
        ({"drop": 2.0}, "drop is 2.0"),
    ],
)
def test_bad_arguments_are_named(how, says, folder):
    with pytest.raises(ValueError, match=says):
        imagen(**{"data": folder, **how})


def test_a_base_of_another_recipe_or_size_is_refused(folder, base_run, tmp_path):
    with pytest.raises(ValueError, match=r"makes pictures of 3x4x4, and .* want 3x2x2: train it with --size 2"):
        imagen(data=folder, base=base_run, factor=4)
    api.train("flow", data=folder, size=4, steps=1, batch=4, out=tmp_path / "flow", quiet=True)
    with pytest.raises(ValueError, match="run of flow, which is no first stage; imagen_base is one"):
        imagen(data=folder, base=str(tmp_path / "flow"))
    with pytest.raises(ValueError, match="images without captions"):
        imagen_base(data="digits")


def test_a_first_stage_is_a_system_by_itself(base_run):
    run = api.load(base_run)
    made = run.sample(2, prompt="a red square", seed=1)
    assert made["image"].shape == (2, 3, 4, 4) and isinstance(run.system, System)
