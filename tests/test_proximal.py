"""Answers that a judge likes: advantages and losses by hand, epochs that move, a judge that is heard, bad rewards named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import maquette
from maquette.codecs.text import Bytes
from maquette.contracts import IGNORE
from maquette.data.errors import DataError
from maquette.networks import presets
from maquette.networks.scorer import Scorer
from maquette.networks.transformer import Transformer
from maquette.objectives.proximal import Proximal, ahead, earned, whitened, wrong
from maquette.objectives.reinforce import DRAWN, Reinforce, Reward, clipped, rewarded
from maquette.runs import build
from maquette.samplers.autoregressive import Autoregressive
from maquette.system import System
from maquette.train import Progress, take_step

TINY = {"depth": 1, "start": 2, "group": 2, "context": 96}


def test_advantages_are_the_sum_of_what_was_not_expected():
    rng = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(3, 6, generator=rng) for _ in range(2))
    written = torch.tensor([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]]).bool()
    lam, gamma = 0.9, 0.95
    better, aim = ahead(reward, value, written, lam, gamma)
    for i in range(3):
        own = written[i].nonzero().flatten().tolist()
        for t in own:
            want = 0.0
            for k in own[
                own.index(t) :
            ]:  # eq. 16: (gamma lam)^l of each later error, behind the last of which nothing is expected
                following = gamma * float(value[i, k + 1]) if k + 1 in own else 0.0
                want += (gamma * lam) ** (k - t) * (float(reward[i, k]) + following - float(value[i, k]))
            assert float(better[i, t]) == pytest.approx(want, abs=1e-5)
            assert float(aim[i, t]) == pytest.approx(want + float(value[i, t]), abs=1e-5)
        assert not better[i, ~written[i]].any() and not aim[i, ~written[i]].any()
    plain, _ = ahead(reward, value, written, 1.0)  # to the end: all that follows, less what was expected
    torch.testing.assert_close(plain[1], reward[1].flip(0).cumsum(0).flip(0) - value[1])
    flat = whitened(better, written)[written]
    assert abs(float(flat.mean())) < 1e-6 and abs(float(flat.std(correction=0)) - 1) < 1e-5


def test_a_symbol_pays_for_its_distance_and_the_last_is_paid():
    written = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]]).bool()
    found = earned(torch.tensor([2.0, -1]), torch.full((2, 4), 0.5), written, beta=0.1)
    torch.testing.assert_close(found, torch.tensor([[0, -0.05, 1.95, 0], [-1.05, 0, 0, 0]]))


def test_both_losses_are_the_papers():
    rng = torch.Generator().manual_seed(0)
    logp, old, better, value, before, aim = (torch.randn(4, 5, generator=rng).mul(0.5) for _ in range(6))
    for i in range(4):
        for t in range(5):
            ratio, a, v, o, r = math.exp(logp[i, t] - old[i, t]), *(float(x[i, t]) for x in (better, value, before, aim))
            gain = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            loss = max((v - r) ** 2, (min(max(v, o - 0.2), o + 0.2) - r) ** 2) / 2
            assert float(clipped(logp, old, better, 0.2)[i, t]) == pytest.approx(gain, abs=1e-5)
            assert float(wrong(value, before, aim, 0.2)[i, t]) == pytest.approx(loss, abs=1e-5)
    # what has gone too far already, for the better or for the worse, moves no further
    moving = torch.tensor([[math.log(1.3), math.log(1.3), math.log(0.7), math.log(0.7)]], requires_grad=True)
    clipped(moving, torch.zeros(1, 4), torch.tensor([[1.0, -1, 1, -1]]), 0.2).sum().backward()
    assert [bool(g) for g in moving.grad[0]] == [False, True, True, False]


def odd(rows: Any, replies: list[str]) -> torch.Tensor:
    """Letters of odd codes are liked."""
    return torch.tensor([sum(ord(letter) % 2 for letter in reply) / 7 for reply in replies])


def toy(reward: Reward = odd, beta: float = 0.0, epochs: int = 3) -> tuple[System, dict[str, Any]]:
    """A small network that is asked "?", and its critic."""
    torch.manual_seed(0)
    codec = Bytes(8)
    start = torch.full((16, 8), IGNORE)
    start[:, 0] = ord("?")
    nets = {name: Transformer(codec.vocab, 32, 1, 2, style=presets.small()) for name in ("main", "reference", "critic")}
    nets["reference"].load_state_dict(nets["main"].state_dict())
    nets["critic"].headless()
    objective = Proximal(reward, Autoregressive(length=8), lambda codec, code, start: codec.decode(code[:, 1:]), 4, beta, epochs)
    system = System({**nets, "value": Scorer(32)}, objective, objective.sampler, codec, frozen=("reference",))
    return system, {"start": start, "row": [{"source": "?"}] * 16}


def learn(system: System, batch: dict[str, Any], steps: int) -> list[dict[str, float]]:
    """Steps of the one loop, on the same questions."""

    class Same:
        train = type("Rows", (), {"rows": lambda self, index: dict(batch), "__len__": lambda self: 16})()

    progress, found = Progress(maquette.experiment.Fit(steps=steps, batch=16, lr=1e-2, warmup=0, decay=0)), []
    for _ in range(steps):
        logs = take_step(system, Same(), progress, maquette.distributed.World())  # type: ignore[arg-type]
        found.append({name: float(value) for name, value in logs.items()})
    return found


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_what_is_rewarded_grows_and_its_cost_holds_it_back(beta):
    system, batch = toy(beta=beta)
    told = learn(system, batch, 12)
    gained = sum(each["improve/reward"] for each in told[-3:]) / 3 - told[0]["improve/reward"]
    assert gained > 0.2 if not beta else gained < 0.1
    assert beta or told[-1]["improve/surprise"] < told[0]["improve/surprise"]  # the critic learns, too
    for each in told:  # in the first epoch nothing has moved yet; in the next the policy is not what drew
        assert abs(each["improve/moved"]) < 1e-5 < 1e-3 < each["improve_2/moved"] < each["improve_3/moved"] + 0.05
    assert DRAWN not in batch


def test_groups_learn_from_what_they_drew_more_than_once():
    system, batch = toy()
    system.objective = Reinforce(odd, Autoregressive(length=8), system.objective.replies, 4, epochs=2)
    told = learn(system, batch, 12)
    assert sum(each["reinforce/reward"] for each in told[-3:]) / 3 > told[0]["reinforce/reward"] + 0.08
    assert abs(told[0]["reinforce/moved"]) < 1e-5 < 1e-3 < told[0]["reinforce_2/moved"]


def crash(rows: Any, replies: list[str]) -> torch.Tensor:
    raise KeyError("answer")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda rows, replies: torch.tensor([0.0, math.nan]), r"gives nan for the answer 'b' to 'B\?': no number"),
        (lambda rows, replies: torch.zeros(3), r"gives \(3,\) numbers for 2 answers; it must give one for each"),
        (crash, r"reward crash failed on 2 answers, the first 'a': KeyError: 'answer'"),
    ],
)
def test_a_reward_that_is_none_is_told_by_name(reward, said):
    with pytest.raises(DataError, match=said):
        rewarded(reward, [{"source": "A?"}, {"source": "B?"}], ["a", "b"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "stdlib"}, "ppo learns from pairs of answers"),
        ({"group": 0}, "group is 0; it must be 1 or more"),
        ({"epochs": 0}, "epochs is 0"),
        ({"clip": 1.0}, "clip is 1.0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"start": 0}, "1 step or more that learns to judge"),
        ({"judge": "somewhere"}, "there is no run to be judged by it"),
        ({"critic": False, "group": 1}, "group is 1; it must be 2 or more"),
    ],
)
def test_what_it_cannot_learn_by_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        build("ppo", {**TINY, **given}, 0)


def test_the_critic_was_the_judge_before_it_learnt_what_to_expect():
    """Until then the judge follows; and without a critic it is the judge that learns."""
    experiment = build("ppo", TINY, 0)[0]
    system = experiment.system
    due = [[each.name for each in system.objective.phases() if each.due(step)] for step in (0, 2)]
    assert due[0] == ["learn", "first_judge"]
    assert due[1][:4] == ["improve", "appraise", "improve_2", "appraise_2"] and len(due[1]) == 8
    assert system.follow["judge_reader"] == ("critic", 0.5, 2) and system.follow["reference"] == ("main", 0.5, 2)
    judging = system.objective.voice.reward.system.nets
    assert judging["encoder"] is system.nets["judge_reader"] and judging["main"] is system.nets["judge"]
    without = build("ppo", {**TINY, "critic": False}, 0)[0].system
    assert "critic" not in without.roles() and without.learners(without.objective.phases()[1]).keys() == {"judge", "judge_reader"}


def test_a_run_and_its_judge_are_heard_and_opened_without_it(tmp_path: Path) -> None:
    rows = [f'{{"prompt": "{a}+{b}", "chosen": "{a + b}", "rejected": "none"}}\n' for a in range(12) for b in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    own = {"data": str(tmp_path / "pairs.jsonl"), "batch": 4, "quiet": True, "depth": 1, "context": 48}
    maquette.train("sft", steps=2, out=tmp_path / "sft", **own)
    maquette.train("reward", steps=2, out=tmp_path / "judge", **own)
    maquette.train("reward", steps=1, out=tmp_path / "other", vocab=300, **own)
    given = {"run": str(tmp_path / "sft"), "data": own["data"], "group": 2, "rank": 2}
    for judge, said in (("other", "reads other symbols than .*/sft, .*maquette train reward --run .*/sft"), ("sft", "no judge")):
        with pytest.raises(ValueError, match=said):
            build("ppo", {**given, "judge": str(tmp_path / judge)}, 0)
    made = maquette.train("ppo", steps=2, judge=str(tmp_path / "judge"), out=tmp_path / "ppo", batch=4, quiet=True, **given)
    first, judge = made.data.held.rows(torch.tensor([0, 1])), maquette.load(tmp_path / "judge", device="cpu").system
    with torch.no_grad():
        told = made.system.objective.voice.reward(first["row"], ["1", "22"])
        want = judge.objective.worth(judge, {name: first[name] for name in ("code", "learnt", "document")})
        torch.testing.assert_close(made.system.objective.voice.worth(made.system, first), want)
    assert told.shape == (2,) and float(told[0] - told[1]) != 0
    (tmp_path / "judge").rename(tmp_path / "gone")
    again = maquette.load(tmp_path / "ppo", device="cpu")
    torch.testing.assert_close(again.system.objective.voice.reward(first["row"], ["1", "22"]), told)
    told = maquette.evaluate(tmp_path / "ppo", n=20, only=["preferred", "winning"], device="cpu")["metrics"]
    assert {"preference accuracy", "KL to reference", "reward gained"} <= told.keys()
