"""Folders of Hugging Face's: read whole, written whole and alike, and refused in one line."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import canon
from canon.cli import console, main
from canon.errors import InputError, WorkError
from canon.io import checkpoint

HIDDEN = 6


def state(seed, hidden=HIDDEN):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)).state_dict()


def folder(path, found, kind="single"):
    """A folder with the weights in one file or two, and files beside."""
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "none"}')
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    torch.save({"state": {}}, path / "optimizer.pt")
    if kind == "single":
        save_file(found, path / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(found, path / "pytorch_model.bin")
    else:
        stem, suffix = ("model", ".safetensors") if kind == "shards" else ("pytorch_model", ".bin")
        keys = list(found)
        shard_of = {key: f"{stem}-0000{1 + (n > 1)}-of-00002{suffix}" for n, key in enumerate(keys)}
        for shard in set(shard_of.values()):
            part = {key: found[key] for key in keys if shard_of[key] == shard}
            if suffix == ".bin":
                torch.save(part, path / shard)
            else:
                save_file(part, path / shard, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": shard_of}
        (path / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return path


def weights_of(path):
    found = {}
    for name in sorted(os.listdir(path)):
        if name.endswith(".safetensors"):
            found |= load_file(path / name)
        elif name.endswith(".bin"):
            found |= torch.load(path / name, weights_only=True)
    return found


def planted(found):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    return {
        "0.weight": found["0.weight"][order],
        "0.bias": found["0.bias"][order],
        "2.weight": found["2.weight"][:, order].clone(),
        "2.bias": found["2.bias"],
    }


def run(*arguments):
    return console.run_cli(main.app, [str(a) for a in arguments], name="canon")


@pytest.mark.parametrize("kind", ["single", "shards", "bin", "bin shards"])
def test_a_folder_is_aligned_into_a_folder_like_it(tmp_path, kind):
    a = state(0)
    one = folder(tmp_path / "a", a)
    two = folder(tmp_path / "b", planted(a), kind)
    out = tmp_path / "c"
    assert run("align", one, two, "--assume", "chain", "--out", out) == 0
    kept = {p.relative_to(two).as_posix() for p in two.rglob("*") if p.is_file()} - {"optimizer.pt"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == kept
    found = weights_of(out)
    assert found.keys() == a.keys()
    assert all(torch.equal(found[key], a[key]) for key in a)
    assert (out / "tokenizer" / "vocab.txt").read_text() == "a\nb\n"
    if "shards" in kind:
        (name,) = (p.name for p in two.glob("*.index.json"))
        assert json.loads((out / name).read_text()) == json.loads((two / name).read_text())
        assert canon.equivalent(out, two, assume="chain")


def test_every_command_takes_folders(tmp_path, capsys):
    one = folder(tmp_path / "a", state(0), "shards")
    two = folder(tmp_path / "b", state(1), "shards")
    assert run("inspect", one, "--assume", "chain") == 0
    assert run("merge", one, two, "--assume", "chain", "--out", tmp_path / "m") == 0
    assert run("canonicalize", one, "--assume", "chain", "--out", tmp_path / "k") == 0
    assert run("verify", one, tmp_path / "k", "--assume", "chain") == 0
    assert run("align", one, two, "--assume", "chain", "-o", tmp_path / "c.safetensors") == 0
    assert load_file(tmp_path / "c.safetensors").keys() == state(0).keys()
    assert (tmp_path / "m" / "model-00002-of-00002.safetensors").is_file()


def test_python_takes_and_saves_folders(tmp_path):
    a = state(0)
    one, two = folder(tmp_path / "a", a), folder(tmp_path / "b", planted(a), "shards")
    aligned = canon.align(one, two, assume="chain")
    aligned.save(tmp_path / "c")
    assert all(torch.equal(tensor, a[key]) for key, tensor in weights_of(tmp_path / "c").items())
    assert aligned.report["left_out"] == ["optimizer.pt"]


def test_a_name_of_the_hub_is_found_in_the_cache(tmp_path, monkeypatch):
    commit, repository = "0" * 40, tmp_path / "hub" / "models--some--net"
    folder(repository / "snapshots" / commit, state(0))
    blob = repository / "blobs" / "abc"
    blob.parent.mkdir()
    config = repository / "snapshots" / commit / "config.json"
    config.rename(blob)
    config.symlink_to("../../blobs/abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    found = canon.canonicalize("some/net", assume="chain")
    found.save("c")
    assert not os.path.islink("c/config.json")
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == {"model_type": "none"}
    with pytest.raises(
        InputError, match=r"other/net does not exist, and the Hugging Face cache .* holds no model"
    ):
        canon.inspect("other/net")


def test_a_link_out_of_the_folder_is_not_copied(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    one = folder(tmp_path / "a", state(0))
    (one / "notes.txt").symlink_to("../secret.txt")
    done = canon.canonicalize(one, assume="chain")
    done.save(tmp_path / "c")
    assert not (tmp_path / "c" / "notes.txt").exists()
    assert "notes.txt" in done.report["left_out"]


def test_files_beside_the_weights_have_a_limit(tmp_path):
    one = folder(tmp_path / "a", state(0))
    with open(one / "huge.txt", "wb") as file:
        file.truncate(2**31)  # of holes: it takes no room on the disk
    done = canon.canonicalize(one, assume="chain")
    done.save(tmp_path / "c")
    assert (tmp_path / "c" / "config.json").is_file()
    assert not (tmp_path / "c" / "huge.txt").exists()
    assert "huge.txt" in done.report["left_out"]


def index_of(path):
    return path / "model.safetensors.index.json"


def without_weights(path):
    (path / "a" / "model-00001-of-00002.safetensors").unlink()
    (path / "a" / "model-00002-of-00002.safetensors").unlink()
    index_of(path / "a").unlink()
    return path / "a", "is a folder without weights"


def without_a_shard(path):
    (path / "a" / "model-00002-of-00002.safetensors").unlink()
    return path / "a", "model-00002-of-00002.safetensors is not there"


def without_an_index(path):
    index_of(path / "a").unlink()
    return path / "a", "no model.safetensors.index.json"


def mixed_shards(path):
    other = {"9.weight": torch.zeros(3, 3)}
    save_file(other, path / "a" / "model-00002-of-00002.safetensors")
    return path / "a", "mixes shards of two models"


def mixed_counts(path):
    found = json.loads(index_of(path / "a").read_text())
    old, new = (f"model-00002-of-0000{n}.safetensors" for n in (2, 3))
    (path / "a" / old).rename(path / "a" / new)
    found["weight_map"] = {k: v.replace(old, new) for k, v in found["weight_map"].items()}
    index_of(path / "a").write_text(json.dumps(found))
    return path / "a", "mixes shards of two models"


def climbing_index(path):
    found = json.loads(index_of(path / "a").read_text())
    found["weight_map"]["0.bias"] = "../b.safetensors"
    index_of(path / "a").write_text(json.dumps(found))
    return path / "a", "is damaged"


def one_shard(path):
    return path / "a" / "model-00001-of-00002.safetensors", f"one shard of 2; give the folder .*{path / 'a'}"


def the_index(path):
    return index_of(path / "a"), "is an index; give the folder"


def adapter(path):
    (path / "lora").mkdir()
    (path / "lora" / "adapter_config.json").write_text("{}")
    return path / "lora", "low-rank factors"


def adapter_file(path):
    save_file({"base.q.lora_A.weight": torch.ones(2, 4)}, path / "adapter.safetensors")
    return path / "adapter.safetensors", "low-rank factors"


BAD = [
    without_weights, without_a_shard, without_an_index, mixed_shards, mixed_counts, climbing_index, one_shard,
    the_index, adapter, adapter_file,
]  # fmt: skip


@pytest.mark.parametrize("spoil", BAD, ids=lambda f: f.__name__)
def test_a_wrong_folder_is_refused_in_one_line(tmp_path, capsys, spoil):
    folder(tmp_path / "a", state(0), "shards")
    folder(tmp_path / "b", state(1), "shards")
    given, message = spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        canon.align(given, tmp_path / "b", assume="chain")
    assert run("align", tmp_path / "b", given, "--assume", "chain", "-o", tmp_path / "c") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_an_output_that_holds_something_is_refused(tmp_path, capsys):
    one, two = folder(tmp_path / "a", state(0)), folder(tmp_path / "b", state(1))
    before = sorted(os.listdir(two))
    assert run("align", one, two, "--assume", "chain", "-o", two) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert sorted(os.listdir(two)) == before


def test_a_failed_write_leaves_no_folder(tmp_path, monkeypatch):
    one, two = folder(tmp_path / "a", state(0)), folder(tmp_path / "b", state(1), "shards")
    done = canon.align(one, two, assume="chain")
    write, count = checkpoint.safetensors.write, []

    def full(*arguments, **keywords):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        write(*arguments, **keywords)

    monkeypatch.setattr(checkpoint.safetensors, "write", full)
    with pytest.raises(WorkError, match="free some space"):
        done.save(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_the_content_decides_where_no_suffix_does(tmp_path, name):
    checkpoint.write(tmp_path / name, state(0))
    (tmp_path / name).rename(tmp_path / "net")
    done = canon.canonicalize(tmp_path / "net", assume="chain")
    done.save(tmp_path / "c.v2")
    with open(tmp_path / "net", "rb") as one, open(tmp_path / "c.v2", "rb") as two:
        assert (one.read(2) == b"PK") == (two.read(2) == b"PK")
    assert checkpoint.read(tmp_path / "c.v2").state.keys() == state(0).keys()
    (tmp_path / "text").write_text("hello, this is not a network")
    with pytest.raises(InputError, match="is not a network"):
        canon.inspect(tmp_path / "text")
