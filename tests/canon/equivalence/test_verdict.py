"""`verify` never says "the same function" of networks that differ, however little the random inputs show."""

import copy

import pytest
import torch
from torch import nn

import canon
from canon.equivalence import verdict

FLAT = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Made(nn.Module):
    """Parts, and a function of them and the input."""

    def __init__(self, compute, **parts):
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.compute(self, x)


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build().eval()


def hidden(between, **more):
    return Made(lambda s, x: s.b(between(s.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3), **more)


def deep():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def words():
    return nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def positions():
    def compute(s, x):
        return s.b(torch.relu(s.a(x + s.p.weight[: x.shape[1]])))

    return Made(compute, p=nn.Embedding(16, 6), a=nn.Linear(6, 8), b=nn.Linear(8, 2))


def routed():
    def compute(s, x):
        each = torch.einsum("bi,eio->beo", x, s.w)
        return each.gather(1, s.r(x).topk(1, -1).indices[..., None].expand(-1, 1, 4)).squeeze(1)

    return Made(compute, r=nn.Linear(6, 5), w=nn.Parameter(torch.randn(5, 6, 4)))


def silenced(key, value):
    def change(state):
        state[key][2] = value

    return change


def nothing(state):
    return None


def shifted(key, *place):
    def change(state):
        state[key][place] += 1

    return change


# The network, what both have in common, in what the second one differs, and an input that does not show it.
UNSEEN = {
    "a row that no input names": (words, nothing, shifted("0.weight", 40), torch.tensor([[1, 2, 3]])),
    "a position behind the last": (positions, nothing, shifted("p.weight", 9), torch.randn(2, 4, 6)),
    "a dead unit": (lambda: hidden(torch.relu), silenced("a.bias", -40), shifted("b.weight", ..., 2), FLAT),
    "a saturated unit": (lambda: hidden(nn.ReLU6()), silenced("a.bias", 60), shifted("a.bias", 2), FLAT),
    "a closed gate": (lambda: hidden(nn.Sigmoid()), silenced("a.bias", -60), shifted("b.weight", ..., 2), FLAT),
    "a place of a maximum": (
        lambda: hidden(lambda h: h.view(-1, 4, 2).amax(-1).repeat(1, 2)),
        silenced("a.bias", -40),
        shifted("a.weight", 2),
        FLAT,
    ),
    "an expert that is never chosen": (routed, silenced("r.bias", -40), shifted("w", 2), FLAT),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_what_random_inputs_do_not_reach_is_undecided(name):
    build, prepare, change, x = UNSEEN[name]
    a = seeded(build)
    with torch.no_grad():
        prepare(a.state_dict())
    b = copy.deepcopy(a)
    with torch.no_grad():
        change(b.state_dict())
    found = canon.equivalent(a, b, example_inputs=x)
    assert found.same is None
    assert "these inputs do not reach" in found.reason
    assert canon.equivalent(a, canon.canonicalize(a, example_inputs=x), example_inputs=x).same is True


def masked(value):
    def compute(s, x):
        return s.b(torch.relu(s.a(x))).masked_fill(torch.tensor([False, True, False]), value)

    return lambda: Made(compute, a=nn.Linear(6, 8), b=nn.Linear(8, 3))


# Networks of which the outputs hold numbers much larger, or much smaller, than those that differ.
SIZES = {
    "a mask in the scores": masked(-1e30),
    "an infinite mask": masked(float("-inf")),
    "the least number": lambda: Made(
        lambda s, x: (s.a(x), torch.full((3, 3), torch.finfo(torch.float32).min)), a=nn.Linear(6, 2)
    ),
    "a small output": lambda: Made(
        lambda s, x: (s.a(x), 1e-12 * s.b(x)), a=nn.Linear(6, 2), b=nn.Linear(6, 2)
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_each_number_is_compared_on_its_own_scale(name):
    a = seeded(SIZES[name])
    b = copy.deepcopy(a)
    with torch.no_grad():
        list(b.state_dict().values())[-1][0] += 1
    assert canon.equivalent(a, b, example_inputs=FLAT).same is False
    assert canon.equivalent(a, copy.deepcopy(a), example_inputs=FLAT).same is True


@pytest.mark.parametrize("value", [-1e30, float("-inf")])
def test_units_behind_a_mask_are_found(value):
    spec = canon.trace(seeded(masked(value)), FLAT)
    assert [group.size for group in spec.groups.values()] == [8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fine_tuned_copy_is_not_the_same_up_to_rounding(dtype):
    a = {name: tensor.to(dtype) for name, tensor in seeded(deep).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    eps = torch.finfo(dtype).eps

    def moved(tensor):
        return (tensor.float() * (1 + eps * torch.randn(tensor.shape, generator=generator))).to(dtype)

    b = {name: moved(tensor) for name, tensor in a.items()}
    assert canon.equivalent(a, b, model=deep).same is None
    assert canon.equivalent(a, b, assume="chain").same is None


def test_a_copy_in_a_narrow_dtype_is_the_same_up_to_rounding():
    a = seeded(deep)
    b = {name: tensor.bfloat16() for name, tensor in canon.canonicalize(a).state_dict().items()}
    found = canon.equivalent(a.state_dict(), b, model=deep)
    assert found.same is True
    assert "permutation of A up to rounding to bfloat16" in found.reason


def test_tensors_that_are_not_used_do_not_count():
    a = seeded(lambda: hidden(torch.relu, unused=nn.Linear(3, 3)))
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.unused.weight += 1
    assert canon.equivalent(a, b, example_inputs=FLAT).same is True


def test_a_large_network_is_compared_by_the_entries_of_its_tensors(monkeypatch):
    """One tensor at a time: rows of an embedding that no input names are seen, another order of units is not."""
    monkeypatch.setattr(verdict, "is_large", lambda state: True)
    a, ids = seeded(words), torch.tensor([[1, 2, 3]])
    moved = canon.canonicalize(a, example_inputs=ids)
    assert canon.equivalent(a, moved, example_inputs=ids).same is True
    with torch.no_grad():
        rows = moved[0].weight
        rows[[40, 41]] = rows[[41, 40]]
    found = canon.equivalent(a, moved, example_inputs=ids)
    assert found.same is None
    assert "0.weight has other entries" in found.reason


@pytest.mark.parametrize("huge", [1e16, 1e25])
def test_outputs_that_are_rounding_decide_nothing(huge):
    """A sum in another order is another number, of which such a network shows what rounding left."""
    net = seeded(
        lambda: Made(
            lambda s, x: torch.sin(s.c * s.b(torch.relu(s.a(x)))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 3),
            c=nn.Parameter(torch.tensor(1.0)),
        )
    )
    state = net.state_dict() | {"c": torch.tensor(huge, dtype=torch.float64)}
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    moved = {**state, "a.weight": state["a.weight"][order], "a.bias": state["a.bias"][order]}
    moved["b.weight"] = state["b.weight"][:, order]
    found = canon.equivalent(state, moved, model=net, example_inputs=FLAT)
    assert found.same is None
    assert "weights change by rounding alone" in found.reason
    with pytest.raises(canon.InputError, match="outputs depend on rounding"):
        canon.align(state, moved, model=net, example_inputs=FLAT)
