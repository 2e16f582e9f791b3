"""Mutations of small real files: of their bytes, and of what they say."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from canon.io import checkpoint

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 10**400, 1.5, 1e308, -0.0, "", "x", "../../escaped", "/tmp/escaped", "\x1b[2Jgone",
    "\u202egnp", "<script>alert(1)</script>", "a" * 100_000, "__import__('os').system('touch canary')", [], {}, [[]],
    [None], {"x": None}, [0] * 1000, "nan", "9" * 5000,
    "a\x00b", "\ud800", "os:system", "npz:/nowhere.npz through evil.pt2", 3.0000001, 2**63, -(2**63) - 1,
)  # fmt: skip


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to three small changes: flipped, cut, doubled, overwritten or inserted bytes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(max(len(changed), 1))
        part = slice(place, place + draw.choice((1, 2, 8, 64)))
        kind = draw.randrange(6)
        if kind == 0 and changed:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            changed[part] = changed[part] * 2
        elif kind == 3:
            changed[part] = bytes(len(changed[part]))
        elif kind == 4:
            changed[place:place] = draw.choice(
                (b"\xff" * 8, b"\x00", b"{", b"[" * 5000, b'"', b"\r\n", "é\u202e".encode())
            )
        else:
            del changed[part]
    return bytes(changed)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into nested tables and lists."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def of_value(value: Any, draw: random.Random, hostile: tuple[Any, ...] = HOSTILE) -> Any:
    """One to three entries replaced, left out or renamed."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        found = list(places(changed))
        if not found:
            return changed
        *path, last = draw.choice(found)
        owner = changed
        for key in path:
            owner = owner[key]
        kind = draw.randrange(6)
        if kind == 0:
            del owner[last]
        elif kind == 1 and isinstance(owner, dict):
            owner[draw.choice(("x", "", "\x1b", str(last) + "2"))] = owner.pop(last)
        elif kind == 2:
            depth = draw.choice((3, 50, 400))
            owner[last] = nested(depth if len(path) < 50 else 3)  # the tests themselves walk so deep alone
        else:
            owner[last] = copy.deepcopy(draw.choice(hostile))  # it may be changed by the next
    return changed


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a changed value."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    value = of_value(json.loads(content), draw)
    return json.dumps(value, allow_nan=True).encode()


def of_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines of JSON: changed bytes, or a changed line."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    lines = content.decode().splitlines()
    number = draw.randrange(len(lines))
    lines[number] = json.dumps(of_value(json.loads(lines[number]), draw))
    return ("\n".join(lines) + "\n").encode()


def of_toml(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a changed value; what TOML cannot say becomes text."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    value = of_value(tomllib.loads(content.decode()), draw)
    try:
        return tomli_w.dumps(value).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"x = " + b"[" * 400 + b"]" * 400
    except (TypeError, ValueError):
        return tomli_w.dumps(_without_null(value)).encode("utf-8", "surrogatepass")


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_null(one) for one in value if one is not None]
    return value


Mutate = Callable[[bytes, random.Random], bytes]


def of_tensors(content: bytes, draw: random.Random) -> bytes:
    """A whole safetensors file, its digest right, with other tensors: shapes, dtypes, names and numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        found = checkpoint.read(path)
        checkpoint.write(path, changed_tensors(found.state, draw), found.metadata)
        return path.read_bytes()


def drawn(mutate: Callable[[bytes, random.Random], bytes], content: bytes, draw: random.Random) -> bytes:
    """A mutation; drawn again where the library that writes the format cannot write it (lone surrogates, deep nesting)."""
    while True:
        with contextlib.suppress(UnicodeError, RecursionError):
            return mutate(content, draw)


def changed_tensors(state: Mapping[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """One or two tensors changed, left out, renamed or added."""
    changed = dict(state)
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(sorted(changed))
        old = changed[name].real if changed[name].is_complex() else changed[name]
        floats = old.float()
        old = floats if old.dtype == torch.float8_e4m3fn else old  # torch flips none of these
        kind = draw.randrange(8)
        if kind == 0 and len(changed) > 1:
            del changed[name]
        elif kind == 1:
            changed[draw.choice(("x", "\x1b[2J", "../x", "\u202ex", name + ".x"))] = changed.pop(name)
        elif kind == 2:
            changed[name + ".x"] = old.clone()
        else:
            changed[name] = draw.choice(
                [
                    old.new_zeros(()), old[:0] if old.dim() else old[None], old[None], old.reshape(-1).clone(),
                    torch.cat([old, old]) if old.dim() else old, old.double(), old.half(), old.to(torch.bfloat16),
                    old.to(torch.int8), old.bool(), old.to(torch.complex64), floats * torch.nan, floats + torch.inf,
                    torch.full_like(floats, 1e38), floats.to(torch.float8_e4m3fn), old.to(torch.int64) + 2**40,
                    old.transpose(0, -1).contiguous() if old.dim() > 1 else old.flip(0) if old.dim() else old,
                    torch.zeros(1), torch.zeros(2, 2),
                ]
            )  # fmt: skip
    return changed


def of_places(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file, its digest right, whose header gives tensors other places, types or shapes."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    one, other = header[draw.choice(names)], header[draw.choice(names)]
    kind = draw.randrange(7)
    if kind == 0:
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    elif kind == 1:
        one.update(json.loads(json.dumps(other)))  # both lie in one place
    elif kind == 2:
        header["another"] = json.loads(json.dumps(one))
    elif kind == 3:
        one["dtype"] = draw.choice(["I32", "U32", "F64", "BF16", "BOOL", "F8_E4M3", "C64"])
    elif kind == 4:
        one["shape"] = draw.choice(
            [one["shape"][::-1], [1, *one["shape"]], [0, *one["shape"]], [2**32, 2**32]]
        )
    elif kind == 5:
        begin, end = one["data_offsets"]
        one["data_offsets"] = draw.choice([[end, begin], [begin, end + 1], [begin + 1, end + 1], [0, 0]])
    else:
        data += bytes(8)
    metadata = header.get("__metadata__", {})
    if "file_sha256" in metadata:
        metadata["file_sha256"] = "0" * 64
    text = json.dumps(header).encode()
    changed = len(text).to_bytes(8, "little") + text + data
    return changed.replace(b"0" * 64, hashlib.sha256(changed).hexdigest().encode(), 1)


def of_pickle(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a whole PyTorch file that holds something else."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    state = dict(torch.load(io.BytesIO(content), weights_only=True))
    name = draw.choice(list(state))
    old = state[name]
    tensor = old if isinstance(old, Tensor) else torch.zeros(3)
    endless: dict[str, Any] = {}
    endless["self"] = endless
    wide = torch.zeros(1).expand(10**5, 10**5)
    instead = draw.choice(
        [
            tensor.to_sparse() if tensor.dim() else tensor, tensor.cfloat(), torch.zeros(()), "x", None, [tensor],
            {"a": tensor}, endless, nested(300), float("nan"), 10**400, tensor.float() * torch.nan, tensor.reshape(-1),
            tensor.to("meta"), tensor.double(), tensor.long(), tensor.float().to(torch.float8_e5m2), wide,
            nn.Parameter(tensor.float()),
        ]
    )  # fmt: skip
    found = draw.choice(
        [
            state | {name: instead}, state | {name: instead}, state | {name: instead}, {"state_dict": state}, [state],
            {"model": state, "ema": state}, {"a": {"b": {"state_dict": state}}}, {}, None, endless, wide, nested(300),
            state | {3: tensor}, state | {("a",): tensor}, state | {"\x1b[31m": tensor}, state | {"x" * 50_000: tensor},
        ]
    )  # fmt: skip
    buffer = io.BytesIO()
    torch.save(found, buffer, _use_new_zipfile_serialization=draw.random() < 0.8)
    return buffer.getvalue()


ODD_NAMES = (
    "\x1b[2J", "\u202egnp", "a\nb", "<script>alert(1)", "`x`", "-rf", ".hidden", "\udcff", "x" * 200, " ", "%s",
)  # fmt: skip


def of_folder(folder: Path, draw: random.Random) -> None:
    """One or two changes of what lies in a folder: renamed, lost, doubled, emptied, linked, or no ordinary file."""
    for _ in range(draw.choice((1, 1, 2))):
        found = sorted(folder.rglob("*"))
        if not found:
            return
        path = draw.choice(found)
        beside = path.with_name(draw.choice(ODD_NAMES) + path.suffix)
        is_file = path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24
        kind = draw.randrange(7)
        if kind == 0:
            path.rename(beside)
        elif kind == 1:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif kind == 2 and is_file and beside != path:
            shutil.copyfile(path, beside)
        elif kind == 3 and is_file:
            path.write_bytes(of_bytes(path.read_bytes(), draw))
        elif kind == 4:
            path.with_name(f"up{draw.randrange(10**6)}{path.suffix}").symlink_to(
                draw.choice(("..", ".", path.name, "/etc/passwd"))
            )
        elif kind == 5:
            os.mkfifo(path.with_name(f"pipe{draw.randrange(10**6)}{path.suffix}"))
        elif is_file:
            special(path, draw.choice(SPECIAL))


def of_archive(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, or a zip archive with members renamed, lost, doubled, damaged, encrypted or of odd methods."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    place = draw.randrange(len(parts))
    name, data = parts[place]
    kind = draw.randrange(7)
    if kind == 0:
        names = ("../../escaped.png", "/tmp/escaped.png", "a\\b.png", "x/y/z.png", ".png", "a//b.png")
        parts[place] = (draw.choice((*names, *(f"train/a/{odd}.png" for odd in ODD_NAMES[:-3]))), data)
    elif kind == 1:
        parts[place] = (name, of_bytes(data, draw))
    elif kind == 2:
        parts.append((name, data[::-1]))
    elif kind == 3:
        parts = [part for part in parts if draw.random() < 0.5]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", draw.choice((0, 8, 12, 14))) as archive:
        warnings.simplefilter("ignore")
        for member, part in parts:
            archive.writestr(member, part)
    changed = bytearray(buffer.getvalue())
    entry = changed.find(b"PK\x01\x02")
    if kind > 3 and entry >= 0:
        local = int.from_bytes(changed[entry + 42 : entry + 46], "little")
        if kind == 4:
            changed[entry + 8] |= 1  # encrypted
            changed[local + 6] |= 1
        elif kind == 5:
            changed[entry + 10] = changed[local + 8] = draw.choice((1, 9, 93, 99))  # the method
        else:
            changed[entry + 24 : entry + 28] = draw.choice(
                (b"\xff\xff\xff\x7f", bytes(4), b"\xff" * 4)
            )  # the size
    return bytes(changed)


SPECIAL = ("loop", "folder", "zeros", "pipe", "dangling", "large", "elsewhere")


def special(path: Path, kind: str) -> None:
    """Put what is not an ordinary file in the place of a file."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(20 << 30)  # takes no space
    else:
        path.symlink_to(
            {"loop": path, "zeros": "/dev/zero", "dangling": "/nowhere/x", "elsewhere": "/etc/passwd"}[kind]
        )
