"""The .cpp files beside it as functions of tensors: built once by g++ where there is one, kept in the user's cache.

Knows how to build, to find and to call; what is computed, and what to do without it, is the caller's matter.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCES = tuple(Path(__file__).parent / name for name in ("native.cpp", "decode.cpp", "rows.cpp"))
INCLUDED = tuple(Path(__file__).parent / name for name in ("vectors.cpp", "threads.cpp", "tiles.cpp", "matrices.cpp"))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-pthread")
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built functions; None where nothing compiles, or with MAQUETTE_NATIVE=0."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler or os.environ.get("MAQUETTE_NATIVE") == "0":
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maquette"
    built = cache / f"native-{_key()}.so"
    try:
        if not built.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with open(cache / "native.lock", "w") as lock:  # one process builds, and others wait for it
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not built.exists():
                    _build(compiler, built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.CalledProcessError):  # a cache that cannot be written, a compiler that is too old
        return None


def _build(compiler: str, built: Path) -> None:
    """All sources at once; what is built is renamed when it is whole.

    Raises:
        OSError: it cannot be written.
        subprocess.CalledProcessError: it cannot be compiled.
    """
    if sys.stderr.isatty():
        print("building native code, once for this machine: 10 to 30 seconds", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        objects, fresh = {source: f"{folder}/{source.stem}.o" for source in SOURCES}, Path(folder) / "native.so"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        compiling = [
            subprocess.Popen([compiler, *FLAGS, "-c", "-o", made, str(source)], **quiet)  # type: ignore[call-overload]
            for source, made in objects.items()
        ]
        for process in compiling:
            process.wait()
        subprocess.run([compiler, "-shared", "-pthread", "-o", str(fresh), *objects.values()], check=True, capture_output=True)
        fresh.replace(built)


def built() -> bool:
    """Whether there is anything to call; a compiler of graphs takes the answer and does not follow how it is found."""
    return library() is not None


# all that torch.compiler.assume_constant_result does once it has imported torch's compiler, which takes 2 s of every start
built._dynamo_marked_constant = True  # type: ignore[attr-defined]


def native(x: Tensor) -> bool:
    """Whether x can be given to native code."""
    return x.device.type == "cpu" and x.dtype in TYPES and built()


def learns(*inputs: Tensor | None) -> bool:
    """Whether a gradient is asked for."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def _key() -> str:
    """What a build depends on: the source, the flags and the processor it was made for."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    about = sorted({line for line in lines if line.startswith(("flags", "Features", "model"))}) or [platform.processor()]
    parts = [*(path.read_text() for path in (*SOURCES, *INCLUDED)), *FLAGS, platform.machine(), *about]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def over_rows(name: str, rows: int, like: Tensor, *arguments: Tensor | int | float | None) -> None:
    """Call a function for rows 0 .. rows - 1, shared out among torch's threads. Tensors go as addresses, None as none."""
    function = getattr(library(), f"{name}_{TYPES[like.dtype]}")
    given: list[Any] = [
        ctypes.c_void_p(None if a is None else a.data_ptr())
        if a is None or isinstance(a, Tensor)
        else ctypes.c_float(a)
        if isinstance(a, float)
        else ctypes.c_int64(a)
        for a in arguments
    ]
    function(ctypes.c_int64(torch.get_num_threads()), ctypes.c_int64(rows), *given)
