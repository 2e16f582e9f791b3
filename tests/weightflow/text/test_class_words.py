"""Names of classes that no encoder knows are said in words: at building, at training, and to whoever samples."""

import numpy as np
import pytest

import weightflow
from canon.errors import InputError
from weightflow import datasets
from weightflow.text import load_encoder
from weightflow.text.class_words import class_words, described, names_of_words, read_class_words
from weightflow.text.encoder import mean_vector
from weightflow.zoo.recipe import read_recipe

WORDS = {"n01": ("dog",), "n02": ("cat", "a small pet")}


def test_a_class_has_the_vector_of_its_words():
    plain = load_encoder("wordllama")
    told = described(plain, WORDS)
    found, words = told.encode(["n01", "n02", "bird"]), plain.encode(["dog", "cat", "a small pet", "bird"])
    np.testing.assert_allclose(found[0], words[0], atol=1e-5)
    np.testing.assert_allclose(found[1], mean_vector(list(words[1:3])), atol=1e-5)
    np.testing.assert_allclose(found[2], words[3], atol=1e-5)
    assert told.identity != plain.identity
    assert described(plain, {}) is plain
    assert described(load_encoder("none"), WORDS) is load_encoder("none")
    assert names_of_words(WORDS)["a small pet"] == "n02"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01\n", "line 1: 'n01' needs a class and words"),
        ("n01,dog\nn01,cat\n", "line 2: 'n01,cat' has this class again"),
        ("class,words\n", "describes no class"),
        ('n01,"dog\n', "is not a CSV file"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_words(tmp_path / "names.csv")


def test_words_are_for_classes_of_the_data(tmp_path):
    (tmp_path / "names.csv").write_text("\ufeffclass,words\nred_fox,fox\n\nn02, cat, a small pet\n", "utf-8")
    found = read_class_words(tmp_path / "names.csv")
    assert class_words(found, ["red fox", "n02"], "pets") == {"red fox": ("fox",), "n02": WORDS["n02"]}
    with pytest.raises(InputError, match="'pets' has no class 'red_fox'; nearest: red"):
        class_words(found, ["red", "n02"], "pets")


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    datasets.load.cache_clear()
    x = np.random.default_rng(0).normal(size=(90, 6))
    names = np.array(["n01", "n02", "n03"])
    np.savez("pets.npz", inputs=x, labels=names[np.arange(90) % 3])
    np.savez("vectors.npz", names=["dog", "cat", "a small pet", "horse"], embeddings=np.eye(4, 5))
    yield "npz:pets.npz"
    datasets.load.cache_clear()


SMALL = {
    "tasks.sizes": [2, 2],
    "tasks.validation_fraction": 0.0,
    "tasks.unseen_fraction": 0.0,
    "tasks.seen": 4,
    "tasks.validation": 0,
    "tasks.unseen": 0,
    "training.steps": 3,
    "architecture.arguments.hidden": [3],
}


def test_a_recipe_is_fitted_to_other_data(pets):
    with pytest.warns(
        weightflow.InputWarning, match=r"tasks.sizes = \[2, 2\], architecture.arguments.inputs = 6"
    ):
        assert read_recipe("digits", {"dataset": pets}).tasks.sizes == (2, 2)
    asked = {"dataset": pets, "tasks": {"sizes": [3, 3]}, "architecture": {"arguments": {"inputs": 6}}}
    assert read_recipe("digits", asked).tasks.sizes == (3, 3)
    with pytest.warns(
        weightflow.InputWarning, match=r"tasks.classes = \[\].*unseen_by_backbone = 0.*inputs = 6"
    ):
        plan = read_recipe("tina_head", {"dataset": pets})
    assert (plan.tasks.held_out, plan.tasks.unseen_classes, plan.tasks.unseen_by_backbone) == (0, 0, 0)


@pytest.mark.filterwarnings("ignore:recipe")
def test_words_are_checked_before_a_zoo_is_built_and_kept_to_the_end(pets, tmp_path):
    settings = SMALL | {"dataset": pets, "encoder": "table:vectors.npz"}
    with pytest.raises(InputError, match="no vector for 3 of 3 classes, the first is 'n01' .*--descriptions"):
        weightflow.build_zoo("digits", "zoo", settings=settings)
    assert not (tmp_path / "zoo").exists()
    words = {"n01": "dog", "n02": ["cat", "a small pet"], "n03": "horse"}
    zoo = weightflow.build_zoo("digits", "zoo", settings=settings | {"descriptions": words})
    canonical = weightflow.canonicalize(zoo, "canonical")
    flow = weightflow.train(canonical, "run", steps=1, settings={"model.width": 16, "behaviour.weight": 0})
    assert flow.encoder.identity.startswith("table:")
    assert flow.neighbours(weightflow.Prompt.parse("dog, horse"))[0].nearest == "n01"
    flow.save_pretrained("saved")
    again = weightflow.load("saved")
    nets = again.sample("n01, n03", 2)
    assert all((nets[0][name] == flow.sample("n01, n03", 2)[0][name]).all() for name in nets[0])
