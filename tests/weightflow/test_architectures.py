"""The conformance suite: every architecture derives its symmetries and keeps its function under them."""

import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from canon import checkpoint, families
from canon import permutation as perm
from canon.errors import InputError
from canon.resolve import resolve
from weightflow.architectures import FAMILIES, Architecture, from_metadata
from weightflow.network import write_network

EXAMPLES = {
    "mlp": Architecture("mlp", {"inputs": 8, "hidden": [6, 5]}, (8,), 3),
}


def test_every_family_has_an_example_here():
    assert EXAMPLES.keys() == FAMILIES.keys()


@pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES)
def architecture(request):
    return request.param


def test_units_move_and_the_function_stays(architecture):
    generator = torch.Generator().manual_seed(0)
    module = architecture.build().double().eval()
    inputs = torch.randn(4, *architecture.input_shape, generator=generator, dtype=torch.float64)
    before = module(inputs)
    state = dict(module.state_dict())
    moved = perm.apply(architecture.spec, perm.random(architecture.spec, generator), state)
    assert any(not torch.equal(moved[name], state[name]) for name in state)
    module.load_state_dict(moved)
    torch.testing.assert_close(module(inputs), before, atol=1e-12, rtol=1e-12)


def test_class_axes_follow_the_number_of_classes(architecture):
    assert architecture.class_axes
    for name, axis in architecture.class_axes.items():
        assert architecture.shapes[name][axis] == architecture.classes


def test_a_trimmed_network_is_the_network_with_fewer_logits(architecture):
    module = architecture.build().eval()
    small = architecture.build(2).eval()
    small.load_state_dict(architecture.trim(module.state_dict(), 2))
    inputs = torch.randn(4, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small(inputs), module(inputs)[:, :2])


def test_it_survives_json(architecture):
    assert Architecture.from_dict(architecture.to_dict()).to_json() == architecture.to_json()


def test_unknown_names_and_arguments_are_explained():
    with pytest.raises(InputError, match="no architecture is called 'mpl'; there are: mlp"):
        Architecture("mpl", {}, (3,), 2).build()
    with pytest.raises(InputError, match="architecture 'mlp': missing a required argument: 'inputs'"):
        Architecture("mlp", {"hidden": []}, (3,), 2).build()


def test_canon_rebuilds_what_a_file_says_of_itself(architecture):
    module, inputs = from_metadata(json.loads(architecture.to_json()))
    assert {n: tuple(t.shape) for n, t in module.state_dict().items()} == architecture.shapes
    assert module(*inputs).shape[-1] == architecture.classes


@pytest.mark.parametrize(
    "other",
    [
        "resnet18",
        {"name": "resnet18"},
        {"name": "mlp", "arguments": {"inputs": -1, "hidden": []}, "input_shape": [3], "classes": 2},
        {"name": "mlp", "arguments": {"inputs": 3, "hidden": [2]}, "input_shape": ["3"], "classes": 2},
    ],
)
def test_what_another_package_wrote_is_left_to_it(other):
    assert from_metadata(other) is None


def test_canon_knows_the_files_of_weightflow_by_the_entry_point(architecture, tmp_path, monkeypatch):
    project = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(project.read_text())["project"]["entry-points"]["canon.architectures"]
    found = [EntryPoint(name, value, "canon.architectures") for name, value in declared.items()]
    monkeypatch.setattr(families, "entry_points", lambda group: found if group == found[0].group else [])
    stack = {n: t[None] for n, t in architecture.build().state_dict().items()}
    write_network(tmp_path / "net.safetensors", architecture, stack, ("boot", "bag"))
    spec = resolve(checkpoint.read(tmp_path / "net.safetensors")).spec
    assert {g.scale for g in spec.groups.values()} == {g.scale for g in architecture.spec.groups.values()}
    assert "positive" in {g.scale for g in spec.groups.values()}  # keys and shapes alone do not tell
