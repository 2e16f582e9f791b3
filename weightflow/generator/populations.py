"""Many prompts, many networks: generated populations are written as zoos, so that every tool reads them.

Networks are written as they come, a shard for each group of prompts, and the manifest last, or when the
work is interrupted: what is finished then is a sound zoo.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from canon.errors import InputError
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.zoo import unfinished
from weightflow.zoo.store import Record, read_manifest, write_manifest, write_shard

WORK = "weightflow sample"


@dataclass(frozen=True)
class Made:
    """The networks of one prompt, written. `seconds` is its share of the time that its group took."""

    prompt: Prompt
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float


def prompts_in(lines: Iterable[str], name: str) -> Iterator[Prompt]:
    """One prompt a line, as the lines come; empty lines are left out. `InputError` says which line is bad."""
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = True
        try:
            prompt = Prompt.parse(line.strip())
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        yield prompt
    if not found:
        raise InputError(f"{name} holds no prompt; write one a line, for instance: three, seven, nine")


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file, checked."""
    try:
        with open(path, encoding="utf-8") as file:
            return list(prompts_in(file, str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompts in {path} cannot be read: {error}") from None


def generate_zoo(
    flow: Flow,
    prompts: Iterable[Prompt],
    count: int,
    seed: int,
    config: SampleConfig,
    folder: Path,
) -> Generator[Made, None, None]:
    """`count` networks for each prompt, written as a zoo with lineage "generated"; tells of each prompt.

    A list of prompts is checked before the first network is made and done in groups of the batch size; of
    any other iterable each prompt is done as it comes. Stopped halfway, what is finished is a zoo. An earlier
    generated zoo in the folder is replaced at the end (until then the new one lies beside it; where the work
    fails the earlier one stays), anything else is refused.
    """
    if count < 1:
        raise InputError(f"--count is {count}; ask for 1 network or more")
    unfinished.recover(folder)
    earlier = _holds_earlier(folder)
    place = unfinished.beside(folder) if earlier else folder
    if earlier and (place / "zoo.json").exists() and read_manifest(place).get("lineage") == "generated":
        shutil.rmtree(place)  # its writer was killed before it could put it in its place
    group = 1
    if isinstance(prompts, Sequence):
        flow.prompts(prompts)
        group = max(1, config.batch_size // count)
    header = {
        "architecture": flow.architecture.to_dict(),
        "dataset": flow.header.zoo.dataset,
        "data": flow.header.data.to_dict(),
        "lineage": "generated",
        "recipe": {"run": str(flow.folder.resolve()), "method": config.method, "steps": config.steps},
    }
    shards, waiting, failed = 0, iter(prompts), False
    try:
        while part := list(islice(waiting, group)):
            made = _make(flow, part, count, seed, config, place, shards, shards * group * count)
            shards += 1
            yield from made
    except Exception:
        failed = True
        raise
    finally:
        if failed and earlier:
            shutil.rmtree(place, ignore_errors=True)
        elif shards:
            write_manifest(place, header, shards)
            unfinished.finish(place)
            if earlier:
                unfinished.exchange(place, folder)


def _make(
    flow: Flow,
    prompts: Sequence[Prompt],
    count: int,
    seed: int,
    config: SampleConfig,
    folder: Path,
    shard: int,
    first: int,
) -> list[Made]:
    begin, seeds = time.perf_counter(), tuple(seed + i for i in range(count))
    asked = [prompt for prompt in prompts for _ in seeds]
    state = flow.sample_states(asked, seeds * len(prompts), config)
    seconds = (time.perf_counter() - begin) / len(prompts)
    records = [
        Record(
            id=f"g{first + row:06d}",
            seed=seeds[row % count],
            dataset=flow.header.zoo.dataset,
            split="generated",
            classes=prompt.classes,
            lineage="generated",
        )
        for row, prompt in enumerate(asked)
    ]
    if shard == 0:
        unfinished.begin(folder, WORK)
    write_shard(folder, shard, state, records)
    return [
        Made(prompt, tuple(r.id for r in records[i * count : (i + 1) * count]), seeds, seconds)
        for i, prompt in enumerate(prompts)
    ]


def _holds_earlier(folder: Path) -> bool:
    """Whether the folder holds a generated zoo; `InputError` where it holds anything else."""
    if (folder / "zoo.json").exists() and not unfinished.is_unfinished(folder, WORK):
        if read_manifest(folder).get("lineage") == "generated":
            return True
        raise InputError(f"{folder} holds a zoo of trained networks; choose another name")
    unfinished.require_free(folder, WORK)
    return False
