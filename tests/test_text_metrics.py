"""Figures of texts written from texts: sacrebleu's and rouge_score's own, their intervals, and when they are asked for."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from maquette.codecs.text import Bytes
from maquette.contracts import Condition, Conditioner
from maquette.data import Data, Facts, Split
from maquette.data.core import text_data
from maquette.evaluate import choose, judge
from maquette.metrics import exact, meaning, summary, translation
from maquette.metrics.evidence import Evidence
from maquette.objectives.likelihood import NextToken
from maquette.system import System

WORDS = "the a small big red old cat dog sat ran on by mat house and saw it".split()  # noqa: SIM905


class Told(Conditioner):
    """Tells the source's bytes."""

    fields = ("source",)
    drops = False

    def forward(self, batch: Any, *, drop: float = 0.0, rng: Any = None) -> Condition:
        return Condition(tokens=Bytes(200).encode(batch["source"]))


class Spoken:
    """Writes what it is told, some of it wrong: by a rule, so that each figure is known."""

    def draw(self, system: Any, n: int, *, start: Any = None, cond: Any = None, null: Any = None, rng: Any = None):
        codec = Bytes(200)
        texts = codec.decode(cond.tokens)
        yield codec.encode([text.replace("cat", "dog") for text in texts])


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(3, 12)))


def data(rows: int = 120) -> Data:
    rng = np.random.default_rng(0)
    texts = [sentence(rng) for _ in range(2 * rows)]
    columns: dict[str, Any] = {
        part: {"source": some, "text": [text.replace("house", "home") for text in some]}
        for part, some in (("train", texts[:rows]), ("held", texts[rows:]))
    }
    return text_data(Facts("pairs", "text", "own", "", "", "", {}), columns)


def system(conditioner: Conditioner | None = None) -> System:
    told = conditioner if conditioner is not None else Told()
    return System({"main": torch.nn.Linear(1, 1)}, NextToken(256), Spoken(), Bytes(200), told)  # type: ignore[dict-item,arg-type]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(data(), system())


def test_answers_are_of_held_out_rows_each_to_its_own_source(evidence):
    held = {text.replace("house", "home"): text.replace("cat", "dog") for text in evidence.data.held.columns["source"]}
    assert len(evidence.answers) == 120 and all(held[wanted] == written for wanted, written in evidence.answers)


def test_exact_match_is_the_share_that_is_right(evidence):
    found = exact.measure(evidence)["exact match"]
    want = np.mean([not {"cat", "house"} & {*text.split()} for text in evidence.data.held.columns["source"]])
    assert found.value == pytest.approx(want) and found.low < want < found.high and found.better == "higher" and found.n == 120


def test_bleu_and_chrf_are_sacrebleus(evidence):
    sacrebleu = pytest.importorskip("sacrebleu")
    found = translation.measure(evidence)
    wanted, written = zip(*evidence.answers, strict=True)
    for name, metric in {"BLEU": sacrebleu.BLEU(), "chrF": sacrebleu.CHRF()}.items():
        theirs = metric.corpus_score(written, [wanted], n_bootstrap=500)
        ours = found[name]
        assert ours.value == pytest.approx(theirs.score, abs=1e-9)
        half = (ours.high - ours.low) / 2
        assert half == pytest.approx(theirs._ci, rel=0.2), name  # another 500 draws of the same rows
        signature = dict(ours.signature.options)["sacrebleu"]
        assert signature == metric.get_signature().format(short=False).replace("bs:500|seed:12345|", "")
        assert f"version:{sacrebleu.__version__}" in signature


def test_rouge_is_rouge_scores(evidence):
    pytest.importorskip("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    found = summary.measure(evidence)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name, kind in summary.KINDS.items():
        each = [100 * scorer.score(wanted, written)[kind].fmeasure for wanted, written in evidence.answers]
        assert found[name].value == pytest.approx(np.mean(each))
        assert (found[name].high - found[name].low) / 2 == pytest.approx(1.96 * np.std(each) / 120**0.5, rel=0.15)
    assert found["ROUGE-1"].value > found["ROUGE-L"].value - 1e-9 > found["ROUGE-2"].value


def test_nothing_right_and_nothing_written_are_figures_too():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    found = Evidence(data(30), system())
    found.__dict__["answers"] = [("the cat sat", ""), ("a dog", "zzz")] * 15
    figures = {**exact.measure(found), **translation.measure(found), **summary.measure(found)}
    assert {name: one.value for name, one in figures.items() if one.value > 1} == {}
    assert figures["exact match"].high > 0 and len(figures) == 6 and all(meaning(name) for name in figures)


def test_figures_of_unlike_versions_are_not_compared(evidence):
    pytest.importorskip("sacrebleu")
    from dataclasses import replace

    from maquette.metrics.estimate import UnlikeSignatures, compare

    mine = translation.measure(evidence)["chrF"]
    options = tuple((name, value.replace("version:", "version:0.")) for name, value in mine.signature.options)
    with pytest.raises(UnlikeSignatures, match=r"sacrebleu: .*version:0."):
        compare(mine, replace(mine, signature=replace(mine.signature, options=options)))


def test_they_are_asked_where_texts_are_made_from_texts(evidence):
    plain = Facts("plain", "text", "own", "", "", "", {"train": 30, "held": 30})
    bare = Data(plain, lambda: {part: Split({"text": ["x"] * 30}) for part in ("train", "held")})
    for metric in (exact, translation, summary):
        assert metric.applies(evidence) == ""
        assert metric.applies(Evidence(bare, system())) == "the data have no texts beside those they are made from"
        mute = System({"main": torch.nn.Linear(1, 1)}, NextToken(256), None, Bytes(8))  # type: ignore[dict-item]
        assert metric.applies(Evidence(data(), mute)) == "the system writes no texts from others"
        assert "no system" in metric.applies(Evidence(data(), samples={"text": ["x"] * 30}))


def test_without_the_libraries_they_say_what_to_install(evidence, monkeypatch):
    real = importlib.util.find_spec
    gone = ("sacrebleu", "rouge_score")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else real(name, *rest))
    told = judge(evidence, choose(["translation", "summary", "exact"]))
    assert told["skipped"] == {
        "translation": "sacrebleu is not installed: pip install 'maquette[eval]'",
        "summary": "rouge_score is not installed: pip install 'maquette[eval]'",
    }
    assert [*told["metrics"]] == ["exact match"]
