"""Work in processes of their own, forked from one that has imported maquette already: a new interpreter takes seconds to.

No test is imported here: each such process would read it again.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

WARM = ["maquette.api", "maquette.cli", "maquette.report.card", "torch.utils.tensorboard", "torch._dynamo", "huggingface_hub"]


def begun(work: Callable[..., None], *told: Any) -> BaseProcess:
    """A process that is at it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*WARM, "tests.contracts.warm"])  # the last is found from the repository's root
    process = context.Process(target=work, args=told)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    """Its exit code."""
    process.join(60)
    if process.is_alive():
        process.kill()
        raise AssertionError("the process does not end")
    return process.exitcode


def say(words: list[str], env: dict[str, str], told: str) -> None:
    """The `maquette` command, with more of an environment; what it says on stderr goes to a file."""
    from maquette import cli

    warnings.simplefilter("ignore")
    os.environ.update(env)
    sys.argv = ["maquette", *words]
    with open(told, "w") as file:
        sys.stderr = file
        try:
            cli.main()
        finally:
            sys.stderr = sys.__stderr__


class Forked:
    """A command of maquette's in place of `subprocess.Popen`'s."""

    def __init__(self, command: list[str], told: str, env: dict[str, str]):
        self.process = begun(speak, command[command.index("maquette") + 1 :], env, told)

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self, seconds: float) -> None:
        self.process.join(seconds)


def speak(words: list[str], env: dict[str, str], told: str) -> None:
    """The command; all it says goes to the end of a file."""
    from maquette import cli

    warnings.simplefilter("ignore")
    os.environ.update(env)
    torch.set_num_threads(1)
    file = os.open(told, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["maquette", *words]
    cli.main()


def ranks(words: list[str], size: int, folder: Path) -> list[BaseProcess]:
    """The command in `size` processes that are one trainer, told so as torchrun tells them; stderr at FOLDER/RANK.txt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    made = []
    for rank in range(size):
        env = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        made.append(begun(say, words, env, str(folder / f"{rank}.txt")))
    return made


def agent(words: list[str], size: int, told: str) -> None:
    """The command as torchrun's agent starts and watches it, in `size` processes of its own that are forked."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    warnings.simplefilter("ignore")
    file = os.open(told, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 2)  # the agent's log too
    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "start_method": "fork", "monitor_interval": 0.05}
    elastic_launch(LaunchConfig(1, 1, size, max_restarts=0, **place), _rank)(words)


def _rank(words: list[str]) -> None:
    from maquette import cli

    sys.argv = ["maquette", *words]
    cli.main()


def overfill(shelf: Path, told: Path) -> None:
    """Commit what fits, then what a limit on files' sizes does not let through."""
    from maquette import storage

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    storage.commit(shelf / "step-1", {"a": b"x" * 100})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        storage.commit(shelf / "step-2", {"a": b"x" * 100000})
    except OSError:
        told.write_text("refused")
