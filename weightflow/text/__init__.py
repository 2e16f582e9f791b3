"""Words to vectors. A new encoder is one file here and one line in `_OWN`.

An encoder is named by a text: `wordllama`, `table:vectors.npz`, `open_clip:ViT-B-32:laion2b_s34b_b79k`
or `open_clip:ViT-B-32:weights.pt`. `none` is for runs that take no words.
"""

import os
from collections.abc import Callable
from functools import cache

from canon.errors import InputError
from weightflow.registry import Registry, portable
from weightflow.text.description import Description
from weightflow.text.encoder import CachedEncoder, TextEncoder, cache_folder
from weightflow.text.prompt import Prompt, PromptBatch, as_prompts, encode_prompts

__all__ = [
    "Description",
    "Prompt",
    "PromptBatch",
    "TextEncoder",
    "absolute",
    "as_prompts",
    "encode_prompts",
    "load_encoder",
]


def _wordllama(rest: str) -> TextEncoder:
    """Static word vectors of the package wordllama, 256 numbers; no download."""
    from weightflow.text.wordllama_encoder import WordLlamaEncoder

    return CachedEncoder(WordLlamaEncoder())


def _table(rest: str) -> TextEncoder:
    """table:FILE.npz, arrays `names` and `vectors`: vectors of your own, for these names alone."""
    from weightflow.text.table_encoder import TableEncoder

    return TableEncoder(rest)


def _open_clip(rest: str) -> TextEncoder:
    """open_clip:MODEL:WEIGHTS, a CLIP of open_clip by its pretrained tag or a local file; reads images too."""
    from weightflow.text.open_clip_encoder import OpenClipEncoder

    model, _, weights = rest.partition(":")
    if not model or not weights:
        raise InputError("write open_clip:MODEL:WEIGHTS, for instance open_clip:ViT-B-32:laion2b_s34b_b79k")
    return CachedEncoder(OpenClipEncoder(model, weights), cache_folder())


def _none(rest: str) -> TextEncoder:
    """No words: for zoos whose networks all have one task."""
    from weightflow.text.null_encoder import NullEncoder

    return NullEncoder()


_OWN: dict[str, Callable[[str], TextEncoder]] = {
    "wordllama": _wordllama,
    "table": _table,
    "open_clip": _open_clip,
    "none": _none,
}
ENCODERS = Registry("text encoder", "weightflow.encoders", _OWN)


def absolute(name: str) -> str:
    """The name with the path in it made absolute, so that it means the same in every folder."""
    kind, colon, rest = name.partition(":")
    if kind == "table" and colon:
        return f"{kind}:{os.path.abspath(os.path.expanduser(rest))}"
    return portable(name)


@cache
def load_encoder(name: str) -> TextEncoder:
    """The encoder that `name` describes; one object for one name."""
    kind, rest = ENCODERS.split(name)
    found = ENCODERS.pick(kind, rest)(rest)
    if not isinstance(found, TextEncoder):
        raise InputError(
            f"text encoder '{name}' is a {type(found).__name__}; expected a function of the text behind the "
            "name to a weightflow.TextEncoder"
        )
    return found
