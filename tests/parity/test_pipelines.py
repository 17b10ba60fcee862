"""Pipelines that diffusers saved, opened here: the same picture from the same noise, whole; and the way back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from maquette.codecs.chain import Chain
from maquette.data.tokens import Tokens
from maquette.hub import pipelines
from maquette.samplers.solvers import Solver
from maquette.streams import Streams
from maquette.system import System

transformers = pytest.importorskip("transformers", reason="the references are transformers' encoders ...")
diffusers = pytest.importorskip("diffusers", reason="... in diffusers' pipelines")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # theirs hands numpy a tensor
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
VOCAB, SEED = 600, 3
CAPTIONS = ["a small red circle on grey", "A Cat!"]
NEGATIVE = ["blurred", "grey"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.manual_seed(0)
    loggers = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    yield
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


# -- tiny pipelines, as diffusers makes them -----------------------------------------------------------------------------


@cache
def learned() -> Any:
    tokens = Tokens()
    tokens.learn([*CAPTIONS, *NEGATIVE] * 3, VOCAB)
    return json.loads(tokens.tokenizer.to_str())["model"]


def clip_tokens(folder: Path) -> Any:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(learned()["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in learned()["merges"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": "<|endoftext|>"}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


@cache
def t5_tokens() -> Any:
    found = Tokenizer(models.Unigram())
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    found.train_from_iterator([*CAPTIONS, *NEGATIVE] * 9, trainer)
    pieces = [(piece, score) for piece, score in json.loads(found.to_str())["model"]["vocab"]]
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    return transformers.T5Tokenizer(vocab=pieces + extra)


def scrambled(theirs: Any, spread: float = 0.2) -> Any:
    """Weights large enough that every part of a picture shows."""
    for name, p in theirs.named_parameters():
        torch.nn.init.normal_(p, *((1.0, 0.1) if "norm" in name and name.endswith("weight") else (0.0, spread)))
    return theirs.eval()


def clip(width: int, projected: bool = False, **config: Any) -> Any:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    small = {"vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 32, "projection_dim": width}
    more = {"num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1}
    return scrambled(kind(transformers.CLIPTextConfig(**{**small, **more, **config})))


def t5(width: int) -> Any:
    small = {"vocab_size": 170, "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return scrambled(transformers.T5EncoderModel(transformers.T5Config(**small, feed_forward_proj="gated-gelu")))


def vae(latent: int = 4, **config: Any) -> Any:
    down, up = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
    small = {"block_out_channels": (16, 32), "norm_num_groups": 8, "latent_channels": latent, "layers_per_block": 1}
    return scrambled(diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, **{**small, **config}), 0.08)


def unet(words: int, **config: Any) -> Any:
    small: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": words, "attention_head_dim": 2,
    }  # fmt: skip
    return scrambled(diffusers.UNet2DConditionModel(**{**small, **config}), 0.1)


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ),
    "ddim as old files say it": lambda: diffusers.DDIMScheduler(beta_schedule="scaled_linear"),
    "pndm": lambda: diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ),
    "euler": lambda: diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    ),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, use_karras_sigmas=True
    ),
}


def stable_diffusion(folder: Path, scheduler: str = "ddim") -> Any:
    return diffusers.StableDiffusionPipeline(
        vae(), clip(32), clip_tokens(folder / "of"), unet(32), SCHEDULERS[scheduler](), None, None, requires_safety_checker=False
    )


def stable_diffusion_xl(folder: Path, blank: bool = True) -> Any:
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 40 + 48}
    shape = {"transformer_layers_per_block": (1, 2), "use_linear_projection": True, "attention_head_dim": (2, 4)}
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    one, two = clip(32, eos_token_id=2), clip(40, True, hidden_act="gelu")
    words = (clip_tokens(folder / "one"), clip_tokens(folder / "two"))
    net = unet(72, down_block_types=down, up_block_types=up, **told, **shape)
    return diffusers.StableDiffusionXLPipeline(
        vae(scaling_factor=0.13025),
        one,
        two,
        *words,
        net,
        SCHEDULERS["euler"](),
        force_zeros_for_empty_prompt=blank,
        add_watermarker=False,
    )


def stable_diffusion_3(folder: Path, whole: bool = True) -> Any:
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=80, caption_projection_dim=16, pooled_projection_dim=72, pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip
    codec = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305)
    encoders = (clip(32, True), clip_tokens(folder / "1"), clip(40, True, hidden_act="gelu"), clip_tokens(folder / "2"))
    three = (t5(80), t5_tokens()) if whole else (None, None)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.StableDiffusion3Pipeline(scrambled(net), scheduler, codec, *encoders, *three)


def flux(folder: Path, guided: bool = True) -> Any:
    net = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=80,
        pooled_projection_dim=32, guidance_embeds=guided, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    codec = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guided, shift=3.0 if guided else 1.0)
    encoders = (clip(32), clip_tokens(folder / "1"), t5(80), t5_tokens())
    return diffusers.FluxPipeline(scheduler, codec, *encoders, scrambled(net))


def dit() -> Any:
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8
    )
    return diffusers.DiTPipeline(scrambled(net), vae(), SCHEDULERS["ddim"](), id2label={i: f"thing {i}" for i in range(1000)})


def pixel_net(**config: Any) -> Any:
    small = {"sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return scrambled(diffusers.UNet2DModel(**small, down_block_types=down, up_block_types=up, **config), 0.1)


# -- both sides ----------------------------------------------------------------------------------------------------------


def noise(shape: tuple[int, ...], n: int = 2) -> torch.Tensor:
    """What a sample of ours begins with."""
    return Streams.of(SEED, n).fork(1).normal(*shape)


def ours(folder: Path, steps: int, size: tuple[int, int] | None = None, n: int = 2, **how: Any) -> torch.Tensor:
    """Pictures [n,C,H,W] in 0..1 as they are before they are rounded."""
    system = pipelines.read(folder, size).system
    return drawn(system, steps, n, **how)


def drawn(system: System, steps: int, n: int = 2, guidance: float | None = None, **about: Any) -> torch.Tensor:
    solver = system.sampler
    assert isinstance(solver, Solver)
    solver = replace(solver, steps=steps, guidance=solver.guidance if guidance is None else guidance)
    batch = system.sample(n, about=about or None, seed=SEED, sampler=solver)
    with torch.no_grad():
        code = batch["code"]
        image = ((system.codec.inner.decode(code) if isinstance(system.codec, Chain) else code) + 1) / 2
    rounded = image.clamp(0, 1)
    assert (batch["image"] - rounded).abs().max() <= 0.5 / 255 + 1e-6
    return rounded


def same(found: torch.Tensor, expected: Any) -> None:
    want = torch.from_numpy(np.asarray(expected)).permute(0, 3, 1, 2)
    inside = ((want > 0.01) & (want < 0.99)).float().mean()
    assert want.std() > 0.05 and inside > 0.3, f"too plain to tell: {want.std():.3f}, {inside:.2f}"
    print(f"largest difference {float((found - want).abs().max()):.2e}")
    torch.testing.assert_close(found, want, atol=1e-4, rtol=0)


def theirs(pipe: Any, shape: tuple[int, ...], steps: int, **how: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe(num_inference_steps=steps, output_type="np", latents=noise(shape), **how).images


TOLD: dict[str, Any] = {"prompt": CAPTIONS, "negative_prompt": NEGATIVE}
ABOUT: dict[str, Any] = {"text": CAPTIONS, "negative": NEGATIVE}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_stable_diffusion(tmp_path: Path, scheduler: str) -> None:
    pipe = stable_diffusion(tmp_path, scheduler)
    pipe.save_pretrained(tmp_path / "pipe")
    same(ours(tmp_path / "pipe", 5, **ABOUT), theirs(pipe, (4, 8, 8), 5, **TOLD))


def test_stable_diffusion_of_another_size_and_scale(tmp_path: Path) -> None:
    pipe = stable_diffusion(tmp_path)
    pipe.save_pretrained(tmp_path / "pipe")
    found = ours(tmp_path / "pipe", 4, (16, 24), guidance=3.0, text=CAPTIONS)
    same(found, theirs(pipe, (4, 8, 12), 4, prompt=CAPTIONS, guidance_scale=3.0, height=16, width=24))


@pytest.mark.parametrize("blank", [True, False])
def test_stable_diffusion_xl(tmp_path: Path, blank: bool) -> None:
    pipe = stable_diffusion_xl(tmp_path, blank)
    pipe.save_pretrained(tmp_path / "pipe")
    about, told = (ABOUT, TOLD) if not blank else ({"text": CAPTIONS}, {"prompt": CAPTIONS})
    same(ours(tmp_path / "pipe", 4, **about), theirs(pipe, (4, 8, 8), 4, **told))


@pytest.mark.parametrize("whole", [True, False])
def test_stable_diffusion_3(tmp_path: Path, whole: bool) -> None:
    pipe = stable_diffusion_3(tmp_path, whole)
    pipe.save_pretrained(tmp_path / "pipe")
    same(ours(tmp_path / "pipe", 4, **ABOUT), theirs(pipe, (4, 8, 8), 4, **TOLD))


@pytest.mark.parametrize("guided", [True, False])
def test_flux(tmp_path: Path, guided: bool) -> None:
    pipe = flux(tmp_path, guided)
    pipe.save_pretrained(tmp_path / "pipe")
    packed = noise((4, 8, 8)).unflatten(2, (4, 2)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    told: dict[str, Any] = {"prompt": CAPTIONS, "height": 16, "width": 16, "latents": packed, "output_type": "np"}
    about: dict[str, Any] = {"text": CAPTIONS}
    if not guided:
        about, told = {**ABOUT, "guidance": 2.0}, {**told, "negative_prompt": NEGATIVE, "true_cfg_scale": 2.0}
    same(ours(tmp_path / "pipe", 4, (16, 16), **about), pipe(num_inference_steps=4, **told).images)


def test_dit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = dit()
    pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: noise((4, 8, 8)))
    expected = pipe(class_labels=[7, 411], num_inference_steps=4, output_type="np").images
    same(ours(tmp_path / "pipe", 4, label=torch.tensor([7, 411])), expected)
    assert pipelines.read(tmp_path / "pipe").data.facts.classes[411] == "thing 411"


def test_ddpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = diffusers.DDPMPipeline(pixel_net(), diffusers.DDPMScheduler(clip_sample=True))
    pipe.save_pretrained(tmp_path / "pipe")
    rng = Streams.of(SEED, 2).fork(1)
    for module in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_ddpm"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: rng.normal(3, 8, 8))
    same(ours(tmp_path / "pipe", 6), pipe(batch_size=2, num_inference_steps=6, output_type="np").images)


def test_ddim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = diffusers.DDIMPipeline(pixel_net(), diffusers.DDPMScheduler(clip_sample=True))
    pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: noise((3, 8, 8)))
    same(ours(tmp_path / "pipe", 6), pipe(batch_size=2, num_inference_steps=6, output_type="np").images)


def test_latent_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = diffusers.VQModel(
        block_out_channels=(16, 32), norm_num_groups=8, latent_channels=3, num_vq_embeddings=32,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    pipe = diffusers.LDMPipeline(scrambled(codec, 0.08), pixel_net(), SCHEDULERS["ddim"]())
    pipe.save_pretrained(tmp_path / "pipe")
    module = "diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise((3, 8, 8)))
    same(ours(tmp_path / "pipe", 4), pipe(batch_size=2, num_inference_steps=4, output_type="np").images)
