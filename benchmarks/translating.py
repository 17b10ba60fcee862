"""t5 on the messages of programs, English into German and French: is it better than looking up the most similar one?

    TEXTDOMAINDIR=FOLDER python benchmarks/translating.py [--seed 0] [--budget 700s] [--rows 2000] [--keep FOLDER]

FOLDER holds de/LC_MESSAGES/*.mo and fr/LC_MESSAGES/*.mo, as Debian's packages bring them (`apt-get download git coreutils
libc-l10n ...`, then `dpkg-deb -x` each); where a system keeps them itself, it need not be named.

t5 is trained by `maquette train` on one thread and writes greedily for held-out messages, whose English neither language's
training rows have. Beside it, on the same rows: the English itself, and a translation memory, the translation of the training
message of that language that is most like it (maquette/baselines.py: the cosine of rare groups of two to four letters). Far are
messages of which that cosine is below .7, and, further, below .5 and .35: the memory has little to say there, and translating
begins. BLEU and chrF by sacrebleu, 95 % by bootstrap over rows. Losses included. Writes benchmarks/DATE-translating.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU, CHRF
from tables import side_by_side

from maquette.baselines import bare, most_like
from maquette.data import Data, open_data
from maquette.data.catalogs import LANGUAGES
from maquette.dials import turned
from maquette.loading import load
from maquette.metrics.intervals import bootstrap
from maquette.metrics.translation import counted, score_of
from maquette.opened import Loaded
from maquette.runs import versions

HERE = Path(__file__).parent
FAR = (0.7, 0.5, 0.35)  # cosines to the nearest training message, below which one is far
Row = tuple[str, str, str, float]  # source, wanted, the memory's translation, how like its message is


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--budget", default="700s")
    asked.add_argument("--depth", type=int, default=2)
    asked.add_argument("--batch", type=int, default=64)
    asked.add_argument("--rows", type=int, default=2000, help="held-out rows, at most")
    asked.add_argument("--keep", default="")
    given = asked.parse_args()
    torch.set_num_threads(1)
    data = open_data("translations")
    place = Path(given.keep or tempfile.mkdtemp(prefix="maquette-translating-")) / f"t5-{given.seed}"
    if not (place / "README.md").exists():
        words = ["--data", "translations", "--depth", str(given.depth), "--reads", "64", "--batch", str(given.batch)]
        words += ["--budget", given.budget, "--seed", str(given.seed), "--threads", "1", "--out", str(place), "-q"]
        subprocess.run([sys.executable, "-m", "maquette", "train", "t5", *words], check=True)
    run, rows = load(place), held_of(data, given.rows)
    written = dict(zip([row[0] for row in rows], written_by(run, [row[0] for row in rows]), strict=True))
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for language in LANGUAGES:
        own = [row for row in rows if row[0].startswith(language)]
        for most in (2.0, *FAR):
            some = [row for row in own if row[3] < most]
            title = f"into {language}, " + (f"far: most like below {most:g}" if most < 1 else "all")
            tables[f"{title} ({len(some)} rows)"] = judged(some, written)
    told = {
        "commit": run.trained.record["versions"]["git"][:8],
        "step": run.progress.step,
        "seconds": round(run.progress.seconds),
        "parameters": run.trained.record["parameters"],
        "rows": data.facts.rows,
        "losses": [[row["step"], row["predict/loss"]] for row in run.trained.rows() if "predict/loss" in row],
        "tables": tables,
    }
    path = HERE / f"{date.today()}-translating.md"
    path.write_text(report(told, data, rows, written) + "\n")
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    print(path.read_text())


def held_of(data: Data, most: int) -> list[Row]:
    """Held-out rows, evenly spread, with what the memory of their language has nearest to each."""
    held, train = (list(zip(split.columns["source"], split.columns["text"], strict=True)) for split in (data.held, data.train))
    held = [held[i * len(held) // most] for i in range(most)] if len(held) > most else held
    rows: list[Row] = []
    for language in LANGUAGES:
        asked, known = ([pair for pair in some if pair[0].startswith(f"{language}: ")] for some in (held, train))
        like = most_like(bare([source for source, _ in asked]), bare([source for source, _ in known]))
        rows += [(*pair, known[place][1], near) for pair, (place, near) in zip(asked, like, strict=True)]
    return rows


def written_by(run: Loaded, sources: list[str]) -> list[str]:
    greedy = turned(run.system.sampler, {"temperature": "0"})
    return list(run.system.sample(len(sources), about={"source": sources}, sampler=greedy)["text"])


def judged(rows: list[Row], written: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Who -> figure -> value, low, high."""
    wanted = [row[1] for row in rows]
    made = {"t5": [written[row[0]] for row in rows], "memory": [row[2] for row in rows]}
    made["memory, or t5 where far"] = [row[2] if row[3] >= FAR[0] else written[row[0]] for row in rows]
    made["the English"] = bare([row[0] for row in rows])
    found: dict[str, dict[str, Any]] = {}
    for name, texts in made.items():
        found[name] = {}
        for metric in (BLEU(), CHRF()):
            counts = counted(metric, wanted, texts)[0]
            found[name]["chrF" if isinstance(metric, CHRF) else "BLEU"] = score(metric, counts, len(rows))
        found[name]["exact, %"] = 100 * sum(map(str.__eq__, wanted, texts)) / max(1, len(rows))
    return found


def score(metric: Any, counts: np.ndarray, rows: int) -> list[float]:
    return list(bootstrap(lambda weights: score_of(metric, weights @ counts), rows, resamples=200, floor=0.0))


def report(told: dict[str, Any], data: Data, rows: list[Row], written: dict[str, str]) -> str:
    lines = [
        f"# t5 on program messages, {date.today()}",
        "",
        f"`translations`: {told['rows']['train']:,} training rows, {told['rows']['held']:,} held out; {len(rows):,} judged.",
        f"{data.facts.attribution}.",
        f"t5: {sum(told['parameters'].values()):,} parameters, {told['seconds']} CPU-seconds, {told['step']} steps, loss at last",
        f"{np.mean([loss for _, loss in told['losses'][-50:]]):.3f} nats. BLEU and chrF 0 to 100, 95 % by bootstrap over rows.",
        f"One thread. Made by `python benchmarks/translating.py`, torch {versions()['torch']}, trained at {told['commit']}.",
    ]
    for title, table in told["tables"].items():
        lines += ["", f"## {title}", "", *side_by_side(table)]
    lines += ["", "## As it writes", ""]
    for row in [row for row in rows if row[3] < FAR[1]][:: max(1, len(rows) // 40)][:8]:
        source, wanted, memory, own = (" ".join(text.split()) for text in (*row[:3], written[row[0]]))
        lines += [f"- {source} -> `{own}` (wanted `{wanted}`; memory, {row[3]:.2f}: `{memory}`)"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
