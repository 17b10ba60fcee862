"""Pipelines that diffusers saved, opened here: the same picture from the same noise, whole; and the way back."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from typer.testing import CliRunner

import maquette
from maquette import drawing
from maquette.cli import app
from maquette.codecs.chain import Chain
from maquette.codecs.pixels import Pixels
from maquette.data.tokens import Tokens
from maquette.dials import turned
from maquette.hub import export as publish
from maquette.hub import models as hub_models
from maquette.hub import pipelines
from maquette.hub.weights import Unfit, Unsafe
from maquette.networks.plans2d import Plan
from maquette.networks.unet2d import UNet2D
from maquette.objectives.denoising import Denoising
from maquette.processes.chain import Rise
from maquette.processes.gaussian import Betas, Gaussian, Velocity
from maquette.recipes import UnknownName
from maquette.runs import RunError
from maquette.samplers.solvers import DDIM, Ancestral, Solver
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
    blanked = {"force_zeros_for_empty_prompt": blank, "add_watermarker": False}
    return diffusers.StableDiffusionXLPipeline(
        vae(scaling_factor=0.13025), one, two, *words, net, SCHEDULERS["euler"](), **blanked
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
    return diffusers.DiTPipeline(scrambled(net), vae(), SCHEDULERS["ddim"]())


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
    say(tmp_path / "pipe" / "model_index.json", id2label={str(i): f"thing {i}" for i in range(1000)})
    found = maquette.load(tmp_path / "pipe")
    sampler = turned(found.system.sampler, {"steps": 1})
    assert found.sample(2, about={"label": ["thing 411", 7]}, sampler=sampler)["label"].tolist() == [411, 7]


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


# -- the verbs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder, which nobody writes to."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    stable_diffusion(folder).save_pretrained(folder / "pipe")
    return folder / "pipe"


def test_it_opens_and_samples_as_a_run_does(saved: Path) -> None:
    found = maquette.load(saved, size="16x24")
    assert found.facts.shape == (3, 16, 24) and found.run.record["recipe"] == "StableDiffusionPipeline"
    sampler = turned(found.system.sampler, {"steps": 2, "guidance": 5})
    batch = found.sample(2, about={"text": "a cat", "negative": "grey"}, seed=1, sampler=sampler)
    assert batch["image"].shape == (2, 3, 16, 24) and batch["text"] == ["a cat"] * 2
    begun = {"start": found.system.encode({"image": torch.full((1, 3, 16, 24), 0.4)}).detach()}
    varied = found.sample(1, prompt="a cat", start=begun["start"], sampler=replace(sampler, strength=0.5))  # type: ignore[type-var]
    assert varied["image"].shape == (1, 3, 16, 24)
    with pytest.raises(RunError, match="is a published pipeline"):
        _ = found.trained
    with pytest.raises(ValueError, match="comes without data"):
        _ = found.data.train


def test_the_shell_samples_shows_and_exports_one(saved: Path, tmp_path: Path) -> None:
    words = ["sample", str(saved), "--prompt", "a cat", "--set", "steps=2", "--set", "guidance=5", "-n", "2"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "x.png")], catch_exceptions=False)
    assert done.exit_code == 0 and (tmp_path / "x.png").stat().st_size > 100
    done = CliRunner().invoke(app, ["show", str(saved), "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["recipe"] == "StableDiffusionPipeline" and told["parts"]["unet"] == "UNet2DConditionModel"
    assert told["parameters"]["vae"] == sum(p.numel() for p in vae().parameters())
    done = CliRunner().invoke(app, ["export", str(saved), str(tmp_path / "again")], catch_exceptions=False)
    assert "diffusers.StableDiffusionPipeline.from_pretrained" in done.stdout
    files = [sorted(path.relative_to(at) for path in at.rglob("*.*")) for at in (saved, tmp_path / "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("scheduler", ["euler", *(pytest.param(each, marks=pytest.mark.slow) for each in ("ddim", "dpm++"))])
def test_a_picture_is_varied_as_theirs_varies_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    """From the shell to the pixels: a file, a size, a strength. Theirs draws latents where ours takes their mean: given those."""
    pipe = stable_diffusion(tmp_path, scheduler)
    pipe.save_pretrained(tmp_path / "pipe")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)).save(tmp_path / "a.png")
    words = [
        "sample",
        str(tmp_path / "pipe"),
        "--start",
        str(tmp_path / "a.png"),
        "--size",
        "24x16",
        "-n",
        "2",
        "--seed",
        str(SEED),
    ]
    dials = ["--set", "steps=5", "--set", "strength=0.6", "--prompt", CAPTIONS[0], "--out", str(tmp_path / "x.npz")]
    monkeypatch.setattr(drawing, "PATIENCE", -1.0)  # no picture of a real pipeline's is done within it
    done = CliRunner().invoke(app, [*words, *dials], catch_exceptions=False)
    assert done.exit_code == 0 and "step 1/3" in done.output
    found = maquette.load(tmp_path / "pipe", size="24x16")
    with torch.no_grad():
        latents = found.begun(tmp_path / "a.png", 2)["start"]
    other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    place = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img.randn_tensor"
    monkeypatch.setattr(place, lambda shape, **_: noise((4, 12, 8)))
    images = other([CAPTIONS[0]] * 2, image=latents, strength=0.6, num_inference_steps=5, output_type="np").images
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["image"].shape == (2, 3, 24, 16)
        assert float(np.abs(arrays["image"] - images.transpose(0, 3, 1, 2)).max()) < 0.5 / 255 + 2e-4


def test_the_shell_varies_and_fills_pictures_of_a_size(saved: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(tmp_path / "a.png")
    few = ["--prompt", "a cat", "--set", "steps=3", "--size", "16x24", "-n", "2"]
    words = ["sample", str(saved), *few, "--start", str(tmp_path / "a.png"), "--hide", "right", "--out", str(tmp_path / "x.npz")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    with np.load(tmp_path / "x.npz") as arrays, Image.open(tmp_path / "a.png") as given:
        seen = np.asarray(given).transpose(2, 0, 1)[:, :, :12]
        assert np.array_equal((arrays["image"][:, :, :, :12] * 255).round(), np.stack([seen] * 2))
    for more in (["--seed", "7", "--pick", "1"], ["--start", str(tmp_path / "a.png")]):
        done = CliRunner().invoke(
            app, ["vary", str(saved), *few, *more, "--out", str(tmp_path / "v.npz")], catch_exceptions=False
        )
        assert done.exit_code == 0
        with np.load(tmp_path / "v.npz") as arrays:
            assert arrays["image"].shape == (3, 3, 16, 24)


def again(folder: Path) -> Any:
    """As diffusers opens a folder."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


CHANGED = [
    stable_diffusion_xl,
    flux,
    *(pytest.param(each, marks=pytest.mark.slow) for each in (stable_diffusion, stable_diffusion_3)),
]


@pytest.mark.parametrize("make", CHANGED)
def test_what_was_changed_here_is_the_same_there(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    pipe = make(tmp_path)
    pipe.save_pretrained(tmp_path / "pipe")
    experiment = pipelines.read(tmp_path / "pipe", (16, 16))
    system = experiment.system
    rows = {"image": torch.rand(2, 3, 16, 16), "text": CAPTIONS}
    for phase in system.objective.phases():
        learned_here = system.turn(phase)
        loss, _ = phase.move(system, rows, Streams.of(0, 2), 0)
        loss.backward()
        with torch.no_grad():
            for p in learned_here:
                if p.grad is not None:
                    p -= 1e-3 * p.grad / (p.grad.norm() + 1e-6)
    publish.write(system, tmp_path / "pipe", tmp_path / "out")
    size = {"height": 16, "width": 16}
    start = noise((4, 8, 8))
    if make is flux:
        start = start.unflatten(2, (4, 2)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    expected = again(tmp_path / "out")(CAPTIONS, num_inference_steps=3, output_type="np", latents=start, **size).images
    found = drawn(system, 3, text=CAPTIONS)
    same(found, expected)
    assert not torch.equal(found, ours(tmp_path / "pipe", 3, (16, 16), text=CAPTIONS))
    with pytest.raises(FileExistsError):
        publish.write(system, tmp_path / "pipe", tmp_path / "out")
    system.nets["main"].added = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"added.* differs.*: merge what was added"):
        publish.write(system, tmp_path / "pipe", tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_a_system_of_our_own_is_drawn_by_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    plan = Plan(block_out_channels=(16, 32), attention=(False, True), norm_num_groups=8, attention_head_dim=8, layers_per_block=1)
    process = Gaussian(Betas(curve=Rise(single=True)), Velocity())
    solver = {"DDPM": Ancestral(process, (3, 8, 8), 5, clip=1.0), "DDIM": DDIM(process, (3, 8, 8), 5)}[kind]
    system = System({"main": scrambled(UNet2D(plan), 0.1)}, Denoising(process), solver, Pixels(), None)
    assert publish.compose(system, tmp_path / "pipe") == f"{kind}Pipeline"
    rng = Streams.of(SEED, 2).fork(1)
    for module in (f"pipelines.{kind.lower()}.pipeline_{kind.lower()}", f"schedulers.scheduling_{kind.lower()}"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: rng.normal(3, 8, 8))
    expected = again(tmp_path / "pipe")(batch_size=2, num_inference_steps=5, output_type="np").images
    same(drawn(system, 5), expected)
    same(ours(tmp_path / "pipe", 5), expected)


def test_a_pipeline_is_trained_on_and_goes_back(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.training._preview", lambda *_: None)
    (tmp_path / "data").mkdir()
    for i in range(12):
        Image.fromarray(np.array([[[20 * i, 9, 200]]], np.uint8).repeat(16, 0).repeat(16, 1)).save(tmp_path / "data" / f"{i}.png")
        (tmp_path / "data" / f"{i}.txt").write_text(f"grey of {i}")
    words = {"pipeline": str(saved), "data": str(tmp_path / "data"), "steps": 2, "batch": 4, "lr": 1e-3, "quiet": True}
    maquette.train("maquette.hub.finetune:finetune", out=tmp_path / "run", **words)
    found = maquette.load(tmp_path / "run")
    assert found.progress.step == 2 and set(found.system.frozen) == {"codec", "conditioner"}
    assert maquette.export(tmp_path / "run", tmp_path / "out") == "StableDiffusionPipeline"
    expected = theirs(again(tmp_path / "out"), (4, 8, 8), 3, **TOLD)
    same(drawn(found.system, 3, **ABOUT), expected)
    before, after = (load_file(at / "unet" / "diffusion_pytorch_model.safetensors") for at in (saved, tmp_path / "out"))
    assert before.keys() == after.keys() and not torch.equal(before["conv_in.weight"], after["conv_in.weight"])


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "pipe")
    return tmp_path / "pipe"


def say(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_a_tensor_that_is_missing_left_over_or_bent_is_named(broken: Path) -> None:
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    held = load_file(path)
    held["conv_out.biases"] = held.pop("conv_out.bias")
    held["conv_in.bias"] = held["conv_in.bias"][:3].contiguous()
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(Unfit, match=r"conv_out\.bias is missing") as caught:
        maquette.load(broken)
    assert "conv_out.biases is in the files alone" in str(caught.value) and "conv_in.bias is [3]" in str(caught.value)


def test_older_names_of_weights_are_read(broken: Path) -> None:
    """As the first Stable Diffusion's autoencoder has them, and its text encoder's buffer."""
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    held, before = load_file(path), ours(broken, 2, text=CAPTIONS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for now, was in old.items():
        held = {name.replace(f"attentions.0.{now}.", f"attentions.0.{was}."): tensor for name, tensor in held.items()}
    assert any("proj_attn" in name for name in held)
    save_file(held, path, metadata={"format": "pt"})
    path = broken / "text_encoder" / "model.safetensors"
    held = {name if name.startswith("text_model.") else "text_model." + name: each for name, each in load_file(path).items()}
    save_file({**held, "text_model.embeddings.position_ids": torch.arange(77)[None]}, path, metadata={"format": "pt"})
    assert torch.equal(ours(broken, 2, text=CAPTIONS), before)


def test_what_is_not_built_or_not_safe_is_refused_by_name(broken: Path) -> None:
    say(broken / "model_index.json", _class_name="StableDiffusionPipelines")
    with pytest.raises(UnknownName, match=r"'StableDiffusionPipelines'. Did you mean 'StableDiffusionPipeline'.*FluxPipeline"):
        maquette.load(broken)
    say(broken / "model_index.json", _class_name="StableDiffusionPipeline", unet=["my_code", "Net"])
    with pytest.raises(Unsafe, match="my_code"):
        maquette.load(broken)
    say(broken / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    say(broken / "scheduler" / "scheduler_config.json", _class_name="DDIMSchedulr")
    with pytest.raises(UnknownName, match="DDIMScheduler"):
        maquette.load(broken)
    say(broken / "unet" / "config.json", in_channels=9)
    with pytest.raises(ValueError, match=r"conv_in.weight is \[16, 4, 3, 3\] in the files"):
        maquette.load(broken)
    (broken / "vae" / "diffusion_pytorch_model.safetensors").rename(broken / "vae" / "diffusion_pytorch_model.bin")
    say(broken / "unet" / "config.json", in_channels=4)
    with pytest.raises(Unsafe, match="opening a pickle runs whatever it says"):
        maquette.load(broken)


def test_what_a_caller_gets_wrong_is_named(saved: Path, tmp_path: Path) -> None:
    for size, says in [("17", "nearest is 16"), ("2x3x4", "no size"), ("big", "no size")]:
        with pytest.raises(ValueError, match=says):
            maquette.load(saved, size=size)
    with pytest.raises(RunError, match="is a published pipeline"):
        maquette.evaluate(saved)
    with pytest.raises(ValueError, match="no checkpoint of step 3"):
        maquette.load(saved, step=3)
    with pytest.raises(RunError, match="one model, UNet2DConditionModel"):
        maquette.load(saved / "unet")
    assert isinstance(hub_models.read(saved / "unet"), UNet2D)
    with pytest.raises(UnknownName, match="diffusers"):
        maquette.export(saved, tmp_path / "out", to="coreml")
    for to, says in [
        ("onnx", "transformers of symbols"),
        ("hf", "transformers has no class"),
        ("gguf", "transformers has no class"),
    ]:
        with pytest.raises(ValueError, match=says):
            maquette.export(saved, tmp_path / "out", to=to)
    maquette.train("flow", out=tmp_path / "run", data="digits", steps=1, quiet=True)
    with pytest.raises(ValueError, match="diffusers has no class"):
        maquette.export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
