"""What every benchmark shares: the environment beside each number, and the file that it writes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canon.io.files import atomic_write
from canon.io.json_text import json_text
from weightflow.evaluation.interval import interval as interval_of_mean

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Machine, versions, threads and commit."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def memory(what: str) -> int:
    """Bytes that this process holds (VmRSS), or the most it held since `forget_peak` (VmHWM); of Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith(what)))


def forget_peak() -> None:
    """Let the peak start again from what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def interval(values: Sequence[float], level: float = 0.95) -> list[float] | None:
    """The 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return interval_of_mean(torch.tensor(values, dtype=torch.float64), level).ends()


def aim(name: str, wanted: str, values: Sequence[float], met: bool) -> dict[str, Any]:
    """One aim: what was wanted in words, the mean over seeds, its interval, and whether it is met."""
    mean = round(float(np.mean(values)), 6)
    return {"name": name, "aim": wanted, "value": mean, "interval": interval(values), "met": bool(met)}


def effect(name: str, values: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds of a difference, and its interval; what has no aim."""
    return {"name": name, "value": round(float(np.mean(values)), 6), "interval": interval(values)}


def write_result(
    name: str,
    *,
    size: str,
    seeds: Sequence[int],
    seconds: float,
    rows: list[dict[str, Any]],
    aims: list[dict[str, Any]],
    effects: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write `results/NAME.json`; every aim is in it, met or not."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        "command": "python -m benchmarks." + " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "size": size,
        "environment": environment(),
        "seeds": list(seeds),
        "seconds": round(seconds, 1),
        "rows": rows,
        "aims": aims,
        "effects": list(effects),
    }
    atomic_write(path, json_text(result) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
