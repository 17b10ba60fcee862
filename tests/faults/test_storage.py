"""A save that is killed, fails or is tampered with at any point leaves an older or a newer whole checkpoint, and says so."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from maquette import storage

OLD = {"model.safetensors": b"old weights" * 50, "state.json": b'{"step": 1}'}
NEW = {"model.safetensors": b"new weights" * 50, "state.json": b'{"step": 2}'}


class Faulty:
    """The operating system, until its k-th call: then `fault` happens, before the call or after it."""

    def __init__(self, at: int, fault: Any, after: bool = False):
        self.at, self.fault, self.after, self.calls = at, fault, after, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            due = self.calls == self.at
            if due and not self.after:
                if name == "write":  # half of it still gets there
                    real(args[0], args[1][: len(args[1]) // 2])
                self.fault()
            result = real(*args, **options)
            if due and self.after:
                self.fault()
            return result

        return call


def save(shelf: Path) -> None:
    """What a run does at a checkpoint: commit the new one, take the oldest away."""
    storage.commit(shelf / "step-2", NEW)
    storage.remove(shelf / "step-0")


def prepare(shelf: Path) -> None:
    storage.commit(shelf / "step-0", OLD)
    storage.commit(shelf / "step-1", OLD)


def whole(shelf: Path) -> dict[str, bytes]:
    """The newest checkpoint that verifies; whatever verifies must be exactly what was saved."""
    good = {}
    for folder in sorted(shelf.glob("step-*")):
        good[folder.name] = storage.read_verified(folder)  # a folder that has its name is whole, always
    assert good, "no checkpoint is left"
    assert all(files == (NEW if name == "step-2" else OLD) for name, files in good.items())
    assert "step-1" in good or "step-2" in good
    return good[max(good)]


def count_calls(tmp_path: Path, monkeypatch) -> int:
    shelf = tmp_path / "count"
    prepare(shelf)
    counting = Faulty(-1, None)
    monkeypatch.setattr(storage, "system", counting)
    save(shelf)
    monkeypatch.undo()
    assert counting.calls > 20
    return counting.calls


@pytest.mark.parametrize("after", [False, True])
def test_sigkill_at_every_call(tmp_path, monkeypatch, after):
    for at in range(1, count_calls(tmp_path, monkeypatch) + 1):
        shelf = tmp_path / f"kill-{at}"
        prepare(shelf)
        child = os.fork()
        if child == 0:
            storage.system = Faulty(at, lambda: os.kill(os.getpid(), signal.SIGKILL), after)
            save(shelf)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"call {at} was never reached"
        whole(shelf)
        storage.sweep(shelf)
        assert not list(shelf.glob(".*")), "the sweep left something behind"
        save(shelf) if (shelf / "step-0").exists() and not (shelf / "step-2").exists() else None
        shutil.rmtree(shelf)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_failure_at_every_call(tmp_path, monkeypatch, code):
    """A full, broken or read-only disk at any point: an OSError, the older checkpoint whole, nothing half-made in view."""
    for at in range(1, count_calls(tmp_path, monkeypatch) + 1):
        shelf = tmp_path / f"fail-{at}"
        prepare(shelf)

        def fail() -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(storage, "system", Faulty(at, fail))
            try:
                save(shelf)
            except OSError as error:
                assert error.errno == code
        whole(shelf)
        shutil.rmtree(shelf)


def test_every_flipped_bit_is_refused_by_name(tmp_path):
    folder = tmp_path / "step-1"
    storage.commit(folder, OLD)
    flips = 0
    for path in sorted(folder.iterdir()):
        clean = path.read_bytes()
        for place in range(0, len(clean) * 8, 7):
            spoilt = bytearray(clean)
            spoilt[place // 8] ^= 1 << (place % 8)
            path.write_bytes(spoilt)
            with pytest.raises(storage.Damaged, match="step-1"):
                storage.read_verified(folder)
            flips += 1
        path.write_bytes(clean)
    assert flips > 500 and storage.read_verified(folder) == OLD


@pytest.mark.parametrize("name", [*OLD, "manifest.json"])
def test_truncated_or_missing_file_is_refused_by_name(tmp_path, name):
    folder = tmp_path / "step-1"
    storage.commit(folder, OLD)
    clean = (folder / name).read_bytes()
    for length in range(0, len(clean), max(1, len(clean) // 20)):
        (folder / name).write_bytes(clean[:length])
        with pytest.raises(storage.Damaged, match=name):
            storage.read_verified(folder)
    (folder / name).unlink()
    with pytest.raises(storage.Damaged, match=name):
        storage.read_verified(folder)


def test_swapped_files_are_refused(tmp_path):
    for name, files in (("step-1", OLD), ("step-2", NEW)):
        storage.commit(tmp_path / name, files)
    shutil.copy(tmp_path / "step-2" / "model.safetensors", tmp_path / "step-1" / "model.safetensors")
    with pytest.raises(storage.Damaged, match=r"step-1/model\.safetensors has changed"):
        storage.read_verified(tmp_path / "step-1")


def test_a_newer_format_is_refused_as_newer(tmp_path):
    folder = tmp_path / "step-1"
    storage.commit(folder, OLD)
    (folder / "manifest.json").write_bytes(storage._sealed({"format": 99, "files": {}}))
    with pytest.raises(storage.Damaged, match="format 99"):
        storage.read_verified(folder)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed (apt-get install strace)")
def test_sigkill_at_every_system_call(tmp_path):
    """The same, seen from the kernel: the process dies at each file system call of one save, enumerated by strace."""
    script = tmp_path / "save.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            sys.path.insert(0, {str(Path(storage.__file__).parent)!r})
            from pathlib import Path
            import storage, test_data
            shelf = Path(sys.argv[1])
            os.mkdir(shelf / "MARK")
            storage.commit(shelf / "step-2", test_data.NEW)
            storage.remove(shelf / "step-0")
            """
        )
    )
    (tmp_path / "test_data.py").write_text(f"NEW = {NEW!r}\n")
    calls = "openat,write,fsync,close,mkdir,rename,renameat,renameat2,unlink,unlinkat,rmdir"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}

    def run(shelf: Path, *inject: str) -> list[str]:
        prepare(shelf)
        trace = tmp_path / "trace"
        command = [
            "strace",
            "-f",
            "-o",
            str(trace),
            "-e",
            f"trace={calls}",
            *inject,
            sys.executable,
            "-S",
            str(script),
            str(shelf),
        ]
        subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
        return [line.split(None, 1)[1] for line in trace.read_text().splitlines() if "(" in line]

    lines = run(tmp_path / "plain")
    seen: dict[str, int] = {}
    points = []
    marked = False
    for line in lines:
        name = line.split("(")[0]
        seen[name] = seen.get(name, 0) + 1
        if (marked and str(tmp_path / "plain") in line) or (marked and name in ("write", "fsync", "close")):
            points.append((name, seen[name]))
        marked = marked or "MARK" in line
    assert len(points) >= 20
    for number, (name, ordinal) in enumerate(points):
        shelf = tmp_path / f"k{number}"
        run(shelf, "-e", f"inject={name}:signal=KILL:when={ordinal}")
        shutil.rmtree(shelf / "MARK", ignore_errors=True)
        whole(shelf)
