"""Residual networks for small images: 3x3 stem, no maximum after it, 1x1 convolutions where widths change.

He et al. 2016, arXiv:1512.03385. At ten classes ResNet-20 has 272,474 parameters, ResNet-18 11,173,962.

resnet20    widths = [16, 32, 64], blocks = 3
resnet18    widths = [64, 128, 256, 512], blocks = 2
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


def resnet(
    classes: int,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: int = 1,
    stem_stride: int = 1,
    channels: int = 3,
) -> nn.Sequential:
    """Images to logits: one stage of `blocks` for each of `widths`, each but the first halving the map."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(ResidualBlock(before, width, 2 if stage and not block else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def resnet20(classes: int, channels: int = 3, width: int = 16) -> nn.Sequential:
    """Three stages of three blocks, `width` channels in the first."""
    return resnet(classes, [width, 2 * width, 4 * width], 3, channels=channels)


def resnet18(classes: int, channels: int = 3, width: int = 64) -> nn.Sequential:
    """Four stages of two blocks, `width` channels in the first."""
    return resnet(classes, [width, 2 * width, 4 * width, 8 * width], 2, channels=channels)
