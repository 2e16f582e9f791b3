"""Many prompts, many networks: generated populations are written as zoos, so that every tool reads them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from canon.errors import InputError
from weightflow.sample import Flow, SampleConfig
from weightflow.text import Prompt
from weightflow.zoo.store import Record, read_manifest, write_zoo


def read_prompts(classes: str | None, source: Path | None, only: tuple[str, ...] = ()) -> list[Prompt]:
    """Prompts from the command line, from a file, or from standard input (-): one a line.

    `only` are the classes of a run whose networks all have one task: they go without saying.
    """
    if only and classes is None and source is None:
        return [Prompt(only)]
    if (classes is None) == (source is None):
        raise InputError('give either --classes "three, seven, nine" or --prompts FILE')
    if classes is not None:
        return [Prompt.parse(classes)]
    if str(source) == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(str(source)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the prompts in {source} cannot be read: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{source} holds no prompt; write one a line, for instance: three, seven, nine")
    return [Prompt.parse(line) for line in lines]


def generate_zoo(
    flow: Flow,
    prompts: list[Prompt],
    count: int,
    seed: int,
    config: SampleConfig,
    folder: Path,
    progress: Callable[[int], None] = lambda networks: None,
) -> dict[str, Any]:
    """`count` networks for each prompt, written as a zoo with lineage "generated".

    Returns how many there are and the seconds that generating took. An earlier generated zoo in the
    folder is replaced, anything else is refused.
    """
    _refuse_other_content(folder)
    flow.prompts(prompts)  # every prompt is checked before the first network is made
    asked = [prompt for prompt in prompts for _ in range(count)]
    seeds = [seed + i for _ in prompts for i in range(count)]
    states, begin = [], time.perf_counter()
    for rows in torch.arange(len(asked)).split(config.batch_size):
        part = rows.tolist()
        states.append(flow.sample([asked[i] for i in part], [seeds[i] for i in part], config))
        progress(len(part))
    seconds = time.perf_counter() - begin
    state = {name: torch.cat([s[name] for s in states]) for name in states[0]}
    records = [
        Record(
            id=f"g{row:06d}",
            seed=seeds[row],
            dataset=flow.header.zoo.dataset,
            split="generated",
            classes=prompt.classes,
            lineage="generated",
        )
        for row, prompt in enumerate(asked)
    ]
    header = {
        "architecture": flow.architecture.to_dict(),
        "dataset": flow.header.zoo.dataset,
        "lineage": "generated",
        "recipe": {"run": str(flow.folder.resolve()), "method": config.method, "steps": config.steps},
    }
    write_zoo(folder, header, state, records)
    return {"zoo": str(folder), "networks": len(asked), "seconds": seconds}


def _refuse_other_content(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_dir() and (folder / "zoo.json").exists():
        if read_manifest(folder).get("lineage") == "generated":
            return
        raise InputError(f"{folder} holds a zoo of trained networks; choose another name")
    raise InputError(f"{folder} is not an empty folder; choose another name")
