"""Low-rank adapters and learnt words as files that diffusers and peft load, and theirs read back. Trains nothing.

Knows the names and scales that the formats use; which module a name belongs to is the pipeline's business (`pipelines.KINDS`).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maquette.hub.pipelines import KINDS
from maquette.hub.weights import Unfit, Unsafe
from maquette.nn.lora import Adapted, Low, merge
from maquette.storage import Damaged
from maquette.system import System

FILE, PEFT, WORDS = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors"
METADATA = "lora_adapter_metadata"  # in the header, where diffusers keeps peft's configuration
SIZES = ".lora_magnitude_vector"
_NAMED = 8
# how published files have called the two factors of a layer, oldest last
_SPELT = (
    (re.compile(r"(?P<name>.+)\.lora_(?P<side>[AB])(\.default)?\.weight"), ""),
    (re.compile(r"(?P<name>.+)\.lora\.(?P<side>down|up)\.weight"), ""),
    (re.compile(r"(?P<name>.+)\.lora_linear_layer\.(?P<side>down|up)\.weight"), ""),
    (re.compile(r"(?P<name>.+)\.processor\.(?P<leaf>to_(q|k|v|out))_lora\.(?P<side>down|up)\.weight"), "processor"),
    (re.compile(r"(?P<name>lora_\w+)\.lora_(?P<side>down|up)\.weight"), "kohya"),
)
_KOHYA = {"lora_unet_": "unet.", "lora_transformer_": "transformer.", "lora_te_": "text_encoder."}
_KOHYA |= {"lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2.", "lora_te3_": "text_encoder_3."}


def save(adapters: Mapping[str, Adapted], out: Path) -> Path:
    """Write adapters by their part's name, "unet" or "transformer", as `pipe.load_lora_weights(out)` reads them.

    The scale is folded into the second factor, for readers take it that alpha is the rank where a file does not say.

    Raises:
        FileExistsError: there is such a file in the folder.
    """
    held: dict[str, Tensor] = {}
    for part, adapter in adapters.items():
        for name in adapter.names:
            low = adapter.change(name)
            held[f"{part}.{name}.lora_A.weight"] = low.down.detach().cpu().contiguous()
            held[f"{part}.{name}.lora_B.weight"] = (low.up.detach() * low.scale).cpu().contiguous()
    return _written(held, out / FILE)


def save_words(vectors: Mapping[str, Tensor], out: Path) -> Path:
    """Write the vectors [D] of new words, as `pipe.load_textual_inversion(out)` reads them.

    Raises:
        FileExistsError: there is such a file in the folder.
    """
    return _written({word: vector.detach().cpu().contiguous() for word, vector in vectors.items()}, out / WORDS)


def _written(held: dict[str, Tensor], path: Path) -> Path:
    if path.exists():
        raise FileExistsError(f"{path} is there already; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(held, path, metadata={"format": "pt"})
    return path


def read(path: Path) -> dict[str, Low]:
    """The changes in a file, or in a folder that has one, by the layer's name as the file has it, part first.

    Raises:
        FileNotFoundError: there is none.
        Unsafe: there is, as a pickle alone.
        Damaged: the file is cut short, or holds one factor of a layer without the other.
        Unfit: it holds what is no low-rank change (a bias, a product of Hadamard).
    """
    path = _found(path)
    try:
        with safe_open(path, "pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            said = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path} is no whole safetensors file: {error}") from None
    beside = path.with_name("adapter_config.json")
    if path.name == PEFT and beside.is_file():
        said = json.loads(beside.read_text())
    sides: dict[str, dict[str, Tensor]] = {}
    alphas = {name.removesuffix(".alpha"): float(tensor) for name, tensor in held.items() if name.endswith(".alpha")}
    strange = []
    sized = {key.removesuffix(SIZES).removeprefix("base_model.model."): key for key in held if key.endswith(SIZES)}
    for key, tensor in held.items():
        if key.endswith((".alpha", SIZES)):
            continue
        name, side = _spelt(key)
        if not name:
            strange.append(key)
        sides.setdefault(name, {})[side] = tensor
    if strange:
        raise Unfit(f"{path} holds what is no low-rank factor: {_listed(strange)}")
    halves = [name for name, pair in sides.items() if len(pair) != 2]
    if halves:
        raise Damaged(f"{path} holds one factor without the other: {_listed(halves)}")
    alphas = {_spelt(f"{name}.lora_down.weight")[0] or name: alpha for name, alpha in alphas.items()}
    if odd := [key for name, key in sized.items() if name not in sides]:
        raise Damaged(f"{path} holds the sizes of rows that it does not change: {_listed(odd)}")
    return {
        name: Low(pair["A"], pair["B"], _scale(name, len(pair["A"]), alphas, said), held[sized[name]] if name in sized else None)
        for name, pair in sides.items()
    }


def base_of(path: Path) -> str:
    """Which model an adapter is for, as peft's files say it; "" where they do not."""
    beside = (path if path.is_dir() else path.parent) / "adapter_config.json"
    said = json.loads(beside.read_text()) if beside.is_file() else {}
    return str(said.get("base_model_name_or_path") or "")


def _found(path: Path) -> Path:
    if path.is_dir():
        for name in (FILE, PEFT):
            if (path / name).is_file():
                return path / name
        single = sorted(path.glob("*.safetensors"))
        if len(single) == 1:
            return single[0]
        pickles = [each.name for each in sorted(path.iterdir()) if each.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles:
            raise Unsafe(f"{path} has {_listed(pickles)} and no safetensors: opening a pickle runs whatever it says")
        raise FileNotFoundError(f"{path} has no {FILE} and no {PEFT}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix != ".safetensors":
        raise Unsafe(f"{path} is no .safetensors: only those are read, for opening a pickle runs whatever it says")
    return path


def _spelt(key: str) -> tuple[str, str]:
    """The layer's name and "A" or "B", from a tensor's name; ("", "") where it is neither factor."""
    for pattern, kind in _SPELT:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        name = match["name"]
        if kind == "processor":
            name += f".{match['leaf']}" + (".0" if match["leaf"] == "to_out" else "")
        if kind == "kohya":
            start = next((start for start in _KOHYA if name.startswith(start)), "")
            if not start:
                return "", ""
            name = _KOHYA[start] + name.removeprefix(start)
        return name.removeprefix("base_model.model."), {"down": "A", "up": "B"}.get(match["side"], match["side"])
    return "", ""


def _scale(name: str, rank: int, alphas: Mapping[str, float], said: Mapping[str, Any]) -> float:
    """By how much a layer's change is scaled: alpha / rank, where a file says an alpha."""
    if name in alphas:
        return alphas[name] / rank
    part, _, inner = name.partition(".")
    own = {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")} or said
    alpha = own.get("lora_alpha", rank)
    for pattern, value in (own.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", inner):
            alpha = value
    return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)


# -- onto a pipeline -----------------------------------------------------------------------------------------------------


def adapt(system: System, kind: str, path: Path, times: float = 1.0) -> int:
    """Merge a file's changes into a system that was opened from a pipeline; returns how many layers changed.

    Args:
        kind: the pipeline's class, "StableDiffusionPipeline".
        times: how much of the changes: 1 as they are, 0 nothing.

    Raises:
        Unfit: layers that this pipeline does not have, or of another shape: an adapter for another base. Nothing is changed.
        FileNotFoundError, Unsafe, Damaged: as `read`.
    """
    modules = dict(_parts(system, kind))
    wanted: dict[str, dict[str, Low]] = {part: {} for part in modules}
    for name, low in read(path).items():
        part, inner = _placed(name, modules)
        wanted[part][inner] = low
    wrong = [line for part, changes in wanted.items() for line in _misfits(part, modules[part], changes)]
    if wrong:
        more = f"\n  and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        lines = "\n  ".join(wrong[:_NAMED])
        raise Unfit(f"{path} is an adapter for another base than this {kind}:\n  {lines}{more}")
    for part, changes in wanted.items():
        merge(modules[part], changes, times)
    return sum(map(len, wanted.values()))


def _parts(system: System, kind: str) -> Iterator[tuple[str, nn.Module]]:
    """The pipeline's parts that a file may change, the network first."""
    for part, place in sorted(KINDS[kind].places.items(), key=lambda each: each[1] != "nets.main"):
        if part in ("unet", "transformer") or part.startswith("text_encoder"):
            try:
                yield part, system.get_submodule(place)
            except AttributeError:
                continue  # a pipeline that was saved without it


def _placed(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """Part and layer of a name; peft's own files name no part, and mean the network."""
    part, _, inner = name.partition(".")
    if part not in modules:
        part, inner = next(iter(modules)), name
    layers = {each for each, module in modules[part].named_modules() if hasattr(module, "weight")}
    if inner not in layers:
        for said in (f"text_model.{inner}", inner.removeprefix("text_model.")):
            if said in layers:
                return part, said
        flat = {each.replace(".", "_"): each for each in layers}  # kohya's names have lost their dots
        inner = flat.get(inner, inner)
    return part, inner


def _misfits(part: str, module: nn.Module, changes: Mapping[str, Low]) -> Iterator[str]:
    layers = {name: each.weight for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    for name, low in changes.items():
        weight = layers.get(name)
        if weight is None:
            near = difflib.get_close_matches(name, list(layers), 1, 0.7)
            yield f"{part} has no layer {name}" + (f"; nearest is {near[0]}" if near else "")
            continue
        rank, whole = len(low.down), (low.up.flatten(1).shape, low.down.flatten(1).shape)
        if whole != ((len(weight), rank), (rank, weight[0].numel())):
            theirs = f"{tuple(low.up.shape)} and {tuple(low.down.shape)}"
            yield f"{part}.{name} is {tuple(weight.shape)}; the file's factors are {theirs}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
