"""A few pictures of one thing: what is learnt from them, what stays as it was, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import maquette
from maquette import api
from maquette.cli import app
from maquette.data import DataError
from maquette.data.core import Split
from maquette.data.few import Mixed, few
from maquette.data.subject import discs, subject
from maquette.metrics import identity
from maquette.metrics.evidence import Evidence
from maquette.nn.lora import Adapted
from maquette.recipes.distillation import consistency
from maquette.recipes.personal import SEED, dreambooth, textual_inversion
from maquette.runs import RunError


@pytest.fixture(autouse=True)
def _no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.training._preview", lambda *_: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was told captions, hardly trained."""
    folder, rng = tmp_path_factory.mktemp("base"), np.random.default_rng(0)
    (folder / "data").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "data" / f"{i}.png")
        (folder / "data" / f"{i}.txt").write_text(f"picture {i % 7} of {'red' if i % 2 else 'blue'} noise")
    how = {"data": str(folder / "data"), "depth": 1, "delay": 2, "batch": 8, "lr": 1e-2, "muon": 0.0, "words": 12}
    api.train("mmdit", out=folder / "run", steps=6, quiet=True, **how)
    return folder / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for i, picture in enumerate(discs(5)):
        Image.fromarray((picture.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, pictures: Path) -> api.Loaded:
    how = {"run": str(base), "images": str(pictures), "kind": "noise", "pictures": 12, "prior": 1.0, "rank": 2, "lr": 3e-2}
    return api.train("dreambooth", out=base.parent / "tuned", steps=6, batch=8, bf16=False, quiet=True, **how)


# -- DreamBooth ----------------------------------------------------------------------------------------------------------


def test_the_adapter_alone_learns_and_the_base_is_the_runs_own(base, tuned):
    was, system = api.load(base).system, tuned.system
    assert isinstance(system.nets["main"], Adapted) and system.nets["main"].net is system.nets["base"]
    learners = {name for phase in system.objective.phases() for name in system.learners(phase)}
    assert learners == {"main"} and all(".factors." in f".{name}" for name, _ in system.nets["main"].named_parameters())
    for role, mine in (("ema", system.nets["base"]), ("codec", system.codec), ("conditioner", system.conditioner)):
        theirs = was.roles()[role].state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in mine.state_dict().items() if "examples" not in name)
    about = {"text": ["picture 3 of red noise"] * 2}
    before = was.sample(2, about=about, seed=1)["image"]
    assert torch.equal(system.instead("base").sample(2, about=about, seed=1)["image"], before)
    assert not torch.equal(system.sample(2, about=about, seed=1)["image"], before)


def test_pictures_of_the_kind_are_the_bases_own_and_weigh_what_prior_says(base, pictures, tuned):
    rows, was = tuned.data.train.all(), api.load(base).system
    texts = list(rows["text"])
    assert set(texts) == {"a sks noise", "a noise"} and texts.count("a noise") == 12 and texts.count("a sks noise") == 10
    drawn = was.sample(12, about={"text": ["a noise"] * 12}, seed=SEED)
    kind = [i for i, text in enumerate(texts) if text == "a noise"]
    assert torch.equal(rows["code"][kind], drawn["code"]) and torch.equal(rows["image"][kind], drawn["image"])
    own = tuned.data.held.all()
    with torch.no_grad():
        codes = was.encode({"image": own["image"]})
    mine = [i for i, text in enumerate(texts) if text == "a sks noise"]
    torch.testing.assert_close(rows["code"][mine[:5]], codes)
    assert torch.equal(rows["code"][mine[:5]], rows["code"][mine[5:]])
    for prior, share in ((0.5, 0.5), (3.0, 3.0), (0.0, 0.0)):
        found = dreambooth(run=str(base), images=str(pictures), kind="noise", pictures=30, prior=prior)
        said = list(found.data.train.columns["text"])
        assert said.count("a noise") / said.count("a sks noise") == pytest.approx(share, rel=0.01)
        assert found.data.facts.rows == {"train": len(said), "held": 5} and len(found.data.held) == 5


def test_rows_of_several_splits_come_in_their_order():
    parts = (("a", 3, 0), ("b", 2, 10))
    one, other = (Split({"text": [f"{name}{i}" for i in range(n)], "k": torch.arange(n) + at}) for name, n, at in parts)
    both = Mixed([(one, 2), (other, 1)], ("text", "k"))
    assert len(both) == 8 and both.all()["text"] == ["a0", "a1", "a2", "a0", "a1", "a2", "b0", "b1"]
    batch = both.rows(torch.tensor([7, 1, 4, 6, 1]))
    assert batch["text"] == ["b1", "a1", "a1", "b0", "a1"] and batch["k"].tolist() == [11, 1, 1, 10, 1]


def test_it_is_sampled_from_the_shell_and_without_the_base(base, pictures, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(pictures, tmp_path / "few")
    words = ["train", "dreambooth", "--run", str(tmp_path / "base"), "--images", str(tmp_path / "few"), "--kind", "noise"]
    words += ["--steps", "2", "--batch", "4", "--pictures", "4", "-q", "--out", str(tmp_path / "two"), "--threads", "1"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    before = api.sample(tmp_path / "two", 2, prompt="a sks noise of red", seed=3)["image"]
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "few")
    done = CliRunner().invoke(
        app, ["sample", str(tmp_path / "two"), "--prompt", "a sks noise of red", "-n", "2", "--out", str(tmp_path / "x.png")],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0 and (tmp_path / "x.png").stat().st_size > 100
    assert torch.equal(api.sample(tmp_path / "two", 2, prompt="a sks noise of red", seed=3)["image"], before)
    with pytest.raises(ValueError, match="diffusers has no class"):
        api.export(tmp_path / "two", tmp_path / "out")


def test_all_weights_learn_without_an_adapter_and_a_tuned_run_is_a_base_too(base, pictures, tuned):
    whole = dreambooth(run=str(base), images=str(pictures), kind="noise", rank=0)
    assert not isinstance(whole.system.nets["main"], Adapted)
    assert {name for phase in whole.system.objective.phases() for name in whole.system.learners(phase)} == {"main"}
    again = dreambooth(run=str(tuned.run.path), images=str(pictures), kind="noise", word="zwx")
    about = {"text": ["a sks noise"] * 2}
    for system in (again.system, consistency(teacher=str(tuned.run.path), data=api.load(base).facts.name).system):
        net = system.nets["base"] if "base" in system.nets else system.nets["teacher"]
        assert not isinstance(net, Adapted)
    expected = tuned.system.sample(2, about=about, seed=5)["code"]
    torch.testing.assert_close(again.system.sample(2, about=about, seed=5)["code"], expected, atol=1e-4, rtol=0)


# -- textual inversion ---------------------------------------------------------------------------------------------------


def test_only_the_words_vector_learns_and_prompts_without_it_draw_what_they_did(base, pictures):
    how = {"run": str(base), "images": str(pictures), "like": "noise", "batch": 8, "bf16": False}
    found = api.train("textual_inversion", out=base.parent / "word", steps=4, quiet=True, **how)
    opened, was = api.load(found.run.path).system, api.load(base).system
    assert {name for phase in opened.objective.phases() for name in opened.learners(phase)} == {"conditioner"}
    assert sum(p.numel() for p in opened.conditioner.parameters()) == 128
    tokens, old = opened.nets["told"].parts[0].tokens, was.conditioner.parts[0].tokens
    assert len(tokens.symbols("<it>")) == 1 and len(old.symbols("<it>")) > 1
    assert tokens.symbols("noise") == old.symbols("noise") and tokens.symbols("<it>") == [old.tokenizer.get_vocab_size()]
    begun = was.conditioner.parts[0].encoder.text_model.embeddings.token_embedding.weight[old.symbols("noise")].mean(0)
    vector = opened.conditioner.vectors["0"]
    assert 0 < (vector - begun).norm() < 10 * begun.norm()
    for text, alike in (("picture 3 of red noise", True), ("a <it>", False)):
        mine, theirs = (system.sample(2, about={"text": [text] * 2}, seed=1)["image"] for system in (opened, was))
        assert torch.equal(mine, theirs) == alike
    with torch.no_grad():
        opened.conditioner.vectors["0"].mul_(-3)
    assert not torch.equal(opened.condition({"text": ["a <it>"]}).tokens, was.condition({"text": ["a <it>"]}).tokens)
    kept = opened.nets["told"].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in was.conditioner.state_dict().items() if "encoder" in name)


# -- by themselves -------------------------------------------------------------------------------------------------------


def test_without_a_run_the_thing_is_learnt_among_the_data(base):
    data = api.load(base).facts.name
    for recipe, learns in ((dreambooth, {"main", "conditioner"}), (textual_inversion, {"main", "conditioner"})):
        found = recipe(data=data, depth=1)
        system = found.system
        system.learn(found.data.train)
        assert {name for phase in system.objective.phases() for name in system.learners(phase)} == learns
        said = list(found.data.train.columns["text"])
        own = sum("sks" in text or "<it>" in text for text in said)
        assert own == pytest.approx(len(said) / 2, rel=0.15) and len(found.data.held) == 5
        if recipe is textual_inversion:
            assert [p.numel() for p in system.conditioner.parameters()] == [128]
            assert len(system.nets["told"].parts[0].tokens.symbols("<it>")) == 1


# -- the figure ----------------------------------------------------------------------------------------------------------


class Stub:
    """A system that draws the thing where it is told the word, and something else where it is not."""

    def __init__(self, own: torch.Tensor, tuned: bool, base: Stub | None = None):
        self.own, self.tuned, self.base = own, tuned, base
        self.conditioner = type("Told", (), {"fields": ("text",)})()

    def roles(self) -> dict[str, object]:
        return {"main": None, **({"base": self.base} if self.base else {})}

    def instead(self, role: str) -> Stub:
        assert role == "base" and self.base is not None
        return self.base

    def sample(self, n: int, *, about: dict[str, list[str]], seed: int) -> dict[str, torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.rand(n, 3, 32, 32, generator=rng)
        thing = self.own[torch.arange(n) % len(self.own)] * 0.9 + 0.1 * noise
        other = noise * torch.rand(n, 3, 1, 1, generator=rng)
        return {"image": thing if self.tuned and "sks" in about["text"][0] else other}


def test_identity_is_high_for_the_thing_and_none_for_any_other_of_its_kind():
    own = subject(said="a sks circle", kind="a circle")
    images = own.all()["image"]
    facts = few_facts(images)
    data = maquette.data.Data(facts, lambda: {"train": own, "held": own})
    right = Stub(images, True, Stub(images, False))
    figures = identity.measure(Evidence(data, right, n=60))  # type: ignore[arg-type]
    assert identity.applies(Evidence(data, right, n=60)) == ""  # type: ignore[arg-type]
    assert figures["identity (base)"].value < -0.5 and figures["identity (kind)"].value < -0.5
    assert figures["identity"].value > 0.3 and figures["identity gain"].low > 1.0
    wrong = identity.measure(Evidence(data, Stub(images, False, Stub(images, False)), n=60))  # type: ignore[arg-type]
    assert wrong["identity gain"].low <= 0 <= wrong["identity gain"].high


def few_facts(images: torch.Tensor):
    from maquette.data import Facts

    rows = {"train": len(images), "held": len(images)}
    return Facts("x", "image", "own", "", "", "", rows, shape=(3, 32, 32), captions=True, few=True)


def test_scoring_says_what_does_not_apply(tuned):
    told = api.evaluate(tuned.run.path, n=20, only=["identity", "copying", "frechet", "precision_recall", "adherence"])
    assert {"identity", "identity (base)", "identity (kind)", "identity (real)", "identity gain"} == told["metrics"].keys()
    assert told["skipped"]["copying"] == "no picture is held out"


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"images": ""}, ValueError, "images is empty; dreambooth needs a folder of 3 to 10 pictures"),
        ({"images": "{}/empty"}, DataError, "has no data in it"),
        ({"images": "{}/bad"}, DataError, r"x\.png"),
        ({"images": "{}/prose"}, DataError, "holds text, and no pictures"),
        ({"images": "{}/one"}, DataError, "at least two different"),
        ({"images": "{}/nowhere"}, DataError, "no data called"),
        ({"run": "{}/nowhere"}, RunError, "there is no run"),
        ({"run": "{}/flow"}, ValueError, "is a run of flow, which dreambooth cannot tune.*told captions"),
        ({"run": ""}, ValueError, "but there is no run to tune"),
        ({"word": "noise"}, ValueError, "word is 'noise', which captions use already.*such as 'sks'"),
        ({"word": "two words"}, ValueError, "must be one word"),
        ({"word": ""}, ValueError, "must be one word"),
        ({"kind": " "}, ValueError, "say what the thing is one of"),
        ({"rank": 999}, ValueError, "rank is 999; for .*nearest is 32"),
        ({"rank": -1}, ValueError, "rank is -1"),
        ({"prior": -1.0}, ValueError, "prior is -1"),
        ({"pictures": 0}, ValueError, "pictures is 0"),
    ],
)
def test_what_a_caller_gets_wrong_is_named(base, pictures, how, error, said):
    folder = base.parent
    if not (folder / "flow").exists():
        api.train("flow", out=folder / "flow", data="digits", steps=1, quiet=True)
        for name in ("empty", "bad", "prose", "one"):
            (folder / name).mkdir()
        for i in range(3):
            (folder / "bad" / f"x{i}.png").write_bytes(b"no picture at all")
            (folder / "prose" / f"{i}.txt").write_text(f"words {i}")
        (folder / "bad" / "x.png").write_bytes(b"no picture at all")
        shutil.copy(pictures / "0.png", folder / "one")
    how = {key: value.format(folder) if isinstance(value, str) else value for key, value in how.items()}
    with pytest.raises(error, match=said):
        dreambooth(**{"run": str(base), "images": str(pictures), "kind": "noise", **how})


def test_a_word_that_is_one_already_and_colours_for_grey_are_refused(base, pictures):
    with pytest.raises(ValueError, match="word is 'noise', which is one symbol"):
        textual_inversion(run=str(base), images=str(pictures), word="noise")
    with pytest.raises(DataError, match="pictures in colours, and grey ones are wanted"):
        few(str(pictures), (1, 16, 16), 256, "a", "b")
