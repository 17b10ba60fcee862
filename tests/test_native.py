"""Native work shared out among threads: the same numbers however many share it, whoever calls, in whatever process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from maquette.nn import native
from maquette.nn.rows import softened

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
