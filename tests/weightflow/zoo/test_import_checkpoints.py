"""Ordinary checkpoints become a zoo; the odd one out is named; a card says what a zoo holds."""

import json
from collections import Counter

import pytest
import torch

from canon.cli import console
from canon.errors import InputError, InputWarning
from canon.io import checkpoint
from weightflow.cli.main import app
from weightflow.export.export import export_zoo
from weightflow.networks.architectures import Architecture
from weightflow.zoo.dataset_card import card, write_card
from weightflow.zoo.import_checkpoints import checkpoint_files, ids_of, import_zoo, own_architecture
from weightflow.zoo.store import Zoo

MLP = Architecture("mlp", {"inputs": 64, "hidden": [5]}, (64,), 10)


@pytest.fixture
def folder(tmp_path):
    """Five plain files, as `torch.save(module.state_dict(), ...)` leaves them."""
    place = tmp_path / "files"
    place.mkdir()
    for n in range(5):
        torch.save(MLP.build().state_dict(), place / f"net{n}.pt")
    return place


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def test_plain_files_become_a_zoo_of_all_classes(folder, tmp_path):
    assert import_zoo(checkpoint_files(folder), tmp_path / "zoo", MLP, "digits", shard_size=2) == 5
    zoo = Zoo(tmp_path / "zoo")
    assert [r.id for r in zoo.records] == [f"net{n}" for n in range(5)]
    assert zoo.verify() == []
    assert {len(r.classes) for r in zoo.records} == {10}
    assert zoo.records[0].lineage == "imported"
    assert 0 <= zoo.records[0].accuracy["validation"] < 0.5
    expected = torch.load(folder / "net3.pt", weights_only=True)
    found = zoo.network(3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_was_exported_comes_back_with_its_classes_and_accuracies(raw_zoo, tmp_path):
    export_zoo(raw_zoo, tmp_path / "files", 6)
    out = tmp_path / "again"
    assert call("zoo", "import", tmp_path / "files", "--dataset", "digits", "--out", out) == 0
    again = Zoo(out)
    for row, (old, new) in enumerate(zip(raw_zoo.records[:6], again.records, strict=True)):
        assert (new.classes, new.accuracy) == (old.classes, old.accuracy)
        expected = raw_zoo.network(row)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.network(row).items())


@pytest.mark.parametrize(("shard_size", "times"), [(6, 1), (4, 2)])
def test_the_weights_of_a_file_are_read_once_or_where_a_shard_does_not_hold_all_twice(
    raw_zoo, tmp_path, monkeypatch, shard_size, times
):
    export_zoo(raw_zoo, tmp_path / "files", 6)
    files, reads, read = checkpoint_files(tmp_path / "files"), Counter(), checkpoint.read
    monkeypatch.setattr(checkpoint, "read", lambda path: reads.update([path]) or read(path))
    import_zoo(files, tmp_path / "zoo", own_architecture(files), "digits", shard_size=shard_size)
    assert reads == dict.fromkeys(files, times)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a.pt", "b.pth.tar", "c.ckpt"], ["a", "b", "c"]),
        (["a.bin", "a.pt", "a.safetensors"], ["a.bin", "a.pt", "a.safetensors"]),
        (["run1/best.pt", "run2/best.pt"], ["run1-best", "run2-best"]),
        (["r/a.bin", "r/a.pt", "s/a.pt"], ["00000-r-a.bin", "00001-r-a.pt", "00002-s-a.pt"]),
    ],
)
def test_every_file_has_an_id_of_its_own(tmp_path, names, ids):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save(MLP.build().state_dict(), path)
    assert ids_of(checkpoint_files(tmp_path)) == ids


def test_odd_names_of_files_become_ids_that_can_be_exported(tmp_path):
    files, names = tmp_path / "files", ["a:b", "\u202egnp", "x\x1b[2J", "ok" * 90, "é", "日" * 70]
    files.mkdir()
    for name in names:
        torch.save(MLP.build().state_dict(), files / f"{name}.pt")
    import_zoo(checkpoint_files(files), tmp_path / "zoo", MLP, "digits")
    ids = [record.id for record in Zoo(tmp_path / "zoo").records]
    assert set(ids) == {"a_b", "_gnp", "x_[2J", "ok" * 75, "é", "日" * 50}
    assert len(export_zoo(Zoo(tmp_path / "zoo"), tmp_path / "out")) == len(names)


@pytest.mark.parametrize("wrap", ["prefix", "half", "bfloat16", "double", "compiled", "container"])
def test_checkpoints_come_in_many_forms(tmp_path, wrap):
    names, three = ("two", "five", "nine"), Architecture("mlp", {"inputs": 64, "hidden": [5]}, (64,), 3)
    state = three.build().state_dict()
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}.get(wrap)
    prefix = {"prefix": "module.", "compiled": "module._orig_mod."}.get(wrap, "")
    saved = {prefix + name: tensor.to(dtype or tensor.dtype) for name, tensor in state.items()}
    beside = {"state_dict": saved, "classes": list(names), "epoch": 3}
    (tmp_path / "files").mkdir()
    torch.save(beside if wrap == "container" else saved, tmp_path / "files" / "net.pth.tar")
    given = None if wrap == "container" else names
    import_zoo(checkpoint_files(tmp_path / "files"), tmp_path / "zoo", three, "digits", given)
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.records[0].classes == names
    for name, tensor in zoo.network(0).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, saved[prefix + name].float())


def test_the_odd_one_out_is_named_and_nothing_is_written(folder, tmp_path):
    other = Architecture("mlp", {"inputs": 64, "hidden": [7]}, (64,), 10)
    torch.save(other.build().state_dict(), folder / "net2.pt")
    with pytest.raises(InputError, match=r"1 of 5 files do not fit: net2.pt; .*1.weight is \(7, 64\)"):
        import_zoo(checkpoint_files(folder), tmp_path / "zoo", MLP, "digits")
    assert not (tmp_path / "zoo").exists()


def test_a_network_of_classes_that_the_data_lack_is_named(folder, tmp_path):
    names = [*"abcdefghij"]
    with pytest.raises(InputError, match="5 of 5 files do not fit: .* has no class 'a'"):
        import_zoo(checkpoint_files(folder), tmp_path / "zoo", MLP, "digits", names)


def test_weights_that_are_not_finite_are_named(folder, tmp_path):
    state = MLP.build().state_dict()
    state["1.bias"][0] = torch.nan
    torch.save(state, folder / "net4.pt")
    with pytest.raises(InputError, match="1 of 5 files do not fit: net4.pt; .* NaN or infinity"):
        import_zoo(checkpoint_files(folder), tmp_path / "zoo", MLP, "digits")


def test_networks_with_running_statistics_keep_them(tmp_path, monkeypatch):
    import numpy as np

    from weightflow import datasets

    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", inputs=images, labels=np.arange(60) % 3, class_names=["a", "b", "c"])
    cnn = Architecture("cnn", {"widths": [4, 5], "norm": True, "grid": 2}, (3, 8, 8), 3)
    (tmp_path / "files").mkdir()
    state = {n: torch.rand(t.shape).to(t.dtype) + 1 for n, t in cnn.build().state_dict().items()}
    checkpoint.write(tmp_path / "files" / "one.safetensors", state)
    name = f"npz:{tmp_path / 'a.npz'}"
    import_zoo(checkpoint_files(tmp_path / "files"), tmp_path / "zoo", cnn, name)
    found = Zoo(tmp_path / "zoo").network(0)
    datasets.load.cache_clear()
    for key, tensor in state.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{files}", "--out", "{out}"], "name the data set whose classes they tell apart"),
        (["{files}", "--dataset", "digits", "--out", "{out}"], "does not say which architecture it is"),
        (["{out}", "--dataset", "digits", "--out", "{out}"], "is not a folder of checkpoints"),
        (
            ["{empty}", "--dataset", "digits", "--out", "{out}"],
            "is an empty folder, not a folder of checkpoints; those end in",
        ),
        (["{files}", "--recipe", "digits", "--out", "{files}"], "is not an empty folder"),
        (
            ["{files}", "--recipe", "digits", "--dataset", "iris", "--out", "{out}"],
            "cannot take examples of shape",
        ),
    ],
)
def test_bad_input_is_one_clear_line(folder, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"files": folder, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    assert call("zoo", "import", *(a.format(**places) for a in arguments)) == 2
    assert message in capsys.readouterr().err


def test_imports_need_not_say_their_architecture_when_told(folder, tmp_path):
    settings = ["--set", "architecture.arguments.hidden=[5]", "--set", "tasks.sizes=[2, 10]"]
    out = tmp_path / "zoo"
    assert call("zoo", "import", folder, "--recipe", "digits", *settings, "--out", out) == 0
    assert len(Zoo(out)) == 5


def test_the_architecture_of_the_most_classes_is_taken(raw_zoo, tmp_path):
    files = export_zoo(raw_zoo, tmp_path / "files", 6)
    most = max(len(r.classes) for r in raw_zoo.records[:6])
    assert own_architecture(files).classes == most


def test_a_card_says_tasks_texts_accuracies_and_licence(raw_zoo, tmp_path):
    text = card(raw_zoo)
    for part in ("# 54 mlp networks on digits", "seen 40", "independent 54", "CC BY 4.0",
                 ", ".join(raw_zoo.records[0].classes), "one, two, three"):  # fmt: skip
        assert part in text
    mean = torch.tensor([r.accuracy["validation"] for r in raw_zoo.records]).mean()
    assert f"{float(mean):.4f} ±" in text


def test_a_card_lies_in_the_zoo_and_leaves_it_sound(folder, tmp_path, capsys):
    import_zoo(checkpoint_files(folder), tmp_path / "zoo", MLP, "digits")
    before = Zoo(tmp_path / "zoo").identity
    assert call("zoo", "card", tmp_path / "zoo", "--json") == 0
    path = json.loads(capsys.readouterr().out)["card"]
    assert path == str(write_card(Zoo(tmp_path / "zoo")))
    assert Zoo(tmp_path / "zoo").identity == before
    assert Zoo(tmp_path / "zoo").verify() == []


def test_checkpoints_below_others_are_not_left_out_without_a_word(tmp_path):
    for name in ("a.pt", "run1/last.pt", "run2/last.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(
        InputWarning, match=r"2 checkpoints in folders of .* left out \(the first is .*run1/last.pt\)"
    ):
        assert checkpoint_files(tmp_path) == [tmp_path / "a.pt"]
    (tmp_path / "a.pt").unlink()
    assert len(checkpoint_files(tmp_path)) == 2
