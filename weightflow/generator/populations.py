"""Generate populations, written as zoos so that every command reads them.

Networks are written as they come, in shards of bounded size, and the manifest last, or when the work is
interrupted: what is finished then is a sound zoo.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from canon.errors import InputError
from canon.io.files import read_bounded
from canon.io.folders import require_apart, require_place, require_space, writing_into
from canon.types import StateDict
from weightflow.executors import Executor, InProcess
from weightflow.flow.sampling_config import SampleConfig
from weightflow.folders import GENERATED
from weightflow.generator.generator import Flow
from weightflow.text import Prompt
from weightflow.zoo import unfinished
from weightflow.zoo.store import Record, has_manifest, read_manifest, write_manifest, write_shard

WORK = "weightflow sample"
LONGEST = 1 << 26
"""Bytes of a file of prompts: a million of them."""
CHECKED = 1000
"""Prompts that are encoded together before the first network is made."""
SHARD_ENTRIES = 2**25
"""Numbers of the networks that are in memory at once: a shard has at most 128 MiB, or one network."""


@dataclass(frozen=True)
class SampledPrompt:
    """The networks of one prompt, written. `seconds` is what they took, or their share of a common shard."""

    prompt: Prompt
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float


def prompts_in(lines: Iterable[str], name: str, known: Collection[str] = ()) -> Iterator[Prompt]:
    """One prompt a line, as the lines come; empty lines are left out, and so is a byte-order mark.

    `InputError` says which line is bad.
    """
    found, parse = False, _parsed(known)
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix("\ufeff").strip()
        if not line:
            continue
        found = True
        try:
            prompt = parse(line)
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        yield prompt
    if not found:
        raise InputError(f"{name} holds no prompt; write one a line, for instance: three, seven, nine")


def read_prompts(path: Path, known: Collection[str] = ()) -> list[Prompt]:
    """All prompts of a file, checked."""
    try:
        lines = read_bounded(path, LONGEST).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"the prompts in {path} cannot be read: {error}") from None
    return list(prompts_in(lines, str(path), known))


def _in_parts(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    waiting = iter(prompts)
    while some := list(islice(waiting, size)):
        yield some


def _parsed(known: Collection[str]) -> Callable[[str], Prompt]:
    """Lines to prompts; lines that are equal share one, since a file may ask a million times for the same."""
    return lru_cache(maxsize=100_000)(lambda line: Prompt.parse(line, known))


@dataclass(frozen=True)
class _Part:
    """Networks of one prompt within one shard: those with the seeds number `start` to `stop`."""

    prompt: Prompt
    start: int
    stop: int


def generate_zoo(
    flow: Flow,
    prompts: Iterable[Prompt],
    count: int,
    seed: int,
    config: SampleConfig,
    folder: Path,
    progress: Callable[[int], None] = lambda networks: None,
    stop: Callable[[], bool] = lambda: False,
    executor: Executor | None = None,
) -> Generator[SampledPrompt, None, None]:
    """`count` networks for each prompt, written as a zoo with lineage "generated"; tells of each prompt.

    A list of prompts is checked before the first network is made, and several share a shard; of any other
    iterable each prompt is done as it comes. `progress` hears of networks that are on disk. Before each shard
    `stop` is asked; stopped or failed halfway, what is finished is a zoo. An earlier generated zoo in the folder
    is replaced at the end (until then the new one lies beside it; where the work fails the earlier one stays),
    anything else is refused. An executor makes the same networks in the same order; its workers read the
    generator's folder.

    `InputError` where another process samples into the folder, where it belongs to the generator's own, and where the
    networks would not fit on the disk.
    """
    executor = executor or InProcess()
    if not isinstance(prompts, Sequence) and not isinstance(executor, InProcess):
        raise InputError(
            "prompts that come one by one are answered one by one, by one worker; give a file of them"
        )
    if count < 1:
        raise InputError(f"--count is {count}; ask for 1 network or more")
    if not -(2**63) <= seed <= 2**63 - count:
        raise InputError(
            f"--seed is {seed}; with {count} network{'s' * (count > 1)} it is a number from -2^63 to 2^63 - {count}"
        )
    require_apart(folder, flow.folder)
    require_place(folder)
    if isinstance(prompts, Sequence):
        require_space(folder, count * len(prompts), 4 * flow.architecture.parameters, anew=True)
        for some in _in_parts(dict.fromkeys(prompts), CHECKED):
            flow.prompts(some)
    with _alone(folder):
        yield from _generated(flow, prompts, count, seed, config, folder, progress, stop, executor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the place of the next population beside `folder`, whatever lies there, for as long as it is made."""
    place = unfinished.beside(folder)
    try:
        with writing_into(place):
            yield
    except InputError as error:
        if str(place) not in str(error):
            raise
        raise InputError(str(error).replace(str(place), str(folder))) from None
    finally:
        with suppress(OSError):  # one of a killed process, and empty
            place.rmdir()


def _generated(
    flow: Flow,
    prompts: Iterable[Prompt],
    count: int,
    seed: int,
    config: SampleConfig,
    folder: Path,
    progress: Callable[[int], None],
    stop: Callable[[], bool],
    executor: Executor,
) -> Generator[SampledPrompt, None, None]:
    unfinished.recover(folder)
    earlier = _holds_earlier(folder)
    place = unfinished.beside(folder) if earlier else folder
    if earlier and has_manifest(place) and read_manifest(place).get("lineage") == GENERATED:
        unfinished.mark(place, WORK)  # its writer was killed before it could put it in its place
    header = {
        "architecture": flow.architecture.to_dict(),
        "dataset": flow.header.zoo.dataset,
        "data": flow.header.data.to_dict(),
        "lineage": GENERATED,
        "recipe": {"run": str(flow.folder.resolve()), "method": config.method, "steps": config.steps},
    }
    size = max(1, min(config.batch_size, SHARD_ENTRIES // flow.architecture.parameters))
    shards, failed, seconds, taken = 0, False, 0.0, deque[list[_Part]]()

    def asked() -> Iterator[tuple[int, list[_Part]]]:
        first = 0
        for parts in _parts(prompts, count, size):
            if stop():
                return
            taken.append(parts)
            yield first, parts
            first += sum(part.stop - part.start for part in parts)

    ids: list[str] = []
    making = executor.map(partial(_made, flow, seed, config), asked())
    try:
        begin = time.perf_counter()
        for state, records in making:
            parts = taken.popleft()
            if shards == 0:
                unfinished.begin(place, WORK)
            write_shard(place, shards, state, records)
            shards += 1
            seconds += (time.perf_counter() - begin) / len(parts)
            progress(len(records))
            made = [record.id for record in records]
            waiting = iter(made)
            for part in parts:
                ids += islice(waiting, part.stop - part.start)
                if part.stop == count:
                    yield SampledPrompt(part.prompt, tuple(ids), tuple(range(seed, seed + count)), seconds)
                    ids = []
            if not ids:
                seconds = 0.0
            begin = time.perf_counter()
    except Exception:
        failed = True
        raise
    finally:
        making.close()
        if failed and earlier:
            shutil.rmtree(place, ignore_errors=True)
        elif shards:
            write_manifest(place, header, shards)
            unfinished.finish(place)
            if earlier:
                unfinished.exchange(place, folder)


def _parts(prompts: Iterable[Prompt], count: int, size: int) -> Iterator[list[_Part]]:
    """Parts of at most `size` networks that are generated together: several whole prompts, or a part of
    one.
    """
    if isinstance(prompts, Sequence) and count <= size:
        waiting = iter(prompts)
        while some := list(islice(waiting, size // count)):
            yield [_Part(prompt, 0, count) for prompt in some]
        return
    for prompt in prompts:
        for start in range(0, count, size):
            yield [_Part(prompt, start, min(start + size, count))]


def _made(
    flow: Flow, seed: int, config: SampleConfig, shard: tuple[int, Sequence[_Part]]
) -> tuple[StateDict, list[Record]]:
    """The networks of one shard, numbered from its first one on, and what is recorded of them."""
    first, parts = shard
    asked = [(part.prompt, seed + place) for part in parts for place in range(part.start, part.stop)]
    state = flow.sample_states([prompt for prompt, _ in asked], [own for _, own in asked], config)
    records = [
        Record(
            id=f"g{first + row:06d}",
            seed=own,
            dataset=flow.header.zoo.dataset,
            split="generated",
            classes=flow.record_classes(prompt),
            lineage=GENERATED,
            words=prompt.words,
        )
        for row, (prompt, own) in enumerate(asked)
    ]
    return state, records


def _holds_earlier(folder: Path) -> bool:
    """Whether the folder holds a generated zoo; `InputError` where it holds anything else."""
    if has_manifest(folder) and not unfinished.is_unfinished(folder, WORK):
        if read_manifest(folder).get("lineage") == GENERATED:
            return True
        raise InputError(f"{folder} holds a zoo of trained networks; choose another name")
    unfinished.require_free(folder, WORK)
    return False
