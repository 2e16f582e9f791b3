"""Export programs (`.pt2`, ONNX); each is compared with the module before it is returned."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError, WorkError
from canon.io.exported_program import quiet_export
from canon.tracing.exported_graph import operation

METADATA = "weightflow.json"
TOLERANCE = 1e-5
TELLING = ("No ONNX function", "not supported", "Error when translating node")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def pt2_bytes(module: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    """A program that torch alone runs: `torch.export.load(file).module()(inputs)`, any number of examples.

    Raw inputs may be of any dtype, on any device that holds the program: their preparation converts them.
    `InputError` where the network cannot be traced as one graph.
    """
    program = _of_any_dtype(_exported(module, example))
    with torch.no_grad():
        _compare("the .pt2 program", program.module()(example), module, example)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(dict(metadata))})
    return buffer.getvalue()


def onnx_bytes(module: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    """An ONNX model with one input, `inputs`, and one output, `logits`, run once in onnxruntime.

    `InputError` where packages are missing, or ONNX has no word for an operation of the network.
    """
    onnx, runtime = _packages()
    exported = _exported(module, example)
    try:
        with _quiet():
            found = torch.onnx.export(
                exported, input_names=["inputs"], output_names=["logits"], dynamo=True, verbose=False
            )
        assert found is not None
        model = found.model_proto
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model)
        content = model.SerializeToString()
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        logits = session.run(["logits"], {session.get_inputs()[0].name: example.numpy()})[0]
    except Exception as error:  # torch's exporter and onnxruntime raise exceptions of many classes
        raise InputError(f"ONNX cannot express this network: {_reason(error)}; export it as pt2") from None
    _compare("the ONNX model", torch.from_numpy(logits), module, example)
    return content


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise InputError(
            f"ONNX needs the package {error.name}; install them: pip install 'weightflow[onnx]'"
        ) from None
    return onnx, onnxruntime


def _exported(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    # a bound: without one, torch 2.6 takes a guard against the largest integer for a limit of the network
    examples = torch.export.Dim("examples", max=2**31 - 1)
    try:
        with _quiet():
            return torch.export.export(module, (example,), dynamic_shapes=({0: examples},), strict=False)
    except Exception as error:  # torch.export raises exceptions of many classes
        raise InputError(
            f"this network cannot be written as one graph: {_reason(error)}; export it as safetensors"
        ) from None


def _of_any_dtype(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Drop the assertion that inputs have the example's dtype, which the conversion after it makes needless."""
    graph = program.graph
    for node in list(graph.nodes):
        if operation(node) == "_assert_tensor_metadata" and node.args[0].op == "placeholder":
            graph.erase_node(node)
    return program


def _reason(error: BaseException | None) -> str:
    """The line of an exporter's long messages, or of their causes, that names what it could not do."""
    lines: list[str] = []
    while error is not None:
        lines += [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
        error = error.__cause__ or error.__context__
    if any("Constraints violated (examples)" in line for line in lines):
        return "its code fixes the number of examples, as len(x) does; write x.shape[0]"
    telling = [line for line in lines if any(part in line for part in TELLING)]
    return (telling or lines or ["no reason given"])[0][:200].rstrip(".")


def _compare(what: str, logits: Tensor, module: nn.Module, example: Tensor) -> None:
    with torch.no_grad():
        expected = module(example)
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * (1 + float(expected.abs().max())):
        raise WorkError(f"{what} differs from the network by {difference:.1e}; nothing was written")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' logs and output; what matters of them is in the error."""
    with quiet_export(), redirect_stdout(io.StringIO()):
        yield
