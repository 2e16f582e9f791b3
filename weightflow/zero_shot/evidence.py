r"""The posterior of a class's mean feature: words give the prior, pictures the likelihood.

Features are Gaussian about the mean mu of their class, with the covariance S that all classes share. Words give the
prior, n pictures with mean f the likelihood:

    mu ~ N(m(v), P) ,   f ~ N(mu, S / n) ,   E[mu | v, f] = m(v) + P (P + S / n)^-1 (f - m(v))

m(v) is the regression from words to means (`regression.py`), and P says how far it is off. It is measured by hiding
known classes: with r_1 .. r_k the residuals of hidden classes,

    P = scale ((1 - mix) 1/k sum_i r_i r_i^T + mix tau S) ,   tau = mean |r_i|^2 / trace S

since a few dozen residuals alone would say that most directions are certain. Without words m is the mean over the known
classes, and the residuals are theirs about it. `scale` and `mix` are chosen by the hidden classes too.
Bayesian estimates of class means from few examples: Minka 2001, "Inferring a Gaussian distribution".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightflow.zero_shot.regression import Regression, Settings, Statistics

# of the mean variance: no direction is more certain than this
LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class Spread:
    """How far P lets the mean be from what was expected."""

    scale: float = 1.0
    mix: float = 0.6


@dataclass(frozen=True)
class Evidence:
    """Maps words and pictures of a class to its mean feature, its row and its class vector."""

    centre: Float[Tensor, " text"]
    known: Float[Tensor, "known text"]
    sharpness: Tensor
    to_mean: Float[Tensor, "known features"]
    to_weight: Float[Tensor, "known features"]
    origin: Float[Tensor, " features"]
    variances: Float[Tensor, " features"]
    basis: Float[Tensor, "features features"]
    floor: Tensor
    spread: Float[Tensor, " two"]
    residuals: Float[Tensor, "known features"]
    deviations: Float[Tensor, "known features"]
    to_word: Float[Tensor, "features text"]

    @classmethod
    def fit(
        cls,
        found: Statistics,
        settings: Settings,
        spread: Spread,
        residuals: Float[Tensor, "known features"],
        ridge: float,
    ) -> Evidence:
        """`residuals`: of the prediction from words, each of a class that the prediction did not know."""
        regression = Regression.fit(found, settings)
        variances = found.variances.clamp(min=LEAST_VARIANCE * found.variances.mean())
        parts = {field.name: getattr(regression, field.name) for field in fields(Regression)}
        deviations = found.means - regression.origin
        to_word = word_map(deviations, F.normalize(found.vectors, dim=-1) - regression.centre, found.basis,
                           variances + settings.floor * variances.mean(), ridge)  # fmt: skip
        return cls(
            **parts, variances=variances, basis=found.basis, floor=torch.tensor(settings.floor),
            spread=torch.tensor([spread.scale, spread.mix]), residuals=residuals @ found.basis,
            deviations=deviations @ found.basis, to_word=to_word,
        )  # fmt: skip

    def said(self, vectors: Float[Tensor, "classes text"]) -> Float[Tensor, "classes features"]:
        """The mean that words alone say."""
        regression = Regression(**{field.name: getattr(self, field.name) for field in fields(Regression)})
        return self.origin + regression.similarity(vectors, self.sharpness) @ self.to_mean

    def mean(self, vector: Tensor | None, pictures: Float[Tensor, "pictures features"]) -> Tensor:
        """(features,): of one class, by its vector, or None where nothing is said, and its pictures, or none."""
        said = self.origin if vector is None else self.said(vector.unsqueeze(0))[0]
        if not len(pictures):
            return said
        residuals = self.deviations if vector is None else self.residuals
        shown = (pictures.mean(0) - said).unsqueeze(0)
        return said + self.correction(shown, len(pictures), residuals)[0]

    def correction(
        self,
        shown: Float[Tensor, "classes features"],
        pictures: int,
        residuals: Float[Tensor, "some features"],
    ) -> Float[Tensor, "classes features"]:
        """P (P + S / n)^-1 of each row of `shown`; `residuals` are along the basis."""
        scale, mix = self.spread.double().tolist()
        variances, r = self.variances.double(), residuals.double()
        tau = r.square().sum(1).mean() / variances.sum()
        own = scale * mix * tau * variances  # the part of P along S
        low = r * (scale * (1 - mix) / len(r)) ** 0.5  # the other: low^T low
        diagonal = own + variances / pictures
        rest = shown.double() @ self.basis.double() / diagonal
        inner = torch.eye(len(r), dtype=torch.float64) + (low / diagonal) @ low.T
        # Woodbury: (D + low^T low)^-1, of as many unknowns as there are residuals
        solved = rest - torch.linalg.solve(inner, low @ rest.T).T @ low / diagonal
        gained = solved @ low.T @ low + own * solved
        return (gained @ self.basis.double().T).float()

    def row(self, mean: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features_and_bias"]:
        """Weights and bias of the class with this mean, as `Regression.rows`."""
        own = mean - self.origin
        spread = self.variances + self.floor * self.variances.mean()
        weight = (own @ self.basis / spread) @ self.basis.T
        bias = -(weight * (self.origin + own / 2)).sum(-1, keepdim=True)
        return torch.cat([weight, bias], dim=-1)

    def vector(self, vector: Tensor | None, pictures: Float[Tensor, "pictures features"]) -> Tensor:
        """(text,): the words moved by what the pictures say of the mean; root mean square 1."""
        said = self.origin if vector is None else self.said(vector.unsqueeze(0))[0]
        start = self.centre if vector is None else F.normalize(vector, dim=-1)
        moved = start + (self.mean(vector, pictures) - said) @ self.to_word
        return F.normalize(moved, dim=-1) * len(moved) ** 0.5


def word_map(
    deviations: Float[Tensor, "known features"],
    words: Float[Tensor, "known text"],
    basis: Tensor,
    spread: Float[Tensor, " features"],
    ridge: float,
) -> Float[Tensor, "features text"]:
    """Ridge regression from mean features to class vectors, in the metric of the shape within classes."""
    scaled = (deviations @ basis / spread) @ basis.T
    kernel = (deviations @ scaled.T).double()
    kernel += ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=torch.float64)
    return (scaled.double().T @ torch.linalg.solve(kernel, words.double())).float()
