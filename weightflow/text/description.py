"""A class description: words, images, or several of both, whose vectors are averaged.

tabby                                  words
cat = a small pet that purrs           a name for the class, and words for it
cat | kitten | a photo of a cat        several ways to say it
cat = image:tom.png | image:kit.png    images; what follows `image:` are files too
cat | image:tom.png                    words and images
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from canon.errors import InputError
from weightflow.data.class_groups import members
from weightflow.text.encoder import TextEncoder, mean_vector

IMAGE = "image:"
CLOSE = 0.8  # share of letters that two spellings have in common, as difflib counts it


@dataclass(frozen=True)
class Description:
    """`name` is what the logit stands for; `words` and `images` (files) say what that is."""

    name: str
    words: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str) -> Description:
        """A class whose name says everything."""
        return cls(name, (name,))

    @property
    def said(self) -> str:
        """Its words as they are written in a prompt; its name where it is described by images alone."""
        return " | ".join(self.words) or self.name

    @classmethod
    def parse(cls, text: str, known: Collection[str] = ()) -> Description:
        """`[NAME =] WORDS | WORDS | image:FILE | FILE`; `InputError` where a part is empty.

        A text that is the name of a `known` class, in large or small letters, stands for it, whatever signs are in
        it. Names are compared
        and kept in Unicode's composed form (NFC), in which data sets keep them too.
        """
        text = unicodedata.normalize("NFC", text)
        if (own := class_named(text.strip(), known)) is not None:
            return cls.of(own)
        if (plain := text.strip()) and not {"=", "|"} & set(plain) and not plain.startswith(IMAGE):
            return cls.of(plain)
        name, equals, rest = (part.strip() for part in text.partition("="))
        ways = [way.strip() for way in (rest if equals else name).split("|")]
        first_image = next((i for i, way in enumerate(ways) if way.startswith(IMAGE)), len(ways))
        images = tuple(way.removeprefix(IMAGE).strip() for way in ways[first_image:])
        if not name or not all(ways) or not all(images):
            raise InputError(
                f"'{text}' names no class, or an empty one; write for instance: three, seven, nine"
            )
        words = tuple(class_named(way, known) or way for way in ways[:first_image])
        return cls(name if equals else words[0] if words else text.strip(), words, images)


def class_named(text: str, known: Collection[str]) -> str | None:
    """The known class with this name; where none is spelt so, the only one that differs in capital letters alone."""
    if text in known:
        return text
    return _without_case(tuple(known)).get(text.casefold())


@lru_cache(maxsize=8)
def _without_case(known: tuple[str, ...]) -> dict[str, str]:
    """Classes by their casefolded names, where no two of these are equal."""
    folded = [name.casefold() for name in known]
    count = Counter(folded)
    return {own: name for own, name in zip(folded, known, strict=True) if count[own] == 1}


def misspelt(text: str, known: Collection[str]) -> str | None:
    """The known class that a text seems to misspell; None where it is one itself or similar to none.

    One edit away: a letter too many, too few, exchanged with its neighbour or replaced. Further away, `CLOSE` decides.
    """
    if class_named(text, known) is not None:
        return None
    names = {name.casefold(): name for name in known}
    own = text.casefold()
    edited = [name for name in names if _one_edit(own, name)]
    near = get_close_matches(own, edited or names, n=1, cutoff=0 if edited else CLOSE)
    return names[near[0]] if near else None


def _one_edit(a: str, b: str) -> bool:
    """Whether one letter was inserted, removed or replaced, or two neighbours were exchanged; one letter is no word."""
    if len(a) < 2 or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest, other = a[start:], b[start:]
    removed, inserted, replaced = rest[1:] == other, rest == other[1:], rest[1:] == other[1:]
    return removed or inserted or replaced or rest[1::-1] + rest[2:] == other


def encode(encoder: TextEncoder, descriptions: Sequence[Description]) -> Float[Tensor, "descriptions width"]:
    """One vector a class, root mean square 1: the mean over its words and images where it has several."""
    asked = list(dict.fromkeys(w for d in descriptions for w in d.words))
    vector = dict(zip(asked, encoder.encode(asked), strict=True))
    rows = []
    for d in descriptions:
        words = [vector[w] for w in d.words]
        if d.images:
            said = torch.stack(words) if words else torch.empty(0, encoder.width)
            rows.append(encoder.shown(said, d.images))
        else:
            rows.append(mean_vector(words))
    return torch.stack(rows) if rows else torch.empty(0, encoder.width)


def encode_groups(
    encoder: TextEncoder, descriptions: Sequence[Description], class_names: Sequence[str]
) -> Float[Tensor, "descriptions width"]:
    """As `encode`, of classes that may be made of known classes: a union has the mean of its members' vectors,
    `other` zeros."""
    groups = [group_of(d, class_names) for d in descriptions]
    plain = encode(encoder, [d for d, group in zip(descriptions, groups, strict=True) if group is None])
    names = list(dict.fromkeys(name for group in groups if group for name in group))
    vector, others = dict(zip(names, encoder.encode(names), strict=True)), iter(plain)
    rows = [
        next(others)
        if group is None
        else mean_vector([vector[name] for name in group])
        if group
        else torch.zeros(encoder.width)
        for group in groups
    ]
    return torch.stack(rows) if rows else plain


def group_of(description: Description, class_names: Sequence[str]) -> tuple[str, ...] | None:
    """The known classes that a described class is made of, none for `other`; None where it is no such class."""
    if description.images or len(description.words) != 1:
        return None
    return members(description.words[0], class_names)
