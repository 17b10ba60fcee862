"""Models that hold a conversation: one recipe per published system."""

from __future__ import annotations

from maquette.codecs.text import TURNS
from maquette.data import open_data
from maquette.data.dialogues import QUALITIES
from maquette.data.ratings import marks, rating
from maquette.experiment import Experiment, Fit
from maquette.objectives.likelihood import NextToken
from maquette.recipes._causal import small, tokenizer_of
from maquette.samplers.autoregressive import Autoregressive
from maquette.samplers.ranked import Ranked
from maquette.samplers.rules import Rules
from maquette.system import System

# by itself, after 300 training seconds on one CPU thread; two runs: .747 and .711, +.735 and +.699, .993 and 1
LAMDA = {"grounded": (0.4, 1.0), "gained by tools": (0.3, 1.0), "safe": (0.9, 1.0)}


def lamda(data: str = "dialogues", of: int = 8, context: int = 256, depth: int = 4) -> Experiment:
    """LaMDA: one model that answers and rates answers, its own too, and calls a calculator (Thoppilan 2022, arXiv:2201.08239).

    It draws several answers, leaves out those it holds to be unsafe, and keeps the one it finds most sensible, specific and
    interesting. What it would work out it calls for, "<<347*28=9716>>": what stands behind the "=" is the calculator's, unless
    that is turned off (`--set tools=`).

    Args:
        data: questions with answers, and with a rating of another answer each: dialogues.
        of: answers drawn for each that is kept.
        context: symbols of a row, which several questions and answers share.
        depth: blocks.
    """
    opened = open_data(data)
    if not {*QUALITIES} <= {*opened.facts.rates}:
        raise ValueError(
            f"lamda learns from answers that were rated, and data {data!r} has none that say what is "
            f"{', '.join(QUALITIES)}; dialogues has"
        )
    codec = tokenizer_of("lamda", "bytes", 0, context, (*TURNS, *marks(QUALITIES)))
    sampler = Ranked(of, own=Autoregressive(rules=Rules(tools="calculator")))
    system = System({"main": small(codec, depth)}, NextToken(codec.bos), sampler, codec)
    fit = Fit(steps=900, batch=16, lr=1e-2, betas=(0.9, 0.99), decay=0.5, muon=0.02, bf16=True)
    return Experiment(system, rating(opened, codec, codec.length, QUALITIES), fit, LAMDA, within=300)
