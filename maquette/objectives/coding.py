"""Train a codec for the next stage: rebuild data through its bottleneck, without a learned prior. Knows no bottleneck.

Role: `codec`, the system's own: a chain whose inner codec has squeeze, nats and rate. Sharpened adds two more players.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.contracts import Batch, Logs, Objective, phase
from maquette.networks.patch_discriminator import unlike
from maquette.nn.ranks import summed
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


class Coding(Objective):
    """Distortion plus beta times what the bottleneck charges: -log p(x | z) + beta |z_e - sg[e]|^2 for codes (van den Oord
    2017, eq. 3; the codebook's own term is a moving average), -log p(x | z) + beta KL for Gaussian latents.

    With all codes equally likely, -log p(x | z) + T log K is a bound on -log p(x): `score`; its second part is `rate`.

    Args:
        beta: weight of the charge; codes take 0.25, latents for a later stage next to nothing.
    """

    bound = "ELBO"

    def __init__(self, beta: float = 0.25):
        super().__init__()
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta is {beta}; it must be 0 or more, and 0.25 suits codes")
        self.beta = beta

    def parts(self, system: System, batch: Batch) -> tuple[Any, Tensor]:
        """The trainable codec, and the images it reads [B,C,H,W] in -1..1."""
        codec: Any = system.codec
        return codec.inner, codec.outer.encode(batch[codec.field].to(system.device))

    @phase("codec")
    def rebuild(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Nats per dimension."""
        codec, x = self.parts(system, batch)
        z, charge = codec.squeeze(x, rng)
        dims = x[0].numel()
        distortion, charge = codec.nats(x, z).mean() / dims, charge.mean() / dims
        return distortion + self.beta * charge, {"distortion": distortion / math.log(2), "charge": charge}

    @torch.no_grad()
    def score(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """-log p(x | z) + the code's cost under its unlearned prior, nats [B]."""
        codec, x = self.parts(system, batch)
        z, _ = codec.squeeze(x, rng)
        return codec.nats(x, z) + codec.rate(x)

    @torch.no_grad()
    def rate(self, system: System, batch: Batch, rng: Streams) -> Tensor:
        """What the codes cost to send while no prior has been learned, in nats [B]."""
        codec, x = self.parts(system, batch)
        return codec.rate(x)


class Sharpened(Coding):
    """A codec that also looks right and fools a discriminator of patches (Esser 2021, VQGAN, eqs. 4-7).

    distortion + beta * charge + features * unlikeness + balance * adversary * generator's hinge loss. Unlikeness is measured in
    the features of `judge`, a classifier that learns the batch's labels here, in the same loop; without labels in those of the
    discriminator, after `delay`. Roles: `codec`, `discriminator`, and where there are labels `judge`.

    Args:
        beta: weight of the bottleneck's charge.
        features: weight of the unlikeness.
        adversary: weight of the adversarial loss after balancing.
        delay: steps before the discriminator joins in.
    """

    def __init__(self, beta: float = 0.25, features: float = 1.0, adversary: float = 0.2, delay: int = 0):
        super().__init__(beta)
        for name, value in (("features", features), ("adversary", adversary), ("delay", delay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        self.features, self.adversary, self.delay = features, adversary, delay

    @phase("codec")
    def rebuild(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The codec's move."""
        codec, x = self.parts(system, batch)
        z, charge = codec.squeeze(x, rng)
        params, dims, begun = codec.rebuilt(z), x[0].numel(), step >= self.delay
        again = codec.likelihood.mean(params)
        rebuilt, charge = codec.likelihood.nats(x, params).mean() / dims, charge.mean() / dims
        logs: Logs = {"distortion": rebuilt, "charge": charge}
        judge = system.nets["judge"] if "judge" in system.nets else system.nets["discriminator"] if begun else None
        if judge is not None and self.features:
            logs["unlike"] = unlike(judge, x, again).mean()  # type: ignore[arg-type]
            rebuilt = rebuilt + self.features * logs["unlike"]
        loss = rebuilt + self.beta * charge
        if begun and self.adversary:
            fooled = -system.nets["discriminator"](again).float().mean()
            logs["balance"] = balance(rebuilt, fooled, codec.last)
            loss = loss + self.adversary * logs["balance"] * fooled
        return loss, logs

    @phase("judge")
    def learn(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The judge's move: cross-entropy of the labels of the images."""
        _, x = self.parts(system, batch)
        return F.cross_entropy(system.nets["judge"](x).float(), batch["label"].to(x.device)), {}

    @phase("discriminator")
    def criticise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """The discriminator's move: hinge loss, real patches above 1 and rebuilt ones below -1. Nothing during `delay`."""
        codec, x = self.parts(system, batch)
        if step < self.delay:  # a loss of nothing, at next to no cost
            return 0 * system.nets["discriminator"](x[:1]).float().mean(), {}
        with torch.no_grad():
            again = codec.mean(codec.squeeze(x, rng)[0])
        real, fake = system.nets["discriminator"](torch.cat([x, again.to(x.dtype)])).float().chunk(2)
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return loss, {"apart": (real.mean() - fake.mean()).detach()}


def balance(rebuilt: Tensor, fooled: Tensor, last: Tensor) -> Tensor:
    """|d rebuilt / d last| / |d fooled / d last|, `last` the decoder's last weights (Esser 2021, eq. 7).

    Neither loss drowns the other. The gradients are summed over all ranks, so that ranks agree.
    """
    slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rebuilt, fooled)]
    above, below = (slope.norm() for slope in summed(*slopes))
    return (above / (below + 1e-6)).clamp(max=1e4).detach()
