"""Summary statistics of a zoo, with a histogram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from canon.errors import InputError
from canon.validation import many
from weightflow.data.info import DataInfo
from weightflow.zoo.data_changes import change_of
from weightflow.zoo.store import Zoo

BARS = "▁▂▃▄▅▆▇█"


def inspect_zoo(zoo: Zoo) -> dict[str, Any]:
    """Counts by split, lineage and number of classes; validation accuracies with a histogram."""
    records = zoo.records
    values = np.array([r.accuracy["validation"] for r in records if "validation" in r.accuracy])
    counts, edges = _histogram(values)
    parameters = sum(int(np.prod(shape)) for shape in zoo.architecture.shapes.values())
    return {
        "path": str(zoo.path),
        "networks": len(zoo),
        "architecture": zoo.architecture.to_dict(),
        "parameters": parameters,
        "dataset": zoo.dataset,
        "data": _data(zoo),
        "canonical": "canonical" in zoo.manifest,
        "shards": len(zoo.manifest["shards"]),
        "lineage": dict(Counter(r.lineage for r in records)),
        "splits": dict(Counter(r.split for r in records)),
        "classes": {str(k): n for k, n in sorted(Counter(len(r.classes) for r in records).items())},
        "combinations": len({frozenset(r.classes) for r in records}),
        "validation_accuracy": {
            "mean": float(values.mean()) if len(values) else None,
            "std": float(values.std()) if len(values) else None,
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
            **({} if len(values) else {"reason": "the records hold no validation accuracy"}),
        },
    }


def _data(zoo: Zoo) -> dict[str, Any]:
    """How the inputs of the networks are prepared, as far as the zoo or the data say; a reason where neither does."""
    data, remarks = None, list[str]()
    try:
        data = zoo.data
        remarks += data.remarks
    except InputError as error:
        remarks.append(str(error))
    table = zoo.manifest.get("data")
    facts = DataInfo.from_dict(table) if table else None if data is None else DataInfo.of(data)
    if facts and data and (change := change_of(facts, data)):
        remarks.append(f"{change} since the networks were trained")
    if facts is None:
        return {"remarks": remarks}
    return {
        "examples": facts.examples or None,
        "fingerprint": facts.fingerprint or None,
        "preprocessing": facts.preprocessing.to_dict(),
        "standardised": _standardised(facts, zoo.architecture.input_shape),
        "remarks": remarks,
    }


def _standardised(facts: DataInfo, shape: Sequence[int]) -> str:
    prepared = facts.preprocessing
    divided = "" if prepared.divisor == 1 else f"divided by {prepared.divisor:g}, "
    if isinstance(prepared.mean, tuple):
        each = "channel" if len(shape) == 3 else "feature"
        return f"{divided}each of {len(prepared.mean)} {each}s by its own mean and deviation"
    if (prepared.mean, prepared.std) == (0, 1):
        return f"{divided}not standardised"
    return f"{divided}mean {prepared.mean:.4g}, deviation {prepared.std:.4g} for all"


def _histogram(values: np.ndarray, bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    if not len(values):
        return np.array([]), np.array([])
    low, high = float(values.min()), float(values.max())
    if high - low < 0.01:  # all alike: a histogram around them, not beyond 0 and 1
        low, high = max(0.0, low - 0.05), min(1.0, high + 0.05)
    return np.histogram(values, bins=bins, range=(low, high))


def picture(found: dict[str, Any]) -> str:
    """The summary as text."""
    a, accuracy = found["architecture"], found["validation_accuracy"]
    lines = [
        f"{found['path']}: {many(found['networks'], 'network')}, {many(found['shards'], 'shard')}"
        f"{', canonical' if found['canonical'] else ''}",
        f"architecture  {a['name']} {a['arguments']}, {a['classes']} classes at most, {found['parameters']} parameters",
        f"data set      {found['dataset']}",
        *([f"inputs        {data['standardised']}"] if "standardised" in (data := found["data"]) else []),
        *(f"              {remark}" for remark in found["data"]["remarks"]),
        f"lineage       {_counts(found['lineage'])}",
        f"splits        {_counts(found['splits'])}",
        f"classes       {_counts(found['classes'])} ({many(found['combinations'], 'combination')})",
    ]
    counts, edges = accuracy["histogram"]["counts"], accuracy["histogram"]["edges"]
    if counts:
        bars = "".join(BARS[round((len(BARS) - 1) * c / max(counts))] if c else " " for c in counts)
        lines.append(f"validation    {100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f} %")
        lines.append(f"              {100 * edges[0]:.0f} % {bars} {100 * edges[-1]:.0f} %")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
