"""Words in, networks out: the trained generator as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from canon.errors import InputError
from weightflow import checkpoint as runs
from weightflow import datasets
from weightflow.decode import decode, to_module
from weightflow.flow.solver import FIXED_STEP, SOLVERS, solve
from weightflow.flow.velocity import Guided
from weightflow.model import make_model
from weightflow.names import pick
from weightflow.text import Prompt, PromptBatch, TextEncoder, encode_prompts, load_encoder
from weightflow.zoo.training import State

# The share of the way, one over this, that an adaptive solver leaves to the last jump.
ADAPTIVE_SHARE = 20


@dataclass(frozen=True)
class SampleConfig:
    """How to integrate. `steps` is for the fixed-step solvers; guidance 1 uses the prompt alone.

    The last step is a jump to the predicted clean network: the velocity that it implies divides by
    sigma, which is zero at the end. On the straight path an Euler step is that very jump.
    """

    method: str = "euler"
    steps: int = 4
    guidance: float = 1.0
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    batch_size: int = 256

    def __post_init__(self) -> None:
        pick(dict.fromkeys(SOLVERS), self.method, "solver")
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"steps {self.steps} and batch size {self.batch_size} must be at least 1")

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the model a network, or None where the solver adapts."""
        if self.method == "dopri5":
            return None
        solved = (self.steps - 1) * FIXED_STEP[self.method].evaluations
        return (solved + 1) * (1 if self.guidance == 1.0 else 2)


@dataclass(frozen=True)
class Neighbour:
    """A class of a prompt, the known class nearest to it, and the cosine between them."""

    described: str
    nearest: str
    cosine: float


class Flow:
    """A trained generator. `generate` gives one module, `sample` many networks stacked."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = runs.read_header(self.folder)
        weights = runs.read_checkpoint(self.folder, self.header)
        self.architecture, self.coordinates = self.header.architecture, weights.coordinates
        self._frame = weights.frame
        if self.encoder.identity != self.header.encoder:
            raise InputError(
                f"{folder} was trained with the text encoder {self.header.encoder}; "
                f"'{self.header.config.encoder}' is now {self.encoder.identity}"
            )
        self.model = make_model(
            self.header.config.model, self.coordinates.layout, self.encoder.width, self.architecture.classes
        )
        self.model.load_state_dict(weights.average)
        self.model.eval().requires_grad_(False)

    @cached_property
    def encoder(self) -> TextEncoder:
        return load_encoder(self.header.config.encoder)

    @property
    def frame(self) -> State:
        """The frame that foreign networks are brought into; `InputError` where the run has none."""
        if not self._frame:
            raise InputError(
                f"{self.folder} was trained on a zoo that is not canonical, so other networks have no place in "
                "it; train on what `weightflow canonicalize` writes"
            )
        return self._frame

    @cached_property
    def known_classes(self) -> tuple[str, ...]:
        return datasets.load(self.header.zoo.dataset).class_names

    def prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Encode prompts for this run; `InputError` where one names more classes than it supports."""
        return encode_prompts(self.encoder, prompts, self.architecture.classes)

    def neighbours(self, prompt: Prompt) -> list[Neighbour]:
        """The nearest known class of each class in the prompt; none where the run takes no words."""
        if self.header.config.encoder == "none":
            return []
        known, asked = self.encoder.encode(self.known_classes), self.encoder.encode(prompt.classes)
        cosine, index = (asked @ known.T / self.encoder.width).max(dim=1)
        rows = zip(prompt.classes, index.tolist(), cosine.tolist(), strict=True)
        return [Neighbour(described, self.known_classes[i], c) for described, i, c in rows]

    def noise(self, seeds: Sequence[int], present: Tensor) -> Tensor:
        """Source noise of each network from its own seed, so that a network does not depend on its batch."""
        layout = self.coordinates.layout
        draws = [
            torch.randn(layout.tokens, layout.width, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return self.header.config.objective.source * torch.stack(draws) * self.coordinates.used(present)

    @torch.no_grad()
    def tokens(
        self,
        prompts: PromptBatch,
        x: Tensor,
        config: SampleConfig = SampleConfig(),
        start: float = 0.0,
    ) -> Tensor:
        """Integrate `x` (networks, tokens, width) from time `start` to 1 under the prompts."""
        parts = [
            self._integrate(prompts[rows], x[rows], config, start)
            for rows in torch.arange(len(x)).split(config.batch_size)
        ]
        return torch.cat(parts)

    def _integrate(self, prompts: PromptBatch, x: Tensor, config: SampleConfig, start: float) -> Tensor:
        if config.guidance != 1.0 and self.header.config.drop_prompt == 0:
            raise InputError(
                f"{self.folder} was trained without dropped prompts, so it cannot be guided; leave guidance at 1"
            )
        used = self.coordinates.used(prompts.present)

        def predict(words: PromptBatch, x_t: Tensor, t: Tensor) -> Tensor:
            return self.model(x_t, t, words.vectors, words.present) * used

        low, high = config.guidance_interval
        guided = Guided(
            lambda x_t, t: predict(prompts, x_t, t),
            lambda x_t, t: predict(prompts.nothing(), x_t, t),
            config.guidance,
            (low, high),
        )
        objective = self.header.config.objective
        last = 1 - (1 - start) / (config.steps if config.method in FIXED_STEP else ADAPTIVE_SHARE)
        if last > start:
            velocity = objective.velocity(guided)
            x = solve(velocity, x, method=config.method, steps=config.steps - 1, start=start, end=last)
        return objective.clean(guided)(x, x.new_full((len(x),), last))

    def sample(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], config: SampleConfig = SampleConfig()
    ) -> State:
        """One network for each prompt and seed, stacked and padded to the run's number of logits."""
        words = self.prompts(prompts)
        z = self.tokens(words, self.noise(seeds, words.present), config)
        return decode(self.coordinates, z, words)

    def generate(
        self, classes: Sequence[str] | str, seed: int = 0, config: SampleConfig = SampleConfig()
    ) -> nn.Module:
        """A module that tells the classes apart, logits in their order. `prepare` makes its inputs."""
        prompt = Prompt.parse(classes) if isinstance(classes, str) else Prompt(tuple(classes))
        state = self.sample([prompt], [seed], config)
        return to_module(self.architecture, {k: v[0] for k, v in state.items()}, len(prompt.classes))

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw inputs (examples, *shape), as the data set has them, to what the networks expect."""
        return datasets.load(self.header.zoo.dataset).prepare(inputs)


def load(folder: str | Path) -> Flow:
    """A trained generator from its run's folder."""
    return Flow(folder)
