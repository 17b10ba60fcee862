"""The same weights, under the same names, give the same states, vectors and logits as transformers' CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maquette.contracts import Condition
from maquette.networks.clip import CLIP, Plan, Text, TextPlan, Vision, VisionPlan, seen

transformers = pytest.importorskip("transformers", reason="the reference is transformers' CLIP")
END = 95
TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "eos_token_id": END,
    "pad_token_id": 1,
}
VISION: dict[str, Any] = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 16,
    "patch_size": 4,
}
# what the published text encoders differ in: Stable Diffusion 1's, 2's (and OpenCLIP's), SDXL's second, the first of SD 3
OPENAI = {"hidden_act": "quick_gelu", "eos_token_id": 2}
OPEN = {"hidden_act": "gelu", "eos_token_id": 2, "num_hidden_layers": 2}
NEW = {"hidden_act": "gelu"}


def scrambled(theirs: Any) -> Any:
    """Random weights so large that differences show: theirs begin near 0."""
    torch.manual_seed(0)
    for name, p in theirs.named_parameters():
        if name != "logit_scale":
            torch.nn.init.normal_(p, *((0.5, 0.3) if "norm" in name and "weight" in name else (0.0, 0.2)))
    return theirs.eval()


def texts(rows: int = 5) -> torch.Tensor:
    """Symbols with a beginning, an end at different places, and after it, ends (SD 1), zeros (SDXL) and other symbols."""
    x = torch.randint(3, 90, (rows, 20), generator=torch.Generator().manual_seed(1))
    for row, (end, pad) in zip(x, [(19, 0), (4, END), (1, 0), (10, 7), (12, 94)], strict=True):
        row[end] = END
        row[end + 1 :] = pad
    return x


def text_pair(projected: bool, **config: Any) -> tuple[Any, Text]:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    theirs = scrambled(kind(transformers.CLIPTextConfig(**{**TEXT, **config})))
    ours = Text(TextPlan.of({**theirs.config.to_dict(), "architectures": [kind.__name__]})).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("config", [OPENAI, OPEN, NEW])
def test_texts_are_theirs(config: dict[str, Any], projected: bool) -> None:
    theirs, ours = text_pair(projected, **config)
    x = texts()
    with torch.no_grad():
        expected = theirs(x, output_hidden_states=True)
        close(ours(x), expected.last_hidden_state)
        tokens, vector = ours.read(x)
        close(tokens, expected.last_hidden_state)
        close(vector, expected.text_embeds if projected else expected.pooler_output)
        for skip in range(len(expected.hidden_states)):
            close(ours.read(x, skip=skip, norm=False)[0], expected.hidden_states[-1 - skip])
        norm = (theirs.text_model if projected else theirs).final_layer_norm
        close(ours.read(x, skip=1)[0], norm(expected.hidden_states[-2]))


def test_a_text_ends_where_theirs_does() -> None:
    """By the highest symbol where the configuration says 2, else by the end's first place: these texts tell the two apart."""
    x = texts()
    x[:, 0] = 98
    found = []
    for end in (2, END):
        theirs, ours = text_pair(False, eos_token_id=end)
        with torch.no_grad():
            found.append(ours.read(x)[1])
            close(found[-1], theirs(x).pooler_output)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_hidden_symbols_are_theirs() -> None:
    theirs, ours = text_pair(False)
    x, mask = texts(), torch.ones(5, 20, dtype=torch.bool)
    mask[1, 5:], mask[2, 2:] = False, False
    with torch.no_grad():
        found = ours(x, cond=Condition(mask=mask))
        close(found, theirs(x, attention_mask=mask.long()).last_hidden_state)
        assert (ours(x) - found)[1, 6:].abs().max() > 1e-2


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_images_are_theirs(act: str, projected: bool) -> None:
    kind = transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel
    theirs = scrambled(kind(transformers.CLIPVisionConfig(**VISION, hidden_act=act)))
    ours = Vision(VisionPlan.of(theirs.config.to_dict(), projected)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(x, output_hidden_states=True)
        tokens, vector = ours.read(x)
        close(tokens, expected.last_hidden_state)
        close(vector, expected.image_embeds if projected else expected.pooler_output)
        close(ours.read(x, skip=1)[0], expected.hidden_states[-2])
        close(ours(x), expected.last_hidden_state)


def both(**config: Any) -> tuple[Any, CLIP]:
    text, vision = ({**plan, "hidden_act": "gelu", "projection_dim": 512} for plan in (TEXT, VISION))
    theirs = scrambled(transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    ours = CLIP(Plan.of({**theirs.config.to_dict(), **config})).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_images_and_texts_are_compared_as_theirs() -> None:
    theirs, ours = both()
    image, text = torch.randn(4, 3, 16, 16), texts()
    with torch.no_grad():
        expected = theirs(input_ids=text, pixel_values=image)
        close(ours(image), expected.image_embeds)
        close(ours(text), expected.text_embeds)
        close(ours.compare(ours(image), ours(text)), expected.logits_per_image)
    assert torch.equal(expected.logits_per_image.argmax(1), ours.compare(ours(image), ours(text)).argmax(1))


def test_gradients_are_theirs() -> None:
    theirs, ours = both()
    image, text = torch.randn(5, 3, 16, 16), texts()
    theirs(input_ids=text, pixel_values=image, return_loss=True).loss.backward()
    logits, pairs = ours.compare(ours(image), ours(text)), torch.arange(5)
    loss = torch.nn.functional.cross_entropy
    ((loss(logits, pairs) + loss(logits.T, pairs)) / 2).backward()
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert p.grad is not None, name
        size = float(expected[name].grad.abs().max())
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4 * max(size, 1), rtol=0, msg=name)


@pytest.mark.parametrize("shape", [(16, 16), (40, 61), (61, 40), (13, 9), (33, 16)])
def test_images_are_prepared_as_theirs(shape: tuple[int, int]) -> None:
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    images = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = processor(list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt").pixel_values
    found = seen(images.float() / 255, 16)
    assert found.shape == expected.shape
    level = 1.001 / 255 / 0.26  # a number half way between two levels may fall to either
    assert (found - expected).abs().max() <= level and (found - expected).abs().gt(1e-5).float().mean() < 0.01


def test_old_configurations_say_a_tower_twice() -> None:
    """The first published file says 12 layers under one name and the truth under the other."""
    theirs, ours = both(text_config={"num_hidden_layers": 7}, text_config_dict={**TEXT, "hidden_act": "gelu"})
    assert len(ours.text_model.encoder.layers) == TEXT["num_hidden_layers"] == len(theirs.text_model.encoder.layers)


def test_a_published_file_opens_and_comes_back(tmp_path: Path) -> None:
    """With the numbers of its places, and under the names without the tower's that transformers 5 saves."""
    theirs, ours = text_pair(False)
    published = {f"text_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    again = Text(ours.plan).eval()
    again.load_state_dict({**published, "text_model.embeddings.position_ids": torch.arange(20)[None]})
    assert set(ours.state_dict()) == set(published)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in published.items())
    theirs.config.save_pretrained(tmp_path)
    save_file(ours.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    back = transformers.CLIPTextModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(back(texts()).last_hidden_state, theirs(texts()).last_hidden_state, atol=0, rtol=0)


def test_a_small_one_begins_sensibly_and_learns() -> None:
    torch.manual_seed(0)
    words = TextPlan(32, 64, None, 2, 4, vocab_size=50, max_position_embeddings=8, eos_token_id=1)
    net = CLIP(Plan(words, VisionPlan(32, 64, None, 2, 4, image_size=16, patch_size=8), projection_dim=16))
    image, text = torch.randn(8, 3, 16, 16), torch.randint(2, 50, (8, 8))
    text[:, -1] = 1
    losses = []
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(net.compare(net(image), net(text)), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 8 and losses[-1] < 0.5


@pytest.mark.parametrize(
    ("plan", "config", "says"),
    [
        (TextPlan, {"hidden_act": "relu"}, "hidden_act"),
        (TextPlan, {"model_type": "siglip_text_model"}, "siglip_text_model"),
        (TextPlan, {"attention_dropout": 0.1}, "attention_dropout"),
        (TextPlan, {"eos_token_id": [2, 3]}, "eos_token_id"),
        (TextPlan, {"num_attention_heads": 5, "hidden_size": 32}, "num_attention_heads"),
        (VisionPlan, {"image_size": [16, 32]}, "image_size"),
        (Plan, {"model_type": "chinese_clip"}, "chinese_clip"),
    ],
)
def test_what_is_not_built_is_refused_by_name(plan: Any, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan.of(config)


def test_what_does_not_fit_is_refused() -> None:
    text, vision = Text(TextPlan.of(TEXT)), Vision(VisionPlan.of(VISION))
    for call, says in [
        (lambda: text(torch.zeros(1, 21, dtype=torch.int64)), "21 symbols"),
        (lambda: text.read(texts(), skip=4), "skip is 4"),
        (lambda: vision(torch.zeros(1, 3, 8, 8)), r"\(3, 8, 8\)"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()
