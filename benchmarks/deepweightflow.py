"""DeepWeightFlow (arXiv:2601.05052) on its own ground: originals against generated networks.

Iris MLPs from five initialisations, Fashion-MNIST MLPs; width 64 and 512 in principal components, width
64 in flat weights; networks as they are, permuted, permuted with balanced scales; the flow against
diffusion in one model; accuracy and overlap of wrong predictions against the scale s of the source. Its
architectures on CIFAR-10 at --size paper, where the data are at hand. At --size small training takes fewer
steps than the published 30,000: the rows say how many. Batch-norm statistics come from training images.

python -m benchmarks.deepweightflow --size small|paper --seeds 3 [--zoo FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from benchmarks.one_task import Population, built, fashion, trained
from canon.errors import InputError
from canon.matching.population import align_many
from weightflow import datasets
from weightflow.generator.decode import decode
from weightflow.generator.generator import Flow
from weightflow.zoo.store import Zoo, write_zoo

FRAMES = {"none": None, "permutation": False, "permutation and scale": True}
SCALES = (0.001, 0.01, 0.1, 1.0)
UNIT: dict[str, Any] = {
    "coordinates": {"scaled": True},
    "objective": {"predict": "clean", "source": 1.0, "jitter": 0.0},
    "sample": {"method": "euler", "steps": 8, "jump": True},
}
FLAT: dict[str, Any] = {"coordinates": {"kind": "tokens", "scaled": False}}
CIFAR = ("cifar10_cnn", "cifar10_resnet20", "cifar10_resnet18", "cifar10_vit")


@dataclass(frozen=True)
class Arm:
    """Changes to the preset, the frame of the zoo, and steps of training at the small size."""

    name: str
    frame: str
    steps: int
    changes: dict[str, Any]


def fashion_arms() -> list[Arm]:
    arms = [
        Arm(f"components, width {width}", frame, 3000, {"model": {"width": width}})
        for width in (64, 512)
        for frame in FRAMES
    ]
    arms += [Arm("flat, width 64", frame, 500, {**FLAT, "model": {"width": 64}}) for frame in FRAMES]
    best = "permutation and scale"
    diffusion = {**UNIT, "objective": {**UNIT["objective"], "path": "diffusion"}}
    arms.append(Arm("components, width 512, unit noise, flow", best, 3000, UNIT))
    arms.append(Arm("components, width 512, unit noise, diffusion", best, 3000, diffusion))
    return arms


def iris_arms() -> list[Arm]:
    """Published: raw flat weights, dropout 0.4."""
    own = {**FLAT, "model": {"width": 512, "dropout": 0.4}}
    return [Arm("flat, width 512", frame, 2000, own) for frame in FRAMES]


def framed(zoo: Zoo, frame: str, folder: Path) -> Zoo:
    """The zoo with its networks aligned, with or without balanced scales, or as they are."""
    balance = FRAMES[frame]
    if balance is None:
        return zoo
    out = folder / f"{zoo.path.name}-{frame.replace(' ', '-')}"
    if not (out / "zoo.json").exists():
        state = align_many(zoo.architecture.spec, zoo.load(), balance=balance).state
        kept = ("format", "shards", "records_sha256")
        header = {key: value for key, value in zoo.manifest.items() if key not in kept}
        write_zoo(out, header, state, zoo.records, 25)
    return Zoo(out)


@dataclass(frozen=True)
class Setting:
    """A zoo by name, and how it is used."""

    name: str
    population: Population
    small: bool

    def rows(self, arm: Arm, seed: int, folder: Path, scales: Sequence[float] = ()) -> list[dict[str, Any]]:
        """Train one arm; a row at its own source scale, and one for each other scale asked for."""
        zoo = framed(self.population.zoo, arm.frame, folder)
        changes = {**arm.changes, "seed": seed, **({"steps": arm.steps} if self.small else {})}
        run = folder / "-".join((self.name, arm.name, arm.frame, str(seed))).replace(" ", "-")
        flow, cost = trained(zoo, "deepweightflow", changes, run)
        own = flow.header.config.objective.source
        found = []
        for scale in dict.fromkeys((own, *scales)):
            row = self._row(flow, scale / own, seed)
            where = {"population": self.name, "generator": arm.name, "frame": arm.frame, "source": scale}
            found.append({**where, "own_source": scale == own, "seed": seed, **row, **cost})
        return found

    def _row(self, flow: Flow, stretch: float, seed: int) -> dict[str, Any]:
        prompts = self.population.prompts
        words = flow.prompts(prompts)
        begin = time.perf_counter()
        noise = stretch * flow.noise(self.population.seeds(seed), words.present)
        state = flow.with_statistics(decode(flow.coordinates, flow.tokens(words, noise), words), prompts)
        seconds = time.perf_counter() - begin
        predictions = self.population.evaluate_networks(state)
        return {
            **self.population.good(predictions),
            "wrong_iou": self.population.compared(predictions).wrong_iou,
            "wrong_iou_zoo": self.population.own.wrong_iou,
            "evaluations": flow.sampling.evaluations,
            "sample_seconds": round(seconds, 3),
        }


def cifar_rows(seed: int, folder: Path) -> list[dict[str, Any]]:
    """The four architectures on CIFAR-10, at paper size; a row with the reason where the data are missing."""
    rows = []
    for recipe in CIFAR:
        try:
            datasets.load("cifar10")
            setting = Setting(recipe, Population.of(built(recipe, folder), 100), False)
            arm = Arm("components, width 512", "permutation and scale", 0, {})
            rows += setting.rows(arm, seed, folder)
        except InputError as error:
            rows.append({"population": recipe, "accuracy": None, "reason": str(error).splitlines()[0]})
    return rows


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def share(generator: str, frame: str) -> list[float]:
        return [
            r["share_of_trained"]
            for r in rows
            if r["population"] == "fashion_mnist" and r["generator"] == generator and r["frame"] == frame and r["own_source"]
        ]  # fmt: skip

    best = share("flat, width 64", "permutation and scale")
    plain = share("flat, width 64", "none")
    name = "width 64, Fashion-MNIST, canonicalized: share of the zoo's accuracy"
    return [
        aim(name, "above 0.85 (published: 77.8 points)", best, min(best) > 0.85),
        aim("the same, networks as they are", "below canonicalized (published: 53.4)", plain, max(plain) < min(best)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--zoo", type=Path, help="a zoo of Fashion-MNIST MLPs that is not canonical")
    asked = parser.parse_args()
    begin, small, rows = time.perf_counter(), asked.size == "small", []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        iris = Population.of(built("iris", folder), 100)
        mlps = Population.of(Zoo(asked.zoo) if asked.zoo else fashion(folder, small), 40 if small else 100)
        settings = [
            (Setting("iris", iris, small), iris_arms()),
            (Setting("fashion_mnist", mlps, small), fashion_arms()),
        ]
        for seed in range(asked.seeds):
            for setting, arms in settings:
                for arm in arms:
                    swept = arm.name == "components, width 512" and arm.frame == "permutation and scale"
                    rows += setting.rows(arm, seed, folder, SCALES if swept else ())
                    print(rows[-1], flush=True)
            if not small:
                rows += cifar_rows(seed, folder)
    path = write_result(
        "deepweightflow",
        size=asked.size,
        seeds=range(asked.seeds),
        seconds=time.perf_counter() - begin,
        rows=rows,
        aims=aims(rows),
    )
    print(path)


if __name__ == "__main__":
    main()
