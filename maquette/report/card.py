"""A run's README.md: the model card, with the front matter that the hub reads. Made from run.json and eval.json alone.

The same two files give the same card, byte for byte: nothing here asks the clock, the machine or the weights.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from maquette.report.axes import count, decimals, duration, finite

LICENCES = {  # as data says it -> as the hub names it
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY 2.0": "cc-by-2.0",
    "CC0 1.0": "cc0-1.0",
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
}
_PIPELINES = {"image": "unconditional-image-generation", "text": "text-generation"}
_DESCRIBES = "image-to-text"
_COMPARES = {"image": "zero-shot-image-classification", "source": "sentence-similarity"}  # by one of the sides
_PLAIN = str.maketrans({"|": "\\|", "\n": " ", "\r": " ", "<": "&lt;", ">": "&gt;", "`": "'", "[": "\\["})


def write_card(path: str | Path, run: dict[str, Any], evaluation: dict[str, Any] | None) -> Path:
    """Write the card of a run.

    Args:
        path: README.md in the run's folder.
        run: what run.json holds.
        evaluation: what eval.json holds; None before the first scoring.
    """
    from maquette.storage import replace_durably

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, card(run, evaluation, _picture(path.parent)).encode("utf-8", "replace"))
    return path


def _picture(folder: Path) -> str:
    """The newest sheet of samples, as a link relative to the card; '' where there is none."""
    found = sorted((folder / "samples").glob("step-*.png")) or sorted((folder / "samples").glob("*.png"))
    return f"samples/{found[-1].name}" if found else ""


def card(run: dict[str, Any], evaluation: dict[str, Any] | None, picture: str = "") -> str:
    """The card's text: front matter, then what it is, how well it does, how it was made and how it may be used."""
    facts = run.get("data") or {}
    parts = [
        _about(run, facts),
        f"![Samples, the first ones drawn]({picture})" if picture else "",
        _loading(run, facts),
        _figures(evaluation),
        _training(run, evaluation),
        _data(facts),
        _limits(facts, evaluation, _draws(run)),
    ]
    return f"---\n{front_matter(run, evaluation)}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def front_matter(run: dict[str, Any], evaluation: dict[str, Any] | None) -> str:
    """The YAML that the hub reads, without its fences."""
    from huggingface_hub import EvalResult, ModelCardData

    facts = run.get("data") or {}
    recipe, data = _recipe(run), PurePath(str(facts.get("name") or "data")).name
    task = _PIPELINES.get(str(facts.get("field")), "other") if _draws(run) else "text-classification"
    task = _COMPARES.get(next(iter(_compares(run)), ""), task)
    task = _DESCRIBES if _describes(run, facts) else task
    metrics = (evaluation or {}).get("metrics") or {}
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            dataset_split="held-out",
            dataset_revision=str(facts.get("hash") or "")[:12] or None,
            metric_type=_identifier(name),
            metric_name=name,
            metric_value=round(float(estimate["value"]), 6),
            metric_args={**_ends(estimate), "signature": _signature(estimate)},
        )
        for name, estimate in metrics.items()
        if finite(estimate.get("value")) is not None
    ]
    licence = str(facts.get("licence") or "")
    known = LICENCES.get(licence)
    told = ModelCardData(
        library_name="maquette",
        license=known or "other",
        license_name=None if known or not licence else _identifier(licence),
        pipeline_tag=task if task != "other" else None,
        tags=["maquette", recipe, str(facts.get("kind") or "own") + "-data"],
        datasets=None if facts.get("kind") == "own" else [data],
        metrics=[_identifier(name) for name in metrics] or None,
        model_name=f"{recipe}-{data}",
        eval_results=results or None,
    )
    return told.to_yaml(line_break="\n").strip()


def _ends(estimate: dict[str, Any]) -> dict[str, float]:
    """The ends of a figure's interval, where it has one."""
    found = {part: finite(estimate.get(part)) for part in ("low", "high")}
    return {part: round(value, 6) for part, value in found.items() if value is not None}


def _recipe(run: dict[str, Any]) -> str:
    return str(run.get("recipe") or "run").rpartition(":")[2]


def _identifier(words: str) -> str:
    """ "bits/dim given label" -> "bits-dim-given-label"."""
    return "-".join("".join(letter if letter.isalnum() or letter in "-._" else " " for letter in words).split()).lower()


def _signature(estimate: dict[str, Any]) -> str:
    given = estimate.get("signature")
    return str(estimate.get("line") or (given if isinstance(given, str) else "") or "")


def _safe(words: Any) -> str:
    """Words from outside as they may stand in Markdown: on one line, no table bars, no tags."""
    return str(words).translate(_PLAIN)


def _about(run: dict[str, Any], facts: dict[str, Any]) -> str:
    from maquette.recipes import catalogue

    recipe = _recipe(run)
    listed = catalogue().get(str(run.get("recipe")))
    summary = f" {listed.summary}" if listed else ""
    total = sum(int(n) for n in (run.get("parameters") or {}).values() if finite(n) is not None)
    size = f", {count(total)} parameters" if total else ""
    title = f"# {_safe(recipe)} on {_safe(facts.get('name') or 'data')}"
    what = "generative model" if _draws(run) else "model"
    about = f"text about {_safe(facts.get('field'))}s" if _describes(run, facts) else _safe(facts.get("field") or "data")
    return f"{title}\n\nA {what} of {about}{size}.{summary}"


def _describes(run: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether it writes about what its data hold."""
    return _makes(run) == "text" != facts.get("field")


def _draws(run: dict[str, Any]) -> bool:
    """Whether the run makes samples; some only compare what they are given."""
    return bool(run.get("draws", True))


def _compares(run: dict[str, Any]) -> list[str]:
    """What the run puts into one space; runs of before that draw nothing compare pictures and captions."""
    return list(run.get("compares", [] if _draws(run) else ["image", "text"]))


def _makes(run: dict[str, Any]) -> str:
    """The field of what the run makes; runs of before say only what their data hold."""
    return str(run.get("makes") or (run.get("data") or {}).get("field") or "image")


def _loading(run: dict[str, Any], facts: dict[str, Any]) -> str:
    lines = ["import maquette", "", 'run = maquette.load("PATH/TO/THIS/FOLDER")']
    if not _draws(run):
        lines.append("rows = {name: column[:16] for name, column in run.data.held.all().items()}")
        if sides := _compares(run):
            near = " @ ".join(f'found["{side}"]' for side in sides)
            lines.append(f"found = run.system.objective.embed(run.system, rows)  # unit vectors: {near}.T")
        else:
            lines.append("kinds = run.system.objective.logits(run.system, rows).argmax(1)")
        what = "compare" if sides else "name"
        return f"## Load and {what}\n\n```python\n" + "\n".join(lines) + "\n```\n\nNothing here is a pickle. It draws no samples."
    classes = facts.get("classes") or []
    if _describes(run, facts):
        lines.append('print(run.sample(1, seed=0, **run.begun("picture.png", 1))["text"][0])')
    elif run.get("converses"):
        lines.append('print(run.sample(1, seed=0, chat="What is 7 + 5?")["text"][0])')
    elif facts.get("field") == "text":
        lines.append('print(run.sample(1, seed=0, prompt="import ")["text"][0])')
    else:
        about = ', about={"label": 0}' if classes else ""
        lines.append(f'samples = run.sample(16, seed=0{about})["{facts.get("field") or "image"}"]')
    return (
        "## Load and sample\n\n```python\n"
        + "\n".join(lines)
        + "\n```\n\nNothing here is a pickle, and the data is not needed to sample."
    )


def _figures(evaluation: dict[str, Any] | None) -> str:
    """The table of figures, each with its interval and how it was measured."""
    if not evaluation or not evaluation.get("metrics"):
        return "## Figures\n\nNot scored yet: `maquette eval PATH/TO/THIS/FOLDER`."
    lines = ["| figure | value | 95 % interval | better | how it was measured |", "|---|---|---|---|---|"]
    for name, estimate in evaluation["metrics"].items():
        value, low, high = (finite(estimate.get(part)) for part in ("value", "low", "high"))
        places = decimals([] if low is None or high is None else [(high - low) / 2], [value or 0.0])
        shown = "not a finite number" if value is None else f"{value:.{places}f}"
        between = "–" if low is None or high is None else f"{low:.{places}f} to {high:.{places}f}"
        aim = finite(estimate.get("aim"))
        wish = f"nearer {aim:.3g}" if aim is not None else estimate.get("better") or ""
        lines.append(f"| {_safe(name)} | {shown} | {between} | {_safe(wish)} | `{_safe(_signature(estimate))}` |")
    lines += ["", "Figures with unlike signatures must not be compared."]
    skipped = [f"- {_safe(name)}: {_safe(why)}" for name, why in (evaluation.get("skipped") or {}).items()]
    return "\n".join(["## Figures", "", *lines, *(["", "Not measured:", "", *skipped] if skipped else [])])


def _training(run: dict[str, Any], evaluation: dict[str, Any] | None) -> str:
    arguments = " ".join(f"{k}={v}" for k, v in (run.get("arguments") or {}).items())
    fit, scored = run.get("fit") or {}, evaluation or {}
    steps = scored.get("step") or fit.get("steps")
    spent = f" in {duration(scored['seconds'])} of training" if finite(scored.get("seconds")) is not None else ""
    roles = ", ".join(f"{name} {count(n)}" for name, n in (run.get("parameters") or {}).items() if n)
    told = {
        "recipe": run.get("recipe"),
        "arguments": arguments,
        "steps": f"{count(steps)}{spent}" if steps else "",
        "batch, learning rate": f"{fit['batch']}, {fit['lr']:g}" if "batch" in fit and finite(fit.get("lr")) is not None else "",
        "parameters": roles,
        "seed": run.get("seed"),
        "command": run.get("command"),
        "versions": ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items() if v),
        "machine": ", ".join(f"{k} {v}" for k, v in (run.get("machine") or {}).items() if v not in ("", None)),
        "begun": run.get("created"),
    }
    return "## How it was trained\n\n" + "\n".join(f"- **{k}**: {_safe(v)}" for k, v in told.items() if v not in (None, ""))


def _data(facts: dict[str, Any]) -> str:
    rows = ", ".join(f"{count(n)} {split}" for split, n in (facts.get("rows") or {}).items())
    told = {
        "name": facts.get("name"),
        "kind": facts.get("kind"),
        "licence": facts.get("licence") or "not stated",
        "attribution": facts.get("attribution"),
        "rows": rows,
        "split": facts.get("split"),
        "SHA-256": facts.get("hash"),
        "notes": "; ".join(map(str, facts.get("notes") or [])),
    }
    return "## Data\n\n" + "\n".join(f"- **{k}**: {_safe(v)}" for k, v in told.items() if v)


def _limits(facts: dict[str, Any], evaluation: dict[str, Any] | None, draws: bool) -> str:
    """What it is for, what it is not for, and what its own figures warn of."""
    lines = [
        "Meant for study and for comparison with other systems on the same data. It knows its training data and nothing else: "
        f"{'samples resemble' if draws else 'what is close there is close here:'} {_safe(facts.get('name') or 'that data')}, "
        "with its gaps and its bias.",
        "Figures are from one training run; their intervals do not include what another seed would change.",
        "maquette puts no licence on the weights. The licence above is the data's: check what it asks before you publish.",
    ]
    ratio = ((evaluation or {}).get("metrics") or {}).get("NN ratio") or {}
    high = finite(ratio.get("high"))
    if high is not None and high < 0.9:
        lines.append("**Samples lie closer to training rows than fresh real rows do: it may reproduce its training data.**")
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)
