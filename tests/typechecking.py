"""How annotations are checked in tests: as type checkers do, for which an int is a float.

jaxtyping's wrapper, which compares the axes of a function's arguments and results, takes many times as long as a call
of a small function. Functions that state no shapes are therefore given to beartype alone.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_with_shapes = jaxtyping.jaxtyped


def _states_shape(annotation: Any) -> bool:
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(_states_shape, annotation))
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_states_shape, get_args(annotation)))


def is_plain(found: Any) -> bool:
    """Whether it is a function whose annotations can be evaluated where it is defined and state no shapes."""
    if not inspect.isfunction(found):
        return False
    try:
        return not any(_states_shape(eval(a, found.__globals__)) for a in found.__annotations__.values())
    except (NameError, AttributeError, TypeError):  # for type checkers alone, defined below, no string
        return False


def _check(found: Any, typechecker: Callable[[Any], Any]) -> Any:
    return typechecker(found) if is_plain(found) else _with_shapes(found, typechecker=typechecker)


def install() -> None:
    """Check the arguments and results of every function of both packages that is imported from now on."""
    jaxtyping.jaxtyped = lambda *, typechecker: partial(
        _check, typechecker=typechecker
    )  # what the hook looks up
    jaxtyping.install_import_hook(["canon", "weightflow"], f"{__name__}.checked")
