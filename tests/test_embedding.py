"""Texts in one space: what is read of each side, what is found of it, the floor of shared words, the verbs embed and search."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maquette import api, cli, finding
from maquette.baselines import sought
from maquette.contracts import IGNORE, Comparing
from maquette.data.core import Facts
from maquette.data.docstrings import _coded
from maquette.data.paired import paired
from maquette.distributed import World
from maquette.metrics import retrieval
from maquette.metrics.bm25 import BM25, words_of
from maquette.metrics.evidence import Evidence
from maquette.networks.embedder import Embedder
from maquette.networks.transformer import Transformer
from maquette.objectives.contrastive import distinct
from maquette.recipes.embedding import embedder
from maquette.recipes.masked_language import BOTH_WAYS
from maquette.report.card import card
from maquette.train import Progress, take_step

ABOUT = Facts("pairs", "text", "own", "", "", "", {})
PLAIN: dict[str, Any] = {"compile": False, "bf16": False}
WORDS = ("sun", "rain", "salt", "stone", "river", "bread", "glass", "wool")


def rows(count: int = 400) -> list[dict[str, str]]:
    """Questions and answers that share two words of 64 pairs of words, in other dress."""
    return [
        {"source": f"which {WORDS[i % 8]} of {WORDS[i // 8 % 8]}? {i}", "text": f"{WORDS[i // 8 % 8]}'s {WORDS[i % 8]} no. {i}"}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    small = {"depth": 1, "vocab": 300, "context": 16, "size": 16}
    fit = {"steps": 40, "batch": 32, "bf16": False}
    return api.train("embedder", data=str(folder / "rows.jsonl"), out=folder / "run", quiet=True, **small, **fit)


def test_a_text_is_the_mean_of_what_is_read_of_it_and_no_more():
    torch.manual_seed(0)
    encoder = Transformer(50, 32, 1, 1, out=None, causal=False, style=BOTH_WAYS)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)
    net, x = Embedder(encoder, 8).eval(), torch.tensor([[3, 4, 5, IGNORE], [6, 7, 8, 9]])
    with torch.no_grad():
        alone = F.normalize(net.project(encoder(x[:1, :3]).mean(1)), dim=1)
        torch.testing.assert_close(net(x)[:1], alone)
        torch.testing.assert_close(net(x).norm(dim=1), torch.ones(2))


def test_rows_that_are_alike_on_either_side_are_no_negatives():
    source, text = torch.tensor([[1], [1], [2], [3]]), torch.tensor([[5, 6], [7, 8], [9, 9], [5, 6]])
    left_out = distinct(torch.zeros(4, 4), source, text).isinf()
    assert {(i, j) for i, j in left_out.nonzero().tolist()} == {(0, 1), (1, 0), (0, 3), (3, 0)}


def test_training_finds_what_was_held_out_and_chance_does_not(run):
    assert isinstance(run.system.objective, Comparing) and run.system.objective.sides == ("source", "text")
    data = paired(ABOUT, [(str(i), row["source"], row["text"]) for i, row in enumerate(rows(1600))])
    figures = retrieval.measure(Evidence(data, run.system))
    assert set(figures) == {f"retrieval@1 of 100, {way}" for way in ("source to text", "text to source")}
    untrained = embedder(data=run.run.record["arguments"]["data"], depth=1, vocab=300, context=16, size=16).system
    untrained.codec.load_state_dict(run.system.codec.state_dict())
    chance = retrieval.measure(Evidence(data, untrained))
    for name, figure in figures.items():
        assert figure.value > 2 * chance[name].value and figure.low > 0.05
    eye = torch.eye(2000)
    thousand = paired(ABOUT, [(str(i), f"q {i}", f"a {i}") for i in range(12_000)])
    sides = ("source", "text")
    perfect = retrieval.retrieval(Evidence(thousand, writes=list), sides, lambda asked, kept, some: eye[some] @ eye[some].T)
    assert perfect["retrieval@10 of 1000, text to source"].value == 1 and len(perfect) == 6


def test_its_card_compares_and_a_classifiers_names(run):
    page = (run.run.path / "README.md").read_text()
    assert "sentence-similarity" in page and 'found["source"] @ found["text"].T' in page and "draws no samples" in page
    other = card({**run.run.record, "compares": []}, None)
    assert "text-classification" in other and "objective.logits(run.system, rows)" in other


def test_shared_words_are_a_floor_and_words_within_names_count():
    assert words_of("read_csv(HTTPError, maxSize=12)") == ["read", "csv", "http", "error", "max", "size", "12"]
    kept = ["the cat sat", "the dog sat sat", "a bird in the tree by the brook", ""]
    rare, known = np.log1p((4 - 1 + 0.5) / 1.5), np.log1p((4 - 2 + 0.5) / 2.5)  # of 4 texts: "dog" in one, "sat" in two
    held_back = 1.2 * (0.25 + 0.75 * 4 / (15 / 4))
    wanted = rare * 2.2 / (1 + held_back) + known * 2 * 2.2 / (2 + held_back)
    assert BM25(kept).near(["Sat dog!"])[0, 1].item() == pytest.approx(wanted)
    data = paired(ABOUT, [(str(i), f"what is item{i} of row{i}", "is " * (i % 3) + f"row{i} item{i}") for i in range(1500)])
    told = sought(data)
    assert told["retrieval@1 of 100, source to text"]["value"] == 1  # a number is in one row alone
    strange = paired(ABOUT, [(str(i), f"q{i}", "the same few words " + "and " * i) for i in range(1500)])
    assert sought(strange)["retrieval@1 of 100, source to text"]["value"] == 0


def test_a_run_of_bert_is_begun_with(tmp_path, text_file):
    bert = api.train(
        "bert", data=str(text_file), out=tmp_path / "bert", quiet=True, steps=2, depth=1, vocab=300, context=16, **PLAIN
    )
    begun = embedder(data=str(pairs_file(tmp_path)), run=str(tmp_path / "bert"))
    theirs = bert.system.nets["main"].state_dict()
    mine = begun.system.nets["main"].encoder.state_dict()
    assert mine and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert begun.system.frozen == ("codec",)
    before = begun.system.codec.learned.clone()
    begun.system.learn(begun.data.train)
    take_step(begun.system, begun.data, Progress(begun.fit), World())
    assert torch.equal(before, begun.system.codec.learned)
    assert not torch.equal(begun.system.nets["main"].encoder.state_dict()["embed.weight"], theirs["embed.weight"])


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{WORDS[i % 8]} and {WORDS[i % 5]} {i}" for i in range(300)))
    return path


def pairs_file(folder):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(80)))
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"data": "stdlib_prose"}, "`documented` has them"),
        ({"data": "digits"}, "`documented` has them"),
        ({"size": 1}, "size is 1"),
    ],
)
def test_bad_arguments_are_named(how, says):
    with pytest.raises(ValueError, match=says):
        embedder(**{"data": "dates", **how})


def test_code_and_what_is_said_of_it_share_nothing_but_names():
    source = '''
class A:
    @property
    def size(self):
        """How many there are of these.

        More."""
        return len(self.found)  # all

    def bare(self):
        return 1

def long(a, b):
    "Add two numbers, and say so."
    return (a +
            b)
'''
    (path, said, code), other = sorted(_coded("a.py", source), key=lambda row: row[1], reverse=True)
    assert (path, said) == (
        "a.py",
        "How many there are of these.",
    ) and code == "def size(self):\n    return len(self.found)  # all"
    assert other[1:] == ("Add two numbers, and say so.", "def long(a, b):\n    return (a +\n            b)")


# -- the verbs -----------------------------------------------------------------------------------------------------------


def test_passages_are_found_and_vectors_kept_are_found_again(run, tmp_path, capsys):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# salt\nriver's salt no. 900\n\nbread's wool no. 901\n")
    (notes / "b.txt").write_text("\n\nrain's glass no. 902")
    path, out = run.run.path, tmp_path / "vectors.npz"
    shelf = api.embed(path, notes, out)
    assert shelf.names == ["a.md:1", "a.md:4", "b.txt:3"] and shelf.texts[1] == "bread's wool no. 901"
    torch.testing.assert_close(shelf.vectors.norm(dim=1), torch.ones(3))
    asked = run.system.objective.embed(run.system.eval(), {"source": ["which glass of rain? 902"]})["source"][0]
    found = api.search(path, notes, "which glass of rain? 902", 2, words=False)
    near = (shelf.vectors @ asked).sort(descending=True)
    assert [one["name"] for one in found] == [shelf.names[i] for i in near.indices[:2].tolist()]
    assert found[0]["cosine"] == pytest.approx(near.values[0].item(), abs=1e-5)
    for suffix in (".npz", ".safetensors"):
        finding.keep(shelf, tmp_path / f"kept{suffix}")
        assert api.search(path, tmp_path / f"kept{suffix}", "which glass of rain? 902", 2, words=False) == found
    assert [one["name"] for one in api.search(path, notes, "bread wool 901", 1)] == ["a.md:4"]  # shared words weigh as much
    api.embed(path, notes, tmp_path / "bare.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "bare.npy"), shelf.vectors.numpy())
    cli.app(["search", str(path), str(out), "which glass of rain? 902", "-k", "1", "--no-words", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == found[:1]


def test_what_cannot_be_searched_is_said(run, tmp_path, text_file):
    path = run.run.path
    for how, says in (
        (lambda: api.search(path, tmp_path / "none", "x"), "nothing at"),
        (lambda: api.search(path, text_file, " "), "query is empty"),
        (lambda: api.search(path, text_file, "x", 0), "-k 0"),
        (lambda: api.embed(path, text_file, tmp_path / "v.csv"), r"\.csv.*\.npz"),
    ):
        with pytest.raises(ValueError, match=says):
            how()
    other = finding.Shelf(torch.eye(16), ["a"] * 16, ["b"] * 16, "another run")
    finding.keep(other, tmp_path / "other.npz")
    with pytest.raises(ValueError, match="make them again"):
        api.search(path, tmp_path / "other.npz", "x")
    bert = api.train(
        "bert", data=str(text_file), out=tmp_path / "bert", quiet=True, steps=1, depth=1, vocab=300, context=16, **PLAIN
    )
    with pytest.raises(ValueError, match="compares nothing; clip and embedder do"):
        api.search(bert.run.path, text_file, "x")


def test_pictures_are_found_by_words_and_by_pictures(tmp_path):
    from PIL import Image

    folder, rng = tmp_path / "captioned", np.random.default_rng(0)
    folder.mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(f"noise number {i}")
    run = api.train("clip", data=str(folder), depth=1, steps=2, batch=8, out=tmp_path / "run", quiet=True)
    assert len(api.search(run.run.path, folder, "noise number 7", 30)) == 24
    (best,) = api.search(run.run.path, folder, str(folder / "07.png"), 1)
    assert best["name"] == "07.png" and best["cosine"] == pytest.approx(1, abs=1e-4) and best["text"] == ""
