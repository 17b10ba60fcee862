"""Texts named by their kinds, from a trained language model or from nothing."""

from __future__ import annotations

from maquette.codecs.text import BPE
from maquette.data.opening import open_data
from maquette.data.packages import labelled
from maquette.experiment import Experiment, Fit
from maquette.networks.classifier import Classifier
from maquette.networks.transformer import Transformer
from maquette.objectives.naming import Naming
from maquette.recipes._causal import SIZE, heads_of
from maquette.recipes._idle import refuse_idle
from maquette.recipes.masked_language import BOTH_WAYS
from maquette.runs import trained
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread; of 100 labels, after 44: .50
EXPECTED = {"accuracy": (0.4, 1.0)}


def text_classifier(
    run: str = "",
    data: str = "packages",
    rows: int = 0,
    depth: int = 4,
    vocab: int = 4096,
    context: int = 128,
    tune: bool = True,
) -> Experiment:
    """A classifier of texts: an encoder that learnt to guess words, and one linear layer of its mean (Devlin 2018, sec. 3.2).

    Without a run the encoder begins from nothing: what pre-training is worth is the difference.

    Args:
        run: a run of bert or diffusion_lm, whose network and symbols are taken over; "" = from nothing.
        data: a built-in set of texts with kinds, or JSONL rows with "text" and "label".
        rows: training texts, as many of each kind as can be; 0 = all.
        depth: blocks, without a run.
        vocab: symbols of the BPE, without a run.
        context: symbols of a text that are read, without a run.
        tune: whether the encoder of a run learns, too; else only the layer on top does.
    """
    refuse_idle("text_classifier", locals(), "depth vocab context" if run else "tune", f"with{'' if run else 'out'} a run")
    opened = open_data(data)
    if opened.facts.field != "text" or not opened.facts.classes:
        raise ValueError(f"text_classifier names the kinds of texts, and data {data!r} has none; `packages` has")
    if run:
        encoder, codec = encoder_of(run)
    else:
        codec, heads = BPE(vocab, context), heads_of(depth)
        encoder = Transformer(vocab + 1, heads * SIZE, depth, heads, out=None, causal=False, style=BOTH_WAYS)
    kept = bool(run) and not tune
    system = System(
        {"main": Classifier(encoder.width, len(opened.facts.classes)), "encoder": encoder},
        Naming(codec.length),
        None,
        codec,
        frozen=("encoder", "codec") if kept else ("codec",) if run else (),
    )
    fit = Fit(steps=300, batch=32, lr=2e-2 if kept else 1e-3, warmup=0.1, weight_decay=0.01, bf16=True)
    return Experiment(system, labelled(opened, rows), fit, EXPECTED)


def encoder_of(run: str) -> tuple[Transformer, BPE]:
    """The network of a run without its scores, and its symbols.

    Raises:
        ValueError: a run of another kind.
    """
    found, experiment = trained(run)
    net, codec = dict(experiment.system.nets.items()).get("main"), experiment.system.codec
    if not isinstance(net, Transformer) or net.causal or not isinstance(codec, BPE):
        raise ValueError(
            f"run {run} is of {found.record['recipe']}; an encoder is a run of bert or diffusion_lm with symbols of BPE"
        )
    return net.headless(), codec
