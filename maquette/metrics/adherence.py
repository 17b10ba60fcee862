"""Does a sample show what its caption asked for? Factor by factor, where the data know what made each row.

Knows a judge of pictures that is trained here, on the training rows alone, and kept with the feature networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.contracts import Batch
from maquette.metrics import features
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence
from maquette.metrics.intervals import proportion

MOST = 1000  # captions asked for, unless fewer rows are held out
STEPS, BATCH, WIDTH = 1200, 64, 16  # of the judge
SUFFICES = 0.99  # of the training rows read rightly from the figure alone: then nothing else is looked at
MEANINGS = {
    "adherence": "Share of samples that show every factor of the held-out caption they were drawn for.",
    "adherence (real)": "The same judge on the held-out pictures of those captions: the most that adherence can be read as.",
    "adherence, ": "Share of samples that show this one factor as their held-out caption asked.",
}


def applies(evidence: Evidence) -> str:
    if not evidence.pictures or not evidence.facts.factors:
        return "the factors of the data are not known"
    conditioner = evidence.system.conditioner if evidence.system is not None else None
    if conditioner is None or "text" not in conditioner.fields:
        return "the system reads no captions"
    return "" if "text" in evidence.data.held.columns else "the data have no captions"


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Shares with Wilson's interval over the captions."""
    assert evidence.system is not None
    net = judge(evidence)
    chosen = torch.from_numpy(evidence.some("held", MOST))
    asked: Batch = {name: rows(column, chosen) for name, column in evidence.held.items()}
    drawn = evidence.system.sample(len(chosen), about={"text": asked["text"]}, seed=evidence.seed)["image"]
    right, real = correct(net, evidence.rounded(drawn.cpu()), asked), correct(net, asked["image"], asked)
    options = (("judge", features.name_of("factors", net)), ("interval", "Wilson"))

    def share(name: str, found: Tensor) -> Estimate:
        interval = proportion(int(found.sum()), len(found))
        return evidence.estimate(name, interval, len(found), better="higher", samples=len(found), options=options)

    each = {f"adherence, {name}": share(f"adherence, {name}", right[:, i]) for i, name in enumerate(net.names)}
    return {"adherence": share("adherence", right.all(1)), **each, "adherence (real)": share("adherence (real)", real.all(1))}


class Judge(nn.Module):
    """Reads every factor of a picture: float[B,C,H,W] in 0..1 -> for each factor, logits over its values.

    A factor that the figure alone betrays (how far each pixel is from the ground's colour) is read from that: a reader that sees
    the colours too takes a pair of colour and shape that it never saw together for one that it did.

    Args:
        channels: of the pictures.
        factors: name -> its values.
    """

    plain: Tensor

    def __init__(self, channels: int, factors: dict[str, tuple[str, ...]]):
        super().__init__()
        self.names, sizes = tuple(factors), [len(values) for values in factors.values()]
        self.figure, self.whole = _Tower(1, sizes), _Tower(channels, sizes)
        self.register_buffer("plain", torch.zeros(len(sizes), dtype=torch.bool))

    def both(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits from the figure alone, and from the whole picture."""
        return self.figure(figure(x)), self.whole(x)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [a if plain else b for a, b, plain in zip(*self.both(x), self.plain.tolist(), strict=True)]


class _Tower(nn.Module):
    """Four convolutions, the largest answer in each quarter of the picture, a linear reading per factor."""

    def __init__(self, channels: int, sizes: Sequence[int]):
        super().__init__()
        widths = [channels, WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH]
        layers: list[nn.Module] = []
        for i, stride in enumerate((1, 2, 2, 1)):
            layers.append(nn.Conv2d(widths[i], widths[i + 1], 3, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.heads = nn.ModuleList(nn.Linear(4 * widths[-1], size) for size in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.layers(x * 2 - 1)
        return [head(h) for head in self.heads]


def figure(x: Tensor) -> Tensor:
    """How far each pixel is from the border's median colour, of the farthest: [B,C,H,W] -> [B,1,H,W]."""
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2).median(2).values
    far = (x - border[:, :, None, None]).square().sum(1, keepdim=True).sqrt()
    return far / far.amax((2, 3), keepdim=True).clamp(min=0.1)


def judge(evidence: Evidence) -> Judge:
    """The judge of these data, from the cache if it is there."""
    facts, key = evidence.facts, evidence.facts.hash[:16]
    with features.seeded(0):
        net = Judge(facts.shape[0], facts.factors)
        if not features.restore(net, "factors", key):
            teach(net, evidence.train)
            features.keep(net, "factors", key)
    return net.eval()


def teach(net: Judge, rows: Batch) -> None:
    """Both towers learn every factor; then the figure alone is trusted where it suffices."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS, pct_start=0.1)
    order, count = np.random.default_rng(0), len(rows["image"])
    for _ in range(STEPS):
        some = torch.from_numpy(order.integers(count, size=BATCH))
        with torch.autocast("cpu", torch.bfloat16):
            towers = net.both(rows["image"][some])
        losses = [
            F.cross_entropy(out.float(), rows[n][some]) for tower in towers for n, out in zip(net.names, tower, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    net.eval()
    net.plain.fill_(True)
    some = torch.from_numpy(order.permutation(count)[:2000])
    right = correct(net, rows["image"][some], {name: rows[name][some] for name in net.names})
    net.plain.copy_(right.double().mean(0) >= SUFFICES)


@torch.no_grad()
def correct(net: Judge, images: Tensor, asked: Batch) -> Tensor:
    """Which factors of which pictures are read as asked: bool[N, factors]."""
    read = [torch.stack([out.argmax(1) for out in net(part)], 1) for part in images.split(512)]
    return torch.cat(read) == torch.stack([asked[name] for name in net.names], 1)


def rows(column: Tensor | Sequence[str], places: Tensor) -> Tensor | list[str]:
    return column[places] if isinstance(column, Tensor) else [column[i] for i in places.tolist()]
