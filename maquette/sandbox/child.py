"""A process of this Python that is asked by lines of JSON: with hardly an environment, ended when it is late, or with its owner.

Standard library alone. Knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any

TOLD = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ", "LANG")  # all that it is told of this environment
STARTING = 60.0  # seconds that it may take to start


class Late(TimeoutError):
    """It took longer than it may."""


class Child:
    """A script, or what `-c` says, started at once; it writes a line when it can be asked, `greeting`.

    Args:
        words: what follows the interpreter's own options.
        first: a line that it reads before it can be asked; None = it reads none.
        more: further names of its environment.

    Raises:
        Late, BrokenPipeError: it did not start.
    """

    def __init__(self, words: Sequence[str], first: Any = None, more: dict[str, str] | None = None):
        told = {name: os.environ[name] for name in TOLD if name in os.environ} | (more or {})
        # -I: no folder of the user's is imported from; -B: nothing is written
        command = [sys.executable, "-I", "-B", *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=told, cwd="/"
        )
        self._end = weakref.finalize(self, _ended, self.process)
        try:
            if first is not None:
                self.say(first)
            self.greeting = self.heard(STARTING)
        except BaseException:
            self.close()
            raise

    def say(self, asked: Any) -> None:
        """Write a line. NaN is no JSON.

        Raises:
            BrokenPipeError: it is gone.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked, allow_nan=False).encode() + b"\n")
        self.process.stdin.flush()

    def heard(self, seconds: float) -> dict[str, Any]:
        """The next line that it writes.

        Raises:
            Late: there is none in time.
            BrokenPipeError: it is gone.
        """
        assert self.process.stdout is not None
        deadline, raw = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while not raw.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not ready.select(left):
                    raise Late
                part = os.read(self.process.stdout.fileno(), 1 << 20)
                if not part:
                    raise BrokenPipeError
                raw += part
        return json.loads(raw)

    def ask(self, asked: Any, seconds: float) -> dict[str, Any]:
        """What it answers. One that is late, or gone, is ended.

        Raises:
            Late, BrokenPipeError: as `heard`.
        """
        try:
            self.say(asked)
            return self.heard(seconds)
        except BaseException:
            self.close()
            raise

    @property
    def gone(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        """End it."""
        self._end()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what it was never to read
                pipe.close()
