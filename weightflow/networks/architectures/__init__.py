"""Architectures by name and arguments. A new family is one file here and one line in `_OWN`.

Other packages register theirs in `FAMILIES`.

Symmetries are derived by `canon.trace`, never written here. So are the class axes: the axes of the
parameters whose size follows the number of classes.
"""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.merging.activation_repair import BATCH_NORMS
from canon.spec import PermutationSpec
from canon.validation import Invalid, boolean, either, integer, items, nothing, number, record, table, text
from weightflow.networks.architectures.cnn import cnn
from weightflow.networks.architectures.head import adapter, linear_head
from weightflow.networks.architectures.mlp import mlp
from weightflow.networks.architectures.resnet import resnet, resnet18, resnet20
from weightflow.networks.architectures.transformer import text_transformer, vit
from weightflow.networks.readout import Logits, Readout, from_dict
from weightflow.registry import Registry, suggest

_OWN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "vit": vit,
    "text_transformer": text_transformer,
    "linear_head": linear_head,
    "adapter": adapter,
}
OWN_ARGUMENTS = {name: tuple(inspect.signature(make).parameters) for name, make in _OWN.items()}
"""What the package's own architectures can be told."""
FAMILIES = Registry("architecture", "weightflow.architectures", _OWN)


MOST_PARAMETERS = 2**34
_ARGUMENT = either(number, text(limit=1000), boolean, nothing, items(either(number, text(limit=1000)), 1000))
_CHECK = record(
    {
        "name": text(limit=100),
        "arguments": table(text(limit=100), _ARGUMENT),
        "input_shape": items(integer(1, 2**31), 8),
        "classes": integer(1, 2**24),
    },
    {"readout": lambda value: value},
)


@dataclass(frozen=True)
class Architecture:
    """A name and arguments that build an `nn.Module` for any number of classes.

    `classes` is the largest number; networks with fewer are stored padded with zeros and handed out
    trimmed. `input_shape` is the shape of one example. `readout` turns outputs into one score a class.
    """

    name: str
    arguments: Mapping[str, Any] = field(hash=False)
    input_shape: tuple[int, ...]
    classes: int
    readout: Readout = Logits()

    def build(self, classes: int | None = None) -> nn.Module:
        """A freshly initialised module with `classes` logits (all of them by default)."""
        make = FAMILIES.pick(self.name)
        known = [name for name in inspect.signature(make).parameters if name != "classes"]
        for name in self.arguments:
            if name not in known:
                raise InputError(
                    f"architecture '{self.name}' has no argument '{name}'; nearest: {suggest(name, known)}"
                )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch warns of layers without units
                self._require_arguments(make)
                if not self.is_resizable:
                    return self._fixed(make, classes or self.classes)
                return self._module(make(**self.arguments, classes=classes or self.classes))
        except InputError:
            raise
        except Exception as error:  # any exception of the user's code is an input error
            what = str(error).splitlines()[0] if str(error).strip() else "no reason given"
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise InputError(f"architecture '{self.name}': {kind}{what}") from error

    def _require_arguments(self, make: Callable[..., nn.Module]) -> None:
        """`InputError` where the function has parameters without a default that the arguments do not give."""
        missing = [
            parameter.name
            for parameter in inspect.signature(make).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and parameter.name not in {"classes", *self.arguments}
        ]
        if missing:
            given = " ".join(f"--set architecture.arguments.{name}=..." for name in missing)
            raise InputError(f"architecture '{self.name}' needs {', '.join(missing)}; give them: {given}")

    def _module(self, found: object) -> nn.Module:
        """What the function returned: a module, or the pair of a module and example inputs that canon takes."""
        module = found[0] if isinstance(found, tuple) and found else found
        if not isinstance(module, nn.Module):
            raise InputError(f"architecture '{self.name}' returned {type(module).__name__}, not an nn.Module")
        return module

    @property
    def is_own(self) -> bool:
        """Whether it is one of the package's own."""
        return self.name in OWN_ARGUMENTS

    @property
    def is_resizable(self) -> bool:
        """Whether its function has a parameter `classes`; one without builds networks of one number of logits."""
        return "classes" in inspect.signature(FAMILIES.pick(self.name)).parameters

    def _fixed(self, make: Callable[..., nn.Module], classes: int) -> nn.Module:
        module = self._module(make(**self.arguments))
        if classes != self.classes:
            raise InputError(
                f"architecture '{self.name}' builds networks of {self.classes} logits alone; give its function a "
                f"parameter classes, the number of logits, for networks of {classes}"
            )
        return module

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        found = {name: tuple(t.shape) for name, t in self._skeleton(self.classes).items()}
        if (size := sum(math.prod(shape) for shape in found.values())) > MOST_PARAMETERS:
            raise InputError(
                f"architecture '{self.name}' has {size} parameters; at most {MOST_PARAMETERS} are built"
            )
        return found

    @cached_property
    def counters(self) -> frozenset[str]:
        """The tensors of whole numbers, such as batch-norm's count of batches."""
        return frozenset(n for n, t in self._skeleton(self.classes).items() if not t.is_floating_point())

    @cached_property
    def class_axes(self) -> dict[str, int]:
        """The axis of each parameter that has one entry per class: found by building twice, or by gradients."""
        if not self.is_resizable:
            return axes_of_logits(self.build().eval(), self.example(2), self.classes)
        wider = self._skeleton(self.classes + 1)
        return {
            name: axis
            for name, shape in self.shapes.items()
            for axis, size in enumerate(shape)
            if wider[name].shape[axis] != size
        }

    def _skeleton(self, classes: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            return dict(self.build(classes).state_dict())

    @cached_property
    def spec(self) -> PermutationSpec:
        """The permutation groups, derived and verified numerically by `canon`."""
        import canon

        return canon.trace(self.build().eval(), (self.example(2),))

    def example(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Random inputs (batch, *input_shape) that the network accepts: numbers, or words."""
        generator = generator or torch.Generator().manual_seed(0)
        with torch.device("meta"):
            module = self.build()
        own = getattr(module, "example_inputs", None)
        if callable(own):
            return own(batch, generator)
        return torch.randn(batch, *self.input_shape, generator=generator)

    def require_inputs(self, shape: Sequence[int], who: str) -> None:
        """`InputError` unless it takes examples of `shape`, which may be another than that it was made for."""
        if tuple(shape) != tuple(self.input_shape):
            self.output_for(shape, who)

    def output_for(self, shape: Sequence[int], who: str) -> Tensor:
        """What it gives for two examples of `shape`, without numbers; `InputError` where it cannot take them."""
        skeleton = self.build().to("meta").eval()
        try:
            with torch.no_grad():
                return skeleton(torch.empty(2, *shape, device="meta"))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"architecture '{self.name}' with {dict(self.arguments)} cannot take examples of shape "
                f"{tuple(shape)} of {who}: {str(error).splitlines()[0]}; set its arguments to fit, or choose other data"
            ) from None

    @cached_property
    def has_statistics(self) -> bool:
        """Whether it keeps running statistics, which are estimated from examples and not trained."""
        with torch.device("meta"):
            return any(isinstance(part, BATCH_NORMS) for part in self.build().modules())

    @property
    def has_logits(self) -> bool:
        """False where the output is a vector that is compared with text, whatever the classes are."""
        return bool(self.class_axes)

    @cached_property
    def parameters(self) -> int:
        """The number of trained numbers; running statistics are none."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.build().parameters())

    def trim(self, state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
        """Drop the padding: the `state_dict` of a module with `classes` logits."""
        return {
            name: tensor.narrow(self.class_axes[name], 0, classes).clone()
            if name in self.class_axes
            else tensor.clone()
            for name, tensor in state.items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arguments": dict(self.arguments),
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            **self.readout.to_dict(),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        try:
            data = _CHECK(data)
            return cls(
                data["name"],
                data["arguments"],
                tuple(data["input_shape"]),
                data["classes"],
                from_dict(data.get("readout")),
            )
        except (KeyError, TypeError, AttributeError, Invalid) as error:
            raise InputError(f"not an architecture: {error}") from None


def axes_of_logits(module: nn.Module, inputs: Tensor, classes: int) -> dict[str, int]:
    """The axis of each parameter of which one entry moves one logit and no other: rows of the last layer.

    `InputError` where the output has another number of logits.
    """
    parameters = {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
    buffers = {n: b.double() if b.is_floating_point() else b for n, b in module.named_buffers()}
    try:
        output = torch.func.functional_call(module, {**parameters, **buffers}, (inputs.double(),))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the network does not take examples of shape {tuple(inputs.shape[1:])}: {str(error).splitlines()[0]}"
        ) from None
    if output.shape != (len(inputs), classes):
        raise InputError(
            f"the network gives {tuple(output.shape)} for {len(inputs)} examples; expected {classes} logits each"
        )
    found: dict[str, int] = {}
    for logit in (0, classes - 1):
        gradients = torch.autograd.grad(output[:, logit].sum(), list(parameters.values()), retain_graph=True,
                                        allow_unused=True)  # fmt: skip
        here: dict[str, int] = {}
        for (name, _), gradient in zip(parameters.items(), gradients, strict=True):
            if gradient is None:
                continue
            for axis, size in enumerate(gradient.shape):
                moved = gradient.abs().movedim(axis, 0).flatten(1).sum(1) if gradient.dim() > 1 else gradient
                if size == classes and moved.nonzero().flatten().tolist() == [logit]:
                    here[name] = axis
                    break
        found = here if logit == 0 else {n: axis for n, axis in found.items() if here.get(n) == axis}
    return found


def from_metadata(data: Any) -> tuple[nn.Module, tuple[Tensor, ...]] | None:
    """For `canon`: the module that the "architecture" of a file's metadata describes, and example inputs.

    None where the metadata is of another making.
    """
    try:
        architecture = Architecture.from_dict(data)
        return architecture.build().eval(), (architecture.example(2),)
    except (InputError, TypeError, ValueError, RuntimeError):  # another package's architecture
        return None
