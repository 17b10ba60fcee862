"""DiT's mechanisms: patches and their places, adaLN-Zero, and what the network hears."""

from __future__ import annotations

import pytest
import torch

from maquette.contracts import Condition
from maquette.networks.dit import Block, DiT, places
from maquette.nn.conv import fold, unfold
from maquette.runs import build


def randomised(net: DiT) -> DiT:
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def test_adaln_zero_begins_as_the_identity() -> None:
    """A new block passes tokens on unchanged whatever the condition, and learns from the first step all the same."""
    block = Block(32, 4, 0.0)
    x, told = torch.randn(3, 5, 32), torch.randn(3, 32)
    out = block(x, told)
    assert torch.equal(out, x)
    out.square().mean().backward()
    assert block.steer.weight.grad.abs().max() > 0
    for weight in (block.qkv.weight, block.rise.weight):
        assert not weight.grad.any()  # behind a gate of 0
    net = DiT((1, 8, 8), 32, 2, 4)
    assert not net(torch.randn(2, 1, 8, 8), t=torch.rand(2)).any()  # and the head begins at 0


def test_each_gate_opens_its_own_branch() -> None:
    block = Block(16, 2, 0.0)
    x, told = torch.randn(2, 4, 16), torch.zeros(2, 16)
    for place in (2, 5):  # gate of attention, gate of the feed-forward
        block.steer.bias.data.zero_()
        block.steer.bias.data[place * 16 : (place + 1) * 16] = 1
        moved = block(x, told)
        assert not torch.equal(moved, x)
        y = x.clone()
        y[:, 3] = torch.randn(16)  # attention carries what one token says to the others, the feed-forward does not
        reached = bool(((block(y, told) - moved)[:, 0].abs() > 1e-6).any())
        assert reached == (place == 2)


def test_patches_are_squares_of_pixels_and_come_back() -> None:
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(unfold(fold(x, 4), 4), x)
    net = randomised(DiT((3, 8, 12), 32, 1, 4, patch=4))
    seen: list[torch.Tensor] = []
    net.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(x, t=torch.rand(2))
    assert seen[0].shape == (2, 6, 48)
    torch.testing.assert_close(seen[0][0, 4].sort().values, x[0, :, 4:8, 4:8].flatten().sort().values)


def test_places_are_of_two_dimensions() -> None:
    """Same row, same half; same column, same other half; no two places alike."""
    p = places(3, 4, 32).view(3, 4, 32)
    assert torch.equal(p[1, 0, :16], p[1, 3, :16]) and torch.equal(p[0, 2, 16:], p[2, 2, 16:])
    assert (torch.cdist(p.flatten(0, 1), p.flatten(0, 1)) + 9 * torch.eye(12)).min() > 0.1
    net = randomised(DiT((1, 8, 8), 32, 2, 4, patch=2))
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([0.4])
    moved = x.roll(2, 3)  # by one patch: without places the answer would only move along
    assert (net(moved, t=t) - net(x, t=t).roll(2, 3)).abs().max() > 1e-3
    net.places.zero_()
    torch.testing.assert_close(net(moved, t=t), net(x, t=t).roll(2, 3), atol=1e-4, rtol=1e-4)


def test_it_hears_time_and_label_at_every_block() -> None:
    net = randomised(DiT((1, 8, 8), 32, 2, 4, vector=3))
    x, t, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9]), Condition(vector=torch.eye(3)[:2])
    heard = net(x, t=t, cond=cond)
    for other in (net(x, t=t.flip(0), cond=cond), net(x, t=t, cond=Condition(vector=torch.zeros(2, 3))), net(x, t=t)):
        assert (other - heard).abs().max() > 1e-3
    for block in net.blocks:
        assert block.steer.weight.shape == (6 * 32, 32)


def test_bad_shapes_and_dials_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="patch is 3"):
        DiT((1, 8, 8), patch=3)
    with pytest.raises(ValueError, match=r"width is 30.*nearest is 32"):
        DiT((1, 8, 8), width=30, heads=4)
    with pytest.raises(ValueError, match="takes images of"):
        DiT((1, 8, 8), 32, 1)(torch.randn(1, 1, 8, 6), t=torch.rand(1))
    with pytest.raises(ValueError, match="patch is -1"):
        build("dit", {"patch": -1}, 0)
    with pytest.raises(ValueError, match="depth is 0"):
        build("dit", {"depth": 0}, 0)


def test_the_recipe_chooses_its_patch() -> None:
    net = build("dit", {"depth": 1}, 0)[0].system.nets["main"]
    assert isinstance(net, DiT) and net.patch == 2
