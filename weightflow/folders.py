"""Resolve folder arguments (local or on the Hugging Face hub), and describe folders of the wrong kind.

On the hub, a folder is named `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from canon.errors import InputError, WorkError
from canon.io.files import read_bounded, require_file
from canon.io.formats import SUFFIXES
from canon.io.safetensors import read_header
from canon.validation import Invalid, parse_json

NAME = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
"""One slash too: a path drops the second."""


def local_folder(path: str | os.PathLike[str], kind: str) -> Path:
    """A folder as it is, or that of the hub's `kind` ("model", "dataset"), downloaded once and kept in its cache.

    `InputError` where a name is none, `WorkError` where the hub has no such folder or cannot be reached.
    """
    text = os.fspath(path)
    if not text.startswith("hf:"):
        return Path(text)
    found = NAME.fullmatch(text)
    if found is None:
        raise InputError(
            f"'{text}' is not a name on the hub; write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(found[1], repo_type=kind, revision=found[2]))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors
        raise WorkError(f"{text} cannot be downloaded: {str(error).strip().splitlines()[0]}") from error


def any_folder(path: str | os.PathLike[str]) -> Path:
    """A folder as it is, or the generator or else the zoo of that name on the hub."""
    try:
        return local_folder(path, "model")
    except WorkError:
        return local_folder(path, "dataset")


# names of files by which the folders of this package are known
MANIFEST, RECIPE, FRAME = "zoo.json", "recipe.json", "frame.safetensors"
CONFIG, SOURCE, UNFINISHED = "config.toml", "networks.json", ".unfinished"
EXPORTED = "a folder of exported networks"
PROGRAMS = (".pt2", ".onnx")
CHECKPOINTS = (*(suffix for suffix in SUFFIXES if suffix != ".pt2"), ".tar")
IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
GENERATED = "generated"
_LOOKED_AT = 500  # names in a folder
_SMALL = 1 << 24  # bytes of a manifest


@dataclass(frozen=True)
class Found:
    """What lies at a path: in words, and what takes it. `own` is what only this package writes."""

    what: str
    advice: str = ""
    own: bool = False


def wrong_kind(path: str | os.PathLike[str], wanted: str) -> InputError:
    """The error where `path` is not what a command takes: what it is instead, and what takes it.

    Args:
        path: A folder, a file, or a name that is neither.
        wanted: What the command takes, with its article: "a zoo".

    Returns:
        The error, to be raised.

    Example:
        >>> print(wrong_kind("nowhere", "a zoo"))
        nowhere is not a zoo: there is no such file or folder
    """
    found = recognise(Path(path))
    if found is None:
        return InputError(f"{path} is not {wanted}: there is no such file or folder")
    return InputError(f"{path} is {found.what}, not {wanted}" + (f"; {found.advice}" if found.advice else ""))


def refuse_own(path: str | os.PathLike[str], wanted: str, but: str = "") -> None:
    """`InputError` where `path` is a zoo, a run or another thing of this package than `but`, and something else is wanted."""
    found = recognise(Path(path))
    if found is not None and found.own and found.what != but:
        raise wrong_kind(path, wanted)


def is_run(folder: Path) -> bool:
    """Whether the folder is a run or a saved generator of this package."""
    return _run(folder) is not None


def is_saved_generator(folder: Path) -> bool:
    """Whether the folder is a generator that was written to be used elsewhere, without its zoo."""
    return (folder / "config.json").exists() and (folder / CONFIG).exists()


def recognise(path: Path) -> Found | None:
    """What lies at `path`, by the names of files and the first bytes of some; None where nothing does."""
    if not os.path.lexists(path):
        return None
    with suppress(OSError):
        return _folder(path) if path.is_dir() else _file(path)
    return Found("a folder that cannot be read")


def _folder(path: Path) -> Found:
    names = set(_names(path))
    if MANIFEST in names:
        return _zoo(path)
    if CONFIG in names and (found := _run(path)):
        return found
    if UNFINISHED in names or ("shards" in names and {RECIPE, FRAME} & names):
        return Found("a zoo that is not finished", "run the command that writes it again", own=True)
    if SOURCE in names or (names and all(name.endswith(PROGRAMS) for name in names)):
        return _exported(path, names)
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
        return Found("a Hugging Face model", "canon align and canon merge take it")
    below = [path / name for name in sorted(names) if not name.startswith(".") and (path / name).is_dir()]
    inside = [name.lower() for own in (path, *below[:20]) for name in islice(_names(own), 50)]
    deeper = [
        name.lower()
        for own in below[:5]
        for n in islice(_names(own), 20)
        for name in islice(_names(own / n), 5)
    ]
    if any(name.endswith(IMAGES) for name in (*inside, *deeper)):
        if below:
            return Found("a folder of images", f"name it as a data set: imagefolder:{path}")
        return Found("a folder of images without classes", "a data set has a folder for each class")
    if any(name.endswith(CHECKPOINTS) for name in inside):
        made = f"weightflow zoo import {path} --model FILE.py:FUNCTION --dataset NAME --out ZOO"
        return Found("a folder of checkpoints", f"make a zoo of them: {made}")
    if not names:
        return Found("an empty folder")
    return Found(f"a folder of other files (such as {min(names)})")


def _names(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (entry.name for entry in islice(folder.iterdir(), _LOOKED_AT))


def _exported(path: Path, names: set[str]) -> Found:
    if any(name.endswith(PROGRAMS) for name in names):
        return Found(
            "a folder of exported programs", "torch.export.load reads .pt2, onnxruntime .onnx", own=True
        )
    made = f"weightflow zoo import {path} --dataset NAME --out ZOO"
    return Found(EXPORTED, f"make a zoo of them: {made}", own=True)


def _zoo(path: Path) -> Found:
    manifest = None
    with suppress(Invalid, InputError):
        manifest = parse_json(read_bounded(path / MANIFEST, _SMALL))
    if not isinstance(manifest, dict):
        return Found("a damaged zoo", f"weightflow verify {path} says what is wrong", own=True)
    if manifest.get("lineage") == GENERATED:
        takes = "weightflow evaluate and weightflow export take it"
        return Found("a population of generated networks", takes, own=True)
    if "canonical" in manifest:
        return Found(
            "a canonical zoo", f"train a generator on it: weightflow train {path} --out RUN", own=True
        )
    made = f"weightflow canonicalize {path} --out CANONICAL, then weightflow train CANONICAL --out RUN"
    return Found("a zoo", f"make a generator of it: {made}", own=True)


def _run(path: Path) -> Found | None:
    """A saved generator has a config.json and cannot be trained further."""
    with suppress(Invalid, InputError, ValueError, KeyError, TypeError):
        tables = tomllib.loads(read_bounded(path / CONFIG, _SMALL).decode())
        if not tables["format"].startswith("weightflow-run"):
            return None
        takes = f"make networks with it: weightflow sample {path} --classes ... --out NETS"
        if is_saved_generator(path):
            return Found("a saved generator", takes, own=True)
        further = f"weightflow train {tables['zoo']['path']} --out {path} --resume"
        return Found("a run", f"{takes}; go on with its training: {further}", own=True)
    return None


def _file(path: Path) -> Found:
    name = path.name.lower()
    if name.endswith(".safetensors"):
        with suppress(Invalid, InputError):
            if "backbone" in read_header(path, require_file(path)).get("__metadata__", {}):
                return Found("a backbone", f"name it in a data set: 'NAME through {path}'", own=True)
    if name.endswith(PROGRAMS):
        return Found("a program", "torch.export.load reads .pt2, onnxruntime .onnx")
    if name.endswith(CHECKPOINTS):
        return Found("a file of weights", "canon inspect, weightflow fuse and weightflow enhance take it")
    if name.endswith(".zip"):
        return Found("an archive", f"one of images is a data set: imagefolder:{path}")
    return Found("a file of another kind")
