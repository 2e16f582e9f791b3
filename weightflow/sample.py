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
from weightflow.flow.denoising import DENOISERS, Noise, denoise
from weightflow.flow.solver import FIXED_STEP, solve
from weightflow.flow.velocity import Guided
from weightflow.model import make_model
from weightflow.sampleconfig import ADAPTIVE_SHARE, SampleConfig
from weightflow.text import Prompt, PromptBatch, TextEncoder, encode_prompts, load_encoder
from weightflow.text.description import encode as encode_descriptions
from weightflow.zoo.logits import State
from weightflow.zoo.recorded import restore_statistics


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

    @property
    def sampling(self) -> SampleConfig:
        """How this run is sampled where nothing else is said."""
        return self.header.config.sample

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
        known = self.encoder.encode(self.known_classes)
        asked = encode_descriptions(self.encoder, prompt.descriptions)
        cosine, index = (asked @ known.T / self.encoder.width).max(dim=1)
        rows = zip(prompt.classes, index.tolist(), cosine.tolist(), strict=True)
        return [Neighbour(described, self.known_classes[i], c) for described, i, c in rows]

    def noise(self, seeds: Sequence[int], present: Tensor) -> Tensor:
        """Source noise of each network from its own seed, so that a network does not depend on its batch."""
        return self._draw([torch.Generator().manual_seed(seed) for seed in seeds], present)

    def _draw(self, streams: Sequence[torch.Generator], present: Tensor) -> Tensor:
        layout = self.coordinates.layout
        draws = [torch.randn(layout.tokens, layout.width, generator=stream) for stream in streams]
        return (
            torch.stack(draws).mul_(self.header.config.objective.source).mul_(self.coordinates.used(present))
        )

    def _later_noise(self, seeds: Sequence[int], present: Tensor) -> Noise:
        """Each network's own stream, where it stands after its source noise."""
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._draw(streams, present)
        return lambda: self._draw(streams, present)

    @torch.no_grad()
    def tokens(
        self,
        prompts: PromptBatch,
        x: Tensor,
        config: SampleConfig | None = None,
        start: float = 0.0,
        seeds: Sequence[int] = (),
    ) -> Tensor:
        """Move `x` (networks, tokens, width) from time `start` to 1 under the prompts, by default the run's way.

        `seeds`, one a network, are for methods that draw noise on the way.
        """
        config = config or self.sampling
        if config.draws and len(seeds) != len(x):
            raise InputError(
                f"'{config.method}' draws noise at every step: give {len(x)} seeds, found {len(seeds)}"
            )
        parts = [
            self._move(
                prompts[rows], x[rows], config, start, [seeds[i] for i in rows.tolist()] if seeds else []
            )
            for rows in torch.arange(len(x)).split(config.batch_size)
        ]
        return torch.cat(parts)

    def _move(
        self, prompts: PromptBatch, x: Tensor, config: SampleConfig, start: float, seeds: Sequence[int]
    ) -> Tensor:
        objective, guided = self.header.config.objective, self._guided(prompts, config)
        if config.method in DENOISERS:
            return denoise(
                objective.clean(guided),
                objective.schedule,
                x,
                method=DENOISERS[config.method],
                steps=config.steps,
                start=start,
                noise=self._later_noise(seeds, prompts.present) if seeds else None,
            )
        velocity = objective.velocity(guided)
        if not config.jump:
            return solve(velocity, x, method=config.method, steps=config.steps, start=start)
        last = 1 - (1 - start) / (config.steps if config.method in FIXED_STEP else ADAPTIVE_SHARE)
        if last > start:
            x = solve(velocity, x, method=config.method, steps=config.steps - 1, start=start, end=last)
        return objective.clean(guided)(x, x.new_full((len(x),), last))

    def _guided(self, prompts: PromptBatch, config: SampleConfig) -> Guided:
        if config.guidance != 1.0 and self.header.config.drop_prompt == 0:
            raise InputError(
                f"{self.folder} was trained without dropped prompts, so it cannot be guided; leave guidance at 1"
            )
        used = self.coordinates.used(prompts.present)
        everything = bool(used.all())  # a pass over whole networks is worth sparing

        def predict(words: PromptBatch, x_t: Tensor, t: Tensor) -> Tensor:
            said = self.model(x_t, t, words.vectors, words.present)
            return said if everything else said * used

        low, high = config.guidance_interval
        return Guided(
            lambda x_t, t: predict(prompts, x_t, t),
            lambda x_t, t: predict(prompts.nothing(), x_t, t),
            config.guidance,
            (low, high),
        )

    def sample(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], config: SampleConfig | None = None
    ) -> State:
        """One network for each prompt and seed, stacked and padded to the run's number of logits."""
        words = self.prompts(prompts)
        z = self.tokens(words, self.noise(seeds, words.present), config, seeds=seeds)
        return self.with_statistics(decode(self.coordinates, z, words), prompts)

    def with_statistics(self, state: State, prompts: Sequence[Prompt]) -> State:
        """Running statistics of batch norm from training examples of each prompt's classes; others as they are.

        Where a prompt describes a class that the data set does not have, examples of all classes serve.
        """
        if not self.architecture.has_statistics:
            return state
        data = datasets.load(self.header.zoo.dataset)
        rows = []
        for prompt in prompts:
            known = set(prompt.classes) <= set(data.class_names)
            labels = torch.tensor(data.class_index(prompt.classes if known else data.class_names))
            rows.append(torch.isin(data.train.labels, labels).nonzero().squeeze(1))
        return restore_statistics(self.architecture, state, data.train, rows)

    def generate(
        self, classes: Sequence[str] | str, seed: int = 0, config: SampleConfig | None = None
    ) -> nn.Module:
        """A module that tells the classes apart, logits in their order. `prepare` makes its inputs."""
        prompt = Prompt.parse(classes) if isinstance(classes, str) else Prompt(tuple(classes))
        state = self.sample([prompt], [seed], config)
        return to_module(self.architecture, {k: v[0] for k, v in state.items()}, prompt.classes)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw inputs (examples, *shape), as the data set has them, to what the networks expect."""
        return datasets.load(self.header.zoo.dataset).prepare(inputs)


def load(folder: str | Path) -> Flow:
    """A trained generator from its run's folder."""
    return Flow(folder)
