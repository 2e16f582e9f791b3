"""Registries of named entries, extensible by plug-ins.

A name is one of the package's own, one that `register` added, one that an installed package declares as an entry
point, or `MODULE:FUNCTION` of a plug-in. A plug-in's code runs only where the user announced it (`--plugin`, the
environment variable, `load_plugin`): a file from a stranger may name a module, and must not import it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from canon.errors import InputError

T = TypeVar("T")

PLUGINS = "WEIGHTFLOW_PLUGINS"
"""Environment variable with the announced plug-ins, separated as in PATH; worker processes inherit it."""
_loaded: dict[str, ModuleType] = {}
_OWN_KINDS: set[str] = set()
"""The package's own names: what stands before a colon in `npz:FILE` is not a module."""


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The nearest known names by spelling, or all of them where few are known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.4)
    return ", ".join(near or names[:10])


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`, or an `InputError` that lists what there is."""
    if name not in table:
        raise InputError(f"unknown {kind} '{name}'; there are: {', '.join(sorted(table))}")
    return table[name]


class Registry(Mapping[str, T], Generic[T]):
    """Entries of one kind by name.

    Args:
        kind: What an entry is called in errors, such as "data set".
        group: The group of entry points in which installed packages declare theirs.
        own: The package's own entries.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, T]) -> None:
        self.kind, self.group = kind, group
        _OWN_KINDS.update(own)
        self._entries: dict[str, T] = dict(own)

    def register(self, name: str, entry: T) -> T:
        """Add an entry for this process; `InputError` where the name is taken or cannot be written."""
        if not name or any(sign in name for sign in ":?& \t\n"):
            raise InputError(
                f"'{name}' is not a name for a {self.kind}: it is empty or has a sign of : ? & space"
            )
        if name in self._entries and self._entries[name] is not entry:
            raise InputError(f"a {self.kind} called '{name}' exists already; choose another name")
        self._entries[name] = entry
        return entry

    def split(self, name: str) -> tuple[str, str]:
        """The name of an entry, and what follows it after a colon: `npz:a.npz`, `my_module:load:a.npz`."""
        for module in _announced():
            if name.startswith(module + ":"):
                function, _, rest = name[len(module) + 1 :].partition(":")
                return f"{module}:{function}", rest
        entry, _, rest = name.partition(":")
        return entry, rest

    def pick(self, name: str, rest: str = "") -> T:
        """The entry; `InputError` lists what there is and how to name code of one's own.

        `rest` is what followed the name after a colon.
        """
        if name in self:
            return self[name]
        whole = f"{name}:{rest}" if rest else name
        outside, colon, _ = whole.partition(":")
        if outside.endswith(".py") and not colon:
            how = f"; name a function of it: {outside}:FUNCTION"
        elif colon and (outside.endswith(".py") or _is_module(outside.partition(".")[0])):
            how = f"; to run your own code, add --plugin {outside}"
        else:
            how = f"; no module {outside} is found from here" if colon else ""
        raise InputError(f"unknown {self.kind} '{whole}'; there are: {', '.join(sorted(self))}{how}")

    def __getitem__(self, name: str) -> T:
        _ = _announced()  # a plug-in may register entries when it is loaded
        if name in self._entries:
            return self._entries[name]
        module, _, function = name.rpartition(":")
        if module in _announced():
            return cast(T, _member(module, function, self.kind))
        for entry in self._declared():
            if entry.name == name:
                return cast(T, entry.load())
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        modules = _announced()  # a plug-in may register entries when it is loaded
        if name in self._entries:  # reading the entry points of all packages takes longer
            return True
        if any(entry.name == name for entry in self._declared()):
            return True
        module = name.rpartition(":")[0] if isinstance(name, str) else ""
        return module in modules

    def __iter__(self) -> Iterator[str]:
        _ = _announced()
        return iter(dict.fromkeys([*self._entries, *(entry.name for entry in self._declared())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _declared(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))


def load_plugin(name: str) -> ModuleType:
    """Import a plug-in and let `MODULE:FUNCTION` names of it, and what it registers, be used.

    Args:
        name: A module's name, or a path that ends in `.py`.

    Returns:
        The module.

    Raises:
        InputError: It cannot be imported.

    Example:
        >>> import weightflow
        >>> weightflow.load_plugin("string").__name__
        'string'
    """
    if name not in _loaded:
        _load(name)
        before = [part for part in os.environ.get(PLUGINS, "").split(os.pathsep) if part]
        os.environ[PLUGINS] = os.pathsep.join(dict.fromkeys([*before, name]))
    return _loaded[name]


def _announced() -> dict[str, ModuleType]:
    for name in os.environ.get(PLUGINS, "").split(os.pathsep):
        if name and name not in _loaded:
            _load(name)
    return _loaded


def _load(name: str) -> None:
    """Import a plug-in; a file is known by its path and, as files keep it, by its own name."""
    module = _loaded[name] = _imported(name)
    if (alone := Path(name).name) != name and name.endswith(".py"):
        other = _loaded.setdefault(alone, module)
        if other is not module and other.__file__ != module.__file__:
            raise InputError(f"two plug-ins are called {alone}: {other.__file__} and {name}; rename one")


def portable(name: str) -> str:
    """A name as files keep it: `path/file.py:function` without the folders, which are another user's."""
    return re.sub(r"^[^:]*[/\\](?=[^/\\:]+\.py:)", "", name)


def announce(name: str) -> str:
    """Let code that the user names on the command line, `MODULE:FUNCTION` or `FILE.py:FUNCTION`, be used.

    Other names come back as they are; of a file, the name that `portable` gives.
    """
    module, colon, _ = name.partition(":")
    if colon and (module.endswith(".py") or _is_module(module)):
        load_plugin(module)
    return portable(name)


def _is_module(name: str) -> bool:
    """Whether a module can be found under a name that is none of the package's own."""
    if not all(part.isidentifier() for part in name.split(".")) or name in _OWN_KINDS:
        return False
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _imported(name: str) -> ModuleType:
    place = Path(name).parent.resolve() if name.endswith(".py") else Path.cwd()
    if str(place) not in sys.path:
        sys.path.append(str(place))
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        described = importlib.util.spec_from_file_location(Path(name).stem, name)
        if described is None or described.loader is None or not Path(name).is_file():
            raise ImportError("there is no such Python file")
        module = importlib.util.module_from_spec(described)
        sys.modules.setdefault(Path(name).stem, module)
        described.loader.exec_module(module)
        return module
    except InputError:
        raise
    except Exception as error:  # any exception of the user's code is an input error
        raise InputError(f"plug-in '{name}' cannot be imported: {type(error).__name__}: {error}") from error


def _member(module: str, function: str, kind: str) -> object:
    found = getattr(_loaded[module], function, None)
    if not callable(found):
        public = [
            key for key, value in vars(_loaded[module]).items() if callable(value) and not key.startswith("_")
        ]
        has = ", ".join(public[:10]) or "none"
        article = "an" if kind[0] in "aeiou" else "a"
        raise InputError(
            f"plug-in '{module}' has no function '{function}' to be {article} {kind}; it has {has}"
        )
    return found
