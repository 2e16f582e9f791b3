"""The exception for a baseline that does not apply to a zoo."""


class Inapplicable(Exception):
    """The reason, as a report gives it beside a figure that is null."""
