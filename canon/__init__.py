"""Remove the symmetries of neural networks: groups from the graph, proved; alignment; merging."""

from importlib import import_module
from typing import Any

# Loaded on first use: `canon --help` must answer before torch is imported.
_HOME = {
    "Aligned": "canonical",
    "Axis": "spec",
    "Checkpoint": "checkpoint",
    "Factor": "spec",
    "Group": "spec",
    "Match": "match",
    "PermutationSpec": "spec",
    "Transform": "transform",
    "align": "alignment",
    "align_many": "canonical",
    "align_to": "canonical",
    "apply": "permutation",
    "apply_scale": "scale",
    "balance": "scale",
    "canonicalize": "canonical_form",
    "compose": "permutation",
    "curve": "interpolate",
    "fold_norms": "fold",
    "identity": "permutation",
    "invert": "permutation",
    "lerp": "interpolate",
    "match_activations": "activation_matching",
    "match_signed": "sign_matching",
    "match_weights": "weight_matching",
    "merge": "interpolate",
    "prove": "proof",
    "random": "permutation",
    "reestimate_batch_norm": "statistics",
    "repair": "statistics",
    "restore_norms": "norms",
    "straight_through": "straight_through",
    "trace": "trace",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'canon' has no attribute {name!r}")
    return getattr(import_module(f"canon.{_HOME[name]}"), name)
