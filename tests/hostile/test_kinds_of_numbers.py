"""Tensors of another kind of numbers than their place asks for: refused, not converted in silence."""

import numpy as np
import pytest
import torch

import canon
from canon.errors import InputError
from canon.io import checkpoint
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


def test_features_are_finite(tmp_path):
    np.save(tmp_path / "train.npy", np.ones((3, 3, 4, 4), np.uint8))
    with pytest.raises(InputError, match="features of the backbone are not finite"):
        backbone_features._compute(lambda images: images.float().flatten(1) * torch.inf, tmp_path, tmp_path)
