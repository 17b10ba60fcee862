"""Every recipe at its tiniest: the suite grows by itself with the folder of recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from narrow import small
from PIL import Image

from maquette import api, recipes
from maquette.data.subject import discs

ROOT = Path(__file__).parent.parent.parent

# What makes any recipe tiny, by the names its dials bear. A recipe with other dials names its own here.
TINY: dict[str, Any] = {"depth": 1, "width": 32, "heads": 2, "vocab": 300, "context": 24, "latent": 4, "steps": 4, "batch": 8}
SMALL = {"font_digits": "digits", "font_digits8:digits": "digits:digits"}  # data that stand in for larger ones
TINY |= {"reads": 24, "writes": 16, "symbols": 16, "books": 2, "delay": 2, "pretrain": 2, "towers": 1, "start": 2, "group": 2}
TINY |= {"larger": 2, "revise": 1, "rounds": 1}
LONG = 200  # symbols of a question, its answer, critique and revision
# every recipe by itself, and those of a second stage also on a run of the first
FIRST = {"vq_prior": "vq_vae", "latent_diffusion": "kl_codec", "mmdit": "kl_codec", "imagen": "imagen_base", "dalle": "vqgan"}
FIRST |= {"recaption": "kl_codec", "controlnet": "latent_diffusion", "dreambooth": "mmdit", "textual_inversion": "mmdit"}
FIRST |= {"unclip": "clip", "text_classifier": "bert", "embedder": "bert", "sft": "gpt", "dpo": "sft", "reward": "sft"}
FIRST |= {"ppo": "sft", "student": "gpt", "constitutional": "sft"}
STAGES = ("codec", "base", "run", "encoder")  # what arguments that name a first stage's run are called
CASES = [(name, False) for name in recipes.catalogue()]
ALONE = {"reasoner"}  # of a run of two steps no answer is right, and nothing is learnt from it
CASES += [(name, True) for name, listed in recipes.catalogue().items() if {*STAGES} & {*listed.arguments} and name not in ALONE]
TUNED = {"like": "noise", "kind": "noise", "pictures": 8}  # what tunes a run is told of its data

# what a recipe does not hear on a run of its first stage, and refuses there
UNHEARD: dict[str, tuple[str, ...]] = dict.fromkeys(("latent_diffusion", "mmdit", "recaption", "dalle"), ("latent", "delay"))
UNHEARD |= dict.fromkeys(("sft", "reward", "ppo", "controlnet"), ("depth", "vocab", "delay"))
UNHEARD |= dict.fromkeys(("text_classifier", "embedder"), ("depth", "vocab", "context"))
UNHEARD |= {"student": ("vocab", "larger", "start"), "constitutional": ("start", "depth", "vocab")}
UNHEARD |= {"imagen": ("pretrain",), "unclip": ("towers",), "dpo": ("start", "depth", "vocab")}


def tiny(name: str, text: Path, captioned: Path) -> dict[str, Any]:
    """Arguments for the smallest system of a recipe, on digits or on a small folder of text or of captioned pictures."""
    known = recipes.catalogue()[name].arguments
    found = {key: value for key, value in TINY.items() if key in known}
    if str(known.get("data")).startswith(("stdlib", "tasks", "functions")) or name == "student":
        found["data"] = str(text)
    if known.get("data") in ("chores", "documented"):
        found["data"] = str(paired(text))
    if known.get("data") in ("instructions", "manners"):
        found["data"] = str(answered(text))
    if known.get("data") == "sums":
        found |= {"data": "sums", "context": 64}
    if known.get("data") == "dialogues":
        found["context"] = 160
    if known.get("data") == "principles":
        found |= {"data": "principles", "context": LONG}
    if known.get("data") == "packages":
        found["data"] = str(labelled(text))
    if known.get("data") in ("scenes", "scenes_terse"):
        found["data"] = str(captioned)
    if known.get("data") in SMALL:
        found["data"] = SMALL[known["data"]]
    return found


def paired(text: Path) -> Path:
    """Beginnings of the same texts, and what follows, as rows."""
    path = text / "paired" / "rows.jsonl"
    if not path.exists():
        path.parent.mkdir()
        whole = [each.read_text() for each in sorted(text.glob("*.py"))]
        path.write_text("".join(json.dumps({"source": one[3:60], "text": one[60:90]}) + "\n" for one in whole))
    return path


def answered(text: Path) -> Path:
    """Short questions, each with a right answer and a wrong one."""
    path = text / "answered" / "rows.jsonl"
    if not path.exists():
        path.parent.mkdir()
        sums = [{"prompt": f"{a} + {b}", "chosen": str(a + b), "rejected": str(a - b - 1)} for a in range(15) for b in range(15)]
        path.write_text("".join(json.dumps(row) + "\n" for row in sums))
    return path


def labelled(text: Path) -> Path:
    """The same texts as rows, each of one of two kinds."""
    path = text / "labelled" / "rows.jsonl"
    if not path.exists():
        path.parent.mkdir()
        rows = [{"text": each.read_text()[:200], "label": f"kind {i % 2}"} for i, each in enumerate(sorted(text.glob("*.py")))]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def narrowed():
    """What no dial makes small is small in each test; fixtures of the session, which are made before, see to it themselves."""
    with small():
        yield


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """A few files of prose and code."""
    folder = tmp_path_factory.mktemp("text")
    for path in sorted((ROOT / "maquette").glob("*.py")):
        (folder / path.name).write_text(path.read_text()[:4000])
    return folder


@pytest.fixture(scope="session")
def captioned(tmp_path_factory) -> Path:
    """A few pictures with a sentence beside each."""
    folder, rng = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i % 7} of {'red' if i % 2 else 'blue'} noise")
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """A few pictures of one thing."""
    folder = tmp_path_factory.mktemp("few")
    for i, picture in enumerate(discs(3)):
        Image.fromarray((picture.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def first_runs(tmp_path_factory, text_folder, captioned) -> Callable[[str], Path]:
    """Of a recipe of a second stage: a trained run to build on, made when first asked for."""
    made: dict[tuple[str, str], Path] = {}

    def run(second: str) -> Path:
        first, data = FIRST[second], tiny(second, text_folder, captioned).get("data", "digits")
        # half of the captioned pictures' side
        half = {"imagen": {"size": 8}, "constitutional": {"context": LONG}}.get(second, {})
        if (first, data) not in made:
            made[first, data] = tmp_path_factory.mktemp(first) / "run"
            own = {key: value for key, value in TINY.items() if key in recipes.catalogue()[first].arguments}
            own |= {**half, "data": data, "steps": 2, "batch": 8, "compile": False}
            with small():
                api.train(first, out=made[first, data], quiet=True, **own)
        return made[first, data]

    return run


# for the whole session, so that the tests of one case follow one another and share what was built for them
@pytest.fixture(scope="session", params=CASES, ids=[name + "-on-a-run" * staged for name, staged in CASES])
def case(request) -> tuple[str, bool]:
    return request.param


@pytest.fixture(scope="session")
def recipe(case) -> str:
    return case[0]


@pytest.fixture(scope="session")
def arguments(case, text_folder, captioned, request) -> dict[str, Any]:
    found = tiny(case[0], text_folder, captioned)
    if not case[1]:
        return found
    found = {key: value for key, value in found.items() if key not in UNHEARD.get(case[0], ())}
    run, known = str(request.getfixturevalue("first_runs")(case[0])), recipes.catalogue()[case[0]].arguments
    named = next(name for name in STAGES if name in known)
    if "images" not in known:
        return {**found, named: run}
    told = {key: value for key, value in TUNED.items() if key in known}
    return {**told, "run": run, "images": str(request.getfixturevalue("few"))}


SLOW = ("imagen", "imagen_base", "controlnet", "unclip", "latent_diffusion")  # to kill and resume takes 5 s and more
SLOW += ("lamda", "ppo", "constitutional")
SLOW += (
    "gemma",
    "qwen",
    "grok",
    "diffusion_lm",
    "text_classifier",
    "embedder",
    "pix2pix",
    "guidance_distilled",
    "palette",
)  # as others but for the network
STAGED = ("test_builds_on_meta", "test_every_learner_is_reached_and_nothing_else_moves")  # what a run to stand on changes most


# trained on a run, with a look at what must stay as it was, in a fast file of its own: test_imagen, test_personal and so on
KNOWN = {"imagen", "dreambooth", "textual_inversion", "unclip", "vq_prior", "sft", "dpo"}
KINDS = ("colour", "grey")  # of someone's own pictures: every other recipe is tried on the one, and the rest on the other


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """For the long suite: what stands on a run, but for a few tests; to kill and resume the dearest; another kind of pictures."""
    places = {name: place for place, name in enumerate(recipes.catalogue())}
    for item in items:
        name, told = item.originalname, item.name.removesuffix("]").partition("[")[2]
        staged = "-on-a-run" in told and (name not in STAGED or told.removesuffix("-on-a-run") in KNOWN)
        killed = name == "test_killed_and_resumed_is_uninterrupted" and told in SLOW
        recipe, _, kind = told.partition("-")
        other = name == "test_own_images_train_score_and_sample" and not kind.startswith(KINDS[places[recipe] % 2])
        if staged or killed or other:
            item.add_marker(pytest.mark.slow)
