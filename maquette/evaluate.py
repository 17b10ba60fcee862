"""Judge a system: draw its samples once, put every question that applies, leave no trace on the system or on any randomness.

Knows the metrics' contract, no metric.
"""

from __future__ import annotations

import difflib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from maquette.data import Data
from maquette.metrics import Metric, all_metrics
from maquette.metrics.estimate import Estimate
from maquette.metrics.evidence import Evidence, UnfitSamples
from maquette.system import System

Tell = Callable[[str, float], None]


def evaluate(
    system: System,
    data: Data,
    *,
    n: int | None = None,
    seed: int = 0,
    only: Iterable[str] | None = None,
    progress: Tell | None = None,
    executes: bool = False,
) -> dict[str, Any]:
    """Put every metric that applies to a system and its data.

    Args:
        n: samples to draw; None = as many as there are training rows, at most 10,000.
        seed: of the samples and of everything random in the metrics.
        only: names of metrics (files of maquette/metrics); None = all that apply.
        progress: called with (metric, share done) before each metric that applies.
        executes: whether code that the system writes may be run, walled in.

    Returns:
        "metrics": figure -> Estimate; "skipped": metric -> why it does not apply; "metrics_seconds": wall-clock of the metrics,
        without sampling; "seconds_by_metric"; "sampling_seconds"; "samples_per_second" (None where no sample was needed).

    Raises:
        ValueError: an unknown metric, or too few samples.
    """
    chosen = choose(only)
    with undisturbed(system):
        return judge(Evidence(data, system, n=n, seed=seed, executes=executes), chosen, progress)


def choose(only: Iterable[str] | None) -> dict[str, Metric]:
    """The metrics of these names.

    Raises:
        ValueError: one is unknown; the message lists the allowed and the nearest.
    """
    known = all_metrics()
    if only is None:
        return known
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"unknown metric '{name}'; allowed: {', '.join(known)}{hint}")
    return {name: known[name] for name in wanted}


def judge(evidence: Evidence, metrics: dict[str, Metric] | None = None, progress: Tell | None = None) -> dict[str, Any]:
    """What `evaluate` returns, from evidence at hand: also for a generator that is no System."""
    metrics = all_metrics() if metrics is None else metrics
    figures: dict[str, Estimate] = {}
    skipped: dict[str, str] = {}
    took: dict[str, float] = {}
    for place, (name, metric) in enumerate(metrics.items()):
        reason = metric.applies(evidence)
        if reason:
            skipped[name] = reason
            continue
        if progress is not None:
            progress(name, place / len(metrics))
        began, sampled = time.perf_counter(), evidence.sampling_seconds
        try:
            figures |= metric.measure(evidence)
        except (UnfitSamples, ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
            skipped[name] = str(error)
        took[name] = time.perf_counter() - began - (evidence.sampling_seconds - sampled)
    if progress is not None:
        progress("done", 1.0)
    sampling = evidence.sampling_seconds
    return {
        "metrics": figures,
        "skipped": skipped,
        "metrics_seconds": sum(took.values()),
        "seconds_by_metric": took,
        "sampling_seconds": sampling,
        "samples_per_second": evidence.n / sampling if sampling else None,
    }


@contextmanager
def undisturbed(system: System) -> Iterator[None]:
    """Within: anything may be drawn and any mode set; afterwards both are as they were."""
    modes = {module: module.training for module in system.modules()}
    python, array = random.getstate(), np.random.get_state()
    devices = [system.device] if system.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        for module, mode in modes.items():
            module.training = mode
