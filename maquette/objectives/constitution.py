"""Learning from one's own answers, revised by written principles, and then from which of two keeps better to one.

Knows a causal network, "main", and a frozen one that reads principles, "critic"; not what any principle means, nor a rule that
would say what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.contracts import Batch, Logs, Objective, Sampler, Turns, phase
from maquette.data.comparisons import judged, paired
from maquette.data.constitution import comparing, critiquing, drawn, revising
from maquette.data.conversations import opening, replies, taught
from maquette.objectives.preference import Preference, Shown, log_chance
from maquette.objectives.rollout import rollout
from maquette.streams import Streams

if TYPE_CHECKING:
    from maquette.system import System

LETTERS = ("A", "B")
TOGETHER = 64  # conversations that are judged at a time
ROOM = 4  # symbols that a conversation must leave, to be gone on with


@dataclass(frozen=True)
class Critic:
    """How whichever network is a system's "main" answers, criticises, revises and chooses.

    Args:
        draws: how answers are drawn.
        finds: how critiques and revisions are written: what is likeliest.
    """

    draws: Sampler
    finds: Sampler

    def answers(self, system: System, talks: Sequence[Turns], rng: Streams) -> list[str]:
        """What is answered in each conversation."""
        return write(system, self.draws, talks, rng)

    def corrected(self, system: System, begun: Sequence[Turns], rng: Streams) -> tuple[list[str], list[str]]:
        """What is answered to demands for a critique, and then the revisions, "" where there is no room for one."""
        critiques = write(system, self.finds, begun, rng)
        asked = [revising(turns, critique) for turns, critique in zip(begun, critiques, strict=True)]
        return critiques, write(system, self.finds, asked, rng)

    def revised(
        self, system: System, questions: Sequence[Turns], said: Sequence[str], laws: Sequence[str], rng: Streams
    ) -> list[str]:
        """Answers, revised, each by a principle; one stays as it is where there is no room for a revision."""
        begun = [critiquing(question(turns), text, law) for turns, text, law in zip(questions, said, laws, strict=True)]
        return [new or old for new, old in zip(self.corrected(system, begun, rng)[1], said, strict=True)]

    @torch.no_grad()
    def chances(self, system: System, talks: Sequence[Turns]) -> Tensor:
        """log p of what is said last in each conversation, float32[n]."""
        codec: Any = system.codec
        found = []
        for at in range(0, len(talks), TOGETHER):
            batch = judged(codec, list(talks[at : at + TOGETHER]))
            code, learnt, document = (batch[name][:, 0].to(system.device) for name in ("code", "learnt", "document"))
            found.append(log_chance(system.nets["main"], code, learnt, document, codec.bos))
        return torch.cat(found)

    def odds(self, system: System, asks: Sequence[Turns]) -> Tensor:
        """By how many nats (A) is rather said than (B) where one is to be chosen, float32[n]; 0 of demands that are too long."""
        found = torch.zeros(len(asks), device=system.device)
        if fits := [i for i, turns in enumerate(asks) if fit(system.codec, turns, ROOM)]:
            chance = self.chances(system, [talk(asks[i], letter) for i in fits for letter in LETTERS]).view(-1, 2)
            found[fits] = chance[:, 0] - chance[:, 1]
        return found

    def leaning(
        self, system: System, questions: Sequence[Turns], one: Sequence[str], two: Sequence[str], laws: Sequence[str]
    ) -> list[float]:
        """How much rather the first of two answers is chosen by a principle, in nats; 0 where it is not in both orders."""
        asked = [question(turns) for turns in questions]
        first, second = (
            self.odds(system, [comparing(*each) for each in zip(asked, a, b, laws, strict=True)])
            for a, b in ((one, two), (two, one))
        )
        return torch.where(first * second < 0, first - second, 0.0).tolist()

    def preferred(
        self, system: System, questions: Sequence[Turns], one: Sequence[str], two: Sequence[str], laws: Sequence[str]
    ) -> list[tuple[Turns, Turns]]:
        """Conversations with the better answer, and with the worse, of those that are told apart."""
        told = zip(questions, one, two, self.leaning(system, questions, one, two, laws), strict=True)
        pairs = [(talk(turns, a), talk(turns, b), lean) for turns, a, b, lean in told if lean and a != b]
        return [(first, second) if lean > 0 else (second, first) for first, second, lean in pairs]


class Revised(Objective):
    """The critic answers, criticises its own answer by a principle and revises it, again by another; what comes last is learnt as
    the answer (Bai 2022, arXiv:2212.08073, sec. 3.1).

    Batches bring "asked", a list of questions a row.

    Args:
        constitution: the principles.
        critic: how it answers and criticises.
        rounds: critiques and revisions of an answer, each by another principle as long as there are.

    Raises:
        ValueError: no round, or no principle.
    """

    def __init__(self, bos: int, constitution: tuple[str, ...], critic: Critic, rounds: int = 4):
        super().__init__()
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}; an answer is revised once or more")
        check(constitution)
        self.shown, self.constitution, self.critic, self.rounds = Shown(bos), constitution, critic, rounds

    @phase("main")
    def revise(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean of -log p of a symbol of the revisions. Logs the share of answers that were changed."""
        questions, keys = several(batch, rng)
        critic = system.instead("critic")
        first = self.critic.answers(critic, questions, keys.fork(0))
        last = first
        for law in zip(*drawn(self.constitution, keys.fork(1).uniform(len(self.constitution)), self.rounds), strict=True):
            last = self.critic.revised(critic, questions, last, law, keys)
        changed = sum(one != two for one, two in zip(first, last, strict=True)) / len(first)
        talks = [talk(*each) for each in zip(questions, last, strict=True)]
        codec: Any = system.codec
        fits = [each for each in talks if fit(codec, each)]
        loss, _ = self.shown.learn(system, judged(codec, fits or talks[:1]), rng, step)
        return loss * bool(fits), {"changed": torch.tensor(changed)}


class Preferred(Preference):
    """Of two answers of its own the better one becomes likelier, as the critic finds it by a principle (Bai 2022, sec. 4.1).

    The critic is asked in both orders: where these do not agree, neither is preferred.

    Against a reference, what the network was before: this is in the place of a preference model and of reinforcement by it
    (Rafailov 2023).

    Args:
        bos, beta: as those of preferences.
        constitution: the principles.
        critic: how answers are drawn and chosen.
    """

    def __init__(self, bos: int, constitution: tuple[str, ...], critic: Critic, beta: float = 0.1):
        super().__init__(bos, "dpo", beta)
        check(constitution)
        self.constitution, self.critic = constitution, critic

    @phase("main")
    def prefer(self, system: System, batch: Batch, rng: Streams, step: int) -> tuple[Tensor, Logs]:
        """Mean over the pairs; logs the share of pairs that are told apart beside what preferences log."""
        questions, keys = several(batch, rng)
        one, two = (self.critic.answers(system, questions, keys.fork(i)) for i in range(2))
        laws = [each[0] for each in drawn(self.constitution, keys.fork(2).uniform(len(self.constitution)), 1)]
        pairs = self.critic.preferred(system.instead("critic"), questions, one, two, laws)
        codec: Any = system.codec
        kept = [pair for pair in pairs if all(fit(codec, each) for each in pair)]
        some = taught(codec, [each for pair in kept or [(talk(questions[0], one[0]),) * 2] for each in pair])
        loss, logs = super().prefer(system, paired(codec, list(zip(some[::2], some[1::2], strict=True))), rng, step)
        share = len(kept) / len(questions)
        return share * loss, {**logs, "told": torch.tensor(share)}


def check(constitution: tuple[str, ...]) -> None:
    """Whether there are principles.

    Raises:
        ValueError: there are none.
    """
    if not constitution:
        raise ValueError("there are no principles; a constitution has 1 or more")


def several(batch: Batch, rng: Streams) -> tuple[list[Turns], Streams]:
    """The questions of all rows of a batch, and a stream for each, which follows from its row's and its place there alone.

    A batch that asks nothing is asked nothing: an empty question, so that every rank has some.
    """
    asked = [(row, place, turns) for row, some in enumerate(batch["asked"]) for place, turns in enumerate(some)]
    asked = asked or [(0, 0, [{"role": "user", "content": ""}])]
    keys = torch.stack([rng.fork(place).keys[row] for row, place, _ in asked])
    return [turns for _, _, turns in asked], Streams(keys)


def question(turns: Turns) -> str:
    """What a conversation asks last."""
    return str(turns[-1]["content"])


def talk(turns: Turns, text: str) -> Turns:
    """A conversation with an answer."""
    return [*turns, {"role": "assistant", "content": text}]


def fit(codec: Any, turns: Turns, room: int = 0) -> bool:
    """Whether a conversation fits into a context and leaves room for so many symbols."""
    return len(taught(codec, [turns])[0][0]) + room < codec.length


def write(system: System, sampler: Sampler, talks: Sequence[Turns], rng: Streams) -> list[str]:
    """What "main" says next in each conversation, in a third of the context at most; nothing where that leaves no room."""
    codec: Any = system.codec
    fits = [i for i, turns in enumerate(talks) if fit(codec, turns, ROOM)]
    found = [""] * len(talks)
    if fits:
        asked = [talks[i] for i in fits]
        start = opening(codec, asked, codec.length, new=codec.length // 3).to(system.device)
        code, _ = rollout(system, sampler, start, rng[torch.tensor(fits, device=rng.keys.device)])
        for i, text in zip(fits, replies(codec, code, start), strict=True):
            found[i] = text
    return found
