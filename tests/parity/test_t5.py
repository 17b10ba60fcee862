"""The same weights, under the same names, give the same states and gradients as transformers' T5, mT5 and UMT5 encoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.t5 import Plan, T5Encoder
from maquette.nn.positions import buckets

transformers = pytest.importorskip("transformers", reason="the reference is transformers' T5")
SMALL: dict[str, Any] = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 3}
OLD, NEW, UL2 = {"feed_forward_proj": "relu"}, {"feed_forward_proj": "gated-gelu"}, {"feed_forward_proj": "gated-silu"}
NARROW = {**NEW, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-5}
CASES = [("T5", OLD), ("T5", NEW), ("T5", UL2), ("T5", NARROW), ("MT5", NEW), ("UMT5", NEW)]


def pair(kind: str, config: dict[str, Any]) -> tuple[Any, T5Encoder]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{kind}EncoderModel")(getattr(transformers, f"{kind}Config")(**SMALL, **config)).eval()
    for name, p in theirs.named_parameters():
        torch.nn.init.normal_(
            p, *((1.0, 0.3) if "norm" in name else (0.0, 1.0 if "relative" in name or "shared" in name else 0.2))
        )
    ours = T5Encoder(Plan.of(theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def symbols(length: int) -> torch.Tensor:
    return torch.randint(99, (3, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("length", [7, 300])
@pytest.mark.parametrize(("kind", "config"), CASES)
def test_states_are_theirs(kind: str, config: dict[str, Any], length: int) -> None:
    theirs, ours = pair(kind, config)
    x = symbols(length)
    mask = torch.ones(3, length, dtype=torch.bool)
    mask[1, 4:], mask[2, length // 2 :] = False, False
    with torch.no_grad():
        expected = theirs(x, output_hidden_states=True)
        assert expected.last_hidden_state.std() > 0.1
        close = {"atol": 1e-4, "rtol": 0}
        torch.testing.assert_close(ours(x), expected.last_hidden_state, **close)
        torch.testing.assert_close(ours.read(x, skip=1, norm=False)[0], expected.hidden_states[-2], **close)
        found = ours(x, cond=Condition(mask=mask))
        torch.testing.assert_close(found, theirs(x, attention_mask=mask.long()).last_hidden_state, **close)
        assert (found - ours(x))[1, :4].abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "config"), CASES)
def test_gradients_are_theirs(kind: str, config: dict[str, Any]) -> None:
    theirs, ours = pair(kind, config)
    x, towards = symbols(40), torch.randn(3, 40, 32)
    (theirs(x).last_hidden_state * towards).sum().backward()
    (ours(x) * towards).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert p.grad is not None and expected[name].grad is not None, name
        size = float(expected[name].grad.abs().max())
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4 * max(size, 1), rtol=0, msg=name)


def test_distances_fall_into_the_published_classes() -> None:
    """Each class's first distance, of the 16 classes of what lies ahead in the published weights."""
    found = buckets(torch.arange(-200, 201), 32, 128).tolist()
    assert [found[200 + first] for first in (1, 7, 8, 11, 12, 15, 16, 22, 23, 63, 64, 90, 91, 127, 128, 200)] == [
        16 + one for one in (1, 7, 8, 8, 9, 9, 10, 10, 11, 13, 14, 14, 15, 15, 15, 15)
    ]
    assert [one % 16 for one in found[:200]] == [one % 16 for one in found[:200:-1]]
    assert set(found[:201]) == set(range(16))


def test_files_of_other_layouts_open() -> None:
    """The embedding under the encoder's name only; under both; with a decoder; and ours as one file without twins."""
    theirs, ours = pair("T5", NEW)
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **NEW)).eval()
    plain = ours.state_dict()
    other = {("encoder.embed_tokens.weight" if name == "shared.weight" else name): value for name, value in plain.items()}
    assert set(theirs.state_dict()) - set(plain) == {"encoder.embed_tokens.weight"}
    for weights in (plain, other, whole.state_dict()):
        again = T5Encoder(ours.plan)
        again.load_state_dict(weights)
    x = symbols(9)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), whole.encoder(x).last_hidden_state, atol=1e-4, rtol=0)


def test_a_missing_weight_is_named() -> None:
    _, ours = pair("T5", NEW)
    weights = {name: value for name, value in ours.state_dict().items() if name != "encoder.final_layer_norm.weight"}
    with pytest.raises(RuntimeError, match="final_layer_norm"):
        ours.load_state_dict(weights)


@pytest.mark.parametrize(
    ("config", "says"),
    [({"feed_forward_proj": "gated-relu"}, "gated-relu"), ({"model_type": "longt5"}, "longt5"), ({"model_type": "bert"}, "bert")],
)
def test_what_is_not_built_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan.of(config)
