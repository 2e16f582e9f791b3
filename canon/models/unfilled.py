"""Building a network without memory for its parameters, where the checkpoint's tensors are to take their place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Within the block, parameters that modules register are on the meta device; buffers are what they are."""
    register = nn.Module.register_parameter
    made: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def registered(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if type(param) is nn.Parameter and not param.is_meta:
            known = made.get(id(param))
            if known is None or known[0]() is not param:
                known = weakref.ref(param), nn.Parameter(param.detach().to("meta"), param.requires_grad)
                made[id(param)] = known
            param = known[1]
        register(module, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def needs_only_parameters(module: nn.Module) -> bool:
    """Whether all that has no content yet are parameters: nothing was computed from them."""
    held: list[Any] = list(module.buffers())
    for part in module.modules():
        held += [value for value in vars(part).values() if isinstance(value, Tensor)]
    return not any(tensor.is_meta for tensor in held)
