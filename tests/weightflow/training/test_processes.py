"""Several processes train as one: same losses, one writer, resumable bit for bit after a kill."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.main import app
from weightflow.flow.draws import NoiseDraws
from weightflow.training import run_store as runs
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.training.processes import Processes
from weightflow.training.trainer import start

from .test_trainer import assert_same_run

SETTINGS = (
    *("--set", "steps=12", "--set", "evaluate_every=4", "--set", "save_every=3", "--set", "batch_size=8"),
    *(
        "--set",
        "model.width=16",
        "--set",
        "model.depth=1",
        "--set",
        "model.heads=2",
        "--set",
        "behaviour.images=8",
    ),
    *(
        "--set",
        "adversary.weight=0.1",
        "--set",
        "augment.permute_units=true",
        "--set",
        "augment.equivariance=0.1",
    ),
)
TWO = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "weightflow"),
)


def train(zoo, out, *options):
    command = [*TWO, "train", zoo.path, "--out", out, "--seed", "1", *options]
    return subprocess.run(command, capture_output=True, text=True)


def losses(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in runs.read_metrics(folder)]


SHARDED = pytest.param(
    ("--shard",),
    id="sharded",
    marks=[
        pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="an old torch"),
        pytest.mark.slow,
    ],
)
SPLITS = pytest.mark.parametrize("split", [pytest.param((), id="replicated"), SHARDED])


@SPLITS
def test_two_processes_have_the_losses_of_one_and_write_once(zoo, tmp_path, split):
    options = [str(zoo.path), "--seed", "1", *SETTINGS]
    assert console.run_cli(app, ["train", *options, "--out", str(tmp_path / "one")]) == 0
    done = train(zoo, tmp_path / "two", *SETTINGS, *split)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 steps") == 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [line["step"] for line in two] == [4, 8, 12]
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-5)


@pytest.mark.slow
@SPLITS
def test_a_run_whose_process_was_killed_stops_with_a_message_and_resumes_bit_for_bit(zoo, tmp_path, split):
    options = [*SETTINGS, "--set", "steps=200", *split]
    whole = train(zoo, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    command = [*TWO, "train", zoo.path, "--out", tmp_path / "killed", "--seed", "1", *options]
    work = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while (runs.checkpoint_step(tmp_path / "killed") or 0) < 6:
        assert work.poll() is None
        time.sleep(0.2)
    second = _process(work.pid, rank=1)
    os.kill(second, signal.SIGKILL)
    _, said = work.communicate(timeout=120)
    assert work.returncode == 1
    assert "process 0 of 2 lost another" in said
    assert "go on with: weightflow train" in said
    assert 0 < runs.checkpoint_step(tmp_path / "killed") < 200
    resumed = train(zoo, tmp_path / "killed", "--resume", *split)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def _process(parent, rank):
    """The process of a rank among the descendants of torchrun, by its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            own = re.search(r"PPid:\s+(\d+)", (folder / "status").read_text())
        except OSError:
            continue
        if own and int(own[1]) == parent and f"\0RANK={rank}\0".encode() in b"\0" + environment:
            return int(folder.name)
    raise AssertionError("no such process")


def test_processes_that_cannot_share_a_batch_are_refused(zoo, tiny_config, tmp_path):
    odd = dataclasses.replace(tiny_config, batch_size=7)
    with pytest.raises(InputError, match="batch_size is 7, which 2 processes cannot share evenly"):
        start(zoo, odd, tmp_path / "run", processes=_Two())
    sampled = BehaviourConfig(images=8, sampled=0.5)
    three = dataclasses.replace(tiny_config, batch_size=6, behaviour=sampled)
    with pytest.raises(InputError, match="sampled of batch_size is 3"):
        start(zoo, three, tmp_path / "run", processes=_Two())
    assert not (tmp_path / "run").exists()


def test_a_generator_is_split_over_several_processes_only(zoo, tmp_path, capsys):
    assert console.run_cli(app, ["train", str(zoo.path), "--out", str(tmp_path / "run"), "--shard"]) == 2
    assert "--shard splits a generator over several processes, and this is one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class _Two(Processes):
    """Two processes, of which the other is not there."""

    def __init__(self):
        super().__init__(0, 2)

    def first_alone(self, work):
        work()


def test_the_rows_of_all_processes_are_the_rows_of_one():
    def drawn(rank, processes, networks):
        draws = NoiseDraws(torch.Generator().manual_seed(3), rank=rank, processes=processes)
        return draws.normal(networks, 2, 5), draws.uniform(networks, 3), draws.integer(1000)

    whole = drawn(0, 1, 6)
    parts = [drawn(rank, 3, 2) for rank in range(3)]
    for index in (0, 1):
        joined = torch.stack([part[index] for part in parts], dim=1).flatten(0, 1)
        torch.testing.assert_close(joined, whole[index], rtol=0, atol=0)
    assert {part[2] for part in parts} == {whole[2]}
