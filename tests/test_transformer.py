"""Each switch of the one transformer does what the paper that it is named after says, against another way to compute it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from maquette.contracts import IGNORE, Condition
from maquette.networks import presets
from maquette.networks.style import Around, Ends, Near, Style
from maquette.networks.transformer import Transformer
from maquette.nn.attention import Attention, Cross, Latent, attend
from maquette.nn.experts import Experts
from maquette.nn.mlp import Plain
from maquette.nn.positions import NTK, Alibi, Linear, Llama3, Relative, Rotary, YaRN, turns


def loud(network: torch.nn.Module) -> torch.nn.Module:
    """Weights far from their quiet start, so that every path matters."""
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return network.eval()


def symbols(rows: int = 2, length: int = 20, vocab: int = 12) -> torch.Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(1))


LLAMA = Style()


def tiny(style: Style = LLAMA, depth: int = 2, **how) -> Transformer:
    return loud(Transformer(12, 16, depth, 4, style=style, **how))  # type: ignore[return-value]


# -- positions -----------------------------------------------------------------------------------------------------------


def test_stretched_positions_keep_the_fast_and_slow_down_the_slow():
    speed = 1e4 ** -(torch.arange(16) / 16)

    def of(stretch):
        cos, sin = turns(1, 1, 32, 1e4, stretch=stretch)
        return torch.atan2(sin, cos)[0, :16] / speed, (cos.square() + sin.square()).sqrt().mean()

    for stretch in (NTK(4.0), YaRN(4.0, 512), Llama3(4.0, 512)):
        ratio, _ = of(stretch)
        assert ratio[0] == pytest.approx(1, abs=1e-4) and ratio[-1] == pytest.approx(0.25, abs=1e-3)
        assert (ratio.diff() <= 1e-4).all() and 0.3 < ratio[6:12].mean() < 0.95
    assert torch.allclose(of(Linear(4.0))[0], torch.full((16,), 0.25), atol=1e-3)
    assert of(YaRN(4.0, 512))[1] == pytest.approx(1.1386, abs=1e-3)  # 0.1 ln 4 + 1


def test_a_linear_stretch_by_two_makes_every_other_position_the_old_one():
    torch.testing.assert_close(turns(6, 3, 8, stretch=Linear(2.0))[0][::2], turns(3, 2, 8)[0])


@pytest.mark.parametrize("positions", [Rotary, Alibi, Relative])
def test_only_distances_matter_where_positions_are_relative(positions):
    """The last row of a longer sequence whose beginning is out of a window's sight sees what the shorter one did."""
    network = tiny(Style(positions=positions, near=Near(5, (True,))), depth=1)
    x = symbols(length=12)
    torch.testing.assert_close(network(x)[:, -1], network(x[:, 4:])[:, -1], rtol=0, atol=1e-5)


def test_without_positions_order_is_told_by_causality_alone():
    network = tiny(Style(positions=None), causal=False)
    x = symbols(1, 6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(network(x)[:, order], network(x[:, order]), rtol=0, atol=1e-5)


# -- attention -----------------------------------------------------------------------------------------------------------


def test_a_window_hides_what_lies_before_it_and_far_layers_see_it():
    x = symbols()
    changed = x.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 12
    near, mixed = tiny(Style(near=Near(4, (True,)))), tiny(Style(near=Near(4, (True, False))))
    torch.testing.assert_close(near(x)[:, 7:], near(changed)[:, 7:], rtol=0, atol=1e-6)  # two layers reach 2 x 3 back
    assert (near(x)[:, 6] - near(changed)[:, 6]).abs().max() > 1e-4
    assert (mixed(x)[:, -1] - mixed(changed)[:, -1]).abs().max() > 1e-4


def test_scores_are_capped():
    q, k, v = (torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(i)) * 10 for i in range(3))
    scores = 3 * (q @ k.mT / 2 / 3).tanh()
    wanted = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, True, cap=3.0), wanted)


def test_latent_attention_remembers_little_and_says_the_same():
    how = dict(kept=12, turned=4, still=8, value=6, query=10)
    net = loud(Latent(32, 4, **how))
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    memory = net.memory(2, 9, x)
    assert memory.bytes == (12 + 4) * 4  # one vector and one key for all four heads
    assert Attention(32, 4, size=8).memory(2, 9, x).bytes == 4 * 8 * 2 * 4
    with torch.no_grad():
        parts = torch.cat([net(part, memory=memory) for part in x.split((4, 1, 1, 3), 1)], 1)
        torch.testing.assert_close(parts, net(x), rtol=0, atol=1e-4)


def test_documents_do_not_see_each_other():
    network = tiny(Style(apart=1, smear=True))
    first, second = torch.tensor([[1, 4, 5, 6]]), torch.tensor([[1, 7, 8]])
    both = network(torch.cat([first, second], 1))
    torch.testing.assert_close(both[:, :4], network(first), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[:, 4:], network(second), rtol=0, atol=1e-5)
    together = tiny()
    assert (together(torch.cat([first, second], 1))[:, 4:] - together(second)).abs().max() > 1e-3


def test_what_fills_up_a_row_is_not_seen():
    network = tiny(presets.bert(32), causal=False)
    x = symbols(2, 6)
    filled = torch.cat([x, torch.full((2, 3), IGNORE)], 1)
    torch.testing.assert_close(network(filled)[:, :6], network(x), rtol=0, atol=1e-5)


def test_tokens_that_are_told_are_attended_to_and_masked_ones_are_not():
    network = tiny(presets.t5(both=False), cross=partial(Cross, told=10))
    tokens, mask = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3:] = False
    x, told = symbols(2, 8), Condition(tokens=tokens, mask=mask)
    out = network(x, cond=told)
    hidden, shown = tokens.clone(), tokens.clone()
    hidden[:, 4] += 1
    shown[:, 0] += 1
    torch.testing.assert_close(network(x, cond=Condition(tokens=hidden, mask=mask)), out, rtol=0, atol=1e-6)
    assert (network(x, cond=Condition(tokens=shown, mask=mask)) - out).abs().amax(-1).min() > 1e-4
    with torch.no_grad():
        state = network.begin(2, 8)
        parts = [network(part, cond=told, state=state) for part in x.split((3, 1, 4), 1)]
        torch.testing.assert_close(torch.cat(parts, 1), out, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="is told nothing"):
        network(x)


# -- experts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 4])
def test_experts_add_up_what_the_chosen_ones_say(groups):
    net = loud(Experts(8, 8, 3, 16, shared=8, score=torch.sigmoid, scale=2.5, groups=groups, top_groups=min(2, groups)))
    net.bias = torch.randn(8, generator=torch.Generator().manual_seed(3)) * 0.1
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    net.requires_grad_(False)
    for row, out in zip(x.flatten(0, 1), net(x).flatten(0, 1), strict=True):
        scores = net.router(row).sigmoid()
        liked = scores + net.bias
        parts = liked.view(groups, -1)
        best = parts.topk(2).values.sum(1).topk(min(2, groups)).indices if groups > 1 else torch.arange(1)
        allowed = [i for i in range(8) if i // (8 // groups) in best]
        chosen = sorted(allowed, key=lambda i: -float(liked[i]))[:3]
        total = sum(scores[i] for i in chosen)
        wanted = net.shared(row) + sum(2.5 * scores[i] / total * net.experts[i](row) for i in chosen)
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_balance_evens_out_what_experts_get_and_moves_no_weight():
    """A router that likes one expert best for everything: the bias alone brings the others in."""
    torch.manual_seed(0)
    x = torch.randn(64, 8).abs()

    def evenness(balance: float) -> float:
        net = Experts(8, 4, 1, 8, score=torch.sigmoid, balance=balance).train()
        with torch.no_grad():
            net.router.weight.copy_(torch.tensor([[1.0], [0.1], [0.0], [-0.1]]) + 0.1 * torch.randn(4, 8))
        kept = net.router.weight.clone()
        for _ in range(200):
            net(x)
        assert torch.equal(kept, net.router.weight)
        return net.evenness

    assert evenness(0.0) < 0.4 and evenness(0.01) > 0.95


def test_experts_are_checked():
    with pytest.raises(ValueError, match=r"1 \.\. 4 experts, not 5; nearest is 4"):
        Experts(8, 4, 5)


# -- guesses ahead -------------------------------------------------------------------------------------------------------


def test_a_guess_ahead_sees_one_symbol_more_and_none_beyond():
    network = tiny(Style(ahead=2))
    x = symbols()
    found = network(x, whole=True).ahead
    assert [tuple(each.shape) for each in found] == [(2, 19, 12), (2, 18, 12)]
    for k, each in enumerate(found, 1):
        changed = x.clone()
        changed[:, 11] = (changed[:, 11] + 1) % 12
        moved = (network(changed, whole=True).ahead[k - 1] - each).abs().amax(-1)
        assert moved[:, : 11 - k].max() == 0 and moved[:, 11 - k].min() > 1e-4


def test_foreseeing_one_by_one_equals_training_and_survives_going_back():
    network = tiny(Style(ahead=1))
    x = symbols(2, 10)
    with torch.no_grad():
        wanted, plain = network(x, whole=True).ahead[0], network(x)
        state = network.begin(2, 16)
        network(x[:, :4], state=state)
        found = [network.foresee(x[:, 1:5], state)]
        network(torch.cat([x[:, 4:6], 1 + 0 * x[:, :2]], 1), state=state)  # two right, two wrong
        state.rewind(6)
        found.append(network.foresee(x[:, 5:7], state))
        for at in range(6, 9):
            torch.testing.assert_close(network(x[:, at : at + 1], state=state)[:, 0], plain[:, at], rtol=0, atol=1e-4)
            found.append(network.foresee(x[:, at + 1 : at + 2], state))
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=0, atol=1e-4)


def test_what_cannot_be_together_is_refused():
    with pytest.raises(ValueError, match="only a causal transformer guesses ahead"):
        tiny(Style(ahead=1), causal=False)
    state = tiny().begin(1, 4)
    with pytest.raises(ValueError, match="0 positions are remembered"):
        state.rewind(1)
    with pytest.raises(ValueError, match="ahead=0"):
        tiny().foresee(symbols(1, 1), state)


# -- ends and norms ------------------------------------------------------------------------------------------------------


def test_scores_may_be_capped_scaled_and_left_out():
    x = symbols()
    plain, capped = tiny(Style(ends=Ends(tied=True))), tiny(Style(ends=Ends(tied=True, cap=2.0, out_scale=0.5)))
    torch.testing.assert_close(capped(x), 2 * (plain(x) * 0.5 / 2).tanh(), rtol=1e-4, atol=1e-5)
    stream = tiny(out=None)
    assert stream(x).shape == (2, 20, 16) and stream.head is None


def test_norms_stand_where_they_are_said_to():
    block = tiny(Style(around=Around(False, False, True), norm=torch.nn.LayerNorm, feed=Plain, positions=None), depth=1).blocks[0]
    h = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    from maquette.nn.attention import View

    inner = block.total1(h + block.attention(h))
    torch.testing.assert_close(block(h, View()), block.total2(inner + block.mlp(inner)))


def test_some_places_alone_are_scored_as_all_are():
    network, places = tiny(), torch.tensor([[3, 0, 19], [7, 7, 1]])
    x = symbols()
    torch.testing.assert_close(network(x, only=places), network(x).gather(1, places[..., None].expand(-1, -1, 12)))


def test_smeared_both_ways_a_symbol_meets_both_neighbours_without_attention():
    network = tiny(Style(smear=True), depth=0, causal=False)
    x = symbols(1, 9)
    changed = x.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 12
    moved = (network(x) - network(changed)).abs().amax(-1)[0] > 1e-4
    assert moved.nonzero()[:, 0].tolist() == [3, 4, 5]
