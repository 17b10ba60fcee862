"""Low-rank adapters: they begin as nothing, change what they should, can be merged, and are all that learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from maquette import checkpoint
from maquette.codecs.pixels import Pixels
from maquette.contracts import Condition, Network
from maquette.data import open_data
from maquette.distributed import World
from maquette.experiment import Fit
from maquette.networks import presets
from maquette.networks.mmdit import MMDiT
from maquette.networks.mmdit import Plan as Flux
from maquette.networks.plans2d import TextPlan
from maquette.networks.transformer import Transformer
from maquette.networks.unet2d import UNet2D
from maquette.nn.lora import Adapted, matched, merge, whole
from maquette.nn.packed import quantised
from maquette.objectives.denoising import Denoising
from maquette.processes.flow import flow
from maquette.samplers.solvers import Euler
from maquette.system import System
from maquette.train import Progress, take_step

TOLD = Condition(torch.randn(2, 16), torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))


def unet() -> UNet2D:
    plan = TextPlan(
        in_channels=3, out_channels=3, block_out_channels=(16, 32), attention=(True, True), attention_head_dim=(2, 2),
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=16,
    )  # fmt: skip
    return UNet2D(plan)


def mmdit() -> MMDiT:
    heads = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (0, 8, 8)}
    return MMDiT(Flux(num_layers=1, num_single_layers=1, joint_attention_dim=16, pooled_projection_dim=16, **heads))


def scrambled(net: nn.Module) -> nn.Module:
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


def adapted(net: Network, patterns: tuple[str, ...] = (), rank: int = 3, alpha: float = 0.0) -> Adapted:
    made = Adapted(net, matched(net, patterns) if patterns else matched(net), rank, alpha)
    for name in made.names:
        nn.init.normal_(made.factors.get_submodule(name).lora_B.weight, std=0.3)
    return made


@torch.no_grad()
def out(net: Network) -> torch.Tensor:
    return net(torch.ones(2, 3, 8, 8), t=torch.tensor([0.2, 0.7]), cond=TOLD)


# every kind of layer, however its weight is used: linear, 3 x 3 and 1 x 1 convolutions, one that is summed before (up_conv)
CASES = [(mmdit, ()), (unet, ()), (unet, ("proj_in", "conv1", "conv_shortcut", "conv", "conv_in", "proj"))]


@pytest.mark.parametrize(("make", "patterns"), CASES)
def test_it_begins_as_nothing_and_merged_is_unmerged(make, patterns):
    torch.manual_seed(0)
    net = scrambled(make())
    fresh = Adapted(net, matched(net, patterns) if patterns else matched(net), 3)
    assert torch.equal(out(fresh), out(net))
    moved = adapted(net, patterns)
    assert (out(moved) - out(net)).abs().max() > 0.01
    alone = whole(moved)
    torch.testing.assert_close(out(alone), out(moved), atol=1e-5, rtol=0)
    changes = {name: moved.change(name) for name in moved.names}
    merge(alone, changes, -1.0)
    torch.testing.assert_close(out(alone), out(net), atol=1e-5, rtol=0)
    merge(alone, changes, 0.5)
    assert (out(alone) - out(net)).abs().max() > 0.003
    assert whole(net) is net


def test_each_of_its_layers_counts():
    torch.manual_seed(0)
    net = scrambled(unet())
    made = adapted(net, ("conv", "to_v", "proj_in"))
    before = out(made)
    assert any(".upsamplers." in name for name in made.names)
    for name in made.names:
        kept = made.factors.get_submodule(name).lora_B.weight
        was = kept.detach().clone()
        nn.init.zeros_(kept)
        assert not torch.equal(out(made), before), name
        kept.data.copy_(was)


def test_the_change_is_of_its_rank_and_scaled_by_alpha_over_rank():
    torch.manual_seed(0)
    net = scrambled(mmdit())
    name = matched(net)[0]
    for rank, alpha, scale in ((2, 0.0, 1.0), (2, 6.0, 3.0), (4, 2.0, 0.5)):
        made = adapted(net, rank=rank, alpha=alpha)
        low, weight = made.change(name), net.get_submodule(name).weight
        assert low.scale == scale
        change = low.change(weight)
        assert torch.linalg.matrix_rank(change) == rank
        torch.testing.assert_close(change, scale * low.up @ low.down)


def test_several_stand_on_one_network_and_copies_share_it():
    torch.manual_seed(0)
    net = scrambled(mmdit())
    one, other = adapted(net), adapted(net)
    assert not torch.equal(out(one), out(other))
    twin = copy.deepcopy(one)
    assert twin.net is net and torch.equal(out(twin), out(one))
    nn.init.zeros_(next(iter(twin.parameters())))
    assert not torch.equal(out(twin), out(one))
    assert not {id(p) for p in one.parameters()} & {id(p) for p in net.parameters()}


def test_only_the_adapter_learns_is_averaged_and_optimised():
    torch.manual_seed(0)
    net = scrambled(mmdit())
    made, process = Adapted(net, matched(net), 2), flow()
    nets = {"main": made, "ema": copy.deepcopy(made), "base": net}
    system = System(nets, Denoising(process), Euler(process, (3, 8, 8)), Pixels(), None, ("base",), {"ema": ("main", 0.9)})
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    data = open_data("digits")
    rows = [{"image": data.train.rows(torch.arange(8))["image"].expand(-1, 3, -1, -1)}]
    progress = Progress(Fit(steps=10, batch=8, lr=1e-2, warmup=0.0))
    data.train.rows = lambda index: {"image": rows[0]["image"][: len(index)]}
    for _ in range(3):
        system.train()
        take_step(system, data, progress, World())
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("nets.main.", "nets.ema."))}
    held = [p for optimizers in progress.optimizers.values() for o in optimizers for g in o.param_groups for p in g["params"]]
    assert (
        sum(p.numel() for p in held) == sum(p.numel() for p in made.parameters()) < 0.1 * sum(p.numel() for p in net.parameters())
    )
    files = checkpoint.pack(system, progress)
    again = Adapted(copy.deepcopy(net), matched(net), 2)
    fresh = System(
        {"main": again, "ema": copy.deepcopy(again), "base": again.net},
        Denoising(process), Euler(process, (3, 8, 8)), Pixels(), None, ("base",), {"ema": ("main", 0.9)},
    )  # fmt: skip
    checkpoint.restore(files, fresh)
    assert torch.equal(fresh.sample(1, seed=2)["code"], system.sample(1, seed=2)["code"])
    assert not torch.equal(system.instead("base").sample(1, seed=2)["code"], system.sample(1, seed=2)["code"])
    assert list(system.nets) == ["main", "ema", "base"] and system.steady("main") is system.nets["ema"]


def test_what_cannot_be_adapted_is_refused():
    net = mmdit()
    with pytest.raises(ValueError, match=r"rank is 33; for .*to_q, \(32, 32\), it must lie in 1 .. 32, nearest is 32"):
        Adapted(net, matched(net), 33)
    with pytest.raises(ValueError, match="rank is 0"):
        Adapted(net, matched(net), 0)
    with pytest.raises(ValueError, match=r"no layer of MMDiT is called to_w; there are .*to_q"):
        matched(net, ("to_w",))


@pytest.mark.parametrize("bits", [8, 4])
def test_latent_attention_in_few_bits_writes_with_its_adapter(bits):
    """It reads one of its matrices itself where it remembers: that one is not packed, and is changed like the others."""
    torch.manual_seed(0)
    base = quantised(Transformer(40, 32, 2, 4, style=presets.deepseek(4, 2, 32, kept=12, query=8)).eval(), bits)
    net, x = Adapted(base, matched(base, ("qkv", "kv", "q", "out")), 2).eval(), torch.randint(40, (2, 9))
    for name, p in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        state, whole = net.begin(2, 9), net(x)
        parts = [net(x[:, i : i + 1], state=state) for i in range(9)]
    assert (torch.cat(parts, 1) - whole).float().norm() < 0.03 * whole.float().norm()
