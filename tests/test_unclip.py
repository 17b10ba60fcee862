"""DALL-E 2: the prior draws what a picture shows, the decoder draws the picture; what each is told, and what is never moved."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from maquette import api, parcel
from maquette.between import between
from maquette.codecs.points import Points
from maquette.codecs.vectors import Vectors
from maquette.conditioners.comparing import Embedded
from maquette.conditioners.label import Labels
from maquette.conditioners.several import Apart, Several
from maquette.conditioners.stage import Stage
from maquette.contracts import Batch, Condition, Conditioner
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks.perceptron import Perceptron
from maquette.networks.prior_transformer import PriorPlan, PriorTransformer
from maquette.objectives.alongside import Alongside
from maquette.objectives.denoising import Denoising
from maquette.objectives.together import Together
from maquette.opened import uses_of_pictures
from maquette.processes import flow as straight
from maquette.processes.gaussian import Balanced, Clean, Cosine, Gaussian
from maquette.recipes.distillation import consistency
from maquette.recipes.unclip import unclip
from maquette.runs import RunError
from maquette.samplers.closest import Closest
from maquette.samplers.solvers import DPM
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, take_step

pytestmark = pytest.mark.usefixtures("narrow")

KINDS, WIDE = 3, 8  # captions of the toy, numbers of a vector
FEW = {"steps": 3}


# -- a toy: a caption has two pictures, a point each; its own vector lies elsewhere than theirs ------------------------------


def table() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors of pictures [KINDS,2,WIDE], of captions [KINDS,WIDE], points [KINDS,2,2]: one picture is closer to its caption."""
    generator = torch.Generator().manual_seed(4)
    spread = torch.linalg.qr(torch.randn(WIDE, WIDE, generator=generator))[0]
    pictures = spread[: 2 * KINDS].view(KINDS, 2, WIDE)
    captions = F.normalize(2 * spread[-1] + pictures[:, 0] + 0.3 * pictures[:, 1], dim=1)  # a gap, as CLIP's captions have
    angle = torch.arange(2 * KINDS) * (2 * torch.pi / (2 * KINDS))
    return pictures, captions, 1.5 * torch.stack([angle.cos(), angle.sin()], 1).view(KINDS, 2, 2)


PICTURES, CAPTIONS, POINTS = table()


class Words(Conditioner):
    """Captions "0", "1", "2", or "" -> vectors and one token each."""

    fields = ("text",)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        vector = torch.stack([CAPTIONS[int(text)] if text else torch.zeros(WIDE) for text in batch["text"]]) * WIDE**0.5
        if drop and rng is not None:
            vector = vector * (rng.uniform(1) >= drop)
        return Condition(vector * (drop < 1), (vector * (drop < 1))[:, None])


class Toy:
    """Rows: a caption, the vector of one of its pictures, that picture's point."""

    def __init__(self, count: int = 512):
        generator = torch.Generator().manual_seed(0)
        self.kind, self.which = (torch.randint(n, (count,), generator=generator) for n in (KINDS, 2))
        self.train = self

    def __len__(self) -> int:
        return len(self.kind)

    def rows(self, index: torch.Tensor) -> Batch:
        kind, which = self.kind[index], self.which[index]
        text = [str(one) for one in kind.tolist()]
        return {"embedding": PICTURES[kind, which], "point": POINTS[kind, which], "text": text}


def toy() -> System:
    torch.manual_seed(0)
    process, seeing = straight.flow(reading=Balanced(1.0)), Gaussian(Cosine(), Clean())
    prior = PriorTransformer(PriorPlan(2, 16, 2, WIDE, 1))
    foresight = System({"main": prior}, Denoising(seeing, 0.1), Closest(DPM(seeing, (WIDE,), steps=12), 1), Vectors(), Words())
    told = Embedded(SimpleNamespace(conditioner=None), WIDE, tokens=1, width=4)  # type: ignore[arg-type]
    return System(
        {"main": Perceptron((2,), (2,), 64, 2, told=WIDE, times=8), "prior": prior},
        Together(Alongside("prior", foresight, {"main": "prior"}), Denoising(process, 0.1)),
        DPM(process, (2,), steps=12),
        Points(),
        Stage(told, foresight),
        frozen=("conditioner",),
    )


@pytest.fixture(scope="module")
def trained() -> System:
    system, data = toy(), Toy()
    progress = Progress(Fit(steps=220, batch=48, lr=8e-3), 0)
    for _ in range(220):
        system.train()
        take_step(system, data, progress, World())  # type: ignore[arg-type]
    return system.eval()


def drawn(system: System, of: int, n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors that the prior draws, and the caption of each."""
    kind = torch.arange(n) % KINDS
    before = system.conditioner.before  # type: ignore[union-attr]
    made = before.sample(
        n, about={"text": [str(one) for one in kind.tolist()]}, seed=1, sampler=Closest(before.sampler.inner, of)
    )
    return made["embedding"], kind


def test_the_prior_draws_every_kind_of_picture_that_a_caption_has(trained):
    found, kind = drawn(trained, of=1)
    cosine = found @ PICTURES.flatten(0, 1).T
    nearest = cosine.argmax(1)
    own = nearest // 2 == kind
    assert float((own & (cosine.amax(1) > 0.9)).double().mean()) > 0.9
    for one in range(KINDS):
        assert 0.25 < float((nearest[(kind == one) & own] % 2).double().mean()) < 0.75
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-5)


def test_of_two_draws_the_closer_to_the_caption_is_kept(trained):
    near = {}
    for of in (1, 2, 4):
        found, kind = drawn(trained, of)
        near[of] = float((found * CAPTIONS[kind]).sum(1).mean())
    assert near[1] + 0.02 < near[2] < near[4]


def test_the_prior_beats_the_captions_own_vector_told_to_the_decoder(trained):
    """The gap between texts and pictures: a decoder of pictures' vectors knows nothing of texts' (Ramesh 2022, fig. 8)."""
    kind = torch.arange(150) % KINDS
    text = [str(one) for one in kind.tolist()]

    def right(**said: Any) -> float:
        point = trained.sample(150, about={"text": text, **said}, seed=2)["point"]
        near = torch.cdist(point, POINTS.flatten(0, 1))
        return float(((near.argmin(1) // 2 == kind) & (near.amin(1) < 0.5)).double().mean())

    foreseen, straight_in = right(), right(embedding=CAPTIONS[kind])
    assert foreseen > 0.85 and foreseen > straight_in + 0.25


def test_other_pictures_of_the_same_vector_show_the_same(trained):
    said = PICTURES[1, 1].expand(40, -1)
    found = trained.sample(40, about={"text": [""] * 40, "embedding": said}, seed=3)["point"]
    assert float((found - POINTS[1, 1]).norm(dim=1).median()) < 0.3 and float(found.std(0).min()) > 1e-4


def test_one_sample_is_the_same_in_any_batch_and_seeds_lock(trained):
    about = {"text": ["0", "1", "2", "1", "0"]}
    whole = trained.sample(5, about=about, seed=6)
    alone = trained.sample(1, about={"text": ["1"]}, seed=6, first=3)
    again, other = (trained.sample(5, about=about, seed=seed) for seed in (6, 7))
    for name in ("embedding", "point"):
        assert torch.allclose(whole[name][3], alone[name][0], atol=1e-5)
        assert torch.equal(whole[name], again[name]) and not torch.allclose(whole[name], other[name])


# -- what is told -------------------------------------------------------------------------------------------------------


def test_the_caption_is_dropped_by_a_chance_of_its_own():
    told = Several(Apart(Labels((0.5, 0.5)), 0.5), Embedded(SimpleNamespace(conditioner=None), 4, 1, 4))  # type: ignore[arg-type]
    batch = {"label": torch.zeros(4000, dtype=torch.int64), "embedding": F.normalize(torch.ones(4000, 4), dim=1)}
    with torch.no_grad():
        vector = told(batch, drop=0.1, rng=Streams.of(0, 4000)).vector
        heard, seen = vector[:, 0] > 0, vector[:, 2] > 0
        assert heard.double().mean() == pytest.approx(0.5, abs=0.03) and seen.double().mean() == pytest.approx(0.9, abs=0.02)
        assert (heard & ~seen).double().mean() == pytest.approx(0.05, abs=0.015)
        for drop, share in ((0.0, 1.0), (1.0, 0.0)):  # of samples, and of what they are guided away from
            vector = told(batch, drop=drop, rng=Streams.of(0, 4000)).vector
            assert (vector != 0).double().mean(0)[[0, 2, 3]].tolist() == [share] * 3


# -- the recipe ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Captioned pictures of 8 x 8."""
    from PIL import Image

    place = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        colour = [(230, 20, 20), (20, 20, 230)][i % 2]
        Image.new("RGB", (8, 8), tuple(one - i % 5 for one in colour)).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(["red", "blue"][i % 2])
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder):
    """A run of clip, and one that was built on it."""
    place = tmp_path_factory.mktemp("runs")
    how = {"data": str(folder), "words": 6, "steps": 2, "batch": 4, "checkpoint_every": 2, "quiet": True}
    one = api.train("clip", out=place / "clip", depth=1, **how)
    two = api.train("unclip", out=place / "unclip", encoder=str(place / "clip"), **how)
    return one, two


def test_a_trained_clip_stays_as_it_was_to_the_bit(runs):
    one, two = runs
    before, after = one.system.nets["main"].state_dict(), two.system.nets["clip"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    batch = two.data.train.rows(torch.arange(4))
    with torch.no_grad():
        expected = one.system.objective.embed(one.system.eval(), {"image": batch["image"]})["image"]
    assert torch.allclose(batch["embedding"], expected, atol=1e-5)
    again = api.load(two.run.path).system
    assert torch.equal(again.sample(2, seed=1)["image"], two.sample(2, seed=1)["image"])


def test_a_clip_that_learns_alongside_is_moved_by_its_own_phase_alone(folder):
    found = unclip(data=str(folder), words=6, towers=1)
    system = found.system
    system.learn(found.data.train)
    moves = {each.name: set(system.learners(each)) for each in system.objective.phases()}
    first = {"clip_match": {"clip"}, "prior_restore": {"prior"}}
    assert moves == {**first, "larger_restore": {"larger"}, "restore": {"main", "conditioner"}}
    assert {each.name: each.every for each in system.objective.phases()} == {**dict.fromkeys(moves, 1), "larger_restore": 3}
    batch = found.data.train.rows(torch.arange(6))
    for each in system.objective.phases():
        system.zero_grad()
        system.turn(each)
        loss, _ = each.move(system, batch, Streams.of(0, 6), 0)
        loss.backward()
        moved = {role for role, net in system.roles().items() if any(p.grad is not None for p in net.parameters())}
        assert moved == moves[each.name]


def test_the_decoder_listens_to_the_vector_and_to_the_caption(runs):
    system = copy.deepcopy(runs[1].system).eval()
    torch.manual_seed(0)
    for role in ("main", "ema"):
        torch.nn.init.normal_(system.nets[role].net.conv_out.weight, std=0.1)
    red = runs[1].data.train.rows(torch.tensor([0]))
    said = {"embedding": red["embedding"], "text": ["red"]}
    others = ({**said, "embedding": -red["embedding"]}, {**said, "text": ["blue"]}, {**said, "text": [""]})
    first, *rest = (system.sample(1, about=about, seed=0)["code"] for about in (said, *others))
    assert all((first - other).abs().max() > 1e-3 for other in rest)


def test_small_pictures_are_made_large_by_a_system_that_hears_nothing_else(runs):
    system = copy.deepcopy(runs[1].system).eval()
    rows = runs[1].data.train.rows(torch.arange(4))
    code = system.encode(rows)
    assert code.shape == (4, 3, 4, 4) and torch.equal(code, system.codec.coarse.of(rows["image"]) * 2 - 1)
    made = system.decode(code)
    assert made.shape == rows["image"].shape and torch.allclose(system.codec.coarse.of(made), (code + 1) / 2, atol=0.25)
    assert torch.equal(system.decode(code[2:3])[0], made[2])  # in any batch, and always alike
    assert torch.equal(system.decode(code.flip(0)), made.flip(0))
    said = {"embedding": rows["embedding"], "text": ["red"] * 4}
    assert torch.equal((again := system.sample(4, about=said, seed=3))["image"], system.decode(again["code"]))
    torch.nn.init.normal_(system.nets["larger_ema"].net.head.weight, std=0.3)
    other = system.sample(4, about=said, seed=3)
    assert torch.equal(other["code"], again["code"]) and not torch.equal(other["image"], again["image"])


def test_pictures_can_be_given_in_place_of_captions(runs, folder, tmp_path):
    path = runs[1].run.path
    assert uses_of_pictures(runs[1].system, runs[1].facts) == ["varied", "completed"]
    made = api.sample(path, 3, start=folder / "0.png", out=tmp_path / "out.png", dials=FEW)
    assert made["text"] == [""] * 3 and not torch.equal(made["image"][0], made["image"][1])
    picture = parcel.pictures(folder / "0.png", runs[1].facts)[0]
    expected = runs[0].system.objective.embed(runs[0].system.eval(), {"image": picture})["image"]
    assert torch.allclose(made["embedding"], expected.expand(3, -1), atol=1e-6)
    said = api.sample(path, 1, start=folder / "0.png", prompt="blue", dials=FEW)
    assert said["text"] == ["blue"] and torch.allclose(said["embedding"][0], made["embedding"][0])
    asked = api.sample(path, 2, prompt="blue", seed=4, dials=FEW)
    assert asked["text"] == ["blue"] * 2 and not torch.allclose(asked["embedding"][0], asked["embedding"][1])


def test_between_two_pictures_lies_what_lies_between_their_vectors(runs, folder, tmp_path):
    made = api.interpolate(runs[1].run.path, 5, start=f"{folder}/0.png,{folder}/1.png", out=tmp_path / "way.png", dials=FEW)
    vectors = made["embedding"]
    steps = (vectors[1:] * vectors[:-1]).sum(1)
    assert torch.allclose(steps, steps[:1].expand(4), atol=1e-5) and (vectors[0] - vectors[4]).abs().max() > 1e-3
    system = runs[1].system
    plain = between(system, 3, seeds=(0, 1))  # of two seeds: all are told one vector
    assert torch.equal(plain["embedding"][0], plain["embedding"][2])


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"draws": 0}, ValueError, "of is 0"),
        ({"factor": 1}, ValueError, "factor is 1; it must lie in 2 .. 4"),
        ({"augment": 2.0}, ValueError, "augment is 2.0"),
        ({"drop": 1.5}, ValueError, "drop is 1.5"),
        ({"depth": 0}, ValueError, "depth is 0"),
        ({"words": 2}, ValueError, "words is 2"),
        ({"towers": 0}, ValueError, "towers is 0"),
        ({"data": "digits"}, ValueError, "unclip needs images with captions"),
        ({"encoder": "{}/clap"}, RunError, "there is no run at .*clap"),
        ({"encoder": "{}/unclip"}, ValueError, "run of unclip, which compares no pictures with captions; clip does"),
        ({"encoder": "{}/clip", "size": 16}, ValueError, r"clip compares 3x8x8 images of 256 levels .* has 3x16x16"),
    ],
)
def test_what_does_not_fit_is_refused(runs, folder, how, error, says):
    place = runs[0].run.path.parent
    how = {"data": str(folder), **{k: v.format(place) if isinstance(v, str) else v for k, v in how.items()}}
    with pytest.raises(error, match=says):
        unclip(**how)


def test_a_student_cannot_take_the_prior_along(runs):
    with pytest.raises(ValueError, match="a run of unclip, is told what other networks of it draw; consistency takes none"):
        consistency(teacher=str(runs[1].run.path))


def test_a_vector_of_another_length_is_refused(runs):
    with pytest.raises(ValueError, match=r"an embedding is of \(7,\) numbers; this system is told of 32"):
        runs[1].system.sample(1, about={"text": ["red"], "embedding": torch.zeros(1, 7)})
