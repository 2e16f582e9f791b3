"""What generated networks are for: fuse, enhance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canon import console

app = typer.Typer()


@app.command()
def fuse(
    first: Annotated[Path, typer.Argument(help="A network file.")],
    second: Annotated[Path, typer.Argument(help="Another, for other classes; overlap is allowed.")],
    run: Annotated[Path, typer.Option(help="Folder of the run whose generator makes the union.")],
    out: Annotated[Path, typer.Option(help="File of the fused network.")],
    strength: Annotated[
        float, typer.Option(help="0 averages the two, 1 generates from the union's words alone.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """Make one network for the classes of two, from the words for their union.

    Shows test accuracy beside that of averaging the two in one frame (Git Re-Basin).
    """
    from weightflow.evaluate import judge
    from weightflow.fuse import fuse as fuse_networks
    from weightflow.network import read_network, write_network
    from weightflow.sample import Flow

    flow = Flow(run)
    dataset = flow.header.zoo.dataset
    a, b = (read_network(path, flow.architecture, dataset) for path in (first, second))
    made = fuse_networks(flow, a, b, strength, seed)
    figures = {
        name: float(judge(flow.architecture, state, [made.task]).accuracy)
        for name, state in (("fused", made.generated), ("average", made.average))
    }
    write_network(out, flow.architecture, made.generated, made.task.classes)
    text = (
        f"{out}: {', '.join(made.task.classes)}; test accuracy {100 * figures['fused']:.1f} %, "
        f"average of the two {100 * figures['average']:.1f} %, chance {100 / len(made.task.classes):.1f} %"
    )
    console.show({"network": str(out), "classes": made.task.classes, "accuracy": figures}, text, as_json)


@app.command()
def enhance(
    network: Annotated[Path, typer.Argument(help="A network file of the run's architecture.")],
    run: Annotated[Path, typer.Option(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="File of the enhanced network.")],
    strength: Annotated[float, typer.Option(help="0 leaves it as it is, 1 makes it anew.")] = 0.5,
    classes: Annotated[
        str | None, typer.Option(help="Its classes in logit order, where the file does not say.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    as_json: bool = console.JSON,
) -> None:
    """Repair a weak network: partway to noise and back under its own words.

    Shows test accuracy before and after.
    """
    from weightflow.enhance import enhance as enhance_networks
    from weightflow.evaluate import judge
    from weightflow.network import read_network, write_network
    from weightflow.sample import Flow
    from weightflow.text import Prompt

    flow = Flow(run)
    prompt = None if classes is None else Prompt.parse(classes)
    given = read_network(network, flow.architecture, flow.header.zoo.dataset, prompt)
    made = enhance_networks(flow, given.state, [given.task], strength, [seed])
    before, after = (
        float(judge(flow.architecture, state, [given.task]).accuracy) for state in (given.state, made)
    )
    write_network(out, flow.architecture, made, given.prompt.classes)
    console.show(
        {"network": str(out), "accuracy": {"before": before, "after": after}},
        f"{out}: test accuracy {100 * before:.1f} % before, {100 * after:.1f} % after",
        as_json,
    )
