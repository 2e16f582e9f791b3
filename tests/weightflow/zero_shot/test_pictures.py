"""Pictures in prompts through a run's own backbone; words and pictures together."""

import numpy as np
import pytest
import torch
from PIL import Image

from canon.cli import console
from canon.errors import InputError
from weightflow import datasets
from weightflow.backbones.train import BackboneRecipe, BackboneTrainer
from weightflow.cli.main import app
from weightflow.data.pictures import read_picture
from weightflow.generator.generator import Flow
from weightflow.text import Description, Prompt
from weightflow.training.presets import read_preset
from weightflow.training.trainer import start
from weightflow.zero_shot.evidence import Evidence, Spread
from weightflow.zero_shot.fit_evidence import WAYS, HiddenClasses, choose, fit_evidence
from weightflow.zero_shot.regression import Settings, Statistics
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo

NAMES = ("red", "green", "blue", "black", "white", "yellow", "purple", "grey")
TINTS = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [0, 0, 0], [200, 200, 200], [200, 200, 0], [150, 0, 150], [90, 90, 90]]  # fmt: skip


def drawn(count, label, seed=0):
    """Pictures of one class: its colour under noise."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 56, (count, 8, 8, 3)) + np.array(TINTS[label])).astype(np.uint8)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.load.cache_clear()
        yield
    datasets.load.cache_clear()


@pytest.fixture(scope="module")
def features(own_cache, tmp_path_factory):
    """A data set of eight colours through a tiny backbone that never saw grey."""
    folder = tmp_path_factory.mktemp("colours")
    pixels = np.concatenate([drawn(60, label, label) for label in range(8)])
    np.savez(folder / "c.npz", inputs=pixels, labels=np.arange(8).repeat(60), class_names=NAMES)
    images, backbone = f"npz:{folder / 'c.npz'}", folder / "backbone.safetensors"
    tiny = BackboneRecipe(
        arguments={"widths": [4, 6], "stem_stride": 2}, epochs=4, batch_size=16, precision="float32"
    )
    BackboneTrainer(datasets.load(images), tiny, backbone, ["grey"]).run()
    return f"{images} through {backbone}"


def trained(features, folder, architecture, changes, more=None):
    recipe = {
        "dataset": features, "architecture": architecture, "shard_size": 20, "base": {"steps": 20},
        "tasks": {
            "sizes": [3, 3], "seen": 12, "validation": 2, "unseen": 2, "held_out": 0, "unseen_classes": 0,
            "unseen_by_backbone": 0, "classes": list(NAMES),
        },
        "training": {"steps": 40, "batch_size": 8}, **(more or {}),
    }  # fmt: skip
    build_zoo(read_recipe("tina_head", recipe), folder / "zoo")
    canonicalize_zoo(Zoo(folder / "zoo"), folder / "canonical")
    config = {
        "steps": 6, "batch_size": 4, "evaluate_every": 3, "save_every": 6, "behaviour": {"images": 8},
        "model": {"width": 16, "depth": 1, "heads": 2}, **changes,
    }  # fmt: skip
    start(Zoo(folder / "canonical"), read_preset("weightflow", config), folder / "run").run()
    return folder / "run"


@pytest.fixture(scope="module")
def linear(features, tmp_path_factory):
    return trained(
        features, tmp_path_factory.mktemp("linear"), {"name": "linear_head", "arguments": {"inputs": 6}},
        {"anchors": {"kind": "regression"}},
    )  # fmt: skip


@pytest.fixture
def grey(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, pixels in zip(files, drawn(4, 7, 99), strict=True):
        Image.fromarray(pixels).save(file)
    return [str(file) for file in files]


def gaussian_world(classes=40, features=12, text=8, noise=0.7, each=60):
    """Class means that words predict in part, and pictures about them."""
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(classes, text, generator=g)
    means = 2 * vectors @ torch.randn(text, features, generator=g) / text**0.5
    means = means + noise * torch.randn(classes, features, generator=g)
    factor = torch.eye(features) * torch.linspace(0.5, 3, features)
    pictures = means.unsqueeze(1) + torch.randn(classes, each, features, generator=g) @ factor
    return vectors, means, factor, pictures


@pytest.fixture(scope="module")
def world():
    vectors, means, factor, pictures = gaussian_world()
    spread = Spread(1.0, 0.5)
    found = Statistics.of(vectors, means, factor @ factor.T)
    residuals = 0.7 * torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    return Evidence.fit(found, Settings(), spread, residuals, 1.0), pictures, vectors


def test_the_correction_is_the_posterior_mean_of_a_gaussian(world):
    evidence, _, _ = world
    r = (evidence.residuals @ evidence.basis.T).double()
    s = ((evidence.basis * evidence.variances) @ evidence.basis.T).double()
    scale, mix = evidence.spread.double().tolist()
    tau = r.square().sum(1).mean() / s.trace()
    p = scale * ((1 - mix) * r.T @ r / len(r) + mix * tau * s)
    shown = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    for count in (1, 7):
        expected = (p @ torch.linalg.solve(p + s / count, shown.double().T)).T.float()
        torch.testing.assert_close(
            evidence.correction(shown, count, evidence.residuals), expected, atol=1e-4, rtol=1e-4
        )


def test_no_picture_leaves_the_words_and_many_leave_the_pictures(world):
    evidence, pictures, vectors = world
    none, many = pictures[3][:0], pictures[3].repeat(2000, 1)
    torch.testing.assert_close(evidence.mean(vectors[3], none), evidence.said(vectors[3:4])[0])
    for words in (vectors[9], None):
        torch.testing.assert_close(evidence.mean(words, many), many.mean(0), atol=0.05, rtol=0.05)
    unit = torch.nn.functional.normalize(vectors[3], dim=0) * 8**0.5
    torch.testing.assert_close(evidence.vector(vectors[3], none), unit)


def data_of(vectors, pictures):
    from weightflow.data.types import ClassificationData, Preprocessing, SealedSplit, Split

    def split(rows):
        own = pictures[:, rows]
        return Split(own.flatten(0, 1), torch.arange(len(own)).repeat_interleave(own.shape[1]))

    names = tuple(f"class {i}" for i in range(len(pictures)))
    parts = split(slice(0, 40)), split(slice(40, 60)), SealedSplit(split(slice(40, 60)))
    return ClassificationData("gaussians", names, *parts, Preprocessing(1.0, 0.0, 1.0), "none"), names


def test_words_and_pictures_are_no_worse_than_either_on_hidden_classes():
    vectors, _, _, pictures = gaussian_world()
    data, names = data_of(vectors, pictures)
    hidden = HiddenClasses(data, names, vectors)
    settings = choose(hidden.found, hidden.held, hidden.parts)
    evidence = hidden.fit()
    spread, residuals = Spread(*evidence.spread.tolist()), hidden.residuals(settings)
    found = {way: hidden.accuracies(settings, spread, residuals, way) for way in WAYS}
    for count in (1, 5):
        assert found["both"][count] > max(found["words"][count], found["pictures"][count]) - 0.01
    assert found["both"][1] > found["words"][1] + 0.03 or found["both"][5] > found["words"][5] + 0.03


def test_too_few_known_classes_to_hide_any():
    vectors, _, _, pictures = gaussian_world(classes=5)
    data, names = data_of(vectors, pictures)
    with pytest.raises(InputError, match="this run knows 5; 6 are needed"):
        fit_evidence(data, names, vectors)


def test_a_class_shown_by_pictures_is_told_apart_from_the_others(linear, grey):
    flow = Flow(linear)
    network = flow.generate(f"odd thing = image:{grey[0]} | {grey[1]} | {grey[2]}, red, blue")
    images = torch.from_numpy(np.concatenate([drawn(20, 7, 5), drawn(20, 0, 5), drawn(20, 2, 5)]))
    right = network(images.permute(0, 3, 1, 2)).argmax(1) == torch.arange(3).repeat_interleave(20)
    assert right.float().mean() > 0.8
    assert (linear / "pictures.safetensors").exists()


def test_the_row_of_a_shown_class_is_given_and_those_of_known_classes_stay_the_flows(linear, grey):
    flow = Flow(linear)
    prompt = Prompt.parse(f"grey | image:{grey[0]}, red, blue")
    states = [flow.sample_states([prompt], [seed])["weight"][0] for seed in (0, 1)]
    torch.testing.assert_close(states[0][0], states[1][0])
    assert not torch.equal(states[0][1], states[1][1])
    words = flow.sample_states([Prompt(("grey", "red", "blue"))], [0])["weight"][0]
    assert not torch.allclose(words[0], states[0][0])


def test_a_saved_generator_takes_pictures_without_the_data(linear, grey, tmp_path, monkeypatch):
    prompt = Prompt.parse(f"grey | image:{grey[0]}, red, blue")
    before = Flow(linear).sample_states([prompt], [0])
    Flow(linear).save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("weightflow.zero_shot.pictures.datasets.load", None)
    after = Flow(tmp_path / "saved").sample_states([prompt], [0])
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_runs_without_anchors_are_told_of_pictures_by_a_class_vector(features, grey, tmp_path):
    narrow = {"name": "mlp", "arguments": {"inputs": 6, "hidden": [3]}}
    flow = Flow(trained(features, tmp_path, narrow, {}))
    shown = flow.prompts(
        [Prompt(("grey", "red"), (Description("grey", ("grey",), tuple(grey[:2])), Description.of("red")))]
    ).vectors
    said = flow.prompts([Prompt(("grey", "red"))]).vectors
    assert shown.shape == said.shape
    torch.testing.assert_close(shown[0, 1], said[0, 1])
    assert not torch.allclose(shown[0, 0], said[0, 0])
    torch.testing.assert_close(shown[0, 0].square().mean(), torch.ones(()))


def test_adapters_compare_with_the_vector_that_pictures_predict(features, grey, tmp_path):
    g = torch.Generator().manual_seed(0)
    table = {"names": np.array(NAMES), "embeddings": torch.randn(8, 6, generator=g).numpy()}
    np.savez(tmp_path / "table.npz", **table)
    encoder = f"table:{tmp_path / 'table.npz'}"
    adapter = {"name": "adapter", "arguments": {"inputs": 6, "hidden": 4}}
    run = trained(features, tmp_path, adapter, {"encoder": encoder}, {"readout": {"encoder": encoder}})
    flow, text = Flow(run), f"thing = image:{grey[0]} | {grey[1]}, red"
    targets, prompt = flow.generate(text).network.targets[0], Prompt.parse(text)
    wanted = torch.nn.functional.normalize(flow.prompts([prompt]).vectors[0], dim=1)
    torch.testing.assert_close(targets, wanted[:2])
    with pytest.raises(
        InputError, match="'thing' is shown by pictures, and outputs are compared with vectors"
    ):
        flow.architecture.readout.described(prompt)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1", "CMYK", "LA"])
def test_pictures_of_another_size_or_mode_are_converted_and_said_once(linear, mode, grey, tmp_path, capsys):
    file = tmp_path / "large.tiff"
    if mode == "I;16":
        Image.fromarray((np.full((30, 20), 90) * 257).astype(np.uint16)).save(file)
    else:
        Image.new("RGB", (20, 30), (90, 90, 90)).convert(mode).save(file)
    pixels = read_picture(str(file), (3, 8, 8)).pixels
    assert pixels.shape == (3, 8, 8)
    if mode not in ("1", "P"):
        torch.testing.assert_close(pixels.float(), torch.full((3, 8, 8), 90.0), atol=3, rtol=0)
    prompt = f"grey = image:{file} | {grey[0]}, red"
    (tmp_path / "prompts.txt").write_text(f"{prompt}\n{prompt}\n")
    out = tmp_path / "nets"
    assert console.run_cli(app, ["sample", str(linear), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]) == 0  # fmt: skip
    assert capsys.readouterr().err.count(f"1 picture converted to the run's images, the first is {file}") == 1


def test_bad_pictures_are_one_line_and_nothing_is_written(linear, run, grey, tmp_path, capsys):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    many = " | ".join([grey[0]] * 1001)
    for folder, prompt, message in [
        (linear, f"grey = image:{damaged}, red", f"{damaged} cannot be read as an image"),
        (linear, f"grey = image:{tmp_path}/none.png, red", "none.png does not exist"),
        (linear, f"grey = image:{tmp_path}, red", "directory"),
        (linear, f"grey = image:{many}, red", "the prompt shows 1001 pictures; at most 1000 are read"),
        (run, f"grey = image:{grey[0]}, one", "use a run over the features of a backbone or one trained with open_clip"),
    ]:  # fmt: skip
        out = tmp_path / "nets"
        assert console.run_cli(app, ["sample", str(folder), "--classes", prompt, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert message in said.replace("\n", " ")
        assert not out.exists()
