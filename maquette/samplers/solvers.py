"""Solvers of a Gaussian process: from noise to a sample, speaking to the process alone.

A step goes from time t to an earlier time s. Held fixed, an estimate of x and the noise it implies make Euler's step
and DDIM's one and the same, for every schedule (Song 2021, eq. 13). Drafts are estimates of x; the last is the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from maquette.contracts import Code, Condition, Network, tell
from maquette.nn.paths import arc
from maquette.processes.gaussian import Gaussian
from maquette.processes.strides import Strides
from maquette.samplers.guidance import Guide, guided
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System


def free(x: Tensor) -> Tensor:
    """Estimates of x without bounds."""
    return x


@dataclass
class Look:
    """What a solver sees at a time: its process's reading of the (guided, conditioned) network, kept within bounds.

    `past` has, for solvers that look back, (t, x_t, estimate of x) of the steps before, the last one last; `final` says that
    the step being made is the last one. `loose`: the noise is the one implied before the estimate was kept within bounds.
    `given` is what is known of x, NaN elsewhere. It needs no estimate, so that each solver's own step keeps it at every time's
    noise: the replacement of Song 2021 (score SDE, app. I.2) and Lugmayr 2022, along the path that the solver takes.
    """

    process: Gaussian
    net: Network
    cond: Condition | None
    within: Callable[[Tensor], Tensor] = free
    loose: bool = False
    past: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    final: bool = False
    given: Code | None = None

    def kept(self, x: Tensor) -> Tensor:
        """Estimates of x [B,...], right where x is known."""
        return x if self.given is None else torch.where(self.given.isnan(), x, self.given)

    def at(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of x and of the noise in x_t, each [B,...], at time t [B]."""
        free = self.process.denoise(self.net, x_t, t, self.cond)
        x = self.kept(self.within(free))
        return x, self.process.noise(self.kept(free) if self.loose else x, x_t, t)


@dataclass(frozen=True)
class Solver:
    """The walk that all solvers share; each says how it makes one `step`.

    Args:
        process: the one that the objective trains with.
        shape: of one code.
        steps: how many times s the walk visits.
        guidance: classifier-free guidance; 1 = off.
        guided_from, guided_to: times between which it guides, 0 = data, 1 = noise (Kynkaanniemi 2024).
        rescale: how far a guided output is brought back to the deviation of the plain one; 0 = not (Lin 2023, sec. 3.4).
        clip: estimates of x are kept within -clip .. clip; 0 = off.
        quantile: each estimate is kept within this quantile of its own sizes, if that is above 1, and divided by it (Saharia
            2022, Imagen, sec. 2.3, "dynamic thresholding"); 0 = off, and above it is done in place of `clip`.
        most: at which that quantile is cut.
        strength: with a whole code to start from, the time from which it is restored; 1 forgets it (Meng 2022, SDEdit).
        resample: with a start that is open in part, how often each step is made, dissolved again in between, so that what is
            written fits what is known (Lugmayr 2022, RePaint, alg. 1). At 1 it fits badly, however many the steps.
        guide: what makes the network a guided one: two readings of it blended, or it is told, where it learnt to be.
    """

    process: Gaussian
    shape: tuple[int, ...]
    steps: int = 20
    guidance: float = 1.0
    clip: float = 0.0
    strength: float = 0.7
    guided_from: float = 0.0
    guided_to: float = 1.0
    rescale: float = 0.0
    quantile: float = 0.0
    most: float = 1.0
    resample: int = 5
    guide: Guide = guided

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; it must be a finite number, 1 = off")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must lie in 0 .. 1, above 0")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; it must be at least 0, and 0 = off")
        if not 0 <= self.guided_from < self.guided_to <= 1:
            raise ValueError(
                f"guided_from .. guided_to is {self.guided_from} .. {self.guided_to}; it must be a stretch of 0 .. 1"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is {self.rescale}; it must lie in 0 .. 1, and 0 = off")
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile is {self.quantile}; it must lie in 0 .. 1, and 0 = off")
        if not self.most >= 1:
            raise ValueError(f"most is {self.most}; it must be at least 1")
        if self.resample < 1:
            raise ValueError(f"resample is {self.resample}; it must be at least 1, and 1 makes each step once")

    def draw(
        self,
        system: System,
        n: int,
        *,
        start: Code | None = None,
        cond: Condition | None = None,
        null: Condition | None = None,
        rng: Streams,
    ) -> Iterator[Code]:
        """Estimates of n codes, one per step; the last is the sample.

        Args:
            start: codes to vary instead of pure noise; where some of it is NaN, that is written and the rest kept as it is.
        """
        times = self.process.grid(self.steps).to(rng.keys.device)
        look = self.seen(system, cond, null, rng)
        if start is None:
            x_t = self.process.prior(self.shape, rng, times[0])
        elif bool(start.isnan().any()):
            look.given = start = start.to(times.device)
            alpha, _ = self.process.levels(times[:1], start)
            x_t = self.process.prior(self.shape, rng, times[0]) + alpha * start.nan_to_num()
        else:
            times = times[self.steps - self.drafts(whole=True) :]
            x_t = self.dissolve(look, start.to(times.device), times, rng)
        yield from self.walk(look, x_t, times, rng)

    def drafts(self, whole: bool = False) -> int:
        """How many steps `draw` makes; `whole`: with a whole code to start from."""
        return max(1, self.steps - round(self.steps * (1 - self.strength))) if whole else self.steps

    def adopt(self, system: System, code: Code) -> Code:
        """The code itself: `strength` says how much of it is forgotten."""
        return code

    def without(self, code: Code, away: Tensor) -> Code:
        """A code [B,C,h,w], NaN at each place that stands for a patch of which some is `away`, bool[H,W].

        Raises:
            ValueError: the code has no places.
        """
        if code.dim() != 4:
            raise ValueError(f"a code of {tuple(code.shape[1:])} has no places: no part of a picture can be left open in it")
        places = adaptive_max_pool2d(away[None, None].float(), code.shape[2:])[0] > 0
        return code.masked_fill(places.to(code.device), torch.nan)

    def roots(self, system: System, n: int, *, cond: Condition | None = None, rng: Streams) -> Tensor:
        """The noise that `draw` begins with, [n,...]."""
        return self.process.prior(self.shape, rng, self.process.grid(self.steps)[0].to(rng.keys.device))

    def between(self, first: Tensor, last: Tensor, share: Tensor) -> Tensor:
        """Noise along a great circle (Song 2021, sec. 5.3): [n,...] each -> [n,...]."""
        return arc(first, last, share)

    def grow(
        self, system: System, roots: Tensor, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Iterator[Code]:
        """Estimates of the codes that noise [n,...] leads to; the last is the sample."""
        times = self.process.grid(self.steps).to(roots.device)
        yield from self.walk(self.seen(system, cond, null, rng), roots, times, rng)

    def trace(
        self, system: System, code: Code, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Tensor:
        """The noise [B,...] from which DDIM's steps draw codes: this solver comes as near to them as it is near to DDIM's."""
        times = self.process.grid(self.steps).to(code.device)
        return DDIM(self.process, self.shape, self.steps).uphill(self.seen(system, cond, null, rng), code, times.flip(0))

    def seen(self, system: System, cond: Condition | None, null: Condition | None, rng: Streams) -> Look:
        """The system's network, guided, as this solver sees it."""
        between = self.process.heard(torch.tensor([self.guided_from, self.guided_to])).tolist()
        net = self.guide(system.steady("main"), self.guidance, null, (between[0], between[1]), self.rescale)
        return self.looking(net, cond)

    def walk(self, look: Look, x_t: Tensor, times: Tensor, rng: Streams) -> Iterator[Code]:
        """Estimates of the codes that x_t [B,...] at the first of falling times leads to; the last is the sample."""
        legs = self.legs(times)
        for i, (t, s) in enumerate(legs[..., None].expand(-1, -1, len(x_t))):
            look.final = i + 1 == len(legs)
            turns = 1 if look.given is None else self.resample
            for turn in range(turns):
                x_t = again(self.process, x_t, s, t, rng) if turn else x_t
                x_r, r = self.stir(x_t, t, rng)
                guess, noise = look.at(x_r, r)
                x_t = self.step(look, x_r, guess, noise, r, s, rng)
            look.past = [*look.past[-2:], (r, x_r, guess)] if turns == 1 else []  # what was seen amid other noise misleads
            if not look.final:
                yield guess
        yield look.kept(x_t)

    def legs(self, times: Tensor) -> Tensor:
        """From where to where each step goes, [steps, 2]."""
        return torch.stack([times[:-1], times[1:]], 1)

    def looking(self, net: Network, cond: Condition | None) -> Look:
        """The network as this solver sees it."""
        return Look(self.process, net, cond, self.within)

    def within(self, x: Tensor) -> Tensor:
        """Estimates of x [B,...] within bounds."""
        if self.quantile:
            bound = x.abs().flatten(1).quantile(self.quantile, 1).clamp(1, self.most).reshape(-1, *[1] * (x.dim() - 1))
            return x.clamp(-bound, bound) / bound
        return x.clamp(-self.clip, self.clip) if self.clip else x

    def dissolve(self, look: Look, x: Code, times: Tensor, rng: Streams) -> Tensor:
        """A code to vary, brought to the first of the times that are still to be walked."""
        return self.process.corrupt(x, times[0].expand(len(x)), rng)

    def stir(self, x_t: Tensor, t: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """x_t and t as the step will find them: somewhere a little noisier, for solvers that add noise as they go."""
        return x_t, t

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        """x_s from x_t, given the estimates of x and eps at t."""
        raise NotImplementedError


@dataclass(frozen=True)
class Euler(Solver):
    """First order: the estimates at t serve until s."""

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        alpha, sigma = self.process.levels(s, x)
        return alpha * x + sigma * eps


@dataclass(frozen=True)
class DPM(Solver):
    """DPM-Solver++(2M): second order from one look a step and a look back at the last one (Lu 2022b, alg. 2).

    The first step and the last, where log(alpha / sigma) is not finite, are of first order.

    Args:
        fresh: the noise that the ancestral sampler adds: SDE-DPM-Solver++(2M) (Lu 2022b, app. C).
        settle: the last step of a walk of fewer steps than this is of first order wherever it ends.
    """

    fresh: bool = False
    settle: float = 0.0

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = self.process.levels(t, x), self.process.levels(s, x)
        settling = look.final and self.steps < self.settle
        if look.past and not settling and bool((sigma > 0).all()):
            before, _, guess = look.past[-1]
            alpha_b, sigma_b = self.process.levels(before, x)
            ahead, behind = (alpha * sigma_t / (sigma * alpha_t)).log(), (alpha_t * sigma_b / (sigma_t * alpha_b)).log()
            x = x + ahead / (2 * behind) * (x - guess)  # where alpha_b = 0, behind is infinite and this is x
        if self.fresh:
            mean, spread, _ = posterior(self.process, x_t, x, t, s)
            return mean + spread * rng.normal(*x.shape[1:])
        return sigma / sigma_t * x_t + (alpha - alpha_t * sigma / sigma_t) * x


def posterior(process: Gaussian, x_t: Tensor, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of q(x_s | x_t, x), then the deviation of q(x_t | x_s), which bounds that of q(x_s | x_t) from above.

    Ho 2020, eq. 7 and sec. 3.2; any schedule: Kingma 2021, app. A. At the data's end both deviations are 0.
    """
    (alpha_t, sigma_t), (alpha, sigma) = process.levels(t, x), process.levels(s, x)
    ratio = alpha_t / alpha
    between = (sigma_t.square() - (ratio * sigma).square()).clamp(min=0)  # variance of x_t given x_s
    mean = (ratio * sigma.square() * x_t + alpha * between * x) / sigma_t.square()
    return mean, torch.where(sigma > 0, between.sqrt() * sigma / sigma_t, 0.0), torch.where(sigma > 0, between.sqrt(), 0.0)


def again(process: Gaussian, x_s: Tensor, s: Tensor, t: Tensor, rng: Streams) -> Tensor:
    """A draw of q(x_t | x_s): x_s dissolved further, to the later time t."""
    (alpha, sigma), (alpha_t, sigma_t) = process.levels(s, x_s), process.levels(t, x_s)
    ratio = alpha_t / alpha
    return ratio * x_s + (sigma_t.square() - (ratio * sigma).square()).clamp(min=0).sqrt() * rng.normal(*x_s.shape[1:])


@dataclass(frozen=True)
class Heun(Solver):
    """Second order: the estimates at both ends, averaged (Karras 2022, alg. 1). Twice the work, but for the last step."""

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        alpha, sigma = self.process.levels(s, x)
        x_s = alpha * x + sigma * eps
        if not bool((sigma > 0).all()):  # at the data's end there is no noise left to estimate
            return x_s
        return self.process.average(x_t, t, s, (x, eps), look.at(x_s, s))


@dataclass(frozen=True)
class Churn(Heun):
    """Heun's method with fresh noise before each step (Karras 2022, alg. 2). Without churn it is Heun's, alg. 1.

    Noise is sigma / alpha throughout, which is their sigma; at t = 1, where all is noise, none is added.

    Args:
        churn: their S_churn, over the whole walk; the noise grows by churn / steps a step, at most by sqrt(2) - 1.
        churn_from, churn_to: the noise between which it is added (S_tmin, S_tmax).
        inflate: standard deviation of what is added (S_noise).
    """

    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = math.inf
    inflate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"churn is {self.churn}; it must be a number of at least 0, and 0 = off")
        if not 0 <= self.churn_from <= self.churn_to:
            raise ValueError(f"churn_from .. churn_to is {self.churn_from} .. {self.churn_to}; the first must be the lower one")
        if not 0 <= self.inflate < math.inf:
            raise ValueError(f"inflate is {self.inflate}; it must be a number of at least 0, near 1")

    def stir(self, x_t: Tensor, t: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.schedule.levels(t)
        noise = float(sigma[0] / alpha[0])
        grow = min(self.churn / self.steps, math.sqrt(2) - 1)
        if not grow or float(t[0]) >= 1 or not self.churn_from <= noise <= self.churn_to:
            return x_t, t
        later = self.process.when((1 + grow) * sigma / alpha)
        (alpha_t, sigma_t), (alpha_l, sigma_l) = self.process.levels(t, x_t), self.process.levels(later, x_t)
        added = ((sigma_l / alpha_l).square() - (sigma_t / alpha_t).square()).clamp(min=0).sqrt()
        return alpha_l * (x_t / alpha_t + self.inflate * added * rng.normal(*x_t.shape[1:])), later


@dataclass(frozen=True)
class DDIM(Solver):
    """eta 0 is deterministic and can be run backwards; eta 1 adds the ancestral sampler's noise (Song 2021, eq. 12, 16).

    Args:
        eta: share of the ancestral sampler's noise.
        inverted: a code to start from is not corrupted but inverted: what is drawn is the code itself where nothing else
            is said, and the code edited where its condition or the guidance is another one.
        rounds: of the inversion, each a look per step; 1 is the plain one, more come closer to undoing the steps exactly.
        loose: where an estimate is clipped, the noise stays the one that was implied before; published samplers do so.
        chain: above 0, steps of a chain of which each step here makes a whole number, the same for all, wherever the next
            one begins; so published samplers count.
    """

    eta: float = 0.0
    inverted: bool = False
    rounds: int = 3
    loose: bool = False
    chain: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie in 0 .. 1")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1")

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = self.process.levels(t, x), self.process.levels(s, x)
        if not self.eta:
            return alpha * x + sigma * eps
        between = (sigma_t.square() - (alpha_t / alpha * sigma).square()).clamp(min=0)  # variance of x_t given x_s
        fresh = self.eta * sigma / sigma_t * between.sqrt()
        kept = (sigma.square() - fresh.square()).clamp(min=0).sqrt()
        return alpha * x + kept * eps + fresh * rng.normal(*x.shape[1:])

    def legs(self, times: Tensor) -> Tensor:
        if not self.chain:
            return super().legs(times)
        below = (times[:-1] * self.chain).round() - self.chain // self.steps
        return torch.stack([times[:-1], torch.where(below > 0, below / self.chain, times[-1])], 1)

    def looking(self, net: Network, cond: Condition | None) -> Look:
        return replace(super().looking(net, cond), loose=self.loose)

    def dissolve(self, look: Look, x: Code, times: Tensor, rng: Streams) -> Tensor:
        return self.uphill(look, x, times.flip(0)) if self.inverted else super().dissolve(look, x, times, rng)

    def invert(self, net: Network, x: Code, cond: Condition | None = None) -> Tensor:
        """The noise from which eta 0 draws x, [B,...]: the same steps, uphill."""
        return self.uphill(Look(self.process, net, cond), x, self.process.grid(self.steps).flip(0).to(x.device))

    def uphill(self, look: Look, x: Code, times: Tensor) -> Tensor:
        """x_t at the last of rising times, from x at the first.

        The step down to x_s was made with the noise seen at x_t, which is not known yet: first x_s stands in for it
        (Song 2021, sec. 4.3), then each round looks at what the last one found (Pan 2023, eq. 6).
        """
        for s, t in pairwise(times[:, None].expand(-1, len(x))):
            (alpha, sigma), (alpha_t, sigma_t) = self.process.levels(s, x), self.process.levels(t, x)
            below = x
            for _ in range(self.rounds):
                _, eps = look.at(x, t)
                x = alpha_t / alpha * (below - sigma * eps) + sigma_t * eps
        return x


@dataclass(frozen=True)
class Leaps(Solver):
    """A consistency model's sampler: leap to the data, dissolve what was found to an earlier time, leap again.

    One step is one call of the network (Song 2023, consistency models, alg. 1).

    Args:
        fresh: share of the noise that is new each time: 1 as in the paper, 0 keeps the noise that the leap implies.
    """

    steps: int = 1
    fresh: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fresh <= 1:
            raise ValueError(f"fresh is {self.fresh}; it must lie in 0 .. 1, and 1 is the paper's")

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        noise = self.fresh * rng.normal(*x.shape[1:]) + math.sqrt(1 - self.fresh**2) * eps
        alpha, sigma = self.process.levels(s, x)
        return alpha * x + sigma * noise


@dataclass(frozen=True)
class Strider(Euler):
    """A shortcut model's sampler: Euler's steps, the network told how long they are (Frans 2024, alg. 2).

    Args:
        strides: the lengths that the objective trains with; `steps` is a power of two below their finest, or any number above.
    """

    steps: int = 4
    strides: Strides = field(default_factory=Strides)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.strides.of(self.steps)

    def seen(self, system: System, cond: Condition | None, null: Condition | None, rng: Streams) -> Look:
        length = self.strides.told(torch.full((len(rng),), self.strides.of(self.steps), device=rng.keys.device))
        return super().seen(system, tell(cond, length), None if null is None else tell(null, length), rng)


@dataclass(frozen=True)
class Ancestral(Solver):
    """A draw from q(x_s | x_t, x) with x estimated (Ho 2020, alg. 2 and eq. 7; any schedule: Kingma 2021, app. A).

    Args:
        large: the noise of q(x_s | x_t), "fixed large", instead of the posterior's.
    """

    steps: int = 100
    large: bool = False

    def step(self, look: Look, x_t: Tensor, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, rng: Streams) -> Tensor:
        mean, small, large = posterior(self.process, x_t, x, t, s)
        return mean + (large if self.large else small) * rng.normal(*x.shape[1:])

    def grow(
        self, system: System, roots: Tensor, *, cond: Condition | None = None, null: Condition | None = None, rng: Streams
    ) -> Iterator[Code]:
        """By DDIM's steps: where most of the noise is fresh, what grows from a point is not the point's own."""
        own = {dial.name: getattr(self, dial.name) for dial in fields(Solver)}
        return DDIM(**own).grow(system, roots, cond=cond, null=null, rng=rng)
