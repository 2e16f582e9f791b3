"""Laws of tracing, inherited by every architecture: one row of ARCHITECTURES, all the laws."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import canon
from canon import permutation as perm
from canon.errors import InputError
from canon.proof import random_scales, relative_difference, rescale


class ResidualMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.up, self.down = nn.Linear(8, 7), nn.Linear(7, 8)

    def forward(self, x):
        h = self.stem(x.flatten(1))
        return self.head(h + self.down(F.relu(self.up(h))))


@dataclass(frozen=True)
class Case:
    """A network, its inputs, the least share of parameters that must lie in moving groups, and the groups
    that must be found as (size, size of the outer group or None, scale)."""

    build: object
    inputs: tuple
    share: float
    groups: tuple


ARCHITECTURES = {
    "mlp": Case(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(6, 8),
            nn.ReLU(),
            nn.Linear(8, 7),
            nn.Tanh(),
            nn.Linear(7, 5),
            nn.GELU(),
            nn.Linear(5, 3),
        ),
        ((4, 2, 3),),
        0.95,
        ((8, None, "positive"), (7, None, "sign"), (5, None, "none")),
    ),
    "residual mlp": Case(ResidualMLP, ((4, 5),), 0.95, ((8, None, "positive"), (7, None, "positive"))),
}


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
        found = torch.func.functional_call(module, dict(state), inputs)
    return [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, Tensor)]


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
    scaled = rescale(spec, random_scales(spec, generator), state)
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
    found = sorted(
        (g.size, spec.groups[g.within].size if g.within else None, g.scale) for g in spec.groups.values()
    )
    assert found == sorted(case.groups, key=lambda g: (g[0], g[1] or 0, g[2])) or sorted(
        map(str, found)
    ) == sorted(map(str, case.groups)), spec.frozen


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


def test_what_cannot_be_exported_says_so():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match=r"torch\.export cannot follow Branching"):
        canon.trace(Branching(), torch.randn(3))
