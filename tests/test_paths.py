"""Whatever takes a path takes a `str` and a `Path` alike."""

import inspect
import os
import pathlib
import typing
from pathlib import Path

import pytest
import torch
from torch import nn

import canon
import weightflow

RESULTS = {"canon.Checkpoint"}  # made by reading a file, not by a user


def public():
    """The public callables of both packages: functions, classes and the methods that are ours."""
    for package in (canon, weightflow):
        for name in dir(package):
            found, where = getattr(package, name), f"{package.__name__}.{name}"
            if name.startswith("_") or where in RESULTS:
                continue
            if inspect.isclass(found):
                yield where, found.__init__
                for own, method in inspect.getmembers(found, callable):
                    module = getattr(method, "__module__", None) or ""
                    if not own.startswith("_") and module.partition(".")[0] in ("canon", "weightflow"):
                        yield f"{where}.{own}", getattr(method, "__func__", method)
            elif callable(found):
                yield where, found


def kinds(hint):
    """The types that a hint is made of."""
    return [
        typing.get_origin(hint) or hint,
        *(kind for part in typing.get_args(hint) for kind in kinds(part)),
    ]


def test_every_parameter_that_takes_a_path_takes_a_str():
    taking, wrong = set(), []
    for where, function in public():
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError):  # names for type checkers alone
            continue
        hints.pop("return", None)
        for parameter, hint in hints.items():
            found = kinds(hint)
            if pathlib.Path in found or os.PathLike in found:
                taking.add(where)
                wrong += [] if str in found else [f"{where}({parameter}: {hint})"]
    assert wrong == []
    assert {"canon.align", "canon.Transform.load", "weightflow.load", "weightflow.train"} <= taking


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("kind", [str, Path])
def test_functions_of_canon_read_and_write_either(kind, tmp_path):
    for number, name in enumerate("ab"):
        torch.save(net(number).state_dict(), tmp_path / f"{name}.pt")
    a, b, out = (kind(tmp_path / name) for name in ("a.pt", "b.pt", "c.safetensors"))
    done = canon.align(a, b, model=lambda: net(0), example_inputs=torch.randn(2, 4))
    done.save(out)
    done.transform.save(kind(tmp_path / "t.safetensors"))
    assert canon.Transform.load(kind(tmp_path / "t.safetensors")) is not None
    code = {"model": lambda: net(0), "example_inputs": torch.randn(2, 4)}
    assert canon.equivalent(b, out, **code).same
    spec = kind(tmp_path / "spec.json")
    Path(spec).write_text(canon.inspect(a, **code).spec.to_json())
    assert canon.merge([a, b], spec=spec).keys() == net(0).state_dict().keys()
    assert canon.canonicalize(a, spec=spec).keys() == net(0).state_dict().keys()
    assert canon.inspect(a, spec=spec).spec.groups


@pytest.mark.parametrize("kind", [str, Path])
def test_folders_of_weightflow_are_opened_by_either(kind, zoo, run, tmp_path):
    assert len(weightflow.Zoo(kind(zoo.path))) == len(zoo)
    flow = weightflow.load(kind(run))
    flow.save_pretrained(kind(tmp_path / "generator"))
    assert weightflow.load(kind(tmp_path / "generator")).architecture == flow.architecture
    made = weightflow.canonicalize(kind(zoo.path.with_name("zoo")), kind(zoo.path))
    assert made.identity == zoo.identity
