"""Verify the files of a run or a saved generator against their digests."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.constants import CONFIG_NAME

from canon.errors import InputError
from canon.io.files import read_bounded
from canon.validation import Invalid, parse_json
from weightflow.generator.assets import files_of, with_own_files
from weightflow.text.table_encoder import TableEncoder
from weightflow.training.run_store import CONFIG, LIMIT, STATE, TABLE, RunHeader, read_header, verify_run


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
        if (folder / TABLE).exists():
            found = TableEncoder(folder / TABLE).identity
            if found != header.encoder:
                problems.append(f"{folder / TABLE} is {found}, and the networks need {header.encoder}")
    except InputError as error:
        problems.append(str(error))
    for inner in sorted(folder.glob(f"*/{CONFIG}")):
        problems += verify_run(inner.parent)
    return list(dict.fromkeys(problems))


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
