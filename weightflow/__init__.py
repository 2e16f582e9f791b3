"""Generate neural networks from words."""

from importlib import import_module
from typing import Any

# Loaded on first use: `weightflow --help` must answer before torch is imported.
_HOME = {"Flow": "generator.generator", "Prompt": "text", "Zoo": "zoo.store", "load": "generator.generator"}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weightflow' has no attribute {name!r}")
    return getattr(import_module(f"weightflow.{_HOME[name]}"), name)
