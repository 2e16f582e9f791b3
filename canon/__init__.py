"""Remove the symmetries of neural networks: align, merge, canonicalize and compare them.

Every function takes modules, state dicts and paths of files alike.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canon.actions.permutation import apply, compose, identity, invert, random
    from canon.actions.scaling import apply_scale
    from canon.actions.transform import Transform
    from canon.api.alignment import align, balance, canonicalize
    from canon.api.averaging import barrier, interpolate, merge
    from canon.api.inspection import Equivalence, Inspection, equivalent, inspect
    from canon.api.networks import Weights
    from canon.errors import InputError, InputWarning, WorkError
    from canon.folding.norm_folding import fold_norms
    from canon.io.checkpoint import Checkpoint
    from canon.matching.activation_matching import match_activations
    from canon.matching.population import Aligned, align_many, align_to
    from canon.matching.result import Match
    from canon.matching.signed_weight_matching import match_signed
    from canon.matching.straight_through_estimator import straight_through
    from canon.matching.weight_matching import match_weights
    from canon.merging.activation_repair import reestimate_batch_norm, repair
    from canon.merging.interpolation import Curve
    from canon.merging.plotting import plot
    from canon.merging.weight_norms import restore_norms
    from canon.spec import Axis, Factor, Group, PermutationSpec
    from canon.tracing.numerical_check import check_groups
    from canon.tracing.symmetry_groups import trace

# Loaded on first use: `canon --help` must answer before torch is imported.
_HOME = {
    "Aligned": "matching.population",
    "Axis": "spec",
    "Checkpoint": "io.checkpoint",
    "Curve": "merging.interpolation",
    "Equivalence": "api.inspection",
    "Factor": "spec",
    "Group": "spec",
    "InputError": "errors",
    "InputWarning": "errors",
    "Inspection": "api.inspection",
    "Match": "matching.result",
    "PermutationSpec": "spec",
    "Transform": "actions.transform",
    "Weights": "api.networks",
    "WorkError": "errors",
    "align": "api.alignment",
    "align_many": "matching.population",
    "align_to": "matching.population",
    "apply": "actions.permutation",
    "apply_scale": "actions.scaling",
    "balance": "api.alignment",
    "barrier": "api.averaging",
    "canonicalize": "api.alignment",
    "check_groups": "tracing.numerical_check",
    "compose": "actions.permutation",
    "equivalent": "api.inspection",
    "fold_norms": "folding.norm_folding",
    "identity": "actions.permutation",
    "inspect": "api.inspection",
    "interpolate": "api.averaging",
    "invert": "actions.permutation",
    "match_activations": "matching.activation_matching",
    "match_signed": "matching.signed_weight_matching",
    "match_weights": "matching.weight_matching",
    "merge": "api.averaging",
    "plot": "merging.plotting",
    "random": "actions.permutation",
    "reestimate_batch_norm": "merging.activation_repair",
    "repair": "merging.activation_repair",
    "restore_norms": "merging.weight_norms",
    "straight_through": "matching.straight_through_estimator",
    "trace": "tracing.symmetry_groups",
}
__version__ = "0.2.0"
__all__ = [
    "Aligned",
    "Axis",
    "Checkpoint",
    "Curve",
    "Equivalence",
    "Factor",
    "Group",
    "InputError",
    "InputWarning",
    "Inspection",
    "Match",
    "PermutationSpec",
    "Transform",
    "Weights",
    "WorkError",
    "align",
    "align_many",
    "align_to",
    "apply",
    "apply_scale",
    "balance",
    "barrier",
    "canonicalize",
    "check_groups",
    "compose",
    "equivalent",
    "fold_norms",
    "identity",
    "inspect",
    "interpolate",
    "invert",
    "match_activations",
    "match_signed",
    "match_weights",
    "merge",
    "plot",
    "random",
    "reestimate_batch_norm",
    "repair",
    "restore_norms",
    "straight_through",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'canon' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"canon.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
