"""What every benchmark writes: where it ran, and one result file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Versions, processor, threads and commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": commit.stdout.strip() or None,
    }


def write_result(
    name: str,
    *,
    size: str,
    seeds: Sequence[int],
    seconds: float,
    rows: Sequence[Mapping[str, Any]],
    aims: Sequence[Mapping[str, Any]],
) -> Path:
    """Write results/NAME.json; each aim is {name, aim, value, interval, met}."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "size": size,
        "environment": environment(),
        "seeds": list(seeds),
        "seconds": round(seconds, 1),
        "rows": list(rows),
        "aims": list(aims),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
