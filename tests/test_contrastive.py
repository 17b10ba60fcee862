"""Pictures beside captions: the loss, what finds what, a system that draws nothing, and samples kept by closeness."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from maquette import api, best
from maquette.conditioners.symbols import Symbols
from maquette.contracts import Comparing, NeedsStart
from maquette.data import Data, Facts
from maquette.data.core import image_data
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.metrics import retrieval
from maquette.metrics.evidence import Evidence
from maquette.objectives.contrastive import MOST, _squared, distinct, symmetric
from maquette.recipes.contrastive import clip
from maquette.streams import Streams
from maquette.train import Progress, take_step

WORDS = ("red", "green", "blue", "white")


def blots(captions: int, each: int = 2) -> Data:
    """Pictures float[N,3,8,8] that are each caption's own noise, held out and trained on alike: a perfect encoder exists."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 256, (captions, 3, 8, 8))
    texts = [f"blot {i} {WORDS[i % 4]}" for i in range(captions)] * each
    pixels = np.clip(np.tile(own, (each, 1, 1, 1)) + rng.integers(-3, 4, (captions * each, 3, 8, 8)), 0, 255).astype(np.uint8)
    label = torch.arange(captions * each) % captions % 4
    columns = {part: {"image": torch.from_numpy(pixels), "label": label, "text": texts} for part in ("train", "held")}
    return image_data(Facts("blots", "image", "simulated", "", "", "", {}, classes=WORDS), columns)


@pytest.fixture
def captioned(tmp_path):
    folder, rng = tmp_path / "captioned", np.random.default_rng(0)
    folder.mkdir()
    for i in range(48):
        pixels = np.full((8, 8, 3), 60, np.uint8)
        pixels[2:6, 2:6, i % 3] = 250 - rng.integers(0, 20)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {WORDS[i % 3]} square")
    return folder


def test_the_loss_is_clips():
    theirs = pytest.importorskip("transformers.models.clip.modeling_clip")
    torch.manual_seed(0)
    logits, symbols = 5 * torch.randn(7, 7), torch.arange(21).view(7, 3)
    mine = symmetric(distinct(logits, symbols))
    torch.testing.assert_close(mine, theirs.image_text_contrastive_loss(logits.T))
    assert not torch.isclose(mine, F.cross_entropy(logits, torch.arange(7)))  # one direction alone is another number


def test_rows_of_equal_captions_are_no_negatives_of_each_other():
    torch.manual_seed(0)
    logits = torch.randn(4, 4, requires_grad=True)
    symbols = torch.tensor([[1, 2], [3, 4], [1, 2], [1, 4]])
    symmetric(distinct(logits, symbols)).backward()
    assert logits.grad is not None
    untouched = {(i, j) for i, j in np.ndindex(4, 4) if logits.grad[i, j] == 0}
    assert untouched == {(0, 2), (2, 0)}
    alike = torch.zeros(3, 2, dtype=torch.int64)
    assert symmetric(distinct(torch.randn(3, 3), alike)) == 0  # nothing to be told from anything


def test_a_perfect_encoder_finds_all_and_a_random_one_finds_one_in_a_hundred():
    data, torch_rng = blots(200, each=6), torch.Generator().manual_seed(0)
    said = data.held.columns["text"]
    vectors = {text: F.normalize(torch.randn(16, generator=torch_rng), dim=0) for text in sorted({*said, *WORDS})}

    def perfect(system: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        own = {i: said.index(said[i]) for i in range(len(said))}
        known = {tuple(row.flatten()[:9].tolist()): said[own[i]] for i, row in enumerate(data.held.all()["image"])}
        texts = [known[tuple(row.flatten()[:9].tolist())] for row in batch.get("image", ())]
        found = {"image": texts, "text": batch.get("text", [])}
        return {name: torch.stack([vectors[text] for text in texts]) for name, texts in found.items() if len(texts)}

    def random(system: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {name: F.normalize(torch.randn(len(batch[name]), 16, generator=torch_rng), dim=1) for name in batch}

    for embed, low, high in ((perfect, 1.0, 1.0), (random, 0.0, 0.03)):
        system = SimpleNamespace(
            objective=SimpleNamespace(embed=embed, sides=("image", "text")),
            conditioner=None,
            sampler=None,
            codec=SimpleNamespace(field="image"),
        )
        system.eval = lambda system=system: system
        evidence = Evidence(data, system)  # type: ignore[arg-type]
        assert retrieval.applies(evidence) == ""
        found = retrieval.measure(evidence)
        for way in ("text to image", "image to text"):
            figure = found[f"retrieval@1 of 100, {way}"]
            assert low <= figure.value <= high and figure.n == 1200 and figure.low <= figure.value <= figure.high
        assert 0 <= found["zero-shot"].value <= 0.5
        assert set(found) >= {"zero-shot", "zero-shot, captions"}


def test_groups_hold_each_row_once_and_each_text_once():
    texts = [f"caption {i % 230}" for i in range(700)]
    groups = retrieval.grouped([texts], 100, seed=0)
    assert groups.shape == (6, 100) and len(groups.unique()) == 600
    assert all(len({texts[i] for i in group.tolist()}) == 100 for group in groups)
    assert not torch.equal(groups, retrieval.grouped([texts], 100, seed=1))
    other = [f"answer {i % 150}" for i in range(700)]  # a pair shares neither side with another of its group
    both = retrieval.grouped([texts, other], 100, seed=0)
    assert len(both) >= 4 and all(len({side[i] for i in group.tolist()}) == 100 for group in both for side in (texts, other))
    assert retrieval.grouped([texts], 1000, seed=0).shape == (0, 1000)


def test_what_is_as_near_as_a_rows_own_stands_before_it():
    near = torch.tensor([[0.5, 0.5, 0.1], [0.9, 0.8, 0.8], [0.0, 0.2, 0.3]])
    assert retrieval.nearer(near).tolist() == [1, 2, 0]
    assert retrieval.nearer(torch.ones(100, 100)).min() == 99  # an encoder that says the same of all finds none


def test_training_brings_pairs_together_and_keeps_the_scale_within_100(captioned):
    experiment = clip(data=str(captioned), depth=1, patch=4)
    system = experiment.system
    system.learn(experiment.data.train)
    assert isinstance(system.objective, Comparing)
    net: Any = system.nets["main"]
    begun = {name: value.clone() for name, value in net.state_dict().items()}
    fit = Fit(steps=60, batch=24, lr=1e-3, muon=0.005)  # at four times that a third of seeds collapse
    with torch.no_grad():
        net.logit_scale.fill_(9.0)
    logs = take_step(system, experiment.data, Progress(fit, seed=0), World())
    assert logs["match/scale"] == pytest.approx(100, rel=1e-5)
    net.load_state_dict(begun)  # a step at such a scale may be the end of a network
    progress = Progress(fit, seed=0)
    while progress.step < 60:
        take_step(system, experiment.data, progress, World())
    seen = experiment.data.train.all()
    found = system.eval().objective.embed(system, seen)
    near = found["image"] @ found["text"].T
    same = torch.tensor([[a == b for b in seen["text"]] for a in seen["text"]])
    assert near[same].min() > near[~same].max()
    for name in found:
        torch.testing.assert_close(found[name].norm(dim=1), torch.ones(len(near)))
    assert net.logit_scale.item() <= MOST + 0.01


def test_pictures_of_any_shape_stand_in_the_middle_of_a_square():
    x = torch.randn(2, 3, 5, 8)
    y = _squared(x, 8)
    assert torch.equal(y[:, :, 1:6], x) and torch.equal(y[:, :, 7], x[:, :, -1])
    assert _squared(y, 8) is y


def test_a_run_that_draws_nothing_says_so_and_is_scored(captioned, tmp_path):
    run = api.train("clip", data=str(captioned), depth=1, steps=2, batch=8, out=tmp_path / "run", quiet=True)
    for draw in (lambda: api.sample(run.run.path, 2), lambda: run.system.sample(2), lambda: run.begun(captioned, 1)):
        with pytest.raises(NeedsStart, match="draws nothing"):
            draw()
    with pytest.raises(ValueError, match="steps"):
        api.sample(run.run.path, 2, dials={"steps": 4})
    assert api.show("clip")["sampler"] == {"name": "none"} and api.show("clip")["can"]["given pictures"] == []
    told = api.evaluate(run.run.path)
    assert "draws nothing" in told["skipped"]["frechet"] or "draws nothing" in str(told["skipped"])
    assert "rows that differ are needed" in told["skipped"]["retrieval"]
    page = (run.run.path / "README.md").read_text()
    assert "draws no samples" in page and "run.sample" not in page and "zero-shot-image-classification" in page
    again = api.load(run.run.path)
    batch = run.data.held.all()
    one, other = (each.system.eval().objective.embed(each.system, batch)["text"] for each in (run, again))
    assert torch.equal(one, other)  # the tokenizer travels with the weights


class Dice:
    """A generator that hears captions and paints each in one of four colours, right one time in four."""

    def __init__(self, data: Data):
        self.experiment = SimpleNamespace(data=data)
        self.facts, self.run = data.facts, SimpleNamespace(path="dice", record={"recipe": "dice"})
        hears = Symbols(16, 1024)
        hears.guess = lambda rng, said: {"text": ["a red square"] * len(rng)}  # type: ignore[method-assign]
        self.system: Any = SimpleNamespace(conditioner=hears, device=torch.device("cpu"), objective=None)

    def sample(self, n, *, seed, about, sampler):
        colours = torch.arange(n) % 4
        return {
            "image": colours.view(n, 1, 1, 1).float().expand(n, *self.facts.shape) / 4,
            "text": about["text"],
            "colour": colours,
        }


class Eye:
    """A judge that knows the four colours by their words."""

    def __init__(self, shape: tuple[int, ...]):
        self.facts, self.run = SimpleNamespace(shape=shape), SimpleNamespace(path="eye", record={"recipe": "eye"})
        self.system, self.sides = SimpleNamespace(objective=self), ("image", "text")

    def embed(self, system, batch):
        seen = (batch["image"].flatten(1).mean(1) * 4).round().long()
        said = torch.tensor([next(i for i, word in enumerate(WORDS) if word in text) for text in batch["text"]])
        return {"image": F.one_hot(seen, 4).float(), "text": F.one_hot(said, 4).float()}


def test_the_best_of_some_samples_is_the_one_closest_to_its_caption():
    dice: Any = Dice(blots(8))
    eye: Any = Eye(dice.facts.shape)
    asked = {"text": ["a blue square", "a red one", "white on black"]}
    kept = best.best_pictures(dice, eye, 3, 4, about=asked)
    assert kept["colour"].tolist() == [2, 0, 3] and kept["text"] == asked["text"] and kept["closeness"].tolist() == [1, 1, 1]
    assert best.best_pictures(dice, eye, 2, 2, prompt="a blue one")["closeness"].tolist() == [0, 1]  # right was not always drawn
    assert best.best_pictures(dice, eye, 2, 4)["text"] == ["a red square"] * 2  # nobody said anything
    with pytest.raises(ValueError, match="best of 0"):
        best.best_pictures(dice, eye, 2, 0)
    with pytest.raises(ValueError, match=r"3x4x4, and dice draws 3x8x8"):
        best.best_pictures(dice, Eye((3, 4, 4)), 2, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="compares no pictures; clip does"):
        best.best_pictures(dice, dice, 2, 2)
    dice.system.conditioner = None
    with pytest.raises(ValueError, match="hears no captions"):
        best.best_pictures(dice, eye, 2, 2)


def test_a_judge_and_how_many_go_together(captioned, tmp_path):
    judge, out = tmp_path / "judge", tmp_path / "painter"
    api.train("clip", data=str(captioned), depth=1, steps=2, batch=8, out=judge, quiet=True)
    api.train("mmdit", data=str(captioned), depth=1, steps=2, batch=4, latent=2, out=out, quiet=True)
    batch = api.sample(out, 2, prompt="a red square", best_of=3, judge=judge, dials={"steps": 2})
    assert batch["image"].shape == (2, 3, 8, 8) and batch["closeness"].abs().max() <= 1.001
    for wrong in ({"best_of": 3}, {"judge": judge}, {"best_of": 0, "judge": judge}):
        with pytest.raises(ValueError, match="--best-of"):
            api.sample(out, 2, **wrong)
    with pytest.raises(ValueError, match="--start"):
        api.sample(out, 2, best_of=2, judge=judge, start=captioned)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "digits"}, "clip needs images with captions"),
        ({"data": "stdlib"}, "holds text"),
        ({"depth": 0}, "depth is 0"),
        ({"patch": 0}, "patch is 0"),
        ({"patch": 33}, "patch is 33"),
        ({"words": 2}, "words is 2"),
    ],
)
def test_bad_arguments_are_named(how, says):
    with pytest.raises(ValueError, match=says):
        clip(**how)


def test_one_row_and_no_captions_are_refused(captioned):
    experiment = clip(data=str(captioned), depth=1)
    system, rows = experiment.system, experiment.data.train.rows(torch.arange(1))
    system.learn(experiment.data.train)
    with pytest.raises(ValueError, match="one row has no negatives"):
        system.objective.match(system, rows, Streams.of(0, 1), 0)
    with pytest.raises(ValueError, match="list of captions"):
        system.condition({"text": "a red square"})
    with pytest.raises(ValueError, match="no 'text' to learn"):
        Symbols(16, 1024).learn(SimpleNamespace(columns={"image": None}))
