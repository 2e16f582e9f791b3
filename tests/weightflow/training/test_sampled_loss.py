"""Losses of several networks of one prompt: what each is least for, and how they enter training."""

import dataclasses

import pytest
import torch

from canon.errors import InputError
from weightflow.flow.draws import NoiseDraws
from weightflow.flow.objective import ObjectiveConfig
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.training.sampled_loss import cross_entropy, energy_score
from weightflow.training.trainer import resume, start

from .test_trainer import assert_same_run

TERMS = {"sampled": 0.5, "group": 3, "ensemble": 0.5, "energy": 2.0, "straight": 1.0}


def functions(rows):
    """Probabilities (prompts, group, one example, two classes) of the first class."""
    first = torch.as_tensor(rows, dtype=torch.float64)
    return torch.stack([first, 1 - first], -1).unsqueeze(-2)


def test_the_energy_score_is_least_for_samples_as_spread_as_the_zoo():
    generator = torch.Generator().manual_seed(0)
    zoo = torch.randint(2, (20_000,), generator=generator).double() * 0.8 + 0.1  # 0.1 or 0.9

    def score(rows):
        return float(energy_score(functions(rows), functions(zoo[:, None])[:, 0]).mean())

    alike = zoo[torch.randint(len(zoo), (len(zoo), 2), generator=generator)]
    one_mode, middle = torch.full_like(alike, 0.9), torch.full_like(alike, 0.5)
    wider = (alike - 0.5) * 1.25 + 0.5
    assert score(alike) < min(score(one_mode), score(middle), score(wider)) - 0.01


def test_the_ensemble_counts_only_where_networks_differ():
    targets = torch.zeros(1, 1, dtype=torch.long)
    alike, apart = functions([[0.6, 0.6]]).log(), functions([[0.9, 0.3]]).log()
    torch.testing.assert_close(cross_entropy(alike, targets, 0.0), cross_entropy(alike, targets, 1.0))
    assert cross_entropy(apart, targets, 1.0) < cross_entropy(apart, targets, 0.0)
    torch.testing.assert_close(cross_entropy(apart, targets, 1.0), -torch.tensor([0.6]).double().log())


def trainer_with(zoo, tiny_config, folder, **changes):
    behaviour = dataclasses.replace(tiny_config.behaviour, **{**TERMS, **changes})
    return start(zoo, dataclasses.replace(tiny_config, behaviour=behaviour), folder)


def terms_of(trainer, model):
    seen = trainer.populations["seen"]
    kept = torch.ones(len(seen), 1, dtype=torch.bool)
    draws = NoiseDraws(torch.Generator().manual_seed(0))
    return trainer.loss.training(model, seen, kept, trainer.data.train, draws)


def test_the_total_weighs_every_term(zoo, tiny_config, tmp_path):
    trainer = trainer_with(zoo, tiny_config, tmp_path / "run")
    terms = terms_of(trainer, trainer.model)
    weights = {
        "match": tiny_config.objective.weight,
        "behaviour": tiny_config.behaviour.weight,
        "energy": 2.0,
        "straight": 1.0,
    }
    assert terms.parts.keys() == weights.keys()
    expected = sum(weight * float(terms.parts[name]) for name, weight in weights.items())
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_answers_the_same_at_all_times_has_straight_paths(zoo, tiny_config, tmp_path):
    trainer = trainer_with(zoo, tiny_config, tmp_path / "run")
    fixed = torch.ones(trainer.coordinates.layout.tokens, trainer.coordinates.layout.width)
    terms = terms_of(trainer, lambda x, t, words, present: fixed.expand_as(x))
    assert float(terms.parts["straight"]) == 0
    drifting = terms_of(trainer, lambda x, t, words, present: fixed * t.view(-1, 1, 1))
    assert float(drifting.parts["straight"]) > 0.1


def test_tasks_beyond_the_zoo_come_in_groups_whose_ensemble_counts(zoo, tiny_config, tmp_path):
    def beyond(ensemble):
        trainer = trainer_with(zoo, tiny_config, tmp_path / f"run-{ensemble}", beyond=0.5, ensemble=ensemble)
        return float(terms_of(trainer, lambda x, t, words, present: x).parts["beyond"])

    # the same networks, which are their noise: their mean probability is never worse than one of them
    assert beyond(1.0) < beyond(0.5) < beyond(0.0)


def test_a_stopped_run_with_these_terms_equals_one_that_was_not(zoo, tiny_config, tmp_path):
    trainer_with(zoo, tiny_config, tmp_path / "whole").run()
    trainer = trainer_with(zoo, tiny_config, tmp_path / "halves")

    def stop(steps, note):
        if trainer.progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    resume(zoo, tmp_path / "halves").run()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 0}, "group 0 is at least 1"),
        ({"energy": 1.0}, "set behaviour.group to 2 or more"),
        ({"group": 2}, "set behaviour.sampled above 0"),
        ({"group": 2, "sampled": 0.5, "ensemble": 1.5}, "ensemble 1.5 a share"),
    ],
)
def test_settings_that_say_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        BehaviourConfig(**changes)


def test_a_source_without_noise_learns_no_distribution():
    assert ObjectiveConfig(source=0.0, weight=0.0).source == 0
    with pytest.raises(InputError, match="no noise to learn a distribution from"):
        ObjectiveConfig(source=0.0)
