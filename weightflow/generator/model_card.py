"""The model card of a generator, written from its settings and, where there is one, its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from canon.validation import markdown
from weightflow.data.info import without_folders
from weightflow.training.run_store import RunHeader


def card_of(
    header: RunHeader,
    report: Mapping[str, Any] | None,
    trained: int | None = None,
    weights: str | None = None,
) -> str:
    """Markdown with the front matter that the hub reads. Figures are the report's, none are made up.

    `trained` is how many steps the run had taken, where that is known; `weights` the identity of its weights: a
    report of others has no place in the card.
    """
    data, architecture = header.data, header.architecture
    known = ", ".join(map(markdown, data.known[:100])) + (", ..." if len(data.known) > 100 else "")
    unseen = [name for name in data.classes if name not in data.known]
    needs = (
        f"\n- **needs** training examples of {markdown(without_folders(data.dataset))} where it samples: running statistics of batch "
        "norm are neither generated nor saved, but estimated from them"
        if architecture.has_statistics
        else ""
    )
    return f"""---
library_name: weightflow
tags:
- weight-generation
- flow-matching
- model_hub_mixin
---

# {architecture.name} networks for {markdown(without_folders(data.dataset))}, from words

Name two to {architecture.classes} classes and get a PyTorch network that tells them apart, without training.

```python
import weightflow

flow = weightflow.Flow.from_pretrained("THIS-FOLDER")
model = flow.generate({json.dumps(list(data.known[:2]))})
logits = model(inputs)  # raw inputs as {markdown(without_folders(data.dataset))} has them: (examples, {", ".join(map(str, architecture.input_shape))})
```

- **generates** {markdown(architecture.to_json(), 2000)}, {architecture.parameters:,} parameters
- **knows** {known}{f" ({len(unseen)} classes of the data set were held out)" if unseen else ""}
- **text** {markdown(header.encoder)}; a class that it does not know is answered, and accuracy is not promised
- **inputs** are prepared inside the network: {json.dumps(data.preprocessing.to_dict())}
- **learned from** a population with the identity {markdown(header.zoo.identity[:16])}, in {f"{header.config.steps} steps at most" if trained is None else f"{trained} of {header.config.steps} steps"}
- **data** {markdown(without_folders(data.dataset))}: {markdown(data.licence)}{needs}

## Measured

{_figures(report, weights)}
"""


def _figures(report: Mapping[str, Any] | None, weights: str | None) -> str:
    if report is None:
        return "Nothing yet: `weightflow report` had not been run when this card was written."
    if weights is None or report.get("weights") != weights:
        return "Nothing of these weights: the report is of others or was edited; `weightflow report` writes a new one."
    parts = [_splits(report["splits"]), _novelty(report.get("novelty", {}))]
    where = report.get("environment", {})
    torch, commit = (markdown(str(where.get(key))) for key in ("torch", "commit"))
    parts.append(f"Measured with torch {torch} at commit {commit}.")
    return "\n\n".join(part for part in parts if part)


def _splits(splits: Mapping[str, Any]) -> str:
    lines = ["| test accuracy, % | generated | trained on the same task | chance |", "|---|---|---|---|"]
    for name, found in splits.items():
        if isinstance(found, Mapping):
            shown = [found["accuracy"]["mean"], found["trained"]["mean"], found["chance"]]
            lines.append(
                f"| {markdown(name).replace('_', ' ')} | "
                + " | ".join(f"{100 * v:.1f}" for v in shown)
                + " |"
            )
    return "\n".join(lines)


def _novelty(novelty: Mapping[str, Any]) -> str:
    ratio = novelty.get("nearest_distance_ratio")
    if ratio is None:
        return ""
    return (
        f"Generated networks lie {ratio:.2f} times as far from the nearest training network as training "
        "networks lie from each other (0 would be copies)."
    )
