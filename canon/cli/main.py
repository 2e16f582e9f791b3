"""The `canon` command line: one file for each command, listed here. Nothing here imports torch."""

from canon import __version__
from canon.cli import console
from canon.cli.align import align
from canon.cli.apply import apply
from canon.cli.barrier import barrier
from canon.cli.canonicalize import canonicalize
from canon.cli.inspect import inspect
from canon.cli.merge import merge
from canon.cli.option_groups import grouped
from canon.cli.verify import verify

app = console.application(
    "Remove the symmetries of neural networks.\n\n"
    "The units of a hidden layer can be listed in any order without a change in what the network computes. "
    "canon finds those symmetries, checks them numerically, and brings two networks into the same order, so that their "
    "weights can be compared, interpolated and merged.\n\n"
    "Networks are .safetensors, .pt, .pth, .bin, .ckpt, .th, .pth.tar or .pt2 files, folders of "
    "Hugging Face's (weights, shards, config.json), or names of models in its cache.\n\n"
    "[bold]Sources of the symmetries[/bold] (accepted by every command):\n\n"
    "  a .pt2 file (torch.export)      traced and checked numerically\n\n"
    "  --model pkg.mod:build           your module, traced and checked numerically\n\n"
    "  a bare checkpoint               keys, shapes and config.json; --assume adds what these do not determine\n\n"
    "  --spec S.json                   a spec that `canon inspect --save-spec` wrote, amended by hand without its entry sha256\n\n"
    "Exit codes: 0 done; 1 the work failed, or `verify` found two different functions; 2 wrong input; 3 `verify` "
    "could not decide; 130 interrupted.",
    __version__,
)


for command in (align, canonicalize, inspect, verify, apply, barrier, merge):
    app.command()(grouped(command))


def main() -> None:
    """The entry point of the `canon` command."""
    console.run(app, name="canon")


if __name__ == "__main__":
    main()
