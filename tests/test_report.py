"""The report: pages that need nothing else and trust no word from outside, files that read back, bars without a terminal."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from maquette.metrics.estimate import Estimate, Signature
from maquette.report.axes import decimals, duration, log_ticks, short, ticks
from maquette.report.bar import Bar, Board, Pace, leaderboard, plain_table
from maquette.report.card import card, write_card
from maquette.report.curves import loss_curves, smooth
from maquette.report.page import write_page, write_run_page
from maquette.report.pictures import data_uri, grid, save_samples
from maquette.report.standing import BEST, CLOSE, LEADS, columns, names

EVIL = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"
FACTS: dict[str, Any] = {
    "name": "strokes",
    "field": "image",
    "kind": "simulated",
    "licence": "CC BY 4.0",
    "attribution": "made by a test, see http://example.org/strokes",
    "hash": "ab" * 32,
    "rows": {"train": 80, "held": 20},
    "shape": [1, 8, 8],
    "levels": 17,
    "classes": ["flat", "steep"],
    "shares": [0.5, 0.5],
    "split": "by hash",
    "notes": [],
    "skipped": [["broken.png", "truncated"]],
}


def figure(
    metric: str, value: float, half: float = 0.02, better: Any = "lower", aim: float | None = None, **options: str
) -> dict[str, Any]:
    signature = Signature(metric, reference="held@abab", samples=80, rows=20, options=tuple(options.items()))
    return json.loads(json.dumps(Estimate(value, value - half, value + half, 80, signature, better, aim).asdict()))


def row(recipe: str, fd: float, recall: float, ratio: float = 1.0, bound: str = "") -> dict[str, Any]:
    metrics = {"FD-mlp128-64": figure("FD-mlp128-64", fd), "recall": figure("recall", recall, 0.05, "higher")}
    metrics["NN ratio"] = figure("NN ratio", ratio, 0.02, "higher", 1.0)
    if bound:
        metrics["bits/dim"] = figure("bits/dim", 1.8, 0.02, bound=bound)
    told = {
        "run": f"runs/x/{recipe}",
        "recipe": recipe,
        "arguments": {"depth": 2},
        "step": 100,
        "seconds": 61.5,
        "parameters": {"main": 12345},
    }
    how = {
        "sampler": {"name": "Heun", "steps": 20, "process": {"cap": 4.0, "paid": {}}},
        "n": 80,
        "seed": 0,
        "sampling_seconds": 2.0,
        "samples_per_second": 40.0,
    }
    return {
        "status": "ok",
        "error": "",
        **told,
        **how,
        "metrics": metrics,
        "skipped": {} if bound else {"nats": "gives no likelihood"},
    }


def comparison(rows: list[dict[str, Any]]) -> dict[str, Any]:
    made = {
        "format": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "command": "maquette compare --data strokes",
        "budget": "60s",
        "seed": 0,
    }
    return {**made, "data": FACTS, "machine": {"cpu": "x", "cores": 2}, "versions": {"maquette": "0.1.0"}, "rows": rows}


def strokes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of 8x8: a flat or a steep stroke."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 8, 8)
    places = torch.randint(1, 7, (count,), generator=torch.Generator().manual_seed(seed))
    for i, (label, place) in enumerate(zip(labels.tolist(), places.tolist(), strict=True)):
        images[i, 0, place if label == 0 else slice(None), place if label else slice(None)] = 1.0
    return images, labels


def shown(evaluation: dict[str, Any]) -> dict[str, Any]:
    images, labels = strokes(24, 1)
    real, real_labels = strokes(20, 2)
    log: list[dict[str, Any]] = [
        {"step": i, "seconds": i / 2, "wall": i / 2, "restore/loss": 3.0 / i, "restore/norm": 1.0} for i in range(1, 60)
    ]
    log.append({"step": 60, "preview_failed": "no room"})
    seen = {"samples": images, "labels": labels.tolist(), "real": real, "real_labels": real_labels.tolist()}
    return {"eval": evaluation, "log": log, "facts": FACTS, **seen, "nearest": torch.stack([images, images.roll(1, -1)], 1)}


class Page(HTMLParser):
    """A strict reading of a page: tags must close in order; keeps tags, attributes and text."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, words: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(words)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def assert_alone(words: str, page: Page) -> None:
    """Nothing is fetched, nothing foreign runs."""
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert (value or "").startswith(("data:image/png;base64,", "#")), f"<{tag} {name}={value}>"
    assert "url(" not in words and "@import" not in words
    assert len(page.all("script")) <= 1


# -- pages ---------------------------------------------------------------------------------------------------------------


def test_page_is_whole_and_alone(tmp_path: Path) -> None:
    rows = [row("vae", 0.9, 0.6, bound="ELBO"), row("flow", 0.6, 0.62), row("pixelcnn", 1.1, 0.4, 0.7, bound="exact")]
    rows.append({"status": "failed", "error": "train ended with code 74", "recipe": "gan", "run": "runs/x/gan", "metrics": {}})
    path = write_page(tmp_path / "deep" / "report.html", comparison(rows), [shown(r) for r in rows[:3]])
    words = path.read_text()
    page = Page(words)
    assert_alone(words, page)
    told = " ".join(" ".join(page.text).split())
    assert "Four systems on strokes" in told and "CC BY 4.0" in told and "abababab" in told
    assert "flow is best, beyond the intervals' doubt, on FD-mlp128-64." in told
    assert "No winner can be named on recall" in told
    assert "pixelcnn (NN ratio 0.700, 0.680 to 0.720) may be copying" in told
    assert "gan failed: train ended with code 74" in told
    assert "bound: ELBO (a), exact (b)" in told and "bits/dim cannot be ranked over all systems" in told
    assert "broken.png: truncated" in told and "Heun, steps 20, process (cap 4)" in told
    pictures = page.all("img")
    assert len(pictures) == 1 + 3 + 3 and all(picture["alt"] for picture in pictures)  # real; samples; nearest pairs
    assert all(attrs.get("scope") for attrs in page.all("th"))
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 3 + 4 and all(svg["aria-label"] for svg in charts)  # loss curves; a plot per figure
    assert [p.name for p in tmp_path.rglob("*")] == ["deep", "report.html"]  # nothing staged is left


def test_script_is_the_one_the_page_allows(tmp_path: Path) -> None:
    import base64
    import hashlib

    words = write_page(tmp_path / "r.html", comparison([row("a", 1, 0.5), row("b", 2, 0.5)]), []).read_text()
    script = re.findall(r"<script>(.*?)</script>", words, re.S)
    allowed = re.findall(r"script-src '(sha256-[^']+)'", words)
    assert allowed == [f"sha256-{base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()}"]


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    evil = row("flow", 0.6, 0.6)
    evil.update(
        {
            "recipe": EVIL,
            "run": EVIL,
            "arguments": {EVIL: EVIL},
            "parameters": {EVIL: 3},
            "sampler": {"name": EVIL},
            "skipped": {EVIL: EVIL},
        }
    )
    evil["metrics"][EVIL] = figure(EVIL, 1.0)
    failed = {"status": "failed", "error": EVIL, "recipe": EVIL, "run": EVIL + "2", "metrics": {}}
    run = shown(evil)
    run["log"] = [{"step": i, "seconds": i, f"{EVIL}/loss": 1.0} for i in range(5)]
    text = {**run, "eval": {**evil, "run": "t"}, "samples": [EVIL], "prompts": [EVIL[:5]], "labels": None, "nearest": None}
    told = comparison([evil, failed, {**evil, "run": "t"}])
    told.update(
        {"command": EVIL, "budget": EVIL, "machine": {EVIL: EVIL}, "versions": {EVIL: EVIL}, "floors": {EVIL: {EVIL: 1.0}}}
    )
    told["data"] = {
        **FACTS,
        "name": EVIL,
        "attribution": EVIL,
        "licence": EVIL,
        "classes": [EVIL, "b"],
        "notes": [EVIL],
        "skipped": [[EVIL, EVIL]],
    }
    words = write_page(tmp_path / "r.html", told, [run, text]).read_text()
    page = Page(words)
    assert_alone(words, page)
    assert "alert('x')" in "".join(page.text)  # shown as text: not dropped, not run
    assert "<script>alert" not in words


def test_page_survives_what_is_missing(tmp_path: Path) -> None:
    broken = row("flow", 0.6, 0.6)
    broken["metrics"]["recall"].update(value=None, low=None, high=None)
    broken["metrics"]["FD-mlp128-64"].update(low=None, high=None)
    foreign = {"recipe": "other", "metrics": {"mystery": {"value": 3.0, "signature": "by hand"}, "nan": {"value": float("nan")}}}
    words = write_page(tmp_path / "r.html", {"rows": [broken, foreign]}, [{"eval": broken}]).read_text()
    told = "".join(Page(words).text)
    assert "mystery" in told and "not a finite number" in told and "by hand" in told
    bare = write_run_page(tmp_path / "s.html", {"log": [], "record": {"recipe": "gpt", "data": {"name": "prose"}}}).read_text()
    assert "gpt on prose" in "".join(Page(bare).text)
    assert Page(write_page(tmp_path / "t.html", comparison([]), []).read_text()).all("h1")


def test_run_page_shows_text(tmp_path: Path) -> None:
    evaluation = {"recipe": "gpt", "metrics": {"bits/byte": figure("bits/byte", 1.9)}, "step": 5, "seconds": 60.0}
    run = {
        "eval": evaluation,
        "facts": {**FACTS, "field": "text", "classes": []},
        "samples": ["def f(x):\n    return x < 1 & 2"],
        "prompts": ["def f"],
    }
    words = write_run_page(tmp_path / "r.html", run).read_text()
    page = Page(words)
    assert_alone(words, page)
    assert "(x):\n    return x < 1 & 2" in page.text and "def f" in page.text  # the prompt stands apart
    assert page.all("pre") and not page.all("button") and not page.all("script")


@pytest.mark.parametrize("count", [1, 2, 12])
def test_page_holds_one_to_twelve_systems(tmp_path: Path, count: int) -> None:
    rows = [{**row("flow", 0.5 + i, 0.5), "run": f"runs/flow-{i}"} for i in range(count)]
    words = write_page(tmp_path / "r.html", comparison(rows), []).read_text()
    cells = re.findall(r'<tr data-better="lower"><th scope="row">.*?FD-mlp128-64.*?</tr>', words, re.S)
    assert cells and cells[0].count("<td") == count
    assert len(set(names(rows))) == count


def test_page_is_deterministic(tmp_path: Path) -> None:
    rows = [row("vae", 0.9, 0.6), row("flow", 0.6, 0.62)]
    first, second = (
        write_page(tmp_path / n, comparison(rows), [shown(r) for r in rows]).read_bytes() for n in ("a.html", "b.html")
    )
    assert first == second


# -- standings -----------------------------------------------------------------------------------------------------------


def test_marks_need_doubtless_intervals() -> None:
    found = {c.metric: c for c in columns([row("a", 0.9, 0.60), row("b", 0.6, 0.62), row("c", 1.3, 0.30)])}
    assert [cell.mark for cell in found["FD-mlp128-64"].cells] == ["", BEST, ""]
    assert [cell.mark for cell in found["recall"].cells] == [CLOSE, LEADS, ""]
    assert [cell.mark for cell in found["NN ratio"].cells] == [LEADS, CLOSE, CLOSE]


def test_ratio_is_judged_by_its_aim() -> None:
    found = {c.metric: c for c in columns([row("copier", 1, 0.5, 0.6), row("honest", 1, 0.5, 1.05), row("noisy", 1, 0.5, 1.6)])}
    assert [cell.mark for cell in found["NN ratio"].cells] == ["", BEST, ""]


def test_unlike_signatures_are_not_compared() -> None:
    column = next(c for c in columns([row("a", 1, 0.5, bound="ELBO"), row("b", 1, 0.5, bound="exact")]) if c.metric == "bits/dim")
    assert [cell.group for cell in column.cells] == ["a", "b"] and [cell.mark for cell in column.cells] == ["", ""]
    assert column.differs == ("bound: ELBO (a), exact (b)",)


# -- pictures ------------------------------------------------------------------------------------------------------------


def test_grid_enlarges_by_nearest_neighbour_with_gaps() -> None:
    images = torch.zeros(3, 1, 2, 2)
    images[1] = 1.0
    images[2, 0, 0, 1] = float("nan")
    picture = grid(images, columns=2, zoom=3)
    assert picture.mode == "L" and picture.size == (13, 13)
    pixels = np.asarray(picture)
    assert (pixels[:6, :6] == 0).all() and (pixels[:6, 7:] == 255).all() and (pixels[6] == 128).all()
    assert (pixels[7:, :6] == 0).all()  # not a number is black
    assert grid(torch.rand(2, 3, 8, 8), captions=["one", "a long caption that is cut"], zoom=1).size == (17, 8 + 13)
    assert grid(torch.rand(4, 1, 8, 8)).width > 100  # small pictures are made to be seen
    with pytest.raises(ValueError, match="shape"):
        grid(torch.rand(2, 5, 8, 8))
    with pytest.raises(ValueError, match="no pictures"):
        grid(torch.rand(0, 1, 8, 8))
    assert data_uri(picture).startswith("data:image/png;base64,")


def test_png_carries_how_it_was_made(tmp_path: Path) -> None:
    info = {"recipe": "flow", "seed": 7, "about": {"label": 3}, "name": 'Ä "quoted"'}
    path = save_samples({"image": torch.rand(5, 3, 8, 8)}, "image", tmp_path / "new" / "grid.png", info)
    with Image.open(path) as picture:
        picture.load()
        assert json.loads(picture.info["parameters"]) == info
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_npz_needs_no_pickle(tmp_path: Path) -> None:
    batch: dict[str, Any] = {
        "image": torch.rand(3, 1, 4, 4),
        "label": torch.tensor([1, 2, 3]),
        "code": torch.zeros(3, 4),
        "name": ["a", "é", ""],
    }
    path = save_samples(batch, "image", tmp_path / "x.npz", {"seed": 1})
    with np.load(path, allow_pickle=False) as kept:
        assert np.array_equal(kept["image"], batch["image"].numpy()) and kept["name"].tolist() == ["a", "é", ""]
        assert json.loads(str(kept["parameters"])) == {"seed": 1}


def test_texts_as_they_are_and_as_lines(tmp_path: Path) -> None:
    batch = {"text": ["one\ntwo", "drei ü"], "label": torch.tensor([0, 1])}
    assert save_samples({"text": ["one\ntwo"]}, "text", tmp_path / "a.txt").read_text() == "one\ntwo"
    assert "=== sample 1 ===\ndrei ü" in save_samples(batch, "text", tmp_path / "b.txt").read_text()
    lines = save_samples(batch, "text", tmp_path / "c.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "one\ntwo", "label": 0}, {"text": "drei ü", "label": 1}]
    told = json.loads(save_samples(batch, "text", tmp_path / "d.json", {"seed": 3}).read_text())
    assert told["parameters"] == {"seed": 3} and len(told["samples"]) == 2


@pytest.mark.parametrize(
    ("field", "name", "near"), [("image", "x.pnq", ".png"), ("text", "x.png", ""), ("text", "x.text", ".txt"), ("image", "x", "")]
)
def test_unknown_suffix_names_those_allowed(tmp_path: Path, field: str, name: str, near: str) -> None:
    with pytest.raises(ValueError, match=r"Allowed: .*\.json") as caught:
        save_samples({"image": torch.rand(1, 1, 4, 4), "text": ["x"]}, field, tmp_path / name)
    assert not list(tmp_path.iterdir())
    if near:
        assert f"Did you mean '{near}'" in str(caught.value)


# -- the card ------------------------------------------------------------------------------------------------------------

RECORD = {
    "recipe": "flow",
    "arguments": {"data": "strokes", "depth": 2},
    "seed": 0,
    "fit": {"steps": 100, "batch": 64, "lr": 1e-3},
    "data": FACTS,
    "parameters": {"main": 12345, "ema": 12345},
    "created": "2026-01-02T03:04:05+00:00",
    "command": "maquette train flow",
    "versions": {"maquette": "0.1.0", "git": ""},
    "machine": {"cpu": "x", "cores": 2},
}


def test_card_is_read_by_the_hub_library(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    told = row("flow", 0.6, 0.6, 0.7)
    told["metrics"]["recall"]["value"] = None
    path = write_card(tmp_path / "README.md", RECORD, told)
    read = ModelCard(path.read_text())
    data = read.data.to_dict()
    assert data["license"] == "cc-by-4.0" and data["library_name"] == "maquette" and data["datasets"] == ["strokes"]
    assert {"maquette", "flow"} <= set(data["tags"])
    results: Any = read.data
    assert [r.metric_name for r in results.eval_results] == ["FD-mlp128-64", "NN ratio"]  # what is not a number is no result
    assert results.eval_results[0].metric_value == 0.6
    for words in ("0.600 | 0.580 to 0.620", "maquette.load(", "CC BY 4.0", "ab" * 32, "not a finite number", "may reproduce"):
        assert words in read.text
    assert "samples/" not in read.text
    (tmp_path / "samples").mkdir()
    for step in (20, 100):
        save_samples({"image": torch.rand(1, 1, 4, 4)}, "image", tmp_path / "samples" / f"step-{step:08d}.png")
    assert "](samples/step-00000100.png)" in write_card(path, RECORD, told).read_text()


def test_card_comes_out_byte_for_byte_the_same(tmp_path: Path) -> None:
    told = row("flow", 0.6, 0.6)
    first = write_card(tmp_path / "a" / "README.md", RECORD, told).read_bytes()
    record, again = json.loads(json.dumps(RECORD)), json.loads(json.dumps(told))
    assert write_card(tmp_path / "b" / "README.md", record, again).read_bytes() == first
    script = "import json, sys; from maquette.report.card import card; r, e = json.load(sys.stdin); sys.stdout.write(card(r, e))"
    other = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps([RECORD, told]), capture_output=True, text=True, check=True
    )
    assert other.stdout == first.decode()


def test_card_keeps_hostile_words_in_their_place() -> None:
    told = row("flow", 0.6, 0.6)
    told["metrics"] = {"a | b\n# head <script>": figure("x", 1.0)}
    text = card({**RECORD, "data": {**FACTS, "attribution": "x\n\n# Owned <script>", "name": "a: b\n- c"}}, told)
    assert "<script>" not in text.split("\n---\n", 1)[1] and "\n# Owned" not in text
    from huggingface_hub import ModelCard

    assert ModelCard(text).data.to_dict()["datasets"] == ["a: b\n- c"]


def test_card_before_the_first_scoring() -> None:
    assert "Not scored yet" in card(RECORD, None) and "model-index" not in card(RECORD, None)


# -- the terminal --------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    step: int
    steps: int = 100
    seconds: float = 0.0
    logs: dict[str, float] | None = None
    saved: Path | None = None
    warning: str = ""


def test_bar_without_a_terminal_speaks_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    out = io.StringIO()
    with Bar("flow on [digits]", 100, console=Console(file=out, width=40), clock=lambda: now[0]) as bar:
        for step in range(1, 101):
            now[0] += 0.5
            bar.step(Told(step, logs={"restore/loss": 0.25, "restore/norm": 1.0}, warning="disk full" if step == 30 else ""))
    lines = out.getvalue().splitlines()
    steps = [int(found[1]) for line in lines if (found := re.search(r"step (\d+)/100", line))]
    assert steps == [1, 21, 41, 61, 81, 100]
    assert "warning: disk full" in lines
    assert "flow on [digits]: step 41/100, 41%, loss 0.250, 2.00 steps/s, 20 s gone, 30 s left" in lines
    assert "\x1b" not in out.getvalue()


def test_bar_on_a_terminal_honours_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(**told: Any) -> str:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=120, **told)
        with Bar("gan", 4, rows=64, console=console) as bar:
            for step in range(1, 5):
                bar.step(Told(step, 4, logs={"criticise/loss": 0.5, "generate/loss": 0.75}))
        return out.getvalue()

    assert "criticise 0.5" in drawn() and "4/4" in drawn()
    colours = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert colours.search(drawn())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours.search(drawn())


def test_bar_goes_to_stderr() -> None:
    script = (
        "from types import SimpleNamespace as S; from maquette.report.bar import Bar\n"
        "with Bar('flow', 2) as bar: bar.step(S(step=2, steps=2, seconds=1.0, logs=None, saved=None, warning=''))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "" and "flow: step 2/2" in told.stderr


def test_board_says_each_stage_once() -> None:
    out = io.StringIO()
    board = Board(["vae", "flow"], console=Console(file=out, width=60))
    for share in (0.1, 0.5):
        board.show({"vae": ("training", share)})
    board.show({"vae": ("done", 1.0), "flow": ("training", 0.1)})
    board.close()
    assert [line.split()[-2:] for line in out.getvalue().splitlines()] == [
        ["vae", "training"],
        ["vae", "done"],
        ["flow", "training"],
    ]


def test_pace_forgets_the_slow_start() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0], over=5)
    pace.at(0)
    now[0] = 60.0  # compiling
    pace.at(1)
    for step in range(2, 22):
        now[0] += 0.5
        rate = pace.at(step)
    assert rate == pytest.approx(2.0)


def test_leaderboard_has_values_intervals_and_marks() -> None:
    failed = {"status": "failed", "error": "[bold]no", "recipe": "gan", "run": "g", "metrics": {}}
    told = comparison([row("vae", 0.9, 0.6, bound="ELBO"), row("flow", 0.6, 0.62), failed])
    out = io.StringIO()
    Console(file=out, width=100).print(leaderboard(told))
    for words in (out.getvalue(), plain_table(told["rows"])):
        assert re.search(r"FD-mlp128-64 ↓ +0\.900±\.020 +0\.600±\.020\* +failed", words)
        assert "0.62±.05+" in words and "0.60±.05=" in words
        assert "gan failed: [bold]no" in words
    many = plain_table([{**row("flow", 1 + i, 0.5), "run": f"r{i}"} for i in range(12)])
    assert "FD-mlp128-64" in many.splitlines()[0]  # more systems than figures: the figures stand across


# -- numbers and curves --------------------------------------------------------------------------------------------------


def test_numbers_as_people_read_them() -> None:
    assert [short(v) for v in (0, 0.0123456, 3.14159, 1234.5, 1e9, None, float("nan"))] == [
        "0",
        "0.0123",
        "3.14",
        "1,234",
        "1e+09",
        "–",
        "–",
    ]
    assert [duration(v) for v in (0.42, 75, 7300, -1)] == ["0.4 s", "1 min 15 s", "2 h 1 min", "–"]
    assert [decimals([h], []) for h in (0.08, 0.022, 0.5, 5, 50)] == [2, 3, 1, 0, 0]
    assert ticks(0.31, 1.26) == [0.5, 0.75, 1.0, 1.25]
    assert log_ticks(0.9, 110) == [1, 3, 10, 30, 100]


def test_curves_smooth_and_skip_what_is_no_number() -> None:
    assert smooth([2.0] * 9, 1.5) == pytest.approx([2.0] * 9)
    noisy = [1.0 + (-1) ** i for i in range(100)]
    assert np.std(smooth(noisy, 3.0)) < 0.1 * np.std(noisy)
    logs: dict[str, Any] = {
        "gan": [
            (i, i / 2, {"criticise/loss": 1.0 / i, "generate/loss": float("nan") if i == 3 else 2.0, "x/norm": 5.0})
            for i in range(1, 900)
        ],
        "empty": [],
        "once": [(1, 0.5, {"predict/loss": 2.0})],
    }
    drawn = loss_curves(logs)
    page = Page(drawn)
    assert len([svg for svg in page.all("svg") if svg.get("role")]) == 2
    assert "criticise" in page.text and "generate" in page.text and "norm" not in drawn and "nan" not in drawn
    assert "log scale" in page.text
    assert max(len(path["d"] or "") for path in page.all("path")) < 8000  # thinned
    assert loss_curves({"empty": []}) == ""


def test_report_imports_lightly() -> None:
    script = "import sys, maquette.report.bar, maquette.report.card, maquette.report.page, maquette.report.pictures\n"
    script += (
        "print([m for m in ('torch', 'matplotlib', 'jinja2', 'huggingface_hub', 'rich', 'PIL', 'numpy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
