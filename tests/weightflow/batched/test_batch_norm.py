"""Running statistics of batch norm: of whose examples they are."""

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.batch_norm import of_classes
from weightflow.networks.architectures import Architecture

CNN = Architecture("cnn", {"widths": [4, 5], "norm": True, "grid": 2}, (3, 8, 8), 3)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", inputs=images, labels=np.arange(60) % 3, class_names=["a", "b", "c"])
    yield f"npz:{tmp_path / 'a.npz'}"
    datasets.load.cache_clear()


def networks(count):
    torch.manual_seed(0)
    one = CNN.build().state_dict()
    return {name: torch.stack([t] * count) for name, t in one.items()}


def test_each_network_has_those_of_its_own_classes(dataset):
    state, classes = networks(3), [("a", "b"), ("c", "a"), ("b", "a")]
    found = of_classes(CNN, state, dataset, classes)
    split, module = datasets.load(dataset).train, CNN.build()
    module.load_state_dict({name: t[0] for name, t in state.items()})
    for network, labels in enumerate(((0, 1), (0, 2), (0, 1))):
        inputs = split.inputs[torch.isin(split.labels, torch.tensor(labels)).nonzero().squeeze(1)]
        mean = next(iter(module.children()))(inputs).mean((0, 2, 3))
        torch.testing.assert_close(found["1.running_mean"][network], mean, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["1.running_mean"][0], found["1.running_mean"][1])
    for name, tensor in state.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(found[name], tensor)


def test_a_class_that_the_data_set_lacks_calls_for_all_examples(dataset):
    state = networks(2)
    found = of_classes(CNN, state, dataset, [("a", "unicorn"), ("a", "b", "c")])
    assert torch.equal(found["1.running_mean"][0], found["1.running_mean"][1])


def test_networks_without_batch_norm_need_no_data():
    plain = Architecture("cnn", {"widths": [4]}, (3, 8, 8), 3)
    state = {name: t.unsqueeze(0) for name, t in plain.build().state_dict().items()}
    assert of_classes(plain, state, "npz:nowhere.npz", [("a", "b")]) is state


def test_a_data_set_that_is_gone_is_named():
    with pytest.raises(InputError, match="batch norm need training examples of their data set .*gone.npz"):
        of_classes(CNN, networks(1), "npz:gone.npz", [("a", "b")])
