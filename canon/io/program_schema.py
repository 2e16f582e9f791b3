"""Validation of an exported program's JSON before it is passed to torch.

torch resolves names of operations with `getattr`, evaluates symbolic sizes and guards as Python, imports
modules that a tree of outputs names, and writes names of nodes into code that it executes. So every field
is checked against a list of what an ordinary network needs. Guards (checks of input sizes) and notes for
debugging are left out: torch makes the guards of static and of bounded sizes again.
"""

from __future__ import annotations

import json
import keyword
import re
from typing import Any

import torch

from canon.io import symbolic_expression
from canon.validation import (
    Check,
    Invalid,
    boolean,
    either,
    integer,
    items,
    number,
    one_of,
    optional,
    parse_json,
    record,
    replaced_by,
    shown,
    table,
    text,
    union,
)

MOST_OPERATIONS, MOST_VALUES = 6_000, 1_000_000
"""Of a program: torch reads about 1,000 operations per second."""
_SAFE = r"[A-Za-z0-9_ .,:/+\-]*"  # no quote, bracket or escape: torch writes such text into code
safe_text = text(_SAFE)
"""Text that may stand in code: without quotes, brackets or escapes."""
_ANY_TEXT = text(r"[^\x00-\x1f\x7f]*")
_COUNT = integer(0, 2**62)


def name(value: Any) -> str:
    """A name of a node or an argument: a Python identifier, since torch writes it into code."""
    found = text(r"[A-Za-z_][A-Za-z0-9_]*", 500)(value)
    if keyword.iskeyword(found) or found.startswith("__"):
        raise Invalid(f"'{shown(found)}' is not allowed here")
    return found


def tensor_name(value: Any) -> str:
    """A name of a parameter or buffer, as `blocks.0.weight`."""
    found = text(r"[^\x00-\x1f\x7f\"'\\{}()\[\]]*", 2000)(value)
    if any(part.startswith("__") and part.endswith("__") for part in found.split(".")):
        raise Invalid(f"'{shown(found)}' is not allowed here")
    return found


_FLOAT = either(one_of("Infinity", "-Infinity", "NaN"), number)
_HINT = union({"as_int": integer(), "as_bool": boolean, "as_float": _FLOAT})
_EXPRESSION = record({"expr_str": symbolic_expression.check}, {"hint": optional(_HINT)})
_SYMBOLIC_INT = union({"as_expr": _EXPRESSION, "as_int": integer()})
_DEVICE = record({"type": one_of("cpu", "cuda", "mps", "xpu", "meta")}, {"index": optional(integer(0, 1023))})
_SCALAR_TYPE = integer(0, 100)


def _tensor(size: Check) -> Check:
    return record(
        {
            "dtype": _SCALAR_TYPE,
            "sizes": items(size, 64),
            "requires_grad": boolean,
            "device": _DEVICE,
            "strides": items(size, 64),
            "storage_offset": size,
            "layout": one_of(7),  # strided
        }
    )


_NAMED = record({"name": name})
_SYM_INT = union({"as_name": name, "as_int": integer()})
_SYM_FLOAT = union({"as_name": name, "as_float": _FLOAT})
_SYM_BOOL = union({"as_name": name, "as_bool": boolean})
_OPTIONAL_TENSOR = union({"as_tensor": _NAMED, "as_none": boolean})


def _graph_argument(value: Any) -> Any:
    return record({"name": name, "graph": _graph})(value)


_ARGUMENT = union(
    {
        "as_none": boolean,
        "as_tensor": _NAMED,
        "as_tensors": items(_NAMED),
        "as_int": integer(),
        "as_ints": items(integer()),
        "as_float": _FLOAT,
        "as_floats": items(_FLOAT),
        "as_string": _ANY_TEXT,
        "as_strings": items(_ANY_TEXT),
        "as_sym_int": _SYM_INT,
        "as_sym_ints": items(_SYM_INT),
        "as_scalar_type": _SCALAR_TYPE,
        "as_memory_format": integer(0, 10),
        "as_layout": integer(0, 10),
        "as_device": _DEVICE,
        "as_bool": boolean,
        "as_bools": items(boolean),
        "as_sym_bool": _SYM_BOOL,
        "as_sym_bools": items(_SYM_BOOL),
        "as_graph": _graph_argument,
        "as_optional_tensors": items(_OPTIONAL_TENSOR),
        "as_sym_float": _SYM_FLOAT,
        "as_sym_floats": items(_SYM_FLOAT),
        "as_optional_tensor": _OPTIONAL_TENSOR,
        "as_complex": record({"real": _FLOAT, "imag": _FLOAT}),
        "as_nested_tensors": items(items(_NAMED)),
        "as_int_lists": items(items(integer())),
        "as_float_lists": items(items(_FLOAT)),
    }
)
# Inputs and outputs of the graph: torch writes their names into the code of guards.
_BORDER = union(
    {
        "as_none": boolean,
        "as_tensor": _NAMED,
        "as_int": integer(),
        "as_float": _FLOAT,
        "as_bool": boolean,
        "as_string": safe_text,
        "as_sym_int": _SYM_INT,
        "as_sym_bool": _SYM_BOOL,
        "as_sym_float": _SYM_FLOAT,
    }
)

_FUNCTIONS = frozenset(
    [
        f"_operator.{n}"
        for n in [
            "eq",
            "ne",
            "le",
            "ge",
            "lt",
            "gt",
            "neg",
            "pos",
            "mul",
            "add",
            "sub",
            "floordiv",
            "truediv",
            "mod",
            "pow",
            "and_",
            "or_",
            "getitem",
        ]
    ]
    + [f"math.{n}" for n in ["trunc", "ceil", "floor", "sqrt"]]
    + [f"torch.sym_{n}" for n in ["not", "int", "float", "ite", "max", "min", "sqrt", "sum"]]
    + ["torch._sym_sqrt", "torch.fx.experimental.symbolic_shapes.sym_sqrt"]
    + [f"torch.ops.higher_order.{n}" for n in ["wrap_with_set_grad_enabled", "wrap_with_autocast", "cond"]]
)
_OPERATION = re.compile(r"torch\.ops\.(aten|prims)\.([a-z_][A-Za-z0-9_]*)\.([A-Za-z0-9_]+)")
# Operations that reach beyond their tensors: files, storages, devices, memory that is not checked.
_REACHING = re.compile(
    r"from_file|storage|set_|set_data|resize.*|_resize.*|record_stream|.*pin_memory.*|.*sparse.*|.*unsafe_tensor.*|"
    r".*nested.*|.*quantize.*|.*cudnn.*|.*miopen.*|.*mkldnn.*|.*fbgemm.*|.*vulkan.*|.*dlpack.*|_make_.*|_cslt.*|"
    r"_debug.*|_validate.*|_use_.*|_test.*|_foobar|_new_zeros_with.*|_efficientzerotensor|_copy_from.*"
)
_PATHS = frozenset({"filename", "file", "path"})


def _target(value: Any) -> str:
    found = text(limit=300)(value)
    if found in _FUNCTIONS:
        return found
    matched = _OPERATION.fullmatch(found)
    if matched is None:
        raise Invalid(f"the operation {shown(found, 100)} is not one of PyTorch's own on tensors")
    namespace, operation, overload = matched.groups()
    if _REACHING.fullmatch(operation):
        raise Invalid(f"the operation {found} reaches beyond the network's tensors")
    packet = getattr(getattr(torch.ops, namespace), operation, None)
    resolved = getattr(packet, overload, None) if overload in getattr(packet, "overloads", list)() else None
    schema = getattr(resolved, "_schema", None)
    if schema is None:
        raise Invalid(f"the operation {found} is not known to this version of PyTorch")
    # einsum has a `path`, too: an order of products.
    paths = [a for a in schema.arguments if a.name in _PATHS and "int" not in str(a.type)]
    if paths or not torch._C._dispatch_has_kernel(
        schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
    ):
        raise Invalid(f"the operation {found} reaches beyond the network's tensors")
    return found


_MODULE_STACK = re.compile(r"[^\x00-\x1f\x7f]*")


def _notes(value: Any) -> dict[str, str]:
    """Of the notes beside a node, the modules that it belongs to, which messages name."""
    found = table(text(limit=100), text(r"(?s).*", 10_000_000))(value)
    stack = found.get("nn_module_stack", "")
    return {"nn_module_stack": stack} if stack and _MODULE_STACK.fullmatch(stack) else {}


_NODE = record(
    {
        "target": _target,
        "inputs": items(
            record(
                {"name": either(one_of(""), name), "arg": _ARGUMENT},
                {"kind": optional(integer(0, 2))},
            )
        ),
        "outputs": items(_ARGUMENT),
        "metadata": _notes,
    },
    {"is_hop_single_tensor_return": optional(boolean), "name": optional(name)},
)

_GRAPH = record(
    {
        "inputs": items(_BORDER),
        "outputs": items(_BORDER),
        "nodes": items(_NODE),
        "tensor_values": table(name, _tensor(_SYMBOLIC_INT)),
        "sym_int_values": table(name, _SYMBOLIC_INT),
        "sym_bool_values": table(name, union({"as_expr": _EXPRESSION, "as_bool": boolean})),
    },
    {
        "is_single_tensor_return": boolean,
        "custom_obj_values": table(name, union({})),  # none
        "sym_float_values": table(name, union({"as_expr": _EXPRESSION, "as_float": _FLOAT})),
    },
)


def _graph(value: Any) -> Any:
    return _GRAPH(value)


_CONSTANT = union(
    {"as_none": boolean, "as_int": integer(), "as_float": _FLOAT, "as_string": safe_text, "as_bool": boolean}
)
_INPUT_SPEC = union(
    {
        "user_input": record({"arg": _BORDER}),
        "parameter": record({"arg": _NAMED, "parameter_name": tensor_name}),
        "buffer": record({"arg": _NAMED, "buffer_name": tensor_name, "persistent": boolean}),
        "tensor_constant": record({"arg": _NAMED, "tensor_constant_name": tensor_name}),
        "constant_input": record({"name": name, "value": _CONSTANT}),
    }
)
_OUTPUT_SPEC = union(
    {
        "user_output": record({"arg": _BORDER}),
        "loss_output": record({"arg": _NAMED}),
        "buffer_mutation": record({"arg": _NAMED, "buffer_name": tensor_name}),
        "parameter_mutation": record({"arg": _NAMED, "parameter_name": tensor_name}),
        "user_input_mutation": record({"arg": _NAMED, "user_input_name": name}),
    }
)

input_key = either(integer(), text(r"[A-Za-z_][A-Za-z0-9_.\-]*", 200))
"""A key of a table of inputs or outputs: torch writes it into code."""


def _tree(value: Any) -> Any:
    """A tree of inputs or outputs: tuples, lists and tables.

    A registered class whose context is the list of its fields (the outputs of `transformers`) stays; where
    its package was not imported, a table of those fields stands for it.
    """
    found = record(
        {"type": optional(text(limit=200)), "context": lambda v: v, "children_spec": items(_tree)}
    )(value)
    kind, context, children = found["type"], found["context"], found["children_spec"]
    if kind is None:
        if context is not None or children:
            raise Invalid("a leaf with parts")
    elif kind in ("builtins.tuple", "builtins.list"):
        one_of(None, "null")(context)
    else:
        keys = items(input_key)(
            parse_json(text(limit=100_000)(context)) if isinstance(context, str) else context
        )
        if len(keys) != len(children):
            raise Invalid(f"{len(keys)} keys for {len(children)} values")
        if kind not in ("builtins.dict", "collections.OrderedDict"):
            found["type"] = _registered(kind)
    return found


def _registered(kind: str) -> str:
    if not kind.startswith("transformers."):
        raise Invalid(f"a tree of {shown(kind)}")
    from torch.utils import _pytree

    return kind if kind in _pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE else "builtins.dict"


def _tree_text(value: Any) -> str:
    found = parse_json(text(r"(?s).*", 10_000_000)(value))
    if not isinstance(found, list) or len(found) != 2:
        raise Invalid("expected [version, tree]")
    return json.dumps([integer(0, 100)(found[0]), _tree(found[1])])


_CALL = record(
    {"fqn": tensor_name},
    {
        "signature": optional(
            record(
                {
                    "inputs": items(_BORDER),
                    "outputs": items(_BORDER),
                    "in_spec": _tree_text,
                    "out_spec": _tree_text,
                },
                {"forward_arg_names": optional(items(name))},
            )
        )
    },
)

_SHORT = text(r"[A-Za-z0-9_.+<= \-]*", 100)
_PROGRAM = record(
    {
        "graph_module": record(
            {
                "graph": _GRAPH,
                "signature": record({"input_specs": items(_INPUT_SPEC), "output_specs": items(_OUTPUT_SPEC)}),
                "module_call_graph": items(_CALL),
            },
            {"metadata": replaced_by(dict), "treespec_namedtuple_fields": replaced_by(dict)},
        ),
        "opset_version": table(_SHORT, integer(0, 10_000)),
        "range_constraints": table(
            text(r"[a-z]{1,4}[0-9]{1,6}"),
            record({"min_val": optional(integer()), "max_val": optional(integer())}),
        ),
        "schema_version": record({"major": integer(0, 1000), "minor": integer(0, 1000)}),
    },
    {
        "verifiers": items(_SHORT),
        "dialect": _SHORT,
        "torch_version": _SHORT,
        "guards_code": replaced_by(list),
    },
)

_PAYLOAD = record(
    {
        "path_name": text(r"(weight|tensor)_[0-9]{1,9}"),
        "is_param": boolean,
        "use_pickle": one_of(False),
        "tensor_meta": _tensor(union({"as_int": _COUNT})),
    }
)
_PAYLOADS = record({"config": table(tensor_name, _PAYLOAD)})


def program(content: bytes) -> bytes:
    """The JSON of a program, checked and written anew; `Invalid` where it holds what no network needs."""
    given = parse_json(content, 1 << 26)
    _require_bounded(given)
    found = _guarded(_PROGRAM, given)
    found.pop("guards_code", None)  # not needed to run, and unknown to older PyTorch
    return json.dumps(found).encode()


def _require_bounded(found: Any) -> None:
    """`Invalid` where the program has too many operations, those of graphs within graphs included, or values."""
    stack, operations, values = [found], 0, 0
    while stack:
        value = stack.pop()
        values += len(value)
        if isinstance(value, dict):
            nodes = value.get("nodes")
            operations += len(nodes) if isinstance(nodes, list) else 0
            value = value.values()
        if operations > MOST_OPERATIONS:
            raise Invalid(f"it has {operations} operations; at most {MOST_OPERATIONS} are read")
        if values > MOST_VALUES:
            raise Invalid(f"it has more than {MOST_VALUES} values")
        stack += [own for own in value if isinstance(own, (dict, list))]


def payloads(content: bytes) -> dict[str, Any]:
    """The table of raw tensors of an archive, by names of tensors; `Invalid` where it is none."""
    return _guarded(_PAYLOADS, parse_json(content))["config"]


def _guarded(check: Check, found: Any) -> Any:
    try:
        return check(found)
    except RecursionError:
        raise Invalid("nested too deeply") from None
