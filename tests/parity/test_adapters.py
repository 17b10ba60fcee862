"""Adapters and learnt words as files: diffusers reads what is written here, and what it writes is read here.

Without peft diffusers reads an adapter's file but applies it to no module, so that W + B A is added to its modules by hand; with
peft its own `load_lora_weights` does it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import maquette
from maquette.cli import app
from maquette.data.subject import discs
from maquette.hub import lora, pipelines
from maquette.hub.weights import Unfit, Unsafe
from maquette.nn.lora import Adapted, matched
from maquette.storage import Damaged

diffusers = pytest.importorskip("diffusers", reason="the reference is diffusers' loaders")
pytest.importorskip("transformers")
from test_pipelines import (  # noqa: E402, the tiny pipelines are those of the pipelines' own tests
    ABOUT,
    CAPTIONS,
    TOLD,
    _quiet,  # noqa: F401
    again,
    drawn,
    flux,
    ours,
    same,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    theirs,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SD = "StableDiffusionPipeline"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    stable_diffusion(folder).save_pretrained(folder / "pipe")
    return folder / "pipe"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Five pictures of one thing."""
    (tmp_path / "few").mkdir()
    for i, picture in enumerate(discs(5)):
        Image.fromarray((picture.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(tmp_path / "few" / f"{i}.png")
    return tmp_path / "few"


def random_adapter(net: Any, rank: int = 3, alpha: float = 6.0, patterns: tuple[str, ...] = ()) -> Adapted:
    made = Adapted(net, matched(net, patterns) if patterns else matched(net), rank, alpha)
    for name in made.names:
        torch.nn.init.normal_(made.factors.get_submodule(name).lora_B.weight, std=0.1)
    return made


def applied(pipe: Any, part: str, folder: Path) -> None:
    """An adapter's file put onto a pipeline of theirs: by peft where it is installed, else W + B A of what they read."""
    if importlib.util.find_spec("peft"):
        pipe.load_lora_weights(folder)
        return
    state = type(pipe).lora_state_dict(str(folder))
    state = state[0] if isinstance(state, tuple) else state
    names = {key.removesuffix(".lora_A.weight").removeprefix(f"{part}.") for key in state if key.endswith(".lora_A.weight")}
    assert len(state) == 2 * len(names) and all(key.startswith(f"{part}.") for key in state)
    for name in names:
        up, down = (state[f"{part}.{name}.lora_{side}.weight"] for side in "BA")
        weight = getattr(pipe, part).get_submodule(name).weight
        with torch.no_grad():
            weight += (up.flatten(1) @ down.flatten(1)).view(weight.shape)


@pytest.mark.parametrize("patterns", [(), ("to_q", "conv1", "conv", "proj_in", "linear_1")])
def test_what_is_written_here_draws_the_same_there(saved: Path, tmp_path: Path, patterns: tuple[str, ...]) -> None:
    system = pipelines.read(saved).system
    before = drawn(system, 4, **ABOUT)
    system.nets["main"] = random_adapter(system.nets["main"], patterns=patterns)
    found = drawn(system, 4, **ABOUT)
    assert (found - before).abs().max() > 0.05
    lora.save({"unet": system.nets["main"]}, tmp_path)
    pipe = again(saved)
    applied(pipe, "unet", tmp_path)
    same(found, theirs(pipe, (4, 8, 8), 4, **TOLD))
    with pytest.raises(FileExistsError):
        lora.save({"unet": system.nets["main"]}, tmp_path)


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3, flux])
def test_other_pipelines_read_their_own_names(tmp_path: Path, make: Any) -> None:
    pipe = make(tmp_path)
    pipe.save_pretrained(tmp_path / "pipe")
    kind, part = type(pipe).__name__, "unet" if hasattr(pipe, "unet") else "transformer"
    system = pipelines.read(tmp_path / "pipe", (16, 16)).system
    adapter = random_adapter(system.nets["main"])
    lora.save({part: adapter}, tmp_path / "lora")
    state = type(pipe).lora_state_dict(str(tmp_path / "lora"))
    state = state[0] if isinstance(state, tuple) else state
    theirs_too = {name for name, each in getattr(pipe, part).named_modules() if isinstance(each, torch.nn.Linear)}
    assert {key.removeprefix(f"{part}.").rpartition(".lora_")[0] for key in state} == set(adapter.names) <= theirs_too
    merged = pipelines.read(tmp_path / "pipe", (16, 16)).system
    assert lora.adapt(merged, kind, tmp_path / "lora") == len(adapter.names)
    system.nets["main"] = adapter
    torch.testing.assert_close(drawn(merged, 3, text=CAPTIONS), drawn(system, 3, text=CAPTIONS), atol=1e-4, rtol=0)


def layers(module: Any, rank: int, *suffixes: str) -> dict[str, torch.Tensor]:
    """Random factors under peft's names, as diffusers' training scripts hand them to `save_lora_weights`."""
    found = {}
    for name, each in module.named_modules():
        if isinstance(each, torch.nn.Linear) and name.endswith(suffixes):
            found[f"{name}.lora_A.weight"] = torch.randn(rank, each.in_features) * 0.1
            found[f"{name}.lora_B.weight"] = torch.randn(each.out_features, rank) * 0.2
    return found


@pytest.mark.parametrize("alpha", [0, 8])
def test_what_diffusers_writes_draws_the_same_here(saved: Path, tmp_path: Path, alpha: int) -> None:
    """Network and text encoder, with the scale that peft's metadata say, or none."""
    pipe = again(saved)
    parts = {"unet": layers(pipe.unet, 4, "to_q", "to_v", "to_out.0")}
    parts["text_encoder"] = layers(pipe.text_encoder, 4, "q_proj", "fc1")
    said = {f"{part}_lora_layers": state for part, state in parts.items()}
    if alpha:
        said |= {f"{part}_lora_adapter_metadata": {"lora_alpha": alpha, "r": 4} for part in parts}
    pipe.save_lora_weights(tmp_path, **said)
    for part, state in parts.items():
        for name in {key.partition(".lora_")[0] for key in state}:
            with torch.no_grad():
                weight = getattr(pipe, part).get_submodule(name).weight
                weight += (alpha or 4) / 4 * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    system = pipelines.read(saved).system
    before = drawn(system, 4, **ABOUT)
    assert lora.adapt(system, SD, tmp_path) == sum(map(len, parts.values())) // 2
    found = drawn(system, 4, **ABOUT)
    assert (found - before).abs().max() > 0.05
    same(found, theirs(pipe, (4, 8, 8), 4, **TOLD))


def test_names_that_older_files_have_are_read(saved: Path, tmp_path: Path) -> None:
    """Diffusers' own before peft, peft's alone, and kohya's with its alphas."""
    net = pipelines.read(saved).system.nets["main"]
    first = next(name for name in matched(net) if name.endswith("to_q"))
    down, up = torch.randn(2, net.get_submodule(first).in_features), torch.randn(net.get_submodule(first).out_features, 2)
    path, flat = first.rpartition(".")[0], first.replace(".", "_")
    files: dict[str, dict[str, torch.Tensor]] = {
        "a": {f"unet.{first}.lora.down.weight": down, f"unet.{first}.lora.up.weight": up},
        "b": {f"unet.{path}.processor.to_q_lora.down.weight": down, f"unet.{path}.processor.to_q_lora.up.weight": up},
        "c": {f"base_model.model.{first}.lora_A.weight": down, f"base_model.model.{first}.lora_B.weight": up},
        "d": {f"lora_unet_{flat}.lora_down.weight": down, f"lora_unet_{flat}.lora_up.weight": up,
              f"lora_unet_{flat}.alpha": torch.tensor(1.0)},
    }  # fmt: skip
    for name, held in files.items():
        (tmp_path / name).mkdir()
        save_file({key: tensor.contiguous() for key, tensor in held.items()}, tmp_path / name / lora.FILE)
    (tmp_path / "c" / lora.FILE).rename(tmp_path / "c" / lora.PEFT)
    (tmp_path / "c" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3, "r": 2}))
    for name, scale in {"a": 1.0, "b": 1.0, "c": 1.5, "d": 0.5}.items():
        system = pipelines.read(saved).system
        was = system.nets["main"].get_submodule(first).weight.detach().clone()
        assert lora.adapt(system, SD, tmp_path / name) == 1
        change = system.nets["main"].get_submodule(first).weight.detach() - was
        torch.testing.assert_close(change, scale * up @ down, atol=1e-5, rtol=0)


def test_an_adapter_for_another_base_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    system = pipelines.read(saved).system
    before = {name: p.clone() for name, p in system.nets["main"].named_parameters()}
    first = matched(system.nets["main"])[0]
    other = {"unet.mid_block.attentions.3.to_q.lora_A.weight": torch.ones(2, 8),
             "unet.mid_block.attentions.3.to_q.lora_B.weight": torch.ones(8, 2),
             f"unet.{first}.lora_A.weight": torch.ones(2, 9), f"unet.{first}.lora_B.weight": torch.ones(16, 2)}  # fmt: skip
    save_file(other, tmp_path / lora.FILE)
    with pytest.raises(Unfit, match=r"another base than this StableDiffusionPipeline") as caught:
        lora.adapt(system, SD, tmp_path)
    assert "unet has no layer mid_block.attentions.3.to_q" in str(caught.value)
    assert f"unet.{first} is (16, 16); the file's factors are (16, 2) and (2, 9)" in str(caught.value)
    assert all(torch.equal(p, before[name]) for name, p in system.nets["main"].named_parameters())
    for held, error, says in [
        ({"unet.a.lora_magnitude_vector": torch.ones(2)}, Damaged, "lora_magnitude_vector"),
        ({"unet.a.lora_A.weight": torch.ones(2, 2)}, Damaged, "one factor without the other: unet.a"),
    ]:
        save_file(held, tmp_path / lora.FILE)
        with pytest.raises(error, match=says):
            lora.read(tmp_path)
    (tmp_path / lora.FILE).write_bytes(b"\x00" * 20)
    with pytest.raises(Damaged):
        lora.read(tmp_path)
    (tmp_path / lora.FILE).rename(tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(Unsafe, match=r"pytorch_lora_weights\.bin"):
        lora.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        lora.read(tmp_path / "nowhere")


# -- recipes that tune a pipeline ----------------------------------------------------------------------------------------


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.training._preview", lambda *_: None)
    solver = pipelines.Parts.solver
    monkeypatch.setattr(pipelines.Parts, "solver", lambda self, shape, steps, *a, **k: solver(self, shape, 2, *a, **k))


@pytest.mark.usefixtures("_fast")
def test_dreambooth_of_a_pipeline_goes_back_as_an_adapter(saved: Path, few: Path, tmp_path: Path) -> None:
    how = {"run": str(saved), "images": str(few), "kind": "disc", "pictures": 4, "batch": 4, "lr": 1e-2}
    maquette.train("dreambooth", out=tmp_path / "run", steps=3, quiet=True, **how)
    found = maquette.load(tmp_path / "run")
    assert found.system.nets["main"].net is found.system.nets["base"] and found.data.facts.shape == (3, 16, 16)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out")], catch_exceptions=False)
    assert "diffusers.StableDiffusionPipeline.load_lora_weights opens it" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == [lora.FILE]
    pipe = again(saved)
    before = theirs(pipe, (4, 8, 8), 4, **TOLD)
    applied(pipe, "unet", tmp_path / "out")
    expected = theirs(pipe, (4, 8, 8), 4, **TOLD)
    assert np.abs(expected - before).max() > 1e-3
    same(drawn(found.system, 4, **ABOUT), expected)
    merged = pipelines.read(saved).system
    lora.adapt(merged, SD, tmp_path / "out")
    same(drawn(merged, 4, **ABOUT), expected)


@pytest.mark.usefixtures("_fast")
def test_a_learnt_word_goes_back_as_its_vector(saved: Path, few: Path, tmp_path: Path) -> None:
    how = {"run": str(saved), "images": str(few), "word": "<it>", "like": "circle", "batch": 4, "lr": 0.5}
    maquette.train("textual_inversion", out=tmp_path / "run", steps=2, quiet=True, **how)
    assert maquette.export(tmp_path / "run", tmp_path / "out") == f"{SD}.load_textual_inversion"
    assert {name: tuple(vector.shape) for name, vector in load_file(tmp_path / "out" / lora.WORDS).items()} == {"<it>": (32,)}
    pipe = again(saved)
    said = ["a small <it> on grey", "<it>"]
    pipe.load_textual_inversion(tmp_path / "out")
    system = maquette.load(tmp_path / "run").system
    same(drawn(system, 4, text=said), theirs(pipe, (4, 8, 8), 4, prompt=said))
    assert not torch.equal(drawn(system, 4, text=said), ours(saved, 4, text=said))
    assert torch.equal(drawn(system, 4, text=CAPTIONS), ours(saved, 4, text=CAPTIONS))
    with pytest.raises(ValueError, match="which is one symbol of the prompt's tokenizer"):
        maquette.train("textual_inversion", out=tmp_path / "two", steps=1, quiet=True, **{**how, "word": "red"})
