"""Baselines are what they say: a copier copies, a Gaussian has the rows' moments, independent pixels keep each pixel's values."""

from __future__ import annotations

import itertools
import json
import lzma
import math

import pytest
import torch

from maquette import api
from maquette.baselines import bare, compressed, copies, drawn, gaussian, independent, judge_baselines, most_similar, pixel_bits
from maquette.data import open_data
from maquette.streams import Streams


def rows(n: int = 4000, d: int = 3) -> torch.Tensor:
    noise = Streams.of(0, n).normal(d)
    return noise @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.0, 0.0, 0.3]])[:d] * 0.1 + 0.5


def test_gaussian_has_the_rows_moments():
    real = rows()
    made = gaussian(real, Streams.of(1, len(real)))
    assert torch.allclose(made.mean(0), real.mean(0), atol=0.01)
    assert torch.allclose(made.T.cov(), real.T.cov(), atol=8e-4)


def test_gaussian_of_few_rows_stays_in_their_span():
    real = rows(2)
    made = gaussian(real, Streams.of(1, 2)) - real.mean(0)
    direction = real[0] - real[1]
    across = made - (made @ direction)[:, None] * direction / direction.dot(direction)
    assert across.abs().max() < 1e-6


def test_independent_pixels_keep_marginals_and_lose_covariance():
    real = rows()
    made = independent(real, Streams.of(1, len(real)))
    for pixel in range(3):
        assert set(made[:, pixel].tolist()) <= set(real[:, pixel].tolist())
    assert torch.allclose(made.std(0), real.std(0), rtol=0.05)
    assert made.T.corrcoef()[0, 1].abs() < 0.05 < real.T.corrcoef()[0, 1].abs()


def test_samples_keep_each_rows_label():
    data = open_data("digits")
    evidence = drawn(data, copies)
    train = data.train.all()
    assert torch.equal(evidence.samples["label"], train["label"])
    assert torch.allclose(evidence.samples["image"], train["image"])


def test_pixel_bits_against_counting_by_hand():
    data = open_data("digits")
    found = pixel_bits(data)
    train, held = data.train.all(), data.held.all()
    total = 0.0
    for image, label in zip(held["image"][:5].flatten(1), held["label"][:5], strict=True):
        same = train["image"].flatten(1)[train["label"] == label]
        for pixel in range(64):
            count = int(((same[:, pixel] - image[pixel]).abs() < 1e-4).sum())
            total -= math.log2((count + 0.5) / (len(same) + 0.5 * data.facts.levels))
    data.held.columns["image"], data.held.columns["label"] = (data.held.columns[k][:5] for k in ("image", "label"))
    assert pixel_bits(data)["bits/dim given label"]["value"] == pytest.approx(total / 320, rel=1e-5)
    assert found["bits/dim given label"]["value"] < found["bits/dim"]["value"] < math.log2(17)


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"Entry {i}. " + "The quick brown fox jumps over the lazy dog. " * 20)
    return str(folder)


def test_xz_gains_from_having_seen_the_text(notes):
    data = open_data(notes)
    held = "\n".join(data.held.columns["text"]).encode()
    alone = 8 * len(lzma.compress(held)) / len(held)
    assert 0 < compressed(data)["value"] < alone / 2


def test_texts_made_from_texts_are_copied_and_looked_up(tmp_path):
    words = [
        {"red": "rot", "green": "gruen", "grey": "grau", "dark": "dunkel", "old": "alt"},
        {"house": "Haus", "tree": "Baum", "sea": "Meer"},
    ]
    words += [
        {"stands": "steht", "sleeps": "schlaeft", "burns": "brennt"},
        {"today": "heute", "again": "wieder", "alone": "allein"},
    ]
    rows = [{"source": f"de: {' '.join(w)}", "text": " ".join(map(dict.get, words, w))} for w in itertools.product(*words)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = judge_baselines(open_data(str(tmp_path / "a.jsonl")))
    memory, copy = found["the most similar training row"], found["the source itself"]
    assert memory["exact match"]["value"] == copy["exact match"]["value"] == 0  # each row's text is its own
    assert memory["ROUGE-1"]["value"] == pytest.approx(75, abs=3) and copy["ROUGE-1"]["value"] == 0  # three words of four
    assert memory["chrF"]["low"] > copy["chrF"]["high"] and "bits/byte" in found["xz given the training text"]
    assert bare(["de: a: b", "to ISO: c"]) == ["a: b", "c"] and bare(["de: a", "b"]) == ["de: a", "b"]
    assert most_similar(["no small cat", "the bird"], ["a bird", "the small cat", "dogs"]) == [1, 0]


def test_the_verb_writes_what_it_returns(notes, tmp_path):
    found = api.baselines(notes, out=tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == found
    assert found["xz given the training text"]["bits/byte"]["value"] == compressed(open_data(notes))["value"]
