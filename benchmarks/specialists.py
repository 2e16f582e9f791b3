"""Specialists: networks too small for everything, made from words; accurate, new and different at once?

Heads of four hidden units for ten of 57 known classes (recipe `specialists`). Each generator is asked for networks
of combinations that it never saw, beside networks trained on the very tasks, one network for all classes, a
hypernetwork and all trivial baselines; then for eight networks of one prompt, beside eight trained from independent
seeds; then by other numbers of steps and another solver. The scale of the noise is chosen first, on validation
combinations and validation images: of those at which two networks of a prompt differ at least three quarters as much
as two trained ones, and one network is at least 1.03 times as accurate as a trained one, that whose eight networks are
the best together.

python -m benchmarks.specialists --zoo zoos/specialists-canonical --encoder table:vectors.npz

A zoo that is not given is built and aligned in --folder: that needs --images and --backbone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import aim, write_result
from benchmarks.runs import unseen_tasks
from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.data.types import Split
from weightflow.evaluation.baselines import BASELINES, Inapplicable, answer
from weightflow.evaluation.chance import chance
from weightflow.evaluation.context import EvaluationContext, open_context
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.evaluation.novelty import nearest_distances
from weightflow.report.diversity import measure_diversity, train_alike
from weightflow.text import Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

OURS, ACCURATE, PLAIN = (
    "weightflow",
    "cross-entropy of sampled networks alone",
    "predictions of the flow alone",
)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("specialists", {}),
    ACCURATE: ("weightflow", {"behaviour": {"sampled": 0.5, "weight": 3.0}}),
    PLAIN: ("weightflow", {}),
}
SOLVERS = {"euler 1": ("euler", 1), "euler 4": ("euler", 4), "euler 8": ("euler", 8), "rk4 3": ("rk4", 3)}
# scales of the noise at the start; the generator is trained with 1
NOISE = (0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 1.0)
# of the disagreement and of the accuracy of trained networks, on validation images, that the scale is chosen by; the
# aims are 0.7 and 1.03 on test
WANTED_DISAGREEMENT, WANTED_ACCURACY = 0.75, 1.03
STEPS = {"small": 3000, "paper": 10_000}
TASKS, GROUPS = {"small": 100, "paper": 200}, {"small": 16, "paper": 40}
# trivial ways to have a network: retrieval, means, noise, regression; not our own generator with other words
NOT_TRIVIAL = ("generalist", "hypernetwork", "shuffled_prompt", "random_text")


def trained_generator(
    zoo: Zoo, variant: str, seed: int, options: argparse.Namespace
) -> tuple[EvaluationContext, float]:
    steps = options.steps or STEPS[options.size]
    changes = {
        "seed": seed, "encoder": options.encoder, "steps": steps, "evaluate_every": 250, "save_every": steps,
        "learning_rate": 2e-3, "model": {"centred": True},
    }  # fmt: skip
    preset, others = VARIANTS[variant]
    folder = Path(tempfile.mkdtemp(dir=options.folder)) / "run"
    begin = time.perf_counter()
    start(zoo, read_preset(preset, {**changes, **others}), folder).run()
    return open_context(folder), time.perf_counter() - begin


def accuracy_row(
    context: EvaluationContext, who: dict[str, Any], tasks: Sequence[Task], beside: bool
) -> dict[str, Any]:
    """Accuracy on unseen combinations, by each solver; with all baselines where they are asked for."""
    seed, architecture = who["seed"], context.zoo.architecture
    prompts, seeds = [Prompt(t.classes) for t in tasks], range(seed, seed + len(tasks))
    found: dict[str, Any] = {}
    for name, (method, steps) in SOLVERS.items():
        config = replace(context.config, method=method, steps=steps)
        state = context.flow.sample_states(prompts, seeds, config)
        found[name] = float(evaluate_networks(architecture, state, tasks).accuracy.mean())
    made = context.flow.sample_states(prompts, seeds, context.config)
    row = {
        **who, "table": "accuracy", "networks": len(tasks), "chance": chance(tasks), "solvers": found,
        "without_noise": without_noise(context, tasks, seed),
        "accuracy": float(evaluate_networks(architecture, made, tasks).accuracy.mean()),
        "nearest_distance_ratio": float(nearest_distances(context, made, tasks).ratios.mean()),
    }  # fmt: skip
    if beside:
        row["baselines"] = dict(measure_baselines(context, tasks, seed))
    return row


def without_noise(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> float:
    """Accuracy of the one network of each prompt that the generator makes of no noise, as a hypernetwork does."""
    prompts, config = [Prompt(task.classes) for task in tasks], replace(context.config, noise=0.0)
    made = context.flow.sample_states(prompts, range(seed, seed + len(tasks)), config)
    return float(evaluate_networks(context.zoo.architecture, made, tasks).accuracy.mean())


def measure_baselines(
    context: EvaluationContext, tasks: Sequence[Task], seed: int, leave_out: Sequence[str] = ()
) -> Iterator[tuple[str, float | None]]:
    for name in (name for name in BASELINES if name not in leave_out):
        try:
            state = answer(context, name, tasks, seed)
        except Inapplicable:
            yield name, None
            continue
        yield name, float(evaluate_networks(context.zoo.architecture, state, tasks).accuracy.mean())


def trained_accuracy(context: EvaluationContext, tasks: Sequence[Task]) -> float:
    """Of the zoo's own networks for these combinations, which no generator has seen."""
    rows = {record.classes: i for i, record in enumerate(context.zoo.records)}
    state = context.zoo.load([rows[task.classes] for task in tasks])
    return float(evaluate_networks(context.zoo.architecture, state, tasks).accuracy.mean())


def diversity_row(
    context: EvaluationContext, who: dict[str, Any], tasks: Sequence[Task], noise: float
) -> dict[str, Any]:
    """Of eight networks a prompt; `noise` scales the noise that they are made of."""
    state = eight_of_each(context, tasks, noise, who["seed"])
    who = {**who, "table": "diversity", "noise": noise, "default": context.config.noise}
    return {**who, **_means(context, state, tasks)}


def eight_of_each(context: EvaluationContext, tasks: Sequence[Task], noise: float, seed: int) -> StateDict:
    prompts = [Prompt(task.classes) for task in tasks for _ in range(8)]
    seeds = range(1000 * (seed + 1), 1000 * (seed + 1) + len(prompts))
    return context.flow.sample_states(prompts, seeds, replace(context.config, noise=noise))


def noise_rows(context: EvaluationContext, who: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Diversity on validation combinations and images by the scale of the noise, and which one is chosen."""
    tasks = list(
        {frozenset(t.classes): t for t in context.tasks_of(context.zoo.rows("validation"))}.values()
    )[:count]
    images, who = context.data.validation, {**who, "table": "noise, validation images"}
    rows = [
        {**who, "noise": n, **_means(context, eight_of_each(context, tasks, n, who["seed"]), tasks, images)}
        for n in NOISE
    ]
    trained = _means(context, train_alike(context, tasks), tasks, images)
    differing = [r for r in rows if r["disagreement"] >= WANTED_DISAGREEMENT * trained["disagreement"]]
    accurate = [r for r in differing if r["one"] >= WANTED_ACCURACY * trained["one"]]
    chosen = (
        max(accurate, key=lambda r: r["ensemble"])["noise"] if accurate else (differing or rows)[0]["noise"]
    )
    beside = {**who, "variant": "trained", "noise": None, **trained}
    return [{**r, "chosen": r["noise"] == chosen} for r in rows] + [{**beside, "chosen": False}]


def _means(
    context: EvaluationContext, state: StateDict, tasks: Sequence[Task], split: Split | None = None
) -> dict[str, Any]:
    figures = measure_diversity(context, state, tasks, split).to_dict()
    return {"tasks": len(tasks), **{name: figure["mean"] for name, figure in figures.items()}}


def measure(zoo: Zoo, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for variant in options.variants:
            known, seconds = trained_generator(zoo, variant, seed, options)
            tasks = unseen_tasks(known, seed, TASKS[options.size])
            who = {"variant": variant, "seed": seed}
            if variant == OURS:
                tried = noise_rows(known, who, GROUPS[options.size])
                yield from tried
                noise = next(r["noise"] for r in tried if r["chosen"])
                known = replace(known, config=replace(known.config, noise=noise))
            row = accuracy_row(known, who, tasks, beside=variant == OURS)
            yield {**row, "trained": trained_accuracy(known, tasks), "training_seconds": round(seconds, 1)}
            groups = tasks[: GROUPS[options.size]]
            for scale in NOISE if variant == OURS else NOISE[-1:]:
                yield diversity_row(known, who, groups, scale)
            if variant == OURS:
                trained = _means(known, train_alike(known, groups), groups)
                yield {"variant": "trained", "seed": seed, "table": "diversity", **trained}
                one = answer(known, "hypernetwork", groups, seed)
                accuracy = float(evaluate_networks(zoo.architecture, one, groups).accuracy.mean())
                yield {"variant": "hypernetwork", "seed": seed, "table": "diversity", "one": accuracy}


def least(name: str, wanted: float, of: Callable[[Any], float], of_rows: Sequence[Any]) -> dict[str, Any]:
    """An aim that the mean over seeds is at least `wanted`."""
    values = [of(r) for r in of_rows]
    return aim(name, f"at least {wanted}", values, sum(values) / len(values) >= wanted)


def trivial(row: dict[str, Any]) -> float:
    """The accuracy of the best trivial baseline."""
    return max(v for n, v in row["baselines"].items() if v is not None and n not in NOT_TRIVIAL)


def aims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours = [r for r in rows if r["table"] == "accuracy" and r["variant"] == OURS]
    spread = [
        r for r in rows if (r["table"], r["variant"], r.get("noise")) == ("diversity", OURS, r.get("default"))
    ]
    trained, hypernetwork = (
        [r for r in rows if r["table"] == "diversity" and r["variant"] == variant]
        for variant in ("trained", "hypernetwork")
    )

    def within(name: str, a: str, b: str) -> dict[str, Any]:
        values = [100 * (r["solvers"][a] - r["solvers"][b]) for r in ours]
        return aim(name, "within 0.5", values, abs(sum(values) / len(values)) <= 0.5)

    pairs = list(zip(spread, trained, strict=True))
    return [
        least("accuracy over trained, unseen combinations", 1.03, lambda r: r["accuracy"] / r["trained"], ours),
        least("less the generalist, points", 8, lambda r: 100 * (r["accuracy"] - r["baselines"]["generalist"]), ours),
        least("less the best trivial baseline, points", 20, lambda r: 100 * (r["accuracy"] - trivial(r)), ours),
        least("less the hypernetwork, points", 0, lambda r: 100 * (r["accuracy"] - r["baselines"]["hypernetwork"]), ours),
        least("without noise, less the hypernetwork, points", 0,
              lambda r: 100 * (r["without_noise"] - r["baselines"]["hypernetwork"]), ours),
        least("ensemble of eight less the hypernetwork, points", 0, lambda p: 100 * (p[0]["ensemble"] - p[1]["one"]),
              list(zip(spread, hypernetwork, strict=True))),
        within("one evaluation less four, points", "euler 1", "euler 4"),
        within("RK4 of 3 steps less Euler of 4, points", "rk4 3", "euler 4"),
        least("one of eight over one of eight trained, accuracy", 0.98, lambda p: p[0]["one"] / p[1]["one"], pairs),
        least("disagreement of eight over that of eight trained", 0.7,
              lambda p: p[0]["disagreement"] / p[1]["disagreement"], pairs),
        least("ensemble of eight less one, points", 6, lambda r: 100 * r["gain"], spread),
        least("ensemble of eight less eight trained, points", -1, lambda p: 100 * (p[0]["ensemble"] - p[1]["ensemble"]), pairs),
    ]  # fmt: skip


def zoo_of(options: argparse.Namespace, recipe: str, changes: dict[str, Any]) -> Zoo:
    """The canonical zoo that was given, or that of a recipe, built in the folder."""
    if options.zoo:
        return Zoo(options.zoo)
    built, aligned = options.folder / recipe, options.folder / f"{recipe}-canonical"
    build_zoo(read_recipe(recipe, changes), built)
    if not (aligned / "zoo.json").exists():
        canonicalize_zoo(Zoo(built), aligned)
    return Zoo(aligned)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(STEPS), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of training, instead of the size's")
    parser.add_argument("--encoder", default="wordllama", help="of the class names")
    parser.add_argument("--zoo", type=Path, help="a canonical zoo of the recipe")
    parser.add_argument(
        "--images", default="cifar100", help="to build the zoo: the data set of a hundred classes"
    )
    parser.add_argument("--backbone", help="to build the zoo: its file")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, help="where zoo and runs go; by default they do not stay")
    options = parser.parse_args()
    if options.zoo is None and options.backbone is None:
        parser.error("give --zoo, or --backbone to build one")
    if OURS not in options.variants:
        parser.error(f"the aims are about '{OURS}': leave it among --variants")
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        dataset = f"{options.images} through {options.backbone}"
        for row in measure(zoo_of(options, "specialists", {"dataset": dataset}), options):
            rows.append(row)
            print(row, flush=True)
    seconds, seeds = (
        time.perf_counter() - begin,
        range(options.first_seed, options.first_seed + options.seeds),
    )
    print(
        write_result(
            "specialists", size=options.size, seeds=seeds, seconds=seconds, rows=rows, aims=aims(rows)
        )
    )


if __name__ == "__main__":
    main()
