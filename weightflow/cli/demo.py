"""`weightflow demo`: the whole pipeline as a sequence of ordinary commands."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import typer

from canon.cli import console
from canon.io.folders import require_place
from weightflow.zoo.store import Zoo


def run_demo(app: typer.Typer, out: Path, seed: int, as_json: bool = False) -> None:
    """Run every step in `out`; steps that are done are recognised and skipped by their own commands."""
    begin = time.monotonic()
    zoo, canonical, run, networks = (str(out / name) for name in ("zoo", "canonical", "run", "networks"))
    require_place(out)
    _run(app, ["zoo", "build", "specialists_digits", "--out", zoo, "--seed", str(seed)])
    _run(app, ["canonicalize", zoo, "--out", canonical])
    # without freely drawn tasks, which double the time of training
    cheap = ["--preset", "specialists", "--set", "behaviour.beyond=0"]
    _run(app, ["train", canonical, "--out", run, *cheap, "--resume", "--seed", str(seed)])
    prompts = held_out_prompts(Zoo(zoo))
    _run(app, ["sample", run, "--classes", prompts[0], "--count", "8", "--out", networks])
    _run(app, ["evaluate", networks])
    _run(app, ["report", run, *(["--json"] if as_json else [])])
    console.say(
        f"\nDone in {time.monotonic() - begin:.0f} s. The page to look at: {out / 'run' / 'report.html'}"
    )
    console.say("Try next:")
    more = ["sample", run, "--classes", prompts[1], "--count", "100", "--out", str(out / "more"), "--explain"]
    console.say(f"  {_as_typed(more)}")


def held_out_prompts(zoo: Zoo) -> list[str]:
    """Two combinations that the generator never sees: one of three classes, one of the most."""
    unseen = [record.classes for record in zoo.records if record.split == "unseen_combinations"]
    by_size = sorted(unseen, key=len)
    return [", ".join(by_size[0]), ", ".join(by_size[-1])]


def _run(app: typer.Typer, arguments: list[str]) -> None:
    console.say(f"\n$ {_as_typed(arguments)}")
    with console.receiving():  # a step that is finished does not end the demo
        app(arguments, standalone_mode=False)


def _as_typed(arguments: list[str]) -> str:
    return "weightflow " + shlex.join(arguments)
