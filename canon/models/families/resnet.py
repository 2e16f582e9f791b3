"""Residual networks: torchvision's ResNets and ResNeXts, and the CIFAR ones with padded or projected shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family, has
from canon.models.families.example_inputs import image
from canon.models.families.functional import Tensors
from canon.models.families.hyperparameters import Hyperparameters
from canon.tracing.operations.opaque import opaque

_TORCHVISION: dict[tuple[int, tuple[int, ...]], str] = {
    (2, (2, 2, 2, 2)): "ResNet-18",
    (2, (3, 4, 6, 3)): "ResNet-34",
    (3, (3, 4, 6, 3)): "ResNet-50",
    (3, (3, 4, 23, 3)): "ResNet-101",
    (3, (3, 8, 36, 3)): "ResNet-152",
}
# Blocks in each of the three stages of the public CIFAR networks: ResNet-20, 32, 44, 56, 110, 164 and 1202.
_CIFAR = (3, 5, 7, 9, 18, 27, 200)
_SHORTCUTS = ("downsample", "shortcut")


def _resnet(tensors: Tensors, x: Tensor, given: Hyperparameters) -> Tensor | tuple[Tensor, ...]:
    """The logits; without a head the maps of all stages, as a backbone may hand out any of them."""
    x = given.activate(tensors.batch_norm("bn1", tensors.conv("conv1", x)))
    maps = [x]
    for stage in _stages(tensors):
        for number in tensors.children(f"{stage}."):
            x = _residual(tensors.under(f"{stage}.{number}."), x, given)
        maps.append(x)
    head = _head(tensors)
    return tuple(maps) if head is None else tensors.linear(head, x.mean((2, 3)))


def _residual(block: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    h, depth = x, _depth(block)
    for n in range(1, depth + 1):
        h = block.batch_norm(f"bn{n}", block.conv(f"conv{n}", h))
        h = given.activate(h) if n < depth else h
    shortcut = next((name for name in _SHORTCUTS if f"{name}.0.weight" in block), None)
    if shortcut:
        x = block.batch_norm(f"{shortcut}.1", block.conv(f"{shortcut}.0", x))
    elif extra := h.shape[1] - x.shape[1]:
        x = _padded(x, extra, given.padding)
    return given.activate(h + x)


def _padded(x: Tensor, extra: int, padding: str | None) -> Tensor:
    before = {"both": extra // 2, "behind": 0, "front": extra, None: 0}[padding]
    padded = F.pad(x, (0, 0, 0, 0, before, extra - before))
    if padding is None:
        reason = "keys do not tell how a shortcut without weights widens; give --assume padding=both, behind or front"
        return opaque(padded, reason)
    return padded


def _stages(tensors: Tensors) -> list[str]:
    return sorted(name for name in tensors.children() if name.startswith("layer"))


def _head(tensors: Tensors) -> str | None:
    return next((name for name in ("fc", "linear") if f"{name}.weight" in tensors), None)


def _depth(block: Tensors) -> int:
    return 3 if "conv3.weight" in block else 2


def _name(tensors: Tensors) -> str | None:
    """The public architecture whose widths and numbers of blocks these are, all of them.

    Smaller networks have the same keys and may do anything between their convolutions. Every stage but the
    first has to widen: only there do shapes tell a norm behind its convolution from one before it, as
    pre-activation networks have under the same keys.
    """
    stages = _stages(tensors)
    blocks = [tensors.under(f"{stage}.0.") for stage in stages]
    if stages != [f"layer{n}" for n in range(1, len(stages) + 1)] or not all(map(_widens, blocks[1:])):
        return None
    if not _ungrouped(tensors, stages):
        return None
    counts = tuple(len(tensors.children(f"{stage}.")) for stage in stages)
    depth = _depth(blocks[0])
    widths = [_width(block, _depth(block)) for block in blocks]
    if widths == [64 * 2**n * (1 if depth == 2 else 4) for n in range(4)] and (depth, counts) in _TORCHVISION:
        projected = all("downsample.0.weight" in block for block in blocks[1:])
        whose = "torchvision" if projected and _head(tensors) != "linear" else "CIFAR"
        return f"{whose} {_TORCHVISION[depth, counts]}"
    small = [16 * 2**n * (1 if depth == 2 else 4) for n in range(3)]
    if widths == small and counts in [(n, n, n) for n in _CIFAR]:
        return f"CIFAR ResNet-{3 * depth * counts[0] + 2}"
    return None


def _ungrouped(tensors: Tensors, stages: list[str]) -> bool:
    """Whether no convolution has groups, the middle one of a bottleneck excepted (ResNeXt).

    Networks with others (ShuffleNet) shuffle channels between them, which no tensor shows.
    """
    channels = int(tensors["conv1.weight"].shape[0])
    for block in (tensors.under(f"{s}.{n}.") for s in stages for n in tensors.children(f"{s}.")):
        depth, taken = _depth(block), channels
        for n in range(1, depth + 1):
            rows, columns = block[f"conv{n}.weight"].shape[:2]
            if columns != taken and not (depth == 3 and n == 2):
                return False
            taken = int(rows)
        shortcuts = [f"{name}.0.weight" for name in _SHORTCUTS if f"{name}.0.weight" in block]
        if any(block[key].shape[1] != channels for key in shortcuts):
            return False
        channels = taken
    return True


def _widens(block: Tensors) -> bool:
    if "conv1.weight" not in block or "bn1.weight" not in block:
        return False
    rows, columns = block["conv1.weight"].shape[:2]
    return bool(rows != columns and block["bn1.weight"].shape[0] == rows)


def _width(block: Tensors, depth: int) -> int:
    key = f"conv{depth}.weight"
    return int(block[key].shape[0]) if key in block else 0


RESNET = Family(
    _resnet,
    has("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    image("conv1.weight"),
    _name,
    takes=("activation", "padding"),
    unknown="the stages, blocks or groups are those of no public ResNet, so keys do not tell what its blocks compute; "
    "give --model, or --family resnet if they are conv-bn pairs with shortcuts",
)
