"""Training on another device: nothing is left behind on the processor, and the losses are the same."""

import dataclasses

import pytest
import torch

from tests.second_device import another_device
from weightflow.training.adversarial import AdversaryConfig
from weightflow.training.augmentation import AugmentConfig
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.training.trainer import resume, start

from .test_trainer import finished_tensors


@another_device
@pytest.mark.parametrize("every_term", [False, True])
def test_a_run_on_another_device_equals_one_on_the_processor(zoo, tiny_config, tmp_path, every_term, other):
    if every_term:
        tiny_config = dataclasses.replace(
            tiny_config,
            augment=AugmentConfig(permute_units=True, permute_classes=True, equivariance=0.5),
            adversary=AdversaryConfig(weight=0.1, widths=(8, 4)),
            behaviour=BehaviourConfig(images=8, beyond=0.5, sampled=0.5, group=2, energy=1.0, straight=1.0),
        )
    start(zoo, tiny_config, tmp_path / "here").run()
    with other() as device:
        trainer = start(zoo, tiny_config, tmp_path / "there", device=str(device))
        assert {p.device for p in trainer.model.parameters()} == {device}
        trainer.run(stop=lambda: trainer.progress.step == 7)
        resume(zoo, tmp_path / "there", device=str(device)).run()
    here, there = finished_tensors(tmp_path / "here"), finished_tensors(tmp_path / "there")
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)
    assert torch.equal(there["generator"], here["generator"])
