"""Modules of users of which populations cannot be kept are refused, with the reason, before anything is trained."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.networks.architectures import FAMILIES, Architecture
from weightflow.networks.architectures.requirements import require_supported


class Plain(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 6), nn.Linear(6, classes)

    def forward(self, x):
        return self.last(F.relu(self.hidden(x)))


class Several(Plain):
    def forward(self, x):
        return self.last(self.hidden(x)), x


class Named(Plain):
    def forward(self, x):
        return {"logits": self.last(self.hidden(x))}


class Maps(Plain):
    def forward(self, x):
        return super().forward(x)[..., None, None]


class Lazy(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.hidden = nn.LazyLinear(6)


class Complex(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.scale = nn.Parameter(torch.ones(6, dtype=torch.complex64))


class Tied(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.again = self.hidden


class Prototypes(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.prototypes = nn.Parameter(torch.randn(3 * classes, 6))


class Pairs(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.pairs = nn.Parameter(torch.randn(classes, classes))


class Lists(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.each = nn.ParameterList([nn.Parameter(torch.zeros(6)) for _ in range(classes)])


class DrawnOutside(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.noise = torch.randn(6)

    def forward(self, x):
        return self.last(self.hidden(x) * self.noise)


class DrawnWhenCalled(Plain):
    def forward(self, x):
        return self.last(F.dropout(self.hidden(x), 0.5, True))


class Fails(Plain):
    def forward(self, x):
        raise KeyError("boom")


REFUSED = {
    Several: "gives tuple for 2 examples, no tensor; expected one tensor",
    Named: "gives dict for 2 examples, no tensor",
    Maps: r"of shape \(2, 3, 1, 1\); expected one tensor of shape \(2, classes\)",
    Lazy: "the size of 'hidden.weight' is not known",
    Complex: "'scale' is complex64; expected float32",
    Tied: "'hidden.weight' and 'again.weight' are one parameter by two names",
    Prototypes: r"'prototypes' has the shape \(9, 6\) for 3 classes and \(12, 6\) for 4",
    Pairs: "expected one axis with one entry a class",
    Lists: "has other tensors for 4 classes than for 3",
    DrawnOutside: "with the same state_dict give different outputs",
    DrawnWhenCalled: "or draws them when it is called",
    Fails: "cannot take examples of shape .*boom",
}


@pytest.fixture
def architecture_of(monkeypatch):
    """The architecture that a class makes, registered for one test."""

    def made(module):
        def build(classes: int) -> nn.Module:
            return module(classes)

        monkeypatch.setattr(FAMILIES, "_entries", FAMILIES._entries | {module.__name__: build})
        return Architecture(module.__name__, {}, (4,), 3)

    return made


@pytest.mark.parametrize("module", REFUSED)
def test_a_module_that_cannot_be_kept_is_refused_with_the_reason(module, architecture_of):
    with pytest.raises(InputError, match=REFUSED[module]):
        require_supported(architecture_of(module), torch.randn(2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_than_float32_are_refused(dtype, architecture_of):
    class Narrow(Plain):
        def __init__(self, classes):
            super().__init__(classes)
            self.to(dtype)

    with pytest.raises(InputError, match=f"is {str(dtype)[6:]}; expected float32"):
        require_supported(architecture_of(Narrow), torch.randn(2, 4))


def test_a_plain_module_passes_and_leaves_the_random_numbers_alone(architecture_of):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    require_supported(architecture_of(Plain), torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
