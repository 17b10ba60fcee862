"""Programs that nobody has read, run where they can do no harm: what a metric that executes generated code stands on.

A program answers what its calls give, as text; what would be right is compared outside and never told inside, so that no
program can say that it passed. Standard library alone, so that it starts at once; knows no model and no data.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from maquette.sandbox.child import Child, Late

MODES = ("auto", "bubblewrap", "namespaces", "limits")
_MEANS = {  # what the self-test tries, and what it means when it succeeds
    "network": "it reaches the network",
    "socket": "it reaches other programs' sockets",
    "files": "it reads files of this user's",
    "writing": "it writes outside its scratch folder",
    "environment": "it sees this environment",
    "processes": "it starts processes",
    "memory": "it takes more memory than it may",
    "disk": "it writes a larger file than it may",
    "files together": "its files together are larger than they may be",
    "signals": "it sees this process",
    "privilege": "it becomes another user",
    "namespaces": "it makes namespaces",
}
_WEAK = {"files", "signals", "socket", "network", "writing", "files together"}  # what limits alone may leave open
_ABSENT = "it is not installed (apt-get install bubblewrap, or dnf, apk, pacman)"
_HOW = (
    "Install bubblewrap, or allow user namespaces (sysctl -w kernel.unprivileged_userns_clone=1, or "
    "kernel.apparmor_restrict_unprivileged_userns=0; a container needs a seccomp profile that lets unshare through). Weaker, and "
    "only if asked for: mode='limits', limits and another user instead of walls"
)


class Uncontained(ValueError):
    """Nothing here holds a program in. The message says what was tried, what failed, and how to get it."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: by the clock.
        cpu: seconds of the processor, of each process.
        megabytes: of memory, of each process, beyond what the interpreter itself takes.
        processes: and threads, itself among them.
        scratch: megabytes of files in its scratch folder, the only place where it writes.
        file: megabytes of one file.
        output: bytes that it prints.

    Raises:
        ValueError: one is not above 0.
    """

    seconds: float = 5.0
    cpu: int = 4
    megabytes: int = 256
    processes: int = 1
    scratch: int = 16
    file: int = 8
    output: int = 1 << 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0 or (name != "seconds" and value != int(value)):
                what = "above 0" if name == "seconds" else "a whole number above 0"
                raise ValueError(f"{name} of a program is {value}; it must be {what}, nearest is 1")


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    ended: "finished", "failed" (its own exception), or what ended it: "time", "memory", "output", "file size", "killed", "quiet"
    (it left without an answer). values: what each call gave, as `inside.told` says it or as the prompt shows it, as far as they
    went; it is the program's own word, true where it is right. error: the traceback's part that lies in the program.
    """

    ended: str
    values: tuple[str, ...]
    error: str
    output: str
    seconds: float


class Sandbox:
    """Runs Python programs, each by itself: no network, no files but libraries and an empty scratch folder, few resources.

    Args:
        mode: "bubblewrap"; "namespaces", the kernel's walls without it, in forks of a warm process; "auto", the first of these
            that holds, or where there are `imports` the second; "limits", without walls, as another user where root asks: its
            `weak` says what it leaves open.
        limits: what each program may use.
        imports: modules that are imported once, for all programs ("namespaces" and "limits"; bubblewrap starts anew each time).

    Raises:
        ValueError: no such mode.
    """

    def __init__(self, mode: str = "auto", limits: Limits | None = None, imports: Sequence[str] = ()):
        if mode not in MODES:
            import difflib

            near = difflib.get_close_matches(mode, MODES, 1, 0.0)
            raise ValueError(f"mode of a sandbox is {mode!r}; allowed are {', '.join(MODES)}; nearest is {near[0]!r}")
        self.asked, self.limits, self.imports = mode, limits or Limits(), tuple(imports)
        self.mode = ""
        self.weak: tuple[str, ...] = ()
        self._child: Child | None = None

    def run(self, program: str, calls: Sequence[str] = (), *, shown: bool = False) -> Outcome:
        """Run a program, and then calls, expressions in its names; what became of it.

        Args:
            shown: calls are lines as at Python's prompt, and what it would show of each is the value.

        Raises:
            Uncontained: nothing here holds it in; found out before the first program is run.
        """
        if not self.mode:
            self.start()
        return self._run(program, calls, shown)

    def _run(self, program: str, calls: Sequence[str], shown: bool) -> Outcome:
        asked = {"program": program, "calls": list(calls), "shown": shown}
        try:
            if self._child is None or self._child.gone:
                self._child = self._warden(self.mode)
            found = self._child.ask(asked, self.limits.seconds + 10)
        except (Late, BrokenPipeError):
            self._child = None
            return Outcome("killed", (), "whoever watched it is gone", "", self.limits.seconds)
        if found["ended"] == "refused":
            raise Uncontained(f"the walls around a program ({self.mode}) could not be put up: {found['error'].strip()}")
        return Outcome(found["ended"], tuple(found["values"]), found["error"], found["output"], found["seconds"])

    def start(self) -> Self:
        """Find a mode that holds, and try it: a program of our own attempts what none may do.

        Raises:
            Uncontained: there is none.
        """
        both = ("namespaces", "bubblewrap") if self.imports else ("bubblewrap", "namespaces")
        modes = both if self.asked == "auto" else (self.asked,)
        failed = []
        for mode in modes:
            self.close()
            self.mode = mode
            why, open_ = self._tried()
            if not why:
                self.weak = tuple(_MEANS[name] for name in open_)
                return self
            failed.append(f"{mode}: {why}")
        self.close()
        raise Uncontained(f"generated code is not run: nothing here holds it in. {'; '.join(failed)}. {_HOW}")

    def _tried(self) -> tuple[str, list[str]]:
        """Why the present mode does not hold, "" where it does; and what it leaves open."""
        if sys.platform != "linux" and self.mode != "limits":
            return "it is Linux's own", []
        if self.mode == "bubblewrap" and shutil.which("bwrap") is None:
            return _ABSENT, []
        try:
            open_ = self._probed()
        except (Uncontained, Late, OSError) as error:
            return str(error) or type(error).__name__, []
        grave = [name for name in open_ if self.mode != "limits" or name not in _WEAK]
        return " and ".join(_MEANS[name] for name in grave), open_

    def _probed(self) -> list[str]:
        """What a program of ours got through with."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="maquette-"))
            os.chmod(folder, 0o755)
            secret = Path(folder, "secret")
            secret.write_text("secret")
            near = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            heard = stack.enter_context(socket.socket(socket.AF_UNIX))
            heard.bind(str(Path(folder, "socket")))
            os.chmod(Path(folder, "socket"), 0o777)
            heard.listen()
            told = {"port": near.getsockname()[1], "folder": folder, "process": os.getpid(), **asdict(self.limits)}
            program = Path(__file__).with_name("probe.py").read_text()
            found = self._run(program, [f"tried({told!r})"], False)
            taken = any(Path(folder).glob("new*"))
        if len(found.values) != 1:
            raise Uncontained(f"its self-test was {found.ended}: {(found.error + found.output).strip()[-400:]}")
        got = [name for name in _MEANS if repr(name) in found.values[0]]
        return [*got, *(["writing"] if taken and "writing" not in got else [])]

    def _warden(self, mode: str) -> Child:
        root = str(Path(__file__).resolve().parents[2])
        words = ["-c", f"import sys; sys.path.insert(0, {root!r}); from maquette.sandbox.warden import main; main()"]
        more = {"HOME": "/tmp", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        first: dict[str, Any] = {"mode": mode, "limits": asdict(self.limits), "imports": self.imports}
        child = Child(words, first, more)
        if "error" in child.greeting:
            child.close()
            raise Uncontained(child.greeting["error"])
        return child

    def close(self) -> None:
        """End what is kept warm."""
        if self._child is not None:
            self._child.close()
        self._child, self.mode = None, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
