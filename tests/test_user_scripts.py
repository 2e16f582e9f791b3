"""Scripts of users pass `mypy --strict` without settings of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

CANON = """
import torch
from torch import nn

import canon


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


a, b = net(), net()
aligned: nn.Sequential = canon.align(a, b)
state = canon.align(a.state_dict(), b.state_dict(), model=a)
print(aligned(torch.randn(1, 4)), state.report["verified"], state["0.weight"].shape)
"""
WEIGHTFLOW = """
import weightflow
zoo: weightflow.Zoo = weightflow.Zoo("zoos/canonical")
flow: weightflow.Flow = weightflow.train(zoo, "runs/a", steps=10)
nets: weightflow.StackedNetworks = flow.sample("three, seven", 100)
state: dict[str, object] = dict(nets[0])
for network in flow.generate("three, seven", count=3):
    print(network.classes)
print(flow.report().verdict, weightflow.evaluate(nets)["chance"], weightflow.__version__)
"""


@pytest.mark.slow
def test_scripts_pass_strict_type_checking(tmp_path):
    """One process for both: most of its time goes into reading torch."""
    for name, text in (("with_canon", CANON), ("with_weightflow", WEIGHTFLOW)):
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-incremental"]
    done = subprocess.run(
        [*command, "--config-file", "", *map(str, sorted(tmp_path.glob("*.py")))],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout + done.stderr
