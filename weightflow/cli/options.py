"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# Written out, so that `--help` lists them before torch is imported; a test compares them with the tables.
PresetName = Literal[
    "weightflow",
    "specialists",
    "narrow",
    "deepweightflow",
    "t2w",
    "t2w-small",
    "tina",
    "tina-small",
    "hypernetwork",
]
SolverName = Literal["euler", "midpoint", "heun", "rk4", "dopri5", "ddim", "ancestral"]
PathName = Literal["flow", "diffusion"]
ExecutorName = Literal["local", "ray"]
LineageName = Literal["independent", "branched", "imported"]
FormatName = Literal["safetensors", "pt2", "onnx", "pretrained"]
DATASETS = (
    "digits, iris, wine, breast_cancer, mnist, fashion_mnist, cifar10, cifar100, caltech256, tinyimagenet, yelp, "
    "imagefolder:PATH, npz:PATH, or one of a plug-in"
)
RECIPES = (
    "cifar10_cnn, cifar10_resnet18, cifar10_resnet20, cifar10_vit, digits, digits_groupings, fashion_mnist, iris, "
    "mnist, specialists, specialists_cnn, specialists_digits, t2w_adapter, tina_cnn, tina_head, yelp; some also as "
    "NAME-small"
)

Solver = Annotated[
    SolverName | None, typer.Option("--method", help="Solver; the setting of the run by default.")
]
Device = Annotated[
    str, typer.Option(help="Device: cpu, cuda, cuda:1, mps, or auto for an accelerator if there is one.")
]

Executor = Annotated[
    ExecutorName, typer.Option(help="Where to compute: processes on this machine, or a Ray cluster.")
]
Workers = Annotated[int, typer.Option(help="Number of shards computed in parallel.")]

Seed = Annotated[int | None, typer.Option(help="Random seed of this command.")]


def settings_like(example: str) -> Any:
    """The option `--set`, whose help shows a setting that the command has."""
    return typer.Option(
        "--set", help=f"Override one setting, for example [bold]--set {example}[/]. Repeatable."
    )


Descriptions = Annotated[
    Path | None,
    typer.Option(help="CSV file with one line per class: its name in the data set and a description."),
]
Download = Annotated[bool, typer.Option("--download", help="Download the data set first; needs torchvision.")]
