"""Zoos larger than memory: does the memory of a command grow with the number of networks?

Zoos of 1,000, 10,000 and 100,000 digits MLPs (2,410 parameters; two steps of training, since memory does not depend on what
networks can do) go through the commands, each in a process of its own. Measured is private memory (RssAnon, every 20 ms): pages of
mapped files are not counted, as the system drops them when others need the room.

python -m benchmarks.large_zoos [--networks 1000 10000 100000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result

MOST_GIB = 2.0
SETTINGS = {
    "zoo build": ["training.steps=2"],
    "train": ["steps=100", "evaluate_every=100", "save_every=100"],
}


def commands(folder: Path, networks: int) -> dict[str, list[str]]:
    """What is run, in order."""
    held_out = networks // 10
    tasks = [
        f"tasks.seen={networks - 2 * held_out}",
        f"tasks.validation={held_out}",
        f"tasks.unseen={held_out}",
    ]
    prompts = folder / "prompts.txt"
    prompts.write_text("three, seven, nine\n" * (networks // 100))
    chosen = {
        "zoo build": ["digits", "--out", f"{folder}/zoo"],
        "canonicalize": [f"{folder}/zoo", "--out", f"{folder}/canonical"],
        "zoo verify": [f"{folder}/canonical"],
        "evaluate": [f"{folder}/canonical", "--json"],
        "train": [f"{folder}/canonical", "--out", f"{folder}/run"],
        "report": [f"{folder}/run", "--limit", "50", "-q"],
        "sample": [f"{folder}/run", "--prompts", str(prompts), "--count", "100", "--out", f"{folder}/nets", "--json"],
    }  # fmt: skip
    for name, settings in SETTINGS.items():
        every = [*settings, *(tasks if name == "zoo build" else [])]
        chosen[name] += [part for setting in every for part in ("--set", setting)]
    return chosen


def measured(name: str, arguments: list[str]) -> dict[str, Any]:
    """Seconds of a command, and the peak of its private memory."""
    command = [sys.executable, "-m", "weightflow", *name.split(), *arguments]
    begin, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            peak = max(peak, int(found[1]) if found else 0)
            time.sleep(0.02)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {said.read().decode()[-2000:]}")
    return {
        "command": name,
        "seconds": round(time.perf_counter() - begin, 1),
        "private_gib": round(peak / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="on a disk with room for the zoos; they do not stay")
    asked = parser.parse_args()
    begin, rows = time.perf_counter(), []
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    for networks in asked.networks:
        with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
            for name, arguments in commands(Path(temporary), networks).items():
                rows.append({"networks": networks, **measured(name, arguments)})
                print(rows[-1], flush=True)
    most = max(asked.networks)
    peaks = [row["private_gib"] for row in rows if row["networks"] == most]
    first = {row["command"]: row["private_gib"] for row in rows if row["networks"] == min(asked.networks)}
    growth = {r["command"]: r["private_gib"] / first[r["command"]] for r in rows if r["networks"] == most}
    aims = [
        aim(f"most private memory of a command on {most:,} networks, GiB", f"at most {MOST_GIB:g}", [max(peaks)], max(peaks) <= MOST_GIB),
        aim(f"the same over that on {min(asked.networks):,} networks, largest ratio", "at most 1.5", [max(growth.values())], max(growth.values()) <= 1.5),
    ]  # fmt: skip
    print(
        write_result(
            "large_zoos", size="paper", seeds=[0], seconds=time.perf_counter() - begin, rows=rows, aims=aims
        )
    )


if __name__ == "__main__":
    main()
