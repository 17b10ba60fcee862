"""What recipes that tune a language model share: a run or a published model as what is tuned, its symbols for turns, its adapter.

Knows causal transformers over text; the folder's catalogue passes this file over.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from maquette.codecs.text import OVER, TURNS, Bytes, Pieces, Text
from maquette.contracts import Network
from maquette.data import Data
from maquette.experiment import Fit
from maquette.hub import language, written
from maquette.hub.finetune import PROJECTIONS
from maquette.networks.transformer import Transformer
from maquette.nn.lora import Adapted, matched, whole
from maquette.nn.packed import quantised
from maquette.runs import trained
from maquette.samplers.autoregressive import Autoregressive

PLAIN = (nn.Embedding, nn.Linear)


@dataclass(frozen=True)
class Ground:
    """What is tuned: a causal network with its weights, its symbols, how it writes, and how fast to tune all of it.

    fresh: how many of its last symbols are new, and have to be learnt.
    rows: a run's own data, as it learnt from them; None = it is no run.
    """

    net: Transformer
    codec: Text
    sampler: Autoregressive
    fit: Fit
    fresh: int = 0
    rows: Data | None = None


def ground(recipe: str, run: str, context: int, adapter: str = "", talks: bool = True) -> Ground:
    """A run, or a folder of transformers' models, to be tuned or learnt from.

    Args:
        context: symbols of a row; 0 = as many as it reads, at most 512 of a published model.
        adapter: a folder of peft's, which a published model is changed by before.
        talks: a run without symbols for the turns of a conversation is given some.

    Raises:
        Unfit: the adapter is for another base.
        RunError: no such run, or none of its checkpoints can be used.
        ValueError: it is no causal model of text; or a context that it does not read.
    """
    folder, name, rows = Path(run).resolve(), "", None
    if published := not (folder / "run.json").is_file() and language.is_one(folder):
        system, fit = language.read(folder, torch.float32).system, Fit(steps=1000, batch=8, lr=1e-5, betas=(0.9, 0.999))
    else:
        found, experiment = trained(run)
        system, name, rows = experiment.system, str(found.record["recipe"]), experiment.data
        fit = Fit(steps=400, batch=16, lr=1e-3, betas=(0.9, 0.99), decay=0.5, bf16=experiment.fit.bf16)
    net, codec = whole(cast(Network, system.steady("main"))), system.codec
    if adapter and not published:
        raise ValueError(f"adapter is {adapter!r}, which changes a published model; {run} is a run")
    if adapter:
        written.onto(net, folder, Path(adapter).resolve())
    if system.conditioner is not None or not (isinstance(net, Transformer) and net.causal) or not isinstance(codec, Text):
        what = f"a run of {name}" if name else "no causal model"
        raise ValueError(
            f"{run} is {what}, which {recipe} cannot use; it needs a causal model of text, such as a run of gpt or sft"
        )
    if not 0 <= context <= codec.length:
        raise ValueError(f"context is {context}; {run} reads 1 .. {codec.length} symbols, nearest is {codec.length}")
    sampler = system.sampler if isinstance(system.sampler, Autoregressive) else Autoregressive()
    if published:
        codec.length = context or min(512, codec.length)
        return Ground(net, codec, sampler, fit)
    if codec.converses or not talks or not isinstance(codec, Bytes | Pieces):  # a published one has what its files say
        codec.length = context or codec.length
        return Ground(net, codec, sampler, fit, rows=rows)
    talking = conversing(codec, context or codec.length)
    return Ground(_grown(net, codec, talking), talking, sampler, fit, len(TURNS))


def conversing(codec: Text, length: int) -> Text:
    """The same symbols, and those of turns behind them."""
    names = [name for name in codec.special if name not in ("<|endoftext|>", *TURNS)]
    if isinstance(codec, Bytes):
        return Bytes(length, (*names, *TURNS))
    assert isinstance(codec, Pieces)
    made = type(codec)(codec.vocab + len(TURNS), length, (*names, *TURNS))
    made.keep(codec.tokenizer)
    return made


def alike(one: Text, other: Text) -> bool:
    """Whether two codecs write texts and turns in the same symbols."""
    return one.special == other.special and one.begins == other.begins and one.spelling() == other.spelling()


@torch.no_grad()
def _grown(net: Transformer, codec: Text, talking: Text) -> Transformer:
    """A network with further symbols: each begins as the mean of those that spell its name, a turn's end as a text's."""
    made, more = copy.deepcopy(net), talking.vocab - codec.vocab
    spelt = [codec.tokenize([name.strip("<|>")])[0] for name in TURNS]
    spelt[TURNS.index(OVER)] = [codec.bos]

    def longer(weight: Tensor) -> nn.Parameter:
        return nn.Parameter(torch.cat([weight, *(weight[row].mean(0, keepdim=True) for row in spelt[-more:])]))

    assert made.out == codec.vocab
    made.embed.weight, made.embed.num_embeddings, made.out = longer(made.embed.weight), talking.vocab, talking.vocab
    if made.head is not None:
        made.head.weight, made.head.out_features = longer(made.head.weight), talking.vocab
    if made.head_bias is not None:
        made.head_bias = longer(made.head_bias[:, None])
        made.head_bias.data = made.head_bias.data[:, 0]
    return made


def tuned(base: Ground, rank: int, alpha: float, sizes: bool = False, bits: int = 0) -> tuple[Network, Network]:
    """What learns, and the network as it was: an adapter on that, or, where the rank is 0, a copy.

    Args:
        sizes: the adapter's rows have sizes of their own.
        bits: that the network's matrices lie in while the adapter learns; 0 = they stay as they are.

    Raises:
        ValueError: a rank below 0; sizes, bits or alpha without an adapter.
    """
    if rank < 0:
        raise ValueError(f"rank is {rank}; it must be 0 or more, 0 = no adapter")
    if not rank:
        if sizes or bits or alpha:
            said = f"bits is {bits}" if bits else "dora is on" if sizes else f"alpha is {alpha}"
            raise ValueError(f"{said}, and rank is 0: all weights would learn; give a rank above 0 for an adapter")
        return copy.deepcopy(base.net).requires_grad_(True), base.net
    if bits not in (0, 16, 8, 4):
        near = min((16, 8, 4), key=lambda each: abs(each - bits))
        raise ValueError(f"bits is {bits}; allowed are 0 (as they are), 16, 8 and 4, nearest is {near}")
    net = cast(Transformer, quantised(base.net, bits)) if bits else base.net
    fresh = {name: base.fresh for name in ("embed", "head") if base.fresh and isinstance(getattr(net, name), PLAIN)}
    return Adapted(net, matched(net, PROJECTIONS), rank, alpha, sizes=sizes, fresh=fresh), net


def rates(base: Ground, rank: int, share: float = 1.0) -> Fit:
    """How fast an adapter learns, or all of the weights; `share` of that."""
    return replace(base.fit, lr=share * (max(2e-4, 5 * base.fit.lr) if rank else base.fit.lr))
