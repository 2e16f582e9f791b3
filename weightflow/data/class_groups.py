"""Grouped classes: a class of a task may be a union of data-set classes, or `other`.

one                    a class of the data set
one or three           a union
odd = one or three     a union with a name
other                  every class that the task does not name; a data set's own class of that name goes first
"""

from __future__ import annotations

from collections.abc import Sequence

from canon.errors import InputError
from weightflow.registry import suggest

OR, OTHER = " or ", "other"


def members(text: str, class_names: Sequence[str]) -> tuple[str, ...] | None:
    """The classes that a union names, none for `other`; None where the text is neither.

    Words in which no part is a known class are a description, whatever they say.
    """
    if text in class_names:
        return None
    said = text.partition("=")[2].strip() or text
    if said == OTHER and said not in class_names:
        return ()
    parts = tuple(part.strip() for part in f" {said} ".split(OR))
    strange = [part for part in parts if part not in class_names]
    if said in class_names or len(parts) < 2 or len(strange) == len(parts):
        return None
    if "" in parts:
        raise InputError(f"'{said}' has no class on one side of `or`; name two or more different classes")
    if strange:
        raise InputError(
            f"'{said}' is a union of classes, and '{strange[0]}' is not a known class; nearest: "
            f"{suggest(strange[0], list(class_names))}"
        )
    twice = [part for part in parts if parts.count(part) > 1]
    if twice:
        raise InputError(f"the union '{said}' names '{twice[0]}' twice; name two or more different classes")
    return parts


def labels_of_classes(data_set: str, classes: Sequence[str], class_names: Sequence[str]) -> list[list[int]]:
    """Labels of each class of a task; `InputError` where a class is unknown, occurs twice, or none is left."""
    label = {name: index for index, name in enumerate(class_names)}
    found: list[list[int]] = []
    owner: dict[str, str] = {}
    for text in classes:
        group = members(text, class_names)
        own = (text,) if group is None else group
        for name in own:
            if name not in label:
                raise InputError(
                    f"data set '{data_set}' has no class '{name}'; nearest: {suggest(name, list(class_names))}"
                )
            if name in owner:
                raise InputError(
                    f"'{name}' stands in two classes, '{owner[name]}' and '{text}'; a class belongs to one"
                )
            owner[name] = text
        found.append([label[name] for name in own])
    left = [index for name, index in label.items() if name not in owner]
    others = [text for text, own in zip(classes, found, strict=True) if not own]
    if len(others) > 1:
        raise InputError(f"'{others[0]}' and '{others[1]}' both mean all other classes; name one of them")
    if others and not left:
        raise InputError(
            f"no class is left for '{others[0]}': the task names all {len(label)} classes of '{data_set}'"
        )
    return [own or left for own in found]
