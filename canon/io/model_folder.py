"""Folders as Hugging Face's libraries write them: weights in one file or in shards with an index, and files beside.

    config.json                                   what the network was built from
    model.safetensors                             its weights, or
    model.safetensors.index.json                  {"metadata": …, "weight_map": {tensor: shard}}
    model-00001-of-00002.safetensors …

A network is written back into shards of the same names, with the files beside it, so that the folder loads
wherever the first one did. What follows the units' order and is not part of the network (optimizers) is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from canon.errors import InputError
from canon.io.files import atomic_write, read_bounded
from canon.io.folders import new_folder
from canon.types import select_tensors
from canon.validation import Invalid, parse_json, record, shown, table, text

INDEX_LIMIT = 100_000_000  # bytes
BESIDE_LIMIT = 2**30  # bytes of files that are copied with the weights, all together
_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "open_clip_model", "open_clip_pytorch_model")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# Files of weights in any format: those that are not read are left out of what is written.
_WEIGHTS = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".th",
    ".tar",
    ".pt2",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".ot",
    ".npz",
    ".npy",
    ".pkl",
    ".index.json",
    ".onnx_data",
]
_INDEX = record(
    {"weight_map": table(text(r"(?s).+", 10_000), text(r"[^/\\]+\.(safetensors|bin)", 1000))},
    {"metadata": lambda found: found},
)


@dataclass(frozen=True)
class ModelFolder:
    """Where a folder's tensors lie.

    `files` are the names of its weight files; `shard_of` says which of them holds a tensor, where there is an
    index of that name; `beside` are the paths, relative to the folder, that are copied and `left_out` those that
    are not.
    """

    path: Path
    files: tuple[str, ...]
    index: str | None = None
    shard_of: Mapping[str, str] = field(default_factory=dict)
    metadata: Any = None
    beside: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def check_part(self, name: str, state: Mapping[str, Tensor]) -> None:
        """`InputError` unless the weight file `name` holds the tensors that the index says, and no others."""
        if self.index is None:
            return
        wanted = {key for key, shard in self.shard_of.items() if shard == name}
        missing, extra = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
        if missing or extra:
            told = [f"it lacks {shown(missing[0])}"] if missing else []
            told += [f"it also holds {shown(extra[0])}"] if extra else []
            raise InputError(
                f"{self.path / name} is not the shard that {self.index} describes: {' and '.join(told)}; "
                "the folder mixes shards of two models, or its download is incomplete"
            )


def find(path: Path) -> ModelFolder:
    """The weight files of a folder.

    Raises `InputError` where there are none, where the index names a file that is not there, or where it holds
    an adapter in a network's place.
    """
    for stem, suffix in ((s, e) for e in (".safetensors", ".bin") for s in _STEMS):
        if (path / f"{stem}{suffix}").is_file():
            return _with_others(ModelFolder(path, (f"{stem}{suffix}",)))
        if (path / f"{stem}{suffix}.index.json").is_file():
            return _with_others(_sharded(path, f"{stem}{suffix}.index.json"))
    if any((path / name).is_file() for name in _ADAPTERS) or (path / "adapter_config.json").is_file():
        raise InputError(
            f"{path} holds low-rank factors (an adapter), not a network; give the network that they were trained on, "
            "and carry the factors over with `canon apply --kind lora`"
        )
    shards = sorted(p.name for p in path.iterdir() if _SHARD.fullmatch(p.name))
    if shards:
        stem, suffix = _SHARD.fullmatch(shards[0]).group("stem", "suffix")  # type: ignore[union-attr]
        raise InputError(
            f"{path} holds shards and no {stem}{suffix}.index.json, which says what they hold; download that, too"
        )
    single = [
        p.name for p in path.iterdir() if p.is_file() and p.suffix.lower() in (".safetensors", ".bin", ".pt")
    ]
    single = [
        name
        for name in single
        if name not in ("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin")
    ]
    names = ", ".join(f"{stem}.safetensors" for stem in _STEMS[:1]) + " or pytorch_model.bin"
    found = f"; it has {', '.join(sorted(single)[:5])}: name that file" if single else ""
    raise InputError(f"{path} is a folder without weights: expected {names}, or their index{found}")


def refuse_part(path: Path) -> None:
    """`InputError` that says what to give, where `path` is one shard of several or an index."""
    found = _SHARD.fullmatch(path.name)
    if found is not None and int(found["count"]) > 1:
        raise InputError(
            f"{path} is one shard of {int(found['count'])}; give the folder that holds them all: {path.parent}"
        )
    if path.name.endswith(".index.json"):
        raise InputError(f"{path} is an index; give the folder that holds its shards: {path.parent}")


def _sharded(path: Path, name: str) -> ModelFolder:
    place = path / name
    try:
        found = _INDEX(parse_json(read_bounded(place, INDEX_LIMIT), INDEX_LIMIT))
    except Invalid as error:
        raise InputError(f"{place} is damaged: {error}; download it again") from None
    shard_of: dict[str, str] = found["weight_map"]
    files = tuple(sorted(set(shard_of.values())))
    if not files:
        raise InputError(f"{place} names no tensor; download it again")
    missing = [shard for shard in files if not (path / shard).is_file()]
    if missing:
        raise InputError(
            f"{place} names {len(files)} shards and {', '.join(map(shown, missing[:3]))} is not there; download it"
        )
    counts = {match["count"] for shard in files if (match := _SHARD.fullmatch(shard))}
    if len(counts) > 1:
        raise InputError(
            f"{place} names shards of {' and '.join(str(int(c)) for c in sorted(counts))}; it mixes shards of two models"
        )
    return ModelFolder(path, files, name, shard_of, found.get("metadata"))


def _with_others(found: ModelFolder) -> ModelFolder:
    """`found` with the other files of its folder: those that are copied, and those that are not.

    These are weights, and files from where all of them take more than `BESIDE_LIMIT`.
    """
    beside: list[str] = []
    left_out: list[str] = []
    size = 0
    for folder, folders, files in os.walk(found.path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            place = Path(folder, name)
            relative = place.relative_to(found.path).as_posix()
            if relative in found.files or relative == found.index or name.startswith("."):
                continue
            weights = name.lower().endswith(tuple(_WEIGHTS)) or not _own(place, found.path)
            size += 0 if weights else place.stat().st_size
            (left_out if weights or size > BESIDE_LIMIT else beside).append(relative)
    return ModelFolder(
        found.path, found.files, found.index, found.shard_of, found.metadata, tuple(beside), tuple(left_out)
    )


def _own(place: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, or, through a link, in the cache of the Hub that the folder belongs to.

    A folder from elsewhere may hold links to anything.
    """
    real, home = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    blobs = home.parent.parent / "blobs"
    return real.is_file() and (real.is_relative_to(home) or real.parent == blobs)


def write(
    path: str | os.PathLike[str],
    folder: ModelFolder,
    state: Mapping[str, Tensor],
    write_part: Callable[[Path, Mapping[str, Tensor]], None],
) -> None:
    """Write `state` as a folder like `folder`, all of it or nothing; `write_part` writes one file of weights."""
    with new_folder(path) as made:
        for name in folder.beside:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.path / name, made / name)
        for name in folder.files:
            here = {key for key, shard in folder.shard_of.items() if shard == name}
            held = state if folder.index is None else select_tensors(state, here)
            write_part(made / name, held)
        if folder.index is not None:
            index = {"metadata": folder.metadata} if folder.metadata is not None else {}
            index |= {"weight_map": dict(folder.shard_of)}
            atomic_write(made / folder.index, json.dumps(index, indent=2) + "\n")
