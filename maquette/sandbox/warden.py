"""Runs programs nobody trusts, one at a time, each in a process of its own within walls, and watches it from outside.

A small process that is kept warm: a run is a fork of it, or bubblewrap. It holds no secret: an environment of a few names, and
never what a right answer would be. Standard library alone, but for the two files beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pwd
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from maquette.sandbox import inside, walls

MODES = ("bubblewrap", "namespaces", "limits")
ANSWER = 1 << 20  # bytes of an answer at most
_ENDS = {signal.SIGXCPU: "time", signal.SIGXFSZ: "file size"}


def unknown() -> int:
    """A user's number that nobody has, for what root runs."""
    for number in range(61000, 65000):
        try:
            pwd.getpwuid(number)
        except KeyError:
            return number
    raise OSError("every user's number from 61000 to 65000 is taken")


class Warden:
    """One way to wall programs in.

    Args:
        mode: one of MODES.
        limits: "seconds" by the clock, "cpu" seconds, "megabytes" of memory, "scratch" and "file" megabytes, "output" bytes,
            "processes".
    """

    def __init__(self, mode: str, limits: dict[str, Any]):
        self.mode, self.limits, self.root = mode, limits, os.geteuid() == 0
        self.outer = unknown() if self.root else os.geteuid()
        self.paths = walls.seen() if mode != "limits" else []
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What became of a program: "ended" (finished, failed, time, memory, output, killed, quiet, or refused where the walls
        were not put up), "values", "error", "output", "seconds"."""
        began = time.monotonic()
        asked = {**asked, "limits": self.limits, "base": 0, "uid": 0, "walled": self.mode != "limits"}
        pipes = {name: os.pipe() for name in ("answer", "output", "ready")}
        folder = tempfile.mkdtemp(prefix="maquette-") if self.mode == "limits" else ""
        try:
            process = self._wrapped(asked, pipes) if self.mode == "bubblewrap" else self._forked(asked, pipes, folder)
            for _, end in pipes.values():
                os.close(end)
            heard, status, why = self._watched(process, {name: ends[0] for name, ends in pipes.items()}, began)
        finally:
            for end, _ in pipes.values():
                os.close(end)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
        return {**_read(heard, status, why), "seconds": time.monotonic() - began}

    # -- ways in -----------------------------------------------------------------------------------------------------

    def _forked(self, asked: dict[str, Any], pipes: dict[str, tuple[int, int]], folder: str) -> int:
        """A fork of this process, walled in by namespaces, or by limits alone."""
        asked["base"] = _space()
        asked["uid"] = (walls.INNER if self.mode == "namespaces" else self.outer) if self.root else 0
        if folder and self.root:
            os.chown(folder, self.outer, self.outer)
        up, down = os.pipe(), os.pipe()
        process = os.fork()
        if process == 0:
            try:
                self._inside(asked, pipes, folder, up[1], down[0])
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(inside.UNUSUAL)
        os.close(up[1])
        os.close(down[0])
        if self.mode == "namespaces":
            with contextlib.suppress(OSError):  # then it waits in vain, and ends
                if os.read(up[0], 1):
                    walls.mapped(process, self.outer, self.root)
                    os.write(down[1], b"1")
        os.close(up[0])
        os.close(down[1])
        return process

    def _inside(self, asked: dict[str, Any], pipes: dict[str, tuple[int, int]], folder: str, up: int, down: int) -> None:
        """The forked process: standard streams of its own, and no other file but the pipes it answers on."""
        signal.set_wakeup_fd(-1)
        null = os.open("/dev/null", os.O_RDWR)
        kept = [os.dup(end) for end in (pipes["answer"][1], pipes["ready"][1], up, down)]
        output = os.dup(pipes["output"][1])
        kept = [_above(end) for end in (null, output, *kept)]
        for place, end in enumerate((kept[0], kept[1], kept[1], *kept[2:])):
            os.dup2(end, place, inheritable=place < 3)
        os.closerange(7, 4096)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "r" if i == 0 else "w", closefd=False) for i in range(3))

        def unshared() -> None:
            os.write(5, b"1")
            if not os.read(6, 1):
                raise OSError("the namespace's users could not be named")

        def sign() -> None:
            os.write(4, b"1")
            os.closerange(4, 8)

        def run() -> None:
            inside.serve(asked, 3, sign)

        if self.mode == "namespaces":
            walls.enclosed(self.paths, self.limits["scratch"], unshared, self.root, run)
        os.setsid()
        os.chdir(folder)
        run()

    def _wrapped(self, asked: dict[str, Any], pipes: dict[str, tuple[int, int]]) -> int:
        """An interpreter of its own that bubblewrap starts. Where root is who asks, it steps down by itself."""
        asked |= {"base": 64 << 20, "uid": self.outer if self.root else 0, "path": sys.path}
        script = "/program.py"
        words = ["bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        words += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        if self.root:
            words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            words += ["--unshare-user", "--uid", str(walls.INNER), "--gid", str(walls.INNER)]
        above = {str(folder) for path in self.paths for folder in Path(path).parents} - {"/"}
        for folder in sorted(above):  # else none but root might look into them
            words += ["--perms", "0755", "--dir", folder]
        for path in self.paths:
            words += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
        for name in walls.DEVICES:
            words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        words += ["--perms", "1777", "--size", str(self.limits["scratch"] << 20), "--tmpfs", walls.SCRATCH]
        words += ["--ro-bind", str(Path(inside.__file__).resolve()), script, "--remount-ro", "/", "--chdir", walls.SCRATCH]
        answer, ready = pipes["answer"][1], pipes["ready"][1]
        words += ["--", sys.executable, "-I", "-B", "-S", script, str(answer), str(ready)]
        with tempfile.TemporaryFile() as request:
            request.write(repr(asked).encode())
            request.seek(0)
            out = pipes["output"][1]
            child = subprocess.Popen(words, stdin=request, stdout=out, stderr=out, pass_fds=(answer, ready))
        child.returncode = 0  # it is waited for here, not there
        return child.pid

    # -- watching ----------------------------------------------------------------------------------------------------

    def _watched(self, process: int, ends: dict[str, int], began: float) -> tuple[dict[str, bytes], int, str]:
        """What was heard on each pipe until the process was gone, its status, and why it was ended, if it was."""
        heard, most = dict.fromkeys(ends, b""), {"answer": ANSWER, "output": self.limits["output"], "ready": 1}
        status, why = 0, ""
        with selectors.DefaultSelector() as ready:
            for name, end in ends.items():
                os.set_blocking(end, False)
                ready.register(end, selectors.EVENT_READ, name)
            ready.register(self.woken, selectors.EVENT_READ, "")
            while True:
                gone, status = os.waitpid(process, os.WNOHANG)
                left = began + self.limits["seconds"] - time.monotonic()
                if gone == 0 and (why or left <= 0):
                    why = why or "time"
                    os.kill(process, signal.SIGKILL)
                    gone, status = os.waitpid(process, 0)
                for name in [key.data for key in ready.get_map().values() if key.data]:
                    found, over = _rest(ends[name], most[name] + 1 - len(heard[name]))
                    heard[name] += found
                    if over:  # nobody writes on it any more
                        ready.unregister(ends[name])
                    if len(heard[name]) > most[name] and not why:
                        why = "output"
                if gone:
                    return heard, status, why
                ready.select(max(0.0, left) if not why else 0.0)
                _rest(self.woken, 4096)


def _rest(end: int, most: int) -> tuple[bytes, bool]:
    """What a pipe that does not block has to give, at most so many bytes, and whether that is all there will ever be."""
    found = b""
    while len(found) < most:
        try:
            part = os.read(end, min(1 << 16, most - len(found)))
        except BlockingIOError:
            break
        if not part:
            return found, True
        found += part
    return found, False


def _read(heard: dict[str, bytes], status: int, why: str) -> dict[str, Any]:
    """An answer, which may be anything at all, as far as it is one."""
    output = heard["output"].decode(errors="replace")
    found: dict[str, Any] = {"ended": why, "values": [], "error": "", "output": output}
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        said = json.loads(heard["answer"])
        values, error = said["values"], said["error"]
        if not why and isinstance(error, str) and isinstance(values, list) and all(isinstance(v, str) for v in values):
            return {**found, "ended": _named(error), "values": values, "error": error}
    if not heard["ready"]:
        return {**found, "ended": "refused", "error": output or f"it ended with status {status}"}
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if not why and code > 128:
        found["ended"] = _ENDS.get(code - 128, "killed")  # type: ignore[call-overload]
        found["error"] = f"signal {code - 128}"
    return {**found, "ended": found["ended"] or "quiet"}


def _named(error: str) -> str:
    """How a program that answered has ended."""
    return "memory" if error.rstrip().endswith("MemoryError") else "failed" if error else "finished"


def _above(end: int) -> int:
    """The same file under a number that is out of the way."""
    import fcntl

    return fcntl.fcntl(end, fcntl.F_DUPFD, 16)


def _space() -> int:
    """Bytes of address space that this process has."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


def main() -> None:
    """Answer until there is nothing more to read, a line of JSON for a line. The first says how programs are walled in."""
    source, answers = _above(0), _above(1)  # a program has the lower numbers
    null = os.open("/dev/null", os.O_RDWR)
    for place in (0, 1):
        os.dup2(null, place)
    with os.fdopen(source, "rb") as lines:
        first = json.loads(lines.readline())
        try:
            warden = Warden(first["mode"], first["limits"])
            for name in first["imports"]:
                importlib.import_module(name)
            told: dict[str, Any] = {"ready": True}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        os.write(answers, json.dumps(told).encode() + b"\n")
        for line in lines:
            raw = json.dumps(warden.run(json.loads(line))).encode() + b"\n"
            while raw:
                raw = raw[os.write(answers, raw) :]


if __name__ == "__main__":
    main()
