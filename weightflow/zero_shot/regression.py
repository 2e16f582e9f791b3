r"""Closed-form regression from class vectors to rows of the last layer.

The words say where the features of a class lie: kernel ridge regression on the classes that are known,

    mu(v) = k(v, V) (k(V, V) + ridge)^-1 (M - m) ,   k(u, v) = exp(-sharpness |u - v|^2)

with M the mean features of the known classes and m their mean; vectors are of length 1 about the mean of
the known ones. The row follows from the shape that all classes share (linear discriminant analysis),

    w(v) = S^-1 mu(v) ,   b(v) = -w(v) m - w(v) mu(v) / 2 ,   S = within-class covariance + floor

Predicting where images lie asks less of the words than predicting weights: what the covariance does to a
row is known, and need not be learned from a few dozen classes. Kernel ridge regression to class means is
Changpinyo et al. 2017, arXiv:1605.08151.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# a known class keeps its own mean row: this sharp a kernel is 1 there and next to nothing at its neighbours
OWN = 8.0


@dataclass(frozen=True)
class Settings:
    """`sharpness` and `ridge` of the kernel; `floor` is in mean variances within a class."""

    sharpness: float = 0.5
    ridge: float = 0.05
    floor: float = 3.0


@dataclass(frozen=True)
class Statistics:
    """What is known of the known classes: vectors, mean features, and the shape that they share.

    The covariance within a class has `variances` along the columns of `basis`.
    """

    vectors: Float[Tensor, "known text"]
    means: Float[Tensor, "known features"]
    variances: Float[Tensor, " features"]
    basis: Float[Tensor, "features features"]

    @classmethod
    def of(cls, vectors: Tensor, means: Tensor, within: Float[Tensor, "features features"]) -> Statistics:
        variances, basis = torch.linalg.eigh(within.double())
        return cls(vectors, means, variances.clamp(min=0).float(), basis.float())

    @classmethod
    def of_examples(cls, vectors: Tensor, inputs: Tensor, labels: Tensor, known: Tensor) -> Statistics:
        """From features (examples, features) and their labels, those of the `known` classes."""
        own = (labels.unsqueeze(0) == known.unsqueeze(1)).float()
        means = own @ inputs / own.sum(1, keepdim=True)
        spread = inputs - own.T @ means
        return cls.of(vectors, means, spread.T @ spread / len(spread))

    def without(self, classes: Tensor) -> Statistics:
        """The same had these classes (known,), true where one is to go, never been seen."""
        return Statistics(self.vectors[~classes], self.means[~classes], self.variances, self.basis)


@dataclass(frozen=True)
class Regression:
    """The fitted map: `rows` of any class vectors. Solved in float64, kept in float32."""

    centre: Float[Tensor, " text"]
    known: Float[Tensor, "known text"]
    sharpness: Tensor
    to_mean: Float[Tensor, "known features"]
    to_weight: Float[Tensor, "known features"]
    origin: Float[Tensor, " features"]

    @classmethod
    def fit(cls, found: Statistics, settings: Settings) -> Regression:
        vectors = F.normalize(found.vectors.double(), dim=-1)
        centre = vectors.mean(0)
        known, sharpness = F.normalize(vectors - centre, dim=-1), torch.tensor(settings.sharpness)
        kernel = _kernel(known, known, sharpness) + settings.ridge * torch.eye(len(known)).double()
        origin = found.means.double().mean(0)
        to_mean = torch.linalg.solve(kernel, found.means.double() - origin)
        spread = found.variances + settings.floor * found.variances.mean()
        to_weight = (to_mean.float() @ found.basis / spread) @ found.basis.T
        parts = (centre, known, sharpness, to_mean, to_weight, origin)
        return cls(*(part.float() for part in parts))

    def similarity(self, vectors: Float[Tensor, "*batch text"], sharpness: Tensor) -> Tensor:
        """The kernel of any vectors with the known ones: (*batch, known)."""
        flat = F.normalize(vectors, dim=-1) - self.centre
        found = _kernel(F.normalize(flat.reshape(-1, flat.shape[-1]), dim=-1), self.known, sharpness)
        return found.view(*flat.shape[:-1], -1)

    def rows(self, vectors: Float[Tensor, "*batch text"]) -> Float[Tensor, "*batch features_and_bias"]:
        """Weights and, last, the bias of each class."""
        similar = self.similarity(vectors, self.sharpness)
        weight, mean = similar @ self.to_weight, similar @ self.to_mean
        bias = -(weight * (self.origin + mean / 2)).sum(-1, keepdim=True)
        return torch.cat([weight, bias], dim=-1)


def _kernel(a: Tensor, b: Tensor, sharpness: Tensor) -> Tensor:
    # unit vectors: distances follow from the products, without cdist
    return torch.exp(-sharpness * (2 - 2 * a @ b.T).clamp(min=0))
