"""The data-set card of a zoo, with which its folder can be published."""

from __future__ import annotations

import json
from pathlib import Path

from canon.errors import InputError
from canon.io.files import atomic_write
from canon.validation import markdown
from weightflow.data.info import without_folders
from weightflow.networks.readout import Cosine
from weightflow.zoo.store import Zoo
from weightflow.zoo.summary import inspect_zoo

CARD = "README.md"


def write_card(zoo: Zoo) -> Path:
    """Write README.md into the zoo's folder: tasks, texts, accuracies, lineage, licence of the data."""
    path = zoo.path / CARD
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link; delete it, and run the command again")
    atomic_write(path, card(zoo))
    return path


def card(zoo: Zoo) -> str:
    """The card as Markdown, with the front matter that data-set hubs read."""
    found, data = inspect_zoo(zoo), zoo.data
    architecture, accuracy = found["architecture"], found["validation_accuracy"]
    held_out, unseen = zoo.manifest.get("held_out_classes"), zoo.manifest.get("unseen_by_backbone")
    example = zoo.records[0]
    lines = [
        "---",
        "pretty_name: " + json.dumps(f"{architecture['name']} networks on {without_folders(zoo.dataset)}"),
        "tags: [weight-space-learning, neural-network-weights, weightflow]",
        "---",
        "",
        f"# {found['networks']} {architecture['name']} networks on {markdown(without_folders(zoo.dataset))}",
        "",
        f"Pairs of text and weights: every network tells the named classes apart, {_outputs(zoo)}.",
        "",
        f"- **Architecture**: {architecture['name']} {markdown(json.dumps(architecture['arguments']), 2000)}, "
        f"{found['parameters']:,} parameters, at most {architecture['classes']} classes; inputs "
        f"{tuple(architecture['input_shape'])}",
        f"- **Lineage**: {_counts(found['lineage'])}{_base(zoo)}",
        f"- **Splits**: {_counts(found['splits'])}",
        f"- **Tasks**: {found['combinations']} combinations of classes; networks by number of classes: "
        f"{_counts(found['classes'])}",
        f"- **Accuracy** on validation examples, mean ± standard deviation: {_accuracy(accuracy)}",
        f"- **Frame**: {'canonical: all networks in one frame' if found['canonical'] else 'as trained'}",
        *([f"- **Held-out classes**: {', '.join(map(markdown, held_out))}"] if held_out else []),
        *(
            [f"- **Classes that the backbone has never seen**: {', '.join(map(markdown, unseen))}"]
            if unseen
            else []
        ),
        f"- **Licence of the data** that the networks were trained on: {markdown(data.licence)}",
        "",
        "## Texts",
        "",
        f"Each record's `classes` is its text. Network {markdown(example.id)}: *{', '.join(map(markdown, example.classes))}*.",
        "",
        f"The {len(data.class_names)} classes: {', '.join(map(markdown, data.class_names))}.",
        "",
        "## Files",
        "",
        "- `records.jsonl`: one line a network: id, seed, classes, lineage, accuracies, shard and row",
        "- `shards/*.safetensors`: one tensor a parameter, the first axis counts the shard's networks; logits "
        "that a network does not have are zero",
        "- `zoo.json`: architecture, recipe, SHA-256 of every shard",
        "",
        "```python",
        "from weightflow import Zoo",
        "",
        'zoo = Zoo("path/to/this/folder")',
        "state_dict, classes = zoo.network(0), zoo.records[0].classes",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _outputs(zoo: Zoo) -> str:
    readout = zoo.architecture.readout
    if isinstance(readout, Cosine):
        return (
            f"its output compared by cosine with their text vectors (encoder {markdown(readout.encoder)}, identity "
            f"{markdown(readout.identity)}, temperature {readout.temperature:g})"
        )
    return "its logits in their order"


def _base(zoo: Zoo) -> str:
    base = zoo.manifest.get("base")
    return f", all fine-tuned from {markdown(base['file'])}" if base else ""


def _accuracy(accuracy: dict[str, float | None]) -> str:
    if accuracy["mean"] is None:
        return "not measured"
    return f"{accuracy['mean']:.4f} ± {accuracy['std']:.4f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{markdown(str(name))} {count}" for name, count in counts.items())
