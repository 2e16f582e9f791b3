"""Remove the symmetries of neural networks: groups from the graph, proved; alignment; merging."""

from importlib import import_module
from typing import Any

# Loaded on first use: `canon --help` must answer before torch is imported.
_HOME = {
    "Aligned": "matching.population",
    "Axis": "spec",
    "Checkpoint": "io.checkpoint",
    "Factor": "spec",
    "Group": "spec",
    "Match": "matching.result",
    "PermutationSpec": "spec",
    "Transform": "actions.transform",
    "align": "alignment",
    "align_many": "matching.population",
    "align_to": "matching.population",
    "apply": "actions.permutation",
    "apply_scale": "actions.scaling",
    "balance": "actions.scaling",
    "canonicalize": "actions.canonical_form",
    "compose": "actions.permutation",
    "curve": "merging.interpolation",
    "fold_norms": "folding.norm_folding",
    "identity": "actions.permutation",
    "invert": "actions.permutation",
    "lerp": "merging.interpolation",
    "match_activations": "matching.activation_matching",
    "match_signed": "matching.signed_weight_matching",
    "match_weights": "matching.weight_matching",
    "merge": "merging.interpolation",
    "prove": "tracing.numerical_check",
    "random": "actions.permutation",
    "reestimate_batch_norm": "merging.activation_repair",
    "repair": "merging.activation_repair",
    "restore_norms": "merging.weight_norms",
    "straight_through": "matching.straight_through_estimator",
    "trace": "tracing.trace",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'canon' has no attribute {name!r}")
    return getattr(import_module(f"canon.{_HOME[name]}"), name)
