"""Text2Weight on adapters, one part changed at a time, beside ours and beside what is trivial.

python -m benchmarks.t2w --zoo FOLDER [--size small|paper] [--seeds 3]

FOLDER is a zoo of adapters that are compared with CLIP text vectors: `weightflow zoo build t2w_adapter`.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import aim, write_result
from canon.errors import InputError
from weightflow import datasets
from weightflow.baselines import BASELINES, Known
from weightflow.canonicalize import canonicalize_zoo, is_canonical
from weightflow.config import SMALL
from weightflow.evaluate import chance, judge
from weightflow.novelty import nearest_distances, root_mean_square
from weightflow.presets import built_in, read_preset
from weightflow.readout import Cosine
from weightflow.sample import Flow
from weightflow.text import Prompt
from weightflow.train import start
from weightflow.trainconfig import TrainConfig
from weightflow.zoo.logits import State
from weightflow.zoo.store import Zoo
from weightflow.zoo.tasks import Task

SPLITS = ("seen", "unseen_combinations", "unseen_classes")
LIMIT = 60


@dataclass(frozen=True)
class Variant:
    """A preset and what is changed in it; `words` names the text encoder: that of the zoo, or another."""

    changes: dict[str, Any] = field(default_factory=dict)
    preset: str = "t2w"
    words: str = "clip"


def weight(value: float) -> Variant:
    return Variant({"adversary": {"weight": value}})


VARIANTS = {
    "t2w": Variant(),
    "lambda 0": weight(0.0),
    "lambda 0.001": weight(0.001),
    "lambda 0.1": weight(0.1),
    "lambda 1": weight(1.0),
    "no equivariance": Variant({"augment": {"equivariance": 0.0}}),
    "units in place": Variant({"augment": {"permute_units": False, "equivariance": 0.0}}),
    "units in place, lambda 0": Variant(
        {"augment": {"permute_units": False, "equivariance": 0.0}, "adversary": {"weight": 0.0}}
    ),
    "class tokens": Variant({"model": {"conditioning": "classes"}}),
    "static word vectors": Variant(words="wordllama"),
    "random vectors": Variant(words="random"),
    "weightflow": Variant(preset="weightflow"),
}
# The effect of each part: the variant with it, the one without.
EFFECTS = {
    "adversarial training, lambda 0.01": ("t2w", "lambda 0"),
    "adversarial training, lambda 0.1": ("lambda 0.1", "lambda 0"),
    "adversarial training, lambda 1": ("lambda 1", "lambda 0"),
    "permutation augmentation and equivariance": ("t2w", "units in place"),
    "equivariance term": ("t2w", "no equivariance"),
    "class tokens instead of prior attention": ("class tokens", "t2w"),
    "CLIP vectors instead of static word vectors": ("t2w", "static word vectors"),
    "CLIP vectors instead of random ones": ("t2w", "random vectors"),
}


def encoders(zoo: Zoo, folder: Path) -> dict[str, str]:
    """The text encoders by the names that variants use; random vectors are as wide as CLIP's."""
    readout = zoo.architecture.readout
    if not isinstance(readout, Cosine):
        raise InputError(
            f"{zoo.path} holds networks with logits; give adapters: weightflow zoo build t2w_adapter"
        )
    names = datasets.load(zoo.dataset).class_names
    seeds = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in names]
    vectors = [np.random.default_rng(seed).standard_normal(512).astype(np.float32) for seed in seeds]
    np.savez(folder / "random.npz", names=np.array(names), embeddings=np.stack(vectors))
    return {"clip": readout.encoder, "wordllama": "wordllama", "random": f"table:{folder / 'random.npz'}"}


def tasks_of(zoo: Zoo, split: str) -> list[Task]:
    return [zoo.records[i].task for i in zoo.rows(split)[:LIMIT]]


def accuracy(zoo: Zoo, state: State, tasks: list[Task]) -> float:
    return float(judge(zoo.architecture, state, tasks).accuracy.mean())


def settings(variant: Variant, words: dict[str, str], steps: int | None, seed: int) -> TrainConfig:
    """At the small size all variants take as many `steps`; at the paper's, their presets say how many."""
    changes = {"seed": seed, "encoder": words[variant.words], **variant.changes}
    if steps is None:
        return read_preset(variant.preset, changes)
    changes |= {"steps": steps, "evaluate_every": max(steps // 5, 1), "save_every": steps}
    small = variant.preset + SMALL
    return read_preset(small if small in built_in() else variant.preset, changes)


def measure(
    name: str, zoo: Zoo, words: dict[str, str], steps: int | None, seed: int, folder: Path
) -> dict[str, Any]:
    """Train one variant, generate for tasks of every split, and judge on test images."""
    config, begin = settings(VARIANTS[name], words, steps, seed), time.perf_counter()
    run = folder / f"{seed}-{name.replace(' ', '-')}"
    done = start(zoo, config, run).run()
    seconds = time.perf_counter() - begin
    known = Known(Flow(run), zoo)
    return {
        "variant": name,
        "seed": seed,
        "training_seconds": round(seconds, 1),
        "steps": done.step,
        "best_step": done.best_step,
        "evaluations": known.flow.sampling.evaluations,
        **{split: figures(known, split, seed) for split in SPLITS if zoo.rows(split)},
    }


def figures(known: Known, split: str, seed: int) -> dict[str, Any]:
    zoo, tasks = known.zoo, tasks_of(known.zoo, split)
    state = known.flow.sample([Prompt(task.classes) for task in tasks], range(seed, seed + len(tasks)))
    return {
        "accuracy": accuracy(zoo, state, tasks),
        "trained": accuracy(zoo, zoo.load(zoo.rows(split)[:LIMIT]), tasks),
        "shuffled_prompt": accuracy(zoo, BASELINES["shuffled_prompt"](known, tasks, seed), tasks),
        "rms_ratio": rms_ratio(known, state, tasks),
        "nearest_distance_ratio": float(nearest_distances(known, state, tasks).ratios.mean()),
    }


def rms_ratio(known: Known, state: State, tasks: list[Task]) -> float:
    """Root mean square of generated networks over that of the zoo, in the coordinates of the flow."""
    z = known.flow.coordinates

    def rms(networks: State, of: list[Task]) -> float:
        present = known.flow.prompts([Prompt(task.classes) for task in of]).present
        return root_mean_square(z.encode(networks, present), z.used(present))

    return rms(state, tasks) / rms(known.state, known.tasks)


def trivial(zoo: Zoo, run: Path, seed: int) -> list[dict[str, Any]]:
    """Every baseline of the report, and chance, on every split."""
    known, rows = Known(Flow(run), zoo), []
    for split in (split for split in SPLITS if zoo.rows(split)):
        tasks = tasks_of(zoo, split)
        found = {name: accuracy(zoo, make(known, tasks, seed), tasks) for name, make in BASELINES.items()}
        rows.append({"baselines": split, "seed": seed, "chance": chance(tasks), **found})
    return rows


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def of(name: str, split: str = "unseen_combinations", key: str = "accuracy") -> list[float]:
        return [r[split][key] for r in rows if r.get("variant") == name]

    def less(a: list[float], b: list[float]) -> list[float]:
        return [x - y for x, y in zip(a, b, strict=True)]

    found = [
        aim(f"effect of {part}, points of 1", "shown with its interval", less(of(a), of(b)), True)
        for part, (a, b) in EFFECTS.items()
    ]
    share = [x / y for x, y in zip(of("t2w"), of("t2w", key="trained"), strict=True)]
    found.append(aim("t2w over trained, unseen combinations", "at least 0.97", share, min(share) >= 0.97))
    gap = less(of("t2w"), of("t2w", "seen"))
    found.append(aim("t2w, unseen less seen combinations", "at least 0 (its claim)", gap, min(gap) >= 0))
    text = less(of("t2w"), of("t2w", key="shuffled_prompt"))
    found.append(aim("t2w less its answer to another task's prompt", "above 0", text, min(text) > 0))
    ours = less(of("weightflow"), of("t2w"))
    return [*found, aim("weightflow less t2w, unseen combinations", "above 0", ours, min(ours) > 0)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True, help="folder of a zoo of adapters")
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--steps", type=int, default=400, help="steps of training at the small size")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder, zoo = Path(temporary), Zoo(asked.zoo)
        if not is_canonical(zoo):
            canonicalize_zoo(zoo, folder / "canonical")
            zoo = Zoo(folder / "canonical")
        words, steps = encoders(zoo, folder), asked.steps if asked.size == "small" else None
        for seed in range(asked.seeds):
            for name in VARIANTS:
                rows.append(measure(name, zoo, words, steps, seed, folder))
                print(
                    {k: v for k, v in rows[-1].items() if k not in SPLITS},
                    *map(rows[-1].get, SPLITS),
                    flush=True,
                )
            rows += trivial(zoo, folder / f"{seed}-t2w", seed)
    path = write_result(
        "t2w",
        size=asked.size if steps is None else f"{asked.size}, {steps} steps",
        seeds=range(asked.seeds),
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=aims(rows),
    )
    print(path)


if __name__ == "__main__":
    main()
