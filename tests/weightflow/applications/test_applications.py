"""Enhancing, fusing, transferring, and networks as files."""

import json

import pytest
import torch

from canon.actions import permutation as perm
from canon.cli import console
from canon.errors import InputError
from weightflow import datasets
from weightflow.applications.enhance import enhance
from weightflow.applications.fuse import fuse, union, union_of
from weightflow.applications.strength_sweep import StrengthResult, best
from weightflow.applications.transfer import few_examples, random_starts, starts_of, transfer
from weightflow.applications.weight_averages import AVERAGES
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.inference import forward_many
from weightflow.batched.tasks import Task
from weightflow.cli.main import app
from weightflow.evaluation.evaluate import evaluate_jointly, evaluate_networks
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow
from weightflow.networks.architectures import Architecture
from weightflow.text import Prompt
from weightflow.training.trainer import start
from weightflow.zoo.network_file import Network, read_network, write_network


@pytest.fixture(scope="module")
def flow(run):
    return Flow(run)


def network(zoo, row):
    record = zoo.records[row]
    state = {name: tensor[:1] for name, tensor in zoo.load([row]).items()}
    return Network(state, Prompt(record.classes), record.dataset)


def test_a_network_survives_its_file(flow, zoo, tmp_path):
    given = network(zoo, 0)
    path, classes = tmp_path / "n.safetensors", given.prompt.classes
    write_network(path, zoo.architecture, given.state, classes)
    found = read_network(path, zoo.architecture, "digits")
    assert found.prompt == given.prompt
    assert all(torch.equal(found.state[name], given.state[name]) for name in given.state)


def test_a_file_without_classes_asks_for_them(flow, zoo, tmp_path):
    path = tmp_path / "n.pt"
    torch.save(zoo.network(0), path)
    with pytest.raises(
        InputError, match="does not say which classes it tells apart; give them with --classes"
    ):
        read_network(path, zoo.architecture, "digits")
    read_network(path, zoo.architecture, "digits", Prompt(zoo.records[0].classes))


def test_another_architecture_names_what_differs(zoo, tmp_path):
    path = tmp_path / "n.pt"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).state_dict(), path)
    with pytest.raises(
        InputError, match=r"1.weight is \(5, 64\), expected \(12, 64\); .*3.weight is missing"
    ):
        read_network(path, zoo.architecture, "digits", Prompt(("one", "two")))


@pytest.mark.parametrize("value", [1e30, 1e38])
def test_weights_that_overflow_in_the_generator_are_refused(value, flow, zoo, tmp_path, run, capsys):
    given = network(zoo, 0)
    path, out = tmp_path / "n.safetensors", tmp_path / "out.safetensors"
    state = {name: torch.full_like(tensor, value) for name, tensor in given.state.items()}
    write_network(path, zoo.architecture, state, given.prompt.classes)
    command = ["enhance", str(path), "--run", str(run), "--out", str(out)]
    assert console.run_cli(app, command, name="weightflow") == 2
    assert "standard deviations of the zoo's from their mean" in capsys.readouterr().err
    assert not out.exists()


def test_strength_runs_from_as_it_is_to_made_anew(flow, zoo):
    given = network(zoo, 0)
    same = enhance(flow, given.state, [given.task], 0.0, [0])
    assert all(torch.equal(same[name], given.state[name]) for name in same)
    anew = enhance(flow, given.state, [given.task], 1.0, [0])
    sampled = flow.sample_states([given.prompt], [0], SampleConfig())
    for name in anew:
        torch.testing.assert_close(anew[name], sampled[name])
    for strength in (-0.1, 1.1):
        with pytest.raises(InputError, match="it is a share from 0"):
            enhance(flow, given.state, [given.task], strength, [0])


def test_the_order_of_a_networks_units_does_not_matter(flow, zoo):
    given, spec = network(zoo, 1), zoo.architecture.spec
    shuffled = perm.apply(spec, perm.random(spec, torch.Generator().manual_seed(0), (1,)), given.state)
    one, other = (enhance(flow, state, [given.task], 0.4, [0]) for state in (given.state, shuffled))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_a_run_without_frame_cannot_place_other_networks(raw_zoo, tiny_config, tmp_path):
    start(raw_zoo, tiny_config, tmp_path / "run").run(stop=lambda: True)
    given = network(raw_zoo, 0)
    with pytest.raises(InputError, match="was trained on a zoo that is not canonical"):
        enhance(Flow(tmp_path / "run"), given.state, [given.task], 0.5, [0])


def disjoint(zoo):
    rows = [i for i, r in enumerate(zoo.records) if len(r.classes) == 2]
    a = network(zoo, rows[0])
    b = next(n for n in (network(zoo, i) for i in rows) if not set(n.prompt.classes) & set(a.prompt.classes))
    return a, b


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_take_each_row_from_who_knows_the_class(flow, zoo, name):
    average, (a, b) = AVERAGES[name], disjoint(zoo)
    both = average(flow, [a, b], union_of(flow, [a, b]))
    alone = average(flow, [a, a], a.task)
    torch.testing.assert_close(both["3.bias"][0, :2], alone["3.bias"][0, :2])
    twice = average(flow, [a, a, a], a.task)
    for key in twice:
        torch.testing.assert_close(twice[key], alone[key])


@pytest.mark.parametrize("name", ["git_rebasin_average", "average_in_frame"])
def test_alignment_undoes_an_order_of_units(flow, zoo, name):
    given, spec = network(zoo, 1), zoo.architecture.spec
    shuffled = perm.apply(spec, perm.random(spec, torch.Generator().manual_seed(0), (1,)), given.state)
    other = Network(shuffled, given.prompt, given.dataset)
    assert same_function(zoo, AVERAGES[name](flow, [given, other], given.task), given)
    assert not same_function(zoo, AVERAGES["straight_average"](flow, [given, other], given.task), given)


def same_function(zoo, state, given):
    x = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0))
    forward = forward_many(zoo.architecture)
    return torch.allclose(forward(state, x), forward(given.state, x), atol=1e-4)


def test_fusing_starts_from_the_average_and_ends_at_the_words(flow, zoo):
    a, b = disjoint(zoo)
    task = union_of(flow, [a, b])
    assert task.classes == (*a.prompt.classes, *b.prompt.classes)
    at_0, average = fuse(flow, [a, b], 0.0), AVERAGES["average_in_frame"](flow, [a, b], task)
    words, at_1 = flow.sample_states([Prompt(task.classes)], [0]), fuse(flow, [a, b], 1.0)
    for name in average:
        torch.testing.assert_close(at_0[name], average[name])
        torch.testing.assert_close(at_1[name], words[name])


def test_together_each_class_is_judged_by_who_knows_it(zoo):
    a = network(zoo, 0)
    alone = evaluate_jointly(zoo.architecture, [(a.state, a.task)], a.task)
    assert alone == pytest.approx(
        float(evaluate_networks(zoo.architecture, a.state, [a.task]).accuracy), abs=1e-6
    )
    assert evaluate_jointly(zoo.architecture, [(a.state, a.task)] * 3, a.task) == alone
    one, other = disjoint(zoo)
    task = Task("digits", union(one.prompt.classes, other.prompt.classes))
    both = evaluate_jointly(zoo.architecture, [(n.state, n.task) for n in (one, other)], task)
    single = evaluate_jointly(zoo.architecture, [(one.state, one.task)], task)
    assert single < 0.75
    assert both > single


def test_a_union_keeps_order_and_names_each_class_once():
    assert union(("a", "b"), ("c", "b", "d")) == ("a", "b", "c", "d")


def test_a_union_beyond_the_run_is_refused(flow, zoo):
    rows = [i for i, r in enumerate(zoo.records) if len(r.classes) == 4]
    a = network(zoo, rows[0])
    b = next(n for n in (network(zoo, i) for i in rows) if set(n.prompt.classes) != set(a.prompt.classes))
    with pytest.raises(InputError, match=r"the union has \d classes; this run was built for 4 at most"):
        fuse(flow, [a, b])
    with pytest.raises(InputError, match="1 network to fuse; give two or more"):
        fuse(flow, [a])


def test_the_best_strength_is_chosen_on_validation_images():
    tried = [
        StrengthResult(0.0, {}, 0.5, 0.9),
        StrengthResult(0.5, {}, 0.8, 0.1),
        StrengthResult(1.0, {}, 0.8, 1.0),
    ]
    assert best(tried).strength == 0.5


def test_more_epochs_on_other_data_and_the_same_for_every_start(zoo):
    architecture, recipe = zoo.architecture, TrainingRecipe(learning_rate=3e-3)
    start, task = starts_of(zoo, 3, 2), Task("digits", ("zero", "one", "two"))
    starts = {"a": start, "b": start, "random": random_starts(architecture, 2, recipe)}
    expected, taken = [], []
    found = transfer(
        architecture, starts, task, (0, 1, 4), recipe, 40, progress=taken.append, expect=expected.append
    )
    assert expected == [sum(taken)]
    assert all(torch.equal(found["a"][e], found["b"][e]) for e in (0, 1, 4))
    assert not torch.equal(found["a"][1], found["random"][1])
    assert found["random"][4].mean() > max(found["random"][0].mean(), 0.6)
    again = transfer(architecture, {"a": start}, task, (1,), recipe, images=40)
    assert torch.equal(again["a"][1], found["a"][1])


def test_few_images_are_as_many_of_each_class():
    data, task = datasets.load("digits"), Task("digits", ("four", "nine"))
    seen = few_examples(data, task, 7)
    assert torch.bincount(seen.train.labels, minlength=10).tolist() == [0, 0, 0, 0, 7, 0, 0, 0, 0, 7]
    assert len(seen.test) == len(data.test)


@pytest.fixture
def files(flow, zoo, tmp_path):
    """Network files of two disjoint tasks."""
    paths = []
    for i, given in enumerate(disjoint(zoo)):
        paths.append(tmp_path / f"{i}.safetensors")
        write_network(paths[-1], zoo.architecture, given.state, given.prompt.classes)
    return paths


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def test_commands_show_what_they_are_compared_with(run, zoo, files, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert call("fuse", *files, "--run", run, "--trained", "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["accuracy"]) == {
        "fused", *AVERAGES, "ensemble", "trained_on_the_union", "chance"
    }  # fmt: skip
    assert read_network(out, zoo.architecture, "digits").prompt.classes == tuple(found["classes"])
    picture = tmp_path / "strengths.png"
    swept = ("enhance", files[0], "--run", run, "--sweep", "--plot", picture, "--out", out, "--json")
    assert call(*swept) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["strength"] for row in found["sweep"]] == [i / 10 for i in range(11)]
    chosen = max(found["sweep"], key=lambda row: row["validation"])
    assert found["accuracy"]["after"] == chosen["test"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fuse {a} {b} --strength 1.5", "strength is 1.5; it is a share from 0"),
        ("fuse {a} {b} --plot p.png", "--plot draws accuracy against strength; it needs --sweep"),
        ("fuse {a}", "1 network to fuse; give two or more"),
        ("fuse {a} {other}", "is not a mlp of 2 classes as this run makes"),
        ("fuse {a} {odd}", "the run does not know the class 'elephant'; it knows: zero, one"),
        ("enhance {a} --strength -0.1", "strength is -0.1"),
        ("enhance {other} --strength 0.5", "is not a mlp of 2 classes as this run makes"),
        ("enhance {odd}", "has no class 'elephant'; nearest:"),
        ("enhance {a} --classes one,elephant", "has no class 'elephant'; nearest:"),
        ("enhance {a} --classes one", "names one class"),
        ("enhance {a} --sweep --plot p.gif", "a picture's file name ends in"),
    ],
)
def test_bad_input_is_one_clear_line(run, zoo, files, tmp_path, capsys, arguments, message):
    wide = Architecture("mlp", {"inputs": 64, "hidden": [13]}, (64,), 2)
    state = {name: tensor.unsqueeze(0) for name, tensor in wide.build().state_dict().items()}
    write_network(tmp_path / "other.safetensors", wide, state, ("one", "two"))
    given = disjoint(zoo)[0]
    write_network(tmp_path / "odd.safetensors", zoo.architecture, given.state, ("one", "elephant"))
    places = {"a": files[0], "b": files[1], **{n: tmp_path / f"{n}.safetensors" for n in ("other", "odd")}}
    out = tmp_path / "out.safetensors"
    assert call(*arguments.format(**places).split(), "--run", run, "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("times", [1, 3])
def test_fuse_takes_classes_once_a_network(run, files, tmp_path, capsys, times):
    named = ["--classes", "one, two"] * times
    assert call("fuse", *files, "--run", run, "--out", tmp_path / "out.pt", *named) == 2
    assert f"--classes is given {times} time" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_fuse_takes_the_classes_of_files_that_do_not_say(run, zoo, tmp_path, capsys):
    paths, named = [], []
    for i, given in enumerate(disjoint(zoo)):
        paths.append(tmp_path / f"{i}.pt")
        own = zoo.architecture.trim({n: t[0] for n, t in given.state.items()}, len(given.prompt.classes))
        torch.save(own, paths[-1])
        named += ["--classes", ", ".join(given.prompt.classes)]
    out = tmp_path / "out.safetensors"
    assert call("fuse", *paths, "--run", run, "--out", out) == 2
    assert "give them with --classes" in capsys.readouterr().err
    assert call("fuse", *paths, "--run", run, "--out", out, *named) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset digits --classes one,two,three --epochs 0,x", "--epochs is '0,x'"),
        ("--dataset digits --classes one,two,three --images 0", "0 images of each class"),
        ("--dataset digits --classes one,two,elephant", "has no class 'elephant'"),
        (
            "--dataset digits --classes one,two,three,four,five",
            "has no network of 5 classes; it has networks of",
        ),
        ("--dataset iris --classes setosa,versicolor", "cannot take examples of shape"),
    ],
)
def test_transfer_refuses_what_does_not_fit(zoo, capsys, arguments, message):
    assert call("transfer", zoo.path, *arguments.split(), "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
