"""Many prompts: checked, answered as they come, and what is finished is kept."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from canon.cli import console
from canon.errors import InputError
from weightflow.cli.main import app
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow
from weightflow.generator.populations import generate_zoo, prompts_in, read_prompts
from weightflow.text import Prompt
from weightflow.zoo.store import Zoo


def call(*arguments):
    return console.guarded(app, [str(a) for a in arguments], name="weightflow")


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


def test_a_bad_line_keeps_what_came_before_it(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one, two\nthree\n"))
    assert call("sample", run, "--prompts", "-", "--out", tmp_path / "nets", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["classes"] == ["one", "two"]
    assert "standard input, line 2: the prompt names one class" in err
    assert len(Zoo(tmp_path / "nets")) == 1
    assert Zoo(tmp_path / "nets").verify() == []


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
    assert f"what was finished is in {out}, a sound zoo" in error
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
