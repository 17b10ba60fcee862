"""Prompts are told as diffusers' pipelines of Stable Diffusion 1/2, XL, 3 and Flux tell them; and as every conditioner should."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from maquette.checkpoint import pack, restore
from maquette.codecs.pixels import Pixels
from maquette.conditioners.prompt import Prompt, Reading, Silence, flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from maquette.conditioners.weighting import Weighted, weigh
from maquette.contracts import Condition
from maquette.data.core import Split
from maquette.data.tokens import Tokens
from maquette.experiment import Fit
from maquette.networks import t5
from maquette.networks.clip import Text, TextPlan
from maquette.networks.dit import DiT
from maquette.networks.t5 import T5Encoder
from maquette.objectives.denoising import Denoising
from maquette.processes.flow import flow as straight
from maquette.recipes import UnknownName
from maquette.samplers.solvers import Euler
from maquette.saying import fields_of
from maquette.streams import Streams
from maquette.system import System
from maquette.train import Progress, hidden

transformers = pytest.importorskip("transformers", reason="the references are transformers' encoders ...")
diffusers = pytest.importorskip("diffusers", reason="... in diffusers' pipelines")
CAPTIONS = ["a small red circle on grey", "A Cat!", "", "the mat and " * 60, "a small red circle on grey"]
NEGATIVE = ["blurred", "", "a cat", "grey " * 90, "text"]
VOCAB = 600  # begins with "!" and ends with the end, as CLIP's


@cache
def learned() -> Tokenizer:
    tokens = Tokens()
    tokens.learn([*CAPTIONS, *NEGATIVE] * 3, VOCAB)
    return tokens.tokenizer


def clip_folder(folder: Path, pad: str) -> Path:
    """A CLIP tokenizer's folder, in the layout that the pipelines on the hub hold."""
    model = json.loads(learned().to_str())["model"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": pad}))
    return folder


@cache
def pieces() -> list[tuple[str, float]]:
    found = Tokenizer(models.Unigram())
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    found.train_from_iterator(CAPTIONS * 9, trainer)
    return [(piece, score) for piece, score in json.loads(found.to_str())["model"]["vocab"]]


def scrambled(theirs: Any) -> Any:
    for name, p in theirs.named_parameters():
        torch.nn.init.normal_(p, *((0.5, 0.3) if "norm" in name and "weight" in name else (0.0, 0.2)))
    return theirs.eval()


def clip(folder: Path, width: int, projected: bool, pad: str, **config: Any) -> tuple[Any, Any, Tokens, Text]:
    """Their tokenizer and encoder, and ours from the same folder and weights."""
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    small = {"vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 48, "projection_dim": width, "num_hidden_layers": 3}
    config = {**small, "num_attention_heads": 4, "eos_token_id": VOCAB - 1, **config}
    theirs = scrambled(kind(transformers.CLIPTextConfig(**config)))
    ours = Text(TextPlan.of(theirs.config.to_dict(), projected)).eval()
    ours.load_state_dict(theirs.state_dict())
    clip_folder(folder, pad)
    return transformers.CLIPTokenizer.from_pretrained(folder), theirs, Tokens.read(folder), ours


def t5_pair(folder: Path, length: int) -> tuple[Any, Any, Tokens, T5Encoder]:
    tokenizer = transformers.T5Tokenizer(vocab=pieces() + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))])
    tokenizer.save_pretrained(folder)
    small = {"vocab_size": 170, "d_model": 80, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
    theirs = scrambled(transformers.T5EncoderModel(transformers.T5Config(**small, feed_forward_proj="gated-gelu")))
    ours = T5Encoder(t5.Plan.of(theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    return tokenizer, theirs, Tokens.read(folder, length), ours


def close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None and expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """The pipelines say that they cut a prompt."""
    torch.manual_seed(0)
    loggers = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    with torch.no_grad():
        yield
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


def told(prompt: Prompt, **batch: Any) -> tuple[Condition, Condition]:
    """The condition, and the null condition."""
    batch = {"text": CAPTIONS, **batch}
    return prompt(batch), prompt(batch, drop=1.0)


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("config", [{"eos_token_id": 2}, {"hidden_act": "gelu", "eos_token_id": 2, "num_hidden_layers": 2}])
def test_stable_diffusion(tmp_path: Path, config: dict[str, Any], negative: list[str] | None) -> None:
    tokenizer, theirs, tokens, ours = clip(
        tmp_path / "tokenizer", 32, False, "!" if "hidden_act" in config else "<|endoftext|>", **config
    )
    parts = {"vae": None, "unet": None, "scheduler": None, "safety_checker": None, "feature_extractor": None}
    pipe = diffusers.StableDiffusionPipeline(text_encoder=theirs, tokenizer=tokenizer, requires_safety_checker=False, **parts)
    expected, null = pipe.encode_prompt(CAPTIONS, "cpu", 1, True, negative_prompt=negative)
    found, untold = told(stable_diffusion(tokens, ours), **({} if negative is None else {"negative": negative}))
    assert found.tokens is not None and found.tokens.shape == (5, 77, 32) and found.vector is None and found.mask is None
    close(found.tokens, expected)
    close(untold.tokens, null)
    states = theirs(
        tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt").input_ids, output_hidden_states=True
    )
    close(stable_diffusion(tokens, ours, skip=1)({"text": CAPTIONS}).tokens, theirs.final_layer_norm(states.hidden_states[-2]))


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("blank", [True, False])
def test_stable_diffusion_xl(tmp_path: Path, blank: bool, negative: list[str] | None) -> None:
    one = clip(tmp_path / "tokenizer", 32, False, "<|endoftext|>", eos_token_id=2)
    two = clip(tmp_path / "tokenizer_2", 40, True, "!", hidden_act="gelu")
    pipe = diffusers.StableDiffusionXLPipeline(
        None, one[1], two[1], one[0], two[0], None, None, force_zeros_for_empty_prompt=blank, add_watermarker=False
    )
    expected, null, vector, null_vector = pipe.encode_prompt(CAPTIONS, device="cpu", negative_prompt=negative)
    prompt = stable_diffusion_xl(one[2:], two[2:], sizes=(64, 48, 1, 2, 64, 64), blank=blank)
    found, untold = told(prompt, **({} if negative is None else {"negative": negative}))
    assert found.tokens is not None and found.tokens.shape == (5, 77, 72) and found.vector is not None
    sizes = torch.tensor([64.0, 48, 1, 2, 64, 64]).expand(5, -1)
    close(found.tokens, expected)
    close(found.vector, torch.cat([vector, sizes], 1))
    torch.testing.assert_close(untold.tokens, null, atol=1e-4, rtol=0)
    torch.testing.assert_close(untold.vector, torch.cat([null_vector, sizes], 1), atol=1e-4, rtol=0)
    assert bool((untold.tokens == 0).all()) == (blank and negative is None)
    other = prompt({"text": CAPTIONS, "numbers": 2 * sizes}).vector
    assert other is not None and torch.equal(other[:, -6:], 2 * sizes)


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("whole", [True, False])
def test_stable_diffusion_3(tmp_path: Path, whole: bool, negative: list[str] | None) -> None:
    one = clip(tmp_path / "tokenizer", 32, True, "<|endoftext|>", eos_token_id=2)
    two = clip(tmp_path / "tokenizer_2", 40, True, "!", hidden_act="gelu", eos_token_id=2)
    three = t5_pair(tmp_path / "tokenizer_3", 90)
    transformer: Any = diffusers.SD3Transformer2DModel(
        sample_size=4, num_layers=1, attention_head_dim=4, num_attention_heads=1, joint_attention_dim=80, caption_projection_dim=4
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer, None, None, one[1], one[0], two[1], two[0], three[1] if whole else None, three[0] if whole else None
    )
    expected, null, vector, null_vector = pipe.encode_prompt(
        CAPTIONS, None, None, device="cpu", negative_prompt=negative, max_sequence_length=90
    )
    prompt = stable_diffusion_3(one[2:], two[2:], Reading(*three[2:]) if whole else Silence(90, 80))
    found, untold = told(prompt, **({} if negative is None else {"negative": negative}))
    assert found.tokens is not None and found.tokens.shape == (5, 77 + 90, 80) and bool((found.tokens[:, :77, 72:] == 0).all())
    for mine, other in [(found.tokens, expected), (untold.tokens, null), (found.vector, vector), (untold.vector, null_vector)]:
        close(mine, other)


def test_flux(tmp_path: Path) -> None:
    one, two = clip(tmp_path / "tokenizer", 32, False, "<|endoftext|>", eos_token_id=2), t5_pair(tmp_path / "tokenizer_2", 120)
    pipe = diffusers.FluxPipeline(None, None, one[1], one[0], two[1], two[0], None)
    prompt = flux(one[2:], two[2:])
    found, untold = told(prompt, negative=NEGATIVE)
    for texts, mine in [(CAPTIONS, found), (NEGATIVE, untold)]:
        tokens, vector, _ = pipe.encode_prompt(texts, device="cpu", max_sequence_length=120)
        close(mine.tokens, tokens)
        close(mine.vector, vector)
    guided = flux(one[2:], two[2:], guidance=3.5)({"text": CAPTIONS}).vector
    assert found.vector is not None and guided is not None
    assert torch.equal(guided[:, :-1], found.vector) and bool((guided[:, -1] == 3.5).all())


def test_hidden_fill_is_told_as_a_mask(tmp_path: Path) -> None:
    """As PixArt's encoder is read."""
    tokenizer, theirs, tokens, ours = t5_pair(tmp_path, 30)
    found = Prompt([[Reading(tokens, ours, masked=True)]])({"text": CAPTIONS})
    given = tokenizer(CAPTIONS, padding="max_length", max_length=30, truncation=True, return_tensors="pt")
    close(found.tokens, theirs(**given).last_hidden_state)
    assert found.mask is not None and torch.equal(found.mask, given.attention_mask.bool())


# -- as every conditioner should -----------------------------------------------------------------------------------------


def small(blank: bool = False) -> Prompt:
    """A prompt of an encoder and a tokenizer of our own, which learns from captions."""
    plan = TextPlan(16, 32, 8, 2, 2, vocab_size=VOCAB, max_position_embeddings=12, eos_token_id=VOCAB - 1)
    reading = Reading(Tokens(length=12), Text(plan))
    return Prompt([[reading]], [reading], blank=blank, field="text", numbers=(1.0,))


def taught(blank: bool = False) -> Prompt:
    prompt = small(blank)
    prompt.learn(Split({"text": [f"a {size} circle" for size in ("red", "green", "blue", "grey", "cyan")] * 40}))
    return prompt


@pytest.mark.parametrize("blank", [True, False])
def test_some_rows_are_dropped(blank: bool) -> None:
    prompt = taught(blank)
    batch = {"text": ["a red circle", "a cat"] * 8, "negative": ["grey"] * 16}
    batch = batch if not blank else {"text": batch["text"]}
    every, none, some = prompt(batch), prompt(batch, drop=1.0), prompt(batch, drop=0.5, rng=Streams.of(0, 16))
    assert every.tokens is not None and none.tokens is not None and some.tokens is not None
    dropped = (some.tokens == none.tokens).flatten(1).all(1)
    assert 0 < int(dropped.sum()) < 16
    assert torch.equal(some.tokens[~dropped], every.tokens[~dropped])
    assert some.vector is not None and torch.equal(some.vector[:, -1], torch.ones(16))
    assert some.vector[dropped].ne(every.vector[dropped])[:, :-1].all()  # type: ignore[index]


def test_captions_are_kept_for_samples_nobody_said_anything_about() -> None:
    prompt, again = taught(), small()
    assert again.guess(Streams.of(0, 2)) == {"text": ["", ""]}
    again.load_state_dict(prompt.state_dict())
    guessed = again.guess(Streams.of(0, 40))
    assert guessed == prompt.guess(Streams.of(0, 40)) and len(set(guessed["text"])) == 5
    assert guessed["text"][3:5] == prompt.guess(Streams.of(0, 2, first=3))["text"]
    assert torch.equal(again(guessed).tokens, prompt(guessed).tokens)  # type: ignore[arg-type]


def test_gradients_reach_the_encoder() -> None:
    prompt = taught()
    with torch.enable_grad():
        found = prompt({"text": ["a red circle", "a red circle", "b"]})
        assert found.tokens is not None and found.vector is not None
        (found.tokens.square().sum() + found.vector.square().sum()).backward()
    assert all(p.grad is not None for p in prompt.parameters())


def test_a_system_is_told_and_comes_back() -> None:
    """Sampling under guidance by a negative prompt; then the same from a checkpoint, its tokenizer and captions included."""

    def system() -> System:
        torch.manual_seed(1)
        process = straight()
        net = DiT((1, 4, 4), 16, 1, 2, vector=9)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
        return System({"main": net}, Denoising(process, 0.1), Euler(process, (1, 4, 4), 2, 3.0), Pixels(2), small())

    one = system()
    one.learn(Split({"text": CAPTIONS}))
    about = {"text": ["a red circle"] * 3}
    plain, away = one.sample(3, about=about, batch=2), one.sample(3, about={**about, "negative": ["grey"] * 3}, batch=2)
    assert away["negative"] == ["grey"] * 3 and not torch.equal(plain["code"], away["code"])
    with torch.enable_grad():
        loss, _ = one.objective.phases()[0].move(one, {"image": torch.zeros(2, 1, 4, 4), "text": ["a", "b"]}, Streams.of(0, 2), 0)
        loss.backward()
    assert one.conditioner is not None and all(p.grad is not None for p in one.conditioner.parameters())
    again = system()
    restore(pack(one, Progress(Fit(steps=1), 0)), again)
    assert torch.equal(again.sample(3, about=about, batch=2)["code"], plain["code"])
    assert again.sample(5)["text"] == one.sample(5)["text"]


def test_its_embeddings_are_not_for_muon() -> None:
    prompt = small()
    inner = hidden(prompt)
    left = [name for name, p in prompt.named_parameters() if p.ndim == 2 and name not in inner]
    assert inner and [name.rsplit(".", 2)[1] for name in left] == ["token_embedding", "position_embedding", "text_projection"]


def test_words_in_brackets_count_more() -> None:
    reading = taught().readings[0]
    assert isinstance(reading, Reading)
    weighted = Weighted(reading)
    plain, _, vector = reading(["a red circle", "grey", ""])
    found, mask, same = weighted(["a (red:1.5) circle", "grey", ""])
    assert found.shape == plain.shape and mask.shape == plain.shape[:2] and vector is not None and same is not None
    moved = (found - plain).abs().amax(2) > 1e-4
    at = torch.tensor(reading.tokens.places(["a red circle"])[0])
    assert torch.equal(moved[0], (at >= 2) & (at < 5)) and int(moved[0].sum()) >= 1 and not bool(moved[1:].any())
    torch.testing.assert_close((found[0] - plain[2])[moved[0]], 1.5 * (plain[0] - plain[2])[moved[0]], atol=1e-4, rtol=0)
    torch.testing.assert_close(same, vector)
    assert torch.equal(weighted(["grey"])[0], reading(["grey"])[0])
    told = Prompt([[weighted]], [weighted], field="text")({"text": ["a (red:1.5) circle"]}).tokens
    assert told is not None and torch.allclose(told, found[:1], atol=1e-5)
    assert weighted.unheard(["(" + "red " * 90 + ":2)"])[0] == reading.unheard(["red " * 90])[0]


@pytest.mark.parametrize(
    ("text", "plain", "weights"),
    [
        ("a cat", "a cat", {}),
        ("a (cat)", "a cat", {2: 1.1, 4: 1.1}),
        ("a (cat:1.3) on", "a cat on", {2: 1.3, 4: 1.3}),
        ("(a [cat]:2)!", "a cat!", {0: 2.0, 1: 2.0, 2: 2 / 1.1, 4: 2 / 1.1}),
        ("((a))", "a", {0: 1.1 * 1.1}),
        (r"a \(cat\) \[b\] \\", "a (cat) [b] \\", {}),
        ("at 12:30 (now", "at 12:30 now", {9: 1.1, 11: 1.1}),
        ("a) ] cat:1.3)", "a) ] cat:1.3)", {}),
        ("(a: b)", "a: b", {0: 1.1, 3: 1.1}),
        ("(a:-.5)(b: 2 )", "ab", {0: -0.5, 1: 2.0}),
        ("", "", {}),
    ],
)
def test_marks_are_read(text: str, plain: str, weights: dict[int, float]) -> None:
    found, each = weigh(text)
    assert found == plain and len(each) == len(plain)
    for at, weight in weights.items():
        assert each[at] == pytest.approx(weight)
    assert sum(weight != 1 for weight in each) >= len(weights) and (weights or all(weight == 1 for weight in each))


def test_a_caller_says_one_text_or_several() -> None:
    prompt = taught()
    system: Any = SimpleNamespace(conditioner=prompt)
    said = fields_of(system, cast(Any, None), {"text": "a cat", "negative": ["a", "b"]}, 3)
    assert said == {"text": ["a cat"] * 3, "negative": ["a", "b", "a"]}
    with pytest.raises(UnknownName, match="text"):
        fields_of(system, cast(Any, None), {"caption": "a cat"}, 3)


def test_what_no_encoder_hears_is_said(tmp_path: Path) -> None:
    one, two = clip(tmp_path / "tokenizer", 32, False, "!"), t5_pair(tmp_path / "tokenizer_2", 120)
    short, both = stable_diffusion(*one[2:]), flux(one[2:], two[2:])
    long = "a cat " * 50 + "the end"
    assert short.unheard(["a cat", long])[0] == "" == both.unheard(["a cat", "the mat " * 2])[1]
    notes = short.notes({"text": ["a cat", long, long], "negative": ["", long + "!", ""]})
    assert len(notes) == 2 and all(note.startswith("no encoder hears the end of 'a cat a cat") for note in notes)
    assert short.notes({"text": ["a cat"]}) == []
    assert long.endswith(short.unheard([long])[0]) and len(both.unheard([long])[0]) <= len(short.unheard([long])[0])


def test_what_cannot_be_told_is_refused() -> None:
    prompt = taught()
    for batch, says in [
        ({"text": "a cat"}, "list of captions"),
        ({"text": []}, "list of captions"),
        ({"text": ["a"], "numbers": torch.ones(1, 2)}, r"numbers is of shape \(1, 2\)"),
    ]:
        with pytest.raises(ValueError, match=says):
            prompt(batch)
    for said in ("grey", ["grey"]):
        with pytest.raises(ValueError, match="one for each caption"):
            prompt({"text": ["a", "b"], "negative": said}, drop=1.0)
    with pytest.raises(ValueError, match="no 'text' to learn captions from; they have image"):
        small().learn(Split({"image": torch.zeros(1)}))
    with pytest.raises(ValueError, match="at least one reading"):
        Prompt([[]])
    with pytest.raises(ValueError, match="no CLIP"):
        reading = Reading(prompt.readings[0].tokens, T5Encoder(t5.Plan(VOCAB, 16, 4, 16, 1, 2)))  # type: ignore[arg-type]
        Prompt([[reading]], [reading])({"text": ["a"]})
