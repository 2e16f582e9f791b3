"""From a run to networks: prompts matter, seeds decide, results are plain networks."""

import json
import math

import pytest
import torch

import weightflow
from canon import checkpoint
from canon.errors import InputError, WorkError
from weightflow import datasets
from weightflow.baselines import BASELINES
from weightflow.decode import decode
from weightflow.evaluate import chance, evaluate_zoo, judge
from weightflow.export import export_zoo
from weightflow.novelty import compare_behaviour, nearest_distances, shared_distance
from weightflow.page import write_page
from weightflow.population import generate_zoo, read_prompts
from weightflow.report import make_report, open_known, table
from weightflow.sample import Flow, SampleConfig
from weightflow.text import Prompt
from weightflow.zoo.store import Zoo
from weightflow.zoo.tasks import Task


@pytest.fixture(scope="module")
def flow(run):
    return Flow(run)


@pytest.fixture(scope="module")
def known(run):
    return open_known(run)


THREE = Prompt(("three", "seven", "nine"))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_depends_on_its_seed_and_not_on_its_batch(flow):
    three = flow.sample([THREE] * 3, [5, 6, 7])
    one = flow.sample([THREE], [7])
    for name in one:
        torch.testing.assert_close(three[name][2], one[name][0], atol=1e-5, rtol=1e-5)
    assert not same({k: v[0] for k, v in three.items()}, {k: v[1] for k, v in three.items()})


def test_changing_one_word_changes_every_tensor(zoo, tiny_config, tmp_path):
    # a few steps leave the output layer near zero; here every weight of the model says something
    from weightflow.train import start

    trainer = start(zoo, tiny_config, tmp_path / "run")
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    trainer.best_average = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.save()
    changed = Flow(tmp_path / "run")
    before = changed.sample([THREE], [0])
    after = changed.sample([Prompt(("three", "seven", "two"))], [0])
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_missing_logits_stay_zero(flow):
    state = flow.sample([Prompt(("one", "two"))], [0])
    assert not state["3.weight"][0, 2:].any()
    assert not state["3.bias"][0, 2:].any()


def test_generate_gives_a_module_with_its_logits(run):
    flow = weightflow.load(run)
    module = flow.generate(["three", "seven"])
    raw = torch.rand(4, 64) * 16
    assert module(flow.prepare(raw)).shape == (4, 2)
    assert not module.training


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4", "dopri5", "ddim", "ancestral"])
def test_every_solver_and_guidance_make_finite_networks(flow, method):
    config = SampleConfig(method=method, steps=2, guidance=1.5, guidance_interval=(0.2, 0.8))
    assert all(tensor.isfinite().all() for tensor in flow.sample([THREE], [0], config).values())


def test_noise_on_the_way_is_each_networks_own(flow):
    config = SampleConfig(method="ancestral", steps=5)
    three, one = flow.sample([THREE] * 3, [5, 6, 7], config), flow.sample([THREE], [7], config)
    for name in one:
        torch.testing.assert_close(three[name][2], one[name][0], atol=1e-5, rtol=1e-5)
    words = flow.prompts([THREE])
    with pytest.raises(InputError, match="'ancestral' draws noise at every step: give 1 seeds, found 0"):
        flow.tokens(words, flow.noise([0], words.present), config)


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
        flow.sample([THREE], [0], config)
        assert len(calls) == config.evaluations


def test_guidance_needs_dropped_prompts(zoo, tiny_config, tmp_path):
    import dataclasses

    from weightflow.train import start

    start(zoo, dataclasses.replace(tiny_config, drop_prompt=0.0, steps=2), tmp_path / "run").run()
    with pytest.raises(InputError, match="was trained without dropped prompts, so it cannot be guided"):
        Flow(tmp_path / "run").sample([THREE], [0], SampleConfig(guidance=2.0))


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
        flow.sample([Prompt(("one", "two", "three", "four", "five"))], [0])


def test_generated_networks_are_a_zoo(flow, tmp_path):
    made = generate_zoo(flow, [THREE, Prompt(("one", "two"))], 3, 10, SampleConfig(), tmp_path / "nets")
    opened = Zoo(tmp_path / "nets")
    assert made["networks"] == len(opened) == 6
    assert [r.seed for r in opened.records] == [10, 11, 12] * 2
    assert opened.verify() == []
    found = evaluate_zoo(opened)
    assert [p["networks"] for p in found["prompts"]] == [3, 3]
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-6)


def test_generating_again_replaces_generated_networks_only(flow, zoo, tmp_path):
    generate_zoo(flow, [THREE], 3, 0, SampleConfig(), tmp_path / "nets")
    generate_zoo(flow, [THREE], 2, 0, SampleConfig(), tmp_path / "nets")
    assert len(Zoo(tmp_path / "nets")) == 2
    with pytest.raises(InputError, match="holds a zoo of trained networks"):
        generate_zoo(flow, [THREE], 1, 0, SampleConfig(), zoo.path)


def test_classes_the_data_set_lacks_name_the_nearest(flow, tmp_path):
    generate_zoo(flow, [Prompt(("three", "nin"))], 1, 0, SampleConfig(), tmp_path / "nets")
    with pytest.raises(InputError, match="data set 'digits' has no class 'nin'; nearest: nine"):
        evaluate_zoo(Zoo(tmp_path / "nets"))


def test_exported_files_load_with_torch_alone(flow, tmp_path):
    generate_zoo(flow, [THREE], 2, 0, SampleConfig(), tmp_path / "nets")
    paths = export_zoo(Zoo(tmp_path / "nets"), tmp_path / "files")
    found = checkpoint.read(paths[1])
    assert json.loads(found.metadata["classes"]) == ["three", "seven", "nine"]
    arguments = json.loads(found.metadata["architecture"])["arguments"]
    plain = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(arguments["inputs"], arguments["hidden"][0]),
        torch.nn.ReLU(),
        torch.nn.Linear(arguments["hidden"][0], 3),
    )
    plain.load_state_dict(found.state)
    x = datasets.load("digits").validation.inputs[:5]
    torch.testing.assert_close(plain(x), flow.generate(["three", "seven", "nine"], seed=1)(x))


@pytest.mark.parametrize(
    ("classes", "text", "message"),
    [
        (None, None, "give either --classes"),
        ("a, b", "c, d", "give either --classes"),
        (None, "\n \n", "holds no prompt"),
        (None, "a, b\nc, c\n", "names 'c' twice"),
    ],
)
def test_prompt_sources_are_checked(tmp_path, classes, text, message):
    path = None
    if text is not None:
        path = tmp_path / "prompts.txt"
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(classes, path)


def test_every_baseline_answers_every_prompt(known):
    tasks = [known.zoo.records[i].task for i in known.zoo.rows("unseen_combinations")]
    for name, make in BASELINES.items():
        state = make(known, tasks, 0)
        assert {n: tuple(t.shape[1:]) for n, t in state.items()} == known.zoo.architecture.shapes, name
        assert all(len(t) == len(tasks) and t.isfinite().all() for t in state.values()), name


def test_retrieval_finds_the_very_network_for_a_prompt_it_knows(known):
    for name in ("nearest_prompt", "nearest_rows"):
        found = BASELINES[name](known, known.tasks[:10], 0)
        accuracy = judge(known.zoo.architecture, found, known.tasks[:10]).accuracy
        own = {k: v[:10] for k, v in known.state.items()}
        expected = judge(known.zoo.architecture, own, known.tasks[:10]).accuracy
        assert float(accuracy.mean()) >= float(expected.mean()) - 0.05


def test_copies_have_no_distance_and_other_networks_do(known):
    copies = nearest_distances(known, known.state, known.tasks)
    assert float(copies.ratios.max()) < 0.02
    rows = known.zoo.rows("unseen_combinations")
    others = nearest_distances(known, known.zoo.load(rows), [known.zoo.records[i].task for i in rows])
    assert 0.7 < float(others.ratios.mean()) < 1.5


def test_shared_distance_leaves_out_what_one_side_lacks():
    a, used_a = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    b, used_b = torch.tensor([[1.0, 5.0, 4.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    assert float(shared_distance(a, used_a, b, used_b)) == pytest.approx(math.sqrt(9 / 2))


def test_a_population_compared_with_itself_leaves_each_network_out(known):
    tasks = [Task("digits", ("one", "two"))] * 2
    state = {name: tensor[[0, 0]] for name, tensor in known.state.items()}
    judged = judge(known.zoo.architecture, state, tasks)
    twins = compare_behaviour(judged, tasks, judged, tasks)
    assert (twins.wrong_iou, twins.disagreement) == (1.0, 0.0)
    alone = [Task("digits", ("one", "two")), Task("digits", ("one", "three"))]
    judged = judge(known.zoo.architecture, state, alone)
    assert compare_behaviour(judged, alone, judged, alone).wrong_iou is None


def test_chance_is_one_over_the_number_of_classes():
    assert chance([Task("digits", ("a", "b")), Task("digits", ("a", "b", "c", "d"))]) == 0.375


def test_the_report_has_the_keys_that_other_programs_rely_on(run, tmp_path):
    report = make_report(run, limit=6)
    assert {"zoo", "splits", "novelty", "speed", "environment"} <= report.keys()
    assert report["zoo"].keys() == {"count", "architecture", "accuracy"}
    assert report["splits"].keys() >= {"seen", "unseen_combinations", "unseen_classes"}
    for split in ("seen", "unseen_combinations"):
        figures = report["splits"][split]
        assert figures.keys() == {"tasks", "networks", "accuracy", "trained", "chance", "baselines"}
        assert figures["baselines"].keys() == BASELINES.keys()
        assert 0 <= figures["accuracy"]["mean"] <= 1
    assert report["splits"]["unseen_classes"] is None
    assert report["splits"]["unseen_classes_reason"]
    assert report["novelty"].keys() >= {
        "nearest_distance_ratio",
        "max_wrong_iou",
        "rms_ratio",
        "functional_disagreement",
    }
    assert report["speed"].keys() >= {
        "sample_seconds",
        "networks_per_second",
        "evaluations_per_network",
        "decode_seconds",
    }
    assert report["environment"].keys() >= {"torch", "device", "threads", "commit", "seed"}
    assert len(table(report)) == 4 + len(BASELINES)
    write_page(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page


def test_a_report_needs_the_zoo_it_was_trained_on(zoo, tiny_config, tmp_path):
    import dataclasses
    import shutil

    from weightflow.train import start

    shutil.copytree(zoo.path, tmp_path / "zoo")
    start(Zoo(tmp_path / "zoo"), dataclasses.replace(tiny_config, steps=2), tmp_path / "run").run()
    manifest = tmp_path / "zoo" / "zoo.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"lineage": "independent"', '"lineage": "branched"'))
    with pytest.raises(InputError, match="has changed since"):
        make_report(tmp_path / "run")
    shutil.rmtree(tmp_path / "zoo")
    with pytest.raises(InputError, match="is no longer at"):
        make_report(tmp_path / "run")
