"""torchvision's VGGs and AlexNet, distinguished from other stacks by every index and shape that they have."""

from __future__ import annotations

from collections.abc import Iterator

from canon.models.families.functional import Tensors

Shapes = dict[str, tuple[int, ...]]

_STAGES = {
    "VGG-11": (1, 1, 2, 2, 2),
    "VGG-13": (2, 2, 2, 2, 2),
    "VGG-16": (2, 2, 3, 3, 3),
    "VGG-19": (2, 2, 4, 4, 4),
}
_WIDTHS = (64, 128, 256, 512, 512)
_ALEXNET: dict[int, tuple[int, ...]] = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


def name_of(tensors: Tensors) -> str | None:
    """The network whose keys and shapes these are, up to the number of classes."""
    found = {key: tuple(tensors[key].shape) for key in tensors if not key.endswith("num_batches_tracked")}
    head = "classifier.6.weight"
    classes = found[head][0] if head in found else 0
    return next((name for name, shapes in _known(classes) if shapes == found), None)


def _known(classes: int) -> Iterator[tuple[str, Shapes]]:
    for name, stages in _STAGES.items():
        for norm in (False, True):
            yield (
                f"torchvision {name}{'-BN' * norm}",
                _vgg(stages, norm) | _classifier((0, 3, 6), 25088, classes),
            )
    features = {f"features.{n}.weight": shape for n, shape in _ALEXNET.items()}
    features |= {f"features.{n}.bias": shape[:1] for n, shape in _ALEXNET.items()}
    yield "torchvision AlexNet", features | _classifier((1, 4, 6), 9216, classes)


def _vgg(stages: tuple[int, ...], norm: bool) -> Shapes:
    shapes: Shapes = {}
    index, channels = 0, 3
    for count, width in zip(stages, _WIDTHS, strict=True):
        for _ in range(count):
            shapes[f"features.{index}.weight"] = (width, channels, 3, 3)
            shapes[f"features.{index}.bias"] = (width,)
            if norm:
                names = ("weight", "bias", "running_mean", "running_var")
                shapes |= {f"features.{index + 1}.{name}": (width,) for name in names}
            index, channels = index + 2 + norm, width
        index += 1
    return shapes


def _classifier(places: tuple[int, int, int], features: int, classes: int) -> Shapes:
    sizes = (features, 4096, 4096, classes)
    shapes: Shapes = {}
    for place, before, after in zip(places, sizes, sizes[1:], strict=False):
        shapes |= {f"classifier.{place}.weight": (after, before), f"classifier.{place}.bias": (after,)}
    return shapes
