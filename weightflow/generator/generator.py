"""The trained generator: prompts in, networks out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.files import FULL, reading
from canon.io.folders import new_folder, require_apart, require_place
from canon.types import PathLike, StateDict
from weightflow.batched import batch_norm
from weightflow.batched.stacked_networks import StackedNetworks
from weightflow.batched.tasks import Task
from weightflow.data.class_groups import labels_of_classes
from weightflow.device import usable_device
from weightflow.flow.denoising import DENOISERS, Noise, denoise
from weightflow.flow.sampling_config import ADAPTIVE_SHARE, SampleConfig
from weightflow.flow.solver import FIXED_STEP, solve
from weightflow.flow.velocity import Guided
from weightflow.folders import local_folder
from weightflow.generator.assets import with_own_files
from weightflow.generator.decode import decode, to_module
from weightflow.models.residual import AnchoredModel, make_generator
from weightflow.networks.classifier import Classifier
from weightflow.registry import suggest
from weightflow.seeds import stream
from weightflow.text import Prompt, PromptBatch, TextEncoder, as_prompts, encode_prompts, load_encoder
from weightflow.text.class_words import described
from weightflow.text.description import encode_groups, group_of
from weightflow.training import run_store as runs
from weightflow.training.state_dicts import load_weights, unpack
from weightflow.zero_shot.pictures import PictureEncoder

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

# Entries that a CPU samples together: more do not fit its caches, and their memory is not kept by the
# allocator from one step to the next. Large networks still go a few at a time.
PART, LEAST = 2**22, 4


@dataclass(frozen=True)
class Neighbour:
    """A class of a prompt, a known class near to it, and the cosine between their vectors."""

    described: str
    nearest: str
    cosine: float


class Flow:
    """A trained generator. `generate` gives a module, `sample` many networks stacked.

    Args:
        folder: Folder of a run, or of a saved generator; `hf://OWNER/NAME` is one on the hub.
        device: Where the model runs, the processor by default; networks come out on the processor, the same up to rounding.

    Raises:
        InputError: The folder holds no run, a damaged one, or one that has not taken a step.

    Example:
        >>> import weightflow
        >>> weightflow.load("runs/digits")
        Flow('runs/digits', mlp, ... parameters, up to ... classes of the 10 known of digits)
    """

    def __init__(self, folder: PathLike, device: str | torch.device | None = None) -> None:
        self.folder, self.device = local_folder(folder, "model"), usable_device(device)
        self.header = with_own_files(runs.read_header(self.folder), self.folder)
        weights = runs.read_checkpoint(self.folder, self.header)
        if weights.trained == 0:
            raise InputError(
                f"{folder} has not trained: its weights are those of step 0; go on with: "
                f"weightflow train {self.header.zoo.path} --out {folder} --resume"
            )
        self.trained = weights.trained
        self.architecture, self.coordinates = self.header.architecture, weights.coordinates
        self._frame = weights.frame
        if self.encoder.identity != self.header.encoder:
            raise InputError(
                f"{folder} was trained with the text encoder {self.header.encoder}; "
                f"'{self.header.config.encoder}' is now {self.encoder.identity}"
            )
        path = self.folder / runs.CHECKPOINT
        with reading(path, "restore it, or train the run again"):
            self.model = make_generator(
                self.header.config.model,
                self.header.config.objective.schedule,
                self.coordinates.layout,
                self.encoder.width,
                self.architecture.classes,
                unpack("anchors", weights.average),
            )
            load_weights(self.model, weights.average, str(path))
        self.model.eval().requires_grad_(False).to(self.device)

    def __reduce__(self) -> tuple[Callable[..., Flow], tuple[Any, ...]]:
        """Workers read the folder themselves, each once."""
        return _reopened, (self.folder.absolute(), str(self.device), self.identity)

    def __repr__(self) -> str:
        a = self.architecture
        return (
            f"Flow({str(self.folder)!r}, {a.name}, {a.parameters} parameters, up to {a.classes} classes of the "
            f"{len(self.known_classes)} known of {self.header.zoo.dataset})"
        )

    @cached_property
    def identity(self) -> str:
        """The SHA-256 of its averaged weights, which decide what it generates."""
        return runs.identity_of({name: tensor.cpu() for name, tensor in self.model.state_dict().items()})

    @property
    def sampling(self) -> SampleConfig:
        """How this run is sampled where nothing else is said."""
        return self.header.config.sample

    @cached_property
    def encoder(self) -> TextEncoder:
        return described(load_encoder(self.header.config.encoder), self.header.data.words)

    @property
    def frame(self) -> StateDict:
        """The frame that foreign networks are brought into; `InputError` where the run has none."""
        if not self._frame:
            raise InputError(
                f"{self.folder} was trained on a zoo that is not canonical, so other networks have no place in "
                "it; train on what `weightflow canonicalize` writes"
            )
        return self._frame

    @property
    def known_classes(self) -> tuple[str, ...]:
        """The classes of the networks that it learned from."""
        return self.header.data.known

    def prompts(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Encode prompts for this run; `InputError` where one names more classes than it supports."""
        data = self.header.data
        for prompt in prompts:
            self.check_groups(prompt)
        names = data.classes if data.groups else ()
        found = encode_prompts(self.seeing, prompts, self.architecture.classes, names)
        if self._takes_rows and any(d.images for prompt in prompts for d in prompt.descriptions):
            return self._with_rows(found, prompts)
        return found

    @cached_property
    def seeing(self) -> TextEncoder:
        """The encoder, able to read pictures through the run's backbone where it cannot by itself."""
        if self.encoder.sees or self.header.data.backbone is None:
            return self.encoder
        return PictureEncoder(self.encoder, self.header.data, self.folder)

    @property
    def converted_pictures(self) -> dict[str, str]:
        """Picture files of prompts so far that were not like the run's images, and what was changed."""
        return self.seeing.converted if isinstance(self.seeing, PictureEncoder) else {}

    @property
    def _takes_rows(self) -> bool:
        """Whether pictures give whole rows: the networks are nothing but rows over the features, with anchors."""
        shapes, rows = self.architecture.shapes, self.architecture.class_axes
        return (
            isinstance(self.seeing, PictureEncoder)
            and isinstance(self.model, AnchoredModel)
            and shapes.keys() == rows.keys()
        )

    def _with_rows(self, words: PromptBatch, prompts: Sequence[Prompt]) -> PromptBatch:
        """Behind the vectors the rows of classes that pictures show, and 1 where there is one (`Anchors`)."""
        assert isinstance(self.seeing, PictureEncoder)
        shown = list(dict.fromkeys(d for prompt in prompts for d in prompt.descriptions if d.images))
        row = {d: self.seeing.row(d) for d in shown}
        more = torch.zeros(*words.present.shape, len(row[shown[0]]) + 1)
        for place, prompt in enumerate(prompts):
            for position, d in enumerate(prompt.descriptions):
                if d.images:
                    more[place, position, :-1], more[place, position, -1] = row[d], 1
        return PromptBatch(torch.cat([words.vectors, more], dim=-1), words.present)

    def check_groups(self, prompt: Prompt) -> None:
        """`InputError` where classes made of classes overlap, leave no `other`, or are new to the run."""
        data = self.header.data
        groups = [group_of(d, data.classes) for d in prompt.descriptions]
        made = [d.name for d, group in zip(prompt.descriptions, groups, strict=True) if group is not None]
        if made and not data.groups:
            raise InputError(
                f"'{made[0]}' is made of several classes, and this run was trained on single classes; build a zoo "
                "with tasks.unions or tasks.other and train on it"
            )
        if data.groups:
            known = [
                text
                for text, d, group in zip(
                    self.record_classes(prompt), prompt.descriptions, groups, strict=True
                )
                if group is not None or d.name in data.classes
            ]
            labels_of_classes(data.dataset, known, data.classes)

    def record_classes(self, prompt: Prompt) -> tuple[str, ...]:
        """What a record says of each class: its name, and for a union with a name what it is made of."""
        data = self.header.data
        if not data.groups:
            return prompt.classes
        return tuple(
            f"{d.name} = {d.words[0]}"
            if group_of(d, data.classes) is not None and d.words[0] != d.name
            else d.name
            for d in prompt.descriptions
        )

    def neighbours(self, prompt: Prompt, count: int = 1) -> list[Neighbour]:
        """The `count` nearest known classes of each class in the prompt; none where the run takes no words."""
        if self.header.config.encoder == "none":
            return []
        known, data = self.encoder.encode(self.known_classes), self.header.data
        asked = encode_groups(self.seeing, prompt.descriptions, data.classes if data.groups else ())
        near = (asked @ known.T / self.encoder.width).topk(min(count, len(known)), dim=1)
        return [
            Neighbour(described, self.known_classes[i], cosine)
            for described, indices, cosines in zip(
                prompt.classes, near.indices.tolist(), near.values.tolist(), strict=True
            )
            for i, cosine in zip(indices, cosines, strict=True)
        ]

    def noise(self, seeds: Sequence[int], present: Tensor) -> Tensor:
        """Source noise of each network from its own seed, so that a network does not depend on its batch."""
        return self._draw([stream(seed) for seed in seeds], present)

    def _draw(self, streams: Sequence[torch.Generator], present: Tensor) -> Tensor:
        layout, source = self.coordinates.layout, self.header.config.objective.source
        drawn, used = torch.empty(len(streams), layout.tokens, layout.width), self.coordinates.used(present)

        def fill(network: Tensor, own: torch.Generator) -> None:
            network.normal_(std=source, generator=own)

        if drawn.numel() < PART:
            for network, own in zip(drawn, streams, strict=True):
                fill(network, own)
        else:  # the numbers of one network come one after another, those of several side by side
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(fill, drawn, streams))
        return drawn if _everything(used) else drawn.mul_(used)

    def _later_noise(self, seeds: Sequence[int], present: Tensor) -> Noise:
        """Each network's own stream, where it stands after its source noise."""
        streams = [stream(seed) for seed in seeds]
        self._draw(streams, present)
        return lambda: self._draw(streams, present).to(self.device)

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
        words = PromptBatch(prompts.vectors.to(self.device), prompts.present.to(self.device))
        layout, together = self.coordinates.layout, config.batch_size
        if self.device.type == "cpu":
            together = min(together, max(LEAST, PART // (layout.tokens * layout.width)))
        parts = [
            self._move(
                words[rows],
                part.to(self.device),
                config,
                start,
                [seeds[i] for i in rows.tolist()] if seeds else [],
            )
            for rows, part in zip(torch.arange(len(x)).split(together), x.split(together), strict=True)
        ]
        # whole networks are large: one part is not copied
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x.device)

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
                noise=self._later_noise(seeds, prompts.present.cpu()) if seeds else None,
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
        used = self.coordinates.used(prompts.present.cpu()).to(self.device)
        everything = _everything(used)  # saves a pass over whole networks

        def predict(words: PromptBatch, x_t: Tensor, t: Tensor) -> Tensor:
            said = self.model(x_t, t, words.vectors, words.present)
            return said if everything else said.mul_(used)

        low, high = config.guidance_interval
        return Guided(
            lambda x_t, t: predict(prompts, x_t, t),
            lambda x_t, t: predict(prompts.nothing(), x_t, t),
            config.guidance,
            (low, high),
        )

    def sample(
        self,
        classes: str | Sequence[str] | Prompt | Sequence[Prompt],
        count: int = 1,
        seed: int = 0,
        config: SampleConfig | None = None,
        **settings: Any,
    ) -> StackedNetworks:
        """Generate networks, stacked.

        Args:
            classes: Classes in logit order, as "three, seven" or a sequence of names; or prompts, one or several.
            count: Number of networks per prompt.
            seed: Seed of a prompt's first network; the next one has the next seed.
            config: How to sample; the run's own way by default.
            **settings: Fields of `SampleConfig` to change, such as `steps=4`, `method="rk4"`, `noise=0.5`.

        Returns:
            `count` networks for each prompt, in the order of the prompts.

        Raises:
            InputError: A prompt names more classes than the run supports, or a setting does not exist.

        Example:
            >>> import weightflow
            >>> flow = weightflow.load("runs/digits")
            >>> flow.sample("three, seven", 100)
            StackedNetworks(100 networks, mlp, ... parameters, 2 classes)
        """
        if count < 1:
            raise InputError(f"count is {count}; ask for 1 network or more")
        unknown = sorted(settings.keys() - {field.name for field in dataclasses.fields(SampleConfig)})
        if unknown:
            known = [field.name for field in dataclasses.fields(SampleConfig)]
            raise InputError(f"unknown setting '{unknown[0]}'; nearest: {suggest(unknown[0], known)}")
        prompts = [prompt for prompt in as_prompts(classes, self.known_classes) for _ in range(count)]
        seeds = [seed + number for number in range(count)] * (len(prompts) // count)
        changed = dataclasses.replace(config or self.sampling, **settings)
        tasks = [
            Task(self.header.zoo.dataset, self.record_classes(prompt), "generated") for prompt in prompts
        ]
        return StackedNetworks(self.sample_states(prompts, seeds, changed), tasks, self.architecture)

    def sample_states(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], config: SampleConfig | None = None
    ) -> StateDict:
        """One network for each prompt and seed, stacked and padded to the run's number of logits."""
        words = self.prompts(prompts)
        x, scale = self.noise(seeds, words.present), (config or self.sampling).noise
        if scale != 1:
            x.mul_(scale)
        z = self.tokens(words, x, config, seeds=seeds)
        return self.with_statistics(decode(self.coordinates, z, words), prompts)

    def with_statistics(self, state: StateDict, prompts: Sequence[Prompt]) -> StateDict:
        """Running statistics of batch norm from training examples of each prompt's classes."""
        classes = [self.record_classes(prompt) for prompt in prompts]
        return batch_norm.of_classes(self.architecture, state, self.header.zoo.dataset, classes)

    @overload
    def generate(
        self, classes: str | Sequence[str], seed: int = 0, config: SampleConfig | None = None
    ) -> Classifier: ...

    @overload
    def generate(
        self,
        classes: str | Sequence[str],
        seed: int = 0,
        config: SampleConfig | None = None,
        *,
        count: int,
    ) -> list[Classifier]: ...

    def generate(
        self,
        classes: str | Sequence[str],
        seed: int = 0,
        config: SampleConfig | None = None,
        *,
        count: int | None = None,
    ) -> Classifier | list[Classifier]:
        """Generate a module that takes raw inputs.

        Args:
            classes: Classes in logit order, as "three, seven" or a sequence of names.
            seed: Seed of the (first) network.
            config: How to sample; the run's own way by default.
            count: If given, a list of that many modules of consecutive seeds is returned.

        Returns:
            A module from raw inputs (as the data set has them: for digits 64 numbers from 0 to 16, for images
            bytes) to logits in the order of the classes. `.description` says what it expects, `.network` is the
            plain module inside, `.name(inputs)` answers in words.

        Raises:
            InputError: More classes than the run supports.

        Example:
            >>> import weightflow
            >>> import torch
            >>> network = weightflow.load("runs/digits").generate("three, seven")
            >>> network(torch.zeros(5, 64)).shape
            torch.Size([5, 2])
        """
        networks = self.sample(classes, 1 if count is None else count, seed, config)
        prompt = as_prompts(classes, self.known_classes)[0]
        made = [
            Classifier(
                to_module(
                    self.architecture,
                    {n: t[row] for n, t in networks.state.items()},
                    prompt,
                    self.seeing,
                ),
                self.header.data.preprocessing,
                prompt.classes,
                self._features,
            )
            for row in range(len(networks))
        ]
        return made[0] if count is None else made

    @cached_property
    def _features(self) -> Callable[[Tensor], Tensor] | None:
        """What comes before the networks, where they are heads on the features of a backbone."""
        from weightflow.backbones import backbone_of

        facts = self.header.data
        return None if facts.backbone is None else backbone_of(facts)

    # huggingface_hub takes a while to import, and making networks does not need it

    def save_pretrained(self, folder: PathLike, **settings: Any) -> None:
        """Write the generator with its encoder and model card into a folder.

        Args:
            folder: Where it goes.
            **settings: As of huggingface_hub's `ModelHubMixin.save_pretrained`.

        Raises:
            InputError: A file that belongs to it is missing or damaged.
        """
        from weightflow.generator.hub_model import HubModel

        HubModel(self).save_pretrained(Path(folder), **settings)

    def push_to_hub(self, name: str, **settings: Any) -> Any:
        """Upload it to the hub, without the paths of this computer.

        Args:
            name: "OWNER/NAME" on the hub.
            **settings: As of huggingface_hub's `ModelHubMixin.push_to_hub`.

        Returns:
            The address of the commit.
        """
        from weightflow.generator.hub_model import HubModel

        return HubModel(self).push_to_hub(name, **settings)

    @classmethod
    def from_pretrained(cls, name: PathLike, **settings: Any) -> Flow:
        """Load a saved generator.

        Args:
            name: Its folder, or "OWNER/NAME" on the hub.
            **settings: As of huggingface_hub's `ModelHubMixin.from_pretrained`, and `device`.

        Returns:
            The generator.

        Raises:
            InputError: The folder holds no generator, or a damaged one.
        """
        from weightflow.generator.hub_model import HubModel

        return HubModel.from_pretrained(str(name), **settings).flow

    def generate_model_card(self) -> ModelCard:
        """The model card that `save_pretrained` writes."""
        from weightflow.generator.hub_model import HubModel

        return HubModel(self).generate_model_card()


def _everything(used: Tensor) -> bool:
    """Is every entry of every network used? Networks of one task share one mask, expanded."""
    return bool((used[:1] if used.stride(0) == 0 else used).all())


@lru_cache(maxsize=1)
def _reopened(folder: Path, device: str, identity: str) -> Flow:
    found = Flow(folder, device)
    if found.identity != identity:
        raise InputError(f"{folder} has changed since the work began; run the same command again")
    return found


def save_generator(flow: Flow, folder: Path) -> None:
    """`flow.save_pretrained` into a new folder: all of it or nothing, also where several processes write it."""
    require_place(folder)
    require_apart(folder, flow.folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not an empty folder; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        try:
            flow.save_pretrained(temporary)
        except OSError as error:
            if error.errno in FULL:
                raise
            if error.filename and not str(error.filename).startswith(str(temporary)):  # a file that is copied
                raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
            raise
