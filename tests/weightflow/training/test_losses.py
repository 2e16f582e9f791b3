"""The terms that only training has: what each measures, and that all of them resume bit for bit."""

import dataclasses
import math

import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.flow.draws import NoiseDraws
from weightflow.text import load_encoder
from weightflow.training.adversarial import Adversary, AdversaryConfig
from weightflow.training.augmentation import AugmentConfig
from weightflow.training.functional_loss import BehaviourConfig, FunctionalLoss
from weightflow.training.trainer import resume, start
from weightflow.training.unseen_tasks import UnseenTasks

from .test_trainer import assert_same_run, finished_tensors


@pytest.fixture
def every_term(tiny_config):
    return dataclasses.replace(
        tiny_config,
        augment=AugmentConfig(permute_units=True, permute_classes=True, equivariance=0.5),
        adversary=AdversaryConfig(weight=0.1, widths=(8, 4)),
        behaviour=BehaviourConfig(images=8, mix=0.3, beyond=0.5, beyond_steps=3),
        average_decay=0.9,
    )


def test_with_every_term_a_stopped_run_equals_one_that_was_not(zoo, every_term, tmp_path):
    start(zoo, every_term, tmp_path / "whole").run()
    trainer = start(zoo, every_term, tmp_path / "halves")

    def stop(steps, note):
        if trainer.progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    resume(zoo, tmp_path / "halves").run()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    kept = finished_tensors(tmp_path / "whole")
    assert {name.split(".")[1] for name in kept if name.startswith("adversary.")} == {"model", "optimizer"}


def terms_of(trainer, model=None):
    seen = trainer.populations["seen"]
    kept = torch.ones(len(seen), 1, dtype=torch.bool)
    draws = NoiseDraws(torch.Generator().manual_seed(0))
    return trainer.loss.training(model or trainer.model, seen, kept, trainer.data.train, draws)


def test_the_total_is_the_weighted_sum_of_the_terms(zoo, every_term, tmp_path):
    terms = terms_of(start(zoo, every_term, tmp_path / "run"))
    weights = {"match": 1, "behaviour": 0.3, "adversary": 0.1, "equivariance": 0.5, "beyond": 0.15}
    assert terms.parts.keys() == weights.keys()
    expected = sum(weight * float(terms.parts[name]) for name, weight in weights.items())
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_equivariance_term_vanishes_for_an_equivariant_model_alone(zoo, every_term, tmp_path):
    trainer = start(zoo, every_term, tmp_path / "run")
    alike = terms_of(trainer, lambda x_t, t, vectors, present: 0.5 * x_t)
    assert float(alike.parts["equivariance"]) < 1e-10
    tokens = trainer.populations["seen"].z.shape[1]
    place = torch.arange(tokens).reshape(1, -1, 1)
    apart = terms_of(trainer, lambda x_t, t, vectors, present: x_t * place)
    assert float(apart.parts["equivariance"]) > 0.1


def test_the_adversary_learns_to_tell_two_populations_apart():
    generator = torch.Generator().manual_seed(0)
    entries = torch.tensor([[True, True], [True, False]])
    adversary = Adversary(AdversaryConfig(weight=1.0, widths=(16, 8), learning_rate=1e-2), entries, seed=0)
    real, made = torch.randn(64, 2, 2, generator=generator) + 2, torch.randn(64, 2, 2, generator=generator)
    first = adversary.train_step(real, made)
    assert first == pytest.approx(math.log(2), abs=0.3)
    for _ in range(100):
        last = adversary.train_step(real, made)
    assert last < 0.3 * first
    assert adversary.loss(real).item() < adversary.loss(made).item()
    # an entry that networks do not have cannot give them away
    other = real.clone()
    other[:, 1, 1] = 99.0
    assert torch.equal(adversary.loss(other), adversary.loss(real))


def test_the_adversary_is_not_there_where_it_weighs_nothing(run):
    assert not [name for name in finished_tensors(run) if name.startswith("adversary")]


def test_training_examples_are_mixed_with_others_of_their_task_and_validation_examples_are_not(
    zoo, tiny_config, tmp_path
):
    trainer = start(zoo, tiny_config, tmp_path / "run")
    labels, data = trainer.populations["seen"].labels[:3], trainer.data

    def drawn(mix, split):
        behaviour = FunctionalLoss(trainer.coordinates, data, 16, mix)
        return behaviour.examples(labels, split, NoiseDraws(torch.Generator().manual_seed(0)))

    (targets, own), (mixed_targets, mixed) = drawn(0.0, data.train), drawn(0.4, data.train)
    assert torch.equal(targets, mixed_targets)
    # on the way to an example of the same task, less than half of it
    moved, way = (mixed - own).unsqueeze(2), own.unsqueeze(1) - own.unsqueeze(2)
    share = (moved * way).sum(-1) / way.square().sum(-1).clamp(min=1e-9)
    error = (moved - share.unsqueeze(-1) * way).norm(dim=-1)
    reached = (error < 1e-4) & (share >= -1e-4) & (share <= 0.4)
    assert reached.any(2).all()
    assert (mixed != own).any(-1).float().mean() > 0.5
    torch.testing.assert_close(drawn(0.4, data.validation), drawn(0.0, data.validation))


def test_tasks_beyond_the_zoo_hold_out_what_the_zoo_holds_out(zoo):
    data, encoder = datasets.load(zoo.dataset), load_encoder("wordllama")
    beyond = UnseenTasks(zoo, data, encoder)
    prompts, labels, _ = beyond.draw(300, NoiseDraws(torch.Generator().manual_seed(0)))
    in_order = labels.where(labels >= 0, labels.max() + 1).argsort(dim=1, stable=True)
    drawn = [row[: int(here.sum())].tolist() for row, here in zip(in_order, prompts.present, strict=True)]
    held_out = {frozenset(data.class_index(r.classes)) for r in zoo.records if r.split != "seen"}
    assert held_out.isdisjoint(frozenset(d) for d in drawn)
    seen = {frozenset(data.class_index(r.classes)) for r in zoo.records if r.split == "seen"}
    assert any(frozenset(d) not in seen for d in drawn)
    assert {len(d) for d in drawn} == {len(r.classes) for r in zoo.records if r.split == "seen"}
    names = [data.class_names[label] for label in drawn[0]]
    torch.testing.assert_close(prompts.vectors[0, : len(names)], encoder.encode(names))


def test_invented_classes_are_means_of_two_known_ones_in_words_and_examples(zoo, tiny_config, tmp_path):
    trainer = start(zoo, tiny_config, tmp_path / "run")
    data, encoder = trainer.data, load_encoder("wordllama")
    beyond = UnseenTasks(zoo, data, encoder, invented=0.5)
    prompts, labels, partners = beyond.draw(40, NoiseDraws(torch.Generator().manual_seed(0)))
    again = beyond.draw(40, NoiseDraws(torch.Generator().manual_seed(0)))
    assert torch.equal(prompts.vectors, again[0].vectors)
    assert torch.equal(partners.label, again[2].label)
    invented = partners.label >= 0
    assert 0.4 < invented.sum() / (labels >= 0).sum() < 0.6
    assert (labels[invented] >= 0).all()  # every invented class has a place in its task
    assert (partners.share[invented] >= 0.3).all()
    assert (partners.share <= 0.7).all()
    # a partner has no place in the task and belongs to one class alone
    assert (labels.gather(1, partners.label.clamp(min=0))[invented] < 0).all()
    for row in partners.label:
        used = row[row >= 0].tolist()
        assert len(used) == len(set(used))
    vectors = encoder.encode(list(data.class_names))
    row, label = torch.nonzero(invented)[0].tolist()
    mean = vectors[label].lerp(vectors[partners.label[row, label]], partners.share[row, label])
    made = prompts.vectors[row, labels[row, label]]
    torch.testing.assert_close(torch.cosine_similarity(made, mean, dim=0), torch.tensor(1.0))
    torch.testing.assert_close(made.norm(), vectors[label].norm(), rtol=1e-3, atol=1e-3)

    behaviour = FunctionalLoss(trainer.coordinates, data, 16)
    draws = [NoiseDraws(torch.Generator().manual_seed(1)) for _ in range(2)]
    targets, mixed = behaviour.examples(labels, data.train, draws[0], partners)
    same, own = behaviour.examples(labels, data.train, draws[1])
    assert torch.equal(targets, same)
    by_target = partners.share.new_zeros(40, prompts.present.shape[1])
    by_target.scatter_add_(1, labels.clamp(min=0), partners.share)
    share = by_target.gather(1, targets)
    assert torch.equal(mixed[share == 0], own[share == 0])
    other = own + (mixed - own) / share.clamp(min=0.1).unsqueeze(-1)  # the partner's example
    examples = data.train.inputs[torch.arange(len(data.train.labels))]
    distance = torch.cdist(other[share > 0], examples)
    found = data.train.labels[distance.argmin(1)]
    assert distance.min(1).values.max() < 0.1
    rows, places = torch.nonzero(share > 0).T
    expected = [
        int(partners.label[r][labels[r] == t].max()) for r, t in zip(rows, targets[rows, places], strict=True)
    ]
    assert found.tolist() == expected


def test_averaged_weights_may_keep_a_fixed_part_of_themselves(zoo, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, average_decay=0.75, steps=1)
    trainer = start(zoo, config, tmp_path / "run")
    before = trainer.average.state_dict()["positions"].clone()
    trainer.run()
    after = trainer.model.state_dict()["positions"]
    torch.testing.assert_close(trainer.average.state_dict()["positions"], 0.75 * before + 0.25 * after)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BehaviourConfig(weight=0.0, beyond=0.5), "behaviour.beyond needs behaviour"),
        (lambda: BehaviourConfig(beyond_steps=0), "beyond_steps 0 at least 1"),
        (lambda: BehaviourConfig(mix=0.6), "behaviour.mix is 0.6; it is a share from 0 to 0.5"),
        (lambda: AdversaryConfig(weight=-1.0), "weight -1.0 must not be negative"),
        (lambda: AugmentConfig(equivariance=-1.0), "'augment.equivariance' is -1.0"),
    ],
)
def test_settings_out_of_range_are_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()
