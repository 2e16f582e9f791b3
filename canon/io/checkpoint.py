"""Read and write networks safely.

A network is a plain `state_dict`. `.safetensors` is the file to prefer: it cannot hold code. `.pt`,
`.pth` and `.bin` are pickles and are read with `weights_only=True`. `.pt2` (torch.export) holds the
program too; it is a program, so open only those whose origin you trust.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import ArchitectureMismatch, InputError
from canon.io import exported_program, hub, model_folder, safetensors, torch_pickle
from canon.io.container import Container, unwrap
from canon.io.dtypes import all_finite, computable, is_mask
from canon.io.files import atomic_open, require_file
from canon.io.folders import is_folder_name
from canon.io.formats import PICKLES, SUFFIXES, check_suffix, format_of
from canon.io.model_folder import ModelFolder
from canon.types import LazyState, State
from canon.validation import shown

__all__ = [
    "PICKLES",
    "SUFFIXES",
    "Checkpoint",
    "check_suffix",
    "read",
    "require_finite",
    "require_same",
    "with_counters_of",
    "write",
]


@dataclass(frozen=True)
class Checkpoint:
    """A network as a file holds it: tensors in the file's order, and what the file says beside them.

    Args:
        state: the tensors by name.
        metadata: texts by name, as safetensors files hold them.
        program: the exported program of a `.pt2` file.
        versions: what `nn.Module.state_dict` notes about its modules (a `.pt` file keeps it).
        path: the file, beside which a configuration may lie.
        container: what a trainer put around the tensors.
        format: the suffix of files of its format.
        folder: the folder that it came from, where it is one of Hugging Face's.

    Example:
        >>> import canon, torch
        >>> canon.Checkpoint({"w": torch.zeros(2)}).with_state({"w": torch.ones(2)}).state["w"]
        tensor([1., 1.])
    """

    state: State
    metadata: dict[str, str] = field(default_factory=dict)
    program: Any = None
    versions: Any = None
    path: Path | None = None
    container: Container | None = None
    format: str = ".pt"
    folder: ModelFolder | None = None

    @property
    def holds_ties(self) -> bool:
        """Whether two of its tensors are one."""
        places = [_place(tensor) for tensor in self.state.values() if tensor.numel()]
        return len(set(places)) < len(places)

    def with_state(self, state: Mapping[str, Tensor]) -> Checkpoint:
        """The same file with other numbers: keys, order, dtypes, metadata and tied tensors are kept.

        Of a `LazyState` no tensor is made yet; it must not hold tied tensors.
        """
        if isinstance(state, LazyState):
            lazy = LazyState(self.state, lambda name: state[name].to(self.state[name].dtype), self.state)
            return replace(self, state=lazy, metadata=dict(self.metadata))
        kept: dict[str, Tensor] = {}
        first: dict[tuple[Any, ...], str] = {}
        for name, old in self.state.items():
            owner = first.setdefault(_place(old), name) if old.numel() else name
            kept[name] = kept[owner] if owner != name else state[name].to(old.dtype)
        return replace(self, state=kept, metadata=dict(self.metadata))


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The network in a file, in a folder of Hugging Face's, or under a name of the Hub in the local cache.

    Raises `InputError`, in one line, for whatever is wrong with it.
    """
    place = hub.cached(path)
    if os.path.isdir(place):
        folder = model_folder.find(place)
        state: dict[str, Tensor] = {}
        for name in folder.files:
            part = _read_file(folder.path / name)
            folder.check_part(name, part.state)
            state |= part.state
        return replace(part, state=state, folder=folder, path=folder.path / folder.files[0])
    model_folder.refuse_part(place)
    return replace(_read_file(place), path=Path(place))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says beside its tensors; of a safetensors file the header alone is read, without its digest."""
    size = require_file(path)
    if format_of(path) != ".safetensors":
        return read(path).metadata
    metadata: dict[str, str] = safetensors.read_header(path, size).get("__metadata__", {})
    return {name: text for name, text in metadata.items() if name != safetensors.DIGEST}


def _read_file(path: str | os.PathLike[str]) -> Checkpoint:
    size = require_file(path)
    suffix = format_of(path)
    if suffix == ".safetensors":
        found = Checkpoint(*safetensors.read(path, size))
    elif suffix == ".pt2":
        program = exported_program.read(path)
        found = Checkpoint({n: t.detach() for n, t in program.state_dict.items()}, program=program)
    else:
        found = _read_state_dict(path)
    if not found.state:
        raise InputError(f"{path} holds no tensor; save a network's state_dict")
    return replace(found, format=suffix)


def require_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], who_a: str, who_b: str) -> None:
    """`ArchitectureMismatch` unless keys and shapes agree, and what is complex is so in both; ten differences are listed."""
    differences = []
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in b:
            differences.append(f"{name} {tuple(a[name].shape)} only in {who_a}")
        elif name not in a:
            differences.append(f"{name} {tuple(b[name].shape)} only in {who_b}")
        elif a[name].shape != b[name].shape:
            differences.append(f"{name} {tuple(a[name].shape)} and {tuple(b[name].shape)}")
        elif a[name].is_complex() != b[name].is_complex():
            differences.append(f"{name} {a[name].dtype} and {b[name].dtype}")
    if differences:
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise ArchitectureMismatch(
            f"{who_a} and {who_b} are different architectures: {'; '.join(differences[:10])}{more}"
        )


def with_counters_of(found: Checkpoint, like: Mapping[str, Tensor]) -> Checkpoint:
    """`found` with batch norms' `num_batches_tracked` where `like` has them, and without where it has none.

    Files from before torch counted batches lack them. They take no part in evaluation.
    """
    if {name for name in found.state if _counter(name)} == {name for name in like if _counter(name)}:
        return found
    known = {name: t for name, t in found.state.items() if name in like or not _counter(name)}
    lacking = {name: t for name, t in like.items() if _counter(name) and name not in known}
    return replace(found, state=known | lacking)


def _counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def require_finite(state: Mapping[str, Tensor], who: str) -> None:
    """Raise `InputError` where a tensor holds NaN or infinity: no matching can make sense of it.

    A mask of -inf and zero is data (`canon.io.dtypes.is_mask`).
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            if is_mask(tensor):
                continue
            bad = int((~computable(tensor).isfinite()).sum())
            raise InputError(
                f"{who}: {name} holds NaN or infinity ({bad} of {tensor.numel()} values); "
                "train it again, or download it again"
            )


def _read_state_dict(path: str | os.PathLike[str]) -> Checkpoint:
    inner, container = unwrap(torch_pickle.read(path), path)
    if not isinstance(inner, Mapping):
        raise InputError(
            f"{path} holds a {type(inner).__name__}, not a state_dict; save `model.state_dict()` instead"
        )
    wrong = [str(name) for name, value in inner.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InputError(
            f"{path} is not a state_dict: {', '.join(wrong[:5])} is not a tensor; save `model.state_dict()`"
        )
    state = {str(name): _plain(path, str(name), value.detach()) for name, value in inner.items()}
    if len(state) != len(inner):
        raise InputError(
            f"{path} has one tensor under a number and under its text; save `model.state_dict()`"
        )
    return Checkpoint(
        state,
        dict(getattr(inner, "file_metadata", {})),
        versions=getattr(inner, "_metadata", None),
        container=container,
    )


def _plain(path: str | os.PathLike[str], name: str, tensor: Tensor) -> Tensor:
    """`tensor`, if it is one of numbers in memory; `InputError` where it is of another layout or holds nothing."""
    kinds = {
        "has no numbers (device meta)": tensor.is_meta,
        "is quantized": tensor.is_quantized,
        "is nested": tensor.is_nested,
        f"is of layout {tensor.layout}": tensor.layout is not torch.strided,
    }
    for kind, found in kinds.items():
        if found:
            raise InputError(f"{path}: {shown(name)} {kind}; save the network with dense tensors")
    return tensor


def write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor] | Checkpoint,
    metadata: Mapping[str, str] | None = None,
    *,
    follow: bool = False,
) -> None:
    """Write a network, all of it or nothing; the suffix decides the format.

    Without a suffix it is that of a network that had none either: what came from a folder becomes a folder.
    A symbolic link at `path` is replaced; with `follow`, the file that it points to is.

    Tied tensors stay tied in `.pt` files and are written twice in safetensors, which knows no ties.
    Raises `InputError` where the path cannot be written and `WorkError` where the disk is full.
    """
    found = state if isinstance(state, Checkpoint) else Checkpoint(dict(state))
    metadata = found.metadata if metadata is None else metadata
    if found.folder is not None and is_folder_name(path):

        def write_part(place: Path, part: Mapping[str, Tensor]) -> None:
            _write_file(place, replace(found, state=part), metadata, False)

        model_folder.write(path, found.folder, found.state, write_part)
        return
    if found.path is None or not is_folder_name(found.path):
        check_suffix(path)
    _write_file(path, found, metadata, follow)


def _write_file(
    path: str | os.PathLike[str], found: Checkpoint, metadata: Mapping[str, str], follow: bool
) -> None:
    suffix = Path(path).suffix.lower()
    suffix = suffix if suffix in SUFFIXES else found.format
    if suffix == ".safetensors":
        safetensors.write(path, found.state, metadata, follow=follow)
    elif suffix == ".pt2":
        exported_program.write(path, found.program, found.state, follow=follow)
    else:
        _write_pickle(path, found, metadata, follow)


def _write_pickle(
    path: str | os.PathLike[str], found: Checkpoint, metadata: Mapping[str, str], follow: bool
) -> None:
    whole: Any = OrderedDict(found.state)
    if found.versions is not None:
        whole._metadata = found.versions
    if metadata:
        whole.file_metadata = dict(metadata)
    with atomic_open(path, follow=follow) as file:
        torch.save(whole if found.container is None else found.container.wrap(whole), file)
