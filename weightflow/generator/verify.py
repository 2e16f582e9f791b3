"""Verify the files of a run or a saved generator against their digests."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.constants import CONFIG_NAME
from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import require_same
from canon.io.files import read_bounded, reading
from canon.validation import Invalid, parse_json
from weightflow.generator.assets import files_of, with_own_files
from weightflow.models.residual import make_generator
from weightflow.text.table_encoder import TableEncoder
from weightflow.training.run_store import (
    CHECKPOINT,
    CONFIG,
    LIMIT,
    STATE,
    TABLE,
    RunHeader,
    read_checkpoint,
    read_header,
    verify_run,
)
from weightflow.training.state_dicts import unpack


def verify_generator(folder: Path) -> list[str]:
    """One line for each missing or damaged file of a run or saved generator; empty if there is none.

    The table of vectors that a saved generator brings is compared with the identity in its settings. The run of the
    hypernetwork that a report trained, in a folder of its own, is looked at too.
    """
    problems = verify_run(folder)
    try:
        header = with_own_files(read_header(folder), folder)
        if (folder / CONFIG_NAME).exists():
            problems += _own_files(folder, header)
        elif not (folder / STATE).exists():
            problems.append(f"{folder / STATE} is missing; restore it, or the training cannot go on")
        if not problems:
            _check_shapes(folder, header)
        if (folder / TABLE).exists():
            found = TableEncoder(folder / TABLE).identity
            if found != header.encoder:
                problems.append(f"{folder / TABLE} is {found}, and the networks need {header.encoder}")
    except InputError as error:
        problems.append(str(error))
    for inner in sorted(folder.glob(f"*/{CONFIG}")):
        problems += verify_run(inner.parent)
    return list(dict.fromkeys(problems))


def _check_shapes(folder: Path, header: RunHeader) -> None:
    """`InputError` where the checkpoint is of another model than the settings describe.

    The width of the text encoder's vectors is taken from the checkpoint: the encoder may not be at hand.
    """
    path = folder / CHECKPOINT
    weights = read_checkpoint(folder, header)

    def shapes(width: int) -> dict[str, Tensor]:
        model = make_generator(
            header.config.model,
            header.config.objective.schedule,
            weights.coordinates.layout,
            width,
            header.architecture.classes,
            unpack("anchors", weights.average),
        )
        return dict(model.state_dict())

    with reading(path, "restore it, or train the run again"), torch.device("meta"):
        one, two = shapes(1), shapes(2)
        widths = {
            1 + (found - a) // (b - a)
            for name in one.keys() & weights.average.keys()
            for found, a, b in zip(
                weights.average[name].shape, one[name].shape, two[name].shape, strict=False
            )
            if a != b
        }
        expected = shapes(widths.pop()) if len(widths) == 1 and min(widths) > 0 else one
        require_same(expected, weights.average, "the model of the run's settings", str(path))


def _own_files(folder: Path, header: RunHeader) -> list[str]:
    """What is wrong with the files that a saved generator alone has."""
    problems = [f"{folder / name} is missing; save the generator again" for name in files_of(header)
                if not (folder / name).exists()]  # fmt: skip
    path = folder / CONFIG_NAME
    try:
        found = parse_json(read_bounded(path, LIMIT))
        if not isinstance(found, dict) or found.get("architecture") != header.architecture.to_dict():
            problems.append(f"{path} names another architecture than layout.json; save the generator again")
    except (InputError, Invalid) as error:
        problems.append(f"{path} is damaged ({error}); save the generator again")
    return problems
