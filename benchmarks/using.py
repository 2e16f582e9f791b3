"""What the benchmarks of using generated networks share: a demo that was run before, and its options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from weightflow.network import Network
from weightflow.sample import Flow
from weightflow.text import Prompt
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class Demo:
    """The generator of a demo, and the zoo as it was trained, not aligned."""

    flow: Flow
    zoo: Zoo

    def network(self, row: int) -> Network:
        record = self.zoo.records[row]
        return Network(self.zoo.load([row]), Prompt(record.classes), record.dataset)


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("small", "paper"), default="small")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder that `weightflow demo` made")
    return parser.parse_args()


def open_demo(folder: Path) -> Demo:
    if not (folder / "run" / "config.toml").exists():
        sys.exit(f"there is no demo in {folder}; make one: weightflow demo --out {folder}")
    return Demo(Flow(folder / "run"), Zoo(folder / "zoo"))
