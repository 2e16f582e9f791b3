"""The training loop, which resumes bit for bit.

One step: draw networks of the zoo, tell them otherwise (`augment`), put noise on them, predict the
clean ones from words, and compare (`loss`). The averaged weights that held-out networks like best are
what the run keeps for sampling.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError, WorkError
from canon.io import checkpoint
from canon.io.digests import digest_of
from canon.io.files import reading, require_file
from canon.io.folders import require_apart
from canon.io.large_tensors import large_zeros
from canon.types import StateDict
from weightflow import config as settings
from weightflow import representation as coordinate_kinds
from weightflow.datasets import DataInfo
from weightflow.flow.draws import NoiseDraws
from weightflow.models.conditioning import CONDITIONINGS
from weightflow.models.residual import make_generator
from weightflow.models.text_standardization import centre_words
from weightflow.representation import Coordinates
from weightflow.representation.layout import make_layout
from weightflow.representation.orbit_average import OrbitSymmetries
from weightflow.text import Prompt, PromptBatch, TextEncoder, encode_prompts, load_encoder
from weightflow.text.class_words import class_words, described
from weightflow.training import compatibility
from weightflow.training import run_store as runs
from weightflow.training.adversarial import Adversary
from weightflow.training.augmentation import Augmentation
from weightflow.training.batch import Batch
from weightflow.training.config import TrainConfig
from weightflow.training.functional_loss import FunctionalLoss
from weightflow.training.losses import Loss, Terms
from weightflow.training.processes import Processes
from weightflow.training.state_dicts import (
    load_weights,
    optimizer_tensors,
    pack,
    restore_optimizer,
    unpack,
    whole,
)
from weightflow.training.unseen_tasks import UnseenTasks
from weightflow.zero_shot.fit import fit_anchors
from weightflow.zoo import unfinished
from weightflow.zoo.builders.file_lock import holding
from weightflow.zoo.canonicalize import is_canonical, read_frame
from weightflow.zoo.data_changes import warn_of_changes
from weightflow.zoo.splits import only_task, train_validation_split
from weightflow.zoo.store import Zoo

WORK = "weightflow train"
MOST_HELD_OUT = 500
"""Networks, evenly spaced, that checkpoints are chosen by, at most."""
AT_ONCE = 512
"""Predictions for held-out networks in one batch, at most, so that memory does not grow with the zoo."""


@dataclass
class Progress:
    """The mutable state of a run beside the weights."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0


class Trainer:
    """Trains a generator on a zoo in a folder; `run` continues from the folder's state."""

    def __init__(
        self,
        zoo: Zoo,
        config: TrainConfig,
        folder: Path,
        device: str = "cpu",
        processes: Processes = Processes(),
    ) -> None:
        self.config, self.zoo_path, self.folder = config, zoo.path, folder
        self.processes, self.device = processes, processes.device(device)
        _check_shares(config, processes)
        self.data = zoo.data
        warn_of_changes(zoo)
        words = class_words(config.descriptions, self.data.class_names, zoo.dataset) or zoo.class_words
        encoder, architecture = described(load_encoder(config.encoder), words), zoo.architecture
        rows, classes = train_validation_split(zoo, config.hold_out), only_task(zoo)
        compatibility.check(config, zoo)
        self.frame = read_frame(zoo) if is_canonical(zoo) else {}
        prompts = {split: _prompts(zoo, rows[split], encoder) for split in rows}
        layout = make_layout(architecture, config.layout, config.chunk)
        augment = config.augment
        exchange = OrbitSymmetries(augment.permute_units or augment.equivariance > 0, augment.permute_classes)
        self.coordinates = coordinate_kinds.fit(
            config.coordinates,
            architecture,
            layout,
            lambda every=1: _batches(zoo, rows["seen"][::every], prompts["seen"][::every]),
            exchange,
        )
        computing = self.coordinates.to(self.device)
        told = config.behaviour
        behaviour = FunctionalLoss(computing, self.data, told.images, told.mix)
        self.populations = {
            split: Batch(
                _encode(self.coordinates, zoo, rows[split], prompts[split]),
                prompts[split],
                behaviour.labels([zoo.records[i].task for i in rows[split]]),
            )
            for split in rows
        }
        self.augment = Augmentation(augment, architecture, layout)
        used = self.coordinates.used(prompts["seen"].present.unique(dim=0)).any(dim=0)
        self.adversary = None
        if config.adversary.weight:
            self.adversary = Adversary(config.adversary, used, config.seed, self.device, processes)
        beyond = UnseenTasks(zoo, self.data, encoder, told.invented) if told.beyond else None
        self.loss = Loss(config, computing, behaviour, self.augment.units, self.adversary, beyond)
        self.header = runs.RunHeader(
            config,
            runs.ZooReference(str(zoo.path.resolve()), zoo.identity, zoo.dataset, classes),
            architecture,
            layout,
            encoder.identity,
            replace(
                DataInfo.of_tasks(self.data, [zoo.records[i].classes for i in rows["seen"]]),
                words=words,
            ),
        )
        self.header = replace(self.header, identity=_identity(self.header))
        self.generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = make_generator(
                config.model,
                config.objective.schedule,
                self.coordinates.layout,
                encoder.width,
                architecture.classes,
                fit_anchors(config.anchors, zoo, self.data, encoder, self.coordinates),
            )
        centre_words(self.model, CONDITIONINGS[config.model.conditioning], prompts["seen"])
        self.average = processes.place(copy.deepcopy(self.model).requires_grad_(False), self.device)
        self.model = processes.place(self.model, self.device)
        self.forward = torch.compile(self.model) if config.compile else self.model
        self.best_average = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.progress = Progress()
        self.saved = 0

    def run(
        self,
        on_step: Callable[[int, str], None] = lambda steps, note: None,
        stop: Callable[[], bool] = lambda: False,
        on_metrics: Callable[[Mapping[str, int | float]], None] = lambda metrics: None,
    ) -> Progress:
        """Train to the end, saving as it goes. Raises `WorkError` with step and cause on NaN.

        `on_metrics` gets the numbers of each evaluation, as `metrics.jsonl` does; in the first process. After each step `stop` is asked: where it is true, the state is saved and the run ends early.
        `InputError` where another process is training in the folder.
        """
        with _writing(self.folder, self.processes), self.processes.losing_others():
            self.processes.first_alone(self._require_own)
            return self._run(on_step, stop, on_metrics)

    def _require_own(self) -> None:
        if runs.checkpoint_step(self.folder, self.header) not in (None, self.saved):
            raise InputError(
                f"{self.folder} was trained on by another process meanwhile; go on with it: {_again(self.zoo_path, self.folder)}"
            )

    def _run(
        self,
        on_step: Callable[[int, str], None],
        stop: Callable[[], bool],
        on_metrics: Callable[[Mapping[str, int | float]], None],
    ) -> Progress:
        config, started = self.config, time.monotonic()
        while not self.finished:
            note = ""
            with torch.random.fork_rng(devices=[]):
                # dropout draws from the global stream: here it is a function of the step and the process
                torch.manual_seed(config.seed * 2**20 + self.progress.step + self.processes.rank * 2**53)
                terms = self._step()
            self.progress.step += 1
            last = self.progress.step == config.steps
            if last or self.progress.step % config.evaluate_every == 0:
                metrics = self._evaluate(terms, time.monotonic() - started)
                if metrics:
                    on_metrics(metrics)
                    note = _told(metrics)
            ended = self.processes.any(stop())
            if self.finished or ended or self.progress.step % config.save_every == 0:
                self.save()
            on_step(1, note)
            if ended:
                break
        return self.progress

    @property
    def finished(self) -> bool:
        """All steps taken, or no gain on held-out networks for too long."""
        return self.progress.step >= self.config.steps or self.progress.stale >= self.config.patience

    def _step(self) -> Terms:
        config, seen = self.config, self.populations["seen"]
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _warmup_cosine(self.progress.step, config)
        batch = seen[torch.randint(len(seen), (config.batch_size,), generator=self.generator)]
        kept = torch.rand(len(batch), 1, generator=self.generator) >= config.drop_prompt
        batch = self.augment(batch, NoiseDraws(self.generator))
        own = slice(self.processes.rank, None, self.processes.count)
        batch, kept = batch[own].to(self.device), kept[own].to(self.device)
        draws = NoiseDraws(self.generator, self.device, self.processes.rank, self.processes.count)
        with torch.autocast(batch.z.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            terms = self.loss.training(self.forward, batch, kept, self.data.train, draws)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        # sharded gradients are means already
        shared = [] if self.processes.sharded else list(self.model.parameters())
        gradients = [p.grad for p in shared if p.grad is not None]
        self.processes.average([*gradients, *terms.parts.values()])
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        if not torch.isfinite(norm):
            raise WorkError(self._not_finite(terms))
        self.optimizer.step()
        self._follow()
        if self.adversary is not None:
            self.adversary.train_step(batch.z, terms.x_1)
        return terms

    @torch.no_grad()
    def _follow(self) -> None:
        """Averaged weights with a half-life that is a share of the steps so far (Karras et al. 2024)."""
        half_life = max(self.config.average_half_life * (self.progress.step + 1), 1e-9)
        decay = self.config.average_decay
        weight = 1 - (0.5 ** (1 / half_life) if decay is None else decay)
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), weight)

    @torch.no_grad()
    def _evaluate(self, terms: Terms, seconds: float) -> dict[str, int | float]:
        """The objective on held-out networks, with the same noise and validation images every time.

        The first process measures it for all, all of them together where each has a part of the model; the numbers,
        empty in the others.
        """
        found = self._held_out() if self.processes.first or self.processes.sharded else {}
        score, p = self.processes.broadcast(found.pop("total", 0.0)), self.progress
        if score < p.best:
            p.best, p.best_step, p.stale = score, p.step, 0
            self.best_average = {k: v.clone() for k, v in self.average.state_dict().items()}
        else:
            p.stale += 1
        if not self.processes.first:
            return {}
        line = {
            "step": p.step,
            "seconds": round(seconds, 3),
            **{name: float(value) for name, value in terms.parts.items()},
            "held_out": score,
            **{f"held_out_{name}": value for name, value in found.items()},
        }
        runs.append_metrics(self.folder, line)
        return line

    def _held_out(self) -> dict[str, float]:
        """Each term, and their weighted sum `total`: means over held-out networks."""
        held_out = self.populations["validation"]
        self.average.eval()
        draws = NoiseDraws(torch.Generator().manual_seed(self.config.seed + 1), self.device)
        step = -(-len(held_out) // MOST_HELD_OUT)
        # every network four times: one draw of time and noise each is too few to rank checkpoints by
        rows = torch.arange(0, len(held_out), step).repeat(4)
        found = dict[str, float]()
        for part in rows.split(AT_ONCE):
            batch = held_out[part].to(self.device)
            kept = torch.ones(len(batch), 1, dtype=torch.bool, device=self.device)
            terms = self.loss.held_out(self.average, batch, kept, self.data.validation, draws)
            for name, value in (("total", terms.total), *terms.parts.items()):
                found[name] = found.get(name, 0.0) + float(value) * (len(part) / len(rows))
        return found

    def _not_finite(self, terms: Terms) -> str:
        lost = next((name for name, value in terms.parts.items() if not torch.isfinite(value)), None)
        cause = "gradient" if lost is None else f"loss in {'weights' if lost == 'match' else lost}"
        return (
            f"training stopped at step {self.progress.step}: the {cause} is not finite; lower the learning "
            f"rate (now {self.config.learning_rate}). The last good state is in {self.folder}"
        )

    def save(self) -> None:
        """Write the state to go on from, then the checkpoint to sample from; the first process does."""
        if self.processes.first or self.processes.sharded:
            self.write(self.tensors())
        self.saved = self.progress.step

    def tensors(self) -> dict[str, Tensor]:
        """Everything that an exact resume needs, in the first process; all take part where each has a part of the model.

        Before the first step the averages are the weights: they are left out.
        """
        averages = {}
        if self.progress.step:
            averages = pack("average", self.average.state_dict()) | pack("best", self.best_average)
        return self.processes.collect(
            {
                **pack("raw", self.model.state_dict()),
                **averages,
                **pack("optimizer", optimizer_tensors(self.model, self.optimizer)),
                **pack("adversary", self.adversary.tensors() if self.adversary is not None else {}),
                "generator": self.generator.get_state(),
            }
        )

    def write(self, tensors: StateDict) -> None:
        """Write the files of `tensors`, in the first process: before the first step there is nothing to sample from."""
        if not self.processes.first:
            return
        p = self.progress
        counters = {
            runs.RUN: self.header.identity,
            "step": str(p.step),
            "best": p.best.hex(),
            "best_step": str(p.best_step),
            "stale": str(p.stale),
        }
        checkpoint.write(self.folder / runs.STATE, tensors, counters)
        self.saved = p.step
        if not p.step:
            return
        # before the first evaluation no weights are the best; the initial ones are the worst
        best, step = ("best", p.best_step) if p.best_step else ("average", p.step)
        weights = unpack("raw", tensors), unpack(best, tensors)
        runs.write_checkpoint(
            self.folder, *weights, self.coordinates, self.frame, step, p.step, self.header.identity
        )

    def complete(self) -> None:
        """Write the checkpoint of the state that was restored, where the run was killed between the two."""
        step = self.progress.step
        if self.processes.any(
            self.processes.first and step > 0 and runs.checkpoint_step(self.folder, self.header) != step
        ):
            self.save()

    def restore(self) -> None:
        """Go on from the folder's state: weights, averages, moments, random numbers, counters."""
        path = self.folder / runs.STATE
        found = checkpoint.read(path)
        runs.require_own(found, path, self.header)
        with reading(path, "restore it, or train the run again in another folder"):
            who = str(path)
            m, raw = found.metadata, unpack("raw", found.state)
            initial = raw if int(m["step"]) == 0 else {}  # see `tensors`
            load_weights(self.average, unpack("best", found.state) or initial, who)
            self.best_average = {k: v.clone() for k, v in self.average.state_dict().items()}
            load_weights(self.model, raw, who)
            load_weights(self.average, unpack("average", found.state) or initial, who)
            restore_optimizer(self.model, self.optimizer, unpack("optimizer", found.state))
            if self.adversary is not None:
                self.adversary.restore(unpack("adversary", found.state))
            self.generator.set_state(found.state["generator"])
            self.progress = Progress(
                int(m["step"]), float.fromhex(m["best"]), int(m["best_step"]), int(m["stale"])
            )
        self.saved = self.progress.step
        if self.processes.first:
            runs.cut_metrics(self.folder, self.progress.step)


def _check_shares(config: TrainConfig, processes: Processes) -> None:
    """`InputError` where the processes cannot share each part of a batch evenly."""
    size, behaviour = config.batch_size, config.behaviour
    processes.share("batch_size", size)
    processes.share("the share behaviour.sampled of batch_size", round(behaviour.sampled * size))
    if behaviour.beyond:
        processes.share("the share behaviour.beyond of batch_size", max(1, round(behaviour.beyond * size)))


def _prompts(zoo: Zoo, rows: list[int], encoder: TextEncoder) -> PromptBatch:
    prompts = [Prompt(zoo.records[i].classes) for i in rows]
    names = zoo.data.class_names
    return encode_prompts(encoder, prompts, zoo.architecture.classes, names)


def _walk(zoo: Zoo, rows: list[int]) -> Iterator[tuple[Tensor, StateDict]]:
    """Some networks of a zoo, a shard at a time; `InputError` names the first that is not finite."""
    for positions, state in zoo.by_shard(rows):
        for name, tensor in state.items():
            if tensor.sum().isfinite():  # one pass without a copy; a sum may also overflow
                continue
            bad = ~tensor.reshape(len(tensor), -1).isfinite().all(dim=1)
            if bad.any():
                record = zoo.records[rows[int(positions[bad.nonzero()[0, 0]])]]
                raise InputError(
                    f"{name} of network {record.id} of {zoo.path} is not finite; build the zoo again, with a lower "
                    "learning rate if training it was what failed"
                )
        yield positions, state


def _batches(zoo: Zoo, rows: list[int], prompts: PromptBatch) -> Iterator[tuple[StateDict, Tensor]]:
    """One walk over some networks of a zoo, with the logits that they have."""
    for positions, state in _walk(zoo, rows):
        yield state, prompts.present[positions]


def _encode(coordinates: Coordinates, zoo: Zoo, rows: list[int], prompts: PromptBatch) -> Tensor:
    layout = coordinates.layout
    z = large_zeros(len(rows), layout.tokens, layout.width)
    for positions, state in _walk(zoo, rows):
        z[positions] = coordinates.encode(state, prompts.present[positions])
    return z


def _warmup_cosine(step: int, config: TrainConfig) -> float:
    return min(1.0, (step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def start(
    zoo: Zoo, config: TrainConfig, folder: Path, device: str = "cpu", processes: Processes = Processes()
) -> Trainer:
    """A new run in an empty folder; `InputError` where another process begins one there."""
    require_apart(folder, zoo.path)
    processes.first_alone(lambda: _require_free(zoo.path, folder))
    trainer = Trainer(zoo, config, folder, device, processes)
    tensors = trainer.tensors()

    def begin() -> None:
        with _writing(folder):
            _require_free(zoo.path, folder)  # another command may have come first
            unfinished.begin(folder, WORK)
            runs.write_header(folder, trainer.header)
            trainer.write(tensors)
            unfinished.finish(folder)

    processes.first_alone(begin)
    return trainer


def _again(zoo: Path, folder: Path) -> str:
    return f"weightflow train {zoo} --out {folder} --resume"


def _require_free(zoo: Path, folder: Path) -> None:
    if is_begun(folder):
        raise InputError(
            f"{folder} is not empty; choose another name, or go on with it: {_again(zoo, folder)}"
        )
    unfinished.require_free(folder, WORK)


@contextmanager
def _writing(folder: Path, processes: Processes = Processes()) -> Iterator[None]:
    """Hold the run's folder, the first process for all; `InputError` at once where another command does."""
    if not processes.first:
        yield
        return
    with holding(folder / unfinished.LOCK, wait=False) as mine:
        if not mine:
            raise InputError(
                f"another process is training in {folder}; wait until it ends, or choose another folder"
            )
        yield


def _told(metrics: Mapping[str, int | float]) -> str:
    """An evaluation as text."""
    weights, behaviour = (metrics[f"held_out_{part}"] for part in ("match", "behaviour"))
    return f"held-out {metrics['held_out']:.3f} (weights {weights:.3f}, behaviour {behaviour:.3f})"


def is_begun(folder: Path) -> bool:
    """Whether the folder holds a run that can go on; one that was killed before its first state cannot."""
    return runs.has_config(folder) and not unfinished.is_unfinished(folder, WORK)


# what a run that has begun may change: how long it goes on, and when it looks
CHANGEABLE = ("steps", "patience", "evaluate_every", "save_every")


def resume(
    zoo: Zoo,
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    processes: Processes = Processes(),
) -> Trainer:
    """Go on with a run; `changes` to its settings may lengthen it.

    Bit for bit on the same device with the same number of processes; up to rounding with others.

    `InputError` where its zoo is not the one it began with, or where a setting cannot change any more.
    """
    header = runs.read_header(folder)
    if zoo.architecture != header.architecture:
        raise InputError(
            f"{folder} generates {header.architecture.to_json()}; the networks of {zoo.path} are "
            f"{zoo.architecture.to_json()}: one run has one architecture"
        )
    if zoo.identity != header.zoo.identity:
        raise InputError(
            f"{folder} was trained on the zoo {header.zoo.path} ({header.zoo.identity[:12]}); {zoo.path} is "
            f"{zoo.identity[:12]}: give the zoo it began with"
        )
    require_file(folder / runs.STATE)
    config = _changed(header.config, changes or {}, folder)
    trainer = Trainer(zoo, config, folder, device, processes)
    trainer.header = replace(trainer.header, identity=header.identity)  # as it began
    with _writing(folder, processes):
        trainer.restore()
        trainer.complete()
    if config != header.config:
        if config.steps < trainer.progress.step:
            raise InputError(
                f"{folder} has taken {trainer.progress.step} steps already; steps={config.steps} is less"
            )
        with _writing(folder, processes):
            if processes.first:
                runs.write_header(folder, trainer.header)
    return trainer


def _identity(header: runs.RunHeader) -> str:
    """What tells a run from others: its zoo, text vectors, shapes, and the settings that stay as they are."""
    kept = {
        name: value
        for name, value in _flat(settings.to_dict(header.config)).items()
        if name not in CHANGEABLE
    }
    return digest_of(
        {
            "zoo": header.zoo.identity,
            "encoder": header.encoder,
            "architecture": header.architecture.to_dict(),
            "layout": header.layout.to_dict(),
            "settings": kept,
        }
    )


def _changed(config: TrainConfig, changes: Mapping[str, Any], folder: Path) -> TrainConfig:
    """The settings of a run with some changed; `InputError` names one that cannot change."""
    before = settings.to_dict(config)
    after = settings.build(TrainConfig, settings.replace_nested(before, changes))
    own, asked = _flat(before), _flat(settings.to_dict(after))
    for name in sorted(own.keys() | asked.keys()):
        if own.get(name) != asked.get(name) and name not in CHANGEABLE:
            raise InputError(
                f"{folder} has begun with {name} = {own.get(name)}, which cannot become {asked.get(name)}; what can "
                f"change is {', '.join(CHANGEABLE)}: begin another run for the rest"
            )
    return after


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = dict[str, Any]()
    for name, value in tables.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
