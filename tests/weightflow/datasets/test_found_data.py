"""Data as people have them: folders, pictures and arrays of every kind come out as a person sees them, or are refused."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from canon.errors import InputError
from weightflow import datasets
from weightflow.data.info import without_folders
from weightflow.data.partition import parts_by_content

CLASSES = ("ant", "bee")
ONES = np.ones((60, 4), np.float32)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


def picture(seed: int, shape=(6, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(root: Path, parts=("train", "test"), count=12, suffix=".png", shape=(6, 6, 3), below=("",)) -> Path:
    """Different pictures under root/PART/CLASS[/BELOW]."""
    number = 0
    for part in parts:
        for name in CLASSES:
            for place in range(count):
                folder = root / part / name / below[place % len(below)]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(number, shape)).save(folder / f"{place:03d}{suffix}")
                number += 1
    return root


def sizes(name: str) -> tuple[int, int, int]:
    data = datasets.load(name)
    assert data.class_names == CLASSES
    return len(data.train), len(data.validation), len(data.test)


def packed(root: Path, inside: str) -> Path:
    with zipfile.ZipFile(f"{root}.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, Path(inside) / path.relative_to(root))
    return Path(f"{root}.zip")


@pytest.mark.parametrize(
    "parts", [("Train", "Test"), ("train", "valid"), ("TRAINING", "Validation"), ("train", "val")]
)
def test_splits_are_found_by_their_usual_names(parts):
    root = write(Path("photos"), parts)
    train, validation, test = sizes(f"imagefolder:{root}")
    assert (train + validation, test) == (24, 24)


def test_three_splits_are_what_they_are_called():
    assert sizes(f"imagefolder:{write(Path('photos'), ('train', 'valid', 'test'), count=5)}") == (10, 10, 10)


def test_a_folder_beside_the_splits_is_refused():
    write(Path("photos"), ("train", "test", "more"))
    with pytest.raises(InputError, match="more/ lies beside train/ and is neither of train, val, test"):
        datasets.load("imagefolder:photos")
    write(Path("twice"), ("train", "valid", "val"))
    with pytest.raises(InputError, match="val/ and valid/ are both validation"):
        datasets.load("imagefolder:twice")


def test_a_class_may_be_called_train():
    root = write(Path("all"), ("x",)) / "x"
    (root / "bee").rename(root / "train")
    assert datasets.load(f"imagefolder:{root}").class_names == ("ant", "train")


def test_a_zip_archive_has_the_classes_and_splits_of_the_folder():
    root = write(Path("all"), ("",), below=("left", "right"))
    whole = sizes(f"imagefolder:{root}")
    for inside in ("", "data", "a/b"):
        datasets.load.cache_clear()
        assert sizes(f"imagefolder:{packed(root, inside)}") == whole
    assert sum(whole) == 24


def test_hidden_files_and_folders_do_not_count():
    root = write(Path("photos"))
    for hidden in ("train/.ipynb_checkpoints", "__MACOSX/train/ant", "train/ant/@eaDir"):
        shutil.copytree(root / "test" / "bee", root / hidden)
    (root / "train" / "ant" / "._000.png").write_bytes(b"\0\5\x16\7" + b"x" * 60)
    (root / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    for name in (root, packed(root, "photos")):
        train, validation, test = sizes(f"imagefolder:{name}")
        assert (train + validation, test) == (24, 24)


def test_pictures_outside_of_classes_are_counted():
    root = write(Path("photos"))
    shutil.copy(root / "train" / "ant" / "000.png", root / "cover.png")
    assert datasets.load(f"imagefolder:{root}").remarks == (
        "1 images lie outside of the folders of classes and were left out",
    )


def test_skipped_pictures_are_counted():
    root = write(Path("photos"))
    (root / "train" / "ant" / "000.png").write_bytes(b"no picture")
    (remark,) = datasets.load(f"imagefolder:{root}?skip_corrupt").remarks
    assert remark == (
        "1 of 48 images are corrupt and were left out, the first is photos/train/ant/000.png (of no image format)"
    )


@pytest.mark.parametrize("first", [True, False])
def test_colour_is_decided_by_all_pictures(first):
    root = write(Path("photos"))
    odd = root / "train" / ("ant" if first else "bee") / "000.png"
    Image.open(odd).convert("L").save(odd)
    with pytest.raises(InputError, match="1 images are grey and 47 are not"):
        datasets.load(f"imagefolder:{root}")
    assert datasets.load(f"imagefolder:{root}?colour").input_shape == (3, 6, 6)


def test_a_picture_is_turned_as_its_exif_data_say():
    root = write(Path("photos"), suffix=".jfif", shape=(4, 8, 3))
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:2] = 255
    for path in root.rglob("*.jfif"):
        image = Image.fromarray(wide)
        exif = image.getexif()
        exif[0x0112] = 6  # turned to the right by a quarter
        image.save(path, exif=exif, quality=95)
    found = datasets.load(f"imagefolder:{root}").train.inputs.stored[0].float()
    assert found.shape == (3, 8, 4)
    assert found[:, :, 2:].mean() > 250 > 5 > found[:, :, :2].mean()


@pytest.mark.parametrize(
    ("suffix", "dtype", "scale"),
    [(".png", np.uint16, 257), (".tif", np.uint16, 257), (".tif", np.float32, 1 / 255)],
)
def test_deeper_pictures_are_scaled_by_their_range(suffix, dtype, scale):
    root = write(Path("plain"), shape=(6, 6))
    plain = datasets.load(f"imagefolder:{root}").train.inputs.stored
    deep = write(Path("deep"), shape=(6, 6))
    for path in sorted(deep.rglob("*.png")):
        values = np.asarray(Image.open(path))
        path.unlink()
        Image.fromarray((values.astype(np.float64) * scale).astype(dtype)).save(path.with_suffix(suffix))
    found = datasets.load(f"imagefolder:{deep}").train.inputs.stored
    assert torch.equal(found, plain)


@pytest.mark.parametrize("values", [np.full((6, 6), 7.5, np.float32), np.full((6, 6), 70000, np.int32)])
def test_numbers_of_no_known_range_are_refused(values):
    root = write(Path("photos"), suffix=".tif", shape=(6, 6))
    Image.fromarray(values).save(root / "train" / "ant" / "000.tif")
    with pytest.raises(InputError, match="1 images are corrupt.*000.tif .*save it with 8 or 16 bits"):
        datasets.load(f"imagefolder:{root}")


def contents(data, split) -> set[bytes]:
    own = data.test.open_for_evaluation() if split == "test" else getattr(data, split)
    return {own.inputs.stored[row].numpy().tobytes() for row in own.inputs.rows}


@pytest.mark.parametrize("kind", ["imagefolder", "npz"])
def test_no_example_changes_its_split_when_another_is_added(kind):
    root = write(Path("all"), ("x",), count=40) / "x"

    def load(more: int):
        datasets.load.cache_clear()
        if kind == "imagefolder":
            for place in range(more):
                Image.fromarray(picture(10**6 + place)).save(root / "ant" / f"-{place}.png")
            return datasets.load(f"imagefolder:{root}")
        inputs = np.stack([picture(place) for place in range(80)] + [picture(10**6 + p) for p in range(more)])
        np.savez("a.npz", inputs=inputs[::-1] if more else inputs, labels=np.arange(80 + more) % 2)
        return datasets.load("npz:a.npz")

    before, after = load(0), load(3)
    for split in ("train", "validation", "test"):
        assert contents(before, split) <= contents(after, split)
    assert before.fingerprint != after.fingerprint


def test_copies_of_one_example_are_in_one_split():
    keys = np.repeat(np.random.default_rng(0).integers(0, 2**63, 50), 3).astype(np.uint64)
    parts = parts_by_content(np.zeros(150, int), keys, [0.2, 0.1])
    found = [set(keys[part].tolist()) for part in parts]
    assert not found[0] & found[1]
    assert not found[2] & (found[0] | found[1])


def test_copies_of_one_example_alone_are_cut_by_number():
    parts = parts_by_content(np.zeros(20, int), np.zeros(20, np.uint64), [0.2, 0.1])
    assert [len(part) for part in parts] == [4, 2, 14]


@pytest.mark.parametrize("seed", range(20))
def test_small_classes_grow_without_a_training_example_in_the_test_examples(seed):
    keys = np.random.default_rng(seed).integers(0, 2**64, 24, dtype=np.uint64)
    before = None
    for count in range(3, 25):  # one example more each time
        parts = parts_by_content(np.zeros(count, int), keys[:count], [0.25, 0.15])
        test, validation, train = (set(keys[:count][part].tolist()) for part in parts)
        assert test
        assert validation
        assert len(test | validation | train) == count
        if before is not None:
            assert before[2] <= train  # what was trained on is still for training
            assert not before[0] & train  # and no test example has become one
        before = test, validation, train
    natural = parts_by_content(np.zeros(24, int), keys, [0.25, 0.15])
    assert set(keys[natural[0]].tolist()) >= {key for key in keys.tolist() if key < 0.25 * 2**64}


def test_small_classes_without_a_training_example_are_counted():
    keys = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("a.npz", inputs=keys, labels=np.minimum(np.arange(60), 2))
    with pytest.raises(
        InputError,
        match=r"class '0' has 1 example, too few: none is left for training and .*; the same of 1 more",
    ):
        datasets.load("npz:a.npz")


@pytest.mark.parametrize("count", [3, 7, 8])
def test_a_small_class_has_an_example_in_each_split(count):
    keys = np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)
    assert all(len(part) for part in parts_by_content(np.zeros(count, int), keys, [0.2, 0.1]))


def test_the_fingerprint_is_of_the_examples_and_not_of_their_order():
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    np.savez("a.npz", inputs=x, labels=y)
    np.savez("b.npz", inputs=x[::-1], labels=y[::-1])
    assert datasets.load("npz:a.npz").fingerprint == datasets.load("npz:b.npz").fingerprint


def test_each_feature_has_its_own_mean_and_spread():
    x = np.random.default_rng(0).normal(size=(100, 4)) * [1e-9, 1, 1e6, 0] + [0, 5, 1e7, 3]
    np.savez("a.npz", inputs=x, labels=np.arange(100) % 2)
    data = datasets.load("npz:a.npz")
    found = data.train.inputs[:]
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]), atol=1e-3, rtol=0)
    assert torch.equal(
        data.train.inputs[torch.tensor([[1, 2], [0, 3]])], found[torch.tensor([[1, 2], [0, 3]])]
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "dog", "owl"])[np.arange(60) % 3],
        np.array([b"cat", b"dog", b"owl"])[np.arange(60) % 3],
    ],
)
def test_labels_may_be_words(labels):
    np.savez("a.npz", inputs=np.arange(240.0).reshape(60, 4), labels=labels)
    data = datasets.load("npz:a.npz")
    assert data.class_names == ("cat", "dog", "owl")
    assert [
        int(v) for v in data.train.inputs.stored[data.train.inputs.rows, 0] / 4 % 3
    ] == data.train.labels.tolist()


@pytest.mark.parametrize("labels", [np.eye(3)[np.arange(60) % 3], (np.arange(60) % 3)[:, None]])
def test_labels_may_be_one_hot_or_a_column(labels):
    np.savez("a.npz", inputs=ONES, labels=labels, class_names=np.array([b"cat", b"dog", b"owl"]))
    data = datasets.load("npz:a.npz")
    assert data.class_names == ("cat", "dog", "owl")
    assert sorted(set(data.train.labels.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((60, 8, 9, 3), (3, 8, 9)),
        ((60, 3, 8, 9), (3, 8, 9)),
        ((60, 4, 4, 1), (1, 4, 4)),
        ((60, 1, 4, 4), (1, 4, 4)),
        ((60, 8, 8, 5), (5, 8, 8)),
        ((60, 5, 8, 8), (5, 8, 8)),
    ],
)
def test_channels_are_found_first_or_last(shape, found):
    np.savez("a.npz", inputs=np.zeros(shape, np.uint8), labels=np.arange(60) % 2)
    assert datasets.load("npz:a.npz").input_shape == found


def test_channels_that_may_be_first_or_last_are_asked_for():
    np.savez("a.npz", inputs=np.zeros((60, 3, 5, 3), np.uint8), labels=np.arange(60) % 2)
    with pytest.raises(InputError, match=r"channels may be first or last; add \?channels_first or"):
        datasets.load("npz:a.npz")
    assert datasets.load("npz:a.npz?channels_first").input_shape == (3, 5, 3)
    assert datasets.load("npz:a.npz?channels_last").input_shape == (3, 3, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": ONES[:0], "labels": np.arange(0)}, "inputs holds no example"),
        ({"inputs": ONES.astype(float) * 1e39}, r"inputs holds values up to 1.0e\+39, beyond float32"),
        ({"test_inputs": np.ones((9, 5)), "test_labels": np.zeros(9, int)}, r"shape \(4,\), those of test_inputs \(5,\)"),
        ({"test_inputs": np.ones((9, 4), np.uint8), "test_labels": np.zeros(9, int)}, "save both as bytes or both as"),
        ({"labels": np.full((60, 3), 0.5)}, "is not one-hot"),
        ({"labels": np.array(["a", "x"] * 30), "class_names": ["a", "b"]}, "labels has 'x', which is not a class"),
        ({"class_names": [b"\xff", b"b"]}, "class_names are bytes that are no UTF-8"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_right_are_refused_at_the_door(arrays, message):
    np.savez("a.npz", **({"inputs": ONES, "labels": np.arange(60) % 2} | arrays))
    with pytest.raises(InputError, match=message):
        datasets.load("npz:a.npz")


def test_preprocessing_is_an_option_of_every_data_set():
    plain, own = datasets.load("digits"), datasets.load("digits?divisor=16")
    raw = plain.preprocessing.undone(plain.train.inputs)
    torch.testing.assert_close(own.train.inputs, raw / 16)
    np.savez("a.npz", inputs=picture(0, (60, 3, 4, 4)), labels=np.arange(60) % 2)
    images = datasets.load("npz:a.npz?divisor=255&mean=0.1,0.2,0.3&std=0.5")
    expected = (images.train.inputs.stored[images.train.inputs.rows].float() / 255 - torch.tensor([0.1, 0.2, 0.3])
                .view(3, 1, 1)) / 0.5  # fmt: skip
    torch.testing.assert_close(images.train.inputs[:], expected)


def test_fewer_training_examples_are_an_option_of_every_data_set():
    whole, few = datasets.load("digits"), datasets.load("digits?examples_per_class=7&divisor=16")
    assert few.train.labels.bincount().tolist() == [7] * 10
    assert torch.equal(few.validation.labels, whole.validation.labels)
    assert len(few.test) == len(whole.test)
    kept = {tuple(row.tolist()) for row in whole.preprocessing.undone(whole.train.inputs).round()}
    assert all(tuple(row.tolist()) in kept for row in (16 * few.train.inputs).round())
    all_of_it = datasets.load("digits?examples_per_class=1000")
    assert torch.equal(all_of_it.train.inputs, whole.train.inputs)
    np.savez("a.npz", inputs=picture(0, (60, 3, 4, 4)), labels=np.arange(60) % 2)
    stored = datasets.load("npz:a.npz?examples_per_class=3").train
    assert stored.labels.bincount().tolist() == [3, 3]
    assert stored.inputs[:].shape == (6, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits?examples_per_class=0", "is a whole number from 1, found '0'"),
        ("digits?examples_per_class=1.5", "is a whole number from 1, found '1.5'"),
        ("npz:a.npz?examples_per_class=3 through b.pt", "write it last, after the backbone's file"),
        ("npz:a.npz?std=2 through b.pt", "option 'std' is of the features, not of the images"),
    ],
)
def test_options_of_all_data_sets_that_cannot_be_meant_are_refused(name, message):
    np.savez("a.npz", inputs=picture(0, (60, 3, 4, 4)), labels=np.arange(60) % 2)
    with pytest.raises(InputError, match=message):
        datasets.load(name)


def test_names_mean_the_same_in_every_folder(tmp_path):
    assert datasets.absolute("digits?mean=1") == "digits?mean=1"
    assert (
        datasets.absolute("npz:a.npz through b?std=2") == f"npz:{tmp_path}/a.npz through {tmp_path}/b?std=2"
    )
    assert (
        without_folders(f"npz:{tmp_path}/a b.npz?std=2 through {tmp_path}/b") == "npz:a b.npz?std=2 through b"
    )
