"""Many prompts: checked, answered as they come, and what is finished is kept."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.main import app
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator import populations
from weightflow.generator.generator import Flow
from weightflow.generator.populations import generate_zoo, prompts_in, read_prompts
from weightflow.text import Prompt
from weightflow.zoo.store import Zoo


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n \n", "holds no prompt"), ("a, b\n\nc, c\n", r"prompts.txt, line 3: the prompt names 'c' twice")],
)
def test_prompts_in_a_file_are_checked(tmp_path, text, message):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(path)


@pytest.mark.parametrize("given", [[], ["--classes", "one, two", "--prompts", "-"]])
def test_prompts_come_from_one_place(run, tmp_path, capsys, given):
    assert call("sample", run, *given, "--out", tmp_path / "nets") == 2
    assert "give either --classes" in capsys.readouterr().err


def test_prompts_are_answered_as_they_come(run, tmp_path):
    flow, folder, asked = Flow(run), tmp_path / "nets", []

    def typed():
        for line in ("one, two", "three, four, five"):
            asked.append(line)
            yield Prompt.parse(line)

    making = generate_zoo(flow, typed(), 2, 0, SampleConfig(), folder)
    first = next(making)
    assert asked == ["one, two"]
    assert first.ids == ("g000000", "g000001")
    assert len(list((folder / "shards").iterdir())) == 1
    assert [made.ids for made in making] == [("g000002", "g000003")]
    assert [r.classes for r in Zoo(folder).records] == [("one", "two")] * 2 + [("three", "four", "five")] * 2


def test_one_by_one_and_in_groups_give_the_same_networks(run, tmp_path):
    flow, prompts = Flow(run), [Prompt.parse(t) for t in ("one, two", "two, three", "six, nine, one")]
    for folder, given in (("a", prompts), ("b", iter(prompts))):
        list(generate_zoo(flow, given, 2, 0, SampleConfig(batch_size=4), tmp_path / folder))
    a, b = Zoo(tmp_path / "a"), Zoo(tmp_path / "b")
    assert [(r.id, r.seed, r.classes) for r in a.records] == [(r.id, r.seed, r.classes) for r in b.records]
    for name, tensor in a.load().items():
        assert (tensor - b.load()[name]).abs().max() < 1e-5


@pytest.mark.parametrize("as_json", [True, False])
def test_a_bad_line_is_answered_with_its_error_and_the_next_one_follows(
    run, tmp_path, capsys, monkeypatch, as_json
):
    lines = "\ufeffone, two\nthree\n\none, two, three, four, five\nfive, six\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    arguments = ["sample", run, "--prompts", "-", "--out", tmp_path / "nets"]
    assert call(*arguments, *(["--json"] if as_json else [])) == 1
    out, err = capsys.readouterr()
    assert "2 lines not answered: 2, 4" in err
    if as_json:
        told = [json.loads(line) for line in out.splitlines()]
        assert [line.get("classes") for line in told] == [["one", "two"], None, None, ["five", "six"]]
        assert "the prompt names one class" in told[1]["error"]
        assert (told[2]["line"], told[2]["prompt"]) == (4, "one, two, three, four, five")
    else:
        assert "standard input, line 2: the prompt names one class" in err
    assert [r.classes for r in Zoo(tmp_path / "nets").records] == [("one", "two"), ("five", "six")]
    assert Zoo(tmp_path / "nets").verify() == []


def test_many_networks_of_one_prompt_are_written_in_shards_of_bounded_size(run, tmp_path, monkeypatch):
    flow, heard = Flow(run), []
    monkeypatch.setattr(populations, "SHARD_ENTRIES", 3 * flow.architecture.parameters)
    prompts = [Prompt(("one", "two")), Prompt(("three", "four"))]
    made = list(generate_zoo(flow, prompts, 7, 5, SampleConfig(), tmp_path / "nets", heard.append))
    assert heard == [3, 3, 1, 3, 3, 1]
    zoo = Zoo(tmp_path / "nets")
    assert [m.ids for m in made] == [tuple(r.id for r in zoo.records[i : i + 7]) for i in (0, 7)]
    assert [r.seed for r in zoo.records] == [*range(5, 12)] * 2
    monkeypatch.undo()
    list(generate_zoo(flow, prompts, 7, 5, SampleConfig(), tmp_path / "whole"))
    for name, tensor in Zoo(tmp_path / "whole").load().items():
        assert torch.allclose(tensor, zoo.load()[name], atol=1e-5)


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_an_interrupt_keeps_what_was_told_and_says_how_much(run, tmp_path, capsys, monkeypatch, shards):
    (tmp_path / "many.txt").write_text("one, two\n" * 40)
    real, seen = Flow.sample_states, []

    def sample(self, *arguments):
        seen.append(len(arguments[0]))
        if len(seen) == shards + 1:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Flow, "sample_states", sample)
    monkeypatch.setattr(populations, "SHARD_ENTRIES", 16 * Flow(run).architecture.parameters)
    out = tmp_path / "nets"
    options = ["--prompts", tmp_path / "many.txt", "--count", 2, "--out", out, "--json"]
    assert call("sample", run, *options) == 130
    told, err = capsys.readouterr()
    ids = [i for line in told.splitlines() for i in json.loads(line)["ids"]]
    assert len(ids) == 16 * shards
    if shards:
        assert f"{len(ids)} networks in {out}, a sound zoo" in err
        assert [r.id for r in Zoo(out).records] == ids
        assert Zoo(out).verify() == []
    else:
        assert "nothing was written; run the same command again" in err
    assert call("sample", run, "--classes", "one, two", "--out", out, "-q") == 0
    assert len(Zoo(out)) == 1


def test_a_signal_lets_the_shard_at_hand_be_told(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "many.txt").write_text("one, two\n" * 40)
    real = Flow.sample_states

    def sample(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *arguments)

    monkeypatch.setattr(Flow, "sample_states", sample)
    monkeypatch.setattr(populations, "SHARD_ENTRIES", 16 * Flow(run).architecture.parameters)
    out = tmp_path / "nets"
    assert call("sample", run, "--prompts", tmp_path / "many.txt", "--out", out, "--json") == 143
    told, err = capsys.readouterr()
    assert len(told.splitlines()) == 16 == len(Zoo(out))
    assert "16 networks in" in err


def test_a_file_of_prompts_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfone, two\r\nthree, four\r\n")
    assert [p.classes for p in read_prompts(tmp_path / "prompts.txt")] == [("one", "two"), ("three", "four")]


def test_a_class_described_by_a_known_one_is_judged_on_its_examples(run, tmp_path, capsys):
    assert call("sample", run, "--classes", "drei = three, seven", "--out", tmp_path / "a", "-q") == 0
    assert call("sample", run, "--classes", "three, seven", "--out", tmp_path / "b", "-q") == 0
    capsys.readouterr()
    found = []
    for folder in ("a", "b"):
        assert call("evaluate", tmp_path / folder, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["prompts"][0]["classes"] == ["drei", "seven"]
    assert found[0]["zoo"]["accuracy"] == found[1]["zoo"]["accuracy"]


def test_ctrl_c_leaves_a_sound_zoo_of_what_is_finished(run, tmp_path):
    out = tmp_path / "nets"
    command = [sys.executable, "-m", "weightflow.cli.main", "sample", str(run), "--prompts", "-", "--json"]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    process.stdin.write("one, two\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["networks"] == 1  # while standard input is open
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"1 network in {out}, a sound zoo" in error
    assert len(Zoo(out)) == 1
    assert Zoo(out).verify() == []


def test_explanations_rank_known_classes_by_cosine(run, tmp_path, capsys):
    arguments = ("sample", run, "--classes", "seven, sparrow", "--explain", "--out", tmp_path / "nets")
    assert call(*arguments) == 0
    assert "seven: nearest known classes, by cosine: 'seven' 1.00, '" in capsys.readouterr().out
    assert call(*arguments, "--json") == 0
    near = json.loads(capsys.readouterr().out)["nearest"]
    assert [n["described"] for n in near] == ["seven"] * 3 + ["sparrow"] * 3
    for part in (near[:3], near[3:]):
        assert [n["cosine"] for n in part] == sorted((n["cosine"] for n in part), reverse=True)


def test_lines_of_nothing_are_no_prompts():
    assert [p.classes for p in prompts_in(io.StringIO("\n one, two \n\n"), "x")] == [("one", "two")]


def test_a_device_that_is_not_there_is_named(run, tmp_path, capsys):
    assert call("sample", run, "--classes", "one, two", "--device", "cuda:99", "--out", tmp_path / "n") == 2
    assert "device 'cuda:99' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()
