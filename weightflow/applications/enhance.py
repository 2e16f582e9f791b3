r"""Enhance networks: add noise, then denoise under their prompts (SDEdit).

A network x_1, brought into the run's frame, is noised to the time t = 1 - strength,

    x_t = alpha(t) x_1 + sigma(t) x_0

and generated from there. Strength 0 gives the network back, strength 1 forgets it. The idea is the
weight enhancement of Text2Weight (arXiv:2508.13633) and the editing of Meng et al. (arXiv:2108.01073).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from canon.errors import InputError
from canon.types import StateDict
from weightflow.batched.tasks import Task
from weightflow.flow.sampling_config import SampleConfig
from weightflow.flow.schedule import expand_time
from weightflow.generator.decode import decode
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.zoo.canonicalize import align_to_frame

LARGEST = 1e12
"""Standard deviations of the zoo's weights; squares of larger ones overflow in float32."""


def enhance(
    flow: Flow,
    state: StateDict,
    tasks: Sequence[Task],
    strength: float,
    seeds: Sequence[int],
    config: SampleConfig | None = None,
) -> StateDict:
    """Partially regenerate stacked networks of the run's architecture; `strength` from 0 to 1."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it is a share from 0 (as it is) to 1 (a new network)")
    if strength == 0:
        return dict(state)
    prompts = [Prompt(task.classes) for task in tasks]
    words = flow.prompts(prompts)
    x_1 = flow.coordinates.encode(align_to_frame(flow.architecture, flow.frame, state, tasks), words.present)
    if not (largest := float(x_1.abs().max())) <= LARGEST:
        raise InputError(
            f"the weights of the network are {largest:.0e} standard deviations of the zoo's from their mean, which "
            "overflows in the generator; give a network that was trained"
        )
    t, schedule = torch.full((len(tasks),), 1 - strength), flow.header.config.objective.schedule
    x_0 = flow.noise(seeds, words.present)
    x_t = expand_time(schedule.alpha(t), x_1) * x_1 + expand_time(schedule.sigma(t), x_1) * x_0
    z = flow.tokens(words, x_t, config, start=1 - strength, seeds=seeds)
    return flow.with_statistics(decode(flow.coordinates, z, words), prompts)
