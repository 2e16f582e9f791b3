"""Small networks, one for each way in which tensors share units, and the groups that must be found."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, the shapes of its inputs (or functions that make them), and what must be found.

    `groups` are (size, size of the outer group or None, scale); `share` is the least share of the
    parameters that must lie in tensors that move.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...] | Callable[[], Tensor], ...]
    share: float
    groups: tuple[tuple[int, int | None, str], ...]


class Network(nn.Module):
    """Layers by name, and a function of them as forward."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self._forward(self, *inputs)


def tokens() -> Tensor:
    return torch.randint(0, 7, (2, 5))


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.Tanh(),
        nn.Linear(7, 5),
        nn.GELU(),
        nn.Linear(5, 3),
    )


def residual_mlp():
    def forward(m, x):
        h = m.stem(x.flatten(1))
        return m.head(h + m.down(F.relu(m.up(h))))

    return Network(
        forward, stem=nn.Linear(5, 8), up=nn.Linear(8, 7), down=nn.Linear(7, 8), head=nn.Linear(8, 3)
    )


def cnn():
    """conv -> batch norm -> relu -> pool -> flatten -> linear."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 2), nn.LeakyReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 3),
    )  # fmt: skip


def one_dimension():
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 3, 1))


def three_dimensions():
    return nn.Sequential(
        nn.Conv3d(2, 6, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def generator():
    """DCGAN's shape: transposed convolutions, one of them grouped."""
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False),
        nn.ReLU(), nn.ConvTranspose2d(8, 2, 3, stride=2), nn.Tanh(),
    )  # fmt: skip


def depthwise():
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Hardswish(), nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12), nn.ReLU6(),
        nn.Conv2d(12, 3, 1),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 3, 1)
    )


def residual_cnn():
    """A CIFAR ResNet's two stages with the parameter-free shortcut: every second pixel, channels padded."""

    def forward(m, x):
        h = F.relu(m.bn0(m.conv0(x)))
        shortcut = F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        h = F.relu(m.bn2(m.conv2(F.relu(m.bn1(m.conv1(h))))) + shortcut)
        return m.head(h.mean((2, 3)))

    return Network(
        forward,
        conv0=nn.Conv2d(3, 4, 3, padding=1, bias=False), bn0=nn.BatchNorm2d(4),
        conv1=nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), bn1=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(8),
        head=nn.Linear(8, 3),
    )  # fmt: skip


def dense():
    """Concatenation, cascaded, with a norm over what was joined."""

    def forward(m, x):
        a = m.a(x)
        b = torch.cat([a, m.b(F.relu(a))], 1)
        c = torch.cat([b, m.c(F.relu(b))], 1)
        return m.head(F.relu(m.norm(c)))

    return Network(
        forward,
        a=nn.Linear(5, 4),
        b=nn.Linear(4, 3),
        c=nn.Linear(7, 6),
        norm=nn.BatchNorm1d(13),
        head=nn.Linear(13, 2),
    )


def cascaded_split():
    def forward(m, x):
        a, b = m.stem(x).split([4, 8], -1)
        c, d = b.chunk(2, -1)
        return m.head(torch.cat([F.gelu(a), F.gelu(c) * d], -1))

    return Network(forward, stem=nn.Linear(5, 12), head=nn.Linear(8, 3))


def swiglu():
    def forward(m, x):
        return m.down(F.silu(m.gate(x)) * m.up(x))

    return Network(forward, gate=nn.Linear(5, 8), up=nn.Linear(5, 8), down=nn.Linear(8, 3))


def norms():
    """GroupNorm nests channels in groups; InstanceNorm, PReLU with a slope for each channel."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6), nn.GELU(), nn.Conv2d(6, 5, 2), nn.InstanceNorm2d(5, affine=True, track_running_stats=True),
        nn.PReLU(5), nn.Conv2d(5, 4, 2), nn.LayerNorm([4, 4, 4]), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def rms_norms():
    def forward(m, x):
        h = m.stem(x)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * m.gain
        h = m.norm(m.middle(h))
        return m.head(F.gelu(h))

    return Network(
        forward,
        stem=nn.Linear(5, 8),
        gain=nn.Parameter(torch.ones(8)),
        middle=nn.Linear(8, 6),
        norm=nn.RMSNorm(6),
        head=nn.Linear(6, 3),
    )


def reused():
    """One layer called twice ties its input units to its output units."""

    def forward(m, x):
        return m.head(F.relu(m.middle(F.relu(m.middle(F.relu(m.stem(x)))))))

    return Network(forward, stem=nn.Linear(5, 8), middle=nn.Linear(8, 8), head=nn.Linear(8, 3))


def tied():
    """An embedding tied to the output layer: two keys, one tensor."""
    embedding, head = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
    head.weight = embedding.weight
    return Network(
        lambda m, ids: m.head(m.norm(m.embedding(ids) + m.position)),
        embedding=embedding, head=head, norm=nn.LayerNorm(8), position=nn.Parameter(torch.randn(5, 8)),
    )  # fmt: skip


def several():
    """Two inputs, two outputs, bare parameters, matrix product and einsum by hand."""

    def forward(m, x, y):
        h = F.relu(x @ m.first + torch.einsum("oi,bi->bo", m.second, y))
        return h @ m.third, {"sum": (h * m.weights).sum(-1)}

    shapes = {"first": (5, 8), "second": (8, 4), "third": (8, 3), "weights": (8,)}
    return Network(forward, **{n: nn.Parameter(torch.randn(*s)) for n, s in shapes.items()})


class Attention(nn.Module):
    """Attention by hand: separate or fused projections, grouped key-value heads, rotary embeddings."""

    def __init__(self, heads=3, kv_heads=3, channels=4, rotary=False, form="separate"):
        super().__init__()
        self.heads, self.kv_heads, self.channels, self.rotary, self.form = (
            heads,
            kv_heads,
            channels,
            rotary,
            form,
        )
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 2)
        if form == "separate":
            self.q = nn.Linear(10, heads * channels)
            self.k, self.v = nn.Linear(10, kv_heads * channels), nn.Linear(10, kv_heads * channels)
        else:
            self.qkv = nn.Linear(10, (heads + 2 * kv_heads) * channels)
        self.o = nn.Linear(heads * channels, 10)

    def _project(self, x):
        h, kv, c = self.heads, self.kv_heads, self.channels
        if self.form == "separate":
            return [f(x).unflatten(-1, (-1, c)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        if self.form == "unbind":
            return self.qkv(x).reshape(*x.shape[:2], 3, h, c).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "chunk":
            return [t.reshape(*x.shape[:2], h, c).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)]
        parts = self.qkv(x).unflatten(-1, (h + 2 * kv, c)).split([h, kv, kv], dim=2)
        return [t.transpose(1, 2) for t in parts]

    def _rotate(self, x):
        angle = torch.arange(x.shape[-2]).double()[:, None] / 10 ** torch.arange(self.channels // 2).double()
        angle = torch.cat([angle, angle], -1).to(x)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, x):
        x = self.stem(x)
        q, k, v = self._project(x)
        if self.rotary:
            q, k = self._rotate(q), self._rotate(k)
        repeat = self.heads // self.kv_heads
        if repeat > 1:
            k, v = (t[:, :, None].expand(-1, -1, repeat, -1, -1).flatten(1, 2) for t in (k, v))
        scores = (q @ k.transpose(-1, -2) / self.channels**0.5).softmax(-1)
        return self.head(x + self.o((scores @ v).transpose(1, 2).flatten(2)))


def fused_attention(enable_gqa):
    """scaled_dot_product_attention, causal, grouped by its own option where asked for."""

    def forward(m, x):
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (m.q, m.k, m.v))
        return m.o(
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=enable_gqa)
            .transpose(1, 2)
            .flatten(2)
        )

    kv = 2 if enable_gqa else 6
    return Network(
        forward, q=nn.Linear(5, 24), k=nn.Linear(5, 4 * kv), v=nn.Linear(5, 4 * kv), o=nn.Linear(24, 3)
    )


def transformer():
    layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Linear(5, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 2)
    )


def llama():
    """Residual stream, RMSNorm, grouped rotary attention by hand, SwiGLU, embedding tied to the output."""

    def forward(m, ids):
        x = m.embedding(ids)
        y = m.norm1(x)
        q, k, v = (f(y).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (m.q, m.k, m.v))
        q, k = (Attention._rotate(m, t) for t in (q, k))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        x = x + m.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = m.norm2(x)
        x = x + m.down(F.silu(m.gate(y)) * m.up(y))
        return F.linear(m.norm3(x), m.embedding.weight)

    linear = {n: nn.Linear(i, o, bias=False) for n, i, o in (
        ("q", 10, 16), ("k", 10, 8), ("v", 10, 8), ("o", 16, 10), ("gate", 10, 14), ("up", 10, 14), ("down", 14, 10),
    )}  # fmt: skip
    return Network(
        forward,
        channels=4,
        embedding=nn.Embedding(7, 10),
        **{f"norm{n}": nn.RMSNorm(10) for n in (1, 2, 3)},
        **linear,
    )


PLAIN, POSITIVE, SIGN = "none", "positive", "sign"

ARCHITECTURES = {
    "mlp": Case(mlp, ((4, 2, 3),), 0.95, ((8, None, POSITIVE), (7, None, SIGN), (5, None, PLAIN))),
    "residual mlp": Case(residual_mlp, ((4, 5),), 0.95, ((8, None, POSITIVE), (7, None, POSITIVE))),
    "cnn": Case(cnn, ((2, 2, 12, 12),), 0.95, ((6, None, POSITIVE), (5, None, POSITIVE))),
    "conv1d": Case(one_dimension, ((2, 2, 8),), 0.9, ((6, None, POSITIVE),)),
    "conv3d": Case(three_dimensions, ((2, 2, 4, 4, 4),), 0.9, ((6, None, POSITIVE),)),
    "transposed": Case(generator, ((2, 4, 2, 2),), 0.9, ((2, None, PLAIN), (3, 2, POSITIVE), (4, None, POSITIVE))),
    "depthwise": Case(depthwise, ((2, 2, 5, 5),), 0.9, ((6, None, PLAIN), (2, 6, PLAIN))),
    "grouped": Case(grouped, ((2, 2, 5, 5),), 0.9, ((4, None, PLAIN), (2, None, POSITIVE), (3, 4, POSITIVE))),
    "residual cnn": Case(residual_cnn, ((2, 3, 8, 8),), 0.95,
        ((4, None, POSITIVE), (8, None, POSITIVE), (2, None, POSITIVE), (2, None, POSITIVE))),
    "dense": Case(dense, ((4, 5),), 0.95, ((4, None, POSITIVE), (3, None, POSITIVE), (6, None, POSITIVE))),
    "cascaded split": Case(cascaded_split, ((4, 5),), 0.95, ((4, None, PLAIN), (4, None, POSITIVE))),
    "swiglu": Case(swiglu, ((4, 5),), 0.95, ((8, None, POSITIVE),)),
    "norms": Case(norms, ((2, 2, 8, 8),), 0.95, ((3, None, PLAIN), (2, 3, PLAIN), (5, None, POSITIVE), (4, None, PLAIN))),
    "rms norms": Case(rms_norms, ((4, 5),), 0.95, ((8, None, POSITIVE), (6, None, PLAIN))),
    "reused": Case(reused, ((4, 5),), 0.95, ((8, None, POSITIVE),)),
    "tied": Case(tied, (tokens,), 0.95, ((8, None, PLAIN),)),
    "several": Case(several, ((4, 5), (4, 4)), 0.95, ((8, None, POSITIVE),)),
    "attention": Case(Attention, ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (3, None, PLAIN), (4, 3, POSITIVE), (4, 3, POSITIVE))),
    "attention, unbind": Case(lambda: Attention(form="unbind"), ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (3, None, PLAIN), (4, 3, POSITIVE), (4, 3, POSITIVE))),
    "attention, chunk": Case(lambda: Attention(form="chunk"), ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (3, None, PLAIN), (4, 3, POSITIVE), (4, 3, POSITIVE))),
    "attention, grouped": Case(lambda: Attention(heads=6, kv_heads=2), ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (2, None, PLAIN), (3, 2, PLAIN), (4, 2, POSITIVE), (4, 2, POSITIVE))),
    "attention, grouped and fused": Case(lambda: Attention(heads=6, kv_heads=2, form="split"), ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (2, None, PLAIN), (3, 2, PLAIN), (4, 2, POSITIVE), (4, 2, POSITIVE))),
    "attention, rotary": Case(lambda: Attention(rotary=True), ((2, 6, 5),), 0.95,
        ((10, None, POSITIVE), (3, None, PLAIN), (4, 3, POSITIVE))),
    "sdpa": Case(lambda: fused_attention(False), ((2, 6, 5),), 0.9,
        ((6, None, PLAIN), (4, 6, POSITIVE), (4, 6, POSITIVE))),
    "sdpa, grouped": Case(lambda: fused_attention(True), ((2, 6, 5),), 0.9,
        ((2, None, PLAIN), (3, 2, PLAIN), (4, 2, POSITIVE), (4, 2, POSITIVE))),
    "transformer": Case(transformer, ((2, 6, 5),), 0.95,
        ((12, None, POSITIVE), *((3, None, PLAIN), (4, 3, POSITIVE), (4, 3, POSITIVE), (16, None, POSITIVE)) * 2)),
    "llama": Case(llama, (tokens,), 0.95,
        ((10, None, PLAIN), (2, None, PLAIN), (2, 2, PLAIN), (4, 2, POSITIVE), (14, None, POSITIVE))),
}  # fmt: skip
