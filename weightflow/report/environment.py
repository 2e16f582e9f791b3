"""The environment of the measurements."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment(seed: int) -> dict[str, Any]:
    commit = _commit()
    return {
        "torch": torch.__version__,
        "weightflow": metadata.version("weightflow"),
        "python": platform.python_version(),
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": commit,
        **({} if commit else {"commit_reason": "the package is not running from a git checkout"}),
        "seed": seed,
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
