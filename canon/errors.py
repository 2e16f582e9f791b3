"""Exceptions: `InputError` (exit code 2) and `WorkError` (exit code 1)."""


class InputError(ValueError):
    """An argument or an input file cannot be used; the message says what to do.

    Example:
        >>> import canon
        >>> try:
        ...     canon.inspect("nowhere.pt")
        ... except canon.InputError as error:
        ...     print("refused")
        refused
    """


class ArchitectureMismatch(InputError):
    """Two networks, or a network and its code, have other tensors or other shapes.

    Example:
        >>> import torch
        >>> from canon.errors import ArchitectureMismatch
        >>> from canon.io.checkpoint import require_same
        >>> try:
        ...     require_same({"w": torch.ones(2)}, {"w": torch.ones(3)}, "A", "B")
        ... except ArchitectureMismatch as error:
        ...     print(error)
        A and B are different architectures: w (2,) and (3,)
    """


class InputWarning(UserWarning):
    """A notice about the input; the work continues. Commands print it as one line.

    Example:
        >>> import canon
        >>> issubclass(canon.InputWarning, UserWarning)
        True
    """


class WorkError(RuntimeError):
    """The input was fine and the work failed (NaN, a full disk, a worker lost).

    Example:
        >>> import canon
        >>> issubclass(canon.WorkError, Exception)
        True
    """
