"""Operations inside a network: its hidden units move through them, and only where the function stays.

Each network is a linear layer (or a convolution), the operation, and a linear layer.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import canon
from canon.actions import permutation
from canon.errors import InputError
from canon.tracing.operations import HANDLERS

WIDTH = 12


class Around(nn.Module):
    """An operation between two layers; of images the mean over positions is read."""

    def __init__(self, operation, images, width):
        super().__init__()
        self.operation, self.images = operation, images
        self.first = nn.Conv2d(3, WIDTH, 1) if images else nn.Linear(8, WIDTH)
        self.last = nn.Linear(width, 5)

    def forward(self, x):
        hidden = self.operation(self.first(x)).to(x.dtype)
        return self.last(hidden.flatten(2).mean(-1) if self.images else hidden)


def gram(h):
    return h.T @ h + torch.eye(WIDTH, dtype=h.dtype)


ROWS = {
    "glu": F.glu,
    "bilinear": lambda h: F.bilinear(h, h, torch.ones(4, WIDTH, WIDTH, dtype=h.dtype)),
    "cosine similarity": lambda h: F.cosine_similarity(h[:, None], h[None], dim=-1) @ h,
    "distances of pairs": lambda h: h * F.pdist(h).mean(),
    "kron": lambda h: torch.kron(h, torch.ones(1, 2, dtype=h.dtype)),
    "inner": lambda h: torch.inner(h, h) @ h,
    "tensordot": lambda h: torch.tensordot(h, h, ([1], [1])) @ h,
    "multi_dot": lambda h: torch.linalg.multi_dot([h, h.T, h]),
    "addbmm": lambda h: torch.addbmm(h, h[None], (h.T @ h)[None]),
    "addr": lambda h: torch.addr(h, h[:, 0], h[0]),
    "block_diag": lambda h: h @ torch.block_diag(h[:1, :6].T @ h[:1, :6], h[:1, 6:].T @ h[:1, 6:]),
    "hstack": lambda h: torch.hstack([h[:, :6], h[:, 6:]]),
    "diag": lambda h: h @ torch.diag(h[0]),
    "diag_embed": lambda h: (torch.diag_embed(h) @ h[:, :, None])[..., 0],
    "diagonal": lambda h: h * torch.diagonal(h.T @ h),
    "trace": lambda h: h * torch.trace(h.T @ h),
    "inverse": lambda h: h @ torch.linalg.inv(gram(h)),
    "solve": lambda h: torch.linalg.solve(gram(h), h.T).T,
    "matrix norm": lambda h: h / torch.linalg.matrix_norm(h),
    "cross product": lambda h: torch.linalg.cross(h.view(-1, 4, 3), h.view(-1, 4, 3) + 1).flatten(1),
    "sort": lambda h: h.sort(-1).values,
    "fourth smallest": lambda h: h - h.sort(-1).values[:, 3:4],
    "median": lambda h: h - h.median(-1, True).values,
    "kthvalue": lambda h: h - h.kthvalue(3, -1, True).values,
    "nanmean": lambda h: h - h.nanmean(-1, True),
    "standard deviation and mean": lambda h: h / torch.std_mean(h, -1, keepdim=True)[0],
    "least and largest": lambda h: h - h.aminmax(dim=-1, keepdim=True)[0],
    "count": lambda h: h * torch.count_nonzero(h > 0, -1)[:, None],
    "both conditions": lambda h: h * ((h > 0) & (h < 1)),
    "buckets": lambda h: torch.bucketize(h, torch.linspace(-1, 1, 5, dtype=h.dtype)),
    "rounding": lambda h: torch.floor(h * 4),
    "sign": torch.sign,
    "step": lambda h: torch.heaviside(h, torch.ones((), dtype=h.dtype)),
    "renorm": lambda h: torch.renorm(h, 2, 0, 1.0),
    "loss without reduction": lambda h: h * F.mse_loss(h, h * 2, reduction="none"),
    "pairwise distance": lambda h: h * F.pairwise_distance(h, h * 2)[:, None],
    "nothing concatenated": lambda h: torch.cat([h[:, :0], h, h.new_zeros(len(h), 0)], -1),
}
IMAGES = {
    "unfold": lambda h: F.unfold(h, 3).view(len(h), WIDTH, 9, -1).mean(2),
    "unfold and fold": lambda h: F.fold(F.unfold(h, 2, stride=2), (8, 8), 2, stride=2),
    "grid_sample": lambda h: F.grid_sample(
        h,
        torch.linspace(-1, 1, 32, dtype=h.dtype).view(1, 4, 4, 2).repeat(len(h), 1, 1, 1),
        align_corners=False,
    ),
    "unpooling": lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2),
    "shuffled channels": lambda h: F.channel_shuffle(h, 3),
    "circular padding": lambda h: F.pad(h, (1, 1, 1, 1), mode="circular"),
    "rotated images": lambda h: torch.rot90(h, 1, (2, 3)),
    "median of positions": lambda h: h.flatten(2).median(-1).values[..., None],
}


@pytest.mark.parametrize(("name", "images"), [(n, False) for n in ROWS] + [(n, True) for n in IMAGES])
def test_units_move_through_an_operation_and_the_function_stays(name, images):
    torch.manual_seed(0)
    operation = (IMAGES if images else ROWS)[name]
    example = torch.randn(4, 3, 8, 8) if images else torch.randn(4, 8)
    shape = operation(torch.randn(4, WIDTH, 8, 8) if images else torch.randn(4, WIDTH)).shape
    module = Around(operation, images, shape[1]).double().eval()
    spec = canon.trace(module, example)
    assert spec.groups, spec.frozen
    element = permutation.random(spec, torch.Generator().manual_seed(1))
    state = module.state_dict()
    moved = permutation.apply(spec, element, state)
    assert any(not torch.equal(moved[name], tensor) for name, tensor in state.items())
    with torch.no_grad():
        before = module(example.double())
        module.load_state_dict(moved)
        torch.testing.assert_close(module(example.double()), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda h: h.cumsum(-1), "its order matters"),
        (lambda h: h.cummax(-1).values, "its order matters"),
        (lambda h: torch.fliplr(h), "its order matters"),
        (lambda h: h.unfold(1, 3, 1).mean(-1), "positions of a window"),
        (lambda h: torch.matrix_exp(h[:, :4] + 0 * h[:, 4:8]), "does not know"),
    ],
)
def test_units_whose_order_matters_stay(operation, reason):
    module = Around(operation, False, operation(torch.randn(4, WIDTH)).shape[1])
    spec = canon.trace(module, torch.randn(4, 8))
    assert any(reason in text for text in spec.frozen.values()), spec.frozen


def test_a_call_that_a_rule_does_not_foresee_freezes_what_it_touches(monkeypatch):
    def fails(context, arguments, out):
        raise IndexError("no such axis")

    monkeypatch.setitem(HANDLERS, "tanh", fails)
    spec = canon.trace(Around(torch.tanh, False, WIDTH), torch.randn(4, 8))
    assert not spec.groups
    assert "does not know (tanh)" in spec.frozen["first.weight axis 0"]


def test_a_network_that_torch_cannot_write_without_changes_in_place_is_refused_in_one_line():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.CrossMapLRN2d(3))
    with pytest.raises(InputError, match=r"torch\.export cannot write Sequential without changes in place"):
        canon.trace(module, torch.randn(2, 3, 4, 4))
