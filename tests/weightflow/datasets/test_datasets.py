"""Data sets in their true formats, written small: what comes out, and what is said of what is wrong."""

import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from canon.errors import InputError, WorkError
from weightflow import datasets
from weightflow.batched.inference import predict_many
from weightflow.data import locations
from weightflow.datasets import Preprocessing, StoredInputs, download, images, mnist
from weightflow.datasets.caltech import human
from weightflow.datasets.tiny_imagenet import class_names

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Nothing of this computer is found, and nothing of it is written."""
    monkeypatch.setenv("WEIGHTFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "debian_folders", lambda: [tmp_path / "debian"])
    monkeypatch.chdir(tmp_path)
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


def write_idx(path: Path, values: np.ndarray, zipped: bool) -> None:
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(content) if zipped else content)


def write_mnist(folder: Path, zipped=False, labels=None):
    for stem, count in (("train", 100), ("t10k", 20)):
        images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        targets = np.arange(count, dtype=np.uint8) % 10 if labels is None else labels(count)
        write_idx(folder / f"{stem}-images-idx3-ubyte", images, zipped)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", targets, zipped)


def write_cifar(root: Path, hundred=False):
    def batch(count, classes):
        labels = [i % classes for i in range(count)]
        data = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": data, ("fine_labels" if hundred else "labels"): labels}

    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    names = [f"class_{n}" for n in range(100)] if hundred else [f"class_{n}" for n in range(10)]
    meta = {"fine_label_names" if hundred else "label_names": names}
    files = {"meta" if hundred else "batches.meta": meta}
    if hundred:
        files |= {"train": batch(1000, 100), "test": batch(100, 100)}
    else:
        files |= {f"data_batch_{n}": batch(40, 10) for n in range(1, 6)} | {"test_batch": batch(20, 10)}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    return folder


def write_images(folder: Path, count: int, mode="RGB", size=(6, 5), suffix="png"):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        image = Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))
        image.save(folder / f"{folder.name}_{n:03d}.{suffix}")


def write_folder(root: Path, train=10, test=4, classes=("aquarium_fish", "bear"), mode="RGB"):
    for name in classes:
        write_images(root / "train" / name, train, mode)
        if test:
            write_images(root / "test" / name, test, mode)
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_as_torchvision_leaves_it(tmp_path, zipped):
    write_mnist(tmp_path / "data" / "MNIST" / "raw", zipped)
    data = datasets.load("mnist")
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.class_names[7] == "seven"


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path):
    write_mnist(tmp_path / "debian", zipped=True)
    assert datasets.load("fashion_mnist").class_names[9] == "ankle boot"


def test_the_first_place_in_the_order_wins(tmp_path):
    write_mnist(tmp_path / "cache" / "data" / "MNIST" / "raw")
    assert (
        locations.find("mnist", ["MNIST/raw"], "train-*", "") == tmp_path / "cache" / "data" / "MNIST" / "raw"
    )
    write_mnist(tmp_path / "data" / "MNIST" / "raw")
    assert locations.find("mnist", ["MNIST/raw"], "train-*", "") == tmp_path / "data" / "MNIST" / "raw"


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match="'fashion_mnist' is not on this computer") as caught:
        datasets.load("fashion_mnist")
    said = str(caught.value)
    for part in (
        "apt-get install dataset-fashion-mnist",
        "--download",
        str(tmp_path / "debian"),
        "FashionMNIST/raw",
    ):
        assert part in said  # fmt: skip


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "has no t10k-labels-idx1-ubyte nor"),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"<html>"), "is not an IDX file of bytes"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\0\x01"), r"labels \(\); expected"),
        (
            lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09\x01"),
            "is damaged: 1 values, its header says 9",
        ),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, break_it, message):
    folder = tmp_path / "data" / "MNIST" / "raw"
    write_mnist(folder)
    break_it(folder)
    with pytest.raises(InputError, match=message):
        datasets.load("mnist")


def test_labels_out_of_range_are_counted(tmp_path):
    labels = lambda count: np.arange(count, dtype=np.uint8) % 11  # noqa: E731
    write_mnist(tmp_path / "data" / "MNIST" / "raw", labels=labels)
    with pytest.raises(InputError, match="9 labels are out of range, the first is 10 at example 10"):
        datasets.load("mnist")


@pytest.mark.parametrize(("name", "hundred"), [("cifar10", False), ("cifar100", True)])
def test_cifar_keeps_pixels_and_splits_only_training_images(tmp_path, name, hundred):
    folder = write_cifar(tmp_path / "data", hundred)
    data = datasets.load(name)
    assert data.input_shape == (3, 32, 32)
    assert data.class_names[3] == "class 3"
    first = pickle.loads((folder / ("test" if hundred else "test_batch")).read_bytes())["data"][0]
    shown = data.test.open_for_evaluation().inputs[0]
    expected = data.preprocessing(torch.from_numpy(first.reshape(3, 32, 32)))
    assert torch.equal(shown, expected)


class Bomb:
    def __reduce__(self):
        return (os.system, ("true",))


def test_a_batch_that_wants_to_run_code_is_refused(tmp_path):
    folder = write_cifar(tmp_path / "data")
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": Bomb()}))
    with pytest.raises(InputError, match="data_batch_2 cannot be read: it asks for posix.system"):
        datasets.load("cifar10")


def test_caltech_drops_clutter_and_speaks_human(tmp_path):
    folder = tmp_path / "data" / "caltech256" / "256_ObjectCategories"
    for name in ("001.ak47", "002.american-flag", "145.motorbikes-101", "257.clutter"):
        write_images(folder / name, 10, "L" if name == "001.ak47" else "RGB", (9, 7), "jpg")
    data = datasets.load("caltech256?size=8")
    assert data.class_names == ("ak47", "american flag", "motorbikes")
    assert data.input_shape == (3, 8, 8)
    assert human("145.motorbikes-101") == "motorbikes"


def test_tiny_imagenet_tests_on_the_published_validation_images(tmp_path):
    root = tmp_path / "data" / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        write_images(root / "train" / wnid / "images", 10, size=(4, 4), suffix="jpg")
    write_images(root / "val" / "images", 4, "L", size=(4, 4), suffix="jpg")
    rows = [f"images_{n:03d}.jpg\tn0{n % 2 + 1}\t0\t0\t3\t3" for n in range(4)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows))
    (root / "wnids.txt").write_text("n01\nn02\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tblack widow\nn03\tx\n")
    data = datasets.load("tinyimagenet")
    assert data.class_names == ("goldfish", "black widow")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 4)
    (root / "val" / "val_annotations.txt").write_text("images_000.jpg\tn09\n")
    datasets.load.cache_clear()
    with pytest.raises(InputError, match="1 lines name no class of wnids.txt"):
        datasets.load("tinyimagenet")
    for strange in ("../../elsewhere", "n\0", ".."):
        (root / "wnids.txt").write_text(f"n01\n{strange}\n")
        datasets.load.cache_clear()
        with pytest.raises(InputError, match="is not the name of a folder of images"):
            datasets.load("tinyimagenet")


def test_two_classes_with_one_first_word_are_told_apart():
    assert class_names(["a", "b"], ["a\tcrane, bird", "b\tcrane, machine"]) == [
        "crane, bird",
        "crane, machine",
    ]


def test_an_image_folder_with_its_own_test_images(tmp_path):
    data = datasets.load(f"imagefolder:{write_folder(tmp_path / 'photos')}")
    assert data.class_names == ("aquarium fish", "bear")
    assert data.input_shape == (3, 5, 6)
    assert len(data.train) + len(data.validation) == 20
    assert len(data.test) == 8


def test_an_image_folder_without_test_images_is_split(tmp_path):
    write_folder(tmp_path / "photos", test=0, train=40)
    data = datasets.load(f"imagefolder:{tmp_path / 'photos' / 'train'}")
    assert len(data.train) + len(data.validation) + len(data.test) == 80
    assert 8 <= len(data.test) <= 24


def test_a_zip_archive_is_a_folder(tmp_path):
    root = write_folder(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, Path("photos") / path.relative_to(root))
    packed, plain = datasets.load(f"imagefolder:{root}.zip"), datasets.load(f"imagefolder:{root}")
    assert packed.class_names == plain.class_names
    assert torch.equal(packed.train.inputs[:], plain.train.inputs[:])


def test_corrupt_images_are_named_counted_and_skipped_only_when_asked(tmp_path):
    root = write_folder(tmp_path / "photos", train=12)
    for n in (1, 4):
        path = root / "train" / "bear" / f"bear_{n:03d}.png"
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"2 images are corrupt, the first is .*bear_001.png .*skip_corrupt"):
        datasets.load(f"imagefolder:{root}")
    data = datasets.load(f"imagefolder:{root}?skip_corrupt")
    assert len(data.train) + len(data.validation) == 22
    assert data.name.endswith("?skip_corrupt")


def test_grey_among_colour_is_counted_or_made_colour(tmp_path):
    root = write_folder(tmp_path / "photos")
    write_images(root / "train" / "bear", 3, "L")
    with pytest.raises(
        InputError, match=r"3 images are grey and 25 are not.*bear_000.png; add \?colour .* \?grey"
    ):
        datasets.load(f"imagefolder:{root}")
    assert datasets.load(f"imagefolder:{root}?colour").input_shape == (3, 5, 6)
    assert datasets.load(f"imagefolder:{root}?grey").input_shape == (1, 5, 6)
    with pytest.raises(InputError, match="exclude each other"):
        datasets.load(f"imagefolder:{root}?grey&colour")


def test_grey_folders_have_one_channel(tmp_path):
    assert datasets.load(f"imagefolder:{write_folder(tmp_path / 'p', mode='L')}").input_shape == (1, 5, 6)


def test_another_size_is_named_or_resized(tmp_path):
    root = write_folder(tmp_path / "photos")
    write_images(root / "test" / "bear", 1, size=(9, 9))
    with pytest.raises(InputError, match=r"1 images are not 6x5 pixels .*\(9x9\); add \?size=64"):
        datasets.load(f"imagefolder:{root}")
    assert datasets.load(f"imagefolder:{root}?size=4").input_shape == (3, 4, 4)


@pytest.mark.parametrize("limit", ["LARGEST_FILE", "LARGEST_IMAGE"])
def test_what_claims_to_be_huge_is_not_decoded(tmp_path, monkeypatch, limit):
    root = write_folder(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    monkeypatch.setattr(images, limit, 10)
    with pytest.raises(InputError, match=r"8 images are corrupt, .*\.png \(.* more than "):
        datasets.load(f"imagefolder:{root}.zip")


def test_a_class_with_too_few_images_is_named(tmp_path):
    root = write_folder(tmp_path / "photos")
    write_images(root / "train" / "crab", 1)
    write_images(root / "test" / "crab", 1)
    with pytest.raises(InputError, match="class 'crab' has 2 examples, too few: none is left for training"):
        datasets.load(f"imagefolder:{root}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagefolder", "write imagefolder:PATH"),
        ("digits:somewhere", "write digits"),
        ("digits?size=3", "'digits' has no option 'size'; its options are: divisor, mean, std"),
        ("caltech256?siz=3", "has no option 'siz'; its options are: size, skip_corrupt, divisor"),
        ("caltech256?size=big", "'size' is a whole number from 1, found 'big'"),
        ("caltech256?skip_corrupt=no", "'skip_corrupt' takes no value"),
        ("caltech256?size=3&size=4", "'size' occurs twice"),
        ("digits?mean=big", "'mean' is a number, or several with commas, found 'big'"),
        ("digits?std=0", "'std' is above 0 and finite, found '0'"),
        ("digits?mean=1,2", "2 means or deviations do not fit examples of shape \\(64,\\)"),
        ("imagefolder:nowhere", "nowhere is neither a folder nor a .zip"),
        ("imagefolder:.", "no images in ."),
        ("npz:nowhere.npz", "nowhere.npz does not exist"),
        ("cifar11", "unknown data set 'cifar11'; there are: "),
    ],
)
def test_names_that_mean_nothing_are_explained(name, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        datasets.load(name)


def test_a_class_in_one_part_alone_is_named(tmp_path):
    root = write_folder(tmp_path / "photos")
    write_images(root / "test" / "crab", 2)
    with pytest.raises(InputError, match="class 'crab' is in test alone"):
        datasets.load(f"imagefolder:{root}")


def test_npz_takes_images_rows_and_names(tmp_path):
    images, labels = RNG.integers(0, 256, (40, 5, 6, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", inputs=images, labels=labels, class_names=["cat", "dog"])
    data = datasets.load(f"npz:{tmp_path / 'a.npz'}")
    assert data.input_shape == (3, 5, 6)
    assert data.class_names == ("cat", "dog")
    np.savez(tmp_path / "b.npz", inputs=RNG.normal(size=(40, 7)), labels=labels, test_inputs=np.ones((4, 7)),
             test_labels=np.arange(4) % 2)  # fmt: skip
    rows = datasets.load(f"npz:{tmp_path / 'b.npz'}")
    assert rows.input_shape == (7,)
    assert rows.class_names == ("0", "1")
    assert len(rows.test) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(3)}, "has no array inputs nor labels; it has: x"),
        ({"inputs": np.ones((4, 2)), "labels": np.arange(3)}, "4 examples and as many labels are needed"),
        (
            {"inputs": np.ones((4, 2)), "labels": np.ones(4)},
            "labels are whole numbers, words or one-hot rows, found float64",
        ),
        ({"inputs": np.full((4, 2), np.nan), "labels": np.arange(4)}, "values that are not finite"),
    ],
)
def test_npz_without_what_is_needed_is_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        datasets.load(f"npz:{tmp_path / 'a.npz'}")


def test_what_is_decoded_once_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "photos")
    first = datasets.load(f"imagefolder:{root}")
    kept = list((tmp_path / "cache" / "decoded").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr("weightflow.datasets.image_folder.decode_parts", None)  # is not called again
    datasets.load.cache_clear()
    again = datasets.load(f"imagefolder:{root}")
    assert torch.equal(first.train.inputs[:], again.train.inputs[:])
    monkeypatch.undo()
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    write_images(root / "train" / "bear", 20)
    datasets.load.cache_clear()
    assert len(datasets.load(f"imagefolder:{root}").train) > len(first.train)


def test_a_failed_decoding_leaves_nothing_behind(tmp_path):
    root = write_folder(tmp_path / "photos")
    (root / "train" / "bear" / "bear_000.png").write_bytes(b"x")
    with pytest.raises(InputError, match="corrupt"):
        datasets.load(f"imagefolder:{root}")
    assert list((tmp_path / "cache" / "decoded").iterdir()) == []


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "photos")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weightflow.data.decoded_cache.write_names", full)
    with pytest.raises(WorkError, match="No space left on device; free some space"):
        datasets.load(f"imagefolder:{root}")


def test_stored_inputs_are_preprocessed_when_picked_and_shared_on_disk(tmp_path):
    data = datasets.load(f"imagefolder:{write_folder(tmp_path / 'photos')}")
    inputs = data.train.inputs
    assert isinstance(inputs, StoredInputs)
    assert inputs.stored.dtype == torch.uint8
    everything = inputs[:]
    assert torch.equal(inputs[torch.tensor([[3, 1], [0, 2]])], everything[torch.tensor([[3, 1], [0, 2]])])
    torch.testing.assert_close(everything.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(everything.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_channel_has_its_own_mean_and_spread():
    image = torch.full((2, 3, 1, 1), 255, dtype=torch.uint8)
    found = Preprocessing(255.0, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))(image)
    assert found[1].flatten().tolist() == [1.0, 1.0, 0.0]


def test_predictions_do_not_depend_on_how_examples_are_cut(raw_zoo):
    data, tasks, state = datasets.load("digits"), [r.task for r in raw_zoo.records], raw_zoo.load()
    inputs = data.validation.inputs
    whole = predict_many(raw_zoo.architecture, state, inputs, data, tasks)
    cut = predict_many(raw_zoo.architecture, state, inputs, data, tasks, chunk=7, examples=50)
    assert torch.equal(whole, cut)


def test_fetching_asks_torchvision_and_nothing_else(tmp_path, monkeypatch):
    from torchvision import datasets as theirs

    def fake(root, download):
        assert download
        write_mnist(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(theirs, "MNIST", fake)
    assert download.fetch("mnist") == tmp_path / "cache" / "data"
    assert len(datasets.load("mnist").test) == 20
    with pytest.raises(InputError, match="'tinyimagenet' cannot be downloaded here"):
        download.fetch("tinyimagenet")

    def offline(root, download):
        raise OSError("no route to host")

    monkeypatch.setattr(theirs, "CIFAR10", offline)
    with pytest.raises(WorkError, match="'cifar10' was not downloaded .* no route to host"):
        download.fetch("cifar10")


def test_debians_fashion_mnist_is_whole(monkeypatch):
    monkeypatch.undo()
    folder = next((f for f in mnist.debian_folders() if (f / "train-images-idx3-ubyte.gz").exists()), None)
    if folder is None:
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    images, labels = (
        mnist.read_idx(folder / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
    )
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10


@pytest.mark.slow
def test_the_shared_cifar100_images_are_read(tmp_path):
    shared = Path(os.environ.get("WEIGHTFLOW_SHARED", Path(__file__).parents[4] / "shared"))
    path = shared / "data" / "cifar100-300.zip"
    if not path.exists():
        pytest.skip(f"{path} is missing; set WEIGHTFLOW_SHARED to the folder that has data/cifar100-300.zip")
    data = datasets.load(f"imagefolder:{path}")
    assert data.class_names[:2] == ("apple", "aquarium fish")
    assert (len(data.train) + len(data.validation), len(data.test)) == (20_000, 10_000)
    # each image is dealt by its own digest, so that one more changes no other's part
    assert len(data.validation) == pytest.approx(2_000, abs=150)


def test_an_archive_that_is_none_is_named(tmp_path):
    (tmp_path / "photos.zip").write_bytes(io.BytesIO(b"no").getvalue())
    with pytest.raises(InputError, match=r"photos.zip is not a zip archive"):
        datasets.load("imagefolder:photos.zip")
