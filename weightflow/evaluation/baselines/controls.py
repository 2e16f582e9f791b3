"""Controls: the same generator with wrong prompts, to test whether the text matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.context import EvaluationContext
from weightflow.generator.decode import decode
from weightflow.text import Prompt, PromptBatch

_NO_PROMPT = "all networks have one task, so that there is no other prompt"


def shuffled_prompt(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """The prompt of another task with as many classes."""
    if context.one_task:
        raise Inapplicable(_NO_PROMPT)
    prompts = [Prompt(tasks[other].classes) for other in _derange(tasks)]
    return context.flow.sample_states(prompts, range(seed, seed + len(tasks)), context.config)


def random_text(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """A random vector of the same length for each class, always the same one for the same class."""
    if context.one_task:
        raise Inapplicable(_NO_PROMPT)
    flow, generator = context.flow, torch.Generator().manual_seed(seed)
    names = sorted({name for task in tasks for name in task.classes})
    vectors = F.normalize(torch.randn(len(names), flow.encoder.width, generator=generator), dim=-1)
    table = dict(zip(names, vectors * flow.encoder.width**0.5, strict=True))
    words = flow.prompts([Prompt(task.classes) for task in tasks])
    random = torch.zeros_like(words.vectors)
    for row, task in enumerate(tasks):
        random[row, : len(task.classes)] = torch.stack([table[name] for name in task.classes])
    words = PromptBatch(random, words.present)
    seeds = range(seed, seed + len(tasks))
    z = flow.tokens(words, flow.noise(seeds, words.present), context.config, seeds=seeds)
    return decode(flow.coordinates, z, words)


def _derange(tasks: Sequence[Task]) -> list[int]:
    """For each task the next one with as many classes, other classes if there are any."""
    result = []
    for row, task in enumerate(tasks):
        order = [*range(row + 1, len(tasks)), *range(row)]
        fitting = [i for i in order if len(tasks[i].classes) == len(task.classes)]
        other = [i for i in fitting if set(tasks[i].classes) != set(task.classes)]
        result.append((other or fitting or [row])[0])
    return result
