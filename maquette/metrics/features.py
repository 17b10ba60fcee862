"""Feature networks trained here, on the training split alone: what a Fréchet distance is measured in, named by weight hash.

Knows images and labels, no generator. Trained networks are kept as safetensors under XDG_CACHE_HOME/maquette/features, so
one machine measures with one network whatever its thread count; a network that differs has another name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 16  # images up to this many pixels a side are judged by a perceptron, as in the field's toy benchmarks
SEEN = 32  # larger images are shrunk to this side first: detail below it goes unseen


class Perceptron(nn.Module):
    """A classifier of tiny images, 128-64 hidden ReLU units: float[B,C,H,W] -> features [B,64]; `head` gives its logits."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)
        self.num_features = 64

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.float())


class Convnet(nn.Module):
    """A small classifier that knows where it looks (two coordinate planes): float[B,C,H,W] -> [B,64]; `head` gives logits."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, side = shape[0] + 2, min(SEEN, max(shape[1:]))
        self.side = (min(SEEN, shape[1]), min(SEEN, shape[2]))
        layers: list[nn.Module] = []
        width = 32
        if side <= TINY:
            layers, channels = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()], width
        while side > 4:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
            channels, width, side = width, min(128, 2 * width), (side + 1) // 2
        layers += [nn.AdaptiveAvgPool2d(min(4, side)), nn.Flatten(), nn.Linear(channels * min(4, side) ** 2, 64), nn.ReLU()]
        self.layers, self.head, self.num_features = nn.Sequential(*layers), nn.Linear(64, classes), 64

    def forward(self, x: Tensor) -> Tensor:
        x = shrink(x.float(), self.side)
        rows, columns = (torch.linspace(-1, 1, n, device=x.device) for n in x.shape[2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(x), -1, -1, -1)
        return self.layers(torch.cat([x * 2 - 1, place], 1))


class RandomConvnet(nn.Module):
    """Three layers of untrained 3x3 filters, means and deviations of every channel: float[B,C,H,W] -> [B,224].

    A weak stand-in for data without labels: it sees textures and strokes, not what the picture shows.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        widths = [shape[0], 16, 32, 64]
        self.side = (min(SEEN, shape[1]), min(SEEN, shape[2]))
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.num_features = 2 * sum(widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        x, seen = shrink(x.float(), self.side) * 2 - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            seen += [x.mean((2, 3)), x.std((2, 3), unbiased=False)]
            x = F.avg_pool2d(x, 2) if min(x.shape[2:]) >= 4 else x
        return torch.cat(seen, 1)


def shrink(x: Tensor, side: tuple[int, int]) -> Tensor:
    """Images averaged down to `side`, left alone if they are that size."""
    return x if tuple(x.shape[2:]) == side else F.interpolate(x, side, mode="area")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: torch's CPU randomness starts at `seed`; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def apply(net: Callable[[Tensor], Tensor], images: Tensor, batch: int = 512) -> np.ndarray:
    """Features of many images: float[N,C,H,W] -> float64[N,D]."""
    return np.concatenate([net(part).double().cpu().numpy() for part in images.split(batch)])


def name_of(kind: str, net: nn.Module) -> str:
    """`kind@` and the first 8 digits of the SHA-256 over its weights, in order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return f"{kind}@{digest.hexdigest()[:8]}"


def kind_for(shape: tuple[int, ...], classes: int) -> str:
    """Which network judges such images: "mlp128-64", "convnet64", or "randconv" where there are no labels to learn from."""
    if classes < 2:
        return "randconv"
    return "mlp128-64" if max(shape[1:]) <= TINY else "convnet64"


def network(kind: str, shape: tuple[int, ...], classes: int, key: str, rows: Callable[[], tuple[Tensor, Tensor]]) -> nn.Module:
    """The trained network of a kind, from the cache if it is there, under the data's hash `key`.

    `rows` gives the training images float[N,C,H,W] and labels int64[N]; it is called only when the network must be trained.
    """
    with seeded(0):
        made = {"mlp128-64": lambda: Perceptron(int(np.prod(shape)), classes), "convnet64": lambda: Convnet(shape, classes)}
        net: nn.Module = made[kind]() if kind in made else RandomConvnet(shape)
    if kind not in made or restore(net, kind, key):
        return net.eval()
    if isinstance(net, Perceptron):
        teach_perceptron(net, *rows())
    else:
        teach(net, *rows(), steps=500)
    keep(net, kind, key)
    return net.eval()


def teach_perceptron(net: Perceptron, images: Tensor, labels: Tensor) -> None:
    """Weights from scikit-learn's MLPClassifier((128, 64), alpha=1e-4, random_state=0), trained on one thread."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = MLPClassifier((128, 64), alpha=1e-4, random_state=0).fit(images.flatten(1).double().numpy(), labels.numpy())
    linear = [m for m in [*net.layers, net.head] if isinstance(m, nn.Linear)]
    for layer, weight, bias in zip(linear, found.coefs_, found.intercepts_, strict=True):
        if weight.shape[1] == 1:  # two classes have one logit in scikit-learn
            weight, bias = np.concatenate([-weight, weight], 1) / 2, np.concatenate([-bias, bias]) / 2
        classes = [int(c) for c in found.classes_] if layer is net.head else slice(None)
        with torch.no_grad():
            if layer is net.head:
                layer.weight.zero_()
                layer.bias.fill_(-1e4)  # a class the training split lacks is never read
            layer.weight[classes] = torch.from_numpy(weight.T).float()
            layer.bias[classes] = torch.from_numpy(bias).float()


def teach(net: nn.Module, images: Tensor, labels: Tensor, *, steps: int, seed: int = 0, batch: int = 64) -> nn.Module:
    """Train a classifier (`net` -> features -> `net.head` -> logits) for a fixed number of AdamW steps, rate falling to 0."""
    order = np.random.default_rng(seed)
    steps = max(2, steps)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < min(batch, len(images)):
            waiting += order.permutation(len(images)).tolist()
        rows, waiting = torch.tensor(waiting[:batch]), waiting[batch:]
        loss = F.cross_entropy(net.head(net(images[rows])), labels[rows])  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def cache() -> Path:
    """Where trained feature networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maquette" / "features"


def restore(net: nn.Module, kind: str, key: str) -> bool:
    """Load a network that was trained before on this data; False if there is none that fits."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = cache() / f"{kind}-{key}.safetensors"
    if not path.is_file():
        return False
    with suppress(SafetensorError, OSError, RuntimeError):  # a damaged or foreign file: train again
        net.load_state_dict(load_file(path))
        return True
    return False


def keep(net: nn.Module, kind: str, key: str) -> None:
    """Save a trained network for the next time, whole or not at all. A cache that cannot be written is no error."""
    from safetensors.torch import save_file

    path = cache() / f"{kind}-{key}.safetensors"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as staged:
            pass
        save_file(net.state_dict(), staged.name)
        os.replace(staged.name, path)
