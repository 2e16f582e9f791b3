"""Programs of every architecture, heads with their backbone among them, give what the network gives on raw inputs."""

import json

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.backbones import read_backbone
from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
from weightflow.batched.initialization import initialise
from weightflow.export.export import export_zoo
from weightflow.networks.architectures import _OWN, Architecture
from weightflow.networks.readout import cosine
from weightflow.zoo.store import Record, Zoo, write_zoo

NAMES = ("cat", "dog", "bird", "horse")
IMAGES, WORDS = (3, 8, 8), (5,)
HEAD = ("linear_head", "adapter")
ARGUMENTS = {
    "mlp": {"inputs": 192, "hidden": [4]},
    "cnn": {"widths": [4, 4]},
    "cnn with batch norm": {"widths": [4, 4], "norm": True, "grid": 2},
    "resnet": {"widths": [4, 4]},
    "resnet20": {"width": 2},
    "resnet18": {"width": 2},
    "vit": {"size": 8, "patch": 4, "width": 4, "depth": 1, "heads": 1},
    "text_transformer": {"vocabulary": 9, "length": 5, "width": 4, "depth": 1, "heads": 1},
    "linear_head": {"inputs": 6},
    "adapter": {"inputs": 6, "hidden": 3, "outputs": 256},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bytes of pictures, words, and features of the pictures by a backbone."""
    place = tmp_path_factory.mktemp("exports")
    rng = np.random.default_rng(0)
    common = {"labels": np.arange(120) % 4, "class_names": NAMES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTFLOW_CACHE", str(place / "cache"))
        datasets.load.cache_clear()
        np.savez(place / "images.npz", inputs=rng.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8), **common)
        np.savez(place / "words.npz", inputs=rng.integers(0, 9, (120, *WORDS)).astype(np.float32), **common)
        recipe = BackboneRecipe(
            arguments={"widths": [4, 6], "stem_stride": 2}, epochs=1, batch_size=16, precision="float32"
        )
        images = datasets.load(f"npz:{place / 'images.npz'}")
        BackboneTrainer(images, recipe, place / "backbone.safetensors").run()
        yield place
    datasets.load.cache_clear()


def population(folder, case):
    """One network of an architecture on the data that it is for."""
    name = case.partition(" ")[0]
    images = f"npz:{folder / 'images.npz'}"
    dataset, shape = {
        "text_transformer": (f"npz:{folder / 'words.npz'}?divisor=1&mean=0&std=1", WORDS),
        **dict.fromkeys(HEAD, (f"{images} through {folder / 'backbone.safetensors'}", (6,))),
    }.get(name, (images, IMAGES))
    readout = {"readout": cosine("wordllama")} if name == "adapter" else {}
    net = Architecture(name, ARGUMENTS[case], shape, 3, **readout)
    header = {"architecture": net.to_dict(), "dataset": dataset, "lineage": "imported"}
    path = folder / case
    if not path.exists():
        write_zoo(
            path, header, initialise(net, [0]), [Record("x", 0, dataset, "seen", NAMES[:3], "imported")]
        )
    return Zoo(path)


def expected_of(folder, zoo):
    """Raw inputs as people have them, and the logits of the network as it is in the zoo."""
    from weightflow.generator.decode import to_module
    from weightflow.text import Prompt

    raw = torch.from_numpy(np.load(folder / "images.npz")["inputs"][:5]).permute(0, 3, 1, 2).contiguous()
    if zoo.architecture.name == "text_transformer":
        raw = torch.from_numpy(np.load(folder / "words.npz")["inputs"][:5]).long()
    data = datasets.load(zoo.dataset)
    seen = read_backbone(folder / "backbone.safetensors")(raw) if zoo.architecture.name in HEAD else raw
    network = to_module(zoo.architecture, {n: t[0] for n, t in zoo.load().items()}, Prompt(NAMES[:3]))
    with torch.no_grad():
        return raw, network.eval()(data.preprocessing(seen))


def test_every_architecture_is_exported():
    assert {case.partition(" ")[0] for case in ARGUMENTS} == set(_OWN)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", ARGUMENTS)
def test_onnxruntime_gives_the_logits_of_raw_inputs(folder, case, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    zoo = population(folder, case)
    raw, expected = expected_of(folder, zoo)
    try:
        (path,) = export_zoo(zoo, tmp_path / "files", format="onnx")
    except InputError as error:
        if torch.__version__ < (2, 7):
            pytest.skip(f"torch 2.6 translates few operations: {error}")
        raise
    session = runtime.InferenceSession(str(path))
    (taken,) = session.get_inputs()
    assert taken.type == {torch.uint8: "tensor(uint8)", torch.int64: "tensor(int64)"}[raw.dtype]
    said = session.get_modelmeta().custom_metadata_map
    assert (said["input_dtype"], json.loads(said["input_shape"])) == (
        str(raw.dtype).removeprefix("torch."),
        list(raw.shape[1:]),
    )
    for count in (5, 1):
        (logits,) = session.run(["logits"], {"inputs": raw[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[:count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ARGUMENTS)
def test_programs_give_the_logits_of_raw_inputs_of_any_dtype(folder, case, tmp_path):
    zoo = population(folder, case)
    raw, expected = expected_of(folder, zoo)
    (path,) = export_zoo(zoo, tmp_path / "files", format="pt2")
    taken = json.loads((path.parent / "networks.json").read_text())["pt2"]
    assert (taken["input_dtype"], taken["input_shape"]) == (str(raw.dtype)[6:], list(raw.shape[1:]))
    program = torch.export.load(path).module()
    for count in (5, 1):
        for dtype in (raw.dtype, torch.uint8, torch.int64, torch.float32, torch.float64):
            found = program(raw[:count].to(dtype))
            torch.testing.assert_close(found, expected[:count], atol=1e-4, rtol=1e-4)
