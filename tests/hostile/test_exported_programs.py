"""No exported program runs code, writes outside its folder or claims more than it holds; ordinary ones load."""

import contextlib
import os
import shutil
import typing
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

from canon import trace
from canon.cli import console
from canon.cli.main import app
from canon.errors import InputError
from canon.io import exported_program as program_file
from canon.io import program_schema
from tests.hostile import programs


@pytest.fixture(scope="module")
def content():
    return programs.exported()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder in another one that must stay empty."""
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    return inner


def run(capsys, *arguments):
    code = console.run_cli(app, [str(a) for a in arguments], name="canon")
    captured = capsys.readouterr()
    return code, captured.err.strip().splitlines()


def test_hostile_programs_are_refused_before_torch_sees_them(place, content, capsys, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("torch.export.load was called")

    monkeypatch.setattr(torch.export, "load", never)
    for kind, write in programs.hostile(place, content).items():
        write(place / "x.pt2")
        code, said = run(capsys, "inspect", "x.pt2")
        assert (code, len(said)) == (2, 1), (kind, said)
        assert said[0].startswith("error: x.pt2 was refused: "), (kind, said)
        assert "--model" in said[0], kind
        if programs.JSON_CHANGES.get(kind.removeprefix("old layout, "), ("",))[0] == programs.MODEL:
            assert " refused: graph_module." in said[0], (kind, said)  # for its content, not for a member
        assert sorted(os.listdir()) == ["x.pt2"], kind
        assert os.listdir(place.parent) == ["inner"], kind


@pytest.mark.parametrize("kind", programs.NEUTRALISED)
@pytest.mark.parametrize("command", ["inspect", "canonicalize", "verify", "align"])
def test_code_in_notes_is_left_out(place, content, capsys, kind, command):
    name, change = programs.NEUTRALISED[kind]
    programs.write_for_this_torch(
        place / "x.pt2", programs.with_json(programs.members(content), name, change)
    )
    more = {"canonicalize": ["-o", "o.pt2"], "verify": ["x.pt2"], "align": ["x.pt2", "-o", "o.pt2"]}
    code, said = run(capsys, command, "x.pt2", *more.get(command, []))
    assert code == 0, said
    assert not Path(programs.CANARY).exists()


@pytest.mark.parametrize("kind", programs.UNRUNNABLE)
def test_programs_that_cannot_be_run_are_refused(place, content, capsys, kind):
    parts = programs.with_json(programs.members(content), programs.MODEL, programs.UNRUNNABLE[kind])
    programs.write_for_this_torch(place / "x.pt2", parts)
    code, said = run(capsys, "inspect", "x.pt2")
    assert (code, len(said)) == (2, 1), said
    assert "unexpected" not in said[0]
    assert "While executing" not in said[0]
    assert os.listdir() == ["x.pt2"]


def test_a_program_of_too_many_operations_is_refused_before_torch_sees_it(
    place, content, capsys, monkeypatch
):
    monkeypatch.setattr(torch.export, "load", None)
    repeated = programs.doubled(program_schema.MOST_OPERATIONS)
    parts = programs.with_json(programs.members(content), programs.MODEL, repeated)
    programs.write_for_this_torch(place / "x.pt2", parts)
    code, said = run(capsys, "inspect", "x.pt2")
    assert (code, len(said)) == (2, 1)
    assert " operations; at most 6000 are read; save its state_dict " in said[0]
    assert "--model" in said[0]


def test_classes_of_the_schema_are_resolved_once(place, content, monkeypatch):
    (place / "x.pt2").write_bytes(content)
    real, asked = typing.get_type_hints, []
    monkeypatch.setattr(
        typing, "get_type_hints", lambda owner, **more: (asked.append(owner), real(owner, **more))[1]
    )
    program_file.read(place / "x.pt2")
    assert len(asked) == len(set(asked))


def test_a_program_names_the_operation_that_fails_and_the_way_out(place, content, capsys):
    kind = "a repetition without end"
    parts = programs.with_json(programs.members(content), programs.MODEL, programs.UNRUNNABLE[kind])
    programs.write_for_this_torch(place / "x.pt2", parts)
    code, said = run(capsys, "canonicalize", "x.pt2", "-o", "o.pt2")
    assert (code, os.listdir()) == (2, ["x.pt2"])
    assert said[0].startswith("error: x.pt2 was refused: the results of its operations take ")
    assert "--model" in said[0]


def test_the_memory_of_a_program_is_that_of_what_is_alive(place):
    """Twenty results of 64 MB each, one after another, are read; as many at once are not."""

    class Chain(torch.nn.Module):
        def __init__(self, kept):
            super().__init__()
            self.kept, self.weight = kept, torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            made = [x.expand(2**23) * self.weight]
            for _ in range(20):
                made.append(made[-1] + 1)
                if not self.kept:
                    made = made[-1:]
            return torch.stack([one[0] for one in made]).sum()

    for kept in (False, True):
        program = torch.export.export(Chain(kept), (torch.ones(1),), strict=False)
        torch.export.save(program, "x.pt2")
        with pytest.raises(InputError, match="bytes of memory") if kept else contextlib.nullcontext():
            program_file.read("x.pt2")


@pytest.mark.parametrize("command", ["canonicalize", "verify", "align", "merge", "barrier"])
def test_every_command_refuses_compiled_code(place, content, capsys, command):
    programs.hostile(place, content)["compiled code"](place / "x.pt2")
    more = {"canonicalize": ["-o", "o.pt2"], "verify": ["x.pt2"], "barrier": ["x.pt2"]}
    code, said = run(capsys, command, "x.pt2", *more.get(command, ["x.pt2", "-o", "o.pt2"]))
    assert (code, os.listdir()) == (2, ["x.pt2"]), said


def test_sizes_beyond_the_file_are_refused(place, content):
    (place / "x.pt2").write_bytes(content)
    with zipfile.ZipFile("x.pt2") as archive:
        info = archive.getinfo(archive.namelist()[0])
        assert info.compress_type == zipfile.ZIP_STORED
    data = bytearray(content)
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = b"\xf0\xff\xff\x7f" * 2  # compressed and whole size in the directory
    (place / "x.pt2").write_bytes(data)
    with pytest.raises(InputError):
        program_file.read("x.pt2")


def same_program(path):
    """Load by torch and by us: the same graph, weights and outputs."""
    theirs, ours = torch.export.load(path), program_file.read(path)
    assert str(theirs.graph) == str(ours.graph)
    assert theirs.range_constraints == ours.range_constraints
    assert list(theirs.state_dict) == list(ours.state_dict)
    for name, tensor in theirs.state_dict.items():
        other = ours.state_dict[name]
        assert torch.equal(tensor, other), name
        assert (type(tensor), tensor.requires_grad) == (type(other), other.requires_grad), name
    arguments, keywords = theirs.example_inputs
    outputs = [pytree.tree_leaves(p.module()(*arguments, **keywords)) for p in (theirs, ours)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    return theirs, ours


def save(module, arguments, keywords=None, shapes=None):
    torch.manual_seed(0)
    with contextlib.redirect_stderr(None):
        program = torch.export.export(module.eval(), arguments, keywords, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, "x.pt2")
    return same_program("x.pt2")


class Reads(torch.nn.Module):
    """Tied and shared weights, buffers, a constant, tables of inputs and outputs, sizes in arithmetic."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.arange(4.0).expand(3, 4)[0])
        self.register_buffer("fleeting", torch.ones(4), persistent=False)

    def forward(self, x, *, parts):
        y = self.second(torch.relu(self.first(x))) + self.mean + self.fleeting + torch.tensor([1.0, 2, 3, 4])
        y = y.reshape(-1, y.shape[1] // 2, 2) * (x.shape[0] + 2 * x.shape[1])
        return {"sum": y + parts["a"][0].sum(), "list": [y.mean(), y.max(dim=0)[0]]}


@pytest.mark.filterwarnings("ignore:(Attempted to insert a get_attr )?Node")  # torch 2.6 about its own graph
@pytest.mark.parametrize("dynamic", [False, True])
def test_ordinary_programs_load_as_they_are(place, dynamic):
    auto = torch.export.Dim.AUTO
    shapes = {"x": {0: auto}, "parts": {"a": [{0: auto}]}} if dynamic else None
    save(Reads(), (torch.randn(6, 4),), {"parts": {"a": [torch.randn(5)]}}, shapes)


def test_convolutions_with_free_sizes_load_as_they_are(place):
    torchvision = pytest.importorskip("torchvision")
    auto = torch.export.Dim.AUTO
    save(torchvision.models.resnet18(), (torch.randn(2, 3, 64, 64),), None, ({0: auto, 2: auto, 3: auto},))


def test_transformers_load_as_they_are(place):
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20
    )
    auto = torch.export.Dim.AUTO
    ids = torch.randint(20, (2, 6))
    save(transformers.BertModel(transformers.BertConfig(**sizes)), (ids,))
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, use_cache=False))
    save(llama, (ids,), None, ({0: auto, 1: auto},))


def test_an_ordinary_program_traces_alike(place, content):
    (place / "x.pt2").write_bytes(content)
    assert trace(program_file.read("x.pt2")).to_json() == trace(torch.export.load("x.pt2")).to_json()


def test_programs_with_notes_of_their_writer_load(place):
    program = torch.export.export(programs.network(), (torch.randn(4, 5),), strict=False)
    torch.export.save(program, "x.pt2", extra_files={"weightflow.json": "{}"})
    same_program("x.pt2")


def test_the_old_layout_loads(place, content):
    programs.write(place / "old.pt2", programs.old_layout(programs.members(content)), folder="")
    (place / "new.pt2").write_bytes(content)
    old, new = program_file.read("old.pt2"), program_file.read("new.pt2")
    assert str(old.graph) == str(new.graph)
    assert all(torch.equal(old.state_dict[name], tensor) for name, tensor in new.state_dict.items())


def test_a_written_program_is_read_again(place, content):
    (place / "x.pt2").write_bytes(content)
    program = program_file.read("x.pt2")
    program_file.write("y.pt2", program, dict(program.state_dict))
    same_program("y.pt2")


def test_the_library_for_the_canary_works(place):
    """The attack itself works: loading the library does touch the canary."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler")
    import ctypes

    Path("x.so").write_bytes(programs.shared_object(place))
    ctypes.CDLL("./x.so")
    assert Path(programs.CANARY).exists()
