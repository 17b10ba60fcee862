"""Autoregressive models of pixels: exact likelihoods, one level at a time."""

from __future__ import annotations

import copy

from maquette.codecs.pixels import Levels
from maquette.conditioners.label import Labels
from maquette.contracts import Network
from maquette.data import Data, open_data
from maquette.experiment import Experiment, Fit
from maquette.networks.pixelcnn import PixelCNN
from maquette.networks.pixelrnn import DiagonalBiLSTM, PixelRNN, RowLSTM
from maquette.objectives.likelihood import NextToken
from maquette.recipes import UnknownName
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/dim": (1.5, 1.90), "FD-mlp128-64": (0.4, 1.5)}
EXPECTED_RNN = {"bits/dim": (1.65, 1.95), "FD-mlp128-64": (1.2, 3.8)}  # one run: 1.831 and 2.79

LAYERS = {"diagonal": DiagonalBiLSTM, "row": RowLSTM}


def pixelcnn(
    data: str = "digits",
    size: int = 0,
    depth: int = 6,
    dropout: float = 0.25,
    drop: float = 0.0,
    sight: int = 2,
    parts: int = 0,
) -> Experiment:
    """Gated PixelCNN: exact likelihood of images, told the label where there is one (van den Oord 2016, arXiv:1606.05328).

    Masked convolutions in a vertical and a horizontal stack; a softmax over the grey levels of each pixel and channel, in
    raster order, red before green before blue. The label biases every gate.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: gated layers; features grow with it.
        dropout: share of feature maps hidden in training; less suits more data.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
        sight: pixels that the first layer sees up, left and right; 6 suits strokes in black and white, 32 pixels a side.
        parts: 0 = the softmax; else logistics in a mixture over the levels (Salimans 2017, arXiv:1701.05517), 5 or 10.
    """
    opened = _pictures("pixelcnn", data, size, depth, dropout)
    facts = opened.facts
    channels, height, width = facts.shape
    if not 1 <= sight <= max(height, width):
        raise ValueError(f"sight is {sight} pixels; allowed are 1 .. {max(height, width)}, and 2 is the default")
    if parts < 0:
        raise ValueError(f"parts is {parts}; it must be 0 (a softmax) or more, and 5 is usual")
    conditioner = Labels(facts.shares) if facts.classes else None
    told = conditioner.width if conditioner else 0
    net = PixelCNN(
        (channels, height, width), facts.levels, 8 * depth, depth, told=told, reach=(sight, 1), dropout=dropout, parts=parts
    )
    fit = Fit(steps=600, batch=64, lr=6e-3, weight_decay=0.01, bf16=True)
    return Experiment(_system(net, opened, conditioner, drop), opened, fit, EXPECTED)


def pixelrnn(
    data: str = "digits", size: int = 0, layer: str = "row", depth: int = 2, dropout: float = 0.5, drop: float = 0.0
) -> Experiment:
    """PixelRNN: exact likelihood of images by recurrences over rows or diagonals (van den Oord 2016, arXiv:1601.06759).

    A masked 7x7 convolution, residual LSTM layers, two masked 1x1 convolutions, a softmax over the levels; red before green
    before blue. The label, where there is one, biases every gate.

    Args:
        data: a built-in image set, or a folder of images.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        layer: row = the Row LSTM, which sees a triangle; diagonal = the Diagonal BiLSTM, which sees all that came before and
            takes twice the time for it.
        depth: the one dial: layers; units grow with it.
        dropout: share of feature maps hidden in training; less suits more data.
        drop: chance that a training row is not told its label; above 0 makes guidance possible.
    """
    opened = _pictures("pixelrnn", data, size, depth, dropout)
    facts = opened.facts
    if layer not in LAYERS:
        raise UnknownName("layer of pixelrnn", layer, list(LAYERS))
    conditioner = Labels(facts.shares) if facts.classes else None
    told = conditioner.width if conditioner else 0
    net = PixelRNN(facts.shape, facts.levels, LAYERS[layer], 16 * depth, depth, told, dropout)
    fit = Fit(steps=400, batch=64, lr=3e-3, weight_decay=0.3)
    return Experiment(_system(net, opened, conditioner, drop), opened, fit, EXPECTED_RNN)


def _pictures(recipe: str, data: str, size: int, depth: int, dropout: float) -> Data:
    """The data, which must be images; and dials that every recipe here has, in range."""
    opened = open_data(data, size)
    if opened.facts.field != "image":
        raise ValueError(f"{recipe} models images, and data {data!r} holds {opened.facts.field}")
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in 0 .. 1 (without 1), and 0.25 suits small data")
    return opened


def _system(net: Network, data: Data, conditioner: Labels | None, drop: float) -> System:
    channels, height, width = data.facts.shape
    codec = Levels((channels, height, width), data.facts.levels)
    return System(
        {"main": net, "ema": copy.deepcopy(net)},
        NextToken(codec.bos, drop),
        Autoregressive(),
        codec,
        conditioner,
        follow={"ema": ("main", 0.999)},
    )
