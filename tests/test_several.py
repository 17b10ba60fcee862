"""Several conditioners as one: their slots side by side, dropped together, the later guessing from the earlier."""

from __future__ import annotations

import pytest
import torch

from maquette.conditioners.label import Labels
from maquette.conditioners.several import Several, together
from maquette.conditioners.source import Source
from maquette.contracts import Batch, Condition, Conditioner
from maquette.streams import Streams


class Doubled(Conditioner):
    """Tells twice the label, which it guesses from the label."""

    fields = ("double",)

    def forward(self, batch: Batch, *, drop: float = 0.0, rng: Streams | None = None) -> Condition:
        return Condition(vector=batch["double"][:, None].float())

    def guess(self, rng: Streams, said: Batch | None = None) -> Batch:
        return {"double": 2 * (said or {})["label"]}


def test_vectors_lie_side_by_side_and_fields_are_passed_on():
    both = Several(Labels((0.5, 0.5)), Source((1, 4, 4)))
    told = both({"label": torch.tensor([1, 0]), "source": torch.ones(2, 1, 4, 4)})
    assert told.vector.tolist() == [[0, 1], [1, 0]] and told.field.shape == (2, 1, 4, 4)
    assert both.fields == ("label", "source")


def test_rows_are_dropped_together():
    both = Several(Labels((0.5, 0.5)), Source((1, 4, 4)))
    batch = {"label": torch.ones(64, dtype=torch.int64), "source": torch.ones(64, 1, 4, 4)}
    told = both(batch, drop=0.5, rng=Streams.of(0, 64))
    heard, seen = told.vector.any(1), told.field.flatten(1).any(1)
    assert torch.equal(heard, seen) and 0 < int(heard.sum()) < 64


def test_later_parts_guess_from_earlier_ones_and_from_what_is_said():
    both = Several(Labels((0.5, 0.5)), Doubled())
    guessed = both.guess(Streams.of(0, 20))
    assert torch.equal(guessed["double"], 2 * guessed["label"]) and len(guessed["label"].unique()) == 2
    said = {"label": torch.full((20,), 7)}
    assert both.guess(Streams.of(0, 20), said) == {"double": pytest.approx(torch.full((20,), 14))}


def test_tokens_lie_one_behind_another_and_without_a_mask_all_are_real():
    first = Condition(tokens=torch.ones(2, 3, 5), mask=torch.tensor([[True, False, True]] * 2))
    told = together([first, Condition(tokens=torch.zeros(2, 2, 5))])
    assert told.tokens.shape == (2, 5, 5) and told.mask[0].tolist() == [True, False, True, True, True]


def test_what_cannot_be_told_as_one_is_refused():
    with pytest.raises(ValueError, match="'label'"):
        Several(Labels((1.0,)), Labels((1.0,)))
    with pytest.raises(ValueError, match=r"\(5,\), \(6,\)"):
        together([Condition(tokens=torch.ones(2, 3, 5)), Condition(tokens=torch.ones(2, 3, 6))])
    with pytest.raises(ValueError, match=r"\(4, 4\), \(2, 2\)"):
        together([Condition(field=torch.ones(1, 1, 4, 4)), Condition(field=torch.ones(1, 1, 2, 2))])
