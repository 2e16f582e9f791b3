"""Exported programs made hostile by hand: each carries something that would touch a canary file."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

CANARY = "canary"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
OLD_MODEL = "serialized_exported_program.json"
Members = dict[str, bytes]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def exported(dynamic: bool = True) -> bytes:
    """An ordinary program."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    program = torch.export.export(network(), (torch.randn(4, 5),), dynamic_shapes=shapes, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def members(content: bytes) -> Members:
    """The members of `exported()` by name without its folder, in the current layout whatever torch wrote."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if OLD_MODEL in parts:
        return _current_layout(parts)
    return {name.partition("/")[2]: content for name, content in parts.items()}


def _current_layout(parts: Members) -> Members:
    """The same program as PyTorch 2.9 and newer write it."""
    config, records = {}, {}
    for number, (name, tensor) in enumerate(network().state_dict().items()):
        config[name] = {
            "path_name": f"weight_{number}",
            "is_param": True,
            "use_pickle": False,
            "tensor_meta": {
                "dtype": 7,
                "sizes": [{"as_int": size} for size in tensor.shape],
                "requires_grad": True,
                "device": {"type": "cpu", "index": None},
                "strides": [{"as_int": stride} for stride in tensor.stride()],
                "storage_offset": {"as_int": 0},
                "layout": 7,
            },
        }
        records[f"data/weights/weight_{number}"] = tensor.numpy().tobytes()
    return records | {
        WEIGHTS: json.dumps({"config": config}).encode(),
        CONSTANTS: b'{"config": {}}',
        MODEL: parts[OLD_MODEL],
        "data/sample_inputs/model.pt": parts["serialized_example_inputs.pt"],
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"6\n",
        "byteorder": b"little",
    }


def write_for_this_torch(path: Path, parts: Members) -> None:
    """The program in the layout that the torch at hand reads."""
    with zipfile.ZipFile(io.BytesIO(exported())) as archive:
        old = OLD_MODEL in archive.namelist()
    write(path, old_layout(parts) if old else parts, folder="" if old else "archive/")


def write(
    path: Path, parts: Members, folder: str = "archive/", compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(folder + name, content)


class Touch:
    """Touches the canary when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(CANARY),))


def pickled() -> bytes:
    return pickle.dumps(Touch())


def saved() -> bytes:
    """A torch file that holds code."""
    buffer = io.BytesIO()
    torch.save({"0.weight": Touch()}, buffer)
    return buffer.getvalue()


def shared_object(folder: Path) -> bytes:
    """A library whose constructor touches the canary; bytes that only look like one without a compiler."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return b"\x7fELF"
    source, made = folder / "touch.c", folder / "touch.so"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void f(void) {{ fclose(fopen("{os.path.abspath(CANARY)}", "w")); }}\n'
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    content = made.read_bytes()
    source.unlink(), made.unlink()
    return content


def old_layout(parts: Members) -> Members:
    """The same program as PyTorch 2.5 to 2.7 wrote it."""
    weights = {name: t.detach() for name, t in network().state_dict().items()}

    def stored(value: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return {
        "version": b"8.0",
        OLD_MODEL: parts[MODEL],
        "serialized_state_dict.pt": stored({n: nn.Parameter(t) for n, t in weights.items()}),
        "serialized_constants.pt": stored({}),
        "serialized_example_inputs.pt": parts["data/sample_inputs/model.pt"],
    }


CODE = f"__import__('pathlib').Path('{CANARY}').touch()"
Change = Callable[[Any], None]


def with_json(parts: Members, name: str, change: Change) -> Members:
    found = json.loads(parts[name])
    change(found)
    return parts | {name: json.dumps(found).encode()}


def _graph(found: Any) -> Any:
    return found["graph_module"]["graph"]


def _set_expression(expression: str) -> Change:
    def change(found: Any) -> None:
        _graph(found)["tensor_values"]["input"]["sizes"][0] = {"as_expr": {"expr_str": expression}}

    return change


def _set_target(target: str) -> Change:
    def change(found: Any) -> None:
        _graph(found)["nodes"][0]["target"] = target

    return change


def _rename(old: str, new: str) -> Callable[[Members], Members]:
    def change(parts: Members) -> Members:
        return parts | {MODEL: parts[MODEL].replace(json.dumps(old).encode(), json.dumps(new).encode())}

    return change


def _payload(path_name: str, pickle_flag: bool) -> Change:
    def change(found: Any) -> None:
        meta = None
        found["config"]["c"] = {"path_name": path_name, "is_param": False, "use_pickle": pickle_flag}
        found["config"]["c"]["tensor_meta"] = meta

    return change


def _pickled_weight(found: Any) -> None:
    found["config"]["0.weight"]["use_pickle"] = True


def _tree(kind: str, context: Any) -> Change:
    def change(found: Any) -> None:
        leaf = {"type": None, "context": None, "children_spec": []}
        text = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])
        found["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = text

    return change


def _guards(found: Any) -> None:
    found["guards_code"] = [CODE]


def _argument_names(found: Any) -> None:
    found["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [f"x={CODE}"]


def _stack_trace(found: Any) -> None:
    _graph(found)["nodes"][0]["metadata"]["stack_trace"] = f"\n{CODE}\n"


def _custom_argument(found: Any) -> None:
    _graph(found)["nodes"][0]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "c", "class_fqn": "x"}}


def _operator_argument(found: Any) -> None:
    _graph(found)["nodes"][0]["inputs"][0]["arg"] = {"as_operator": "torch.hub.load"}


def _sizes(found: Any) -> None:
    found["config"]["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 10**6}, {"as_int": 10**6}]
    found["config"]["0.weight"]["tensor_meta"]["strides"] = [{"as_int": 0}, {"as_int": 0}]


def _beyond(found: Any) -> None:
    found["config"]["0.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 10**6}


def _operation(target: str, **arguments: Any) -> Change:
    """The first operation after the linear layer is another one, called with these arguments."""

    def change(found: Any) -> None:
        node = next(n for n in _graph(found)["nodes"] if "relu" in n["target"])
        node["target"] = f"torch.ops.aten.{target}"
        node["inputs"] = node["inputs"][:1] + [
            {"name": name, "arg": argument, "kind": 1} for name, argument in arguments.items()
        ]

    return change


def doubled(count: int) -> Change:
    """A chain of operations, each of twice the size of the one before."""

    def change(found: Any) -> None:
        graph = _graph(found)
        at, old = next((n, node) for n, node in enumerate(graph["nodes"]) if "relu" in node["target"])
        result, before = old["outputs"][0]["as_tensor"]["name"], old["inputs"][0]["arg"]["as_tensor"]["name"]
        made = []
        for number in range(count):
            name = result if number == count - 1 else f"twice_{number}"
            both = {"as_tensors": [{"name": before}, {"name": before}]}
            inputs = [{"name": "tensors", "arg": both, "kind": 1}]
            made.append(
                {
                    **old,
                    "target": "torch.ops.aten.cat.default",
                    "inputs": inputs,
                    "outputs": [{"as_tensor": {"name": name}}],
                }
            )
            graph["tensor_values"][name] = graph["tensor_values"][result]
            before = name
        graph["nodes"][at : at + 1] = made

    return change


UNRUNNABLE: dict[str, Change] = {
    "more memory than there is": _operation(
        "new_full.default", size={"as_ints": [10**9, 4]}, fill_value={"as_int": 1}
    ),
    "a repetition without end": _operation("repeat.default", repeats={"as_ints": [10**5, 10**4]}),
    "padding without end": _operation("constant_pad_nd.default", pad={"as_ints": [0, 10**9]}),
    "sizes that overflow": _operation("new_zeros.default", size={"as_ints": [2**62, 2**62]}),
    "a negative size": _operation("new_zeros.default", size={"as_ints": [-5]}),
    "a view beyond its memory": _operation(
        "as_strided.default", size={"as_ints": [4, 8]}, stride={"as_ints": [10**6, 1]}
    ),
    "another shape than it says": _operation("sum.default"),
    "matrices that are not square": _operation("linalg_matrix_exp.default"),
    "a number in place of a tensor": _operation("is_pinned.default"),
    "a value in place of a tensor": _operation("_local_scalar_dense.default"),
    "a tensor without its history": _operation("data.default"),
    "an argument of no meaning": _operation("softmax.int", dim={"as_int": 7}),
    "results that double": doubled(33),
}
"""Programs that are well formed, and whose operations fail or take too much when they are run."""

ENUM = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "y"}])
FACTORY = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": ["a"]}

JSON_CHANGES: dict[str, tuple[str, Change]] = {
    "symbolic expression": (MODEL, _set_expression(CODE)),
    "symbolic expression by attribute": (
        MODEL,
        _set_expression(f"().__class__.__base__.__subclasses__() and {CODE}"),
    ),
    "symbolic expression in a lambda": (MODEL, _set_expression(f"(lambda: {CODE})()")),
    "symbolic expression in a symbol's name": (MODEL, _set_expression(f'Symbol("{CODE}")')),
    "symbolic tower of powers": (MODEL, _set_expression("9**9**9**9")),
    "target outside torch.ops": (MODEL, _set_target("torch.hub.load")),
    "target in os": (MODEL, _set_target("torch.os.system")),
    "target of an extension": (MODEL, _set_target("#x:y")),
    "operation on files": (MODEL, _set_target("torch.ops.aten.from_file.default")),
    "operation of TorchScript": (MODEL, _set_target("torch.ops.aten.save.default")),
    "operation of a kernel": (MODEL, _set_target("torch.ops.higher_order.triton_kernel_wrapper_functional")),
    "operation by dunder": (MODEL, _set_target("torch.ops.aten.__class__.mro")),
    "custom object as argument": (MODEL, _custom_argument),
    "operator as argument": (MODEL, _operator_argument),
    "enumeration in a tree": (MODEL, _tree("builtins.dict", ENUM)),
    "default factory in a tree": (MODEL, _tree("collections.defaultdict", FACTORY)),
    "class in a tree": (MODEL, _tree("torch.fx.immutable_collections.immutable_list", "null")),
    "code as argument name": (MODEL, _argument_names),
    "custom object": (CONSTANTS, _payload("custom_obj_0", True)),
    "opaque object": (CONSTANTS, _payload("opaque_obj_0", True)),
    "opaque object said to be plain": (CONSTANTS, _payload("opaque_obj_0", False)),
    "pickled constant": (CONSTANTS, _payload("tensor_0", True)),
    "pickled weight": (WEIGHTS, _pickled_weight),
    "payload in another folder": (CONSTANTS, _payload("../../tensor_0", False)),
    "weight larger than the file": (WEIGHTS, _sizes),
    "weight beyond its record": (WEIGHTS, _beyond),
}
NEUTRALISED: dict[str, tuple[str, Change]] = {
    "guards": (MODEL, _guards),
    "stack trace": (MODEL, _stack_trace),
}


def hostile(folder: Path, content: bytes) -> dict[str, Callable[[Path], None]]:
    """For each kind of attack, what writes a file that carries it."""
    parts = members(content)
    library = shared_object(folder)

    def made(change: Callable[[Members], Members], **options: Any) -> Callable[[Path], None]:
        return lambda path: write(path, change(dict(parts)), **options)

    kinds: dict[str, Callable[[Path], None]] = {
        kind: made(lambda p, n=name, c=change: with_json(p, n, c))
        for kind, (name, change) in JSON_CHANGES.items()
    }
    for path_name in ("custom_obj_0", "opaque_obj_0", "tensor_0"):
        change = _payload(path_name, True)
        kinds[f"{path_name} with its member"] = made(
            lambda p, c=change, n=path_name: with_json(p | {f"data/constants/{n}": pickled()}, CONSTANTS, c)
        )
    for kind, name in {
        "compiled code": "data/aotinductor/model/model.so",
        "compiled code outside its folder": "data/aotinductor/model/../../../../escaped.so",
        "compiled code in another case": "DATA/AOTInductor/model/model.so",
        "compiled code with backslashes": "data\\aotinductor\\model\\model.so",
        "compiled code among notes": "extra/../data/aotinductor/model/model.so",
        "absolute member": "/tmp/escaped.so",
        "unknown member": "data/other/model.bin",
        "second model": "models/other.json",
        "pickled weights beside raw ones": "data/weights/model.pt",
        "program in another case": "MODELS/model.json",
        "opaque object without an entry": "data/constants/opaque_obj_7",
    }.items():
        kinds[kind] = made(lambda p, n=name: p | {n: library})
    for kind, name in {
        "pickled example inputs": "data/sample_inputs/model.pt",
        "pickled weights of PyTorch 2.8": "data/weights/model.pt",
        "pickled constants of PyTorch 2.8": "data/constants/model.pt",
    }.items():
        raw = name.replace(
            "model.pt", "model_weights_config.json" if "weights" in name else "model_constants_config.json"
        )
        kinds[kind] = made(lambda p, n=name, r=raw: {k: v for k, v in p.items() if k != r} | {n: saved()})
    for kind, old, new in (
        ("code as node name", "relu", f"relu = {CODE}; y"),
        ("quote in a tensor name", "0.weight", f'0.a"){CODE}#'),
        ("dunder in a tensor name", "0.weight", "__class__.weight"),
    ):
        kinds[kind] = made(_rename(old, new))

    def old(change: Members) -> Callable[[Path], None]:
        return lambda path: write(path, old_layout(parts) | change, folder="")

    for kind, (name, change) in JSON_CHANGES.items():
        if name == MODEL:
            kinds[f"old layout, {kind}"] = lambda path, c=change: write(
                path, with_json(old_layout(parts), OLD_MODEL, c), folder=""
            )
    kinds["old layout, pickled weights"] = old({"serialized_state_dict.pt": saved()})
    kinds["old layout, pickled constants"] = old({"serialized_constants.pt": saved()})
    kinds["old layout, pickled inputs"] = old({"serialized_example_inputs.pt": saved()})
    kinds["old layout, weights as JSON"] = old({"serialized_state_dict.json": saved()})
    kinds["old layout, escaping notes"] = old({"extra_files/../../escaped": b"x"})
    kinds["compressed"] = made(lambda p: p | {"extra/zeros": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED)
    kinds["JSON nested deeply"] = made(lambda p: p | {MODEL: b"[" * 100_000})
    kinds["JSON with a key twice"] = made(
        lambda p: p | {MODEL: b'{"guards_code": [], "guards_code": [], ' + p[MODEL].lstrip()[1:]}
    )

    def twice(path: Path) -> None:
        write(path, parts)
        changed = with_json(
            parts | {"data/constants/opaque_obj_0": pickled()}, CONSTANTS, _payload("opaque_obj_0", True)
        )
        import warnings

        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(f"archive/{CONSTANTS}", changed[CONSTANTS])

    kinds["duplicate config"] = twice
    return kinds
