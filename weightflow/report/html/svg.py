"""Plots as inline SVG: scales, axes, lines, points. Colours come from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weightflow.report.html.figure import Series

Number = int | float
SHAPES = {
    "square": "M-.85-.85H.85V.85H-.85Z",
    "diamond": "M0-1.2L1.2 0L0 1.2L-1.2 0Z",
    "triangle": "M0-1.1L1.05.8H-1.05Z",
}


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high`, laid out by `bend` (the identity if none), with ticks and their words."""

    low: Number
    high: Number
    ticks: Sequence[Number]
    words: Callable[[Number], str] = lambda v: f"{v:g}"
    bend: Callable[[Number], Number] = lambda v: v

    def share(self, value: Number) -> Number:
        """Where a value lies, from 0 to 1; values outside stop at the edge."""
        low, high = self.bend(self.low), self.bend(self.high)
        return min(1.0, max(0.0, (self.bend(value) - low) / (high - low or 1.0)))


def linear(values: Sequence[Number], *, include: Sequence[Number] = (), margin: Number = 0.04) -> Scale:
    """A scale around all the values, ticks at round numbers."""
    found = [*values, *include]
    low, high = min(found), max(found)
    room = (high - low or abs(high) or 1.0) * margin
    low, high = low - room * (low not in include), high + room * (high not in include)
    step = _round_step((high - low) / 5)
    first = math.ceil(low / step - 1e-9)
    ticks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return Scale(low, high, ticks, lambda v: f"{round(v, 10):g}")


def logarithmic(values: Sequence[Number]) -> Scale:
    low, high = min(values) / 1.1, max(values) * 1.1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return Scale(low, high, ticks, lambda v: f"{v:g}", math.log)


def places(names: Sequence[Number]) -> Scale:
    """Even places for a few values, whatever lies between them."""
    index = {value: i for i, value in enumerate(names)}
    return Scale(names[0], names[-1], names, lambda v: f"{v:g}", lambda v: index[v])


def of_errors(accuracies: Sequence[Number], least: Number = 0.3) -> Scale:
    """Accuracies in per cent by the logarithm of their errors: near 100 a point counts for more."""

    def bend(value: Number) -> Number:
        return -math.log(max(100 - value, least))

    low = max(min(*accuracies, 90.0) - 5, 0.0)
    ticks = [t for t in (0.0, 20.0, 50.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5) if t >= low]
    return Scale(low, 100 - least, ticks, lambda v: f"{v:g}", bend)


def _round_step(raw: Number) -> Number:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


@dataclass
class Plot:
    """A picture of `width` by `height` that is filled call by call and read with `render`."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    width: int = 400
    height: int = 290
    left: int = 54
    bottom: int = 42
    parts: list[str] = field(default_factory=list)

    RIGHT, TOP = 12, 10

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        inner_width = self.width - self.left - self.RIGHT
        inner_height = self.height - self.TOP - self.bottom
        across, up = self.left + inner_width * self.x.share(x), inner_height * self.y.share(y)
        return round(across, 1), round(self.height - self.bottom - up, 1)

    def region(self, x: Number, y: Number, text: str) -> None:
        """Shade what lies right of x and above y."""
        (left, bottom), right, top = self.at(x, y), self.width - self.RIGHT, self.TOP
        self.parts.append(
            f'<rect class="region" x="{left}" y="{top}" width="{max(right - left, 0):.1f}" height="{max(bottom - top, 0):.1f}"/>'
            f'<text class="inside" x="{right - 6}" y="{top + 15}" text-anchor="end">{html.escape(text)}</text>'
        )

    def level(self, y: Number, text: str) -> None:
        """A dashed line across, with its name."""
        left, height = self.at(self.x.low, y)
        self.parts.append(
            f'<line class="level" x1="{left}" x2="{self.width - self.RIGHT}" y1="{height}" y2="{height}"/>'
            f'<text class="inside" x="{left + 4}" y="{height - 4}">{html.escape(text)}</text>'
        )

    def cloud(
        self,
        s: Series,
        points: Sequence[tuple[Number, Number]],
        radius: Number = 2.2,
        words: Sequence[str] = (),
    ) -> None:
        """A dot a network; `words` are shown while the pointer rests on one."""
        said = [f"<title>{html.escape(text)}</title>" for text in words] or [""] * len(points)
        dots = "".join(
            f'<circle cx="{a}" cy="{b}" r="{radius}">{text}</circle>'
            for (a, b), text in zip((self.at(*p) for p in points), said, strict=True)
        )
        self.parts.append(f'<g class="cloud" data-s="{html.escape(s.name)}" style="{s.style}">{dots}</g>')

    def line(
        self, s: Series, points: Sequence[tuple[Number, Number]], bars: Sequence[Sequence[Number] | None] = ()
    ) -> None:
        """Points joined by a line, intervals drawn upright where there are any."""
        places = [self.at(*p) for p in points]
        path = "M" + "L".join(f"{a} {b}" for a, b in places)
        whiskers = [self._whisker(p[0], bar) for p, bar in zip(points, bars, strict=False) if bar]
        dots = "".join(
            marker(a, b, s.marker, 4.0, _say(s, p)) for (a, b), p in zip(places, points, strict=True)
        )
        self.parts.append(
            f'<g class="line" style="{s.style}"><path d="{path}"/>{"".join(whiskers)}{dots}</g>'
        )

    def mean(self, s: Series, x: Number, y: Number, interval: Sequence[Number] | None) -> None:
        """One large marker for a population, with its interval."""
        a, b = self.at(x, y)
        whisker = self._whisker(x, interval) if interval else ""
        size = 7.0 if s.name == "generated" else 5.0
        self.parts.append(
            f'<g class="mean" style="{s.style}">{whisker}{marker(a, b, s.marker, size, _say(s, (x, y)))}</g>'
        )

    def words(self, x: Number, y: Number, text: str) -> None:
        a, b = self.at(x, y)
        self.parts.append(f'<text class="inside" x="{a + 6}" y="{b - 6}">{html.escape(text)}</text>')

    def _whisker(self, x: Number, interval: Sequence[Number]) -> str:
        (a, low), (_, high) = self.at(x, interval[0]), self.at(x, interval[1])
        return f'<line class="whisker" x1="{a}" x2="{a}" y1="{low}" y2="{high}"/>'

    def render(self, title: str) -> str:
        """The picture with its axes; `title` is what a screen reader says."""
        return (
            f'<svg class="plot" role="img" viewBox="0 0 {self.width} {self.height}">'
            f"<title>{html.escape(title)}</title>{self._axes()}{''.join(self.parts)}</svg>"
        )

    def _axes(self) -> str:
        right, bottom = self.width - self.RIGHT, self.height - self.bottom
        found = []
        for tick in self.y.ticks:
            _, y = self.at(self.x.low, tick)
            found.append(
                f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y}" y2="{y}"/>'
                f'<text x="{self.left - 6}" y="{y + 4}" text-anchor="end">{self.y.words(tick)}</text>'
            )
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.low)
            found.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{self.x.words(tick)}</text>')
        middle = (self.left + right) / 2
        found.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        found.append(
            f'<text class="name" x="{middle}" y="{self.height - 6}" text-anchor="middle">{html.escape(self.x_label)}</text>'
        )
        up = (self.TOP + bottom) / 2
        found.append(
            f'<text class="name" transform="translate(12 {up}) rotate(-90)" text-anchor="middle">{html.escape(self.y_label)}</text>'
        )
        return "".join(found)


def _say(s: Series, point: tuple[Number, Number]) -> str:
    return f"{s.label}: {point[0]:.3g}, {point[1]:.4g}"


def marker(x: Number, y: Number, shape: str, size: Number, title: str = "") -> str:
    words = f"<title>{html.escape(title)}</title>" if title else ""
    if shape not in SHAPES:
        return f'<circle class="marker" cx="{x}" cy="{y}" r="{size}">{words}</circle>'
    return f'<path class="marker" d="{SHAPES[shape]}" transform="translate({x} {y}) scale({size})">{words}</path>'
