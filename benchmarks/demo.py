"""The demo, start to end in a fresh process, for several seeds: does it reach its aims?

python -m benchmarks.demo [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from weightflow.evaluation.baselines import BASELINES

# no trivial ways to have a network
OURS_OR_TRAINED = ("shuffled_prompt", "random_text", "generalist", "hypernetwork")


def run_once(seed: int, folder: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    out = folder / f"demo{seed}"
    command = [sys.executable, "-m", "weightflow.cli.main", "demo", "--out", str(out), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    return {"seed": seed, "seconds": seconds, "report": json.loads((out / "run" / "report.json").read_text())}


def row(found: dict[str, Any]) -> dict[str, Any]:
    report = found["report"]
    unseen, speed = report["splits"]["unseen_combinations"], report["speed"]
    return {
        "seed": found["seed"],
        "seconds": round(found["seconds"], 1),
        "generated": unseen["accuracy"]["mean"],
        "trained": unseen["trained"]["mean"],
        "chance": unseen["chance"],
        "seen": report["splits"]["seen"]["accuracy"]["mean"],
        **{name: value["mean"] for name, value in unseen["baselines"].items()},
        "nearest_distance_ratio": report["novelty"]["nearest_distance_ratio"],
        "wrong_iou_generated": report["novelty"]["max_wrong_iou"]["generated"],
        "wrong_iou_zoo": report["novelty"]["max_wrong_iou"]["zoo"],
        "novel_and_good": report["novelty"]["novel_and_good"]["1"],
        "rms_ratio": report["novelty"]["rms_ratio"],
        "seconds_for_100": round(speed["sample_seconds"] + speed["decode_seconds"], 4),
        "solvers": report["solvers"],
        "diversity": report["diversity"],
    }


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def values(of: Any) -> list[float]:
        return [of(r) for r in rows]

    share = values(lambda r: r["generated"] / r["trained"])
    found = [aim("accuracy over trained, unseen combinations", "at least 0.95", share, min(share) >= 0.95)]
    for name in ("nearest_prompt", "zoo_mean", "shuffled_prompt", "nearest_rows", "zoo_mean_rows", "soup_16"):
        gap = values(lambda r, name=name: r["generated"] - r[name])
        found.append(aim(f"generated less {name}, points of 1", "at least 0.10", gap, min(gap) >= 0.10))
    trivial = [n for n, v in rows[0].items() if n in BASELINES and n not in OURS_OR_TRAINED and v is not None]
    gap = values(lambda r: 100 * (r["generated"] - max(r[n] for n in trivial)))
    found.append(aim("generated less the best trivial baseline, points", "at least 3", gap, min(gap) >= 3))
    for name in ("generalist", "hypernetwork"):
        gap = values(lambda r, name=name: 100 * (r["generated"] - r[name]))
        found.append(aim(f"generated less {name}, points", "at least 0", gap, min(gap) >= 0))
    spread = values(lambda r: r["diversity"]["ratio"])
    found.append(
        aim("disagreement of one prompt's networks over trained", "at least 0.5", spread, min(spread) >= 0.5)
    )
    rms = values(lambda r: r["rms_ratio"])
    found.append(aim("root-mean-square ratio", "0.8 to 1.2", rms, 0.8 <= min(rms) <= max(rms) <= 1.2))
    speed = values(lambda r: r["seconds_for_100"])
    found.append(aim("seconds to sample and decode 100 networks", "below 1", speed, max(speed) < 1))
    whole = values(lambda r: r["seconds"])
    found.append(aim("seconds for the whole demo", "at most 360", whole, max(whole) <= 360))
    # kilobytes on Linux; the largest of all the demo's processes
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    found.append(aim("peak memory, GiB", "at most 4", [memory], memory <= 4))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    seeds = range(parser.parse_args().seeds)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(run_once(seed, Path(folder))) for seed in seeds]
    path = write_result(
        "demo", size="full", seeds=seeds, seconds=time.perf_counter() - begin, rows=rows, aims=aims(rows)
    )
    print(path)


if __name__ == "__main__":
    main()
