"""Networks as people have them: planted relabellings come back, and the function is the module's own.

Concatenations, computations in float32 inside, writes into slices, norms without statistics, weights
computed from others, complex weights, random numbers.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import canon
from canon.actions import permutation
from canon.alignment import align
from canon.errors import WorkError
from canon.io.checkpoint import Checkpoint, read
from canon.matching.registry import MatcherContext, weights
from canon.models.loading import Runnable
from canon.models.spec_resolution import SpecSource


class Network(nn.Module):
    """Layers by name, and a function of them as forward."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self._forward(self, *inputs)


def conv(i, o, size=3):
    return nn.Conv2d(i, o, size, padding=size // 2)


def beside():
    def forward(m, x):
        h = torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 1)
        return m.d(torch.relu(m.c(h)))

    return Network(forward, a=conv(3, 6), b=conv(3, 5), c=conv(11, 7), d=conv(7, 2))


def dense():
    """Every layer reads all before it, behind a norm over the whole concatenation."""

    def forward(m, x):
        h = m.a(x)
        for norm, layer in ((m.n1, m.b), (m.n2, m.c)):
            h = torch.cat([h, layer(torch.relu(norm(h)))], 1)
        return m.d(h)

    return Network(
        forward, a=conv(3, 6), n1=nn.BatchNorm2d(6), b=conv(6, 4), n2=nn.BatchNorm2d(10), c=conv(10, 4), d=conv(14, 2)
    )  # fmt: skip


def u_net():
    def forward(m, x):
        one = torch.relu(m.a(x))
        two = torch.relu(m.b(F.max_pool2d(one, 2)))
        up = torch.cat([one, m.up(two)], 1)
        return m.d(torch.relu(m.c(up)))

    return Network(
        forward, a=conv(3, 6), b=conv(6, 8), up=nn.ConvTranspose2d(8, 6, 2, 2), c=conv(12, 5), d=conv(5, 2)
    )


def halves():
    """ShuffleNet's unit: half of the channels pass, the other half is computed, then they are interleaved."""

    def forward(m, x):
        h = torch.relu(m.a(x))
        one, two = h.chunk(2, 1)
        h = torch.cat([one, torch.relu(m.b(two))], 1)
        return m.c(h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))

    return Network(forward, a=conv(3, 8), b=conv(4, 4), c=conv(8, 2))


def masked():
    def forward(m, x):
        h = torch.relu(m.a(x))
        return m.b(h * torch.ones(x.shape[0], 1).to(h.dtype))

    return Network(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))


def shifted():
    def forward(m, x):
        h = torch.relu(m.a(x))
        y = h.clone()
        y[:, 1:] = h[:, :-1]
        y[:, 0] = 0.5
        return m.b(y)

    return Network(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))


class Narrow(nn.Module):
    """An RMSNorm that computes in float32."""

    def __init__(self, dtype):
        super().__init__()
        self.a, self.g, self.b = nn.Linear(4, 64), nn.Parameter(torch.ones(64)), nn.Linear(64, 3)
        self.dtype = dtype

    def forward(self, x):
        h = torch.relu(self.a(x))
        f = h.to(self.dtype)
        f = f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.b(self.g * f.to(h.dtype))


def normed(norm):
    return nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 2))


def computed(weighted):
    return nn.Sequential(weighted(conv(3, 8)), nn.ReLU(), weighted(conv(8, 6)), nn.ReLU(), conv(6, 2))


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def orthogonal():
    layer = parametrizations.orthogonal(nn.Linear(8, 12))
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), layer, nn.ReLU(), nn.Linear(12, 2))


class Spectral(nn.Module):
    """Mixing in the frequency domain with complex weights, and a hidden layer beside it."""

    def __init__(self):
        super().__init__()
        self.a, self.h, self.b = conv(3, 8, 1), conv(8, 6, 1), conv(6, 2, 1)
        self.w = nn.Parameter(torch.randn(8, 8, 4, 3, dtype=torch.cfloat) * 0.1)

    def forward(self, x):
        h = torch.relu(self.a(x))
        f = torch.fft.rfft2(h)
        f = torch.cat([torch.einsum("bixy,ioxy->boxy", f[:, :, :4, :3], self.w), f[:, :, 4:, :3]], 2)
        return self.b(torch.relu(self.h(h + torch.fft.irfft2(f, s=h.shape[-2:]))))


def noisy():
    def forward(m, x):
        h = torch.relu(m.a(x))
        return m.b(h) + torch.exp(m.s(h)) * torch.randn(x.shape[0], 3)

    return Network(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), s=nn.Linear(8, 3))


def losing():
    def forward(m, x):
        y = m.b(torch.relu(m.a(x)))
        return {"loss": None, "logits": y, "more": [y.sum()]}

    return Network(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2))


PICTURE, FLAT = torch.randn(2, 3, 8, 8), torch.randn(3, 4)


class AlwaysDropping(nn.Module):
    """Dropout that stays on in evaluation mode, as Monte Carlo dropout does: units of `a` keep their places."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(F.dropout(torch.relu(self.a(x)), 0.5, training=True))))


class Joined(nn.Module):
    """Layers, and a function of them and the inputs."""

    def __init__(self, join, **layers):
        super().__init__()
        self.join = join
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.join(self, *inputs)


def graph():
    """Messages along edges, added at the nodes that they lead to."""

    def join(s, x, start, end):
        h = torch.relu(s.a(x))
        h = torch.relu(s.w(torch.zeros_like(h).index_add(0, end, h[start])) + h)
        total = torch.zeros(2, 8, dtype=h.dtype).scatter_add(0, (end % 2)[:, None].expand(-1, 8), h[start])
        return s.o(h), s.o(total)

    return Joined(join, a=nn.Linear(5, 8), w=nn.Linear(8, 8), o=nn.Linear(8, 2))


def filtered():
    """Channels multiplied by complex numbers of their own at each frequency; complex outputs."""

    def join(s, x):
        z = torch.fft.rfft(torch.relu(s.a(x)), dim=1) * torch.view_as_complex(s.w)
        return s.o(torch.fft.irfft(z, n=6, dim=1)), torch.fft.fft(s.o(z.abs()), dim=1)

    return Joined(join, a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(4, 8, 2)), o=nn.Linear(8, 3))


def distant():
    """Distances to learned centres, and the one that is nearest."""

    def join(s, x):
        h = s.a(x)
        near = torch.cdist(h, s.c)
        return s.o(torch.exp(-near)), s.p(s.c[near.argmin(1)])

    centres = nn.Parameter(torch.randn(7, 5))
    return Joined(join, a=nn.Linear(4, 5), c=centres, o=nn.Linear(7, 2), p=nn.Linear(5, 2))


def bags():
    return Joined(
        lambda s, x: s.o(torch.relu(s.a(s.e(x)))),
        e=nn.EmbeddingBag(10, 6),
        a=nn.Linear(6, 8),
        o=nn.Linear(8, 2),
    )


EDGES = (torch.randn(4, 5), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 0, 3, 2, 2]))
NETWORKS = {
    "a graph": (graph, EDGES, {8}),
    "frequencies": (filtered, torch.randn(2, 6, 4), {8}),
    "distances": (distant, FLAT, {5, 7}),
    "bags of words": (bags, torch.tensor([[1, 2, 3], [4, 5, 0]]), {6, 8}),
    "branches beside each other": (beside, PICTURE, {5, 6, 7}),
    "dense": (dense, PICTURE, {4, 6}),
    "U-Net": (u_net, PICTURE, {5, 6, 8}),
    "halves interleaved": (halves, PICTURE, {4}),
    "a mask cast": (masked, FLAT, {8}),
    "a write into a slice": (shifted, torch.randn(2, 5, 4), {8}),
    "float32 inside": (lambda: Narrow(torch.float32), FLAT, {64}),
    "bfloat16 inside": (lambda: Narrow(torch.bfloat16), FLAT, {64}),
    "batch norm without statistics": (
        lambda: normed(nn.BatchNorm2d(8, track_running_stats=False)),
        PICTURE,
        {8},
    ),
    "instance norm": (lambda: normed(nn.InstanceNorm2d(8, affine=True)), PICTURE, {8}),
    "weight norm": (lambda: computed(parametrizations.weight_norm), PICTURE, {6, 8}),
    "weight norm, old": (lambda: computed(old_weight_norm), PICTURE, {6, 8}),
    "spectral norm": (lambda: computed(parametrizations.spectral_norm), PICTURE, {6, 8}),
    "spectral norm, old": (lambda: computed(nn.utils.spectral_norm), PICTURE, {6, 8}),
    "orthogonal": (orthogonal, FLAT, {12}),
    "complex": (Spectral, PICTURE, {6}),
    "random numbers": (noisy, FLAT, {8}),
    "dropout that stays on": (AlwaysDropping, FLAT, {6}),
    "a dictionary with a loss": (losing, FLAT, {8}),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    build, x, sizes = NETWORKS[request.param]
    torch.manual_seed(0)
    return build().eval(), x, sizes


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("start", ["auto", "identity", "anchored", "signatures", "frank_wolfe"])
def test_several_groups_on_one_axis_are_matched_from_every_start(start):
    torch.manual_seed(0)
    module = dense()
    spec = canon.trace(module, (PICTURE,))
    a = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in state_of(module).items()}
    b = permutation.apply(spec, permutation.random(spec, torch.Generator().manual_seed(1)), a)
    match = canon.match_weights(spec, a, b, start=start)
    c = permutation.apply(spec, match.permutation, b)
    if start != "identity":  # which may end in a local optimum
        assert all(torch.equal(c[name], a[name]) for name in a if name not in spec.statistics)
    assert match.objective >= match.objective_before


def test_a_planted_order_comes_back_and_the_function_stays(network):
    module, x, sizes = network
    x = x if isinstance(x, tuple) else (x,)
    spec = canon.trace(module, x)
    assert {group.size for group in spec.groups.values()} == sizes
    a = state_of(module)
    b = permutation.apply(spec, permutation.random(spec, torch.Generator().manual_seed(1)), a)
    resolved = SpecSource(spec, "the trace", "", Runnable(module, x))
    done = align(Checkpoint(a), Checkpoint(b), resolved, weights(MatcherContext()))
    assert done.report["verified"]
    assert all(torch.equal(done.aligned.state[name], a[name]) for name in a if name not in spec.statistics)


def test_a_network_with_a_memory_is_named_as_no_function_of_its_input():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.calls = nn.Linear(4, 8), nn.Linear(8, 2), 0

        def forward(self, x):
            self.calls += 1
            return self.b(torch.relu(self.a(x))) * self.calls

    module = Counting().eval()
    a = state_of(module)
    spec = canon.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (FLAT,))
    names = {"0.weight": "a.weight", "0.bias": "a.bias", "2.weight": "b.weight", "2.bias": "b.bias"}
    spec = canon.PermutationSpec(spec.groups, {names[name]: axes for name, axes in spec.axes.items()})
    resolved = SpecSource(spec, "by hand", "", Runnable(module, (FLAT,)))
    with pytest.raises(WorkError, match="not a function of its input"):
        align(Checkpoint(a), Checkpoint(a), resolved, weights(MatcherContext()))


def test_a_wrong_group_is_found_also_where_the_module_rounds():
    module = Narrow(torch.float32).eval()
    spec = canon.trace(module, (FLAT,))
    axes = dict(spec.axes) | {"b.weight": (canon.Axis.fixed(3), canon.Axis.fixed(64))}
    wrong = SpecSource(canon.PermutationSpec(spec.groups, axes), "by hand", "", Runnable(module, (FLAT,)))
    other = Narrow(torch.float32)
    with pytest.raises(WorkError, match="does not compute the same function"):
        align(Checkpoint(state_of(other)), Checkpoint(state_of(module)), wrong, weights(MatcherContext()))


def test_a_module_that_keeps_a_computed_weight_is_given_back():
    def build():
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8), dim=1), nn.ReLU(), nn.Linear(8, 2))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        a, b = build(), build()
    aligned = canon.align(a, b)
    x = torch.randn(4, 6)
    assert torch.allclose(aligned(x), b(x), atol=1e-5)


def test_tables_of_whole_numbers_stay():
    """Moved with what they choose, they could not be averaged with those of another network."""

    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(10, 2)
            for name, places in zip("ij", torch.triu_indices(4, 4), strict=True):
                self.register_buffer(name, places)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.b((h[:, :, None] * h[:, None])[:, self.i, self.j])

    a, b = Pairs(), Pairs()
    spec = canon.trace(a, torch.randn(2, 6))
    assert not spec.groups
    assert torch.equal(canon.merge([a, b], example_inputs=torch.randn(2, 6)).i, a.i)


@pytest.mark.parametrize("suffix", ["pt", "bin", "pth"])
def test_tied_tensors_are_read_and_stay_tied(tmp_path, suffix):
    words = nn.Embedding(1000, 32)
    head = nn.Linear(32, 1000, bias=False)
    head.weight = words.weight
    state = {"embedding.weight": words.weight, "head.weight": head.weight, "transposed": words.weight.T}
    torch.save(state, tmp_path / f"tied.{suffix}")
    found = read(tmp_path / f"tied.{suffix}").state
    assert found["embedding.weight"].data_ptr() == found["head.weight"].data_ptr()
    assert torch.equal(found["transposed"], found["head.weight"].T)
