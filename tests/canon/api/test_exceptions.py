"""Networks whose heads differ: aligned and merged in all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import canon
from canon.cli import console, main
from canon.errors import InputError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
ORDER = torch.tensor([3, 0, 5, 1, 4, 2])


def network(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential()
    layers = {"up": nn.Linear(4, 6), "act": nn.ReLU(), "mid": nn.Linear(6, 5), "act2": nn.Tanh()}
    for name, layer in (layers | {"fc": nn.Linear(5, classes)}).items():
        made.add_module(name, layer)
    return made.eval()


def three() -> nn.Module:
    return network(3)


def ten() -> nn.Module:
    return network(10)


def planted(a: nn.Module, classes: int) -> nn.Module:
    """A's layers in another order, under a head of its own."""
    b = network(classes, 7)
    with torch.no_grad():
        b.up.weight.copy_(a.up.weight[ORDER])
        b.up.bias.copy_(a.up.bias[ORDER])
        b.mid.weight.copy_(a.mid.weight[:, ORDER])
        b.mid.bias.copy_(a.mid.bias)
    return b


@pytest.mark.parametrize("method", ["weights", "transfusion"])
@pytest.mark.parametrize("kind", ["modules", "states", "files"])
def test_all_but_the_head_is_aligned(tmp_path: Path, kind: str, method: str) -> None:
    a = network(10)
    b = planted(a, 3)
    given: Any = (a, b)
    structure: dict[str, Any] = {}
    if kind != "modules":
        given, structure = (a.state_dict(), b.state_dict()), {"model": lambda: network(3)}
    if kind == "files":
        for name, state in zip("ab", given, strict=True):
            torch.save(state, tmp_path / name)
        given = (tmp_path / "a", tmp_path / "b")
    aligned = canon.align(*given, except_for="fc", method=method, **structure)
    state: dict[str, Tensor] = aligned.state_dict() if kind == "modules" else aligned
    assert all(torch.equal(state[key], a.state_dict()[key]) for key in state if not key.startswith("fc"))
    assert aligned.report["verified"]
    assert aligned.report["except_for"] == ["fc.bias", "fc.weight"]
    made = network(3)
    made.load_state_dict(state)
    assert torch.allclose(made(X), b(X), atol=1e-6)


def test_a_head_that_one_network_has_and_the_other_has_not() -> None:
    a = network(10).state_dict()
    b = planted(network(10), 3)
    trunk = {key: tensor for key, tensor in a.items() if not key.startswith("fc")}
    extra = trunk | {"aux.weight": torch.zeros(2, 5)}
    for one in (trunk, extra):
        aligned = canon.align(one, b, except_for=["fc.*", "aux"] if one is extra else ["fc.*"])
        assert torch.equal(aligned.up.weight, a["up.weight"])


def test_a_mean_has_the_head_of_the_first() -> None:
    a = network(10)
    b = planted(a, 3)
    for align in (True, False):
        merged = canon.merge([b, a], except_for="fc", align=align)
        assert torch.equal(merged.fc.weight, b.fc.weight)
        assert torch.equal(merged.fc.bias, b.fc.bias)
    merged = canon.merge([b, a], except_for="fc")
    assert all(torch.allclose(merged.state_dict()[k], b.state_dict()[k], atol=1e-6) for k in b.state_dict())


def test_what_is_excepted_does_not_weigh() -> None:
    """Equal heads in another order would pull units the wrong way."""
    a = network(3)
    b = planted(a, 3)
    aligned = canon.align(a.state_dict(), b.state_dict(), model=lambda: network(3), except_for=["fc"])
    again = canon.align(
        a.state_dict() | {"fc.weight": torch.full((3, 5), 1e3)},
        b.state_dict(),
        model=lambda: network(3),
        except_for="fc",
    )
    assert all(torch.equal(aligned[key], again[key]) for key in aligned)
    assert aligned.report["objective_after"] == again.report["objective_after"]


def test_wrong_patterns_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = network(10), network(3)
    with pytest.raises(InputError, match=r"--except head matches no tensor; names are like .*fc"):
        canon.align(a, b, except_for="head")
    with pytest.raises(InputError, match="leaves no tensor"):
        canon.align(a, b, except_for="*")
    with pytest.raises(InputError, match=r"different architectures: fc.weight .*--except NAME"):
        canon.align(a, b)
    with pytest.raises(InputError, match="use --method weights"):
        canon.align(a, b, except_for="fc", method="activations", data=X)
    for name, made in (("a.pt", a), ("b.pt", b)):
        torch.save(made.state_dict(), tmp_path / name)
    line = ["align", tmp_path / "a.pt", tmp_path / "b.pt", "-o", tmp_path / "c.pt", "--model"]
    assert console.run_cli(main.app, [str(x) for x in [*line, f"{__name__}:three"]], name="canon") == 2
    assert not (tmp_path / "c.pt").exists()
    assert (
        console.run_cli(
            main.app, [str(x) for x in [*line, f"{__name__}:three", "--except", "fc"]], name="canon"
        )
        == 0
    )
    assert "not matched, and those of B: fc.bias, fc.weight" in capsys.readouterr().out
    line = ["merge", *line[1:4], tmp_path / "m.pt", "--model", f"{__name__}:ten", "--except", "fc"]
    assert console.run_cli(main.app, [str(x) for x in line], name="canon") == 0
    assert torch.load(tmp_path / "m.pt")["fc.bias"].shape == (10,)
    line = ["align", *line[1:3], "-o", tmp_path / "d.pt", "--model", f"{__name__}:ten", "--except", "fc"]
    capsys.readouterr()
    assert console.run_cli(main.app, [str(x) for x in line], name="canon") == 2
    assert f"give code that builds {tmp_path / 'b.pt'}, whose function is kept" in capsys.readouterr().err
    assert not (tmp_path / "d.pt").exists()
