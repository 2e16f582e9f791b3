"""A picture on the page: its title, what it says, and the drawing."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`body` is HTML; `wide` figures take the whole width of the page."""

    title: str
    caption: str
    body: str
    wide: bool = False


@dataclass(frozen=True)
class Series:
    """A name, the colour it has everywhere (a variable of the style sheet) and its marker."""

    name: str
    colour: str
    marker: str = "circle"

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    @property
    def style(self) -> str:
        return f"--c:var(--{self.colour})"


KNOWN = {
    s.name: s
    for s in (
        Series("generated", "ours"),
        Series("trained", "ink", "square"),
        Series("zoo", "ink", "square"),
        Series("zoo_mean", "green", "square"),
        Series("zoo_mean_rows", "green", "diamond"),
        Series("soup_16", "green", "triangle"),
        Series("interpolation", "green", "circle"),
        Series("noise_0.01", "red", "circle"),
        Series("noise_0.02", "red", "diamond"),
        Series("noise_0.03", "red", "triangle"),
        Series("noise_as_wide_as_the_zoo", "red", "square"),
        Series("gaussian", "violet", "square"),
        Series("gaussian_pc", "violet", "diamond"),
        Series("gaussian_pc_0.6", "violet", "triangle"),
        Series("nearest_prompt", "blue", "square"),
        Series("nearest_rows", "blue", "diamond"),
        Series("shuffled_prompt", "grey", "square"),
        Series("random_text", "grey", "diamond"),
        Series("ridge_rows", "gold", "square"),
        Series("nearest_class", "gold", "circle"),
        Series("generalist", "gold", "triangle"),
        Series("hypernetwork", "gold", "diamond"),
        Series("xavier", "violet", "diamond"),
        Series("kaiming", "red", "triangle"),
        Series("default", "grey", "square"),
    )
}


def series(name: str) -> Series:
    return KNOWN.get(name, Series(name, "gold"))


def unmeasured(title: str, reason: str) -> Figure:
    return Figure(title, "", f'<p class="none">Not measured: {html.escape(reason)}.</p>')
