"""Tensors that need not fit in memory."""

import torch

from canon.io import large_tensors
from canon.io.large_tensors import large_zeros


def test_a_large_tensor_is_a_tensor_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(large_tensors, "IN_MEMORY", 100)
    monkeypatch.setattr(large_tensors.tempfile, "tempdir", str(tmp_path))
    large, small = large_zeros(6, 2, 5), large_zeros(5, 5)
    assert torch.equal(large, torch.zeros(6, 2, 5))
    rows = torch.tensor([4, 1])
    large[rows] = torch.arange(20.0).view(2, 2, 5)
    assert torch.equal(large[rows], torch.arange(20.0).view(2, 2, 5))
    assert large[0].count_nonzero() == 0
    assert small.shape == (5, 5)
    assert list(tmp_path.iterdir()) == []  # nothing is left, whoever is killed
