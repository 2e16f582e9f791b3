"""Anchors: the closed form from words to rows, and a flow of what is left."""

import pytest
import torch

from canon.errors import InputError
from tests.weightflow.training.test_trainer import assert_same_run
from weightflow import datasets
from weightflow.batched.inference import forward_many
from weightflow.generator.generator import Flow
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt, PromptBatch
from weightflow.training.presets import read_preset
from weightflow.training.trainer import resume, start
from weightflow.zero_shot import AnchorConfig
from weightflow.zero_shot.features import LastLayer, features, known_labels, mean_network, mean_rows
from weightflow.zero_shot.module import of_classes
from weightflow.zero_shot.regression import Regression, Settings, Statistics

EXACT = Settings(sharpness=1.0, ridge=1e-9, floor=0.0)


@pytest.fixture
def world():
    """Thirty classes whose mean features are a linear image of their vectors; one covariance for all."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 6, generator=generator)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    means = 4 * vectors @ torch.randn(6, 5, generator=generator)
    factor = torch.randn(5, 5, generator=generator) / 2 + torch.eye(5)
    return Statistics.of(vectors, means, factor @ factor.T)


@pytest.fixture(scope="module")
def config():
    from tests.population import TINY_RUN

    return read_preset("weightflow", {**TINY_RUN, "anchors": {"kind": "regression"}})


@pytest.fixture(scope="module")
def anchored(zoo, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchored") / "run"
    trainer = start(zoo, config, folder)
    trainer.run()
    return trainer


def test_rows_of_known_classes_are_the_discriminant_of_their_gaussians(world):
    """Differences of logits are differences of Gaussian log-densities."""
    rows = Regression.fit(world, EXACT).rows(world.vectors)
    covariance = (world.basis * world.variances) @ world.basis.T
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    logits = x @ rows[:, :-1].T + rows[:, -1]
    densities = torch.stack(
        [torch.distributions.MultivariateNormal(m, covariance).log_prob(x) for m in world.means], dim=1
    )
    torch.testing.assert_close(logits - logits[:, :1], densities - densities[:, :1], rtol=1e-3, atol=1e-2)


def test_classes_never_seen_are_told_apart_from_their_vectors(world):
    new = torch.arange(30) < 5
    rows = Regression.fit(world.without(new), Settings(0.25, 0.001, 0.0)).rows(world.vectors[new])
    factor = world.basis * world.variances.sqrt()
    noise = torch.randn(200, 5, 5, generator=torch.Generator().manual_seed(2)) @ factor.T
    images = world.means[new] + noise
    bayes = Regression.fit(world, EXACT).rows(world.vectors[new])

    def accuracy(rows):
        guessed = (images @ rows[:, :-1].T + rows[:, -1]).argmax(-1)
        return float((guessed == torch.arange(5)).float().mean())

    assert accuracy(rows) > accuracy(bayes) - 0.1
    assert accuracy(rows) > accuracy(rows.roll(1, 0)) + 0.4


def test_features_are_what_the_last_layer_sees(zoo):
    data, rows = datasets.load(zoo.dataset), torch.arange(5)
    state = mean_network(zoo, zoo.rows("seen"))
    last = LastLayer.of(zoo.architecture)
    found = features(zoo.architecture, state, data.train, rows)
    stacked = {name: tensor.unsqueeze(0) for name, tensor in state.items()}
    logits = forward_many(zoo.architecture)(stacked, data.train.inputs[rows].unsqueeze(0))[0]
    torch.testing.assert_close(found @ state[last.weight].T + state[last.bias], logits)


def test_a_known_class_is_anchored_at_its_mean_row(zoo, anchored):
    data = datasets.load(zoo.dataset)
    known = known_labels(zoo, data)
    vectors = Flow(anchored.folder).encoder.encode([data.class_names[i] for i in known.tolist()])
    rows = mean_rows(zoo, data, known)
    torch.testing.assert_close(anchored.model.anchors.rows(vectors), rows, rtol=1e-3, atol=1e-3)


def test_the_row_of_a_class_that_nobody_has_seen_is_its_anchor(anchored):
    flow, generator = Flow(anchored.folder), torch.Generator().manual_seed(0)
    words = flow.prompts([Prompt(("three", "eight"))] * 2)
    vectors = words.vectors.clone()
    vectors[:, 1] = torch.randn(flow.encoder.width, generator=generator)
    prompts = PromptBatch(vectors, words.present)
    z = flow.tokens(prompts, flow.noise([0, 1], words.present), seeds=[0, 1])
    rows = of_classes(flow.coordinates.layout, z[0]), of_classes(flow.coordinates.layout, z[1])
    anchors = flow.model.anchors(vectors)[0][0]
    torch.testing.assert_close(rows[0][1], anchors[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows[1][1], anchors[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(rows[0][0], rows[1][0])


def test_a_run_about_anchors_resumes_bit_for_bit(zoo, anchored, config, tmp_path):
    trainer = start(zoo, config, tmp_path / "run")

    def stop(steps, note):
        if trainer.progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    resume(zoo, tmp_path / "run").run()
    assert_same_run(tmp_path / "run", anchored.folder)


def test_samples_differ_by_seed_and_answer_the_prompt(anchored):
    flow = Flow(anchored.folder)
    data = datasets.load(flow.header.zoo.dataset)
    one, other = (flow.generate("three, eight, five", seed=seed) for seed in (0, 1))
    inputs = data.validation.inputs[torch.isin(data.validation.labels, torch.tensor([3, 8]))]
    assert not torch.equal(one(inputs), other(inputs))
    back = flow.generate("eight, three, five", seed=0)
    assert not torch.equal(one(inputs)[:, 0], back(inputs)[:, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "units"}, "set layout=rows, or anchors.kind=none"),
        ({"objective": {"predict": "velocity"}}, "set objective.predict=clean"),
        ({"augment": {"equivariance": 0.1}}, "set augment.equivariance=0"),
    ],
)
def test_what_anchors_need_is_said(zoo, tmp_path, changes, message):
    config = read_preset("weightflow", {"anchors": {"kind": "regression"}, **changes})
    with pytest.raises(InputError, match=message):
        start(zoo, config, tmp_path / "run")


def test_an_architecture_without_class_rows_has_no_anchors():
    adapter = Architecture("adapter", {"inputs": 4, "hidden": 2}, (4,), 3)
    with pytest.raises(InputError, match="'adapter' does not have: set anchors.kind=none"):
        LastLayer.of(adapter)


def test_unknown_anchors_are_refused():
    with pytest.raises(InputError, match="no anchors are called 'magic'"):
        AnchorConfig("magic")
