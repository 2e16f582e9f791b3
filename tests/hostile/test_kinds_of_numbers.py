"""Tensors of another kind of numbers than their place asks for: refused, not converted in silence."""

import numpy as np
import pytest
import torch

import canon
from canon.errors import InputError
from canon.io import checkpoint
from canon.io.arrays import read_npz
from canon.io.examples import read_data
from tests.hostile import programs
from weightflow.datasets import backbone_features
from weightflow.zoo.network_file import metadata_of, read_network


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.complex64])
def test_a_permutation_is_of_whole_numbers(tmp_path, dtype):
    path = tmp_path / "t.safetensors"
    spec = canon.trace(programs.network(), torch.zeros(2, 5))
    canon.Transform(spec, canon.random(spec, torch.Generator().manual_seed(0))).save(path)
    found = checkpoint.read(path)
    odd = {n: t.to(dtype) if n.startswith("permutation.") else t for n, t in found.state.items()}
    checkpoint.write(path, odd, found.metadata)
    with pytest.raises(InputError, match="its permutation is torch"):
        canon.Transform.load(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_scales_are_real_numbers(tmp_path, dtype):
    path = tmp_path / "t.safetensors"
    spec = canon.trace(programs.network(), torch.zeros(2, 5))
    element, ones = canon.random(spec, torch.Generator().manual_seed(0)), {"0": torch.ones(8)}
    canon.Transform(spec, element, ones).save(path)
    found = checkpoint.read(path)
    odd = {n: t.to(dtype) if n.startswith("scale.") else t for n, t in found.state.items()}
    checkpoint.write(path, odd, found.metadata)
    with pytest.raises(InputError, match="its scale is torch"):
        canon.Transform.load(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_are_floating_point_numbers(zoo, tmp_path, dtype):
    record = zoo.records[0]
    state = zoo.architecture.trim(
        {name: tensor.to(dtype) for name, tensor in zoo.network(0).items()}, len(record.classes)
    )
    metadata = metadata_of(zoo.architecture, record.classes)
    checkpoint.write(tmp_path / "n.safetensors", state, metadata)
    with pytest.raises(InputError, match="expected floating-point numbers"):
        read_network(tmp_path / "n.safetensors", zoo.architecture, zoo.dataset)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", np.longdouble, ">i2", ">u4", "?"])
def test_arrays_of_any_byte_order_and_size_are_read(tmp_path, dtype):
    x = (np.arange(12).reshape(4, 3) % 2).astype(dtype)
    np.savez(tmp_path / "x.npz", x=x, y=np.array([0, 1, 2, 1], ">i8"))
    found = read_data(tmp_path / "x.npz", labels=True)
    assert found.x.tolist() == x.astype(float).tolist()
    assert found.y.tolist() == [0, 1, 2, 1]


def test_features_are_finite(tmp_path):
    np.save(tmp_path / "train.npy", np.ones((3, 3, 4, 4), np.uint8))
    with pytest.raises(InputError, match="features of the backbone are not finite"):
        backbone_features._compute(lambda images: images.float().flatten(1) * torch.inf, tmp_path, tmp_path)


@pytest.mark.parametrize("code", [0x110000, 0x61000000, 0xFFFFFFFF, 0xD800, 0xDFFF])
@pytest.mark.parametrize("order", ["<", ">"])
def test_text_of_no_characters_is_refused(code, order, tmp_path):
    """numpy reads any numbers as characters; Python fails on some when they become text."""
    names = np.array(["ab", "c"]).astype(f"{order}U2")
    np.savez(tmp_path / "x.npz", names=names)
    assert read_npz(tmp_path / "x.npz")["names"].tolist() == ["ab", "c"]
    names.view(f"{order}u4")[1] = code
    np.savez(tmp_path / "x.npz", names=names, empty=np.array([""]))
    with pytest.raises(InputError, match="'names' holds characters that there are none of"):
        read_npz(tmp_path / "x.npz")
