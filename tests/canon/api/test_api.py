"""canon's functions take modules, state dicts and files alike, and give back the kind that they were given."""

import copy
import importlib.metadata
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import canon
from tests.docstrings import documented


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(7))


def given(module, kind, folder, name):
    if kind == "module":
        return module
    if kind == "state dict":
        return module.state_dict()
    torch.save(module.state_dict(), folder / f"{name}.pt")
    return folder / f"{name}.pt" if kind == "path" else str(folder / f"{name}.pt")


def run(made):
    module = made if isinstance(made, nn.Module) else net()
    if module is not made:
        module.load_state_dict(made)
    with torch.no_grad():
        return module(X)


KINDS = ["module", "state dict", "path", "str"]


@pytest.mark.parametrize("kind_b", KINDS)
@pytest.mark.parametrize("kind_a", KINDS)
def test_align_gives_back_the_kind_of_b_with_its_function(kind_a, kind_b, tmp_path):
    a, b = net(0), net(1)
    model = None if "module" in (kind_a, kind_b) else net
    aligned = canon.align(given(a, kind_a, tmp_path, "a"), given(b, kind_b, tmp_path, "b"), model=model)
    assert isinstance(aligned, nn.Module if kind_b == "module" else dict)
    assert torch.allclose(run(aligned), run(b), atol=1e-5)
    assert aligned.report["verified"] is True
    assert aligned.report["moved_fraction"] > 0
    assert torch.equal(run(b), run(net(1)))  # b itself is left as it was


def test_align_leaves_the_modules_that_it_was_given_as_they_were():
    a, b = net(0).train(), net(1).train()
    before = copy.deepcopy(b.state_dict())
    canon.align(a, b)
    assert all(torch.equal(before[k], v) for k, v in b.state_dict().items())
    assert a.training
    assert b.training


def test_an_aligned_file_is_saved_in_the_container_that_its_name_says(tmp_path):
    a, b = (given(net(i), "path", tmp_path, "ab"[i]) for i in range(2))
    canon.align(a, b, model=net).save(tmp_path / "c.safetensors")
    assert canon.equivalent(tmp_path / "c.safetensors", b, model=net).same is True


@pytest.mark.parametrize("kind", KINDS)
def test_merge_takes_a_list_or_networks_one_after_the_other(kind, tmp_path):
    networks = [given(net(i), kind, tmp_path, str(i)) for i in range(3)]
    model = None if kind == "module" else net
    mean = canon.merge(networks, model=model)
    again = canon.merge(*networks, model=model)
    assert torch.equal(run(mean), run(again))
    assert len(mean.report["alignments"]) == 2


def test_merge_without_alignment_is_the_plain_mean():
    a, b = net(0).state_dict(), net(1).state_dict()
    mean = canon.merge(a, b, align=False)
    assert all(torch.allclose(mean[k], (a[k] + b[k]) / 2) for k in a)


def test_merge_of_one_network_is_refused():
    with pytest.raises(canon.InputError, match="two networks or more, found 1"):
        canon.merge([net()])


def test_interpolate_ends_at_its_ends():
    a, b = net(0), net(1)
    assert torch.equal(run(canon.interpolate(a, b, 0.0)), run(a))
    assert torch.equal(run(canon.interpolate(a, b, 1.0)), run(b))


def test_barrier_of_a_permuted_copy_vanishes_once_aligned():
    a = net(0)
    spec = canon.inspect(a).spec
    state = canon.apply(spec, canon.random(spec, torch.Generator().manual_seed(0)), a.state_dict())
    b = copy.deepcopy(a)
    b.load_state_dict(state)
    y = run(a).argmax(1)
    curves = canon.barrier(a, b, (X, y), align=True)
    assert curves["aligned"].loss_barrier < 1e-6 < curves["unaligned"].loss_barrier
    assert len(canon.plot(curves).axes) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_canonicalize_is_idempotent_and_one_for_all_permuted_copies(kind, tmp_path):
    a = net(0)
    spec = canon.inspect(a).spec
    moved = net()
    moved.load_state_dict(
        canon.apply(spec, canon.random(spec, torch.Generator().manual_seed(3)), a.state_dict())
    )
    model = None if kind == "module" else net
    one = canon.canonicalize(given(a, kind, tmp_path, "a"), model=model)
    other = canon.canonicalize(given(moved, kind, tmp_path, "m"), model=model)
    states = [m.state_dict() if isinstance(m, nn.Module) else m for m in (one, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_equivalent_tells_same_different_and_undecided():
    a, b = net(0), net(1)
    assert canon.equivalent(a, canon.canonicalize(a)).same is True
    assert canon.equivalent(a, b).same is False
    unknown = canon.equivalent(
        {"enc.w": torch.randn(3, 3)},
        {"enc.w": torch.randn(3, 3)},
        spec=canon.PermutationSpec({}, {"enc.w": (canon.Axis.fixed(3), canon.Axis.fixed(3))}),
    )
    assert unknown.same is None
    assert not unknown


def test_code_may_be_a_module_a_callable_or_a_callable_with_inputs():
    a, b = net(0).state_dict(), net(1).state_dict()
    made = [
        canon.align(a, b, model=net(), example_inputs=torch.randn(1, 4)),
        canon.align(a, b, model=net),
        canon.align(a, b, model=lambda: (net(), (torch.randn(1, 4),))),
    ]
    assert all(torch.equal(made[0][k], other[k]) for other in made[1:] for k in a)


def test_a_module_whose_inputs_cannot_be_guessed_asks_for_them():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(canon.InputError, match="example_inputs="):
        canon.align(conv, copy.deepcopy(conv))
    assert canon.align(conv, copy.deepcopy(conv), example_inputs=torch.randn(1, 3, 8, 8)).report["verified"]


def test_what_is_no_network_is_refused_in_one_line():
    """In a process of its own: here, annotations are checked before the functions see the values."""
    code = (
        "import canon; from torch import nn\n"
        "for wrong in (3, None, {'a': 1}, 'nowhere.pt'):\n"
        "    try: canon.align(nn.Sequential(nn.Linear(2, 2)), wrong)\n"
        "    except canon.InputError as error: print(str(error).count(chr(10)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"] * 4


def test_a_public_function_works_twice_and_shares_its_name_with_no_module():
    modules = {name for _, name, _ in pkgutil.iter_modules(canon.__path__)}
    assert not modules & set(canon.__all__)
    for name in canon.__all__:
        assert getattr(canon, name) is getattr(canon, name)


def test_dir_lists_the_public_names():
    assert set(canon.__all__) <= set(dir(canon))
    assert canon.__version__ == importlib.metadata.version("weightflow")


def test_lazy_homes_and_typed_imports_name_the_same_things():
    tree = inspect.getsource(canon).partition("if TYPE_CHECKING:")[2].partition("# Loaded on first use")[0]
    for name, home in canon._HOME.items():
        assert re.search(rf"from canon\.{home} import [^\n]*\b{name}\b", tree)
    assert set(canon._HOME) == set(canon.__all__)


@pytest.mark.parametrize("name", canon.__all__)
def test_docstrings_have_sections_and_examples_that_run(name):
    documented(getattr(canon, name), name)


def test_canon_needs_no_package_that_weightflow_alone_uses():
    code = (
        "import sys\nfor name in ('open_clip', 'sklearn', 'wordllama', 'weightflow', 'torchdiffeq', 'timm'):\n"
        "    sys.modules[name] = None\nimport canon\nfor name in canon.__all__:\n    getattr(canon, name)\n"
        "import canon.cli.main\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr


def test_rescaled_copies_of_a_network_balance_to_one(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    spec = canon.trace(net, torch.randn(1, 4, dtype=torch.float64))
    scales = {name: torch.rand(8, dtype=torch.float64) + 0.5 for name in spec.groups}
    scaled = canon.apply_scale(spec, scales, net.state_dict())
    balanced, other = canon.balance(net), canon.balance(scaled, model=net)
    assert balanced.report["sum_of_squares_after"] < balanced.report["sum_of_squares_before"]
    assert balanced.report["verified"]
    for name, tensor in balanced.state_dict().items():
        torch.testing.assert_close(other[name], tensor, atol=1e-9, rtol=1e-9)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(balanced(x), net(x))


def test_units_of_unknown_scale_keep_it():
    net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))
    balanced = canon.balance(net)
    assert all(torch.equal(balanced.state_dict()[name], t) for name, t in net.state_dict().items())
    assert "nothing_scaled_because" in balanced.report


@pytest.mark.parametrize("layer", [nn.Linear(4, 2), nn.Conv2d(3, 4, 3), nn.LayerNorm(4)])
def test_one_layer_has_nothing_that_moves(layer):
    a, b = layer.state_dict(), {name: torch.randn_like(t) for name, t in layer.state_dict().items()}
    aligned = canon.align(a, b)
    assert all(torch.equal(aligned[name], tensor) for name, tensor in b.items())
    assert aligned.report["moved_fraction"] == 0
    assert "one layer has no hidden units" in aligned.report["nothing_moved_because"]


def test_an_inspection_prints_a_line_for_each_group_and_each_frozen_axis():
    found = canon.inspect(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert str(found).split("\n")[:2] == [
        "traced from the module Sequential: 1 group, verified numerically",
        "  0: 8 units: 0.weight axis 0, 0.bias axis 0, 2.weight axis 1",
    ]
    assert len(str(found).split("\n")) == 2 + len(found.spec.frozen)
