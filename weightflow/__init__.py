"""Generate neural networks from words: build populations, train generators, sample, evaluate, export."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canon.errors import InputError, InputWarning, WorkError
    from weightflow.api.evaluation import Report, evaluate
    from weightflow.api.generation import Flow, load, train
    from weightflow.api.populations import build_zoo, canonicalize
    from weightflow.api.registration import register_architecture, register_dataset, register_encoder
    from weightflow.batched.stacked_networks import StackedNetworks
    from weightflow.batched.tasks import Task
    from weightflow.flow.sampling_config import SampleConfig
    from weightflow.registry import load_plugin
    from weightflow.text.encoder import TextEncoder
    from weightflow.text.prompt import Prompt
    from weightflow.zoo.recipe import ZooRecipe
    from weightflow.zoo.store import Zoo

# Loaded on first use: `weightflow --help` must answer before torch is imported.
_HOME = {
    "Flow": "weightflow.api.generation",
    "InputError": "canon.errors",
    "InputWarning": "canon.errors",
    "Prompt": "weightflow.text.prompt",
    "Report": "weightflow.api.evaluation",
    "SampleConfig": "weightflow.flow.sampling_config",
    "StackedNetworks": "weightflow.batched.stacked_networks",
    "Task": "weightflow.batched.tasks",
    "TextEncoder": "weightflow.text.encoder",
    "WorkError": "canon.errors",
    "Zoo": "weightflow.zoo.store",
    "ZooRecipe": "weightflow.zoo.recipe",
    "build_zoo": "weightflow.api.populations",
    "canonicalize": "weightflow.api.populations",
    "evaluate": "weightflow.api.evaluation",
    "load": "weightflow.api.generation",
    "load_plugin": "weightflow.registry",
    "register_architecture": "weightflow.api.registration",
    "register_dataset": "weightflow.api.registration",
    "register_encoder": "weightflow.api.registration",
    "train": "weightflow.api.generation",
}
__version__ = "0.2.0"
__all__ = [
    "Flow",
    "InputError",
    "InputWarning",
    "Prompt",
    "Report",
    "SampleConfig",
    "StackedNetworks",
    "Task",
    "TextEncoder",
    "WorkError",
    "Zoo",
    "ZooRecipe",
    "build_zoo",
    "canonicalize",
    "evaluate",
    "load",
    "load_plugin",
    "register_architecture",
    "register_dataset",
    "register_encoder",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weightflow' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
