"""The commands, end to end on files: what they write, say and refuse."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from inspect import getdoc

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from canon.actions import permutation as perm
from canon.actions.transform import Transform
from canon.cli import console, main
from canon.cli.main import app
from canon.io import checkpoint
from canon.spec import Axis, Group, PermutationSpec

IN, HIDDEN, OUT = 5, 12, 3
SPEC = PermutationSpec(
    groups={"h": Group("h", HIDDEN, scale="positive"), "g": Group("g", HIDDEN, scale="positive")},
    axes={
        "0.weight": (Axis.units("h", HIDDEN, power=1), Axis.fixed(IN)),
        "0.bias": (Axis.units("h", HIDDEN, power=1),),
        "2.weight": (Axis.units("g", HIDDEN, power=1), Axis.units("h", HIDDEN, power=-1)),
        "2.bias": (Axis.units("g", HIDDEN, power=1),),
        "4.weight": (Axis.fixed(OUT), Axis.units("g", HIDDEN, power=-1)),
        "4.bias": (Axis.fixed(OUT),),
    },
)
NETS = f"""
import torch
from torch import nn

def build():
    layers = nn.Linear({IN}, {HIDDEN}), nn.ReLU(), nn.Linear({HIDDEN}, {HIDDEN}), nn.ReLU(), nn.Linear({HIDDEN}, {OUT})
    return nn.Sequential(*layers), torch.zeros(4, {IN})

def conv():
    return nn.Conv2d(3, 4, 3)


def bare():
    return build()[0]

def normed():
    return nn.Sequential(nn.Linear({IN}, {HIDDEN}), nn.BatchNorm1d({HIDDEN}), nn.ReLU(), nn.Linear({HIDDEN}, {OUT}))

def wrong():
    return nn.Linear({IN}, {OUT})

def needs(width):
    return nn.Linear(width, {OUT})

number = 3
"""


class Code:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.pt, its relabelling b.pt, an unrelated other.pt, s.json, nets.py and x.npz."""
    monkeypatch.chdir(tmp_path)
    a = net(0).state_dict()
    b = perm.apply(SPEC, perm.random(SPEC, torch.Generator().manual_seed(1)), a)
    torch.save(a, "a.pt")
    torch.save(b, "b.pt")
    torch.save(net(5).state_dict(), "other.pt")
    (tmp_path / "s.json").write_text(SPEC.to_json())
    (tmp_path / "nets.py").write_text(NETS)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, IN), dtype=np.float32)
    np.savez("x.npz", x=x, y=generator.integers(0, OUT, 40))
    return tmp_path


@pytest.fixture
def canon(folder, capsys):
    """Run a command; returns its exit code, standard output and standard error."""

    def run(line):
        code = console.run_cli(app, line.split(), name="canon")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def same_tensors(a, b):
    found_a, found_b = checkpoint.read(a).state, checkpoint.read(b).state
    return found_a.keys() == found_b.keys() and all(torch.equal(found_a[k], found_b[k]) for k in found_a)


def test_help_answers_before_torch():
    command = [sys.executable, "-X", "importtime", "-m", "canon.cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "align" in done.stdout
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "canon.cli.console" in imported
    assert not {name for name in imported if name.split(".")[0] in ("torch", "numpy", "matplotlib")}


@pytest.mark.parametrize(
    "command", ["align", "canonicalize", "inspect", "verify", "apply", "barrier", "merge"]
)
def test_every_command_teaches(canon, command):
    code, out, _ = canon(f"{command} --help")
    assert code == 0
    assert "Example" in out
    assert f"canon {command}" in out
    paragraphs = getdoc(getattr(main, command)).split("\n\n")
    assert all("\n" not in text for text in paragraphs[1:])  # the help would break where the source does


def test_align_finds_the_planted_order(canon):
    code, out, err = canon("align a.pt b.pt --spec s.json --out c.pt")
    assert code == 0
    assert same_tensors("a.pt", "c.pt")
    assert "C computes the function of B" in out
    assert err == ""


def test_two_bare_checkpoints_are_enough(canon, folder):
    code, out, _ = canon("align a.pt b.pt --assume chain --out c.safetensors")
    assert code == 0
    assert same_tensors("a.pt", "c.safetensors")
    assert "recognised by keys and shapes" in out
    assert "assuming chain (--assume) (not verified)" in out
    assert canon("verify b.pt c.safetensors --assume chain")[0] == 0
    assert canon("merge a.pt b.pt --assume chain --out m.pt")[0] == 0
    assert canon("canonicalize b.pt --assume chain --out d.pt")[0] == 0
    assert json.loads(canon("inspect a.pt --assume chain --json")[1])["groups"]


def test_align_keeps_what_b_was(canon, folder):
    state = checkpoint.read("b.pt").state
    turned = {name: state[name].half() for name in reversed(list(state))}
    checkpoint.write("b.safetensors", turned, {"format": "pt", "note": "mine"})
    assert canon("align a.pt b.safetensors --spec s.json --out c.safetensors")[0] == 0
    found = checkpoint.read("c.safetensors")
    assert list(found.state) == list(turned)
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float16}
    assert found.metadata == {"format": "pt", "note": "mine"}
    with safe_open("c.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("0.bias"), checkpoint.read("a.pt").state["0.bias"].half())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_a_and_b_may_differ_in_dtype(canon, dtype):
    a, b = checkpoint.read("a.pt").state, checkpoint.read("b.pt").state
    checkpoint.write("b.safetensors", {name: tensor.to(dtype) for name, tensor in b.items()})
    code, _, err = canon("align a.pt b.safetensors --spec s.json --model nets.py:build --out c.safetensors")
    assert err == ""
    assert code == 0
    c = checkpoint.read("c.safetensors").state
    assert all(torch.equal(c[name].float(), a[name].to(dtype).float()) for name in a)


def test_the_report_is_whole(canon):
    code, out, err = canon(
        "align a.pt other.pt --spec s.json --model nets.py:build --out c.pt --report r.json --json"
    )
    assert code == 0
    assert err == ""
    with open("r.json") as file:
        report = json.load(file)
    assert json.loads(out).keys() == report.keys()
    expected = [
        "objective_before",
        "objective_after",
        "distance_before",
        "distance_after",
        "max_output_difference",
        "groups",
        "moved_fraction",
        "sweeps",
        "converged",
        "seconds",
        "peak_memory_bytes",
    ]
    assert report.keys() >= set(expected)
    assert report["objective_after"] > report["objective_before"]
    assert report["distance_after"] < report["distance_before"]
    assert 0 <= report["max_output_difference"] < 1e-12
    assert report["peak_memory_bytes"] > 10**7
    assert [group["name"] for group in report["groups"]] == ["h", "g"]


def test_a_figure_that_was_not_measured_has_a_reason(canon):
    _, out, _ = canon("align a.pt b.pt --spec s.json --out c.pt --json")
    report = json.loads(out)
    assert report["max_output_difference"] is None
    assert "code is not known" in report["max_output_difference_reason"]


def test_align_says_why_nothing_moved(canon, folder):
    assert (
        "nothing moved: A and B are the same network" in canon("align a.pt a.pt --spec s.json --out c.pt")[1]
    )
    none = PermutationSpec(
        {}, {name: tuple(Axis.fixed(x.size) for x in axes) for name, axes in SPEC.axes.items()}
    )
    (folder / "none.json").write_text(none.to_json())
    _, out, _ = canon("align a.pt b.pt --spec none.json --out c.pt")
    assert "nothing moved: no group of units may move" in out


def test_what_stays_in_place_is_named_where_the_rest_moves(canon, folder):
    spec = json.loads((folder / "s.json").read_text())
    frozen = {f"{n}.weight axis 0": "a reason" for n in range(5)}
    (folder / "t.json").write_text(
        json.dumps({k: v for k, v in spec.items() if k != "sha256"} | {"frozen": frozen})
    )
    out = canon("align a.pt b.pt --spec t.json --out c.pt")[1]
    assert "in place: 0.weight axis 0: a reason; 1.weight axis 0: a reason; " in out
    assert "; and 2 more, which `canon inspect` names" in out


def test_a_wrong_spec_is_caught_by_running_the_network(canon, folder):
    axes = dict(SPEC.axes) | {"4.weight": (Axis.fixed(OUT), Axis.fixed(HIDDEN))}
    (folder / "wrong.json").write_text(PermutationSpec(SPEC.groups, axes).to_json())
    for command in ("align a.pt b.pt --out c.pt", "canonicalize a.pt --out c.pt", "inspect a.pt"):
        code, out, err = canon(f"{command} --spec wrong.json --model nets.py:build")
        assert code == 2
        assert "spec wrong.json is wrong: the outputs change under the group 'g'" in err
        assert out == ""
        assert not (folder / "c.pt").exists()


def test_a_scale_that_the_network_lacks_is_caught(canon, folder):
    (folder / "tanh.py").write_text((folder / "nets.py").read_text().replace("nn.ReLU()", "nn.Tanh()"))
    code, _, err = canon("align a.pt b.pt --spec s.json --model tanh.py:build --out c.pt")
    assert code == 2
    assert "'h', scaled" in err


def test_without_code_a_spec_is_said_to_be_assumed(canon, folder):
    axes = dict(SPEC.axes) | {"4.weight": (Axis.fixed(OUT), Axis.fixed(HIDDEN))}
    wrong = PermutationSpec(SPEC.groups, axes)
    (folder / "wrong.json").write_text(wrong.to_json())
    state = checkpoint.read("a.pt").state
    moved = perm.apply(wrong, perm.random(wrong, torch.Generator().manual_seed(1)), state)
    torch.save(moved, "moved.pt")
    code, out, _ = canon("verify a.pt moved.pt --spec wrong.json --json")
    assert code == 3
    assumption = "the groups of wrong.json are symmetries of the network (--spec)"
    assert json.loads(out)["assumptions"] == [assumption]
    assert json.loads(out)["verdict"] == "undecided under these assumptions"
    for command in ("align a.pt moved.pt --out c.pt", "canonicalize a.pt --out d.pt"):
        assert f"assuming {assumption} (not verified)" in canon(f"{command} --spec wrong.json")[1]


def test_inspect_reads_a_spec_and_writes_one_only_to_a_new_file(canon, folder):
    before = (folder / "s.json").read_bytes()
    assert canon("inspect a.pt --spec s.json")[0] == 0
    code, _, err = canon("inspect a.pt --save-spec s.json")
    assert code == 2
    assert "s.json exists already" in err
    code, _, err = canon("inspect a.pt --spec new.json")
    assert code == 2
    assert "--spec reads a spec, `canon inspect --save-spec new.json` writes one" in err
    assert (folder / "s.json").read_bytes() == before
    assert not (folder / "new.json").exists()


def test_a_damaged_spec_is_refused_and_an_amended_one_is_read(canon, folder):
    assert canon("inspect a.pt --spec s.json --save-spec new.json")[0] == 0
    written = json.loads((folder / "new.json").read_text())
    written["axes"]["0.weight"][0][0][0][2] = 9
    (folder / "new.json").write_text(json.dumps(written))
    code, _, err = canon("align a.pt b.pt --spec new.json --out c.pt")
    assert code == 2
    assert "new.json is damaged or was edited" in err
    assert "take its entry 'sha256' out" in err
    del written["sha256"]
    (folder / "new.json").write_text(json.dumps(written))
    assert canon("inspect a.pt --spec new.json")[0] == 0


def test_balance_gives_c_the_scales_of_a(canon):
    state = checkpoint.read("b.pt").state
    scales = {name: torch.rand(HIDDEN, dtype=torch.float64) + 0.5 for name in SPEC.groups}
    scaled = Transform(SPEC, perm.identity(SPEC), scales).apply({k: v.double() for k, v in state.items()})
    checkpoint.write("b.pt", scaled)
    code, _, _ = canon(
        "align a.pt b.pt --spec s.json --balance --model nets.py:build --out c.pt --transform t.safetensors"
    )
    assert code == 0
    a, c = checkpoint.read("a.pt").state, checkpoint.read("c.pt").state
    assert all(torch.allclose(c[name], a[name].double(), atol=1e-6) for name in a)
    assert canon("verify b.pt c.pt --spec s.json --model nets.py:build")[0] == 0


def test_a_kept_transform_does_it_again_and_back(canon):
    canon("align a.pt b.pt --spec s.json --out c.pt --transform t.safetensors")
    assert canon("apply t.safetensors b.pt --out d.pt")[0] == 0
    assert same_tensors("c.pt", "d.pt")
    assert canon("apply t.safetensors d.pt --invert --out e.pt")[0] == 0
    assert same_tensors("b.pt", "e.pt")


def test_a_task_vector_and_low_rank_factors_are_carried(canon):
    canon("align a.pt b.pt --spec s.json --out c.pt --transform t.safetensors")
    checkpoint.write("delta.safetensors", {"2.weight": torch.randn(HIDDEN, HIDDEN)})
    assert canon("apply t.safetensors delta.safetensors --kind task-vector --out d.safetensors")[0] == 0
    factors = {"2.lora_A.weight": torch.randn(2, HIDDEN), "2.lora_B.weight": torch.randn(HIDDEN, 2)}
    checkpoint.write("lora.safetensors", factors)
    assert canon("apply t.safetensors lora.safetensors --kind lora --out e.safetensors")[0] == 0
    moved = checkpoint.read("e.safetensors").state
    assert list(moved) == list(factors)
    t = Transform.load("t.safetensors")
    whole = factors["2.lora_B.weight"] @ factors["2.lora_A.weight"]
    product = moved["2.lora_B.weight"] @ moved["2.lora_A.weight"]
    assert torch.allclose(product, t.apply_delta({"2.weight": whole})["2.weight"])


@pytest.mark.parametrize("named", [True, False])
def test_optimizer_state_is_carried(canon, named):
    canon("align a.pt b.pt --spec s.json --out c.pt --transform t.safetensors")
    module = net(0)
    parameters = module.named_parameters() if named else module.parameters()
    optimizer = torch.optim.Adam(parameters)
    module(torch.randn(4, IN)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), "o.pt")
    code, out, _ = canon("apply t.safetensors o.pt --kind optimizer --out p.pt")
    assert code == 0
    assert out.startswith("18 tensors")
    before, after = torch.load("o.pt"), torch.load("p.pt")
    t = Transform.load("t.safetensors")
    assert torch.equal(after["state"][1]["exp_avg"], before["state"][1]["exp_avg"][t.permutation["h"]])
    optimizer.load_state_dict(after)


def test_an_optimizer_that_does_not_say_which_is_which(canon):
    canon("align a.pt b.pt --spec s.json --out c.pt --transform t.safetensors")
    parameters = list(net(0).parameters())
    torch.save(
        torch.optim.Adam([{"params": parameters[:2]}, {"params": parameters[2:]}]).state_dict(), "o.pt"
    )
    code, _, err = canon("apply t.safetensors o.pt --kind optimizer --out p.pt")
    assert code == 2
    assert "named_parameters" in err


def test_verify_by_running(canon):
    code, out, _ = canon("verify a.pt b.pt --spec s.json --model nets.py:build")
    assert code == 0
    assert out.startswith("the same function: outputs on 3 random batches")
    code, out, _ = canon("verify a.pt other.pt --spec s.json --model nets.py:build --json")
    assert code == 1
    assert json.loads(out)["same"] is False


def test_verify_by_transform(canon):
    code, out, _ = canon("verify a.pt b.pt --spec s.json")
    assert code == 3  # the groups are those of a spec that nothing has verified
    assert out.startswith("undecided under these assumptions: B is a permutation of A, bit for bit")
    code, out, _ = canon("verify a.pt other.pt --spec s.json --json")
    assert code == 3
    assert json.loads(out)["same"] is None


@pytest.mark.parametrize("how", ["--spec s.json", "--spec s.json --model nets.py:build"])
def test_verify_allows_for_the_rounding_of_a_dtype_and_says_so(canon, how):
    b, other = checkpoint.read("b.pt").state, checkpoint.read("other.pt").state
    scales = {name: torch.rand(HIDDEN) + 0.5 for name in SPEC.groups}
    scaled = Transform(SPEC, perm.identity(SPEC), scales).apply(b)
    for name, state in (("b", b), ("scaled", scaled), ("other", other)):
        torch.save({key: tensor.half() for key, tensor in state.items()}, f"{name}16.pt")
    torch.save(scaled, "scaled.pt")
    for network, dtype in (("b16", "float16"), ("scaled16", "float16"), ("scaled", "float32")):
        code, out, _ = canon(f"verify a.pt {network}.pt {how}")
        assert code == (0 if "--model" in how else 3)
        assert f"rounding to {dtype}" in out
        assert "tolerance" in out
    code, out, _ = canon(f"verify a.pt other16.pt {how} --json")
    assert code == (1 if "--model" in how else 3)
    assert json.loads(out)["same"] is (False if "--model" in how else None)
    assert json.loads(out)["tolerance"] > 1e-3


def test_barrier_scores_both_lines_and_draws(canon, folder):
    line = "barrier a.pt b.pt --spec s.json --model nets.py:build --data x.npz --points 5 --align --plot p.png --json"
    code, out, _ = canon(line)
    assert code == 0
    lines = json.loads(out)
    assert lines["aligned"]["loss_barrier"] == pytest.approx(0, abs=1e-6)
    assert lines["unaligned"]["loss"][0] == pytest.approx(lines["unaligned"]["loss"][-1])
    assert abs(lines["unaligned"]["loss"][2] - lines["unaligned"]["loss"][0]) > 1e-3
    assert (folder / "p.png").stat().st_size > 1000


@pytest.mark.parametrize("repair", ["batch-norm", "repair"])
def test_barrier_repairs_with_training_examples(canon, repair):
    torch.save({k: v + 1 if v.dtype == torch.long else v for k, v in normed().items()}, "n.pt")
    line = (
        f"barrier n.pt n.pt --model nets.py:normed --input 2x{IN} --data x.npz --repair {repair} --points 3"
    )
    code, _, err = canon(line)
    assert code == 2
    assert "--train" in err
    assert canon(f"{line} --train x.npz")[0] == 0


def normed():
    torch.manual_seed(0)
    layers = nn.Linear(IN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)
    return nn.Sequential(*layers).state_dict()


def test_merge_of_relabellings_is_the_first(canon):
    assert canon("merge a.pt b.pt b.pt --spec s.json --out m.pt")[0] == 0
    a, m = checkpoint.read("a.pt").state, checkpoint.read("m.pt").state
    assert all(torch.allclose(a[name], m[name], atol=1e-7) for name in a)
    assert canon("merge a.pt b.pt --spec s.json --balance --out n.pt")[0] == 0
    n = checkpoint.read("n.pt").state
    assert all(torch.allclose(a[name], n[name], atol=1e-6) for name in a)


def test_merge_gives_units_their_length_back(canon):
    for repair in ("none", "norms"):
        assert canon(f"merge a.pt other.pt --repair {repair} --out {repair}.pt")[0] == 0
    a, b, mean, found = (
        float(checkpoint.read(f"{n}.pt").state["2.weight"].norm()) for n in ("a", "other", "none", "norms")
    )
    assert mean < 0.9 * found
    assert found == pytest.approx((a + b) / 2, rel=0.05)


def test_merge_as_they_are_needs_no_spec(canon):
    assert canon("merge a.pt other.pt --as-they-are --weights 3,1 --out m.pt")[0] == 0
    a, b, m = (checkpoint.read(f"{name}.pt").state["0.bias"] for name in ("a", "other", "m"))
    assert torch.allclose(m, 0.75 * a + 0.25 * b)


def test_merge_warns_of_running_statistics_and_mends_them(canon):
    torch.save(normed(), "n.pt")
    line = f"merge n.pt n.pt --as-they-are --model nets.py:normed --input 2x{IN} --out m.pt"
    assert "re-estimate them" in canon(line)[2]
    code, _, err = canon(f"{line} --repair batch-norm --train x.npz")
    assert code == 0
    assert err == ""
    x = torch.from_numpy(np.load("x.npz")["x"])
    found = checkpoint.read("m.pt").state
    pre = nn.functional.linear(x, found["0.weight"], found["0.bias"])
    assert torch.allclose(found["1.running_mean"], pre.mean(0), atol=1e-6)


def test_the_canonical_order_depends_on_nothing_but_the_network(canon):
    assert canon("canonicalize a.pt --spec s.json --out ca.pt --transform t.safetensors")[0] == 0
    assert canon("canonicalize b.pt --spec s.json --out cb.pt")[0] == 0
    assert same_tensors("ca.pt", "cb.pt")
    code, out, _ = canon("canonicalize ca.pt --spec s.json --model nets.py:build --out cc.pt --json")
    assert code == 0
    assert same_tensors("ca.pt", "cc.pt")
    assert json.loads(out)["moved_fraction"] == 0
    assert canon("apply t.safetensors a.pt --out d.pt")[0] == 0
    assert same_tensors("ca.pt", "d.pt")


@pytest.fixture
def negated(folder):
    """tanh.pt, and turned.pt: its units in another order, some negated; odd.py builds the network."""
    (folder / "odd.py").write_text(NETS.replace("ReLU", "Tanh"))
    torch.save(net(0).state_dict(), "tanh.pt")
    generator = torch.Generator().manual_seed(1)
    groups = {n: dataclasses.replace(g, scale="sign") for n, g in SPEC.groups.items()}
    spec = dataclasses.replace(SPEC, groups=groups)
    signs = {n: torch.randint(2, (HIDDEN,), generator=generator) * 2.0 - 1.0 for n in groups}
    turned = Transform(spec, perm.random(spec, generator), signs).apply(net(0).state_dict())
    torch.save(turned, "turned.pt")


@pytest.mark.usefixtures("negated")
def test_units_of_odd_activations_are_negated_too(canon):
    code, out, _ = canon("align tanh.pt turned.pt --model odd.py:build --out c.pt --transform t.safetensors")
    assert code == 0
    assert "outputs compared in float64" in out
    assert same_tensors("c.pt", "tanh.pt")
    assert canon("apply t.safetensors turned.pt --out d.pt")[0] == 0
    assert same_tensors("d.pt", "tanh.pt")


@pytest.mark.usefixtures("negated")
def test_the_canonical_form_of_an_odd_network_has_its_signs(canon):
    for name in ("tanh", "turned"):
        assert canon(f"canonicalize {name}.pt --model odd.py:build --out {name}-c.pt")[0] == 0
    assert same_tensors("tanh-c.pt", "turned-c.pt")


def test_linear_layers_take_what_a_norm_learned(canon, folder):
    (folder / "normed.py").write_text(
        "import torch\nfrom torch import nn\n"
        f"def build():\n    return nn.Sequential(nn.Linear({IN}, {HIDDEN}), nn.ReLU(), nn.LayerNorm({HIDDEN}), "
        f"nn.Linear({HIDDEN}, {OUT})), torch.zeros(4, {IN})\n"
    )
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(IN, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, OUT)
    ).state_dict()
    state = {n: torch.randn(t.shape, generator=generator) for n, t in layers.items()}
    order = torch.randperm(HIDDEN, generator=generator)
    moved = {n: t[order] if t.shape[0] == HIDDEN else t for n, t in state.items()}
    moved["3.weight"] = state["3.weight"][:, order]
    for name, network in (("p", state), ("q", moved)):
        torch.save(network, f"{name}.pt")
        code, out, _ = canon(f"canonicalize {name}.pt --model normed.py:build --fold --out {name}-c.pt")
        assert code == 0
        assert "2.weight went into 3.weight" in out
    assert same_tensors("p-c.pt", "q-c.pt")
    assert (checkpoint.read("p-c.pt").state["2.weight"] == 1).all()
    assert canon("canonicalize p-c.pt --model normed.py:build --fold --out again.pt")[0] == 0
    assert same_tensors("again.pt", "p-c.pt")
    code, _, err = canon("canonicalize a.pt --fold --out d.pt")
    assert code == 2
    assert "give --model" in err
    assert "leave one out" in canon("canonicalize a.pt --fold --out d.pt --transform t.safetensors")[2]


def test_a_model_is_traced(canon, folder):
    code, out, _ = canon("inspect a.pt --model nets.py:build --save-spec traced.json --json")
    assert code == 0
    found = json.loads(out)
    assert sorted(group["size"] for group in found["groups"]) == [HIDDEN, HIDDEN]
    assert found["frozen"]
    assert found["parameters_in_moving_groups"] == found["parameters"] - OUT
    assert canon("align a.pt b.pt --spec traced.json --out c.pt")[0] == 0
    assert same_tensors("a.pt", "c.pt")
    code, out, _ = canon("inspect a.pt --model nets.py:build")
    assert "What moves" in out
    assert "What stays in place" in out


def test_exported_programs_need_no_class(canon):
    module, x = net(0).eval(), torch.randn(4, IN)
    torch.export.save(torch.export.export(module, (x,)), "a.pt2")
    program = checkpoint.read("a.pt2")
    checkpoint.write("b.pt2", program.with_state(checkpoint.read("b.pt").state))
    code, out, _ = canon("align a.pt2 b.pt2 --out c.pt2")
    assert code == 0
    assert "outputs compared in float64" in out
    assert same_tensors("c.pt2", "a.pt")
    assert torch.allclose(checkpoint.read("c.pt2").program.module()(x), module(x), atol=1e-6)
    assert canon("verify b.pt2 c.pt2")[0] == 0
    checkpoint.write("other.pt2", program.with_state(checkpoint.read("other.pt").state))
    assert canon("verify other.pt2 c.pt2")[0] == 1
    code, out, _ = canon("barrier a.pt2 b.pt2 --data x.npz --align --json")
    assert code == 0
    assert json.loads(out)["aligned"]["loss_barrier"] == pytest.approx(0, abs=1e-6)
    code, _, err = canon("merge a.pt2 b.pt2 --out m.pt2 --repair repair --train x.npz")
    assert code == 2
    assert "give --model" in err


def test_an_interrupt_says_that_nothing_was_written(canon, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("canon.matching.signed_weight_matching.match_signed", interrupt)
    code, _, err = canon("align a.pt b.pt --spec s.json --out c.pt")
    assert code == 130
    assert err == "interrupted: nothing was written; run the same command again\n"
    assert not (folder / "c.pt").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(canon, folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = sorted(folder.iterdir())
    code, _, err = canon("align a.pt b.pt --spec s.json --out c.pt")
    assert code == 1
    assert err == "error: c.pt was not written: No space left on device; free some space and run again\n"
    assert sorted(folder.iterdir()) == before


def test_a_model_that_fails_is_told_from_a_bug(canon, folder):
    (folder / "broken.py").write_text("def build():\n    return 1 / 0\n")
    (folder / "typo.py").write_text("def build(:\n")
    for name, message in (("broken", "ZeroDivisionError: division by zero"), ("typo", "SyntaxError")):
        code, _, err = canon(f"align a.pt b.pt --spec s.json --model {name}.py:build --out c.pt")
        assert code == 2
        assert message in err
    code, _, err = canon("verify a.pt b.pt --spec s.json --model nets.py:bare --input 2x7")
    assert code == 2
    assert "the network fails on inputs of shape (2, 7)" in err


BAD = {
    "missing": ("align a.pt gone.pt --spec s.json", "gone.pt does not exist"),
    "directory": ("align a.pt d.pt --spec s.json", "d.pt is a folder without weights"),
    "empty": ("align a.pt empty.safetensors --spec s.json", "empty.safetensors is empty"),
    "cut": ("align a.pt cut.safetensors --spec s.json", "cut.safetensors is damaged: its header claims"),
    "claims too much": (
        "align a.pt claims.safetensors --spec s.json",
        "claims 4000000000000 bytes of tensors",
    ),
    "code": ("align a.pt code.pt --spec s.json", "a pickle that needs the code of posix.system"),
    "not a network": ("align a.pt x.npz --spec s.json", "ends in none of .safetensors"),
    "nan": ("align a.pt nan.pt --spec s.json", "nan.pt: 2.bias holds NaN or infinity (1 of 12 values)"),
    "infinity": ("align inf.pt b.pt --spec s.json", "inf.pt: 2.bias holds NaN or infinity (1 of 12 values)"),
    "other architecture": (
        "align a.pt big.pt --spec s.json",
        "0.weight (12, 5) and (13, 5); 0.bias (12,) and (13,)",
    ),
    "other keys": ("align a.pt keys.pt --spec s.json", "0.weight (12, 5) only in a.pt"),
    "spec and family": ("align a.pt b.pt --spec s.json --family mlp", "give one"),
    "spec of another": ("align big.pt big.pt --spec s.json", "0.weight has shape (13, 5)"),
    "spec and assume": (
        "align a.pt b.pt --spec s.json --assume chain",
        "--assume speaks of bare checkpoints",
    ),
    "model and assume": ("align a.pt b.pt --model nets.py:build --assume chain", "--assume speaks of bare"),
    "unknown assumption": ("align a.pt b.pt --assume magic=1", "'magic' is not known; one of heads=N"),
    "assumption without a number": ("align a.pt b.pt --assume heads=many", "positive whole number"),
    "assumption that is not taken": ("align a.pt b.pt --assume heads=3", "takes chain, activation, norm"),
    "assumption twice": ("align a.pt b.pt --assume chain --assume chain", "given twice"),
    "unknown family": ("align a.pt b.pt --family magic", "family 'magic' is not known"),
    "not recognised": ("align odd.pt odd.pt", "--model pkg.mod:build"),
    "no spec": ("align a.pt b.pt --spec nets.py", "not a spec that canon wrote"),
    "no model": ("align a.pt b.pt --spec s.json --model gone.py:build", "gone.py does not exist"),
    "no module": ("align a.pt b.pt --spec s.json --model gone_module:build", "No module named 'gone_module'"),
    "no function": ("align a.pt b.pt --spec s.json --model nets.py:gone", "has no function gone"),
    "no colon": ("align a.pt b.pt --spec s.json --model nets", "file.py:function"),
    "not callable": ("align a.pt b.pt --spec s.json --model nets.py:number", "has no function number"),
    "arguments": ("align a.pt b.pt --spec s.json --model nets.py:needs", "needs width"),
    "no inputs": ("align a.pt b.pt --spec s.json --model nets.py:conv", "add --input"),
    "bad input": ("align a.pt b.pt --spec s.json --model nets.py:bare --input 4xa", "write a shape as"),
    "input alone": ("align a.pt b.pt --spec s.json --input 4x5", "give a --model too"),
    "wrong model": (
        f"align a.pt b.pt --spec s.json --model nets.py:wrong --input 4x{IN}",
        "different architectures",
    ),
    "method": ("align a.pt b.pt --spec s.json --method magic", "method 'magic' is not known; one of weights"),
    "start": ("align a.pt b.pt --spec s.json --start magic", "'magic' is not one of 'auto'"),
    "out format": ("align a.pt b.pt --spec s.json --out c.onnx", "ends in one of .safetensors"),
    "out folder": ("align a.pt b.pt --spec s.json --out gone/c.pt", "folder does not exist"),
    "report folder": ("align a.pt b.pt --spec s.json --report gone/r.json", "folder does not exist"),
    "out program": ("align a.pt b.pt --spec s.json --out c.pt2", "there is none"),
    "transform": ("apply a.pt b.pt", "a transform's file name ends in .safetensors"),
    "kind": ("apply t.safetensors b.pt --kind magic", "'magic' is not one of 'network'"),
    "no code": ("barrier a.pt b.pt --data x.npz", "give --model or a .pt2 file"),
    "no data": ("barrier a.pt b.pt --model nets.py:build --data s.json", "not a .npz file of plain arrays"),
    "repair": ("merge a.pt b.pt --as-they-are --repair magic", "'magic' is not one of 'none'"),
    "one network": ("merge a.pt", "two networks or more"),
    "weights": ("merge a.pt b.pt --weights 1,2,3", "expected 2 numbers"),
    "picture": ("barrier a.pt b.pt --model nets.py:build --data x.npz --plot p.txt", "ends in .png"),
}


@pytest.fixture
def bad_files(folder):
    state = checkpoint.read("a.pt").state
    (folder / "d.pt").mkdir()
    (folder / "empty.safetensors").write_bytes(b"")
    checkpoint.write("cut.safetensors", state)
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:-4])
    for name, value in (("nan", torch.nan), ("inf", -torch.inf)):
        bias = torch.where(torch.arange(HIDDEN) == 3, value, state["2.bias"])
        torch.save(state | {"2.bias": bias}, f"{name}.pt")
    claim = {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(claim).encode()
    (folder / "claims.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    torch.save({"w": Code()}, "code.pt")
    big = nn.Sequential(nn.Linear(IN, 13), nn.ReLU(), nn.Linear(13, 13), nn.ReLU(), nn.Linear(13, OUT))
    torch.save(big.state_dict(), "big.pt")
    torch.save({"foo": torch.ones(2, 3), "bar": torch.ones(5)}, "odd.pt")
    torch.save({f"net.{name}": tensor for name, tensor in state.items()}, "keys.pt")
    Transform(SPEC, perm.identity(SPEC)).save("t.safetensors")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(canon, bad_files, folder, name):
    line, message = BAD[name]
    needs_out = line.split()[0] in ("align", "apply", "merge") and "--out" not in line
    before = sorted(folder.iterdir())
    code, out, err = canon(line + (" --out c.pt" if needs_out else ""))
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_the_first_ten_differences_are_listed(canon):
    torch.save({f"layer{i}": torch.ones(2) for i in range(14)}, "a.pt")
    torch.save({f"layer{i}": torch.ones(3) for i in range(14)}, "b.pt")
    _, _, err = canon("align a.pt b.pt --spec s.json --out c.pt")
    assert "layer9 (2,) and (3,)" in err
    assert "layer10" not in err
    assert "and 4 more" in err


@pytest.mark.parametrize("method", ["activations", "straight-through", "transfusion"])
def test_every_method_finds_the_planted_order(canon, method):
    line = f"align a.pt b.pt --spec s.json --method {method} --model nets.py:build --data x.npz --out c.pt"
    code, _, err = canon(line)
    assert err == ""
    assert code == 0
    assert same_tensors("a.pt", "c.pt")


@pytest.mark.parametrize("method", ["activations", "straight-through"])
def test_a_method_that_needs_examples_says_so(canon, method):
    code, _, err = canon(f"align a.pt b.pt --spec s.json --method {method} --out c.pt")
    assert code == 2
    assert "give --model and --data" in err


def test_the_help_names_every_method(canon):
    from canon.matching.registry import METHODS

    out = canon("align --help")[1].replace("\n", " ")
    assert all(name in out for name in METHODS)


def test_tied_tensors_may_be_left_out_of_the_file(canon, folder, monkeypatch):
    (folder / "tied.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Tied(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)\n"
        "        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)\n"
        "        self.head.weight = self.embed.weight\n"
        "    def forward(self, x):\n"
        "        h = self.embed(x)\n"
        "        return self.head(h + self.down(torch.relu(self.up(h))))\n\n"
        "def build():\n"
        "    return Tied(), torch.randint(7, (2, 3))\n"
    )
    monkeypatch.syspath_prepend(folder)
    import tied

    torch.manual_seed(0)
    module = tied.build()[0]
    whole = module.state_dict()
    torch.save(whole, "whole.pt")
    order = torch.randperm(6)
    moved = whole | {"up.weight": whole["up.weight"][order], "up.bias": whole["up.bias"][order]}
    moved["down.weight"] = whole["down.weight"][:, order]
    torch.save(moved, "moved.pt")
    for name, state in (("whole", whole), ("moved", moved)):
        lean = {key: tensor for key, tensor in state.items() if key != "head.weight"}
        checkpoint.write(f"{name}.safetensors", lean)
    for suffix in ("pt", "safetensors"):
        code, _, err = canon(f"align whole.{suffix} moved.{suffix} --model tied.py:build --out c.{suffix}")
        assert err == ""
        assert code == 0
        assert same_tensors(f"c.{suffix}", f"whole.{suffix}")
    assert canon("verify whole.pt moved.pt --model tied.py:build")[0] == 0


OWN_METHOD = """
from canon import match_weights


def match(spec, a, b):
    return match_weights(spec, a, b)


def wrong(spec, a, b):
    return 3
"""


def test_a_matching_method_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_method.py").write_text(OWN_METHOD)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict(), f"{name}.pt")
    arguments = ["align", "a.pt", "b.pt", "--out", "c.pt", "--method"]
    assert console.run_cli(app, [*arguments, "own_method.py:match"], name="canon") == 0
    for method, message in {
        "own_method.py:wrong": "returned a int; expected a canon.Match",
        "own_method.py:gone": "has no function gone; it has",
        "nowhere": "method 'nowhere' is not known; one of weights,",
    }.items():
        assert console.run_cli(app, [*arguments, method], name="canon") == 2
        assert message in capsys.readouterr().err
