"""Files come back as they were, hostile files are refused in one line, failed writes leave nothing."""

import errno
import json
import os
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from canon.errors import InputError, WorkError
from canon.io import checkpoint, files

FORMATS = ["net.safetensors", "net.pt", "net.pth", "net.bin"]


def example():
    return OrderedDict(
        z=torch.randn(3, 4),
        a=torch.randn(5, dtype=torch.float16),
        count=torch.tensor(7),
        flags=torch.tensor([True, False, True]),
        bf=torch.randn(3, dtype=torch.float64).to(torch.bfloat16),
        turned=torch.randn(4, 2).t(),
        none=torch.zeros(0, 3),
    )


@pytest.mark.parametrize("name", FORMATS)
def test_keys_order_dtypes_and_metadata_come_back(tmp_path, name):
    state = example()
    checkpoint.write(tmp_path / name, state, {"architecture": "mlp"})
    back = checkpoint.read(tmp_path / name)
    assert list(back.state) == list(state)
    assert back.metadata == {"architecture": "mlp"}
    for key, tensor in state.items():
        assert back.state[key].dtype == tensor.dtype
        assert torch.equal(back.state[key], tensor)


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    state = example()
    checkpoint.write(tmp_path / "net.safetensors", state)
    back = load_file(tmp_path / "net.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_what_the_safetensors_library_writes_is_read(tmp_path):
    state = {"b": torch.randn(3), "a": torch.arange(4)}
    save_file(state, tmp_path / "net.safetensors", metadata={"format": "pt"})
    back = checkpoint.read(tmp_path / "net.safetensors")
    assert back.metadata == {"format": "pt"}
    assert all(torch.equal(back.state[key], state[key]) for key in state)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_state_dict_is_found(tmp_path, key):
    torch.save({"epoch": 3, key: {"w": torch.ones(2)}}, tmp_path / "net.pt")
    assert list(checkpoint.read(tmp_path / "net.pt").state) == ["w"]


def test_a_module_loads_its_own_file(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    checkpoint.write(tmp_path / "b.pt", found.with_state(found.state))
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back._metadata == module.state_dict()._metadata
    module.load_state_dict(back)


def test_tied_tensors_stay_tied(tmp_path):
    weight = torch.randn(3, 3)
    torch.save({"a": weight, "b": weight, "c": torch.randn(3, 3)}, tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    moved = found.with_state({name: tensor.flip(0) for name, tensor in found.state.items()})
    checkpoint.write(tmp_path / "b.pt", moved)
    back = checkpoint.read(tmp_path / "b.pt").state
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["c"].data_ptr()
    assert torch.equal(back["a"], weight.flip(0))
    checkpoint.write(tmp_path / "b.safetensors", moved)
    assert torch.equal(checkpoint.read(tmp_path / "b.safetensors").state["b"], weight.flip(0))


def test_another_dtype_is_cast_back():
    found = checkpoint.Checkpoint({"w": torch.randn(3, dtype=torch.float16)})
    assert found.with_state({"w": torch.randn(3, dtype=torch.float64)}).state["w"].dtype == torch.float16


@pytest.mark.slow
def test_an_exported_program_is_read_and_written(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "a.pt2")
    found = checkpoint.read(tmp_path / "a.pt2")
    assert list(found.state) == list(module.state_dict())
    doubled = {name: 2 * tensor for name, tensor in found.state.items()}
    checkpoint.write(tmp_path / "b.pt2", found.with_state(doubled))
    module.load_state_dict(doubled)
    again = checkpoint.read(tmp_path / "b.pt2")
    assert torch.equal(again.program.module()(x), module(x))
    assert torch.equal(checkpoint.read(tmp_path / "a.pt2").state["0.bias"], found.state["0.bias"])


class Code:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def header(length, text=b"{}"):
    return length.to_bytes(8, "little") + text


def claims(bytes_claimed):
    text = json.dumps(
        {"w": {"dtype": "F32", "shape": [bytes_claimed // 4], "data_offsets": [0, bytes_claimed]}}
    ).encode()
    return header(len(text), text)


HOSTILE = {
    "empty.safetensors": (b"", "empty"),
    "empty.pt": (b"", "empty"),
    "short.safetensors": (b"abc", "cut off"),
    "huge_header.safetensors": (header(2**60), "header claims 1152921504606846976 bytes"),
    "claims.safetensors": (
        claims(4_000_000_000_000),
        "claims 4000000000000 bytes of tensors, the file holds 0",
    ),
    "list.safetensors": (header(2, b"[]"), "damaged"),
    "not_json.safetensors": (header(4, b"{{{{"), "damaged"),
    "deep.safetensors": (header(200_000, b"[" * 200_000), "damaged"),
    "entry.safetensors": (header(8, b'{"w":3} '), "damaged"),
    "junk.pt": (b"hello world" * 50, "damaged or is no PyTorch file"),
    "junk.pt2": (b"hello world" * 50, "not a torch.export file"),
    "list.pt": (None, "holds a list"),
    "loose.pt": (None, "epoch is not a tensor"),
    "none.pt": (None, "holds no tensor"),
    "net.onnx": (b"x", "ends in none of .safetensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, name):
    content, message = HOSTILE[name]
    whole = {"list.pt": [1, 2], "loose.pt": {"epoch": 3, "w": torch.ones(2)}, "none.pt": {}}
    if content is None:
        torch.save(whole[name], tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        checkpoint.read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, name):
    checkpoint.write(tmp_path / name, example())
    content = (tmp_path / name).read_bytes()
    for kept in (len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"damaged|cut off") as caught:
            checkpoint.read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Code()}, "net.pt")
    with pytest.raises(InputError, match=r"needs the code of posix.system .* as .safetensors"):
        checkpoint.read("net.pt")
    assert not os.path.exists("owned")


def test_a_pickle_that_claims_more_than_it_holds_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):  # 1000 as a two-byte integer becomes a four-byte one
                content = content.replace(b"M\xe8\x03", b"J\x00\x00\x00\x7f")
            target.writestr(name, content)
    with pytest.raises(InputError, match="claims 8522825728 bytes of tensors"):
        checkpoint.read(tmp_path / "b.pt")


def test_a_directory_and_a_missing_file(tmp_path):
    (tmp_path / "d.pt").mkdir()
    with pytest.raises(InputError, match="is a folder without weights"):
        checkpoint.read(tmp_path / "d.pt")
    with pytest.raises(InputError, match="is a directory"):
        checkpoint.write(tmp_path / "d.pt", example())
    with pytest.raises(InputError, match="does not exist"):
        checkpoint.read(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="its folder does not exist"):
        checkpoint.write(tmp_path / "missing" / "net.pt", example())


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="No space left on device; free some space"):
        checkpoint.write(tmp_path / name, example())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def write_half():
        with files.atomic_open(tmp_path / "x") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_write_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.atomic_write(tmp_path / "link", "new", follow=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_sha256_of_a_known_text(tmp_path):
    files.atomic_write(tmp_path / "abc", b"abc")
    assert files.sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "my_network"])
@pytest.mark.parametrize("suffix", ["ckpt", "pth.tar", "th", "pt"])
def test_a_trainers_container_is_kept(tmp_path, key, suffix):
    state = {"w": torch.ones(2, 3), "b": torch.zeros(2)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}
    whole = {"epoch": 3, key: state, "optimizer": optimizer, "notes": {"seed": 1}}
    torch.save(whole, tmp_path / f"a.{suffix}")
    found = checkpoint.read(tmp_path / f"a.{suffix}")
    assert found.container.left_out == ("optimizer",)
    changed = found.with_state({name: tensor + 1 for name, tensor in found.state.items()})
    checkpoint.write(tmp_path / f"b.{suffix}", changed)
    again = torch.load(tmp_path / f"b.{suffix}", weights_only=True)
    assert set(again) == {"epoch", key, "notes"}
    assert torch.equal(again[key]["w"], torch.full((2, 3), 2.0))


def test_an_average_beside_the_network_is_asked_for(tmp_path):
    state = {"w": torch.ones(2, 3)}
    torch.save({"state_dict": state, "state_dict_ema": {"w": torch.zeros(2, 3)}}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="holds state_dict and state_dict_ema, which are different networks"):
        checkpoint.read(tmp_path / "a.ckpt")


W, V = {"w": torch.ones(2, 3)}, {"v": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    "whole",
    [
        {"state_dict": W, "ema": {"decay": 0.9, "shadow": W}},
        {"model": W, "model_ema": V},
        {"generator": W, "discriminator": V},
        {"netG": W, "netD": V},
        {"model": W, "state_dict": V},
        {"model": W, "best": W},
        {"model": {"state_dict": W, "state_dict_ema": W}},
    ],
    ids=lambda whole: " ".join(whole),
)
def test_another_network_beside_it_is_asked_for(tmp_path, whole):
    torch.save(whole, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"holds \w+ and \w+, which are different networks"):
        checkpoint.read(tmp_path / "a.ckpt")


def test_a_container_in_a_container_is_kept(tmp_path):
    torch.save(
        {"checkpoint": {"model": W, "epoch": 2, "optimizer": {"state": {0: W}}}, "lr": 0.1}, tmp_path / "a.th"
    )
    found = checkpoint.read(tmp_path / "a.th")
    assert found.container.left_out == ("optimizer",)
    checkpoint.write(tmp_path / "b.th", found.with_state({"w": torch.full((2, 3), 2.0)}))
    again = torch.load(tmp_path / "b.th", weights_only=True)
    assert again == {"checkpoint": {"model": again["checkpoint"]["model"], "epoch": 2}, "lr": 0.1}
    assert torch.equal(again["checkpoint"]["model"]["w"], torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("whole", "place"),
    [
        ({"state": {"model": W}}, ("state", "model")),
        ({"run": {"nets": {"main": W, "step": 3}}, "seed": 1}, ("run", "nets", "main")),
        ({"optim": {"state": {0: W}}, "task": {"net": W}}, ("task", "net")),
    ],
)
def test_containers_lie_at_any_depth(tmp_path, whole, place):
    torch.save(whole, tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    checkpoint.write(tmp_path / "b.pt", found.with_state({"w": torch.full((2, 3), 2.0)}))
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    for key in place:
        again = again[key]
    assert torch.equal(again["w"], torch.full((2, 3), 2.0))


def test_several_containers_are_asked_for(tmp_path):
    torch.save({"first": {"net": W}, "second": {"net": V}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds containers of tensors under first, second"):
        checkpoint.read(tmp_path / "a.pt")


def test_the_entries_of_a_container_keep_their_order(tmp_path):
    torch.save({"epoch": 1, "net": W, "lr": 0.1}, tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    assert list(found.container.wrap(found.state)) == ["epoch", "net", "lr"]


def test_an_averaged_model_keeps_its_count(tmp_path):
    net = torch.nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    torch.save(averaged.state_dict(), tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    assert found.state.keys() == {"module.weight", "module.bias"}
    checkpoint.write(tmp_path / "b.pt", found)
    averaged.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    assert averaged.n_averaged == 1


def test_a_torchscript_program_is_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"is a TorchScript program, .* save `torch\.jit\.load"):
        checkpoint.read(tmp_path / "a.pt")


def test_single_numbers_beside_a_network_are_kept(tmp_path):
    kept = {"best_acc1": torch.tensor(0.5), "scaler": {"scale": torch.ones(1)}}
    torch.save({"state_dict": W, **kept, "optimizer": {"state": {0: W}}}, tmp_path / "a.pth.tar")
    found = checkpoint.read(tmp_path / "a.pth.tar")
    assert found.container.left_out == ("optimizer",)
    assert found.container.wrap(found.state).keys() == {"state_dict", *kept}


def test_quantized_tensors_are_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)
        torch.save({"fc.weight": tensor}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds quantized tensors"):
        checkpoint.read(tmp_path / "a.pt")


def test_an_optimizer_alone_is_no_network(tmp_path):
    torch.save({"epoch": 1, "optimizer": {"state": {0: W}, "param_groups": []}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="is not a state_dict"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_container_whose_keys_are_numbers_is_kept(tmp_path):
    torch.save({3: {"w": torch.ones(2, 2)}, "epoch": 7, 4: [torch.zeros(2)]}, tmp_path / "a.pt")
    found = checkpoint.read(tmp_path / "a.pt")
    assert found.container.left_out == ("4",)
    checkpoint.write(tmp_path / "b.pt", found)
    written = torch.load(tmp_path / "b.pt")
    assert set(written) == {3, "epoch"}
    assert torch.equal(written[3]["w"], torch.ones(2, 2))


def test_two_keys_of_one_text_are_refused(tmp_path):
    torch.save({0: torch.ones(2), "0": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="under a number and under its text"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_list_that_is_referred_to_very_often_is_looked_at_once(tmp_path):
    often: list[object] = [torch.zeros(2)]
    for _ in range(60):
        often = [often, often]
    torch.save({"state_dict": {"w": torch.ones(2)}, "history": often}, tmp_path / "a.pt")
    assert checkpoint.read(tmp_path / "a.pt").container.left_out == ("history",)


def test_a_list_of_numbers_that_is_referred_to_very_often_is_kept(tmp_path):
    often: list[object] = [torch.zeros(1)]
    for _ in range(60):
        often = [often, often]
    torch.save({"state_dict": {"w": torch.ones(2)}, "history": often}, tmp_path / "a.pt")
    checkpoint.write(tmp_path / "b.pt", checkpoint.read(tmp_path / "a.pt"))
    assert set(torch.load(tmp_path / "b.pt")) == {"state_dict", "history"}
