"""Answers that are criticised, revised and compared by written principles: the rule, the file, what is asked, what is learnt."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from maquette import recipes
from maquette.codecs.text import TURNS, Bytes
from maquette.contracts import IGNORE
from maquette.data import Data, DataError, Split, recall
from maquette.data import principles as world
from maquette.data.constitution import COMPARE, REVISE, drawn, held_to, principled, principles_of
from maquette.data.principles import CONSTITUTION, KEPT, broken, evasive, helpful, meant, rated
from maquette.experiment import Fit
from maquette.metrics import principled as metric
from maquette.metrics.evidence import Evidence
from maquette.metrics.principled import parts_of
from maquette.networks.transformer import Transformer
from maquette.objectives import constitution
from maquette.objectives.constitution import Critic, Preferred, Revised
from maquette.recipes._tuned import Ground
from maquette.recipes.constitution import understood
from maquette.samplers.autoregressive import Autoregressive
from maquette.streams import Streams
from maquette.system import System

KEY = "Ada put the keys into the box. Where are the keys?"
NUMBER = "What is Ada and Ben's number?"
ANSWER = "What a stupid question. The keys are in the box. And Leo likes jazz."
SILENT = "An answer must not speak of jazz."
CRITIC = Critic(Autoregressive(), Autoregressive(temperature=0.0))


def system(length: int = 160) -> System:
    torch.manual_seed(0)
    codec = Bytes(length, TURNS)
    nets = {role: Transformer(codec.vocab, 16, 1, 2) for role in ("main", "critic", "reference")}
    for p in (p for net in nets.values() for p in net.parameters()):
        torch.nn.init.normal_(p, std=0.2)
    return System(nets, Preferred(codec.bos, CONSTITUTION, CRITIC), None, codec, frozen=("critic", "reference")).eval()


def asking(*texts: str) -> list:
    return [[{"role": "user", "content": text}] for text in texts]


def batch(*rows: tuple[str, ...]) -> dict:
    return {"asked": [asking(*row) for row in rows]}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(world, "ROWS", 900)
    return world.principles()


# -- the rule ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principle", "asked", "text", "breaks"),
    [
        ("Be polite.", KEY, "Any child knows that. The keys are in the box.", True),
        ("Be polite.", KEY, "The keys are in the box.", False),
        ("Tell nobody's number.", KEY, "The keys are in the box. Mia's number is 407.", True),
        ("Tell nobody's number.", NUMBER, "Ada and Ben's number is for Ada and Ben to give.", False),
        (CONSTITUTION[2], KEY, "The keys are in the box. One. Two.", True),
        (CONSTITUTION[2], KEY, "The keys are in the box. One.", False),
        ("Be helpful.", KEY, "I cannot help with that.", True),
        ("Be helpful.", KEY, "The keys are in the bag.", True),
        ("Be helpful.", KEY, "Any child knows that. The keys are in the box.", False),
        (SILENT, KEY, "The keys are in the box. And Leo likes jazz.", True),
        (SILENT.replace("jazz", "tea"), KEY, "The keys are in the box. And Leo likes jazz.", False),
        ("Never use a comma.", KEY, "Well, in the box.", None),
    ],
)
def test_a_rule_tells_what_breaks_a_principle_and_of_which_it_cannot_tell(principle, asked, text, breaks):
    assert broken(principle, asked, text) is breaks


def test_who_always_evades_breaks_nothing_but_helps_nobody():
    found = world.floors(300)
    assert found["always evades"] == pytest.approx({"harmless": 1, "helpful": 0, "both": 0, "evasive": 1})
    assert 0 < found["as in the data"]["both"] < 0.4
    assert evasive(KEY, "") and evasive(KEY, "I cannot help with that.") and not evasive(KEY, "The keys are in the bag.")
    assert helpful(NUMBER, "Ada and Ben's number is 123.") and not helpful(NUMBER, "Ada's number is 123.")
    assert not rated(NUMBER, "Ada and Ben's number is 123.")["harmless"]


def test_shown_revisions_keep_to_the_principle_they_are_for_and_held_out_pairs_are_in_no_training_row(few):
    rows = {
        part: list(zip(*(split.columns[name] for name in ("messages", "asked", "task", "novel")), strict=True))
        for part, split in few.splits.items()
    }
    kinds, shown = set(), set()
    for turns, asked, task, novel in [*rows["train"], *rows["held"]]:
        demand = turns[0]["content"]
        if task == "revise":
            own, answer, principle = parts_of(demand)
            assert own == asked and turns[2]["content"] == REVISE
            breaks, revision = broken(principle, asked, answer), turns[3]["content"]
            assert breaks is (turns[1]["content"] != KEPT) and not broken(principle, asked, revision)
            assert (revision == answer) is not breaks and (helpful(asked, revision) or not helpful(asked, answer))
            kinds.add((breaks, meant(principle)[0]))
            shown |= set() if novel else {(meant(principle)[0], world.read(asked).kind)}
        if task == "compare":
            own, one, two, principle = re.fullmatch(re.sub(r"\\\{\w+\\\}", "(.*)", re.escape(COMPARE)), demand).groups()
            better, worse = (one, two) if turns[1]["content"] == "A" else (two, one)
            assert own == asked and broken(principle, asked, worse) and not broken(principle, asked, better)
    assert len(kinds) == 10  # each kind, broken and kept to
    assert {novel for *_, novel in rows["train"]} == {""} and {"pair", "thing"} < {novel for *_, novel in rows["held"]}
    assert not shown & world.APART
    assert not any(thing in turns[0]["content"].rpartition("\n")[2] for turns, _, task, _ in rows["train"] if task != "answer"
                   for thing in world.UNSHOWN)  # fmt: skip


# -- principles of one's own ---------------------------------------------------------------------------------------------


def test_a_file_of_principles_is_read_line_by_line(tmp_path, few):
    path = tmp_path / "mine.txt"
    path.write_text("# ours\nBe polite.\n\n  Stay calm.  \nBe polite.\n")
    assert held_to(few, str(path)).facts.principles == ("Be polite.", "Stay calm.")
    assert held_to(few).facts.principles == CONSTITUTION
    with recall(few.facts):  # a run that is opened again does without
        assert held_to(few, str(tmp_path / "gone.txt")).facts.principles == CONSTITUTION


def test_a_principle_that_nobody_showed_how_to_keep_to_is_noted(tmp_path, few):
    path = tmp_path / "mine.txt"
    path.write_text("Be polite.\nNever use a comma.\nDo not mention tea.\n")
    notes = understood(held_to(few, str(path))).facts.notes
    assert [note for note in notes if "Never use a comma." in note and "nearest is" in note]
    assert not [note for note in notes if "'Be polite.'" in note or "'Do not mention tea.'" in note]
    assert f"held to {path}: Be polite. Never use a comma. Do not mention tea." in notes


def test_what_are_no_principles_is_named(tmp_path, few):
    path = tmp_path / "mine.txt"
    with pytest.raises(DataError, match=r"no file of principles at .*mine.txt"):
        principles_of(path)
    path.write_text("\n# none\n")
    with pytest.raises(DataError, match="has no principle: write one on each line"):
        principles_of(path)
    with pytest.raises(DataError, match=r"Beside it are mine.txt"):
        principles_of(tmp_path / "mime.txt")
    path.write_text("Be polite.\n" + "very " * 80)
    with pytest.raises(DataError, match=r"line 2 of .* has 399 characters; a principle has 1 \.\. 300"):
        principles_of(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is no text in UTF-8"):
        principles_of(path)
    with pytest.raises(DataError, match="data 'principles' say no principles"):
        held_to(Data(replace(few.facts, principles=()), lambda: few.splits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds is 0; an answer is revised once or more"),
        ({"revise": -1}, "revise is -1; steps must be 0 or more"),
        ({"prefer": -1}, "prefer is -1; steps must be 0 or more"),
        ({"revise": 0, "prefer": 0}, "nothing would be learnt by principles; nearest is prefer 36"),
        ({"start": 0}, "start is 0; without a run there must be 1 step or more"),
        ({"data": "stdlib"}, "constitutional learns from conversations"),
    ],
)
def test_what_a_constitution_cannot_be_is_named(arguments, message, few):
    with pytest.raises((ValueError, DataError), match=message):
        recipes.find("constitutional")(**arguments)


def test_a_run_that_cannot_converse_is_refused(monkeypatch, few):
    codec = Bytes(64)
    base = Ground(Transformer(codec.vocab, 16, 1, 2), codec, Autoregressive(), Fit())
    monkeypatch.setattr("maquette.recipes.constitution.ground", lambda *given, **more: base)
    with pytest.raises(ValueError, match=r"runs/gpt cannot converse, .* one that can: maquette train sft --run runs/gpt"):
        recipes.find("constitutional")(run="runs/gpt")


# -- what is asked of the critic, and what is learnt ---------------------------------------------------------------------


class Script:
    """In the place of a network's writing: one that follows principles to the letter, and notes who was asked what."""

    def __init__(self, made: System):
        self.made, self.asked = made, list[tuple[str, str]]()

    def __call__(self, found, sampler, talks, rng):
        own = self.made.nets
        who = next(role for role in own if found.nets["main"] is own[role])
        return [self.says(who, turns) for turns in talks]

    def says(self, who, turns):
        first, last = turns[0]["content"], turns[-1]["content"]
        self.asked.append((who, last))
        if first == KEY:
            return ANSWER
        _, text, law = parts_of(first)
        sentences = world.sentences(text)
        bad = [each for each in sentences if (law == "Be polite." and each in world.RUDE) or (law == SILENT and "jazz" in each)]
        if last != REVISE:
            return world.critique(bad)
        return " ".join(each for each in sentences if f'"{each}"' not in turns[1]["content"])


def learnt(made: System, objective, monkeypatch, rows) -> tuple[list[str], dict, torch.Tensor]:
    """The conversations that a step learns from, the better first; its logs and loss."""
    seen = []
    for name in ("judged", "paired"):
        kept = getattr(constitution, name)
        monkeypatch.setattr(constitution, name, lambda codec, talks, kept=kept: seen.append(kept(codec, talks)) or seen[-1])
    move = objective.phases()[0].move
    loss, logs = move(made, rows, Streams.of(0, len(rows["asked"])), 0)
    assert loss.isfinite()
    codes = [code for each in seen for code in each["code"].flatten(0, 1)]
    return [made.codec.join(code[code != IGNORE].tolist()) for code in codes], logs, loss


def test_another_principle_makes_another_revision_and_the_last_one_is_learnt(monkeypatch):
    made = system(400)
    wanted = {
        ("Be polite.",): "The keys are in the box. And Leo likes jazz.",
        (SILENT,): "What a stupid question. The keys are in the box.",
        ("Be polite.", SILENT): "The keys are in the box.",
        ("Be brief.",): ANSWER,
    }
    for laws, text in wanted.items():
        script = Script(made)
        monkeypatch.setattr(constitution, "write", script)
        texts, logs, _ = learnt(made, Revised(made.codec.bos, laws, CRITIC, rounds=2), monkeypatch, batch((KEY,), (KEY, KEY)))
        assert texts == [KEY + text] * 3
        assert float(logs["changed"]) == (text != ANSWER)
        assert {who for who, _ in script.asked} == {"critic"}  # as it was, not as it is
        demands = [parts_of(asked)[2] for _, asked in script.asked if asked.startswith("Question")]
        assert Counter(demands) == dict.fromkeys(laws, 6 // len(laws))


def test_the_better_of_two_is_what_the_critic_says_in_both_orders_and_no_rule(monkeypatch):
    made, said = system(400), [["bad", "odd"], ["good", "same"]]
    monkeypatch.setattr(constitution, "write", lambda found, sampler, talks, rng: said.pop(0))
    monkeypatch.setattr(world, "broken", None)
    worth = {"good": 2.0, "bad": -1.0, "same": 0.0, "odd": 0.0}

    def taste(self, critic, asks):
        assert critic.nets["main"] is made.nets["critic"]
        found = [re.search(r"\(A\) (\w+)\n\(B\) (\w+)\n", turns[0]["content"]).groups() for turns in asks]
        return torch.tensor([worth[a] - worth[b] + 0.5 for a, b in found])  # rather (A), whatever it is

    monkeypatch.setattr(Critic, "odds", taste)
    pairs = CRITIC.preferred(made.instead("critic"), asking(KEY, NUMBER), ["bad", "odd"], ["good", "same"], ["Be polite."] * 2)
    assert [[turns[-1]["content"] for turns in pair] for pair in pairs] == [["good", "bad"]]  # the other is not told apart
    found, logs, loss = learnt(made, Preferred(made.codec.bos, ("Be polite.",), CRITIC), monkeypatch, batch((KEY, NUMBER)))
    assert found == [KEY + "good", KEY + "bad"] and float(logs["told"]) == 0.5
    assert float(loss.detach()) == pytest.approx(0.5 * float(_loss(made, found).detach()), abs=1e-4)


def _loss(made: System, texts: list[str]) -> torch.Tensor:
    """-log sigma(.1 times the difference of log-ratios), of bytes read one conversation at a time."""
    ratio = []
    for text in texts:
        tail = text.removeprefix(KEY)
        ids = made.codec.converse([asking(KEY)[0]])[0]
        whole = torch.tensor([[*ids, *tail.encode(), made.codec.special["<|over|>"]]])
        logp = []
        for role in ("main", "reference"):
            out = made.nets[role](torch.cat([torch.full((1, 1), made.codec.bos), whole], 1)).log_softmax(-1)[0, :-1]
            logp.append(sum(out[i, whole[0, i]] for i in range(len(ids), whole.shape[1])))
        ratio.append(logp[0] - logp[1])
    return -torch.nn.functional.logsigmoid(0.1 * (ratio[0] - ratio[1]))


@torch.no_grad()
def test_a_choice_is_the_likelier_letter_and_an_order_that_changes_it_leaves_none():
    made = system(400)
    asks = asking("Which?", "And which of these?")
    found = CRITIC.odds(made, asks)
    for turns, odd in zip(asks, found.tolist(), strict=True):
        read, over, chance = [made.codec.bos, *made.codec.converse([turns])[0]], made.codec.special["<|over|>"], []
        for letter in b"AB":
            out = made.nets["main"](torch.tensor([[*read, letter]]))[0].log_softmax(-1)
            chance.append(float(out[-2, letter] + out[-1, over]))
        assert odd == pytest.approx(chance[0] - chance[1], abs=1e-4)
    told = CRITIC.leaning(made, asking(KEY), ["one"], ["two"], ["Be polite."])
    back = CRITIC.leaning(made, asking(KEY), ["two"], ["one"], ["Be polite."])
    assert told[0] == pytest.approx(-back[0], abs=1e-5)  # whichever comes first
    assert CRITIC.odds(system(24), asking("a question that is longer than what is read")).tolist() == [0.0]


def test_what_has_no_room_is_passed_over_and_a_step_without_any_lesson_moves_nothing(monkeypatch):
    made = system(24)
    long = "a question that is longer than what is read"
    assert CRITIC.answers(made, asking(long), Streams.of(0, 1)) == [""]
    for objective in (Revised(made.codec.bos, CONSTITUTION, CRITIC, 1), Preferred(made.codec.bos, CONSTITUTION, CRITIC)):
        for rows in (batch((long,)), {"asked": [[], []]}):
            loss, _ = objective.phases()[0].move(made, rows, Streams.of(0, len(rows["asked"])), 0)
            made.zero_grad()
            loss.backward()
            assert float(loss.detach()) == 0 or rows["asked"] == [[], []]


def test_answers_follow_from_their_own_row_alone():
    made = system(40)
    talks = asking("one", "two", "three")
    keys = Streams.of(3, 3)
    whole = CRITIC.answers(made, talks, keys)
    assert [CRITIC.answers(made, talks[i : i + 1], keys[torch.tensor([i])])[0] for i in range(3)] == whole
    together = constitution.several(batch(("one", "two"), ("three",)), Streams.of(0, 2))
    alone = constitution.several(batch(("three",)), Streams.of(0, 2)[torch.tensor([1])])
    assert together[1].keys[2] == alone[1].keys[0] and together[0][2] == alone[0][0]


def test_principles_are_drawn_each_once_before_any_comes_again():
    found = drawn(("a", "b", "c"), torch.tensor([[0.3, 0.1, 0.2], [0.9, 0.5, 0.7]]), 4)
    assert found == [["b", "c", "a", "b"], ["b", "c", "a", "b"]]
    assert Counter(drawn(("a", "b"), torch.tensor([[0.3, 0.1]]), 1)[0]) == {"b": 1}


def test_what_is_asked_are_questions_and_no_demands(few):
    rows = principled(few, Bytes(700, TURNS), 700).train
    found = [turns for i in range(0, len(rows), 40) for some in rows.rows(torch.tensor([i]))["asked"] for turns in some]
    assert len(found) > len(rows) / 40 and all(len(turns) == 1 and world.read(turns[0]["content"]) for turns in found)
    talk = [*asking("hello")[0], {"role": "assistant", "content": "yes?"}, *asking("what is it?")[0]]
    whole = [*talk, {"role": "assistant", "content": "tea"}]
    own = Data(few.facts, lambda: {"train": Split({"text": ["..."] * 2, "messages": [whole, whole[2:]]})})
    assert principled(own, Bytes(90, TURNS), 90).train.rows(torch.tensor([0]))["asked"] == [[talk[:1], talk[2:]]]


# -- what it comes to ----------------------------------------------------------------------------------------------------


def test_figures_are_the_rules_of_what_each_role_writes(monkeypatch, few):
    """Of three roles that write what they are told to: the critic as people do, the reference evades, main answers well."""
    made = system(400)
    own = principled(few, made.codec, 400)
    says = {
        "critic": lambda asked: ANSWER,
        "reference": lambda asked: world.EVADED,
        "main": lambda asked: world.read(asked).right,
    }

    def script(found, sampler, talks, rng):
        who = next(role for role in made.nets if found.nets["main"] is made.nets[role])
        if talks[0][0]["content"].startswith("Question"):
            return [KEPT if len(turns) == 1 else world.EVADED for turns in talks]  # a critic that finds nothing, and spoils
        return [says[who](turns[-1]["content"]) for turns in talks]

    monkeypatch.setattr(constitution, "write", script)
    monkeypatch.setattr(metric, "MOST", 12)
    found = {name: each.value for name, each in metric.measure(Evidence(own, made)).items()}
    assert [found[f"{name}{when}"] for when in ("", " revised", " before") for name in ("harmless", "helpful", "evasive")] == [
        1, 1, 0, 1, 0, 1, 0, pytest.approx(found["helpful before"]), 0]  # fmt: skip
    rows = [each.turns for each in own.held.written if few.held.columns["task"][each.place] == "revise"]
    assert 0 < found["critiques right"] < 1 and found["mended"] < 1 and len(rows) > 12
    assert {"novel critiques right", "choices right", "found better", "KL to the start", "both", "both before"} <= found.keys()
    assert "no conversations" in metric.applies(Evidence(few, made))
    assert not metric.applies(Evidence(own, made))
