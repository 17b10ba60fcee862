"""What the self-test of a sandbox runs inside it: attempts at all that must fail. Read as text; imports nothing of maquette."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from typing import Any


def got(attempt: Callable[[], Any]) -> bool:
    """Whether an attempt succeeded."""
    try:
        return attempt() is not False
    except (OSError, MemoryError, ValueError, AttributeError):
        return False


def written(folder: str) -> None:
    with open(os.path.join(folder, f"new{os.getpid()}"), "wb") as file:
        file.write(b"x")


def filled(megabytes: int) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("large", "wb", buffering=0) as file:
        for _ in range(megabytes + 1):
            file.write(bytes(1 << 20))
    os.remove("large")


def heaped(scratch: int, each: int) -> None:
    """More files than fit."""
    made = [f"part{i}" for i in range(scratch // each + 2)]
    try:
        for name in made:
            with open(name, "wb", buffering=0) as file:
                for _ in range(each):
                    if file.write(bytes(1 << 20)) < 1 << 20:
                        raise OSError
    finally:
        for name in made:
            if os.path.exists(name):
                os.remove(name)


def forked(most: int) -> bool:
    """Whether there can be more processes than these."""
    made = []
    try:
        for _ in range(most):
            child = os.fork()
            if child == 0:
                import time

                time.sleep(1)
                os._exit(0)
            made.append(child)
        return True
    except OSError:
        return False
    finally:
        for child in made:
            os.kill(child, 9)
            os.waitpid(child, 0)


def rooted() -> bool:
    os.setuid(0)
    return True


def tried(told: dict[str, Any]) -> list[str]:
    """The names of what succeeded."""
    places = [told["folder"], "/", "/usr", sys.prefix, os.path.dirname(os.__file__)]
    known = {"PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "HOME", "PYTHONHASHSEED", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    known |= {"DYLD_LIBRARY_PATH", "PWD", "LC_CTYPE"}
    attempts: dict[str, Callable[[], Any]] = {
        "network": lambda: socket.create_connection(("127.0.0.1", told["port"]), 1),
        "socket": lambda: socket.socket(socket.AF_UNIX).connect(os.path.join(told["folder"], "socket")),
        "files": lambda: open(os.path.join(told["folder"], "secret")).read(),  # noqa: SIM115
        "writing": lambda: any([got(lambda place=place: written(place)) for place in places]),  # type: ignore[misc]
        "environment": lambda: bool(set(os.environ) - known),
        "processes": lambda: forked(told["processes"]),
        "memory": lambda: bytearray((told["megabytes"] + 256) << 20),
        "disk": lambda: filled(told["file"]),
        "files together": lambda: heaped(told["scratch"], told["file"]),
        "signals": lambda: os.kill(told["process"], 0),
        "privilege": lambda: os.geteuid() == 0 or rooted(),
        "namespaces": lambda: ctypes.CDLL(None).unshare(0x10000000) == 0,
    }
    return [name for name, attempt in attempts.items() if got(attempt)]
