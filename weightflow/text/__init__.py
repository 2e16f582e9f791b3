"""Words to vectors. A new encoder is one file here and one line in `ENCODERS`.

An encoder is named by a text: `wordllama`, `table:vectors.npz`, `open_clip:ViT-B-32:laion2b_s34b_b79k`
or `open_clip:ViT-B-32:weights.pt`. `none` is for runs that take no words.
"""

from collections.abc import Callable
from functools import cache

from canon.errors import InputError
from weightflow.registry import pick
from weightflow.text.description import Description
from weightflow.text.encoder import Cached, TextEncoder, cache_folder
from weightflow.text.prompt import Prompt, PromptBatch, encode_prompts

__all__ = ["Description", "Prompt", "PromptBatch", "TextEncoder", "encode_prompts", "load_encoder"]


def _wordllama(rest: str) -> TextEncoder:
    from weightflow.text.wordllama_encoder import WordLlamaEncoder

    return Cached(WordLlamaEncoder())


def _table(rest: str) -> TextEncoder:
    from weightflow.text.table_encoder import TableEncoder

    return TableEncoder(rest)


def _open_clip(rest: str) -> TextEncoder:
    from weightflow.text.open_clip_encoder import OpenClipEncoder

    model, _, weights = rest.partition(":")
    if not model or not weights:
        raise InputError("write open_clip:MODEL:WEIGHTS, for instance open_clip:ViT-B-32:laion2b_s34b_b79k")
    return Cached(OpenClipEncoder(model, weights), cache_folder())


def _none(rest: str) -> TextEncoder:
    from weightflow.text.null_encoder import Wordless

    return Wordless()


ENCODERS: dict[str, Callable[[str], TextEncoder]] = {
    "wordllama": _wordllama,
    "table": _table,
    "open_clip": _open_clip,
    "none": _none,
}


@cache
def load_encoder(name: str) -> TextEncoder:
    """The encoder that `name` describes; one object for one name."""
    kind, _, rest = name.partition(":")
    return pick(ENCODERS, kind, "text encoder")(rest)
