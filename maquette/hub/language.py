"""A folder with one published language model, config.json, safetensors and a tokenizer, as a system that writes as it does.

Knows the hub's files and what they say of beginnings, ends and sampling; the families are `families`', the tensors `renaming`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from maquette.codecs.published import Published as Codec
from maquette.conditioners.reader import Reader
from maquette.contracts import Conditioner, Network
from maquette.data import Data, Facts
from maquette.data.core import Split
from maquette.experiment import Experiment, Fit
from maquette.hub import families, renaming, weights
from maquette.hub.models import MODELS
from maquette.hub.pipelines import Published
from maquette.networks.own_mask import OwnMask
from maquette.networks.transformer import Transformer
from maquette.objectives.denoising import Denoising
from maquette.objectives.likelihood import NextToken
from maquette.processes.masked import Cloze, Masked
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.unmask import Unmask
from maquette.system import System

GENERATION = "generation_config.json"
NEW = 128  # symbols that are written where a model's files do not say


def is_one(folder: Path) -> bool:
    """Whether a folder holds a language model; the parts of pipelines that transformers writes are none.

    Raises:
        UnknownName: it does, of a family that is not built here.
        Unsafe, Damaged: as `weights.config`.
    """
    said = weights.config(folder) if (folder / "config.json").is_file() else {}
    if "model_type" not in said or any(name in MODELS for name in said.get("architectures") or ()):
        return False
    return bool(families.family_of(said))


def network(folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A folder's network with its weights, to be evaluated: a transformer, or T5's encoder and decoder.

    Args:
        dtype: of its weights; None = the files' own.

    Raises:
        UnknownName: a family, or a setting, that is not built here.
        ValueError: a configuration that asks for what is not built, by name and value.
        FileNotFoundError, Unsafe, Damaged, Unfit: as `renaming.fill`.
    """
    said = weights.config(folder)
    family, state = families.family_of(said), torch.get_rng_state()
    with weights.hollow():
        made = families.build(said)
    torch.set_rng_state(state)  # what modules drew before they were filled is nobody's
    told = families.full(said)
    harmless = (*family.harmless, *_beside(told))
    renaming.fill(made, family.table(told), folder, spelt=family.spelt, harmless=harmless, dtype=dtype)
    return made.eval()


def _beside(told: Mapping[str, Any]) -> list[str]:
    """Names that files may have besides: a second copy of what is tied, blocks ahead that are not run."""
    tied = ["lm_head.weight", "cls.predictions.decoder.*", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    layers = int(told.get("num_hidden_layers") or 0)
    ahead = [f"model.layers.{layers + i}.*" for i in range(int(told.get("num_nextn_predict_layers") or 0))]
    return (tied if told["tie_word_embeddings"] else tied[1:]) + ahead


def read(folder: Path, dtype: torch.dtype | None = None) -> Experiment:
    """A folder as a system that writes as its model does, and that learns like any other; its data is none.

    Weights are mapped, so the folder must stay. A T5 is told the text that it makes another of.

    Args:
        dtype: of the weights; None = the files' own.

    Raises:
        DataError: there is no tokenizer, or one that is not read here.
        UnknownName, ValueError, FileNotFoundError, Unsafe, Damaged, Unfit: as `network`.
    """
    said, made = families.full(weights.config(folder)), network(folder, dtype)
    told: Conditioner | None = None
    net = cast(Network, made["decoder"] if isinstance(made, nn.ModuleDict) else made)
    codec = codec_of(folder, said, whole=not cast(Transformer, net).causal)
    if isinstance(made, nn.ModuleDict):
        told = Reader(cast(Transformer, made["encoder"]), codec, context_of(said), kept=0)
    if codec.mask is None:
        system = System({"main": net}, NextToken(codec.bos), sampler_of(folder, codec), codec, told)
    else:
        drawn = Unmask(Masked(codec.vocab), steps=32, temperature=0.0, order="confidence", noise=0.0)
        net = OwnMask(net, codec.mask, codec.vocab)
        system = System({"main": net}, Denoising(Cloze(codec.vocab), drop=0.0), drawn, codec)
    system.eval()
    return Experiment(system, Data(_facts(folder), lambda: _no_rows(folder)), Fit(steps=1))


def context_of(said: Mapping[str, Any]) -> int:
    """Symbols that a model was made for."""
    return int(said.get("n_positions") or said.get("max_position_embeddings") or 512)


def codec_of(folder: Path, said: Mapping[str, Any], whole: bool = False) -> Codec:
    """A folder's tokenizer, and the symbols that begin and end its texts.

    Args:
        whole: texts are filled in and not written on.

    Raises:
        DataError: as `Codec.read`.
    """
    codec = Codec.read(folder, context_of(said), int(said["vocab_size"]), whole)
    chosen = {**said, **generation(folder)}
    if "d_model" in said and chosen.get("decoder_start_token_id") is None:  # what transformers takes T5's decoder to begin with
        codec.bos, codec.begins = int(chosen.get("pad_token_id", 0)), True
    return codec


def generation(folder: Path) -> dict[str, Any]:
    """What a folder's generation_config.json says, if there is one; what it leaves open is left out."""
    said = weights.config(folder, GENERATION) if (folder / GENERATION).is_file() else {}
    return {key: value for key, value in said.items() if value is not None}


def sampler_of(folder: Path, codec: Codec) -> Autoregressive:
    """Drawn as generation_config.json says; where it says nothing of it, from the model's own distribution."""
    said = generation(folder)
    length = min(codec.length, int(said.get("max_new_tokens") or NEW))
    if not said.get("do_sample", "do_sample" not in said):
        return Autoregressive(temperature=0.0, length=length)
    return Autoregressive(
        temperature=float(said.get("temperature", 1.0)),
        top_k=int(said.get("top_k", 50 if "do_sample" in said else 0)),
        top_p=float(said.get("top_p", 1.0)),
        min_p=float(said.get("min_p", 0.0)),
        length=length,
    )


def published(folder: Path) -> Published:
    """What a folder holds, from its configuration and the headers of its weights alone.

    Raises:
        UnknownName, ValueError, FileNotFoundError, Unsafe, Damaged: as `read`.
    """
    said = families.full(weights.config(folder))
    sizes = [math.prod(shape) for shapes in weights.find(folder).values() for shape in shapes.values()]
    record = {
        "recipe": families.family_of(said).name,
        "folder": str(folder),
        "parameters": {"main": sum(sizes)},
        "context": context_of(said),
        "data": {"field": "text"},
    }
    return Published(folder, record)


def _facts(folder: Path) -> Facts:
    return Facts(name=str(folder.resolve()), field="text", kind="own", licence="", attribution="", hash="", rows={})


def _no_rows(folder: Path) -> dict[str, Split]:
    raise ValueError(f"{folder} is a published model, which comes without data; give data of your own to learn or judge by")
