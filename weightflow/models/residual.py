r"""A model of the residual between networks and their anchors.

With anchors a (the class rows that the words ask for, zero elsewhere) a network is x_1 = a + r, and

    x_t - alpha(t) a = alpha(t) r + sigma(t) x_0

so a model that sees this and the anchors, and predicts r, is a flow of r. Without a prompt a is zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightflow.flow.schedule import Schedule, expand_time
from weightflow.models import make_model
from weightflow.models.config import ModelConfig
from weightflow.representation.layout import Layout
from weightflow.zero_shot.module import Anchors, as_tokens


class AnchoredModel(nn.Module):
    """`inner` receives the anchor of each known class instead of its words. Predicts the clean network.

    It has nothing to say of a class that nobody has seen: the row of such a class is its anchor, in every sample.
    """

    def __init__(self, inner: nn.Module, anchors: Anchors, layout: Layout, schedule: Schedule) -> None:
        super().__init__()
        self.inner, self.anchors = inner, anchors
        self.layout, self.schedule = layout, schedule

    def forward(
        self,
        x_t: Float[Tensor, "batch tokens width"],
        t: Float[Tensor, " batch"],
        text: Float[Tensor, "batch classes text"],
        present: Bool[Tensor, "batch classes"],
    ) -> Float[Tensor, "batch tokens width"]:
        rows, familiar = self.anchors(text)
        rows = rows * present.unsqueeze(-1)
        anchor = as_tokens(self.layout, rows)
        left = x_t - expand_time(self.schedule.alpha(t), x_t) * anchor
        strange = as_tokens(self.layout, (~familiar & present.unsqueeze(-1)).expand_as(rows).to(rows.dtype))
        return anchor + (1 - strange) * self.inner(left, t, rows * familiar, present)


def make_generator(
    model: ModelConfig,
    schedule: Schedule,
    layout: Layout,
    text_width: int,
    classes: int,
    anchors: Mapping[str, Tensor],
) -> nn.Module:
    """The model of a run, about its anchors where there are any; `anchors` are their tensors or nothing."""
    if not anchors:
        return make_model(model, layout, text_width, classes)
    found = Anchors(anchors)
    inner = make_model(model, layout, found.width, classes)
    return AnchoredModel(inner, found, layout, schedule)
