"""Is a run, or a saved generator, what it was when it was written?"""

from __future__ import annotations

from pathlib import Path

from canon.errors import InputError
from weightflow.generator.assets import TABLE, with_own_files
from weightflow.text.table_encoder import TableEncoder
from weightflow.training.run_store import read_header, verify_run


def verify_generator(folder: Path) -> list[str]:
    """What is wrong with a run or a saved generator, one line a file; empty when all is well.

    The table of vectors that a saved generator brings is compared with the identity in its settings. The run of the
    hypernetwork that a report trained, in a folder of its own, is looked at too.
    """
    problems = verify_run(folder)
    if (folder / TABLE).exists():
        try:
            header = with_own_files(read_header(folder), folder)
            found = TableEncoder(folder / TABLE).identity
            if found != header.encoder:
                problems.append(f"{folder / TABLE} is {found}, and the networks need {header.encoder}")
        except InputError as error:
            problems.append(str(error))
    for inner in sorted(folder.glob("*/config.toml")):
        problems += verify_run(inner.parent)
    return list(dict.fromkeys(problems))
