"""The conformance suite: every architecture derives its symmetries and keeps its function under them."""

import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from canon.actions import permutation as perm
from canon.errors import InputError
from canon.io import checkpoint
from canon.models.spec_resolution import resolve
from weightflow.batched.inference import forward_many
from weightflow.networks.architectures import OWN_ARGUMENTS, Architecture, from_metadata
from weightflow.representation.layout import SCHEMES, make_layout
from weightflow.zoo.network_file import write_network

EXAMPLES = {
    "mlp": Architecture("mlp", {"inputs": 8, "hidden": [6, 5]}, (8,), 3),
    "cnn": Architecture("cnn", {"widths": [4, 5], "norm": True, "grid": 2, "hidden": 6}, (3, 8, 8), 3),
    "resnet": Architecture("resnet", {"widths": [2, 3], "stem_stride": 2}, (3, 8, 8), 3),
    "resnet20": Architecture("resnet20", {"width": 2}, (3, 8, 8), 3),
    "resnet18": Architecture("resnet18", {"width": 2}, (3, 8, 8), 3),
    "vit": Architecture("vit", {"size": 8, "width": 6, "depth": 2, "heads": 2}, (3, 8, 8), 3),
    "text_transformer": Architecture(
        "text_transformer",
        {"vocabulary": 11, "length": 5, "width": 6, "depth": 2, "heads": 2},
        (5,),
        3,
    ),
    "linear_head": Architecture("linear_head", {"inputs": 5}, (5,), 3),
    "adapter": Architecture("adapter", {"inputs": 6, "hidden": 4}, (6,), 3),
}
STILL = {"linear_head"}  # nothing can move: inputs and outputs stay where they are
NO_LOGITS = {"adapter"}

COUNTS = {
    5_370: ("cnn", {"widths": [16, 32], "stride": 2, "bias": False}, (3, 32, 32)),
    21_914: ("cnn", {"widths": [16, 24, 24], "norm": True, "grid": 4, "hidden": 32}, (3, 32, 32)),
    272_474: ("resnet20", {}, (3, 32, 32)),
    11_173_962: ("resnet18", {}, (3, 32, 32)),
    2_693_578: ("vit", {}, (3, 32, 32)),
    16_912: ("adapter", {"inputs": 512, "hidden": 16}, (512,)),
    118_282: ("mlp", {"inputs": 784, "hidden": [128, 128]}, (1, 28, 28)),
    5_130: ("linear_head", {"inputs": 512}, (512,)),
}


def test_every_family_has_an_example_here():
    assert EXAMPLES.keys() == OWN_ARGUMENTS.keys()


@pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES)
def architecture(request):
    return request.param


def test_units_move_and_the_function_stays(architecture):
    generator = torch.Generator().manual_seed(0)
    module = architecture.build().double().eval()
    for buffer in module.buffers():  # statistics as training leaves them, not all alike
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=generator)
    inputs = architecture.example(4, generator)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    before = module(inputs)
    state = dict(module.state_dict())
    moved = perm.apply(architecture.spec, perm.random(architecture.spec, generator), state)
    assert (architecture.name in STILL) != any(not torch.equal(moved[name], state[name]) for name in state)
    module.load_state_dict(moved)
    torch.testing.assert_close(module(inputs), before, atol=1e-12, rtol=1e-12)


def test_class_axes_follow_the_number_of_classes(architecture):
    assert architecture.has_logits == (architecture.name not in NO_LOGITS)
    for name, axis in architecture.class_axes.items():
        assert architecture.shapes[name][axis] == architecture.classes


def test_a_trimmed_network_is_the_network_with_fewer_logits(architecture):
    module = architecture.build().eval()
    small = architecture.build(2).eval()
    small.load_state_dict(architecture.trim(module.state_dict(), 2))
    inputs, logits = architecture.example(4), 2 if architecture.has_logits else None
    torch.testing.assert_close(small(inputs), module(inputs)[:, :logits])


def test_many_give_what_each_gives_alone(architecture):
    modules = [architecture.build().eval() for _ in range(3)]
    stacked = {name: torch.stack([m.state_dict()[name] for m in modules]) for name in architecture.shapes}
    inputs = architecture.example(4)
    many = forward_many(architecture)(stacked, inputs.expand(3, *inputs.shape))
    for alone, found in zip(modules, many, strict=True):
        torch.testing.assert_close(found, alone(inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layouts_are_exact(architecture, scheme):
    """Counters of batches and running statistics included."""
    state = {
        name: (torch.rand(3, *tensor.shape) * 1000).to(tensor.dtype)
        for name, tensor in architecture.build().state_dict().items()
    }
    back = make_layout(architecture, scheme, width=10).decode(
        make_layout(architecture, scheme, width=10).encode(state)
    )
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("count", COUNTS)
def test_the_papers_networks_have_the_papers_sizes(count):
    name, arguments, shape = COUNTS[count]
    architecture = Architecture(name, arguments, shape, 10)
    assert architecture.parameters == count
    assert architecture.build().eval()(architecture.example(2)).shape == (2, 512 if name == "adapter" else 10)


def test_words_that_are_missing_count_for_nothing():
    module = EXAMPLES["text_transformer"].build().eval()
    torch.testing.assert_close(
        module(torch.tensor([[3, 7, 0, 0, 0]])), module(torch.tensor([[3, 7]])), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit", {"width": 7, "heads": 2}, "width 7 cannot be shared by 2 heads"),
        ("vit", {"size": 9}, "images of 9 pixels cannot be cut into patches of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(name, arguments, message):
    with pytest.raises(InputError, match=message):
        Architecture(name, arguments, (3, 9, 9), 2).build()


def test_it_survives_json(architecture):
    assert Architecture.from_dict(architecture.to_dict()).to_json() == architecture.to_json()


def test_unknown_names_and_arguments_are_explained():
    with pytest.raises(
        InputError, match="unknown architecture 'mpl'; there are: adapter, cnn, linear_head, mlp,"
    ):
        Architecture("mpl", {}, (3,), 2).build()
    with pytest.raises(InputError, match="architecture 'mlp' needs inputs; give them: --set"):
        Architecture("mlp", {"hidden": []}, (3,), 2).build()


def test_canon_rebuilds_what_a_file_says_of_itself(architecture):
    module, inputs = from_metadata(json.loads(architecture.to_json()))
    assert {n: tuple(t.shape) for n, t in module.state_dict().items()} == architecture.shapes
    assert module(*inputs).shape == architecture.build().eval()(*inputs).shape


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
    project = Path(__file__).parents[3] / "pyproject.toml"
    declared = tomllib.loads(project.read_text())["project"]["entry-points"]["canon.architectures"]
    found = [EntryPoint(name, value, "canon.architectures") for name, value in declared.items()]
    monkeypatch.setattr(
        "canon.models.plugins.entry_points", lambda group: found if group == found[0].group else []
    )
    stack = {n: t[None] for n, t in architecture.build().state_dict().items()}
    classes = tuple("abcdefghij"[: architecture.classes])
    write_network(tmp_path / "net.safetensors", architecture, stack, classes)
    spec = resolve(checkpoint.read(tmp_path / "net.safetensors")).spec
    assert {n: g.scale for n, g in spec.groups.items()} == {
        n: g.scale for n, g in architecture.spec.groups.items()
    }
