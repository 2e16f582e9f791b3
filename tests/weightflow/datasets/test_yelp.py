"""Reviews in the published files: words become numbers, stars become classes."""

import csv
import json

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow import datasets
from weightflow.batched.accuracy import measured
from weightflow.batched.training import train_many
from weightflow.datasets.yelp import STARS, encode
from weightflow.zoo.recipe import read_recipe

WORDS = ("awful", "poor", "fine", "good", "superb")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_DATA", str(tmp_path))
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    datasets.load.cache_clear()
    yield tmp_path
    datasets.load.cache_clear()


def review(stars: int, number: int) -> str:
    return f"The food was {WORDS[stars - 1]}, visit {number}!"


def write_csv(folder, count=60, extra=()):
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([(1 + i % 5, review(1 + i % 5, i)) for i in range(count)])
            writer.writerows(extra)


def write_json(folder, count=60):
    folder.mkdir(parents=True)
    lines = [json.dumps({"stars": float(1 + i % 5), "text": review(1 + i % 5, i)}) for i in range(count)]
    (folder / "yelp_academic_dataset_review.json").write_text("\n".join(lines), encoding="utf-8")


def test_words_have_the_numbers_of_their_frequency():
    numbers = {"the": 2, "was": 3}
    assert encode("The FOOD was: the...", numbers, 6).tolist() == [2, 1, 3, 2, 0, 0]
    assert encode("the the the", numbers, 2).tolist() == [2, 2]


@pytest.mark.parametrize("write", [write_csv, write_json], ids=["csv", "json"])
def test_both_published_layouts_are_read(place, write):
    write(place / ("yelp_review_full_csv" if write is write_csv else "yelp_dataset"))
    data = datasets.load("yelp?words=12&length=5")
    assert data.class_names == STARS
    rows = data.train.inputs[torch.arange(len(data.train))]
    assert rows.shape[1:] == (5,)
    # food, the, visit, was stand in every review: numbers 2 to 5 in the order of the alphabet
    assert {tuple(row[:3].tolist()) for row in rows} == {(3, 2, 5)}
    by_label = [set(rows[data.train.labels == label, 3].tolist()) for label in range(5)]
    assert all(len(own) == 1 for own in by_label)
    assert len(set.union(*by_label)) == 5
    assert rows.max() < 12


def test_a_transformer_learns_the_stars(place):
    write_csv(place / "yelp_review_full_csv")
    tiny = {"vocabulary": 40, "length": 8, "width": 16, "depth": 1, "heads": 2}
    recipe = read_recipe(
        "yelp-small", {"dataset": "yelp?words=40&length=8", "architecture": {"arguments": tiny},
                       "training": {"steps": 60, "learning_rate": 1e-2}})  # fmt: skip
    tasks, architecture, data = (
        recipe.make_tasks()[:1],
        recipe.make_architecture(),
        datasets.load(recipe.dataset),
    )
    trained = train_many(architecture, data, tasks, [0], recipe.training)
    assert measured(architecture, trained.state, data, tasks)[0]["validation"] > 0.8


def test_a_damaged_review_is_named(place):
    write_csv(place / "yelp_review_full_csv", extra=[("7", "seven stars")])
    with pytest.raises(InputError, match=r"train.csv: review 61 is damaged .* 1 to 5 stars and a text"):
        datasets.load("yelp")


@pytest.mark.parametrize(
    ("stars", "text"),
    [("3", "1e308"), ("3", "null"), ("3", "true"), ("3", "[]"), ("true", '"good"'), ('"3"', '"good"')],
)
def test_a_review_whose_text_or_stars_are_of_another_type_is_named(place, stars, text):
    folder = place / "yelp"
    folder.mkdir()
    line = f'{{"stars": {stars}, "text": {text}}}'
    (folder / "yelp_academic_dataset_review.json").write_text(line + "\n")
    with pytest.raises(InputError, match="review 1 is damaged"):
        datasets.load("yelp")


def test_a_folder_of_something_else_says_what_is_missing(place):
    (place / "yelp").mkdir()
    (place / "yelp" / "photos.json").touch()
    with pytest.raises(
        InputError, match="has neither train.csv and test.csv nor yelp_academic_dataset_review"
    ):
        datasets.load("yelp")


def test_missing_reviews_say_where_they_were_looked_for(place):
    with pytest.raises(
        InputError, match=r"(?s)'yelp' is not on this computer; .*yelp_review_full_csv.*WEIGHTFLOW_DATA"
    ):
        datasets.load("yelp")


def test_test_reviews_bring_no_words(place):
    write_csv(place / "yelp_review_full_csv")
    with open(place / "yelp_review_full_csv" / "test.csv", "a", encoding="utf-8") as file:
        file.writelines('"5","zebra zebra zebra zebra"\n' for _ in range(50))
    inputs = (
        np.load(next(place.glob("cache/decoded/*")) / "test.npy") if datasets.load("yelp?length=4") else None
    )
    assert inputs[-1].tolist() == [1, 1, 1, 1]
