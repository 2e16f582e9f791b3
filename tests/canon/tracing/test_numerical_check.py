"""The check accepts symmetries and nothing else."""

import pytest
import torch
from torch import nn

import canon
from canon.errors import InputError
from canon.spec import Axis, Group, PermutationSpec


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


def spec(row, bias, column):
    def axis(here, size, power):
        return Axis.units("units", size, power=power) if here else Axis.fixed(size)

    return PermutationSpec(
        groups={"units": Group("units", 6, scale="positive")},
        axes={
            "0.weight": (axis(row, 6, 1), Axis.fixed(3)),
            "0.bias": (axis(bias, 6, 1),),
            "2.weight": (Axis.fixed(2), axis(column, 6, -1)),
            "2.bias": (Axis.fixed(2),),
        },
    )


def test_a_symmetry_passes():
    check = canon.check_groups(mlp(), torch.randn(4, 3), spec(True, True, True))
    assert check.holds
    assert check.difference < 1e-12
    assert check.spec == spec(True, True, True)


@pytest.mark.parametrize(
    ("wrong", "culprit"),
    [((True, True, False), "2"), ((True, False, True), "0"), ((False, True, True), "0")],
)
def test_a_wrong_pairing_is_frozen_and_named_with_the_operation_that_broke_it(wrong, culprit):
    check = canon.check_groups(mlp(), torch.randn(4, 3), spec(*wrong))
    assert check.spec.frozen["units"].endswith(f"broken by linear in {culprit}")
    assert check.failed["units"] > 1e-3
    assert not check.spec.groups
    assert "the numerical check failed" in check.spec.frozen["units"]


def test_a_wrong_scale_is_taken_away_and_the_group_stays():
    module = nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 2))
    check = canon.check_groups(module, torch.randn(4, 3), spec(True, True, True))
    assert check.holds
    assert check.spec.groups["units"].scale == "none"
    assert all(f.power == 0 for axes in check.spec.axes.values() for a in axes for s in a.segments for f in s)


def test_zero_initialised_branches_count():
    """With the last layer at zero any pairing would pass unless the check perturbs it."""
    module = mlp()
    nn.init.zeros_(module[2].weight)
    assert canon.check_groups(module, torch.randn(4, 3), spec(True, True, False)).failed


def test_a_network_that_lets_nothing_through_is_redrawn():
    """Dead units hide every mistake: the check must not pass on outputs that are constant."""
    module = mlp()
    nn.init.constant_(module[0].bias, -1e3)
    with torch.no_grad():
        module[0].bias[0] -= 1
    assert canon.check_groups(module, torch.randn(4, 3), spec(True, True, False)).failed
    assert canon.check_groups(module, torch.randn(4, 3), spec(True, True, True)).spec.groups


def test_inputs_of_zeros_do_not_hide_the_first_layer():
    assert canon.check_groups(mlp(), torch.zeros(4, 3), spec(False, True, True)).failed


def test_what_no_output_depends_on_is_frozen():
    class Deaf(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * 0.0 + x[:, :2]

    deaf = Deaf(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    check = canon.check_groups(deaf, torch.randn(4, 3), spec(True, True, True))
    assert not check.spec.groups
    assert "could not exercise" in check.spec.frozen["units"]


def test_a_spec_of_another_network_is_refused():
    with pytest.raises(InputError, match=r"0\.weight has shape \(5, 3\)"):
        canon.check_groups(
            nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3), spec(1, 1, 1)
        )


def test_the_operation_after_a_norm_is_named():
    """Normalisation leaves means and variances as they were: the entries still tell."""
    module = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    units = spec(True, True, False)
    axes = {
        "0.weight": units.axes["0.weight"],
        "0.bias": units.axes["0.bias"],
        "1.weight": (Axis.units("units", 6),),
        "1.bias": (Axis.fixed(6),),
        "2.weight": (Axis.fixed(2), Axis.units("units", 6)),
        "2.bias": (Axis.fixed(2),),
    }
    check = canon.check_groups(module, torch.randn(4, 3), PermutationSpec({"units": Group("units", 6)}, axes))
    assert check.spec.frozen["units"].endswith("broken by layer_norm in 1")
