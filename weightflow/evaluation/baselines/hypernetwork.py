"""Hypernetwork: the run's model trained by the functional loss alone, without a zoo.

It sees no weights of trained networks and no noise: tasks of known classes are drawn freely and the decoded network
is run on training images (train once for all personalization). It makes one network a prompt, which no seed
changes. It is trained once a run, for as many steps as the run, and kept in its folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.context import EvaluationContext
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.training.config import TrainConfig
from weightflow.training.presets import read_preset
from weightflow.training.trainer import is_begun, resume, start
from weightflow.zoo.builders.file_lock import holding

FOLDER = "hypernetwork"


def hypernetwork(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """For each task the one network that the words ask for."""
    flow = trained_hypernetwork(context)
    return flow.sample_states([Prompt(task.classes) for task in tasks], [0] * len(tasks))


def trained_hypernetwork(context: EvaluationContext) -> Flow:
    """Trained where it is not in the run's folder yet; `Inapplicable` where all prompts name the same classes."""
    if context.one_task:
        raise Inapplicable("all networks have one task, so that there is one prompt")
    folder = context.flow.folder / FOLDER
    with holding(context.flow.folder / ".locks" / FOLDER, wait=True):
        there = is_begun(folder)
        config = hypernetwork_config(context.flow.header.config)
        trainer = (
            resume(context.zoo, folder, {"steps": config.steps})
            if there
            else start(context.zoo, config, folder)
        )
        trainer.run()
    return Flow(folder)


def hypernetwork_config(run: TrainConfig) -> TrainConfig:
    """The preset `hypernetwork`, with the model, the words and the length of a run."""
    kept = (
        "encoder",
        "layout",
        "chunk",
        "coordinates",
        "steps",
        "learning_rate",
        "weight_decay",
        "warmup",
        "seed",
    )
    preset = read_preset("hypernetwork", {})
    return dataclasses.replace(
        preset,
        **{name: getattr(run, name) for name in (*kept, "model", "clip", "precision")},
        behaviour=dataclasses.replace(
            preset.behaviour,
            **{name: getattr(run.behaviour, name) for name in ("images", "mix", "invented")},
        ),
        batch_size=run.batch_size,
        evaluate_every=run.evaluate_every,
        save_every=run.steps,
        patience=run.steps,
    )
