"""Better captions: who writes them, who learns from them, what is left alone, and how written captions are judged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maquette import api, cli
from maquette.contracts import IGNORE, Condition
from maquette.data import Data, DataError, Facts, open_data
from maquette.data.core import image_data
from maquette.data.retold import chances, graded, retold
from maquette.data.scenes import FACTORS, FULL
from maquette.metrics import captions
from maquette.metrics.evidence import Evidence
from maquette.networks.heard import Prefix
from maquette.networks.style import Style
from maquette.networks.transformer import Transformer
from maquette.nn.positions import Learned, Rotary
from maquette.objectives.likelihood import NextToken
from maquette.recipes.recaptioning import captioner, recaption
from maquette.report.pictures import grid, png
from maquette.runs import RunError
from maquette.streams import Streams

COLOURS = ("red", "green", "blue")


def blots(count: int, full: bool, seed: int = 0) -> Data:
    """Plain pictures in one of three colours, captioned "a blot"; where `full`, every fourth has the colour as "full_text"."""
    rng = np.random.default_rng(seed)
    columns: dict[str, dict[str, Any]] = {}
    for part, rows in (("train", count), ("held", count // 4)):
        colour = rng.integers(3, size=rows)
        pixels = rng.integers(0, 60, (rows, 3, 8, 8)).astype(np.uint8)
        pixels[np.arange(rows), colour] += 190
        dense = [f"a {COLOURS[c]} blot" for c in colour]
        columns[part] = {"image": torch.from_numpy(pixels), "colour": torch.from_numpy(colour), "text": dense}
        if full and part == "train":
            columns[part] |= {"text": ["a blot"] * rows, "full_text": [d if i % 4 == 0 else "" for i, d in enumerate(dense)]}
    facts = Facts("blots", "image", "simulated", "", "", "", {}, factors={"colour": COLOURS})
    return image_data(facts, columns)


def tokens(rows: int = 2) -> Condition:
    return Condition(vector=torch.ones(rows, 1), tokens=torch.randn(rows, 3, 32))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Blots as a user's folders have them: `full` with whole captions, `terse` with next to none."""
    place = tmp_path_factory.mktemp("blots")
    data = blots(60, full=False).train.all()
    for kind in ("full", "terse"):
        (place / kind).mkdir()
        for i, image in enumerate(data["image"]):
            (place / kind / f"{i}.png").write_bytes(png(grid(image[None], zoom=1)))
            (place / kind / f"{i}.txt").write_text(data["text"][i] if kind == "full" else "a blot")
    return place


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Path:
    """A captioner that has learnt to tell three colours."""
    out = tmp_path_factory.mktemp("runs") / "captioner"
    dials = {"depth": 1, "vocab": 280, "words": 8, "batch": 16}
    api.train("captioner", data=str(folders / "full"), steps=70, out=out, quiet=True, **dials)
    return out


# -- the network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [0, 6])
def test_symbols_see_the_picture_and_the_past_and_never_the_future(learned):
    torch.manual_seed(0)
    style = Style(positions=partial(Learned, count=learned) if learned else Rotary, smear=True)
    net = Transformer(20, 32, 2, 2, told=1, style=style, prefix=Prefix(3)).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    told, other, x = tokens(), tokens(), torch.randint(20, (2, 6))
    with torch.no_grad():
        seen, later = net(x, cond=told), net(torch.cat([x[:, :4], x[:, 4:] + 1], 1) % 20, cond=told)
        assert seen.shape == (2, 6, 20)
        assert torch.equal(seen[:, :4], later[:, :4]) and not torch.allclose(seen[:, 4:], later[:, 4:])
        assert (seen - net(x, cond=other)).abs().amax((0, 2)).min() > 1e-3  # every place sees the picture
        memory = net.begin(2, 6)
        parts = [net(x[:, :4], cond=told, state=memory), net(x[:, 4:5], cond=other, state=memory)]  # told once
        parts.append(net(x[:, 5:], cond=told, state=memory))
    torch.testing.assert_close(torch.cat(parts, 1), seen, atol=1e-5, rtol=1e-5)
    for wrong in (None, Condition(vector=torch.ones(2, 1)), replace(told, tokens=torch.randn(2, 4, 32))):
        with pytest.raises(ValueError, match=r"told vectors \[3, 32\] a row"):
            net(x, cond=wrong if wrong is not None else Condition(vector=torch.ones(2, 1)))


def test_a_whole_text_learns_where_it_ends_and_is_cut_where_it_is_too_long():
    objective = NextToken(bos=0, whole=4)
    code = torch.tensor([[5, 6, IGNORE], [7, 8, 9], [3, IGNORE, IGNORE]])
    x, target = objective.shift(code, {})
    assert target.tolist() == [[5, 6, 0, IGNORE], [7, 8, 9, 0], [3, 0, IGNORE, IGNORE]]
    assert x.tolist() == [[0, 5, 6, 0], [0, 7, 8, 9], [0, 3, 0, 0]]
    x, target = objective.shift(torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, IGNORE]]), {})
    assert target.tolist() == [[1, 2, 3, 4]] * 2  # no end: it is not there
    assert NextToken(bos=0).shift(code, {})[1].tolist() == code.tolist()


# -- the rows ------------------------------------------------------------------------------------------------------------


def test_terse_scenes_are_the_same_scenes_and_never_say_what_is_not_so():
    terse, whole = open_data("scenes_terse"), open_data("scenes")
    for part in ("train", "held"):
        one, other = terse.splits[part].columns, whole.splits[part].columns
        assert torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]))
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in FACTORS)
    assert terse.held.columns["text"] == whole.held.columns["text"] and "full_text" not in terse.held.columns
    said, true, full = (
        list(c) for c in (terse.train.columns["text"], whole.train.columns["text"], terse.train.columns["full_text"])
    )
    allowed = {"a", "shape", "picture"}
    assert all(set(short.split()) <= allowed | set(long.split()) for short, long in zip(said, true, strict=True))
    assert {"a picture", "a circle", "a red circle", "a shape on navy"} & set(said) >= {"a picture", "a circle", "a red circle"}
    known = [i for i, text in enumerate(full) if text]
    assert [full[i] for i in known] == [true[i] for i in known]
    assert len(known) / len(said) == pytest.approx(FULL / 100, abs=0.01)
    assert sum(short == long for short, long in zip(said, true, strict=True)) < 0.01 * len(said)


def test_full_captions_are_told_apart_from_terse_ones_and_come_again():
    data = blots(200, full=True)
    rows = graded(data, 1.0).train.all()
    full = rows["full"][:, 0].bool()
    assert [("red" in t or "green" in t or "blue" in t) for t in rows["text"]] == full.tolist()
    assert full.sum() == 50 and (~full).sum() == 150
    few = graded(data, 0.3).train.all()
    full_again = int(few["full"].sum())  # of the few, each again and again; those that the share leaves out are terse
    assert 30 < full_again < 50 and len(few["text"]) - full_again > 170
    assert len(data.train.all()["text"]) == 200 and graded(data, 1.0).held is data.held
    pictures = {bytes(image) for image in (rows["image"] * 255).round().byte().flatten(1).numpy()[full]}
    assert len(pictures) == 50
    for i, image in enumerate((rows["image"] * 255).round().byte()[full]):  # each beside its own picture
        assert COLOURS[int(image.float().mean((1, 2)).argmax())] in rows["text"][i]


def test_a_share_of_the_full_captions_follows_from_the_pictures_alone():
    plain = blots(400, full=False)
    some, more = (graded(plain, share).train.all() for share in (0.1, 0.3))
    assert 0.04 < len(some["text"]) / 400 < 0.18 and bool(some["full"].all())
    first = {bytes(image) for image in (more["image"] * 255).round().byte().flatten(1).numpy()}
    assert all(bytes(image) in first for image in (some["image"] * 255).round().byte().flatten(1).numpy())
    other = image_data(plain.facts, {k: {**s.columns, "text": ["?"] * len(s)} for k, s in plain.splits.items()})
    assert torch.equal(graded(other, 0.1).train.all()["image"], some["image"])
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0, up to 1"):
            graded(plain, share)
    with pytest.raises(DataError, match="holds no full caption"):
        _ = graded(plain, 1e-9).train


def test_captions_are_written_once_in_the_share_asked_for_and_nothing_else_changes():
    data, asked = blots(400, full=True), []

    def write(images: torch.Tensor) -> list[str]:
        asked.append(len(images))
        return [f"seen {COLOURS[int(image.mean((1, 2)).argmax())]}" for image in images]

    told = retold(data, write, 0.9, "someone")
    assert "someone" in told.facts.notes[-1] and not asked  # opening writes nothing
    rows, before = told.train.all(), data.train.all()
    assert torch.equal(rows["image"], before["image"]) and torch.equal(rows["colour"], before["colour"])
    new = [text.startswith("seen") for text in rows["text"]]
    assert sum(asked) == sum(new) and abs(sum(new) / 400 - 0.9) < 0.05
    assert all(text == "a blot" for text, anew in zip(rows["text"], new, strict=True) if not anew)
    assert all(text == f"seen {COLOURS[c]}" for text, c, anew in zip(rows["text"], rows["colour"], new, strict=True) if anew)
    assert told.held.columns["text"] == data.held.columns["text"]
    assert told.train.rows(torch.tensor([7, 3]))["text"] == [rows["text"][7], rows["text"][3]] and sum(asked) == sum(new)
    assert retold(data, write, 0.0, "").train.all()["text"] == before["text"]
    assert all(t.startswith("seen") for t in retold(data, write, 1.0, "").train.all()["text"])
    assert (chances(data.train, 4) - chances(data.train, 8)).abs().mean() > 0.2  # shares have nothing to do with each other
    with pytest.raises(ValueError, match=r"0 \.\. 1"):
        retold(data, write, 1.1, "")


# -- the systems ---------------------------------------------------------------------------------------------------------


def test_a_captioner_learns_both_kinds_and_writes_the_kind_it_is_asked_for(monkeypatch):
    from maquette.recipes import recaptioning

    monkeypatch.setattr(recaptioning, "captioned", lambda *_: blots(240, full=True))
    experiment = captioner(depth=1, vocab=280, words=8)
    system, held = experiment.system, experiment.data.held.all()
    system.learn(experiment.data.train)
    from maquette.distributed import World
    from maquette.train import Progress, take_step

    progress = Progress(replace(experiment.fit, steps=70, batch=16))
    for _ in range(70):
        system.train()
        take_step(system, experiment.data, progress, World())
    greedy = replace(system.sampler, temperature=0.0)  # type: ignore[type-var]
    image = held["image"]
    assert (
        np.mean(
            [a == b for a, b in zip(system.sample(60, about={"image": image}, sampler=greedy)["text"], held["text"], strict=True)]
        )
        > 0.9
    )
    terse = system.sample(60, about={"image": image, "full": torch.zeros(60, 1)}, sampler=greedy)["text"]
    assert np.mean([text == "a blot" for text in terse]) > 0.9
    with pytest.raises(ValueError, match="full is of shape"):
        system.condition({"image": image[:2], "full": torch.ones(3)})
    with pytest.raises(ValueError, match=r"a picture is of \(3, 4, 4\)"):
        system.condition({"image": image[:2, :, :4, :4]})


def test_a_picture_is_described_from_the_command_line_and_by_the_api(run, folders, tmp_path):
    found = api.load(run)
    picture = folders / "full" / "3.png"
    own = (folders / "full" / "3.txt").read_text()
    about = found.begun(picture, 4)
    assert set(about) == {"about"} and about["about"]["image"].shape == (4, 3, 8, 8)
    assert found.sample(4, **about)["text"] == [own] * 4
    told = CliRunner().invoke(
        cli.app, ["sample", str(run), "--start", str(picture), "-n", "1", "--print", "--out", str(tmp_path / "a.jsonl")]
    )
    assert told.exit_code == 0 and own in told.stdout
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"text": own}  # no pixels as numbers
    assert (
        found.sample(2, prompt="a", about={"image": about["about"]["image"][:2]})["text"] == [own] * 2
    )  # how the caption begins
    assert len(found.sample(3)["text"]) == 3  # of training pictures, where none is given
    with pytest.raises(ValueError, match="completes none"):
        found.begun(picture, 1, hide="top")
    with pytest.raises(ValueError, match="must bring 2 images"):
        found.sample(2, about={"image": 3})
    assert api.show("captioner")["can"]["given pictures"] == ["described"]
    scored = api.evaluate(run, n=20)
    assert scored["metrics"]["caption"]["value"] > 0.8 and "the data are not images" in str(scored["skipped"]["frechet"])
    card = (run / "README.md").read_text()
    assert "begun(" in card and "model of text about images" in card and "pipeline_tag: image-to-text" in card
    assert (run / "report.html").exists()


def test_what_the_run_samples_greedily_is_what_pictures_are_learnt_from(run, folders, tmp_path):
    dials = {"depth": 1, "latent": 2, "words": 12, "batch": 4}
    out, kept = tmp_path / "recaption", tmp_path / "captioner"
    shutil.copytree(run, kept)
    session = api.train("recaption", data=str(folders / "terse"), captioner=str(kept), steps=2, out=out, quiet=True, **dials)
    train, held = session.data.train, session.data.held
    written = api.load(run)
    greedy = replace(written.system.sampler, temperature=0.0)  # type: ignore[type-var]
    rows = train.all()
    own = written.sample(len(rows["text"]), about={"image": rows["image"]}, sampler=greedy)["text"]
    assert set(rows["text"]) > {"a blot"} and all(t in ("a blot", o) for t, o in zip(rows["text"], own, strict=True))
    assert np.mean([t != "a blot" for t in rows["text"]]) > 0.85
    assert set(held.columns["text"]) == {"a blot"}  # whoever asks for a sample is asked nothing else
    batch = train.rows(torch.arange(8))
    assert sum(any(c in text for c in COLOURS) for text in batch["text"]) >= 6
    learned = session.system.conditioner.parts[0].tokens.unheard(["a red blot"])  # type: ignore[union-attr]
    assert learned == [""] and "captioner" in session.system.frozen
    before = {k: v.clone() for k, v in session.system.nets["captioner"].state_dict().items()}
    shutil.rmtree(kept)  # its weights go with the run that was built on it
    again = api.resume(out, steps=3, quiet=True)
    assert again.data.train.all()["text"] == rows["text"]
    after = again.system.nets["captioner"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert again.sample(2, prompt="a red blot")["image"].shape == (2, 3, 8, 8)


def test_captions_are_rewritten_by_the_likeliest_symbols_however_unsure_the_captioner(folders, tmp_path):
    terse = str(folders / "terse")
    api.train("captioner", data=terse, depth=1, vocab=280, words=8, steps=1, batch=4, out=tmp_path / "unsure", quiet=True)
    unsure = api.load(tmp_path / "unsure")
    told = [recaption(captioner=str(tmp_path / "unsure"), data=terse, depth=1, latent=2, mix=1.0).data.train for _ in "ab"]
    image = told[0].all()["image"]
    greedy = replace(unsure.system.sampler, temperature=0.0)  # type: ignore[type-var]
    assert told[0].all()["text"] == unsure.system.sample(len(image), about={"image": image}, sampler=greedy)["text"]
    assert told[0].all()["text"] == told[1].all()["text"] != unsure.system.sample(len(image), about={"image": image})["text"]


def test_the_rest_of_the_system_is_what_it_would_be_without_a_captioner(run, folders):
    from maquette.runs import build

    dials = {"depth": 1, "latent": 2, "words": 12, "data": str(folders / "terse")}
    plain, told = (build("recaption", {**dials, **more}, 0)[0] for more in ({}, {"captioner": str(run)}))
    mm = build("mmdit", dials, 0)[0]
    assert "no caption is rewritten" in plain.data.facts.notes[0]
    for other in (plain, mm):
        ours, theirs = told.system.nets["main"].state_dict(), other.system.nets["main"].state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert torch.equal(plain.data.train.all()["image"], told.data.train.all()["image"])


def test_what_is_no_captioner_is_refused_by_name(run, folders, tmp_path):
    terse = str(folders / "terse")
    with pytest.raises(RunError, match="no run at"):
        recaption(captioner=str(tmp_path / "nowhere"), data=terse)
    with pytest.raises(ValueError, match=r"mix is 1.5; .* 0 \.\. 1"):
        recaption(data=terse, mix=1.5)
    api.train("clip", data=terse, depth=1, steps=1, batch=4, out=tmp_path / "clip", quiet=True)
    with pytest.raises(ValueError, match="a run of clip, which writes no captions; captioner does"):
        recaption(captioner=str(tmp_path / "clip"), data=terse)
    with pytest.raises(ValueError, match=r"3x8x8 images of 256 levels .* has 3x16x16"):
        recaption(captioner=str(run), data=terse, size=16)
    with pytest.raises(ValueError, match="words is 1"):
        captioner(data=terse, words=1)
    with pytest.raises(ValueError, match="needs images with captions"):
        captioner(data="digits")


# -- the judge -----------------------------------------------------------------------------------------------------------


def test_written_captions_are_right_word_for_word_or_factor_by_factor():
    data = blots(100, full=False)
    data.facts = replace(data.facts, factors=FACTORS)
    evidence = Evidence(data, samples={"image": data.held.all()["image"]})
    own = ["a large dotted red ring on navy", "a small blue bar on grey", "a large pink star on mint"]
    wrote = ["on navy a large dotted red ring", "a small striped blue bar on grey", "a large pink starling on cream"]
    found = captions.agreement(wrote, own, evidence)
    assert found["caption, all factors"] == [True, False, False]
    assert found["caption, texture"] == [True, False, True] and found["caption, shape"] == [True, True, False]
    assert found["caption, ground"] == [True, True, False] and found["caption, colour"] == [True] * 3
    assert captions.said("no captions", ()) == frozenset()
    assert "writes no captions" in captions.applies(evidence)


def test_figures_of_captions_are_shares_and_bits(run):
    found = api.load(run)
    figures = captions.measure(Evidence(found.data, found.system))
    written = found.system.sample(len(found.data.held), about={"image": found.data.held.all()["image"]}, seed=0)["text"]
    right = np.mean([one == other for one, other in zip(written, found.data.held.columns["text"], strict=True)])
    assert figures["caption"].value == pytest.approx(right)
    assert figures["caption"].low < right or right == 0
    nats = found.system.objective.score(found.system, found.data.held.all(), Streams.of(0, len(written)))
    assert figures["bits/caption"].value == pytest.approx(float(nats.detach().mean()) / np.log(2), rel=1e-4)
