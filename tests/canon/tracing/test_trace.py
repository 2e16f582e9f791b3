"""Laws of tracing, inherited by every row of ARCHITECTURES."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import canon
from canon.actions import permutation as perm
from canon.actions.scaling import apply_scale
from canon.errors import InputError
from canon.tracing.numerical_check import random_scales
from canon.tracing.output_comparison import relative_difference
from tests.canon.architectures import ARCHITECTURES, Case, Network


def build(case: Case):
    torch.manual_seed(0)
    module = case.build().double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and tensor.numel():
            tensor.add_(torch.rand_like(tensor) * 0.3)
    inputs = tuple(torch.randn(*s, dtype=torch.float64) if isinstance(s, tuple) else s() for s in case.inputs)
    return module, inputs


@pytest.fixture(scope="module", params=ARCHITECTURES)
def traced(request):
    case = ARCHITECTURES[request.param]
    module, inputs = build(case)
    return case, module, inputs, canon.trace(module, inputs)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def outputs(module, inputs, state) -> list[Tensor]:
    with torch.no_grad():
        found = torch.func.functional_call(module, dict(state), inputs, tie_weights=False)
    return tree_leaves(found)


def moving_share(spec, state) -> float:
    moving = {name for group in spec.groups for name, _ in spec.uses(group)}
    sizes = {name: t.numel() for name, t in state.items() if name not in spec.statistics}
    return sum(n for name, n in sizes.items() if name in moving) / sum(sizes.values())


def test_function_is_preserved(traced, generator):
    _, module, inputs, spec = traced
    state = module.state_dict()
    moved = perm.apply(spec, perm.random(spec, generator), state)
    assert relative_difference(outputs(module, inputs, state), outputs(module, inputs, moved)) < 1e-9


def test_scale_preserves_the_function(traced, generator):
    _, module, inputs, spec = traced
    state = module.state_dict()
    scaled = apply_scale(spec, random_scales(spec, generator), state)
    assert relative_difference(outputs(module, inputs, state), outputs(module, inputs, scaled)) < 1e-9


def test_inverse_undoes_apply_bit_for_bit(traced, generator):
    _, module, _, spec = traced
    state, p = module.state_dict(), perm.random(spec, generator)
    back = perm.apply(spec, perm.invert(spec, p), perm.apply(spec, p, state))
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_every_tensor_is_covered(traced):
    _, module, _, spec = traced
    spec.check(module.state_dict())


def test_wrong_sizes_raise(traced, generator):
    _, module, _, spec = traced
    state = dict(module.state_dict())
    name = next(name for group in spec.groups for name, _ in spec.uses(group))
    state[name] = state[name][:-1]
    with pytest.raises(InputError, match=f"{name} has shape"):
        perm.apply(spec, perm.random(spec, generator), state)


def test_expected_groups_are_found(traced):
    case, _, _, spec = traced
    found = (
        (g.size, spec.groups[g.within].size if g.within else None, g.scale) for g in spec.groups.values()
    )
    assert Counter(found) == Counter(case.groups), spec.frozen


def test_parameters_really_move(traced):
    case, module, _, spec = traced
    assert moving_share(spec, module.state_dict()) >= case.share, spec.frozen


def test_module_is_left_untouched():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = copy.deepcopy(module.state_dict())
    canon.trace(module, torch.randn(5, 3))
    after = module.state_dict()
    assert module.training
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)


def test_exported_program_gives_the_same_spec():
    module, inputs = build(ARCHITECTURES["residual mlp"])
    program = torch.export.export(module, inputs)
    assert canon.trace(program) == canon.trace(module, inputs)


def test_what_cannot_be_exported_says_so_and_torch_prints_no_graph(capfd):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match=r"torch\.export cannot follow Branching"):
        canon.trace(Branching(), torch.randn(3))
    assert capfd.readouterr() == ("", "")


def test_rotary_channels_are_refused_with_the_reason():
    module, inputs = build(ARCHITECTURES["attention, rotary"])
    spec = canon.trace(module, inputs)
    assert "rotary embeddings" in spec.frozen["q.weight axis 0"]


def test_an_unknown_operation_freezes_what_it_touches():
    def forward(m, x):
        return m.head(torch.linalg.svd(m.stem(x), full_matrices=False)[2][:1] + F.relu(m.side(x)))

    module = Network(forward, stem=nn.Linear(5, 8), side=nn.Linear(5, 8), head=nn.Linear(8, 3))
    spec = canon.trace(module, torch.randn(4, 5))
    assert not spec.groups
    assert "does not know" in spec.frozen["stem.weight axis 0"]
    assert "linalg_svd" in spec.frozen["stem.weight axis 0"]


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_moves_with_what_lies_around_it(recurrent):
    module = Network(
        lambda self, x: self.out(self.recurrent(self.mid(self.up(x).relu()).relu())[0]),
        up=nn.Linear(5, 8),
        mid=nn.Linear(8, 7),
        recurrent=recurrent(7, 6, batch_first=True),
        out=nn.Linear(6, 3),
    )
    spec = canon.trace(module.eval(), (torch.randn(2, 4, 5),))
    assert sorted(group.size for group in spec.groups.values()) == [6, 7, 8]
    weights = {name: spec.axes[f"recurrent.weight_{name}_l0"] for name in ("ih", "hh")}
    assert weights["ih"][1].groups == spec.axes["mid.weight"][0].groups
    assert weights["ih"][0] == weights["hh"][0]  # (gates) x (units)
    assert weights["hh"][0].groups == weights["hh"][1].groups == spec.axes["out.weight"][1].groups


def test_what_is_never_called_is_covered_and_stays():
    def forward(m, x):
        return m.used(x)

    module = Network(forward, used=nn.Linear(5, 3), unused=nn.Linear(4, 4))
    spec = canon.trace(module, torch.randn(2, 5))
    assert spec.frozen["unused.weight axis 0"] == "unused.weight is not used"


def test_positions_beyond_the_example_stay():
    def forward(m, x):
        return m.head(F.relu(m.stem(x) + m.position[: x.shape[1]]))

    module = Network(
        forward, stem=nn.Linear(5, 8), head=nn.Linear(8, 3), position=nn.Parameter(torch.randn(9, 8))
    )
    spec = canon.trace(module, torch.randn(2, 4, 5))
    assert [g.size for g in spec.groups.values()] == [8]
    assert not spec.axes["position"][0].groups


def test_statistics_are_named():
    module, inputs = build(ARCHITECTURES["cnn"])
    expected = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert canon.trace(module, inputs).statistics == expected


def test_program_file_needs_no_class(tmp_path):
    module, inputs = build(ARCHITECTURES["attention, unbind"])
    torch.export.save(torch.export.export(module, inputs), tmp_path / "network.pt2")
    assert canon.trace(torch.export.load(tmp_path / "network.pt2")) == canon.trace(module, inputs)


def test_a_program_exported_in_training_mode_is_read_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 2))
    program = torch.export.export(module.train(), (torch.randn(4, 3),))
    assert [(g.size, g.scale) for g in canon.trace(program).groups.values()] == [(6, "positive")]


def test_core_aten_program_gives_the_same_groups():
    """A program decomposed as far as torch does has other operations and the same symmetries."""
    for name in ("residual cnn", "transformer", "norms", "swiglu"):
        module, inputs = build(ARCHITECTURES[name])
        program = torch.export.export(module, inputs).run_decompositions()
        found, expected = (
            [(g.name, g.size, g.within) for g in spec.groups.values()]
            for spec in (canon.trace(program), canon.trace(module, inputs))
        )
        assert found == expected, name
