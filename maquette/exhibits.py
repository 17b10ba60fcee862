"""The few samples that scoring keeps to be looked at: beside real rows, and each with the training row nearest to it.

Also strips: a latent's units turned up and down, paths between rows, and whatever else a sampler has to exhibit.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.contracts import Exhibiting, restoring
from maquette.data.conversations import Conversations
from maquette.metrics.evidence import Evidence, UnfitSamples, replied
from maquette.nn.paths import lerp, slerp, traversal
from maquette.storage import replace_durably

MOST, TEXTS, DESCRIBED = 100, 2, 3
STRIP = "strip: "  # how the keys of strips begin
STEPS, UNITS, PAIRS, REACH = 9, 10, 3, 2.0  # of a strip; units at most; pairs of rows joined; deviations of the prior each way


def kept(evidence: Evidence) -> dict[str, Any]:
    """Samples and held-out rows of images, the same number of each class, and each sample's nearest training row (Euclid).

    Of text: a few samples. Of what is written about pictures: that, and the pictures. Of a system that makes nothing
    out of nothing: held-out rows and what it makes of them; of one that draws nothing at all: nothing.
    """
    system = evidence.system
    if system is not None and system.sampler is None:
        return {}
    if system is not None and system.codec.field == "text" and evidence.facts.field == "image":
        shown = evidence.held["image"][:DESCRIBED]
        written = system.sample(len(shown), about={"image": shown}, seed=evidence.seed)["text"]
        return {"samples": written, STRIP + "Held-out pictures, in the order of what is written of them": shown[None]}
    if system is not None and isinstance(evidence.data.held, Conversations):
        talks = replied(system, evidence.data.held, list(range(min(TEXTS, len(evidence.data.held)))), evidence.seed)
        return {"samples": [f"{said}\n{written}" for said, _, written in talks]}
    if evidence.facts.field == "text" and evidence.system is not None:
        return {"samples": evidence.system.sample(TEXTS, seed=evidence.seed)["text"]}
    if not evidence.pictures:
        return {}
    held, train, classes = evidence.held, evidence.train["image"], len(evidence.facts.classes)
    shown = _spread(held, classes)
    try:
        samples = evidence.samples
    except UnfitSamples:
        labels = {name: held["label"][shown].tolist() for name in ("labels", "real_labels") if "label" in held}
        return {"samples": evidence.rebuilt[shown], "real": held["image"][shown], **labels}
    chosen = _spread(samples, classes)
    images = samples["image"][chosen]
    nearest = train[torch.cdist(images.flatten(1), train.flatten(1)).argmin(1)]
    found: dict[str, Any] = {"samples": images, "real": held["image"][shown], "nearest": nearest}
    if "label" in samples:
        found["labels"] = samples["label"][chosen].tolist()
    if "label" in held:
        found["real_labels"] = held["label"][shown].tolist()
    return {**found, **strips(evidence)}


@torch.no_grad()
def strips(evidence: Evidence) -> dict[str, Any]:
    """What strips of pictures show, each a key of STRIP and a sentence -> [lines,columns,C,H,W].

    What the sampler has to exhibit; what becomes of sources, where the system is told of them. Where the objective has
    `represent` and `rendered`, also traversals, around one held-out row, a line per unit, those that vary most over the rows
    first; and paths from one held-out row to another, straight and spherical.
    """
    system: Any = evidence.system
    if system is None:
        return {}
    system.eval()
    found: dict[str, Any] = {}
    if isinstance(system.sampler, Exhibiting):
        shown = system.sampler.exhibit(system, system.encode({name: column[:16] for name, column in evidence.held.items()}))
        found |= {STRIP + name: pictures.cpu() for name, pictures in shown.items()}
    lost = restoring(system.conditioner)
    rows = {name: column[: STEPS + 1] for name, column in evidence.held.items()}
    if lost is not None:
        left = lost.worsened(rows["image"])
        told = {**system.conditioner.asked(rows), "source": left}
        again = system.sample(len(left), about=told, seed=evidence.seed)["image"].cpu()
        title = "What is left of held-out pictures, brought up without a model; below each the sample, and the picture itself"
        found[STRIP + title] = torch.stack([lost.plain(left), again, rows["image"]])
    elif system.conditioner is not None and "source" in system.conditioner.fields and "source" in evidence.held:
        sources = evidence.held["source"][: STEPS + 1]
        turned = system.sample(len(sources), about={"source": sources}, seed=evidence.seed)["image"].cpu()
        found[STRIP + "Held-out sources, and below each what it is turned into"] = torch.stack([sources, turned])
    pictures = evidence.held["image"][: STEPS + 1] if evidence.pictures else torch.zeros(0)
    shown = system.conditioner.seen(pictures.to(system.device)) if system.conditioner is not None and len(pictures) else {}
    if shown:
        others = system.sample(len(pictures), about=shown, seed=evidence.seed)["image"].cpu()
        found[STRIP + "Held-out pictures, and below each another that shows the same"] = torch.stack([pictures, others])
    objective: Any = system.objective
    if not (hasattr(objective, "represent") and hasattr(objective, "rendered")):
        return found
    codes = objective.represent(system, {name: column[:256] for name, column in evidence.held.items()})
    if not codes.is_floating_point() or len(codes) < 2 * PAIRS:
        return found

    def drawn(latents: Tensor) -> Tensor:
        return objective.rendered(system, latents.flatten(0, 1)).cpu().unflatten(0, latents.shape[:2])

    if codes.dim() == 2:
        units = codes.var(0).argsort(descending=True)[:UNITS]
        moved = traversal(codes[0], units, torch.linspace(-REACH, REACH, STEPS, device=codes.device))
        named = ", ".join(str(unit) for unit in units.tolist())
        found[f"{STRIP}A latent unit a line, low to high, all else as in one held-out row (units {named})"] = drawn(moved)
    a, b = codes[: 2 * PAIRS : 2], codes[1 : 2 * PAIRS : 2]
    roads = torch.stack([lerp(a, b, STEPS), slerp(a, b, STEPS)], 1).flatten(0, 1)
    found[STRIP + "From one held-out row to another through the latent: a straight path, a spherical one, in turn"] = drawn(roads)
    return found


def _spread(batch: dict[str, Any], classes: int) -> Tensor:
    """Positions of at most MOST rows, the first ones of each class in turn."""
    if "label" not in batch or classes < 2:
        return torch.arange(min(MOST, len(batch["image"])))
    each = max(1, MOST // classes)
    return torch.cat([(batch["label"] == label).nonzero().flatten()[:each] for label in range(min(classes, MOST))])


def save(path: Path, found: dict[str, Any]) -> None:
    """Keep a gallery as arrays; images as bytes 0..255."""
    arrays = {k: (v * 255).round().to(torch.uint8).numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in found.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, buffer.getvalue())


def read(path: Path) -> dict[str, Any]:
    """A kept gallery, {} where there is none."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {k: torch.from_numpy(v).float() / 255 if v.dtype == np.uint8 else v.tolist() for k, v in arrays.items()}
