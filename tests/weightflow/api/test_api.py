"""weightflow's functions from Python: what a researcher types first, documented, typed, and listed by dir()."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import weightflow
from tests.docstrings import documented
from tests.hostile.kills import Server
from tests.weightflow.cli.test_commands import call


@pytest.fixture
def place(run, zoo, raw_zoo, tmp_path, monkeypatch):
    """A folder in which the paths of the docstrings exist."""
    for name, target in {"runs/digits": run, "zoos/canonical": zoo.path, "zoos/digits": raw_zoo.path}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def members(name):
    """An exported name, and the public functions of a class that this package wrote."""
    found = getattr(weightflow, name)
    yield name, found
    own = {"Flow": ("sample", "generate", "evaluate", "report"), "Report": ("save",)}
    for member in own.get(name, ()):
        yield f"{name}.{member}", getattr(found, member)


NAMES = [name for name in weightflow.__all__ if name not in ("InputError", "WorkError")]


@pytest.mark.parametrize("name", NAMES)
def test_every_exported_name_has_a_docstring_with_sections_and_an_example_that_runs(name, place):
    for who, found in members(name):
        documented(found, who)


def test_dir_lists_the_public_names():
    assert set(dir(weightflow)) == {*weightflow.__all__, "__version__"}
    assert not [name for name in weightflow.__all__ if inspect.ismodule(getattr(weightflow, name))]


def test_the_names_that_type_checkers_see_are_those_that_exist():
    source = Path(weightflow.__file__).read_text(encoding="utf-8")
    for name in weightflow.__all__:
        module = weightflow._HOME[name]
        assert any(
            line.startswith(f"    from {module} import ") and name in line for line in source.splitlines()
        ), name


def test_no_public_function_shares_the_name_of_a_module_of_the_package():
    rooms = {path.stem for path in Path(weightflow.__file__).parent.iterdir()}
    assert not rooms & set(weightflow.__all__)


def test_sample_is_count_networks_of_consecutive_seeds(run):
    flow = weightflow.load(str(run))
    several, last = flow.sample("three, seven", 3, seed=5), flow.sample(["three", "seven"], seed=7)
    assert len(several) == 3
    for name, tensor in last[0].items():
        assert torch.allclose(several[2][name], tensor, atol=1e-6)
    assert [len(stack) for stack in (several[1:], several[[0]])] == [2, 1]


def test_a_stacked_network_is_a_module_a_state_dict_and_a_function(run):
    nets = weightflow.load(run).sample("three, seven, two", 2)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert nets(x).shape == (2, 4, nets.architecture.classes)
    with torch.no_grad():
        assert torch.allclose(nets.module(1)(x), nets(x)[1, :, :3], atol=1e-5)
    assert isinstance(nets.module(0), nn.Module)
    assert nets.mask.sum(1).tolist() == [3, 3]


def test_generate_with_a_count_is_a_list_of_what_it_is_without(run):
    flow = weightflow.load(run)
    one, two = flow.generate("three, seven", count=2)
    x = torch.arange(64.0).reshape(1, 64) / 4
    assert torch.allclose(two(x), flow.generate("three, seven", seed=1)(x), atol=1e-5)
    assert not torch.allclose(one(x), two(x))


def test_a_setting_of_sample_is_checked(run):
    with pytest.raises(weightflow.InputError, match="unknown setting 'stepps'; nearest: steps"):
        weightflow.load(run).sample("three, seven", stepps=3)


def test_a_zoo_is_a_data_set_of_state_dicts(raw_zoo):
    assert isinstance(raw_zoo, torch.utils.data.Dataset)
    assert sum(1 for _ in raw_zoo) == len(raw_zoo)
    row = len(raw_zoo) - 1
    assert torch.equal(raw_zoo[-1]["1.weight"], raw_zoo.stacked([row])[0]["1.weight"])
    with pytest.raises(IndexError):
        raw_zoo[len(raw_zoo)]


def test_a_damaged_shard_is_refused_after_it_was_read(raw_zoo, tmp_path):
    import shutil

    shutil.copytree(raw_zoo.path, tmp_path / "zoo")
    zoo = weightflow.Zoo(tmp_path / "zoo")
    before = zoo[0]
    assert before
    shard = tmp_path / "zoo" / "shards" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(weightflow.InputError, match="damaged"):
        zoo[0]


PLUGIN = """
import numpy as np, torch, weightflow
from torch import nn

class Tower(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, width), nn.Linear(width, classes)
    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))

def tower(width: int, classes: int) -> nn.Module:
    return Tower(width, classes)

def blobs():
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    y = np.arange(300) % 3
    return x + 3 * np.eye(3)[y], y, ["left", "right", "top"]

class Letters(weightflow.TextEncoder):
    identity, width = "letters", 26
    def vectors(self, descriptions):
        return torch.tensor([[d.count(chr(97 + i)) + 1e-3 for i in range(26)] for d in descriptions])

def letters(rest):
    return Letters()
"""
RECIPE = """
dataset = "{module}:blobs"
[architecture]
name = "{module}:tower"
arguments = {{ width = 4 }}
[tasks]
sizes = [2, 3]
seen = 6
validation = 2
unseen = 2
validation_fraction = 0.25
unseen_fraction = 0.25
[training]
steps = 5
"""


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.mark.parametrize("module", ["own_parts_of_a_user", "own_parts_in_a_file.py"])
def test_own_parts_work_through_the_whole_pipeline(module, server, tmp_path):
    (tmp_path / f"{module.removesuffix('.py')}.py").write_text(PLUGIN)
    (tmp_path / "own.toml").write_text(RECIPE.format(module=module))

    said = tmp_path / "said"

    def weightflow_(*arguments):
        """Exit code and output of a command in a process of its own, which has imported nothing of the user's."""
        return server.run(["weightflow", *map(str, arguments)], tmp_path, output=said), said.read_text()

    code, text = weightflow_("zoo", "build", "own.toml", "--out", "zoo")
    assert code == 2
    assert f"add --plugin {module}" in text
    assert not (tmp_path / "zoo").exists()
    plugin = ("--plugin", module)
    steps = [
        ("zoo", "build", "own.toml", "--out", "zoo", *plugin),
        (*plugin, "canonicalize", "zoo", "--out", "canonical"),
        (
            *("train", "canonical", "--out", "run", "--set", f"encoder={module}:letters", "--set", "steps=2"),
            *("--set", "model.width=16", *plugin),
        ),
        ("sample", "run", "--classes", "left, top", "--out", "nets", *plugin),
        ("evaluate", "nets", *plugin),
    ]
    for step in steps:
        code, text = weightflow_(*step)
        assert code == 0, text
    assert re.search(r"\(chance \d\d\.\d %", text)
    code, text = weightflow_("sample", "run", "--classes", "left, top", "--out", "others")
    assert (code, "--plugin" in text) == (2, True)


def test_a_plug_in_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_parts.py").write_text("1 / 0")
    assert call("--plugin", "broken_parts", "list", "recipes") == 2
    assert "plug-in 'broken_parts' cannot be imported: ZeroDivisionError" in capsys.readouterr().err
    assert call("--plugin", "no_such_module_here", "list", "recipes") == 2


def test_a_registered_name_is_taken_once():
    with pytest.raises(weightflow.InputError, match="'mlp' exists already"):
        weightflow.register_architecture("mlp", lambda classes: nn.Linear(1, classes))
    with pytest.raises(weightflow.InputError, match="is not a name"):
        weightflow.register_dataset("a:b", lambda: None)
