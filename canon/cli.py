"""The `canon` command line: read, call, write. Numerics are imported when a command needs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canon import console, describe
from canon.options import (
    Balance,
    Batch,
    Examples,
    Family,
    Input,
    Method,
    Model,
    Network,
    Other,
    Out,
    Repair,
    Seed,
    Spec,
    Start,
    Train,
    TransformOut,
)

if TYPE_CHECKING:
    import torch

    from canon.checkpoint import Checkpoint
    from canon.data import Data
    from canon.runnable import Hints

app = console.application(
    "Remove the symmetries of neural networks.\n\n"
    "The units of a hidden layer can be listed in any order without a change in what the network computes. "
    "canon finds those symmetries, proves them, and brings two networks into the same order, so that their "
    "weights can be compared, interpolated and merged.\n\n"
    "Networks are .safetensors, .pt, .pth, .bin or .pt2 files.\n\n"
    "[bold]How canon learns the symmetries[/bold] (every command takes these):\n\n"
    "  a .pt2 file (torch.export)      traced and proved\n\n"
    "  --model pkg.mod:build           your module, traced and proved\n\n"
    "  a bare checkpoint               well-known families are recognised by keys and shapes\n\n"
    "  --spec S.json                   a spec that `canon inspect --spec` wrote, amended by hand if need be"
)


def main() -> None:
    """The entry point of the `canon` command."""
    console.run(app, name="canon")


@app.command()
def align(
    a: Annotated[Path, typer.Argument(metavar="A", help="The network whose order is taken.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The network that is reordered.")],
    out: Out,
    spec: Spec = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    method: Method = "weights",
    start: Start = "auto",
    balance: Balance = False,
    data: Examples = None,
    batch: Batch = 256,
    seed: Seed = None,
    transform: TransformOut = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="Write the report.")
    ] = None,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Bring B into the order of A; what B computes does not change, and that is proved.

    C keeps B's keys, order, dtypes and metadata, so it loads wherever B did.

    [bold]Examples[/bold]

      canon align a.pt b.pt --out c.safetensors

      canon align a.pt b.pt --model nets.py:build --input 1x3x32x32 --out c.pt --report r.json
    """
    _check_outputs(out, transform, report)
    from canon.alignment import align
    from canon.methods import Means, matcher_for
    from canon.resolve import read_pair, resolve

    pair = read_pair(a, b)
    resolved = resolve(pair.known, _hints(spec, model, family, input))
    means = Means(start, _order(seed), resolved.runnable, _data(data), batch)
    matcher = matcher_for(method, means)
    with console.progress(None, "matching", quiet=quiet):
        done = align(pair.a, pair.b, resolved, matcher, balance=balance, generator=_draws())
    _write(out, done.aligned)
    if transform is not None:
        done.transform.save(transform)
    if report is not None:
        _write_text(report, console.json_text(done.report) + "\n")
    console.show(done.report, describe.alignment(done.report, str(out)), json)


@app.command()
def canonicalize(
    a: Network,
    out: Out,
    spec: Spec = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    transform: TransformOut = None,
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Let linear layers take the gains and biases of the norms before them."),
    ] = False,
    json: bool = console.JSON,
) -> None:
    """Bring A into an order that depends on nothing but A: every relabelling of A gives the same file.

    Units of odd activations (tanh, sin) also get canonical signs.

    [bold]Examples[/bold]

      canon canonicalize a.pt --out c.safetensors

      canon canonicalize vit.pt --model nets.py:build --fold --out c.safetensors
    """
    _check_outputs(out, transform)
    from canon.alignment import canonical_form, folded_form
    from canon.errors import InputError
    from canon.resolve import read_one, resolve

    if fold and transform is not None:
        raise InputError("--transform keeps relabellings and scales, which folding is not; leave one out")
    network = read_one(a)
    resolved = resolve(network, _hints(spec, model, family, input))
    if fold:
        folded, report = folded_form(network, resolved, _draws())
        _write(out, folded)
        console.show(report, describe.folding(report, str(out)), json)
        return
    done = canonical_form(network, resolved, _draws())
    _write(out, done.aligned)
    if transform is not None:
        done.transform.save(transform)
    moved = f"{done.report['moved_fraction']:.1%} of the units moved"
    console.show(done.report, f"{moved}; the function stayed: {done.report['proof']}\nwrote {out}", json)


@app.command()
def inspect(
    a: Network,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="OUT.json", help="Write the spec here, to keep or amend.")
    ] = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    json: bool = console.JSON,
) -> None:
    """Show the groups of A's units: what moves, what is frozen, and why.

    [bold]Examples[/bold]

      canon inspect resnet18.pth

      canon inspect net.pt --model nets.py:build --input 1x3x32x32 --spec groups.json
    """
    _check_outputs(spec)
    from canon.resolve import read_one, resolve

    resolved = resolve(read_one(a), _hints(None, model, family, input))
    if spec is not None:
        _write_text(spec, resolved.spec.to_json() + "\n")
    found = describe.spec(resolved.spec, resolved.source)
    console.show(found, describe.tables(found), json)


@app.command()
def verify(
    a: Network,
    b: Other,
    spec: Spec = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")] = 0,
    json: bool = console.JSON,
) -> None:
    """Say whether A and B are the same function; exit code 0 if they are, 1 if not.

    With --model or .pt2 files both are run in float64 on random inputs.

    Otherwise a relabelling that turns one into the other is sought: one proves it, none decides nothing.

    [bold]Example[/bold]

      canon verify b.pt c.safetensors --model nets.py:build --input 1x3x32x32
    """
    from canon.resolve import read_pair, resolve
    from canon.runnable import find_runnable
    from canon.verify import same_by_relabelling, same_by_running

    pair, hints = read_pair(a, b), _hints(spec, model, family, input)
    runnable = find_runnable(pair.known, hints)
    if runnable is not None:
        result = same_by_running(pair.a.state, pair.b.state, runnable, _draws(seed))
    else:
        result = same_by_relabelling(pair.a.state, pair.b.state, resolve(pair.known, hints))
    console.show(result, f"{result['verdict']}: {result['proof']}", json)
    if not result["same"]:
        raise typer.Exit(1)


@app.command()
def apply(
    t: Annotated[Path, typer.Argument(metavar="T", help="A transform that --transform wrote.")],
    a: Network,
    out: Out,
    kind: Annotated[
        str, typer.Option("--kind", help="What A is: network, task-vector, lora or optimizer.")
    ] = "network",
    invert: Annotated[bool, typer.Option("--invert", help="Apply the inverse.")] = False,
    fan_in_fan_out: Annotated[
        bool, typer.Option("--fan-in-fan-out", help="LoRA of weights stored (in, out), as GPT-2's.")
    ] = False,
    json: bool = console.JSON,
) -> None:
    """Apply a transform to a network, or to what belongs to it.

    --kind task-vector is the difference of two checkpoints.

    --kind lora holds low-rank factors, named as PEFT names them.

    --kind optimizer holds what `optimizer.state_dict()` gave.

    [bold]Examples[/bold]

      canon align a.pt b.pt --out c.pt --transform t.safetensors

      canon apply t.safetensors b-finetuned.pt --out c-finetuned.pt

      canon apply t.safetensors adapter.safetensors --kind lora --out moved.safetensors
    """
    _check_outputs(out)
    from canon.carry import carry

    count = carry(t, a, out, kind=kind, invert=invert, fan_in_fan_out=fan_in_fan_out)
    console.show(
        {"tensors": count, "out": str(out)}, f"{count} tensors of {a} transformed\nwrote {out}", json
    )


@app.command()
def barrier(
    a: Network,
    b: Other,
    data: Annotated[
        Path, typer.Option("--data", metavar="X.npz", help="Where to score: an .npz with x and y.")
    ],
    aligned: Annotated[bool, typer.Option("--align", help="Also align B to A, and score that line.")] = False,
    train: Train = None,
    repair: Repair = "none",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="P.png", help="Draw it (png, svg, pdf).")
    ] = None,
    points: Annotated[int, typer.Option("--points", min=3, help="Points on the line, ends included.")] = 11,
    spec: Spec = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    method: Method = "weights",
    start: Start = "auto",
    balance: Balance = False,
    batch: Batch = 256,
    seed: Seed = None,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Walk the straight line from A to B and say how far loss and accuracy leave it.

    The loss barrier is the largest rise of the loss above the straight line between its ends.

    The network's code must be known: give --model, or .pt2 files.

    [bold]Example[/bold]

      canon barrier a.pt b.pt --model nets.py:build --data test.npz --align --plot line.png
    """
    _check_outputs(plot)
    from canon.alignment import align
    from canon.barrier import barriers
    from canon.data import read_data
    from canon.methods import Means, matcher_for
    from canon.plot import check_format, plot_curves
    from canon.resolve import read_pair, resolve
    from canon.runnable import find_runnable, require_runnable

    if plot is not None:
        check_format(plot)
    pair, hints = read_pair(a, b), _hints(spec, model, family, input)
    runnable = require_runnable(find_runnable(pair.known, hints))
    scored, statistics = read_data(data, labels=True), _data(train)
    lines = {"unaligned": (pair.a.state, pair.b.state)}
    if aligned:
        matcher = matcher_for(method, Means(start, _order(seed), runnable, statistics, batch))
        done = align(
            pair.a, pair.b, resolve(pair.known, hints, runnable), matcher, balance=balance, generator=_draws()
        )
        lines["aligned"] = (pair.a.state, done.aligned.state)
    with console.progress(points * len(lines), "scoring", quiet=quiet) as steps:
        curves = barriers(
            runnable,
            lines,
            scored,
            points=points,
            batch=batch,
            repair=repair,
            train=statistics,
            advance=steps.advance,
        )
    if plot is not None:
        plot_curves(curves, plot)
    result = {name: describe.curve(found) for name, found in curves.items()}
    console.show(result, describe.barriers(result), json)


@app.command()
def merge(
    networks: Annotated[list[Path], typer.Argument(metavar="A B", help="Two networks or more.")],
    out: Out,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Their shares, as 0.7,0.3; equal if not given.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--align/--as-they-are", help="Align all to the first before taking the mean.")
    ] = True,
    train: Train = None,
    repair: Repair = "none",
    spec: Spec = None,
    model: Model = None,
    family: Family = None,
    input: Input = None,
    method: Method = "weights",
    start: Start = "auto",
    balance: Balance = False,
    batch: Batch = 256,
    seed: Seed = None,
    json: bool = console.JSON,
    quiet: bool = console.QUIET,
) -> None:
    """Take the weighted mean of networks, aligned to the first; the result is like the first one's file.

    [bold]Examples[/bold]

      canon merge a.pt b.pt c.pt --out mean.safetensors

      canon merge a.pt b.pt --weights 0.7,0.3 --model nets.py:build --train x.npz --repair batch-norm -o m.pt
    """
    _check_outputs(out)
    from canon.merging import merge_networks, parse_weights
    from canon.methods import Means, matcher_for
    from canon.resolve import read_one, resolve
    from canon.runnable import find_runnable

    shares, examples = parse_weights(weights, len(networks)), _data(train)
    found, hints = [read_one(path) for path in networks], _hints(spec, model, family, input)
    runnable = find_runnable(found[0], hints)
    with console.progress(len(networks) - 1, "merging", quiet=quiet) as steps:
        merged, result = merge_networks(
            found,
            shares,
            [str(path) for path in networks],
            resolved=resolve(found[0], hints, runnable) if aligned else None,
            matcher=matcher_for(method, Means(start, _order(seed), runnable, examples, batch)),
            balance=balance,
            runnable=runnable,
            repair=repair,
            train=examples,
            batch=batch,
            generator=_draws(),
            advance=steps.advance,
        )
    _write(out, merged)
    for warning in result["warnings"]:
        console.say(f"warning: {warning}")
    console.show(result, f"the mean of {len(networks)} networks\nwrote {out}", json)


def _hints(spec: Path | None, model: str | None, family: str | None, input: str | None) -> Hints:
    from canon.runnable import Hints

    return Hints(spec, model, family, input)


def _order(seed: int | None) -> torch.Generator | None:
    """What orders the groups in matching; None for the network's own order."""
    import torch

    return None if seed is None else torch.Generator().manual_seed(seed)


def _draws(seed: int = 0) -> torch.Generator:
    """What draws the inputs on which functions are compared."""
    import torch

    return torch.Generator().manual_seed(seed)


def _data(path: Path | None, labels: bool = False) -> Data | None:
    from canon.data import read_data

    return None if path is None else read_data(path, labels=labels)


def _check_outputs(*paths: Path | None) -> None:
    """Fail before the work, not after it."""
    from canon.files import require_folder

    for path in paths:
        if path is not None:
            require_folder(path)


def _write(path: Path, found: Checkpoint) -> None:
    from canon import checkpoint

    checkpoint.write(path, found)


def _write_text(path: Path, text: str) -> None:
    from canon.files import atomic_write

    atomic_write(path, text)


if __name__ == "__main__":
    main()
