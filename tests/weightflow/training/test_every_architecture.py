"""Every architecture takes one step of every preset."""

import numpy as np
import pytest

from tests.second_device import second_device
from weightflow.batched.initialization import initialise
from weightflow.data.types import from_arrays
from weightflow.datasets import SOURCES
from weightflow.generator.generator import Flow
from weightflow.generator.model_card import card_of
from weightflow.networks.architectures import _OWN, Architecture
from weightflow.networks.readout import cosine
from weightflow.text import Prompt
from weightflow.training import run_store as runs
from weightflow.training.presets import built_in, read_preset
from weightflow.training.trainer import start
from weightflow.zoo.store import Record, Zoo, write_zoo

NAMES = ("cat", "dog", "bird", "horse")
TASKS = [NAMES[:3], (NAMES[0], *NAMES[2:]), NAMES[1:]]
IMAGES, ROWS, WORDS = (3, 8, 8), (6,), (5,)
ARCHITECTURES = {
    "mlp": ("mlp", {"inputs": 6, "hidden": [4]}, ROWS),
    "cnn": ("cnn", {"widths": [4, 4]}, IMAGES),
    "cnn with batch norm": ("cnn", {"widths": [4, 4], "norm": True, "grid": 2}, IMAGES),
    "resnet": ("resnet", {"widths": [4, 4]}, IMAGES),
    "resnet20": ("resnet20", {"width": 2}, IMAGES),
    "resnet18": ("resnet18", {"width": 2}, IMAGES),
    "vit": ("vit", {"size": 8, "patch": 4, "width": 4, "depth": 1, "heads": 1}, IMAGES),
    "text_transformer": (
        "text_transformer",
        {"vocabulary": 9, "length": 5, "width": 4, "depth": 1, "heads": 1},
        WORDS,
    ),
    "linear_head": ("linear_head", {"inputs": 6}, ROWS),
    "adapter": ("adapter", {"inputs": 6, "hidden": 3, "outputs": 256}, ROWS),
}
SMALL = {
    "encoder": "wordllama",
    "steps": 1,
    "batch_size": 4,
    "evaluate_every": 1,
    "save_every": 1,
    "model": {"width": 16, "depth": 1, "heads": 2},
    "behaviour": {"images": 4},
}


def data(shape):
    """Random examples of four classes; words are whole numbers."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 9, (120, *shape)) if shape == WORDS else rng.normal(size=(120, *shape))
    return from_arrays(
        f"random_{len(shape)}_{shape[0]}",
        NAMES,
        inputs.astype(np.float32),
        np.arange(120) % 4,
        divisor=1.0,
        licence="none",
        standardise=shape != WORDS,
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def zoos(request, tmp_path_factory):
    """Networks as they begin, of one task (for runs without words) and of several."""
    name, arguments, shape = ARCHITECTURES[request.param]
    found = data(shape)
    if found.name not in SOURCES:
        SOURCES.register(found.name, lambda: data(shape))
    net = Architecture(name, arguments, shape, 3, **({"readout": wordllama()} if name == "adapter" else {}))
    header = {"architecture": net.to_dict(), "dataset": found.name, "lineage": "independent"}
    folder = tmp_path_factory.mktemp("random")
    for place, tasks in (("one", TASKS[:1]), ("several", TASKS)):
        records = [
            Record(f"n{i}", i, found.name, split, tasks[i % len(tasks)], "independent")
            for i, split in enumerate(["seen"] * 6 + ["validation"] * 2)
        ]
        write_zoo(folder / place, header, initialise(net, range(8)), records)
    return folder


def wordllama():
    return cosine("wordllama")


def test_every_architecture_is_tried():
    assert {name for name, _, _ in ARCHITECTURES.values()} == set(_OWN)


PRESETS = [name for name in built_in() if not name.endswith("-small")]


def settings_of(preset, zoo):
    wordless = {"encoder": "none"} if is_wordless(preset) else {}
    unitless = {"augment": {"permute_units": False, "equivariance": 0.0}}  # a linear layer alone
    return {**SMALL, **wordless, **(unitless if zoo.architecture.name == "linear_head" else {})}


def is_wordless(preset):
    return read_preset(preset, {}).encoder == "none"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_one_step(zoos, preset, tmp_path):
    zoo = Zoo(zoos / ("one" if is_wordless(preset) else "several"))
    config = read_preset(preset, settings_of(preset, zoo))
    assert start(zoo, config, tmp_path / "run").run().step == 1
    (line,) = runs.read_metrics(tmp_path / "run")
    assert all(np.isfinite(value) for value in line.values())
    flow = Flow(tmp_path / "run")
    made = flow.sample([Prompt(TASKS[0])], steps=2)
    assert all(tensor.isfinite().all() for tensor in made[0].values())
    said = card_of(flow.header, None)
    assert ("**needs** training examples" in said) == zoo.architecture.has_statistics


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_one_step_on_a_second_device(zoos, preset, tmp_path):
    zoo = Zoo(zoos / ("one" if is_wordless(preset) else "several"))
    config = read_preset(preset, settings_of(preset, zoo))
    with second_device() as device:
        assert start(zoo, config, tmp_path / "run", str(device)).run().step == 1
