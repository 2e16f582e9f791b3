"""Large networks: is memory bounded by a shard? Fifty ViTs of 2.7 M parameters in less than 8 GB.

Freshly initialised networks serve: memory does not depend on what they can do. Every way of training runs
for a few steps in a process of its own, whose peak is read at its end.

python -m benchmarks.large [--size small|paper] [--networks 50]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import aim, write_result
from weightflow import datasets
from weightflow.batched.initialization import initialise
from weightflow.networks.architectures import Architecture
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.store import Record, Zoo, write_manifest, write_shard

SHARD = 5
STEPS = {"steps": 5, "evaluate_every": 5, "save_every": 5}
TOKENS = {"encoder": "none", "drop_prompt": 0.0, "layout": "blocks", "chunk": 16384, "batch_size": 4, "behaviour": {"weight": 0.0}}  # fmt: skip
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "components": ("deepweightflow", {}),
    "larger tokens": ("weightflow", TOKENS),
    "larger tokens, bfloat16": ("weightflow", {**TOKENS, "precision": "bfloat16"}),
}


def architecture(size: str) -> Architecture:
    width, depth, heads = (48, 2, 3) if size == "small" else (192, 6, 3)
    arguments = {"size": 32, "patch": 4, "width": width, "depth": depth, "heads": heads}
    return Architecture("vit", arguments, (3, 32, 32), 10)


def population(folder: Path, size: str, networks: int) -> None:
    """A zoo of freshly initialised networks; the data set lends the names of ten classes."""
    made, names = architecture(size), datasets.load("digits").class_names
    shards = range(0, networks, SHARD)
    for index, first in enumerate(shards):
        seeds = range(first, min(first + SHARD, networks))
        records = [Record(f"n{s:06d}", s, "digits", "seen", names, "independent") for s in seeds]
        write_shard(folder, index, initialise(made, list(seeds)), records)
    header = {"architecture": made.to_dict(), "dataset": "digits", "lineage": "independent", "recipe": {}}
    write_manifest(folder, header, len(shards))


def measure(way: str, zoo: Path, run: Path) -> dict[str, Any]:
    """A few steps in this process: seconds and the peak of its memory (kilobytes on Linux)."""
    preset, changes = WAYS[way]
    before, opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Zoo(zoo)
    begin = time.perf_counter()
    trainer = start(opened, read_preset(preset, {**changes, **STEPS}), run)
    ready = time.perf_counter()
    ticks = [ready]
    trainer.run(on_step=lambda steps, note: ticks.append(time.perf_counter()))
    took = [after - before for before, after in pairwise(ticks)]
    step = median(took[1:-1])  # the first makes the optimizer's state, the last evaluates and saves
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "way": way,
        "networks": len(opened),
        "parameters": opened.architecture.parameters,
        "zoo_gib": round(len(opened) * opened.architecture.parameters * 4 / 2**30, 3),
        "generator_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seconds_to_begin": round(ready - begin, 1),
        "seconds_a_step": round(step, 3),
        "seconds_to_evaluate_and_save": round(took[-1] - step, 3),
        "peak_gib": round(peak / 2**20, 3),
        "before_gib": round(before / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "paper"), default="paper")
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "ZOO", "RUN"), help="one way, in this process")
    asked = parser.parse_args()
    if asked.measure:
        way, zoo, run = asked.measure
        print(json.dumps(measure(way, Path(zoo), Path(run))))
        return
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        population(folder / "zoo", asked.size, asked.networks)
        for number, way in enumerate(WAYS):
            command = [sys.executable, "-m", "benchmarks.large", "--measure", way]
            command += [str(folder / "zoo"), str(folder / f"run{number}")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
    name = (
        f"peak memory of training on {asked.networks} networks of {rows[0]['parameters']:,} parameters, GiB"
    )
    peaks, tokens = [row["peak_gib"] for row in rows], rows[list(WAYS).index("larger tokens")]
    begun, step = tokens["seconds_to_begin"], tokens["seconds_a_step"]
    path = write_result(
        "large",
        size=asked.size,
        seeds=[0],
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=[
            aim(name, "at most 8, whichever way", [max(peaks)], max(peaks) <= 8),
            aim("larger tokens: seconds to begin", "at most 10", [begun], begun <= 10),
            aim("larger tokens: seconds a step", "at most 2", [step], step <= 2),
        ],
    )
    print(path)


if __name__ == "__main__":
    main()
