"""What this machine can do: its matrix rate per dtype, its memory bandwidth, whether it can compile, what fits."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch


def _best(call: Callable[[], Any], device: torch.device, seconds: float = 0.6) -> float:
    """The fastest of as many calls as fit in `seconds`: what the machine can do when left alone."""
    call()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def gemm(dtype: torch.dtype, size: int = 1024, device: torch.device | str = "cpu") -> float:
    """GFLOP/s of a square matrix product."""
    device = torch.device(device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device) / 1e9


def bandwidth(device: torch.device | str = "cpu", megabytes: int = 256) -> float:
    """GB/s of a large copy, bytes read and written."""
    device = torch.device(device)
    a = torch.ones(megabytes * 250_000, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / _best(lambda: b.copy_(a), device) / 1e9


def doctor() -> dict[str, Any]:
    """Time this machine and say what that means. Takes a few seconds."""
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    size = 8192 if device.type == "cuda" else 1024
    rates = {str(dtype).removeprefix("torch."): round(gemm(dtype, size, device), 1) for dtype in (torch.float32, torch.bfloat16)}
    fastest = max(rates, key=lambda name: rates[name])
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gemm_gflops": rates,
        "fastest_dtype": fastest,
        "bandwidth_gb_per_s": round(bandwidth(device), 1),
        "free_memory_gb": round(free / 1e9, 1),
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "compiler": shutil.which("g++") or shutil.which("clang++") or "",
        # AdamW in fp32 keeps the weight, its gradient and two moments; an EMA is a fifth copy; half is left for activations.
        "parameters_that_fit": int(free / 2 / 20),
    }
