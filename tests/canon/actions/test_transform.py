"""Laws of transforms: they move networks, task vectors, low-rank deltas and optimizer state alike."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from canon.actions.permutation import identity, random
from canon.actions.transform import Transform
from canon.errors import InputError
from canon.spec import Axis, Factor, Group, PermutationSpec

IN, HIDDEN, OUT, HEADS, CHANNELS = 3, 6, 2, 2, 3
MLP = PermutationSpec(
    groups={"h": Group("h", HIDDEN, scale="positive")},
    axes={
        "0.weight": (Axis.units("h", HIDDEN, power=1), Axis.fixed(IN)),
        "0.bias": (Axis.units("h", HIDDEN, power=1),),
        "2.weight": (Axis.fixed(OUT), Axis.units("h", HIDDEN, power=-1)),
        "2.bias": (Axis.fixed(OUT),),
    },
)
NESTED = PermutationSpec(
    groups={
        "heads": Group("heads", HEADS),
        "c": Group("c", CHANNELS, within="heads", scale="positive"),
    },
    axes={
        "v": (Axis(((Factor(HEADS, "heads"), Factor(CHANNELS, "c", 1)),)), Axis.fixed(4)),
        "o": (Axis.fixed(4), Axis(((Factor(HEADS, "heads"), Factor(CHANNELS, "c", -1)),))),
    },
)
SPECS = [MLP, NESTED]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def element(spec, generator, scaled=True):
    scales = {
        name: torch.rand(spec.shape(name), generator=generator, dtype=torch.float64) + 0.5
        for name, group in spec.groups.items()
        if scaled and group.scale == "positive"
    }
    return Transform(spec, random(spec, generator), scales)


def example(spec, generator):
    return {
        name: torch.randn([axis.size for axis in axes], generator=generator, dtype=torch.float64)
        for name, axes in spec.axes.items()
    }


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=1e-12, atol=1e-14) for k in a)


def module(state):
    net = nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)).double()
    net.load_state_dict(state)
    return net


def test_the_function_is_kept(generator):
    state, x = example(MLP, generator), torch.randn(5, IN, dtype=torch.float64)
    moved = element(MLP, generator).apply(state)
    assert not torch.allclose(moved["0.weight"], state["0.weight"])
    assert torch.allclose(module(moved)(x), module(state)(x), rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_inverse_undoes(generator, spec):
    state, t = example(spec, generator), element(spec, generator)
    assert close(t.inverse().apply(t.apply(state)), state)
    assert close(t.apply(t.inverse().apply(state)), state)


@pytest.mark.parametrize("spec", SPECS)
def test_inverse_undoes_bit_for_bit_without_scales(generator, spec):
    state, t = example(spec, generator), element(spec, generator, scaled=False)
    back = t.inverse().apply(t.apply(state))
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("spec", SPECS)
def test_then_is_one_after_the_other(generator, spec):
    state, t, u = example(spec, generator), element(spec, generator), element(spec, generator)
    assert close(t.then(u).apply(state), u.apply(t.apply(state)))


@pytest.mark.parametrize("spec", SPECS)
def test_a_task_vector_follows_its_network(generator, spec):
    base, tuned, t = example(spec, generator), example(spec, generator), element(spec, generator)
    delta = {name: tuned[name] - base[name] for name in base}
    moved_base, moved_delta = t.apply(base), t.apply_delta(delta)
    assert close({name: moved_base[name] + moved_delta[name] for name in base}, t.apply(tuned))


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_low_rank_factors_follow_their_weight(generator, prefix):
    t, rank = element(MLP, generator), 2
    for layer, rows, columns in (("0", HIDDEN, IN), ("2", OUT, HIDDEN)):
        a, b = torch.randn(rank, columns).double(), torch.randn(rows, rank).double()
        factors = {f"{prefix}{layer}.lora_A.weight": a, f"{prefix}{layer}.lora_B.default.weight": b}
        moved_a, moved_b = t.apply_lora(factors).values()
        expected = t.apply_delta({f"{layer}.weight": b @ a})[f"{layer}.weight"]
        assert torch.allclose(moved_b @ moved_a, expected, rtol=1e-12)


def test_low_rank_factors_of_a_weight_stored_in_out(generator):
    spec = PermutationSpec(MLP.groups, {"m.weight": tuple(reversed(MLP.axes["0.weight"]))})
    t = element(spec, generator)
    a, b = torch.randn(2, IN).double(), torch.randn(HIDDEN, 2).double()
    factors = {"m.lora_A.weight": a, "m.lora_B.weight": b}
    moved_a, moved_b = t.apply_lora(factors, fan_in_fan_out=True).values()
    assert torch.allclose((moved_b @ moved_a).T, t.apply_delta({"m.weight": (b @ a).T})["m.weight"])
    with pytest.raises(InputError, match="fan_in_fan_out"):
        t.apply_lora(factors)


def adam_state(net, x, steps=3):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    return {name: optimizer.state[parameter] for name, parameter in net.named_parameters()}


def test_second_moments_of_a_moved_network_are_the_moved_moments(generator):
    state, t = example(MLP, generator), element(MLP, generator)
    x = torch.randn(5, IN, dtype=torch.float64)
    before, after = adam_state(module(state), x, steps=1), adam_state(module(t.apply(state)), x, steps=1)
    moved = t.apply_optimizer(before)
    for name in before:
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.allclose(moved[name][slot], after[name][slot], rtol=1e-9, atol=1e-15)
        assert moved[name]["step"] == before[name]["step"]


def test_training_goes_on_alike_after_a_relabelling(generator):
    state, t = example(MLP, generator), element(MLP, generator, scaled=False)
    x = torch.randn(5, IN, dtype=torch.float64)
    straight, moved = module(state), module(t.apply(state))
    slots = {name: copy.deepcopy(s) for name, s in adam_state(straight, x).items()}
    adam_state(moved, x)
    assert close(t.apply(dict(straight.state_dict())), dict(moved.state_dict()))
    assert t.apply_optimizer(slots)["0.weight"]["exp_avg"].shape == (HIDDEN, IN)


def test_an_unknown_slot_is_refused_only_where_it_could_scale(generator):
    slots = {"0.bias": {"secret": torch.arange(float(HIDDEN))}}
    t = element(MLP, generator, scaled=False)
    assert torch.equal(t.apply_optimizer(slots)["0.bias"]["secret"], t.permutation["h"].float())
    with pytest.raises(InputError, match="'secret' scales is not known"):
        element(MLP, generator).apply_optimizer(slots)


@pytest.mark.parametrize("spec", SPECS)
def test_it_survives_its_file(generator, spec, tmp_path):
    state, t = example(spec, generator), element(spec, generator)
    t.save(tmp_path / "t.safetensors")
    back = Transform.load(tmp_path / "t.safetensors")
    assert back.spec == spec
    assert all(torch.equal(back.apply(state)[k], v) for k, v in t.apply(state).items())


def test_dtypes_stay(generator):
    state = {name: tensor.half() for name, tensor in example(MLP, generator).items()}
    assert {v.dtype for v in element(MLP, generator).apply(state).values()} == {torch.float16}


def test_moved_counts_units(generator):
    p = identity(NESTED)
    p["c"] = torch.tensor([[1, 0, 2], [0, 1, 2]])
    assert Transform(NESTED, p).moved() == {"heads": 0.0, "c": pytest.approx(1 / 3)}


def test_what_does_not_fit_is_refused(generator, tmp_path):
    state, t = example(MLP, generator), element(MLP, generator)
    with pytest.raises(InputError, match="missing"):
        t.apply({"0.weight": state["0.weight"]})
    with pytest.raises(InputError, match=r"0\.bias has shape"):
        t.apply_delta({"0.bias": torch.ones(3)})
    with pytest.raises(InputError, match="other is not known"):
        t.apply_delta({"other": torch.ones(3)})
    with pytest.raises(InputError, match="different specs"):
        t.then(element(NESTED, generator))
    with pytest.raises(InputError, match="group 'h': not a permutation of 6 units"):
        Transform(MLP, {"h": torch.zeros(HIDDEN, dtype=torch.long)})
    with pytest.raises(InputError, match="scale symmetry 'positive'"):
        Transform(MLP, identity(MLP), {"h": -torch.ones(HIDDEN)})
    with pytest.raises(InputError, match="is not a low-rank factor"):
        t.apply_lora({"0.weight": torch.ones(2, 2)})
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="is not a transform"):
        Transform.load(tmp_path / "w.safetensors")


def test_a_state_is_checked_once(generator, monkeypatch):
    transform, checked, check = element(MLP, generator), [], PermutationSpec.check
    monkeypatch.setattr(PermutationSpec, "check", lambda *a, **b: checked.append(a) or check(*a, **b))
    shapes = {name: tuple(axis.size for axis in axes) for name, axes in MLP.axes.items()}
    transform.apply({name: torch.zeros(shape) for name, shape in shapes.items()})
    assert len(checked) == 1
    for wrong in ({}, {name: torch.zeros(1) for name in shapes}):
        with pytest.raises(InputError, match="spec"):
            transform.apply(wrong)
    with pytest.raises(InputError, match="the spec expects"):
        transform.apply_delta({"0.weight": torch.zeros(1)})
