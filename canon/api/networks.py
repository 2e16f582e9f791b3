"""The kinds of networks that users pass (module, state dict, path): one reader, and results of the same
kind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from canon.actions.transform import Transform
from canon.errors import InputError
from canon.io import checkpoint
from canon.io.checkpoint import Checkpoint, require_finite, require_same, with_counters_of
from canon.io.model_config import read_config
from canon.io.prefixes import with_keys_like
from canon.models.config_check import agreed_config, require_fitting_config
from canon.models.example_inputs import Inputs
from canon.models.loading import ModelSource, Runnable, load
from canon.models.spec_resolution import CHECKED, SpecSource, require_symmetries, resolve
from canon.models.spec_resolution import code_of as find_code
from canon.models.stored_keys import StoredKeys, stored_keys
from canon.spec import PermutationSpec
from canon.tracing.exported_graph import copy_module
from canon.types import LazyState, like

_FACTOR = re.compile(r"(^|[._])lora_(A|B|down|up|embedding_A|embedding_B|magnitude_vector)([._]|$)|\.alpha$")

Path = str | os.PathLike[str]
Network = nn.Module | Mapping[str, Tensor] | Path
Model = str | nn.Module | Callable[[], Any]


class Weights(dict[str, Tensor]):
    """A state dict that canon made, with how it was made.

    Args:
        found: the tensors, and what the file that they came from says beside them.
        report: figures and evidence; the keys are those of the command's `--json`.
        transform: the permutation and scales that made it, where one transform did.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> aligned = canon.align(a, b.state_dict(), model=a, example_inputs=torch.randn(1, 4))
        >>> sorted(aligned) == sorted(b.state_dict())
        True
        >>> aligned.report["verified"]
        True
    """

    def __init__(self, found: Checkpoint, report: dict[str, Any], transform: Transform | None = None) -> None:
        super().__init__(found.state)
        self.checkpoint, self.report, self.transform = found, report, transform

    def save(self, path: Path) -> None:
        """Write the network; the suffix decides the format, and metadata and tied tensors are kept.

        Args:
            path: a file whose name ends in .safetensors, .pt, .pth, .bin or .pt2; a new folder, without such an
                ending, for a network that came from a folder.

        Raises:
            InputError: the path cannot be written.
        """
        checkpoint.write(path, self.checkpoint, follow=True)


class LargeWeights(LazyState):
    """`Weights` of a large file: a state dict whose tensors are made when they are asked for, and not kept."""

    def __init__(self, found: Checkpoint, report: dict[str, Any], transform: Transform | None = None) -> None:
        super().__init__(found.state, found.state.__getitem__, like(found.state))
        self.checkpoint, self.report, self.transform = found, report, transform

    def save(self, path: Path) -> None:
        """As `Weights.save`, one tensor in memory at a time where the format is safetensors."""
        checkpoint.write(path, self.checkpoint, follow=True)


@dataclass(frozen=True)
class Source:
    """A network argument: its tensors, its name for messages, the object itself, and the prefix of its keys.

    `keys` says how it is stored, where the tensors are not those of the class that reads them.
    """

    found: Checkpoint
    name: str
    given: Network
    prefix: str = ""
    keys: StoredKeys | None = None

    @property
    def module(self) -> nn.Module | None:
        return self.given if isinstance(self.given, nn.Module) else None

    def give_back(
        self, found: Checkpoint, report: dict[str, Any], transform: Transform | None = None
    ) -> nn.Module | Weights | LargeWeights:
        """Return `found` in the kind of the argument: a copy of the module, or `Weights`."""
        found = found if self.keys is None else self.keys.stored(found)
        if isinstance(found.state, LazyState) and isinstance(self.given, (str, os.PathLike)):
            return LargeWeights(found, report, transform)
        if self.module is None:
            return Weights(found, report, transform)
        made: Any = copy_module(self.module)
        load(made, found.state, self.name)
        made.report, made.transform = report, transform
        return made


def source(network: Network, name: str) -> Source:
    """Read a network, in the tensors of the class that reads it; `name` is for one that has none of its own.

    Raises `InputError` where it is none, or not finite.
    """
    return _as_loaded(_read(network, name))


def _as_loaded(one: Source, config: Mapping[str, Any] | None = None) -> Source:
    """A network with the tensors of the class that its configuration, or that of another one, names."""
    keys = None if one.module is not None else stored_keys(one.found, config)
    return one if keys is None else replace(one, found=keys.loaded(one.found), keys=keys)


def _read(network: Network, name: str) -> Source:
    if isinstance(network, nn.Module):
        # detached copies: what users go on to train does not change under what was read
        found = Checkpoint({key: tensor.detach() for key, tensor in network.state_dict().items()})
    elif isinstance(network, Mapping):
        wrong = [str(key) for key, value in network.items() if not isinstance(value, Tensor)]
        if wrong:
            raise InputError(f"{name} is not a state dict: {', '.join(wrong[:5])} is not a tensor")
        found = (
            network.checkpoint if isinstance(network, (Weights, LargeWeights)) else Checkpoint(dict(network))
        )
    elif isinstance(network, (str, os.PathLike)):
        found, name = checkpoint.read(network), os.fspath(network)
    else:
        raise InputError(
            f"{name} is a {type(network).__name__}; expected a module, a state dict or the path of a file"
        )
    _require_network(found, name)
    require_finite(found.state, name)
    require_fitting_config(found, name)
    return Source(found, name, network)


def _require_network(found: Checkpoint, name: str) -> None:
    """`InputError` where every tensor is a factor of a low-rank update: there is no network to run or to align."""
    if found.state and all(_FACTOR.search(key) for key in found.state):
        raise InputError(
            f"{name} holds low-rank factors (LoRA), not a network; give the network that they were trained on, and "
            "carry the factors over with `canon apply --kind lora`"
        )


def sources(networks: Sequence[Network], names: Sequence[str], kept: int = 0) -> tuple[Source, ...]:
    """Read networks of one architecture; `InputError` lists the keys and shapes that differ."""
    found = read_alike(networks, names, kept)
    require_alike(found)
    return found


def require_alike(found: Sequence[Source]) -> None:
    """`InputError` lists the keys and shapes in which networks differ from the first."""
    for other in found[1:]:
        try:
            require_same(found[0].found.state, other.found.state, found[0].name, other.name)
        except InputError as error:
            shared = found[0].found.state.keys() & other.found.state.keys()
            alike = sum(found[0].found.state[n].shape == other.found.state[n].shape for n in shared)
            if 2 * alike < len(found[0].found.state):
                raise
            hint = "where a head may differ, `canon align --except NAME` and `canon merge --except NAME` leave it out"
            raise InputError(f"{error}; {hint}") from None


def read_alike(networks: Sequence[Network], names: Sequence[str], kept: int = 0) -> tuple[Source, ...]:
    """Read networks.

    All get the prefix of keys and the batch counters of the one at `kept`, whose keys the result has.
    """
    raw = [_read(network, name) for network, name in zip(networks, names, strict=True)]
    config = next((found for one in raw if (found := read_config(one.found.path))), None)
    read = [_as_loaded(one, read_config(one.found.path) or config) for one in raw]
    like = read[kept].found.state
    alike = [_like(one, like) for one in read]
    whole = max((theirs for _, theirs in alike), key=len)
    return tuple(replace(one, prefix=whole) if n == kept else one for n, (one, _) in enumerate(alike))


def _like(one: Source, like: Mapping[str, Tensor]) -> tuple[Source, str]:
    found, prefix, theirs = with_keys_like(one.found, like)
    return replace(one, found=with_counters_of(found, like), prefix=prefix), theirs


def prefixes(networks: Sequence[Source]) -> dict[str, str]:
    """The key prefix of each network, for reports; empty where all prefixes agree."""
    found = {network.name: network.prefix for network in networks}
    return found if len(set(found.values())) > 1 else {}


@dataclass(frozen=True)
class Code:
    """What a user says about the structure of networks; see `canon.align` for each.

    `known` is what the first of several networks showed.
    """

    model: Model | None = None
    example_inputs: Any = None
    spec: PermutationSpec | Path | None = None
    family: str | None = None
    assume: tuple[str, ...] = field(default_factory=tuple)

    def hints(self, networks: tuple[Source, ...]) -> ModelSource:
        """The hints for networks of one architecture: a module among them is the code of all."""
        own = next((n.module for n in networks if n.module is not None), None)
        path = None if isinstance(self.spec, PermutationSpec) else self.spec
        # A family, a spec or assumptions that were named win over the code of a module that was given.
        said = self.family is not None or bool(self.assume)
        model = self.model if self.model is not None or said else own
        return ModelSource(path, model, self.family, None, tuple(self.assume), as_inputs(self.example_inputs))

    def resolve(self, *networks: Source) -> SpecSource:
        """The spec of networks of one architecture, its evidence, and the code where it is known."""
        known = next((n.found for n in networks if n.found.program is not None), networks[0].found)
        hints = self.hints(networks)
        runnable = self.runnable(*networks)
        if isinstance(self.spec, PermutationSpec):
            self.spec.check(known.state)
            if runnable is not None:
                require_symmetries(self.spec, runnable, "the given spec")
                return SpecSource(self.spec, "the given spec", CHECKED, runnable)
            assumption = "the groups of the given spec are symmetries of the network"
            return SpecSource(self.spec, "the given spec", f"assuming {assumption}", runnable, (assumption,))
        return resolve(known, hints, runnable, _config(networks))

    def runnable(self, *networks: Source) -> Runnable | None:
        """The code of the networks, or None where it is not known."""
        known = next((n.found for n in networks if n.found.program is not None), networks[0].found)
        return find_code(known, self.hints(networks), _config(networks))


def _config(networks: Sequence[Source]) -> dict[str, Any]:
    return agreed_config([n.found for n in networks], [n.name for n in networks])


def as_inputs(example: Any) -> Inputs | None:
    """Example inputs as the arguments of one call: a tensor is one, a tuple several, a dict named ones."""
    if example is None or isinstance(example, dict):
        return example
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def code_of(
    model: Model | None,
    example_inputs: Any,
    spec: PermutationSpec | Path | None,
    family: str | None,
    assume: tuple[str, ...] | list[str] | str,
) -> Code:
    """The five shared arguments as one object."""
    return Code(model, example_inputs, spec, family, (assume,) if isinstance(assume, str) else tuple(assume))
