"""Exported programs in any dtype, on inputs of any dtype."""

import pytest
import torch
from torch import nn

import canon
from canon.errors import InputError
from canon.io import checkpoint

CASTS = {
    "float32": (torch.float32, torch.float32),
    "double examples": (torch.float64, torch.float32),
    "half examples": (torch.float16, torch.float32),
    "bytes": (torch.uint8, torch.float32),
    "in double": (torch.float64, torch.float64),
    "in bfloat16": (torch.bfloat16, torch.bfloat16),
}


class Casting(nn.Module):
    """As networks do that take raw inputs: a cast to the dtype of their weights, and statistics."""

    def __init__(self, dtype):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
        self.register_buffer("mean", torch.randn(4).to(dtype))

    def forward(self, x):
        return self.layers((x.to(self.mean.dtype) / 16 - self.mean) / 0.5)


def exported(path, example, dtype, dynamic):
    module = Casting(dtype).eval()
    x = (torch.rand(2, 4) * 16).to(example)
    shapes = ({0: torch.export.Dim("examples")},) if dynamic else None
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), path)


@pytest.mark.parametrize(
    "kind", [k if k == "float32" else pytest.param(k, marks=pytest.mark.slow) for k in CASTS]
)
def test_programs_are_aligned_and_compared_whatever_their_dtypes(kind, tmp_path):
    example, dtype = CASTS[kind]
    exported(tmp_path / "a.pt2", example, dtype, dynamic=example is dtype)
    found = checkpoint.read(tmp_path / "a.pt2")
    torch.manual_seed(0)
    other = {name: torch.rand_like(tensor) for name, tensor in found.state.items()}
    checkpoint.write(tmp_path / "b.pt2", found.with_state(other))
    aligned = canon.align(tmp_path / "a.pt2", tmp_path / "b.pt2")
    assert aligned.report["verified"]
    assert aligned.report["moved_fraction"] > 0
    aligned.save(tmp_path / "c.pt2")
    assert canon.equivalent(tmp_path / "b.pt2", tmp_path / "c.pt2").same is True
    assert canon.equivalent(tmp_path / "a.pt2", tmp_path / "c.pt2").same is False
    assert canon.inspect(tmp_path / "c.pt2").verified
    x = torch.rand(2, 4) * 16
    for given in (x.to(example), x.double()):  # data in a dtype of their own
        curves = canon.barrier(
            tmp_path / "a.pt2", tmp_path / "b.pt2", (given, torch.tensor([0, 1])), points=3
        )
        assert curves["unaligned"].loss_barrier >= 0


def test_example_inputs_in_the_place_of_a_programs_own(tmp_path):
    exported(tmp_path / "a.pt2", torch.float32, torch.float32, dynamic=True)
    assert canon.inspect(tmp_path / "a.pt2", example_inputs=torch.rand(3, 4).double()).verified
    with pytest.raises(InputError, match=r"takes x of shape any x 4, found \(3, 5\)"):
        canon.inspect(tmp_path / "a.pt2", example_inputs=torch.rand(3, 5))
    with pytest.raises(InputError, match="takes 1 inputs"):
        canon.inspect(tmp_path / "a.pt2", example_inputs=(torch.rand(3, 4), torch.rand(3, 4)))


def test_examples_are_cast_to_the_dtype_of_a_module():
    a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double() for _ in "ab")
    x, y = torch.randn(20, 4), torch.randint(2, (20,))
    assert canon.barrier(a, b, (x, y), align=True, points=3)["aligned"].loss_barrier >= 0
    assert canon.align(a, b, method="activations", data=x).report["verified"]
    assert canon.barrier(a, b, ((x * 9).long(), y), points=3)["unaligned"].loss_barrier >= 0


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x):
        return torch.einsum("nh,ho->no", torch.einsum("ni,ih->nh", x, self.a).relu(), self.b)


def test_a_program_with_einsum_is_read(tmp_path):
    torch.export.save(torch.export.export(Einsum().eval(), (torch.randn(3, 4),)), tmp_path / "a.pt2")
    assert [group.size for group in canon.inspect(tmp_path / "a.pt2").spec.groups.values()] == [8]
