"""The base of a branched zoo: one network of all classes, from which every other is fine-tuned.

A branch starts with the base's layers and, for its last one, the base's rows of its own classes. Rows of
classes that were held out start at zero: the base has never seen them (T2W, arXiv:2508.13633; Tina,
arXiv:2405.14132).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from canon.errors import InputError
from canon.io import checkpoint
from canon.types import StateDict
from weightflow.batched.class_axes import gather_classes, scatter_classes
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_many
from weightflow.networks.architectures import Architecture
from weightflow.zoo.network_file import write_network
from weightflow.zoo.recipe import ZooRecipe
from weightflow.zoo.store import BASE_FILE

BASE = "base"
# beyond every seed of the zoo's own networks
BASE_SEED = 2**20 - 1


def trained_base(folder: Path, recipe: ZooRecipe) -> StateDict:
    """The base of the zoo in `folder`, over all classes of the data set; trained where it is not there or damaged.

    It is trained on the classes that nothing is held out from; rows of the others are zero.
    """
    data, task = recipe.data, Task(recipe.dataset, recipe.known_classes())
    architecture = dataclasses.replace(recipe.make_architecture(), classes=len(task.classes))
    path = folder / BASE_FILE
    if not _is_sound(path):
        seed = recipe.seed * 2**20 + BASE_SEED
        write_network(
            path,
            architecture,
            train_many(architecture, data, [task], [seed], recipe.base).state,
            task.classes,
        )
    stack = {name: tensor.unsqueeze(0) for name, tensor in checkpoint.read(path).state.items()}
    ordered = {name: stack[name] for name in architecture.shapes}
    return scatter_classes(architecture, ordered, [task])


def _is_sound(path: Path) -> bool:
    try:
        checkpoint.read(path)
    except InputError:
        return False
    return True


def branches(architecture: Architecture, base: StateDict, tasks: Sequence[Task]) -> StateDict:
    """Where each task's network starts: `base` (one network, all classes) cut to the task's logits."""
    copies = {name: tensor.expand(len(tasks), *tensor.shape[1:]) for name, tensor in base.items()}
    return {n: t.clone() for n, t in gather_classes(architecture, copies, tasks).items()}
