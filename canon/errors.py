"""What went wrong, by whose doing. A command ends with exit code 2 for the first, 1 for the second."""


class InputError(ValueError):
    """What was asked for, or a file that was given, cannot be used. The message says what to do.

    Example:
        >>> import canon
        >>> try:
        ...     canon.inspect("nowhere.pt")
        ... except canon.InputError as error:
        ...     print("refused")
        refused
    """


class InputWarning(UserWarning):
    """Something of what was given should be known, and the work goes on. A command prints it as one line.

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
