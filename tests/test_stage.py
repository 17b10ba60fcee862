"""A stage before: what it draws is told to the next, from the same words and the row's own streams; saying it wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from maquette.codecs.pixels import Pixels
from maquette.conditioners.label import Labels
from maquette.conditioners.several import Several
from maquette.conditioners.source import Source
from maquette.conditioners.stage import Stage
from maquette.contracts import Code, Condition
from maquette.objectives.denoising import Denoising
from maquette.processes.flow import flow
from maquette.streams import Streams
from maquette.system import System

SHAPE = (1, 2, 2)


class Tint(nn.Module):
    """Something to train."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


@dataclass(frozen=True)
class Told:
    """Draws the label as a grey, and a little noise."""

    def draw(self, system, n, *, start=None, cond: Condition | None = None, null=None, rng: Streams) -> Iterator[Code]:
        grey = cond.vector.argmax(1).float().view(-1, 1, 1, 1).expand(n, *SHAPE)
        yield torch.zeros(n, *SHAPE)
        yield (grey + 0.2 * rng.uniform(*SHAPE)) * system.steady("main").weight - 1


@dataclass(frozen=True)
class Shown:
    """Draws what it is told, and noise."""

    def draw(self, system, n, *, start=None, cond: Condition | None = None, null=None, rng: Streams) -> Iterator[Code]:
        field: Tensor = cond.field
        yield field + 0.01 * rng.normal(*SHAPE)


def system_of(sampler, conditioner) -> System:
    return System({"main": Tint()}, Denoising(flow()), sampler, Pixels(), conditioner)


@pytest.fixture
def before() -> System:
    return system_of(Told(), Labels((0.5, 0.5)))


@pytest.fixture
def after(before) -> System:
    return system_of(Shown(), Several(Labels((0.5, 0.5)), Stage(Source(SHAPE), before)))


def test_what_nobody_said_the_stage_before_draws_told_the_same(before, after):
    made = after.sample(6, about={"label": torch.tensor([0, 1, 1, 0, 1, 0])}, seed=3)
    assert (made["source"].flatten(1).mean(1) > 0.45).tolist() == [False, True, True, False, True, False]
    streams = Streams.of(3, 6).fork(0).fork(1).fork(0)  # of guesses, of the second part, of the stage
    *_, (code, _) = before.stream(6, about={"label": made["label"]}, rng=streams)
    assert torch.equal(made["source"], before.decode(code))
    alone = after.sample(1, about={"label": torch.tensor([1])}, seed=3, first=4)
    assert torch.equal(alone["source"][0], made["source"][4]) and torch.equal(alone["code"][0], made["code"][4])
    assert not torch.equal(made["source"][1], made["source"][2])


def test_what_is_guessed_is_what_the_stage_before_is_told(after):
    made = after.sample(40, seed=0)
    assert torch.equal(made["label"] == 1, made["source"].flatten(1).mean(1) > 0.45) and 5 < int(made["label"].sum()) < 35


def test_what_is_said_wins(after):
    said = torch.full((2, *SHAPE), 0.25)
    made = after.sample(2, about={"source": said}, seed=1)
    assert torch.equal(made["source"], said) and (made["image"] - said).abs().max() < 0.05


def test_the_stage_before_is_not_a_part_of_the_conditioner(after):
    assert not list(after.conditioner.parameters()) and after.conditioner.fields == ("label", "source")
    assert set(after.conditioner.asked({"label": 1, "source": 2})) == {"label"}  # judged by what is drawn, not by what is known


def test_a_field_that_the_part_does_not_read_is_refused(before):
    with pytest.raises(ValueError, match=r"field is 'image'; .* source"):
        Stage(Source(SHAPE), before, "image")
