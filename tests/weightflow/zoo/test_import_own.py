"""Networks of code that the package does not know: named on the command line, imported, and measured as they were trained."""

import json
import os
import sys

import pytest
import torch
from torch import nn

from canon.cli import console
from canon.errors import InputError
from weightflow import datasets, registry
from weightflow.cli.main import app
from weightflow.networks.architectures import Architecture, axes_of_logits
from weightflow.registry import announce, portable
from weightflow.zoo.import_classes import classes_of_files
from weightflow.zoo.store import Zoo

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10, width=6):
        super().__init__()
        self.body, self.head = nn.Linear(64, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def build():
    return Net()


def sized(classes, width=6):
    return Net(classes, width)


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y, ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Code in another folder, and a folder of its networks, one folder a run."""
    monkeypatch.setenv(registry.PLUGINS, "")
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_nets.py").write_text(CODE)
    namespace: dict[str, type[nn.Module]] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        state = {f"module.{key}": value for key, value in namespace["Net"]().state_dict().items()}
        torch.save({"epoch": 1, "state_dict": state}, tmp_path / "runs" / name / "last.ckpt")
    torch.save(namespace["Net"](2).state_dict(), tmp_path / "three-seven_seed1.pt")
    torch.save(namespace["Net"](3).state_dict(), tmp_path / "one-two-nine.pt")
    yield tmp_path
    sys.modules.pop("own_nets", None)
    datasets.load.cache_clear()


def test_a_folder_and_a_function_are_enough(place, capsys):
    own = ("--model", "code/own_nets.py:build", "--dataset", "code/own_nets.py:digits", "--out", "zoo")
    assert call("zoo", "import", "runs", *own, "-q") == 0
    zoo = Zoo("zoo")
    assert zoo.architecture.name == "own_nets.py:build"
    assert zoo.dataset == "own_nets.py:digits"
    assert zoo.architecture.class_axes == {"head.weight": 0, "head.bias": 0}
    assert [record.id for record in zoo.records] == ["a-last", "b-last"]
    assert len(zoo.records[0].classes) == 10
    assert call("canonicalize", "zoo", "--out", "canonical", "-q") == 0


def test_what_a_zoo_names_runs_only_where_it_is_announced(place, capsys, monkeypatch):
    own = ("--model", "code/own_nets.py:build", "--dataset", "digits", "--out", "zoo")
    assert call("zoo", "import", "runs", *own, "-q") == 0
    monkeypatch.setenv(registry.PLUGINS, "")
    monkeypatch.setattr(registry, "_loaded", {})
    assert call("canonicalize", "zoo", "--out", "canonical", "-q") == 2
    assert "add --plugin own_nets.py" in capsys.readouterr().err
    assert call("canonicalize", "zoo", "--out", "canonical", "-q", "--plugin", "code/own_nets.py") == 0


def test_a_recipe_of_a_stranger_runs_no_code(place, capsys):
    (place / "r.toml").write_text(
        'dataset = "code/own_nets.py:digits"\n[architecture]\nname = "own_nets.py:sized"\n'
    )
    assert call("zoo", "build", "r.toml", "--out", "zoo", "-q") == 2
    assert "add --plugin own_nets.py" in capsys.readouterr().err
    assert not (place / "zoo").exists()
    said = ("dataset=code/own_nets.py:digits", "architecture.name=code/own_nets.py:sized", "tasks.seen=2",
            "tasks.validation=0", "tasks.unseen=0", "training.steps=2")  # fmt: skip
    settings = [part for one in said for part in ("--set", one)]
    assert call("zoo", "build", "r.toml", "--out", "zoo", "-q", *settings) == 0
    assert Zoo("zoo").architecture.name == "own_nets.py:sized"


def test_networks_are_measured_with_their_own_preprocessing(place, capsys):
    own = ("--model", "code/own_nets.py:build", "--dataset", "digits", "--preprocessing", "divisor=16")
    assert call("zoo", "import", "runs", *own, "--out", "zoo", "-q") == 0
    zoo = Zoo("zoo")
    assert zoo.dataset == "digits?divisor=16"
    assert zoo.manifest["data"]["divisor"] == 16
    assert call("export", "zoo", "--out", "files", "-q") == 0
    assert call("zoo", "inspect", "zoo") == 0
    assert "divided by 16, not standardised" in capsys.readouterr().out
    assert call("zoo", "import", "runs", *own[:-1], "scale=2", "--out", "other", "-q") == 2
    assert "has no option 'scale'; its options are: divisor, mean, std" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["file-names", "csv", "json"])
def test_each_network_has_its_own_classes(place, how):
    (place / "files").mkdir()
    for path in place.glob("*.pt"):
        path.rename(place / "files" / path.name)
    source = ["--classes-from", how]
    if how == "csv":
        (place / "files" / "classes.csv").write_text(
            "file,a\none-two-nine,one,two,nine\nthree-seven_seed1.pt,three,seven\n"
        )
        source = []
    if how == "json":
        (place / "c.json").write_text(
            json.dumps({"one-two-nine.pt": ["one", "two", "nine"], "three-seven_seed1": ["three", "seven"]})
        )
        source = ["--classes-from", "c.json"]
    own = ("--model", "code/own_nets.py:sized", "--dataset", "digits", "--out", "zoo", "-q")
    assert call("zoo", "import", "files", *own, *source) == 0
    found = {record.id: record.classes for record in Zoo("zoo").records}
    assert found == {"one-two-nine": ("one", "two", "nine"), "three-seven_seed1": ("three", "seven")}


def test_classes_that_cannot_be_read_are_named(tmp_path):
    files = [tmp_path / "cat-dog.pt"]
    with pytest.raises(InputError, match="'cat' is not a class of the data set"):
        classes_of_files(files, tmp_path, "file-names", "digits")
    with pytest.raises(InputError, match="names 1 classes"):
        classes_of_files([tmp_path / "one-seed3.pt"], tmp_path, "file-names", "digits")
    (tmp_path / "c.csv").write_text("other.pt,one,two\n")
    with pytest.raises(InputError, match="has no line for cat-dog.pt"):
        classes_of_files(files, tmp_path, str(tmp_path / "c.csv"), "digits")
    (tmp_path / "c.csv").write_text("cat-dog.pt,one\n")
    with pytest.raises(InputError, match="line 1: expected file,class,class"):
        classes_of_files(files, tmp_path, str(tmp_path / "c.csv"), "digits")
    assert classes_of_files(files, tmp_path, None, "digits") is None


def test_rows_of_the_last_layer_are_found_by_gradients():
    torch.manual_seed(0)
    square = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5)).eval()
    assert axes_of_logits(square, torch.randn(3, 4), 5) == {"3.weight": 0, "3.bias": 0}
    with pytest.raises(InputError, match=r"gives \(3, 5\) for 3 examples; expected 4 logits"):
        axes_of_logits(square, torch.randn(3, 4), 4)


def test_names_of_own_code_are_kept_without_folders():
    assert portable(f"{os.sep}home{os.sep}me{os.sep}nets.py:build") == "nets.py:build"
    assert portable("npz:/data/a.npz") == "npz:/data/a.npz"
    assert announce("npz:a.npz") == "npz:a.npz"
    assert announce("mlp") == "mlp"
    with pytest.raises(InputError, match="plug-in 'nowhere.py' cannot be imported"):
        announce("nowhere.py:build")


def test_a_fixed_builder_makes_no_other_number_of_logits(place):
    announce("code/own_nets.py:build")
    with pytest.raises(InputError, match="builds networks of 10 logits alone; give its function a parameter"):
        Architecture("own_nets.py:build", {}, (64,), 10).build(3)


BUILDERS = """
from torch import nn


def raises(classes):
    raise RuntimeError("no such layer\\nand more")


def nothing(classes):
    pass


def needs(depth, heads, classes):
    return nn.Linear(64, classes)


def pair(classes):
    return nn.Linear(64, classes), (1,)


number = 3
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_module_of_this_name:build", "no module no_module_of_this_name is found from here"),
        ("nowhere.py:build", "'nowhere.py' cannot be imported: ImportError: there is no such Python file"),
        ("builders.py", "name a function of it: builders.py:FUNCTION"),
        (
            "builders.py:gone",
            "has no function 'gone' to be an architecture; it has raises, nothing, needs, pair",
        ),
        ("builders.py:number", "has no function 'number' to be an architecture; it has raises"),
        ("builders.py:raises", "architecture 'builders.py:raises': RuntimeError: no such layer"),
        ("builders.py:nothing", "architecture 'builders.py:nothing' returned NoneType, not an nn.Module"),
        ("builders.py:needs", "needs depth, heads; give them: --set architecture.arguments.depth=..."),
        ("builders.py:pair", "is not a builders.py:pair of 10 classes"),
        (
            "code/own_nets.py:sized",
            "has 2 logits, and 10 classes are in the data set; say which 2 they are for",
        ),
    ],
)
def test_a_builder_that_cannot_be_used_is_one_line(place, capsys, model, message):
    (place / "builders.py").write_text(BUILDERS)
    (place / "one-two-nine.pt").unlink()
    assert call("zoo", "import", ".", "--model", model, "--dataset", "digits", "--out", "zoo", "-q") == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "and more" not in error
    assert "Traceback" not in error
    assert not (place / "zoo").exists()


def test_a_table_names_files_of_one_name_by_their_folders(tmp_path):
    files = [tmp_path / run / "last.ckpt" for run in ("a", "b")]
    table = tmp_path / "classes.csv"
    for lines in ("a,one,two\nb,three,four\n", "a/last.ckpt,one,two\nb/last,three,four\n"):
        table.write_text(lines)
        assert list(classes_of_files(files, tmp_path, None, "digits").values()) == [
            ("one", "two"),
            ("three", "four"),
        ]
    table.write_text("last.ckpt,one,two\n")
    with pytest.raises(InputError, match="has no line for a/last.ckpt; add one: a/last.ckpt,class,class"):
        classes_of_files(files, tmp_path, None, "digits")
    assert classes_of_files(files[:1], tmp_path, None, "digits") == {files[0]: ("one", "two")}
