"""Canonicalize a zoo: balance scales, then match weights to the running mean.

Networks of different tasks have different logits, so they are compared in a wider architecture with
one logit for every class of the data set: each network's rows are scattered to the classes they stand
for, absent classes stay zero. The frame is learned from evenly spaced networks that the generator may see,
as many as memory allows; all others are aligned to it afterwards, one shard in memory at a time. It is
stored beside the zoo, so that any network can follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import reading
from canon.io.folders import require_apart, require_space, writing_into
from canon.matching.population import align_many, align_to
from canon.types import StateDict
from weightflow.batched.class_axes import check_frame, gather_classes, scatter_classes, with_num_classes
from weightflow.batched.tasks import Task
from weightflow.device import on_device, usable_device
from weightflow.executors import Executor, InProcess
from weightflow.networks.architectures import Architecture
from weightflow.zoo import unfinished
from weightflow.zoo.data_changes import warn_of_changes
from weightflow.zoo.store import (
    FRAME,
    Record,
    Zoo,
    has_manifest,
    read_manifest,
    read_shard_records,
    remove_manifest,
    shard_path,
    write_manifest,
    write_shard,
)

WORK = "weightflow canonicalize"
# On 1,000 digits MLPs and 1,000 narrow heads, the share of variance about the mean that is left in networks the
# frame has not seen is the same (within 0.004) whether it was learned from all of them, from 500 or from 250.
MOST = 250
"""Networks that a frame is learned from, at most."""
MEMORY = 256 << 20
"""Bytes of weights that a frame is learned from, at most; but of `FEWEST` networks in any case."""
FEWEST = 16


def align_to_frame(
    zoo_architecture: Architecture, frame: StateDict, state: StateDict, tasks: Sequence[Task]
) -> StateDict:
    """Align stacked networks of any tasks to a frame, on the device of `computing_on`; their functions stay what they are."""
    data, device = tasks[0].data, matching_device()
    wide = with_num_classes(zoo_architecture, len(data.class_names))
    networks = on_device(scatter_classes(zoo_architecture, state, tasks), device)
    aligned = align_to(wide.spec, on_device(frame, device), networks)
    return gather_classes(zoo_architecture, on_device(aligned.state, "cpu"), tasks)


def matching_device() -> torch.device:
    """The device of `computing_on`, or the processor where that has no float64, which gains are judged in."""
    device = usable_device()
    return torch.device("cpu") if device.type == "mps" else device


def canonicalize_zoo(
    zoo: Zoo,
    out: Path,
    progress: Callable[[int], None] = lambda n: None,
    executor: Executor | None = None,
) -> None:
    """Write the canonical zoo and its frame to `out`; ids, tasks, seeds and accuracies are kept.

    Where it was stopped, the same call goes on: the frame and the finished shards are kept. Products of weights are
    taken on the device of `computing_on`, assignments are solved on the processor.

    `InputError` where another process writes there, where `out` is, lies within or holds the zoo, where it holds
    something else, and where the networks would not fit on the disk.
    """
    require_apart(out, zoo.path)
    _require_own(zoo, out)
    require_space(out, len(zoo), 4 * zoo.architecture.parameters)
    zoo.require_sound()
    warn_of_changes(zoo)
    with writing_into(out):
        _require_own(zoo, out)  # another command may have come first
        _write_canonical(zoo, out, progress, executor)


def _require_own(zoo: Zoo, out: Path) -> None:
    """`InputError` where the folder holds anything but the canonical form of this zoo, whole or begun."""
    if not (out / FRAME).exists() or unfinished.is_unfinished(out, WORK):
        unfinished.require_free(out, WORK)
    elif has_manifest(out) and _source(out) != zoo.identity:
        raise InputError(
            f"{out} holds the canonical form of another zoo than {zoo.path}; choose another name, or delete it"
        )


def _write_canonical(zoo: Zoo, out: Path, progress: Callable[[int], None], executor: Executor | None) -> None:
    frame = _frame_of(zoo, out)
    taken = deque[tuple[int, list[Record]]]()

    def missing() -> Iterator[list[int]]:
        for index, rows in enumerate(zoo.shard_rows):
            records = [zoo.records[row] for row in rows]
            if _is_written(out, index, [record.id for record in records]):
                progress(len(rows))
                continue
            taken.append((index, records))
            yield rows

    # all networks are aligned to the frame in the way that later networks are
    with closing((executor or InProcess()).map(partial(_followed, zoo, frame), missing())) as aligned:
        for state in aligned:
            index, records = taken.popleft()
            write_shard(out, index, state, records)
            progress(len(records))
    write_manifest(out, {**zoo.header, "canonical": {"source": zoo.identity}}, len(zoo.shard_rows))
    unfinished.finish(out)


def _followed(zoo: Zoo, frame: StateDict, rows: list[int]) -> StateDict:
    return align_to_frame(zoo.architecture, frame, zoo.load(rows), [zoo.records[row].task for row in rows])


def _frame_of(zoo: Zoo, out: Path) -> StateDict:
    """The frame that a stopped call left in `out`, or else a new one, written there."""
    if unfinished.is_unfinished(out, WORK) and (frame := _begun(zoo, out)):
        return frame
    wide = with_num_classes(zoo.architecture, len(zoo.data.class_names))
    seen = _evenly_spaced(zoo.rows("seen") or zoo.rows(), max(FEWEST, MEMORY // (4 * wide.parameters)))
    state = scatter_classes(zoo.architecture, zoo.load(seen), [zoo.records[i].task for i in seen])
    frame = on_device(align_many(wide.spec, on_device(state, matching_device())).frame, "cpu")
    if (out / FRAME).exists() and not unfinished.is_unfinished(out, WORK):
        unfinished.mark(out, WORK)  # it was complete and is damaged now: valid files are kept
        remove_manifest(out)
    else:
        unfinished.begin(out, WORK)
    checkpoint.write(out / FRAME, frame, {"source": zoo.identity})
    return frame


def _evenly_spaced(rows: Sequence[int], count: int) -> list[int]:
    """At most `count` and at most `MOST` of the rows, from the first on."""
    count = min(len(rows), MOST, count)
    return [rows[i * len(rows) // count] for i in range(count)]


def _begun(zoo: Zoo, out: Path) -> StateDict:
    """The frame in `out` where it is of this zoo; nothing where it is damaged or of another one."""
    try:
        found = checkpoint.read(out / FRAME)
    except InputError:
        return {}
    return dict(found.state) if found.metadata.get("source") == zoo.identity else {}


def _is_written(out: Path, index: int, ids: Sequence[str]) -> bool:
    path = shard_path(out, index)
    try:
        return path.exists() and [record.id for record in read_shard_records(path)] == list(ids)
    except InputError:
        return False


def is_canonical(zoo: Zoo) -> bool:
    """Whether the zoo lies in a frame of its own."""
    return "canonical" in zoo.manifest or (zoo.path / FRAME).exists()


def read_frame(zoo: Zoo) -> StateDict:
    """The frame of a canonical zoo; `InputError` says how to make one."""
    if not is_canonical(zoo):
        raise InputError(
            f"{zoo.path} is not canonical; run: weightflow canonicalize {zoo.path} --out {zoo.path}-canonical"
        )
    path = zoo.path / FRAME
    found = checkpoint.read(path)
    zoo.require_own_frame(found)
    frame = dict(found.state)
    checkpoint.require_finite(frame, str(path))
    with reading(path, "run weightflow canonicalize again"):
        check_frame(frame, zoo.architecture, len(zoo.data.class_names))
    return frame


def is_canonical_form_of(folder: Path, zoo: Zoo) -> bool:
    """Whether `folder` holds the complete canonical form of exactly this zoo."""
    if not has_manifest(folder):
        return False
    return _source(folder) == zoo.identity and not Zoo(folder).verify()


def _source(folder: Path) -> str | None:
    """Identity of the zoo that a canonical zoo was made of."""
    return read_manifest(folder).get("canonical", {}).get("source")
