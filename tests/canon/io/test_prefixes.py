"""Files whose keys stand under the prefixes of wrappers: compared without, written back with B's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import canon
from canon.cli import console, main
from canon.errors import InputError
from canon.io.prefixes import chains

PREFIXES = ["", "_orig_mod.", "module.", "model.module.backbone."]
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


def state(seed: int, prefix: str) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {prefix + key: tensor for key, tensor in network().state_dict().items()}


def outputs(found: dict[str, Tensor], prefix: str) -> Tensor:
    made = network()
    made.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in found.items()})
    return made(X)


@pytest.mark.parametrize("given", ["module", "chain"])
@pytest.mark.parametrize("theirs", PREFIXES)
@pytest.mark.parametrize("ours", ["", "module."])
def test_the_result_has_the_keys_of_b(ours: str, theirs: str, given: str) -> None:
    a, b = state(0, ours), state(1, theirs)
    structure = {"model": network} if given == "module" else {"assume": "chain"}
    aligned = canon.align(a, b, **structure)
    assert list(aligned) == list(b)
    assert aligned.report["moved_fraction"] > 0
    assert torch.allclose(outputs(aligned, theirs), outputs(b, theirs), atol=1e-6)
    assert aligned.report["prefixes"] == ({} if ours == theirs else {"A": ours, "B": theirs})
    if theirs:
        assert f"the prefix {theirs}" in aligned.report["spec_source"]
    assert list(canon.merge([b, a], **structure)) == list(b)
    assert canon.equivalent(a, {theirs + k.removeprefix(ours): t for k, t in a.items()}, **structure)
    assert all(torch.equal(t, aligned[k]) for k, t in aligned.transform.apply(b).items())


def test_wrappers_of_torch_are_code(tmp_path: Path) -> None:
    a, b = nn.DataParallel(network()), torch.compile(network())
    aligned = canon.align(a.state_dict(), b.state_dict(), model=lambda: nn.DataParallel(network()))
    assert list(aligned) == list(b.state_dict())
    assert canon.equivalent(aligned, b.state_dict(), model=network)
    given_back = canon.align(a, b)
    assert given_back.state_dict().keys() == b.state_dict().keys()
    assert given_back.report["moved_fraction"] > 0


def test_a_public_network_is_recognised_in_a_wrapper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    nets = [torchvision.models.resnet18(num_classes=3).state_dict() for _ in "ab"]
    torch.save({"net": {f"module.{k}": t for k, t in nets[0].items()}, "epoch": 3}, tmp_path / "a.pth.tar")
    torch.save({"state_dict": {f"model.{k}": t for k, t in nets[1].items()}, "lr": 0.1}, tmp_path / "b.ckpt")
    arguments = ["align", tmp_path / "a.pth.tar", tmp_path / "b.ckpt", "-o", tmp_path / "c.ckpt"]
    assert console.run_cli(main.app, [str(a) for a in arguments], name="canon") == 0
    told = capsys.readouterr().out
    assert "recognised by keys and shapes after the prefix model." in told
    assert f"keys: {tmp_path / 'a.pth.tar'} under module., {tmp_path / 'b.ckpt'} under model." in told
    found = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert found.keys() == {"state_dict", "lr"}
    assert list(found["state_dict"]) == [f"model.{k}" for k in nets[1]]
    one, other = (torchvision.models.resnet18(num_classes=3).eval() for _ in "ab")
    one.load_state_dict(nets[1])
    other.load_state_dict({k.removeprefix("model."): t for k, t in found["state_dict"].items()})
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(one(x), other(x), atol=1e-4)


def test_a_prefix_of_some_keys_is_part_of_the_network() -> None:
    assert chains(["model.a", "head.b"]) == [""]
    assert chains(["model.a", "model.b"]) == ["", "model."]
    assert chains(["model."]) == [""]
    assert chains([]) == [""]
    with pytest.raises(InputError, match="different architectures"):
        canon.align(
            {"model.a.weight": X, "head.weight": X}, {"a.weight": X, "head.weight": X}, assume="chain"
        )
