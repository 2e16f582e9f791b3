"""`canon verify`: check whether two networks compute the same function."""

from __future__ import annotations

from typing import Annotated

import typer

from canon.cli import console
from canon.cli.option_groups import HintOptions
from canon.cli.options import Network, Other

UNDECIDED = 3


def verify(
    a: Network,
    b: Other,
    *,
    hints: HintOptions,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")] = 0,
    json: bool = console.JSON,
) -> None:
    """Check whether A and B compute the same function; exit code 0 if so, 1 if not, 3 if undecided.

    With --model, .pt2 files or files that say their architecture both are run in float64 on random inputs. Where weights differ that these inputs do not reach (rows of an embedding, units that never respond), or outputs by what may be rounding, the weights have to be a permutation and rescaling of each other too; else the answer is undecided.

    Without code, searches for a permutation and rescaling from A to B. Finding one shows equivalence, under the assumptions that are named; finding none is inconclusive.

    The tolerance is the rounding of the coarsest dtype of the two files; it is printed.

    [bold]Example[/bold]

      canon verify b.pt c.safetensors --model nets.py:build --input 1x3x32x32
    """
    from canon.api import inspection

    found = inspection.equivalent(a, b, seed=seed, **hints.arguments())
    console.show(found.report, f"{found.report['verdict']}: {found.reason}", json)
    if not found.same:
        raise typer.Exit(UNDECIDED if found.same is None else 1)
