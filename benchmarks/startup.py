"""Processor time from the start of a command to its end on small files, against that of `import torch`.

What `torch.export` imports (torch._dynamo), which bare checkpoints do not need, stands beside `canon align`. Each command runs several times; the least time counts.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import aim, write_result
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

# of the processor time of `import torch`
WANTED = 1.5


def processor_seconds(command: list[str], repeats: int) -> float:
    """The least user and system time of a process and its children, over `repeats` runs."""
    found = []
    for _ in range(repeats):
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, status, used = os.wait4(process.pid, 0)
        assert process.stderr is not None
        if status:
            raise SystemExit(f"{' '.join(command)}: {process.stderr.read().decode()}")
        process.stderr.close()
        found.append(used.ru_utime + used.ru_stime)
    return min(found)


def commands(folder: Path) -> dict[str, list[str]]:
    """Each command on files that are small, so that starting is what takes time."""
    run = small_run(folder)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        torch.save(network.state_dict(), folder / f"{name}.pt")
    a, b = str(folder / "a.pt"), str(folder / "b.pt")
    return {
        "import torch": ["-c", "import torch"],
        "import torch._dynamo, as torch.export does": ["-c", "import torch, torch.export._trace"],
        "canon --help": ["-m", "canon", "--help"],
        "weightflow --help": ["-m", "weightflow", "--help"],
        "canon verify a.pt a.pt": ["-m", "canon", "verify", a, a],
        "canon align a.pt b.pt": [
            "-m",
            "canon",
            "align",
            a,
            b,
            "--assume",
            "chain",
            "--out",
            str(folder / "c.pt"),
        ],
        "weightflow sample": [
            *("-m", "weightflow", "sample", str(run), "--classes", "three, seven", "--count", "1"),
            *("--out", str(folder / "networks")),
        ],
    }


def small_run(folder: Path) -> Path:
    """A generator that was trained for one step."""
    few = {"tasks": {"seen": 8, "validation": 2, "unseen": 2}, "training": {"steps": 5}}
    build_zoo(read_recipe("digits", few), folder / "zoo")
    canonicalize_zoo(Zoo(folder / "zoo"), folder / "canonical")
    start(Zoo(folder / "canonical"), read_preset("weightflow", {"steps": 1}), folder / "run").run()
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    begin, rows = time.perf_counter(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(Path(folder)).items():
            seconds = processor_seconds(command, options.repeats)
            rows.append(
                {
                    "command": name,
                    "seconds": seconds,
                    "times": seconds / (rows[0]["seconds"] if rows else seconds),
                }
            )
            print(rows[-1], flush=True)
    judged = [r for r in rows if r["command"].startswith(("canon align", "weightflow sample"))]
    aims = [
        aim(f"{r['command']}, of import torch", f"at most {WANTED}", [r["times"]], r["times"] <= WANTED)
        for r in judged
    ]
    print(
        write_result(
            "startup", size="", seeds=range(1), seconds=time.perf_counter() - begin, rows=rows, aims=aims
        )
    )


if __name__ == "__main__":
    main()
