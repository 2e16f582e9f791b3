"""From a run to networks: prompts matter, seeds decide, results are plain networks."""

import math

import pytest
import torch

import weightflow
from canon.errors import InputError, WorkError
from weightflow import datasets
from weightflow.evaluation.population import evaluate_zoo
from weightflow.generator.decode import decode
from weightflow.generator.generator import Flow, SampleConfig
from weightflow.generator.populations import generate_zoo
from weightflow.text import Prompt
from weightflow.training import run_store as runs
from weightflow.zoo.store import Zoo


@pytest.fixture(scope="module")
def flow(run):
    return Flow(run)


THREE = Prompt(("three", "seven", "nine"))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_depends_on_its_seed_and_not_on_its_batch(flow):
    three = flow.sample_states([THREE] * 3, [5, 6, 7])
    one = flow.sample_states([THREE], [7])
    for name in one:
        torch.testing.assert_close(three[name][2], one[name][0], atol=1e-5, rtol=1e-5)
    assert not same({k: v[0] for k, v in three.items()}, {k: v[1] for k, v in three.items()})


def test_changing_one_word_changes_every_tensor(zoo, tiny_config, tmp_path):
    # a few steps leave the output layer near zero; here every weight of the model says something
    from weightflow.training.trainer import start

    trainer = start(zoo, tiny_config, tmp_path / "run")
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    trainer.average.load_state_dict(trainer.model.state_dict())
    trainer.progress.step = 1
    trainer.save()
    changed = Flow(tmp_path / "run")
    before = changed.sample_states([THREE], [0])
    after = changed.sample_states([Prompt(("three", "seven", "two"))], [0])
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_missing_logits_stay_zero(flow):
    state = flow.sample_states([Prompt(("one", "two"))], [0])
    assert not state["3.weight"][0, 2:].any()
    assert not state["3.bias"][0, 2:].any()


def test_generate_gives_a_module_with_its_logits(run):
    flow = weightflow.load(run)
    module = flow.generate(["three", "seven"])
    raw = torch.rand(4, 64) * 16
    prepared = datasets.load("digits").preprocessing(raw)
    assert torch.equal(module(raw), module.network(prepared))
    assert module(raw).shape == (4, 2)
    assert set(module.name(raw)) <= {"three", "seven"}
    assert not module.training


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4", "dopri5", "ddim", "ancestral"])
def test_every_solver_and_guidance_make_finite_networks(flow, method):
    config = SampleConfig(method=method, steps=2, guidance=1.5, guidance_interval=(0.2, 0.8))
    assert all(tensor.isfinite().all() for tensor in flow.sample_states([THREE], [0], config).values())


def test_noise_on_the_way_is_each_networks_own(flow):
    config = SampleConfig(method="ancestral", steps=5)
    three, one = flow.sample_states([THREE] * 3, [5, 6, 7], config), flow.sample_states([THREE], [7], config)
    for name in one:
        torch.testing.assert_close(three[name][2], one[name][0], atol=1e-5, rtol=1e-5)
    words = flow.prompts([THREE])
    with pytest.raises(InputError, match="'ancestral' draws noise at every step: give 1 seeds, found 0"):
        flow.tokens(words, flow.noise([0], words.present), config)


def test_noise_is_the_same_drawn_side_by_side(flow, monkeypatch):
    present = flow.prompts([THREE] * 5).present
    expected = flow.noise(range(5), present)
    monkeypatch.setattr("weightflow.generator.generator.PART", 1)
    assert torch.equal(flow.noise(range(5), present), expected)


@pytest.mark.parametrize("classes", ["three, other", "three, rest = other", "odd = one or three, seven"])
def test_a_run_of_single_classes_makes_none_of_several(run, classes):
    with pytest.raises(
        InputError, match="is made of several classes, and this run was trained on single classes"
    ):
        weightflow.load(run).sample(classes)


def test_a_run_says_how_it_is_sampled(flow):
    words = flow.prompts([THREE])
    noise = flow.noise([0], words.present)
    assert torch.equal(flow.tokens(words, noise), flow.tokens(words, noise, flow.header.config.sample))


def test_every_solver_agrees_where_steps_are_many(flow):
    words, seeds = flow.prompts([THREE]), [0]
    noise = flow.noise(seeds, words.present)
    ends = {
        method: flow.tokens(words, noise, SampleConfig(method=method, steps=steps))
        for method, steps in (("euler", 200), ("heun", 200), ("rk4", 200))
    }
    torch.testing.assert_close(ends["heun"], ends["rk4"], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(ends["euler"], ends["rk4"], atol=2e-2, rtol=5e-2)


def test_evaluations_are_counted(flow, monkeypatch):
    calls = []
    forward = flow.model.forward
    monkeypatch.setattr(flow.model, "forward", lambda *a: calls.append(1) or forward(*a))
    for config in (
        SampleConfig(),
        SampleConfig(method="heun", steps=3),
        SampleConfig(method="rk4", steps=2, guidance=2.0),
        SampleConfig(method="ddim", steps=6),
        SampleConfig(method="rk4", steps=3, jump=False),
    ):
        calls.clear()
        flow.sample_states([THREE], [0], config)
        assert len(calls) == config.evaluations


def test_guidance_needs_dropped_prompts(zoo, tiny_config, tmp_path):
    import dataclasses

    from weightflow.training.trainer import start

    start(zoo, dataclasses.replace(tiny_config, drop_prompt=0.0, steps=2), tmp_path / "run").run()
    with pytest.raises(InputError, match="was trained without dropped prompts, so it cannot be guided"):
        Flow(tmp_path / "run").sample_states([THREE], [0], SampleConfig(guidance=2.0))


def test_networks_that_are_not_finite_are_not_handed_out(flow):
    words = flow.prompts([THREE])
    z = torch.full((1, flow.header.layout.tokens, flow.header.layout.width), math.nan)
    with pytest.raises(WorkError, match="1 of 1 generated networks are not finite"):
        decode(flow.coordinates, z, words)


def test_a_class_that_was_never_seen_has_a_nearest_one(flow):
    near = flow.neighbours(Prompt(("seven", "seventh")))
    assert (near[0].nearest, round(near[0].cosine, 3)) == ("seven", 1.0)
    assert near[1].nearest == "seven"
    assert near[1].cosine < 0.99


def test_too_many_classes_name_the_limit(flow):
    with pytest.raises(InputError, match="names 5 classes; this run was built for 4 at most"):
        flow.sample_states([Prompt(("one", "two", "three", "four", "five"))], [0])


def test_generated_networks_are_a_zoo(flow, tmp_path):
    both = [THREE, Prompt(("one", "two"))]
    made = list(generate_zoo(flow, both, 3, 10, SampleConfig(), tmp_path / "nets"))
    opened = Zoo(tmp_path / "nets")
    assert [id for m in made for id in m.ids] == [r.id for r in opened.records]
    assert len(opened) == 6
    assert [r.seed for r in opened.records] == [10, 11, 12] * 2
    assert opened.verify() == []
    found = evaluate_zoo(opened)
    assert [p["networks"] for p in found["prompts"]] == [3, 3]
    data = datasets.load("digits")
    counts = data.test.open_for_evaluation().labels.bincount()
    own = [counts[data.class_index(prompt.classes)].double() for prompt in both]
    shares = [float(n.max() / n.sum()) for n in own]
    assert found["chance"] == pytest.approx(sum(shares) / 2, abs=1e-6)


def test_generating_again_replaces_generated_networks_only(flow, zoo, tmp_path):
    list(generate_zoo(flow, [THREE], 3, 0, SampleConfig(), tmp_path / "nets"))
    list(generate_zoo(flow, [THREE], 2, 0, SampleConfig(), tmp_path / "nets"))
    assert len(Zoo(tmp_path / "nets")) == 2
    with pytest.raises(InputError, match="holds a zoo of trained networks"):
        list(generate_zoo(flow, [THREE], 1, 0, SampleConfig(), zoo.path))


def test_classes_the_data_set_lacks_name_the_nearest(flow, tmp_path):
    list(generate_zoo(flow, [Prompt(("three", "nin"))], 1, 0, SampleConfig(), tmp_path / "nets"))
    with pytest.raises(InputError, match="data set 'digits' has no class 'nin'; nearest: nine"):
        evaluate_zoo(Zoo(tmp_path / "nets"))


def test_without_noise_every_seed_gives_one_network_and_with_less_they_are_nearer(flow):
    prompts = [Prompt(("zero", "one"))] * 2

    def apart(noise):
        state = flow.sample_states(prompts, [0, 1], SampleConfig(noise=noise))
        return float((state["1.weight"][0] - state["1.weight"][1]).norm())

    assert apart(0.0) == 0
    assert 0 < apart(0.5) < apart(1.0)
    with pytest.raises(InputError, match="noise is -1"):
        SampleConfig(noise=-1.0)


def test_a_run_that_has_not_taken_a_step_is_refused(zoo, tiny_config, tmp_path):
    from weightflow.training.trainer import start

    folder = tmp_path / "run"
    trainer = start(zoo, tiny_config, folder)
    with pytest.raises(InputError, match="has no checkpoint yet; go on with: weightflow"):
        Flow(folder)
    weights = trainer.model.state_dict()  # earlier releases wrote a checkpoint of step 0
    runs.write_checkpoint(folder, weights, weights, trainer.coordinates, trainer.frame, 0, 0)
    with pytest.raises(
        InputError, match="has not trained: its weights are those of step 0; go on with: weightflow"
    ):
        Flow(folder)
    trainer.run(stop=lambda: True)
    flow = Flow(tmp_path / "run")
    flow.save_pretrained(tmp_path / "saved")
    assert Flow(tmp_path / "saved").trained == flow.trained == 1
    assert "in 1 of 12 steps" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


def test_a_seed_of_twenty_digits_is_refused(flow):
    with pytest.raises(InputError, match="seed is 99999999999999999999"):
        flow.sample("one, two", seed=99999999999999999999)


def test_large_and_small_letters_name_one_class(flow):
    assert flow.sample("One, TWO").tasks[0].classes == ("one", "two")
