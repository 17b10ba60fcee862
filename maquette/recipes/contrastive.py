"""Pictures beside their captions, in one space: one recipe per published system."""

from __future__ import annotations

from dataclasses import replace

from maquette.codecs.pixels import Pixels
from maquette.conditioners.symbols import Symbols
from maquette.data import Facts
from maquette.experiment import Experiment, Fit
from maquette.networks.clip import CLIP
from maquette.networks.clip_plans import Plan, TextPlan, VisionPlan
from maquette.objectives.contrastive import Contrastive
from maquette.recipes.pictures import VOCAB, captioned
from maquette.system import System

HEAD = 32  # channels of an attention's head
# after 120 training seconds on the default data, one CPU thread: seeds 0 and 1 reached .897 .. .905
CLIP_BAND = {"retrieval@1 of 100, text to image": (0.75, 1.0), "retrieval@1 of 100, image to text": (0.75, 1.0)}


def clip(data: str = "scenes", size: int = 0, depth: int = 4, patch: int = 4, words: int = 16) -> Experiment:
    """CLIP: a picture's and a caption's vectors, close where the two belong together (Radford 2021, arXiv:2103.00020).

    Two transformers, one of patches and one of symbols, learn together from captioned pictures alone; then a class can be told
    by its name, a picture found by a caption, samples ordered by how well they show theirs. It draws nothing. Unlike there,
    rows of equal captions are not each other's negatives.

    Args:
        data: a built-in set of captioned images, or a folder of yours.
        size: side in pixels that images are brought to; 0 keeps them as they are.
        depth: the one dial: blocks of the tower of pictures, half as many of the other; channels grow with it.
        patch: pixels to a side that one token of a picture stands for.
        words: symbols of a caption that are read.
    """
    opened = captioned("clip", data, size, depth)
    system = comparing(opened.facts, depth, patch, words)
    return Experiment(system, opened, Fit(steps=1000, batch=256, lr=2e-3, muon=0.02, bf16=True), CLIP_BAND, 120)


def comparing(facts: Facts, depth: int, patch: int, words: int) -> System:
    """A CLIP of such pictures, untrained."""
    channels, *sides = facts.shape
    if not 1 <= patch <= max(sides):
        raise ValueError(f"patch is {patch}; it must be in 1 .. {max(sides)}, the pictures' longer side")
    if words < 3:
        raise ValueError(f"words is {words}; a caption has at least 3 symbols: its beginning, one, its end")
    width = HEAD * depth
    texts = TextPlan(width, 4 * width, None, -(-depth // 2), depth, vocab_size=VOCAB, max_position_embeddings=words)
    texts = replace(texts, eos_token_id=VOCAB - 1)
    side = -(-max(sides) // patch) * patch
    images = VisionPlan(width, 4 * width, None, depth, depth, num_channels=channels, image_size=side, patch_size=patch)
    net = CLIP(Plan(texts, images, projection_dim=width))
    return System({"main": net}, Contrastive(), None, Pixels(facts.levels), Symbols(words, VOCAB, kept=0))
