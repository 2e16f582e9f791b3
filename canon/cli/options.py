"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Network = Annotated[
    Path,
    typer.Argument(
        metavar="A",
        help="A network: a file, a folder or a name in the Hugging Face cache.",
        show_default=False,
    ),
]
Other = Annotated[Path, typer.Argument(metavar="B", help="Another network.", show_default=False)]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Output path; the suffix determines the format. Networks read from a folder are written as a new folder.",
    ),
]
Spec = Annotated[Path | None, typer.Option("--spec", help="Read the permutation spec from this JSON file.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PKG.MOD:FUNCTION",
        help="Function without arguments that returns the module, or the module and a "
        "tuple of example inputs.",
    ),
]
Family = Annotated[
    str | None, typer.Option("--family", help="Family of the architecture, instead of detecting it.")
]
Assume = Annotated[
    list[str] | None,
    typer.Option(
        "--assume",
        metavar="NAME[=VALUE]",
        help="A fact that keys and shapes of a bare checkpoint do not determine; the report lists it as an assumption: "
        "heads=12, activation=relu, chain (linear layers, convolutions, recurrent layers and norms over units feed one "
        "another, each once, through element-wise activations, pooling over positions and flattening alone), "
        "plain-convolutions (none is transposed or has groups), padding=both|behind|front (zero channels of shortcuts), "
        "norm=layer, tied-head. Repeatable.",
    ),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Example inputs for --model: 1x3x224x224, or 1x16@1000 for token ids below 1000; commas between. "
        "Classes of transformers, and networks that begin with a linear layer, need none.",
    ),
]
StartName = Literal["auto", "identity", "anchored", "signatures", "frank_wolfe"]
RepairName = Literal["none", "norms", "batch-norm", "repair"]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="[weights|activations|transfusion|straight-through|FILE.py:FUNCTION]",
        help="weights, or transfusion, which matches heads of attention by their singular values; both also choose the "
        "signs of odd units (tanh, sin). activations and straight-through run the network on examples and leave "
        "signs as they are. Your own: package.module:function or file.py:function of the spec and two states.",
    ),
]
Start = Annotated[
    StartName,
    typer.Option("--start", help="Initialization of the matching; auto tries several and keeps the best."),
]
Balance = Annotated[
    bool,
    typer.Option("--balance", help="Match rescaled units, and give the units of B the scales of those of A."),
]
ExceptFor = Annotated[
    list[str] | None,
    typer.Option(
        "--except",
        metavar="NAME",
        help="Tensors or modules in which the networks may differ, such as heads of other classes (fc, or head.*): they "
        "take no part in matching, and the result has those of the network that it looks like. Repeatable.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", help="Visit groups in a random order with this seed instead of the network's order."
    ),
]
Examples = Annotated[
    Path | None, typer.Option("--data", metavar="X.npz", help="Examples: an .npz with x, and y where needed.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Batch size.")]
TransformOut = Annotated[
    Path | None,
    typer.Option("--transform", metavar="T", help="Write the transform to this file, for `canon apply`."),
]
Train = Annotated[
    Path | None,
    typer.Option("--train", metavar="X.npz", help="Training examples, for --repair and activations."),
]
Repair = Annotated[
    RepairName,
    typer.Option(
        "--repair",
        help="After merging: norms rescales each row to the mean row norm of the inputs; with --train, batch-norm "
        "re-estimates running statistics, repair rescales activations (REPAIR).",
    ),
]
