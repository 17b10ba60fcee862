"""Pictures from sentences: what a caption reaches, latents at their scale, adherence and its judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from maquette import api
from maquette.codecs.autoencoder import LatentCodec
from maquette.data import Data, Facts, Split
from maquette.data.core import image_data
from maquette.metrics import adherence
from maquette.metrics.evidence import Evidence
from maquette.recipes.codecs import latents_of
from maquette.recipes.distillation import reflow
from maquette.recipes.pictures import latent_diffusion
from maquette.streams import Streams

pytestmark = pytest.mark.usefixtures("narrow")

FACTORS = {"shape": ("bar", "dot"), "colour": ("red", "green", "blue")}


def blots(count: int, seed: int = 0) -> Data:
    """A bar or a dot in one of three colours, somewhere on grey: float[N,3,16,16], captioned."""
    rng = np.random.default_rng(seed)
    columns = {}
    for part, rows in (("train", count), ("held", count // 4)):
        shape, colour = rng.integers(2, size=rows), rng.integers(3, size=rows)
        pixels = np.full((rows, 3, 16, 16), 128, np.uint8)
        for i in range(rows):
            y, x = rng.integers(2, 10, size=2)
            high, wide = ((2, 6), (4, 4))[shape[i]]
            pixels[i, :, y : y + high, x : x + wide] = 40
            pixels[i, colour[i], y : y + high, x : x + wide] = 250
        words = [f"a {FACTORS['colour'][c]} {FACTORS['shape'][s]}" for s, c in zip(shape, colour, strict=True)]
        told = {"shape": torch.from_numpy(shape), "colour": torch.from_numpy(colour)}
        columns[part] = {"image": torch.from_numpy(pixels), "label": told["shape"], "text": words, **told}
    return image_data(Facts("blots", "image", "simulated", "", "", "", {}, classes=FACTORS["shape"], factors=FACTORS), columns)


class Echo:
    """A system that knows the rows of each caption, and shows one of them; half the time of another caption, if it errs."""

    conditioner, codec = type("Hears", (), {"fields": ("text",)})(), type("Draws", (), {"field": "image"})()

    def __init__(self, rows: Split, errs: bool):
        self.rows, self.errs = rows.all(), errs

    def sample(self, n, *, about, seed):
        places = [self.rows["text"].index(text) for text in about["text"]]
        if self.errs:
            places = [place if i % 2 else self.rows["text"].index("a red bar") for i, place in enumerate(places)]
        return {"image": self.rows["image"][places]}


def test_adherence_is_the_share_of_captions_that_are_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(adherence, "STEPS", 80)
    data = blots(250)
    found = {}
    for errs in (False, True):
        evidence = Evidence(data, Echo(data.train, errs))  # type: ignore[arg-type]
        assert adherence.applies(evidence) == ""
        found[errs] = {name: figure.value for name, figure in adherence.measure(evidence).items()}
    assert found[False]["adherence (real)"] > 0.95 and found[False]["adherence"] > 0.95
    asked = data.held.columns["text"]
    lucky = asked.count("a red bar") / len(asked)
    assert found[True]["adherence"] == pytest.approx(0.5 + lucky / 2, abs=0.1)
    assert found[True]["adherence, shape"] > found[True]["adherence"]
    net = adherence.judge(Evidence(data, Echo(data.train, False)))  # type: ignore[arg-type]
    assert net.plain.tolist() == [True, False]  # a shape is a shape in any colour
    plain = Evidence(data, Echo(data.train, False))  # type: ignore[arg-type]
    plain.facts = replace(plain.facts, factors={})
    assert "factors" in adherence.applies(plain)


def test_a_figure_is_the_same_in_any_colours():
    x = torch.full((2, 3, 8, 8), 0.2)
    x[0, :, 2:5, 2:5] = torch.tensor([0.9, 0.1, 0.3])[:, None, None]
    x[1] = 0.7
    x[1, :, 2:5, 2:5] = torch.tensor([0.0, 0.6, 1.0])[:, None, None]
    seen = adherence.figure(x)
    torch.testing.assert_close(seen[0], seen[1])
    assert seen.sum(dim=(1, 2, 3)).tolist() == pytest.approx([9, 9], rel=1e-5)


def test_words_reach_every_resolution_of_the_u_net(captioned):
    """The gradient of a guess reaches the text encoder through the attention of each level."""
    system = latent_diffusion(data=str(captioned), words=12).system
    system.learn(latent_diffusion(data=str(captioned), words=12).data.train)
    net: Any = system.nets["main"]
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.1)
    listening = [module for name, module in net.named_modules() if name.endswith("attn2")]
    assert len(listening) == 7  # two ways and the middle of two resolutions, one layer down and two up
    heard: list[bool] = []
    for module in listening:
        module.register_forward_hook(lambda m, given, out: heard.append(True))
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.7])
    one, other = (net(x, t=t, cond=system.condition({"text": [said] * 2})) for said in ("a red dot", "a green bar"))
    assert len(heard) == 2 * len(listening) and (one - other).abs().max() > 1e-4
    told = system.condition({"text": ["a red dot"] * 2})
    assert (net(x, t=t, cond=replace(told, vector=-told.vector)) - one).abs().max() > 1e-4  # the caption's vector, with the time


def test_latents_come_out_at_the_scale_of_the_data():
    torch.manual_seed(0)
    data = blots(200)
    chain, shape = latents_of(data.facts, 4, 1, 4)
    codec = chain.inner
    assert isinstance(codec, LatentCodec) and shape == (4, 4, 4)
    x = chain.outer.encode(data.train.all()["image"])
    with torch.no_grad():
        codec.encoder.head.bias.copy_(torch.tensor([3.0, -2.0, 0.5, 1.0, -4, -4, -4, -4]))
    before = codec.eval().encode(x)
    torch.testing.assert_close(before, codec.posterior(x)[0])  # nothing is known of the scale yet
    codec.train()
    for i in range(40):
        codec.squeeze(x[5 * i : 5 * i + 5], Streams.of(i, 5))
    z = codec.eval().encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 0.3 and (z.std((0, 2, 3)) - 1).abs().max() < 0.3
    torch.testing.assert_close(codec.decode(z), codec.mean(codec.posterior(x)[0]), atol=1e-5, rtol=1e-5)
    again = latents_of(data.facts, 4, 1, 4)[0].inner
    again.load_state_dict(codec.state_dict())
    torch.testing.assert_close(again.eval().encode(x), z)


def test_a_caption_is_a_prompt_a_list_or_negative(captioned, tmp_path, capsys):
    out = tmp_path / "run"
    api.train("latent_diffusion", data=str(captioned), steps=2, batch=4, latent=2, words=12, out=out, quiet=True)
    run = api.load(out)
    assert [note for note in run.facts.notes if "64 training captions" in note]  # what a run keeps of its data is said
    kinds = {"prompt": {"prompt": "a red thing"}, "about": {"about": {"text": "a red thing"}}}
    same = [run.sample(2, seed=1, **how)["image"] for how in kinds.values()]
    assert torch.equal(*same)
    told = run.sample(3, seed=1, about={"text": ["one", "two"]})["text"]
    assert told == ["one", "two", "one"]
    assert len(set(run.sample(8, seed=1)["text"]) & set(run.data.train.columns["text"])) > 1  # nobody said anything
    system = run.system
    null = system.condition({"text": ["a"] * 2, "negative": ["blurred"] * 2}, drop=1.0)
    assert not torch.equal(null.tokens, system.condition({"text": ["a"] * 2}, drop=1.0).tokens)
    for about in ({"prompt": "a"}, {"numbers": [1]}):
        with pytest.raises(ValueError, match=r"Allowed: text, negative\."):
            run.sample(2, about=about)
    with pytest.raises(ValueError, match="negative, which guidance alone hears"):
        api.sample(out, 1, about={"negative": "a"}, dials={"guidance": 1})

    def code(prompt: str, weigh: bool) -> torch.Tensor:
        return api.sample(out, 1, prompt=prompt, weigh=weigh, dials={"steps": 1})["code"]

    assert torch.equal(code("a red thing", True), code("a red thing", False))
    assert not torch.equal(code("a (red:3) thing", True), code("a red thing", True))
    with pytest.raises(ValueError, match="1 of 1 samples are no finite numbers, and not written"):
        api.sample(out, 1, prompt="a", dials={"guidance": 3e38}, out=tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    few = {"prompt": "red " * 99 + "ring", "dials": {"steps": 1}}
    for call in (api.sample, api.vary):  # what of a prompt is not heard is said
        capsys.readouterr()
        call(out, 1, **few)
        assert "note: no encoder hears the end of 'red red" in capsys.readouterr().err
        with pytest.raises(ValueError, match="and --about says text 'a ring'; give one of them"):
            call(out, 1, about={"text": "a ring"}, **few)


def test_a_student_keeps_its_teachers_codec_and_reader(captioned, tmp_path):
    small = {"depth": 1, "latent": 2, "patch": 4, "words": 12, "batch": 4}
    api.train("mmdit", data=str(captioned), steps=2, out=tmp_path / "teacher", quiet=True, **small)
    out = tmp_path / "student"
    api.train("consistency", teacher=str(tmp_path / "teacher"), guidance=2.0, steps=2, batch=4, out=out, quiet=True)
    teacher, student = api.load(tmp_path / "teacher").system, api.load(out).system
    for role in ("codec", "conditioner"):
        before, after = teacher.roles()[role].state_dict(), student.roles()[role].state_dict()
        moved = [name for name in before if not name.endswith("examples") and not torch.equal(before[name], after[name])]
        assert role in student.frozen and not moved
    told = api.load(out).sample(2, prompt="a red dot", seed=0)
    assert told["image"].shape == (2, 3, 16, 16) and told["text"] == ["a red dot"] * 2
    with pytest.raises(ValueError, match=r"is told text; reflow keeps pairs with labels"):
        reflow(teacher=str(tmp_path / "teacher"))


@pytest.fixture
def captioned(tmp_path):
    folder = tmp_path / "captioned"
    folder.mkdir()
    rows = blots(40).train.all()
    from maquette.report.pictures import grid, png

    for i, (image, text) in enumerate(zip(rows["image"], rows["text"], strict=True)):
        (folder / f"{i}.png").write_bytes(png(grid(image[None], zoom=1)))
        (folder / f"{i}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "digits"}, "images without captions"),
        ({"data": "stdlib"}, "holds text"),
        ({"depth": 0}, "depth is 0"),
        ({"words": 0}, "words is 0"),
        ({"latent": 0}, "latent is 0"),
        ({"guidance": float("nan")}, "guidance is nan; it must be a finite number"),
    ],
)
def test_bad_arguments_are_named(how, says):
    with pytest.raises(ValueError, match=says):
        latent_diffusion(**how)


def test_a_codec_of_another_kind_or_size_is_refused(captioned, tmp_path):
    api.train("vq_vae", data=str(captioned), steps=1, batch=4, out=tmp_path / "vq", quiet=True)
    with pytest.raises(ValueError, match="vq_vae, which has no codec of latents"):
        latent_diffusion(codec=str(tmp_path / "vq"), data=str(captioned))
    api.train("kl_codec", data=str(captioned), size=8, steps=1, batch=4, out=tmp_path / "kl", quiet=True)
    with pytest.raises(ValueError, match=r"3x8x8 .*3x16x16"):
        latent_diffusion(codec=str(tmp_path / "kl"), data=str(captioned))
