"""Muon: torch's moves, whatever shapes and however many matrices there are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maquette import muon
from maquette.muon import Muon, alike, orthogonal
from maquette.train import hidden

SHAPES = [(24, 24), (24, 24), (48, 24), (24, 48), (24, 24), (48, 24), (1, 24)]
OWN = {"lr": 0.1, "weight_decay": 0.2}


def moved(kind: type[Muon] | type[torch.optim.Muon], steps: int = 3, **told) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices after some steps on the same gradients, and what is kept of these."""
    torch.manual_seed(1)
    learn = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(learn, **{**OWN, **told})
    for _ in range(steps):
        for p in learn:
            p.grad = torch.randn_like(p)
        learn[4].grad = None  # a part that was not asked
        optimizer.step()
    return [p.detach() for p in learn], [optimizer.state[p]["momentum_buffer"] for p in learn if p.grad is not None]


@pytest.mark.parametrize("told", [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}, {"adjust_lr_fn": "original"}])
@pytest.mark.parametrize("most", [1 << 22, 1200])
def test_its_moves_are_those_of_torch(told, most, monkeypatch):
    monkeypatch.setattr(muon, "MOST", most)
    (ours, kept), (theirs, held) = moved(Muon, **told), moved(torch.optim.Muon, **told)
    for a, b in zip(kept, held, strict=True):
        assert torch.equal(a, b)
    start = moved(Muon, 0)[0]
    for a, b, was in zip(ours, theirs, start, strict=True):
        assert float((a - b).norm()) < 0.02 * max(float((b - was).norm()), 1e-9) or torch.equal(a, b)


@pytest.mark.parametrize("told", [{}, {"nesterov": False}])
@pytest.mark.parametrize("last", [False, True])
def test_a_kernel_moves_as_the_matrix_of_all_that_an_output_sees(last, told):
    """Whichever way it and its gradient lie in memory; 1 x 1 and flat ones beside."""
    torch.manual_seed(2)
    kernels = [torch.randn(shape) for shape in ((16, 8, 3, 3), (8, 16, 1, 1), (16, 8, 3), (16, 8, 3, 3))]
    ours = [nn.Parameter(k.clone(memory_format=torch.channels_last) if last and k.ndim == 4 else k.clone()) for k in kernels]
    theirs = [nn.Parameter(k.flatten(1).clone()) for k in kernels]
    one, two = Muon(ours, **OWN, **told), torch.optim.Muon(theirs, **OWN, **told)
    for _ in range(3):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            grad = torch.randn_like(kernels[i])
            p.grad = grad.contiguous(memory_format=torch.channels_last) if i == 3 else grad
            q.grad = grad.flatten(1)
        one.step()
        two.step()
    for p, q, k in zip([p.detach() for p in ours], [q.detach() for q in theirs], kernels, strict=True):
        assert float((p.flatten(1) - q).norm()) < 0.02 * float((q - k.flatten(1)).norm())
        assert p.is_contiguous() != (last and p.shape == (16, 8, 3, 3))


def test_hidden_are_matrices_and_kernels_but_those_at_an_edge():
    inner = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2))
    inner.edges = ("0",)
    net = nn.ModuleDict({"body": inner, "read": nn.Linear(4, 4), "out": nn.Conv1d(4, 4, 3), "table": nn.Embedding(3, 4)})
    net.edges = ("table",)
    assert hidden(net) == {"read.weight", "out.weight"}
    inner.edges, net.edges = (), ()
    assert hidden(net) == {"body.0.weight", "read.weight", "out.weight", "table.weight"}


def test_a_run_of_torchs_goes_on_with_it():
    p = nn.Parameter(torch.randn(8, 8))
    before = torch.optim.Muon([p], **OWN)
    p.grad = torch.randn(8, 8)
    before.step()
    after = Muon([p], **OWN)
    after.load_state_dict(before.state_dict())
    assert torch.equal(after.state[p]["momentum_buffer"], before.state[p]["momentum_buffer"])


def test_matrices_of_a_shape_go_together_and_no_more_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(muon, "MOST", 1200)  # two of 24 x 24, one of 48 x 24
    assert list(alike([torch.zeros(shape) for shape in SHAPES])) == [[0, 1], [4], [2], [5], [3], [6]]


@pytest.mark.parametrize("shape", [(40, 40), (20, 80), (80, 20)])
def test_singular_values_come_near_one(shape):
    """Between .6 and 1.3, whatever they were (Jordan 2024): the iteration does not converge, it lifts quickly."""
    x = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    found = torch.linalg.svdvals(orthogonal(x, (3.4445, -4.7750, 2.0315), 5, 1e-7).float())
    was = torch.linalg.svdvals(x)
    grown = was > 0.05 * was.max(1, keepdim=True).values
    assert float(found[grown].min()) > 0.6 and float(found.max()) < 1.3
