"""Convolutional specialists: 213 parameters for three to five of ten kinds of clothing (recipe `specialists_cnn`).

The same questions as in `benchmarks.specialists`, of networks that read pictures themselves.

python -m benchmarks.specialists_cnn --zoo zoos/specialists_cnn-canonical

A zoo that is not given is built and aligned in --folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.specialists import OURS, least, measure, trivial, zoo_of

RECIPE = "specialists_cnn"


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours = [r for r in rows if r["table"] == "accuracy"]
    spread = [
        r for r in rows if (r["table"], r["variant"], r.get("noise")) == ("diversity", OURS, r.get("default"))
    ]
    trained = [r for r in rows if r["table"] == "diversity" and r["variant"] == "trained"]
    pairs = list(zip(spread, trained, strict=True))
    return [
        least("trained on the task less the generalist, points", 4,
              lambda r: 100 * (r["trained"] - r["baselines"]["generalist"]), ours),
        least("accuracy over trained, unseen combinations", 0.98, lambda r: r["accuracy"] / r["trained"], ours),
        least("less the generalist, points", 3, lambda r: 100 * (r["accuracy"] - r["baselines"]["generalist"]), ours),
        least("less the best trivial baseline, points", 0, lambda r: 100 * (r["accuracy"] - trivial(r)), ours),
        least("less the hypernetwork, points", 0, lambda r: 100 * (r["accuracy"] - r["baselines"]["hypernetwork"]), ours),
        least("disagreement of eight over that of eight trained", 0.7,
              lambda p: p[0]["disagreement"] / p[1]["disagreement"], pairs),
        least("ensemble of eight less eight trained, points", -1, lambda p: 100 * (p[0]["ensemble"] - p[1]["ensemble"]), pairs),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    parser.add_argument("--zoo", type=Path, help="a canonical zoo of the recipe")
    parser.add_argument("--folder", type=Path, help="where zoo and runs go; by default they do not stay")
    options = parser.parse_args(namespace=argparse.Namespace(size="small", variants=[OURS]))
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        for row in measure(zoo_of(options, RECIPE, {}), options):
            rows.append(row)
            print(row, flush=True)
    seconds = time.perf_counter() - begin
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(write_result(RECIPE, size="small", seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows)))


if __name__ == "__main__":
    main()
