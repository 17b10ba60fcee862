"""Native work shared out among threads: the same numbers however many share it, whoever calls, in whatever process."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from maquette.nn import channels_last, native
from maquette.nn.packed import Packed
from maquette.nn.rows import rms_norm, softened

pytestmark = pytest.mark.skipif(not native.built(), reason="no compiler, or MAQUETTE_NATIVE=0")


soft = partial(softened, mask=None, scale=1.0)


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(3, 4, 100, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_however_many_share_it(scores: Tensor, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.testing.assert_close(soft(scores), scores.softmax(-1), rtol=1e-5, atol=1e-7)


def test_several_callers_at_once(scores: Tensor) -> None:
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(soft, [scores] * 40):
            torch.testing.assert_close(found, scores.softmax(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12 and later, at any fork
def test_a_forked_process_has_threads_of_its_own(scores: Tensor) -> None:
    """Torch's, of the one that it was forked from, are not there: waiting for them would never end. So hands of ours do it."""
    torch.set_num_threads(2)
    expected = soft(scores)
    child = os.fork()
    if child == 0:
        found = [soft(scores) for _ in range(20)]
        torch.set_num_threads(1)  # what torch itself would share out would wait
        os._exit(0 if all(torch.equal(one, expected) for one in found) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_more_hands_come_later(scores: Tensor) -> None:
    """Those of a forked process, called first for few and then for more."""
    expected = soft(scores)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            found = []
            for threads in (2, 3, 2, 5, 7):
                torch.set_num_threads(threads)
                found += [soft(scores) for _ in range(5)]
            torch.set_num_threads(1)
            os._exit(0 if all(torch.equal(one, expected) for one in found) else 1)
        assert os.waitpid(child, 0)[1] == 0


def worked(dtype: torch.dtype) -> list[Tensor]:
    """Attention to what is before, a norm, and a packed matrix times few rows."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 70, 40, generator=rng).to(dtype) for _ in "qkv")
    x, weight = torch.randn(4, 96, generator=rng), torch.randn(48, 96, generator=rng)
    with torch.no_grad():
        packed = [Packed.of(weight, bits=bits)(x.to(dtype)) for bits in (8, 4)]
        return [channels_last.hear(q, k, v, None, 70, 0.2), rms_norm(x.to(dtype), weight[0], 1e-5), *packed]


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="its options are another processor's")
@pytest.mark.parametrize("without", ["amx-tile amx-bf16", "amx-tile amx-bf16 avx512bf16", "amx-tile amx-bf16 avx512f"])
def test_a_processor_that_has_less_computes_the_same(without, monkeypatch, tmp_path):
    """Built as for one without its matrix unit, without products of pairs of bfloat16, without vectors of sixteen."""
    whole = {dtype: worked(dtype) for dtype in native.TYPES}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *(f"-mno-{name}" for name in without.split())))
    native.library.cache_clear()
    try:
        assert native.built()
        for dtype, expected in whole.items():
            near = 1e-5 if dtype == torch.float32 else 0.02
            for found, want in zip(worked(dtype), expected, strict=True):
                torch.testing.assert_close(found, want, rtol=near, atol=near)
    finally:
        native.library.cache_clear()
