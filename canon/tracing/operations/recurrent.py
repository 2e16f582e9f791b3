"""Recurrent layers and cells: the gates of a unit move together with its recurrent input axis.

A weight of G gates lists (gate, unit), row-major. Time runs in one direction, so its axis stays in place. Layers and
directions have units of their own; the final states of several lie over one another (`Layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from canon.tracing.axis_unification import ONE, Structure
from canon.tracing.operations.context import Context, Dim, Layers, Part, Traced, handles, unknown

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class _States:
    """What one layer in one direction starts from: the axes of hidden state and cell, None where they are zeros."""

    hidden: Structure | None = None
    cell: Structure | None = None


@handles("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(c: Context, a: SimpleNamespace, out: Any) -> list[list[Dim]]:
    if hasattr(a, "batch_sizes"):  # packed sequences, which torch.export cannot follow today
        return unknown(c, a, out)
    x = c.axes(a.input)
    time = 1 if a.batch_first and len(x) == 3 else 0
    c.units.freeze_axis(x[time], c.because("steps of a sequence have an order"))
    states = a.hx if isinstance(a.hx, (list, tuple)) else [a.hx]
    directions = 2 if a.bidirectional else 1
    count = a.num_layers * directions
    each = len(a.params) // count
    starts = [_starts(c, given, count) for given in states]
    batch: list[Structure] = [x[1 - time]] if len(x) == 3 else []
    _same_batch(c, states, batch)
    features, hidden, cells = x[-1], [], []
    for layer in range(a.num_layers):
        read: Structure = ()
        for direction in range(directions):
            number = layer * directions + direction
            params = [c.axes(p) for p in a.params[number * each : (number + 1) * each]]
            start = _States(*(given[number] for given in starts))
            unit, cell = _layer(c, [*x[:-1], features], params, start, bool(a.has_biases))
            hidden.append(unit)
            cells.append(cell)
            read += unit
        features = read
    finals = [hidden, cells] if c.name == "lstm" else [hidden]
    return [[*x[:-1], features], *(_final(c, units, batch) for units in finals)]


@handles("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(c: Context, a: SimpleNamespace, out: Any) -> Any:
    states = a.hx if isinstance(a.hx, (list, tuple)) else [a.hx]
    x = c.axes(a.input)
    _same_batch(c, states, x[:-1])
    start = _States(*(None if given.zeros else c.axes(given)[-1] for given in states))
    biases = [b for b in (a.b_ih, a.b_hh) if b is not None]
    params = [c.axes(p) for p in (a.w_ih, a.w_hh, *biases)]
    hidden, inner = _layer(c, x, params, start, bool(biases))
    return [[*x[:-1], hidden], [*x[:-1], inner]] if c.name == "lstm_cell" else [*x[:-1], hidden]


def _layer(
    c: Context, x: list[Structure], params: list[list[Structure]], start: _States, biased: bool
) -> tuple[Structure, Structure]:
    """The axes of the hidden state and of the cell: one, but for a projection of the hidden state."""
    (w_in, w_again), rest = params[:2], params[2:]
    names = [f"batch{n}" for n in range(len(x) - 1)]
    c.still(c.contract([x, w_in], [[*names, "in"], ["out", "in"]], [*names, "out"])[-1:])
    gates = GATES[c.name.removesuffix("_cell")]
    why = c.because("gates of a recurrent layer")
    units: list[Structure] = []
    for axes in (w_in, w_again, *(rest[:2] if biased else [])):
        gate, unit = (
            c.units.split(axes[0], (gates, c.units.size(axes[0]) // gates), why)
            if gates > 1
            else (ONE, axes[0])
        )
        c.units.freeze_axis(gate, why)
        units.append(unit)
    cell = units[0]
    hidden = rest[-1][0] if len(rest) == (3 if biased else 1) else cell
    if hidden is not cell:
        units.append(rest[-1][1])
    if start.cell is not None:
        units.append(start.cell)
    for other in units[1:]:
        c.units.unify(cell, other, c.because("sizes do not match"))
    again = [w_again[1], *([] if start.hidden is None else [start.hidden])]
    for other in again:
        c.units.unify(hidden, other, c.because("sizes do not match"))
    c.still([*units, hidden, *again])
    return hidden, cell


def _starts(c: Context, given: Traced, count: int) -> Sequence[Structure | None]:
    """The axis of units in an initial state, for each layer and direction; zeros list no units."""
    if given.zeros:
        return [None] * count
    last = given.dims[-1]
    if isinstance(last, Part) and isinstance(last.split, Layers) and last.split.axes is None:
        return list(last.split.layers)
    return [c.axis(last)] * count


def _same_batch(c: Context, states: Sequence[Traced], batch: list[Structure]) -> None:
    for given in states:
        if not given.zeros and batch and len(given.dims) > 1:
            c.units.unify(batch[0], c.axis(given.dims[-2]), c.because("sizes do not match"))


def _final(c: Context, units: list[Structure], batch: list[Structure]) -> list[Dim]:
    if len(units) == 1:
        return [ONE, *batch, units[0]]
    stack = Layers.of(units)
    return [Part(stack, 0), *batch, Part(stack, 1)]
