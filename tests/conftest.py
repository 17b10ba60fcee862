"""Every test: fixed threads, no network, a clean working folder, and errors shown whole."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported and collected lives to the end: searching it for cycles is a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What fixtures draw, those shared by many tests too, is the same in every order of tests."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _drawn_once() -> None:
    """Each built-in corpus is made once in a process, and not again after eight others were asked for."""
    from maquette.data import opening

    opening._drawn = lru_cache(maxsize=None)(opening._drawn.__wrapped__)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No test may reach beyond this machine, nor draw otherwise in another order of tests."""
    torch.default_generator.manual_seed(0)
    connect = socket.socket.connect

    def local(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to connect to {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def previews() -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Training draws none, for that is most of a short run's time; within what this gives it does, as for users."""
    from maquette import training

    within = partial(mock.patch.object, training, "_preview", training._preview)
    with mock.patch.object(training, "_preview", lambda session, step: None):
        yield within


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """What no dial makes small is small in all tests of a file: `pytestmark = pytest.mark.usefixtures("narrow")`."""
    from narrow import small

    with small():
        yield


@pytest.fixture
def anew(monkeypatch: Any) -> None:
    """Built-in corpora are made at every opening, as in another process each; what a test makes of them stays its own."""
    from maquette.data import opening

    monkeypatch.setattr(opening, "_drawn", opening._drawn.__wrapped__)


@pytest.fixture
def shell(monkeypatch: Any, capsys: Any) -> Callable[..., SimpleNamespace]:
    """The `maquette` command without another process: words -> returncode, stdout, stderr."""
    from maquette import cli

    def say(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["maquette", *words])
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return say
