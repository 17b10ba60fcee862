"""The one place where parts meet: named networks and their fates, an objective, a sampler, a codec, a conditioner.

Knows every contract and no family. A role learns, is frozen, or follows another role (an exponential moving average).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maquette.contracts import (
    IGNORE,
    Batch,
    Code,
    Codec,
    Condition,
    Conditioner,
    NeedsStart,
    Objective,
    Phase,
    Sampler,
    device_of,
)
from maquette.streams import Streams

DRAWS_NOTHING = (
    "this run draws nothing: it has no sampler and only compares what it is given. `maquette eval RUN` measures it; "
    "`maquette sample OTHER --prompt ... --best-of 8 --judge RUN` orders another run's samples by it"
)


class System(nn.Module):
    """A generative system, whole.

    Args:
        nets: a network per role.
        objective: how the roles learn.
        sampler: how codes are drawn; its fields are the dials of the `sample` verb. None = it draws nothing.
        codec: data <-> code.
        conditioner: raw batch fields -> what the networks are told.
        frozen: roles that never learn ("conditioner" and "codec" may be named too).
        follow: follower role -> (leader role, decay), or (leader role, decay, steps) of one that stays behind after so many. A
            follower starts as its leader's copy.

    Raises:
        ValueError: a fate names a role that does not exist, or no phase of the objective trains anything.
    """

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        objective: Objective,
        sampler: Sampler | None,
        codec: Codec,
        conditioner: Conditioner | None = None,
        frozen: tuple[str, ...] = (),
        follow: Mapping[str, tuple[str, float] | tuple[str, float, int]] | None = None,
    ):
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.objective, self.sampler, self.codec, self.conditioner = objective, sampler, codec, conditioner
        self.frozen, self.follow = tuple(frozen), dict(follow or {})
        self._walked: dict[str, tuple[list[nn.Parameter], list[Tensor]]] = {}
        self.age: Tensor
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        roles = self.roles()
        for name in [*self.frozen, *self.follow, *(leader for leader, *_ in self.follow.values())]:
            if name not in roles:
                raise ValueError(f"role {name!r} has a fate but no network; the roles are {', '.join(roles)}")
        for follower, (leader, *_) in self.follow.items():
            roles[follower].load_state_dict(roles[leader].state_dict())
        for name in [*self.frozen, *self.follow]:
            roles[name].requires_grad_(False).eval()
        if not any(self.learners(phase) for phase in objective.phases()):
            raise ValueError(f"no phase of {type(objective).__name__} trains any of the roles {', '.join(roles)}")

    def roles(self) -> dict[str, nn.Module]:
        """Every named part that holds parameters, or could."""
        parts = {"codec": self.codec, "conditioner": self.conditioner}
        return {**{k: v for k, v in parts.items() if v is not None}, **self.nets}  # a net may be called "codec"

    def learners(self, phase: Phase) -> dict[str, nn.Module]:
        """The roles that this phase trains: named by it, present, neither frozen nor following, with parameters."""
        fixed = {*self.frozen, *self.follow}
        roles = {name: net for name, net in self.roles().items() if name in phase.roles and name not in fixed}
        return {name: net for name, net in roles.items() if next(net.parameters(), None) is not None}

    def turn(self, phase: Phase) -> list[nn.Parameter]:
        """Give the phase its turn: exactly its learners require gradients. Returns their parameters."""
        learners = self.learners(phase)
        for name in self.roles():
            if name not in self.frozen and name not in self.follow:  # those never require gradients
                for p in self._tensors(name)[0]:
                    p.requires_grad_(name in learners)
        return [p for name in learners for p in self._tensors(name)[0]]

    def _tensors(self, role: str) -> tuple[list[nn.Parameter], list[Tensor]]:
        """A role's parameters and buffers. Walking a deep module for them at every step would cost a small system 5 %."""
        if role not in self._walked:
            net = self.roles()[role]
            self._walked[role] = (list(net.parameters()), list(net.buffers()))
        return self._walked[role]

    def _apply(self, fn: Any, recurse: bool = True) -> System:
        """Moving to another device or type makes new buffers."""
        self._walked.clear()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> System:
        """Training mode for those that learn; frozen roles and followers stay in evaluation mode."""
        super().train(mode)
        for name in [*self.frozen, *self.follow]:
            self.roles()[name].eval()
        return self

    @torch.no_grad()
    def advance(self) -> None:
        """One step older: followers move towards their leaders.

        The decay warms up as (1 + age) / (10 + age), so an average always spans the last tenth of a young run.
        """
        self.age += 1
        age = int(self.age)
        for follower, (leader, decay, *until) in self.follow.items():
            if until and age > until[0]:
                continue
            weight = 1 - min(decay, (1 + age) / (10 + age))
            (old, behind), (new, ahead) = self._tensors(follower), self._tensors(leader)
            if old:  # a fixed prior has none
                torch._foreach_lerp_(tuple(old), tuple(new), weight)
            for buffer, source in zip(behind, ahead, strict=True):
                buffer.copy_(source)

    def steady(self, role: str) -> Any:
        """The network to sample and score with: the role's follower if it has one that never stays behind, else itself."""
        follower = next((f for f, (leader, _, *until) in self.follow.items() if leader == role and not until), role)
        return self.roles()[follower]

    def instead(self, role: str) -> System:
        """The same system, its parts shared, with another role in the place of main: what it was before it was tuned, for one."""
        other = copy.copy(self)
        other._modules = {**self._modules, "nets": nn.ModuleDict({"main": self.roles()[role]})}
        other.follow, other._walked = {}, {}
        other.frozen = tuple(name for name in (*self.frozen, "main") if name in other.roles())
        return other

    def learn(self, data: Any) -> None:
        """What the codec and the conditioner fit to the training data before the first step; a frozen codec has learnt."""
        if "codec" not in self.frozen:
            self.codec.learn(data)
        if self.conditioner is not None:
            self.conditioner.learn(data)

    # -- data <-> code <-> condition ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return device_of(self)

    def encode(self, batch: Batch) -> Code:
        """The code of a batch: what it brings ready-made as "code", else the codec's reading of its field."""
        if "code" in batch:
            return batch["code"].to(self.device)
        data = batch[self.codec.field]
        return self.codec.encode(data.to(self.device) if isinstance(data, Tensor) else data)

    def decode(self, code: Code) -> Any:
        return self.codec.decode(code)

    def condition(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition | None:
        """What the networks are told about a batch; None where nothing conditions this system."""
        if self.conditioner is None:
            return None
        moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return self.conditioner(moved, drop=drop, rng=rng)

    def conditions(self, batch: Batch, rng: Streams) -> tuple[Condition | None, Condition | None]:
        """What samples are told, and the null condition to guide them away from; None where there is none."""
        if self.conditioner is None:
            return None, None
        null = self.condition(batch, drop=1.0, rng=rng[:]) if self.conditioner.drops else None
        return self.condition(batch, rng=rng[:]), null

    # -- sampling ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def stream(
        self,
        n: int,
        *,
        about: Batch | None = None,
        start: Code | None = None,
        seed: int = 0,
        first: int = 0,
        sampler: Sampler | None = None,
        rng: Streams | None = None,
    ) -> Iterator[tuple[Code, Batch]]:
        """Drafts of samples `first .. first + n - 1`, each with what it was told; the last draft is the sample.

        Args:
            about: raw batch fields, a value per sample; what is missing is drawn from its training distribution.
            start: what each sample grows from: a prompt, a partly known code (IGNORE = write here), a noised image.
            sampler: another sampler than the system's own.
            rng: the samples' own streams, in place of `seed` and `first`.

        Raises:
            NeedsStart: there is no sampler, or one that makes nothing out of nothing got no start.
        """
        drawn = sampler or self.sampler
        if drawn is None:
            raise NeedsStart(DRAWS_NOTHING)
        self.eval()
        rng = Streams.of(seed, n, first, device=self.device) if rng is None else rng
        told: Batch = {}
        if self.conditioner is not None:
            told = {**self.conditioner.guess(rng.fork(0), about), **(about or {})}
        cond, null = self.conditions(told, rng.fork(2))
        for code in drawn.draw(self, n, start=start, cond=cond, null=null, rng=rng.fork(1)):
            yield code, told

    def finished(self, n: int, *, about: Batch, rng: Streams) -> Any:
        """The last drafts of n samples, decoded: what another system is told of this one. As `stream` has it."""
        drafts = self.stream(n, about=about, rng=rng)
        code, _ = deque(drafts, 1).pop()
        return self.decode(code)

    def sample(
        self,
        n: int,
        *,
        batch: int = 256,
        about: Batch | None = None,
        start: Code | None = None,
        seed: int = 0,
        first: int = 0,
        sampler: Sampler | None = None,
        watch: Callable[[int, int, Code], None] | None = None,
    ) -> Batch:
        """n finished samples as a batch: the codec's field, the code, and what each was told. Drawn `batch` at a time.

        Args:
            watch: called at every draft, with the number of drafts so far, that of the first sample in it, and the draft.
        """
        parts: list[Batch] = []
        drawn = 0
        for at in range(0, n, batch):
            rows = slice(at, min(n, at + batch))
            some = {k: v[rows] for k, v in about.items()} if about else None
            begun = None if start is None else start[rows]
            drafts = self.stream(rows.stop - at, about=some, start=begun, seed=seed, first=first + at, sampler=sampler)
            for draft in drafts:
                code, told = draft
                drawn += 1
                if watch is not None:
                    watch(drawn, first + at, code)
            with torch.no_grad():
                parts.append({**told, "code": code, self.codec.field: self.decode(code)})
        return {k: _join([part[k] for part in parts]) for k in parts[0]}


def _join(parts: list[Any]) -> Any:
    """Parts of a batch as one; codes of unlike lengths are filled up with IGNORE."""
    if not isinstance(parts[0], Tensor):
        return [item for part in parts for item in part]
    if parts[0].dim() == 2 and not parts[0].is_floating_point():
        width = max(part.shape[1] for part in parts)
        parts = [nn.functional.pad(part, (0, width - part.shape[1]), value=IGNORE) for part in parts]
    return torch.cat(parts)
