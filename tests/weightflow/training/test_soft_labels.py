"""Soft labels: what the zoo says of examples, and how it enters the functional loss."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from canon.errors import InputError
from weightflow.flow.draws import NoiseDraws
from weightflow.training import compatibility
from weightflow.training.functional_loss import BehaviourConfig, FunctionalLoss
from weightflow.training.sampled_loss import cross_entropy
from weightflow.training.soft_labels import class_scores, fit_sharpness, soft_labels
from weightflow.training.trainer import resume, start
from weightflow.zoo.store import Zoo

from .test_trainer import assert_same_run


@pytest.fixture(scope="module")
def trainer(zoo, tiny_config, tmp_path_factory):
    return start(zoo, tiny_config, tmp_path_factory.mktemp("soft") / "run")


def functional_loss(trainer, mix=0.0, distillation=1.0):
    behaviour = FunctionalLoss(trainer.coordinates, trainer.data, 16, mix, distillation)
    behaviour.soft_labels = soft_labels(behaviour, trainer.populations["seen"])
    return behaviour


def drawn(behaviour, labels, split):
    return behaviour.examples(labels, split, NoiseDraws(torch.Generator().manual_seed(0)))


def test_the_score_of_a_class_is_the_mean_of_the_networks_that_know_it(trainer):
    behaviour, seen = functional_loss(trainer), trainer.populations["seen"]
    split, known = trainer.data.train, (seen.labels >= 0).any(0)
    found = class_scores(behaviour, seen, split, known)
    example = int(torch.nonzero(known[split.labels])[0])
    inputs = split.inputs[torch.tensor([example])].expand(len(seen), 1, -1)
    log_p = behaviour.log_probabilities(seen.z, seen.prompts.present, seen.labels, inputs)[:, 0]
    for label in torch.nonzero(known).squeeze(1).tolist():
        logits = seen.labels[:, label]
        votes = log_p[logits >= 0, logits[logits >= 0]]
        torch.testing.assert_close(found[example, label], votes.mean(), rtol=1e-4, atol=1e-4)
    assert not found[:, ~known].any()
    assert not found[~known[split.labels]].any()


def test_the_zoo_together_is_right_more_often_than_its_networks(trainer):
    behaviour, seen, data = functional_loss(trainer), trainer.populations["seen"], trainer.data
    tasks, split = seen.labels[:5], data.validation
    scores = class_scores(behaviour, seen, split, (seen.labels >= 0).any(0))
    together, alone = [], []
    for i, task in enumerate(tasks):
        own = torch.nonzero(task >= 0).squeeze(1)
        rows = torch.nonzero(torch.isin(split.labels, own)).squeeze(1)
        together.append(float((own[scores[rows][:, own].argmax(1)] == split.labels[rows]).float().mean()))
        some = seen[i : i + 1]
        log_p = behaviour.log_probabilities(
            some.z, some.prompts.present, some.labels, split.inputs[rows].unsqueeze(0)
        )
        alone.append(float((log_p[0].argmax(1) == task[split.labels[rows]]).float().mean()))
    assert sum(together) > sum(alone)


def test_the_sharpness_is_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 3, generator=generator)
    labels = torch.multinomial((2 * scores).softmax(1), 1, generator=generator).squeeze(1)
    found = fit_sharpness(
        torch.cat([torch.zeros(4000, 1), scores], 1), labels + 1, torch.tensor([[-1, 0, 1, 2]])
    )
    assert found == pytest.approx(2, rel=0.2)


def test_soft_targets_are_probabilities_of_the_classes_of_a_task(trainer):
    behaviour, labels = functional_loss(trainer), trainer.populations["seen"].labels
    present = trainer.populations["seen"].prompts.present
    targets, inputs = drawn(behaviour, labels, trainer.data.train)
    torch.testing.assert_close(targets.sum(-1), torch.ones_like(targets.sum(-1)))
    assert not targets[~present.unsqueeze(1).expand_as(targets)].any()
    plain = FunctionalLoss(trainer.coordinates, trainer.data, 16)
    hard, same = drawn(plain, labels, trainer.data.train)
    assert torch.equal(inputs, same)  # the same examples as without soft labels
    assert (targets.argmax(-1) == hard).float().mean() > 0.8
    halves = drawn(functional_loss(trainer, distillation=0.5), labels, trainer.data.train)[0]
    one_hot = torch.nn.functional.one_hot(hard, targets.shape[-1])
    torch.testing.assert_close(halves, (targets + one_hot) / 2)
    mixed, _ = drawn(functional_loss(trainer, mix=0.4), labels, trainer.data.train)
    assert not torch.equal(mixed, targets)
    held_out, _ = drawn(behaviour, labels, trainer.data.validation)
    assert not held_out.is_floating_point()  # checkpoints are chosen by the labels themselves


def test_certain_soft_targets_are_labels(trainer):
    seen = trainer.populations["seen"]
    behaviour = functional_loss(trainer, distillation=0.0)
    args = seen.z[:3], seen.labels[:3], seen.prompts.present[:3], trainer.data.train
    draws = [NoiseDraws(torch.Generator().manual_seed(1)) for _ in range(2)]
    plain = FunctionalLoss(trainer.coordinates, trainer.data, 16)
    torch.testing.assert_close(behaviour.loss(*args, draws[0]), plain.loss(*args, draws[1]))
    log_p = torch.randn(2, 3, 5, 4).log_softmax(-1)
    hard = torch.randint(4, (2, 5))
    soft = torch.nn.functional.one_hot(hard, 4).float()
    torch.testing.assert_close(cross_entropy(log_p, soft, 0.3), cross_entropy(log_p, hard, 0.3))


def test_a_stopped_run_with_soft_labels_equals_one_that_was_not(zoo, tiny_config, tmp_path):
    behaviour = dataclasses.replace(
        tiny_config.behaviour, distillation=0.5, sampled=0.5, group=2, ensemble=0.5
    )
    config = dataclasses.replace(tiny_config, behaviour=behaviour)
    start(zoo, config, tmp_path / "whole").run()
    halves = start(zoo, config, tmp_path / "halves")
    halves.run(stop=lambda: halves.progress.step == 7)
    assert halves.progress.step == 7
    resume(zoo, tmp_path / "halves").run()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": 1.5}, r"behaviour.distillation is 1.5; it is a share from 0 to 1"),
        ({"invented": -0.1, "beyond": 1.0}, r"behaviour.invented is -0.1; it is a share from 0 to 1"),
        ({"invented": 0.5}, "set behaviour.beyond above 0"),
    ],
)
def test_shares_that_say_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        BehaviourConfig(**changes)


class StandIn(Zoo):
    """As much of a zoo as the check of the settings looks at."""

    dataset, path = "mine", Path("zoos/mine")
    data = SimpleNamespace(class_names=("one", "two", "three"))
    records = (SimpleNamespace(classes=("one", "two or three")),)
    architecture = None

    def __init__(self, has_logits: bool = True, dtype: torch.dtype = torch.float32) -> None:
        example = torch.zeros(1, 3, dtype=dtype)
        self.architecture = SimpleNamespace(name="adapter", has_logits=has_logits, example=lambda n: example)

    def rows(self, split):
        return [0]


@pytest.mark.parametrize(
    ("settings", "zoo", "message"),
    [
        ({"invented": 0.5, "beyond": 1.0}, {"dtype": torch.long}, "those of mine are no numbers but words"),
        ({"invented": 0.5, "beyond": 1.0}, {"has_logits": False}, "classes that have no name"),
        ({"distillation": 0.5}, {}, "'two or three' is none of them but a union"),
    ],
)
def test_settings_that_do_not_suit_the_zoo_are_refused(tiny_config, settings, zoo, message):
    config = dataclasses.replace(
        tiny_config, behaviour=dataclasses.replace(tiny_config.behaviour, **settings)
    )
    with pytest.raises(InputError, match=message):
        compatibility.check(config, StandIn(**zoo))
