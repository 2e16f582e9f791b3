"""Text2Weight on adapters, one part changed at a time, beside ours and beside what is trivial.

python -m benchmarks.t2w --zoo FOLDER [--size small|paper] [--seeds 3]

Units stay in place but in the variants that say otherwise, at the paper's size too.

FOLDER is a zoo of adapters that are compared with CLIP text vectors: `weightflow zoo build t2w_adapter`.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import aim, effect, write_result
from canon.errors import InputError
from weightflow import datasets
from weightflow.config import SMALL
from weightflow.evaluation.baselines import answer
from weightflow.evaluation.chance import chance
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.networks.readout import Cosine
from weightflow.report.baselines import baseline_results
from weightflow.report.generated import generate
from weightflow.report.novelty import rms_ratio
from weightflow.training.config import TrainConfig
from weightflow.training.presets import built_in, read_preset
from weightflow.training.trainer import start
from weightflow.zoo.canonicalize import canonicalize_zoo, is_canonical
from weightflow.zoo.store import Zoo

SPLITS = ("seen", "unseen_combinations", "unseen_classes")
LIMIT = 40


@dataclass(frozen=True)
class Variant:
    """A preset and what is changed in it; `words` names the text encoder: that of the zoo, or another."""

    changes: dict[str, Any] = field(default_factory=dict)
    preset: str = "t2w"
    words: str = "clip"


def variant(
    weight: float = 0.01,
    equivariance: float | None = None,
    conditioning: str = "prior_attention",
    words: str = "clip",
    centred: bool = True,
) -> Variant:
    """Text2Weight with adversarial weight lambda and so on; a number for `equivariance`: units are permuted."""
    augment = {"permute_units": equivariance is not None, "equivariance": equivariance or 0.0}
    changes = {
        "adversary": {"weight": weight},
        "augment": augment,
        "model": {"conditioning": conditioning, "centred": centred},
    }
    return Variant(changes, words=words)


VARIANTS = {
    "t2w": variant(),
    "lambda 0": variant(0.0),
    "lambda 0.1": variant(0.1),
    "lambda 1": variant(1.0),
    "class tokens": variant(conditioning="classes"),
    "words not centred": variant(centred=False),
    "static word vectors": variant(words="wordllama"),
    "random vectors": variant(words="random"),
    "units permuted": variant(equivariance=0.0),
    "units permuted, equivariance": variant(equivariance=0.1),
    "weightflow": Variant(preset="weightflow"),
}
# The effect of each part: the variant with it, the one without.
EFFECTS = {
    "adversarial training, lambda 0.01": ("t2w", "lambda 0"),
    "adversarial training, lambda 0.1": ("lambda 0.1", "lambda 0"),
    "adversarial training, lambda 1": ("lambda 1", "lambda 0"),
    "permutation augmentation": ("units permuted", "t2w"),
    "equivariance term": ("units permuted, equivariance", "units permuted"),
    "class tokens instead of prior attention": ("class tokens", "t2w"),
    "centred words": ("t2w", "words not centred"),
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


def settings(chosen: Variant, words: dict[str, str], steps: int | None, seed: int) -> TrainConfig:
    """At the small size all variants take as many `steps`; at the paper's, their presets say how many."""
    changes = {"seed": seed, "encoder": words[chosen.words], **chosen.changes}
    if steps is None:
        return read_preset(chosen.preset, changes)
    changes |= {"steps": steps, "evaluate_every": max(steps // 5, 1), "save_every": steps}
    small = chosen.preset + SMALL
    if small in built_in():
        return read_preset(small, changes)
    # ours has no small size: as many networks a step as the others have
    return read_preset(chosen.preset, {"batch_size": 16, "behaviour": {"images": 32}, **changes})


def measure(
    name: str, zoo: Zoo, words: dict[str, str], steps: int | None, seed: int, folder: Path
) -> dict[str, Any]:
    """Train one variant, generate for tasks of every split, and judge on test images."""
    config, begin = settings(VARIANTS[name], words, steps, seed), time.perf_counter()
    run = folder / f"{seed}-{name.replace(' ', '-')}"
    done = start(zoo, config, run).run()
    seconds = time.perf_counter() - begin
    context = open_context(run)
    return {
        "variant": name,
        "seed": seed,
        "training_seconds": round(seconds, 1),
        "steps": done.step,
        "best_step": done.best_step,
        "evaluations": context.config.evaluations,
        **{split: figures(context, split, seed) for split in SPLITS if zoo.rows(split)},
    }


def figures(context: EvaluationContext, split: str, seed: int) -> dict[str, Any]:
    made = generate(context, split, seed, LIMIT)
    shuffled = answer(context, "shuffled_prompt", made.tasks, seed)
    return {
        "accuracy": float(made.predictions.accuracy.mean()),
        "trained": float(made.trained.accuracy.mean()),
        "shuffled_prompt": float(
            evaluate_networks(context.zoo.architecture, shuffled, made.tasks).accuracy.mean()
        ),
        "rms_ratio": rms_ratio(context, made.state, made.tasks),
        "nearest_distance_ratio": None if made.ratios is None else float(made.ratios.mean()),
    }


def trivial(run: Path, seed: int) -> list[dict[str, Any]]:
    """Every baseline of the report, and chance, on every split; a text says why one does not apply."""
    context, rows = open_context(run), []
    for split in (split for split in SPLITS if context.zoo.rows(split)):
        tasks = context.tasks_of(context.zoo.rows(split)[:LIMIT])
        found = {
            name: o.reason if o.accuracy is None else float(o.accuracy.mean())
            for name, o in baseline_results(context, tasks, seed).items()
        }
        rows.append({"baselines": split, "seed": seed, "chance": chance(tasks), **found})
    return rows


def values(
    rows: list[dict[str, Any]], name: str, split: str = "unseen_combinations", key: str = "accuracy"
) -> list[float]:
    return [r[split][key] for r in rows if r.get("variant") == name]


def less(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def effects(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each part changes on unseen combinations."""
    return [
        effect(f"{part}, points of 1", less(values(rows, a), values(rows, b)))
        for part, (a, b) in EFFECTS.items()
    ]


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    of = partial(values, rows)
    share = [x / y for x, y in zip(of("t2w"), of("t2w", key="trained"), strict=True)]
    found = [aim("t2w over trained, unseen combinations", "at least 0.97", share, min(share) >= 0.97)]
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
    parser.add_argument("--steps", type=int, default=600, help="steps of training at the small size")
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
            rows += trivial(folder / f"{seed}-t2w", seed)
    path = write_result(
        "t2w",
        size=asked.size if steps is None else f"{asked.size}, {steps} steps",
        seeds=range(asked.seeds),
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=aims(rows),
        effects=effects(rows),
    )
    print(path)


if __name__ == "__main__":
    main()
