"""What is handed over does what was generated, wherever it runs, and needs nothing else."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import weightflow
from canon.cli import console
from canon.errors import InputError, WorkError
from canon.io import checkpoint
from canon.io.digests import with_digest
from weightflow import datasets
from weightflow.cli.main import app
from weightflow.datasets import Preprocessing
from weightflow.export.export import FORMATS, export_zoo, with_statistics
from weightflow.export.programs import METADATA
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow, save_generator
from weightflow.generator.populations import generate_zoo
from weightflow.networks import architectures
from weightflow.networks.classifier import Classifier
from weightflow.text import Prompt
from weightflow.zoo.store import Record, Zoo, write_zoo

THREE = Prompt(("three", "seven", "nine"))
RAW = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)) * 16


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


@pytest.fixture(scope="module")
def flow(run):
    return Flow(run)


@pytest.fixture(scope="module")
def nets(flow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "nets"
    list(generate_zoo(flow, [THREE], 2, 0, SampleConfig(), folder))
    return Zoo(folder)


@pytest.fixture(scope="module")
def expected(flow):
    with torch.no_grad():
        return flow.generate(THREE.classes, seed=1)(RAW)


def test_weights_load_with_torch_alone(nets, expected, tmp_path):
    paths = export_zoo(nets, tmp_path / "files")
    found = checkpoint.read(paths[1])
    arguments = json.loads(found.metadata["architecture"])["arguments"]
    (hidden,) = arguments["hidden"]
    layers = (nn.Flatten(), nn.Linear(arguments["inputs"], hidden), nn.ReLU(), nn.Linear(hidden, 3))
    plain = nn.Sequential(*layers)
    plain.load_state_dict(found.state)
    how = json.loads(found.metadata["preprocessing"])
    prepared = (RAW / how["divisor"] - how["mean"]) / how["std"]
    torch.testing.assert_close(plain(prepared), expected, atol=1e-5, rtol=1e-5)
    assert json.loads(found.metadata["classes"]) == ["three", "seven", "nine"]
    assert json.loads(found.metadata["origin"])["seed"] == 1


def test_a_program_runs_without_weightflow(nets, expected, tmp_path):
    cases = {}
    for kind, inputs in (("raw", RAW), ("prepared", datasets.load("digits").preprocessing(RAW))):
        path = export_zoo(nets, tmp_path / kind, format="pt2", prepared=kind == "prepared")[1]
        cases[kind] = {"path": str(path), "inputs": inputs, "expected": expected}
    torch.save(cases, tmp_path / "cases.pt")
    code = f"""
import json, sys, torch
for kind, case in torch.load("cases.pt").items():
    extra = {{{METADATA!r}: ""}}
    program = torch.export.load(case["path"], extra_files=extra).module()
    torch.testing.assert_close(program(case["inputs"]), case["expected"], atol=1e-5, rtol=1e-5)
    assert program(case["inputs"][:1]).shape == (1, 3)
    if kind == "raw":
        for dtype in (torch.uint8, torch.int32, torch.int64, torch.float64):
            whole = case["inputs"].floor()
            torch.testing.assert_close(program(whole.to(dtype)), program(whole))
    assert json.loads(extra[{METADATA!r}])["inputs"] == kind
assert not any(name.startswith(("weightflow", "canon")) for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_onnx_says_the_same(nets, expected, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = export_zoo(nets, tmp_path / "files", format="onnx")[1]
    session = runtime.InferenceSession(str(path))
    found = torch.from_numpy(session.run(["logits"], {"inputs": RAW.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["three", "seven", "nine"]


def test_a_missing_package_is_named(nets, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert call("export", nets.path, "--format", "onnx", "--out", tmp_path / "files") == 2
    error = capsys.readouterr().err
    assert "pip install 'weightflow[onnx]'" in error or "ONNX needs the package onnx" in error
    assert not (tmp_path / "files").exists()


class Branching(nn.Sequential):
    """Takes another way for other inputs: no one graph."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Fixed(nn.Sequential):
    """For one number of examples, as Python's len makes it."""

    def forward(self, x):
        return super().forward(x) + torch.zeros(1, 3).expand(len(x), -1)


class Bessel(nn.Sequential):
    """An operation that ONNX has no word for."""

    def forward(self, x):
        return torch.special.bessel_j0(super().forward(x))


@pytest.mark.parametrize(
    ("kind", "format", "message"),
    [
        (Branching, "pt2", "cannot be written as one graph"),
        (Fixed, "pt2", r"fixes the number of examples, as len\(x\) does; write x.shape\[0\]"),
        (Bessel, "onnx", "ONNX cannot express this network: .*bessel_j0"),
    ],
)
def test_what_a_format_cannot_express_is_one_line(nets, tmp_path, monkeypatch, kind, format, message):
    if format == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason="the extra [onnx] is not installed")

    def odd(inputs, hidden, classes):
        return kind(nn.Flatten(), nn.Linear(inputs, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], classes))

    monkeypatch.setitem(architectures.FAMILIES._entries, "mlp", odd)
    state = {name.replace("_", "."): t for name, t in nets.load().items()}
    renamed = {f"{int(n[0])}.{n[2:]}": t for n, t in state.items()}
    write_zoo(tmp_path / "odd", nets.manifest | {}, renamed, nets.records)
    with pytest.raises(InputError, match=message) as raised:
        export_zoo(Zoo(tmp_path / "odd"), tmp_path / "files", format=format)
    assert len(str(raised.value)) < 400
    assert not (tmp_path / "files").exists()


def test_a_folder_of_other_networks_is_refused(nets, flow, tmp_path, capsys):
    for format in ("safetensors", "pt2"):
        export_zoo(nets, tmp_path / "files", 1, format)  # the same population again
    list(generate_zoo(flow, [THREE], 2, 7, SampleConfig(), tmp_path / "others"))
    assert call("export", tmp_path / "others", "--out", tmp_path / "files") == 2
    assert "holds other networks (such as g000000.pt2); choose another folder" in capsys.readouterr().err
    (tmp_path / "files" / "networks.json").unlink()
    assert call("export", nets.path, "--out", tmp_path / "files") == 2


def test_running_statistics_come_from_training_images(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", inputs=images, labels=np.arange(60) % 3, class_names=["a", "b", "c"])
    name = f"npz:{tmp_path / 'a.npz'}"
    cnn = architectures.Architecture("cnn", {"widths": [4, 5], "norm": True, "grid": 2}, (3, 8, 8), 3)
    state = {n: t.unsqueeze(0).clone() for n, t in cnn.build().state_dict().items()}
    for lineage in ("generated", "imported"):
        record = Record("x", 0, name, "generated", ("a", "b"), lineage)
        header = {"architecture": cnn.to_dict(), "dataset": name, "lineage": lineage}
        write_zoo(tmp_path / lineage, header, state, [record])
    kept = with_statistics(Zoo(tmp_path / "imported"), 0)
    assert all(torch.equal(kept[n], state[n]) for n in state)
    repaired = with_statistics(Zoo(tmp_path / "generated"), 0)
    assert not torch.equal(repaired["1.running_mean"], state["1.running_mean"])
    again = tmp_path / "again"
    write_zoo(again, Zoo(tmp_path / "generated").manifest, repaired, Zoo(tmp_path / "generated").records)
    twice = with_statistics(Zoo(again), 0)
    assert all(torch.equal(twice[n], repaired[n]) for n in state)
    datasets.load.cache_clear()


def test_a_saved_generator_needs_neither_zoo_nor_data(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report.json").write_text(json.dumps(REPORT))
    save_generator(Flow(tmp_path / "run"), tmp_path / "generator")
    expected = Flow(run).generate(THREE.classes, seed=3)(RAW)
    torch.save(expected.detach(), tmp_path / "expected.pt")
    torch.save(RAW, tmp_path / "raw.pt")
    shutil.rmtree(tmp_path / "run")
    code = f"""
import torch, weightflow
from weightflow import datasets
def gone(name): raise AssertionError(f"the data set {{name}} was opened")
datasets.load = gone
flow = weightflow.Flow.from_pretrained("generator")
assert torch.equal(flow.generate({list(THREE.classes)}, seed=3)(torch.load("raw.pt")), torch.load("expected.pt"))
assert flow.neighbours(weightflow.Prompt(("seventh", "one")))[1].nearest == "one"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "generator" / "config.toml").read_text()
    assert str(tmp_path) not in text
    assert str(run.parent) not in text


REPORT = {
    "splits": {
        "unseen_combinations": {"accuracy": {"mean": 0.875}, "trained": {"mean": 0.9375}, "chance": 0.25},
        "unseen_classes": None,
    },
    "novelty": {"nearest_distance_ratio": 1.25},
    "environment": {"torch": "2", "commit": "abc"},
}


def test_the_card_tells_what_the_report_measured(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    save_generator(Flow(tmp_path / "run"), tmp_path / "bare")
    assert "`weightflow report` had not been run" in (tmp_path / "bare" / "README.md").read_text()
    whole = with_digest({**REPORT, "weights": Flow(tmp_path / "run").identity})
    (tmp_path / "run" / "report.json").write_text(json.dumps(whole))
    save_generator(Flow(tmp_path / "run"), tmp_path / "measured")
    card = (tmp_path / "measured" / "README.md").read_text()
    assert "| unseen combinations | 87.5 | 93.8 | 25.0 |" in card
    assert "lie 1.25 times as far" in card
    assert "Measured with torch 2 at commit abc" in card
    again = Flow.from_pretrained(tmp_path / "measured")
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card


def test_a_table_of_vectors_travels_with_its_generator(zoo, tiny_config, tmp_path):
    import dataclasses

    import numpy as np

    from weightflow.training.trainer import start

    names = datasets.load("digits").class_names
    vectors = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    np.savez(tmp_path / "own.npz", names=names, embeddings=vectors)
    config = dataclasses.replace(tiny_config, encoder=f"table:{tmp_path / 'own.npz'}", steps=2)
    start(zoo, config, tmp_path / "run").run()
    flow = Flow(tmp_path / "run")
    before = flow.generate(["one", "two"])(RAW)
    save_generator(flow, tmp_path / "generator")
    (tmp_path / "own.npz").unlink()
    weightflow.text.load_encoder.cache_clear()
    moved = (tmp_path / "generator").rename(tmp_path / "elsewhere")
    assert torch.equal(weightflow.load(moved).generate(["one", "two"])(RAW), before)


def test_a_full_disk_is_not_a_report_that_cannot_be_read(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report.json").write_text('{"splits": {}}')

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", source)  # as Python reports it

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(
        WorkError, match="generator was not written: No space left on device; free some space"
    ):
        save_generator(Flow(tmp_path / "run"), tmp_path / "generator")
    assert os.listdir(tmp_path) == ["run"]


def test_a_generator_that_two_write_at_once_is_that_of_one(run, tmp_path, monkeypatch):
    flow, write, turns = Flow(run), Flow.save_pretrained, []

    def of_the_other_meanwhile(self, folder):
        turns.append(folder)
        write(self, folder)
        if len(turns) == 1:
            with pytest.raises(InputError, match="another process is writing into .*generator; wait until"):
                save_generator(flow, tmp_path / "generator")

    monkeypatch.setattr(Flow, "save_pretrained", of_the_other_meanwhile)
    save_generator(flow, tmp_path / "generator")
    assert len(turns) == 1
    assert os.listdir(tmp_path) == ["generator"]
    monkeypatch.undo()
    save_generator(flow, tmp_path / "alone")
    assert sorted(os.listdir(tmp_path / "generator")) == sorted(os.listdir(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--out", "{new}"], "is a run; write its generator with --format pretrained"),
        (
            ["{nets}", "--format", "pretrained", "--out", "{new}"],
            "a population of generated networks, not a run",
        ),
        (
            ["{nets}", "--format", "tflite", "--out", "{new}"],
            "'tflite' is not one of 'safetensors', 'pt2', 'onnx', 'pretrained'",
        ),
        (["{nets}", "--count", "0", "--out", "{new}"], "--count is 0"),
        (["{empty}", "--out", "{new}"], "holds no network"),
        (["{run}", "--format", "pretrained", "--out", "{nets}"], "is not an empty folder"),
    ],
)
def test_bad_input_is_one_clear_line(run, nets, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    write_zoo(tmp_path / "empty", nets.manifest, {}, [])
    places = {"run": run, "nets": nets.path, "new": tmp_path / "new", "empty": tmp_path / "empty"}
    assert call("export", *(a.format(**places) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"empty"}


def test_formats_are_listed_by_their_own_table():
    assert set(FORMATS) == {"safetensors", "pt2", "onnx"}


@pytest.mark.parametrize(
    ("preprocessing", "inputs"),
    [
        (Preprocessing(255.0, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)), torch.randint(256, (4, 3, 5, 5)).byte()),
        (Preprocessing(1.0, (1.0, 2.0), (0.5, 0.25)), torch.rand(4, 2)),
        (Preprocessing(16.0, 0.3, 0.4), torch.rand(4, 64)),
    ],
)
def test_a_module_prepares_as_the_data_set_does(preprocessing, inputs):
    model = Classifier(nn.Identity(), preprocessing, ("a", "b"))
    assert torch.equal(model(inputs), preprocessing(inputs))
    assert Preprocessing.from_dict(json.loads(json.dumps(model.description))) == preprocessing


def test_rows_are_standardised_feature_by_feature_from_raw_ones():
    from sklearn.datasets import load_iris

    data, raw = datasets.load("iris"), torch.from_numpy(load_iris().data).float()
    torch.testing.assert_close(data.train.inputs.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.inputs.std(0, correction=0), torch.ones(4))
    distance = (data.train.inputs.unsqueeze(1) - data.preprocessing(raw)).abs().amax(2)
    assert float(distance.min(1).values.max()) < 1e-5
