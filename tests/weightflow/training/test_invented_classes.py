"""Settings of invented classes are refused where they say nothing, or do not suit the zoo."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from canon.errors import InputError
from weightflow.training import compatibility
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.zoo.store import Zoo


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"invented": -0.1, "beyond": 1.0}, r"behaviour.invented is -0.1; it is a share from 0 to 1"),
        ({"invented": 0.5}, "set behaviour.beyond above 0"),
    ],
)
def test_shares_that_say_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        BehaviourConfig(**changes)


class StandIn(Zoo):
    """As much of a zoo as the check of the settings looks at."""

    dataset = "mine"

    def __init__(self, has_logits: bool = True, dtype: torch.dtype = torch.float32) -> None:
        example = torch.zeros(1, 3, dtype=dtype)
        self.architecture = SimpleNamespace(name="adapter", has_logits=has_logits, example=lambda n: example)


@pytest.mark.parametrize(
    ("settings", "zoo", "message"),
    [
        ({"invented": 0.5, "beyond": 1.0}, {"dtype": torch.long}, "those of mine are no numbers but words"),
        ({"invented": 0.5, "beyond": 1.0}, {"has_logits": False}, "classes that have no name"),
    ],
)
def test_settings_that_do_not_suit_the_zoo_are_refused(tiny_config, settings, zoo, message):
    config = dataclasses.replace(
        tiny_config, behaviour=dataclasses.replace(tiny_config.behaviour, **settings)
    )
    with pytest.raises(InputError, match=message):
        compatibility.check(config, StandIn(**zoo))
