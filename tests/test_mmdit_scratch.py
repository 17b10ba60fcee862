"""MM-DiT from scratch: what its streams hear, where its images lie, and that it learns what a prompt says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maquette.contracts import Condition, tell
from maquette.networks.mmdit import DoubleBlock, MMDiT, Plan, SingleBlock
from maquette.processes.flow import flow
from maquette.streams import Streams

PLAN = Plan(1, 1, 2, 1, 2, 2, 16, 8, 4, axes_dims_rope=(0, 8, 8))
ADDED = replace(PLAN, num_layers=2, num_single_layers=0, axes_dims_rope=None, qk_norm=None, sample_size=8, pos_embed_max_size=8)


def randomised(plan: Plan) -> MMDiT:
    torch.manual_seed(0)
    net = MMDiT(plan)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return net.eval()


def said(rows: int, length: int = 3) -> Condition:
    return Condition(torch.randn(rows, 4), torch.randn(rows, length, 8))


def test_new_blocks_are_the_identity_and_the_first_image_is_nothing() -> None:
    x, text, vector = torch.randn(2, 6, 32), torch.randn(2, 3, 32), torch.randn(2, 32)
    assert all(torch.equal(a, b) for a, b in zip(DoubleBlock(32, 2, True)(x, text, vector, None, None), (x, text), strict=True))
    assert torch.equal(SingleBlock(32, 2, True)(x, vector, None, None), x)
    assert not MMDiT(PLAN)(torch.randn(2, 1, 8, 8), t=torch.rand(2), cond=said(2)).any()


@pytest.mark.parametrize("plan", [PLAN, ADDED, replace(ADDED, dual_attention_layers=(0,))])
def test_it_hears_tokens_vector_and_time(plan: Plan) -> None:
    net, x, t, cond = randomised(plan), torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9]), said(2)
    with torch.no_grad():
        heard = net(x, t=t, cond=cond)
        others = {
            "tokens": net(x, t=t, cond=replace(cond, tokens=-cond.tokens)),
            "no tokens": net(x, t=t, cond=replace(cond, tokens=None)),
            "vector": net(x, t=t, cond=replace(cond, vector=-cond.vector)),
            "nothing": net(x, t=t),
            "time": net(x, t=t.flip(0), cond=cond),
        }
        for name, other in others.items():
            assert (other - heard).abs().max() > 1e-3, name
        assert torch.equal(others["nothing"], net(x, t=t, cond=Condition(torch.zeros(2, 4))))  # zeros stand for no vector


@pytest.mark.parametrize("plan", [PLAN, ADDED])
def test_tokens_that_are_not_real_are_not_heard(plan: Plan) -> None:
    """A row sounds as it does alone without its padding; a row of nothing but padding as one without tokens."""
    net, x, t, cond = randomised(plan), torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.9, 0.5]), said(3, 5)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    with torch.no_grad():
        found = net(x, t=t, cond=replace(cond, mask=mask))
        for row, length in enumerate((5, 2, 0)):
            tokens = cond.tokens[row : row + 1, :length] if length else None
            alone = net(x[row : row + 1], t=t[row : row + 1], cond=Condition(cond.vector[row : row + 1], tokens))
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    loose = net(x, t=t, cond=cond)  # the same while learning, where attention goes another way
    torch.testing.assert_close(loose.detach()[0], found[0], atol=1e-5, rtol=1e-5)
    learnt = net(x, t=t, cond=replace(cond, mask=mask))
    torch.testing.assert_close(learnt.detach(), found, atol=1e-5, rtol=1e-5)
    assert all(
        torch.isfinite(g).all()
        for g in torch.autograd.grad(learnt.sum(), list(net.parameters()), allow_unused=True)
        if g is not None
    )


def test_turns_know_distances_and_the_table_is_cut_from_its_middle() -> None:
    """Rows, columns and edges are told apart by turning; an added table is cut round its middle."""
    net = randomised(replace(PLAN, num_single_layers=1))
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([0.4])
    with torch.no_grad():
        assert (net(x.roll(2, 3), t=t) - net(x, t=t).roll(2, 3)).abs().max() > 1e-3  # places are heard
        assert (net(x.mT.contiguous(), t=t) - net(x, t=t).mT).abs().max() > 1e-3  # rows are not columns
        high, wide = net(torch.randn(1, 1, 4, 16), t=t).shape[2:]
        assert (high, wide) == (4, 16)
        added = randomised(ADDED)
        seen: list[torch.Tensor] = []
        added.transformer_blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        added(torch.zeros(1, 1, 8, 4), t=t)
    table = added.pos_embed.pos_embed.view(8, 8, -1)[2:6, 3:5].reshape(8, -1)
    torch.testing.assert_close(seen[0][0], table + added.pos_embed.proj.bias)


def test_it_learns_what_the_prompt_says() -> None:
    """Each of four prompts names the corner that is bright: seen noise alone, it guesses that one, and none without a prompt."""
    torch.manual_seed(0)
    net, process = MMDiT(PLAN), flow()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    prompts, corners = torch.randn(4, 3, 8), torch.tensor([[0, 0], [0, 4], [4, 0], [4, 4]])
    losses = []
    for step in range(60):
        which = torch.randint(4, (16,))
        x = -torch.ones(16, 1, 8, 8)
        for row, (a, b) in enumerate(corners[which].tolist()):
            x[row, :, a : a + 4, b : b + 4] = 1
        rng = Streams.of(step, 16)
        t = process.times(rng.fork(0))
        x_t = process.corrupt(x, t, rng.fork(1))
        mask = (torch.rand(16, 1) > 0.1).expand(16, 3)
        cond = Condition(torch.zeros(16, 4), prompts[which], mask)
        loss = process.distance(process.denoise(net, x_t, t, cond), x, x_t, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    noise, ones = torch.randn(4, 1, 8, 8), torch.ones(4)
    with torch.no_grad():
        guess = process.denoise(net, noise, ones, Condition(torch.zeros(4, 4), prompts))
        null = process.denoise(net, noise, ones, Condition(torch.zeros(4, 4)))
    bright = torch.stack([guess[row, 0, a : a + 4, b : b + 4].mean() for row, (a, b) in enumerate(corners.tolist())])
    unsaid = torch.stack([null[row, 0, a : a + 4, b : b + 4].mean() for row, (a, b) in enumerate(corners.tolist())])
    assert bright.min() > 0.5 and unsaid.max() < 0


def test_guidance_is_a_number_behind_the_vector() -> None:
    net = randomised(replace(PLAN, guidance_embeds=True))
    x, t, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9]), said(2)
    weak, strong = (net(x, t=t, cond=tell(cond, torch.full((2, 1), scale))) for scale in (1.0, 4.0))
    assert (weak - strong).abs().max() > 1e-3
    for silent in (cond, None, Condition(tokens=cond.tokens)):
        with pytest.raises(ValueError, match=r"must be 5.*guidance scale.*tell"):
            net(x, t=t, cond=silent)
    scale_alone = randomised(replace(PLAN, guidance_embeds=True, pooled_projection_dim=0))
    assert scale_alone(x, t=t, cond=Condition(torch.ones(2, 1))).shape == x.shape


def test_half_precision_is_near_and_learns() -> None:
    net, x, t, cond = randomised(PLAN), torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0]), said(3)
    with torch.no_grad():
        full = net(x, t=t, cond=cond)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, t=t, cond=cond)
        mixed.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.no_grad():
        half = net.bfloat16()(x, t=t, cond=cond).float()
    for found in (mixed.detach().float(), half):
        assert (found - full).norm() < 0.03 * full.norm()


@pytest.mark.slow
def test_it_is_one_graph_to_the_compiler() -> None:
    net = randomised(replace(PLAN, num_single_layers=1))
    x, t, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9]), said(2)
    one = torch.compile(net, backend="aot_eager", fullgraph=True)
    parameters = list(net.parameters())
    expected, found = (torch.autograd.grad(f(x, t=t, cond=cond).square().sum(), parameters) for f in (net, one))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_bad_plans_and_calls_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"axes_dims_rope is \(0, 8, 16\).*attention_head_dim, 16"):
        replace(PLAN, axes_dims_rope=(0, 8, 16))
    for name, least in (("num_layers", 1), ("pooled_projection_dim", 0), ("pos_embed_max_size", 1)):
        with pytest.raises(ValueError, match=f"{name} is {least - 1}; it must be at least {least}"):
            replace(PLAN, **{name: least - 1})
    with pytest.raises(ValueError, match="sample_size is 1; it must be at least patch_size, 2"):
        replace(ADDED, sample_size=1)
    with pytest.raises(ValueError, match="qk_norm is 'l2'"):
        replace(PLAN, qk_norm="l2")
    net = MMDiT(ADDED)
    with pytest.raises(ValueError, match=r"1 channels.*sides divide by 2, not \(1, 7, 8\)"):
        net(torch.zeros(1, 1, 7, 8))
    with pytest.raises(ValueError, match="pos_embed_max_size is 8, which allows sides of at most 16"):
        net(torch.zeros(1, 1, 4, 18))
    with pytest.raises(ValueError, match="tokens are 9 wide; this MM-DiT's joint_attention_dim is 8"):
        net(torch.zeros(1, 1, 8, 8), cond=Condition(tokens=torch.zeros(1, 2, 9)))
    with pytest.raises(ValueError, match="vector is 3 wide; it must be 4"):
        net(torch.zeros(1, 1, 8, 8), cond=Condition(torch.zeros(1, 3)))
