"""CLIP's text tower through open_clip: any of its models, a pretrained tag or a local weight file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from canon.errors import InputError
from canon.files import sha256
from weightflow.names import suggest
from weightflow.text.encoder import TextEncoder

PROMPT = "a photo of a {}"


class OpenClipEncoder(TextEncoder):
    """`model` is an open_clip name, `weights` a pretrained tag or a checkpoint file.

    Names that already read as a sentence (four words or more) are taken as they are, others go into
    "a photo of a {}".
    """

    def __init__(self, model: str, weights: str) -> None:
        import open_clip

        local = Path(weights).is_file()
        if model not in open_clip.list_models():
            raise InputError(
                f"open_clip has no model '{model}'; nearest: {suggest(model, open_clip.list_models())}"
            )
        if not local and weights not in open_clip.list_pretrained_tags_by_model(model):
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)[:8]) or "none"
            raise InputError(
                f"'{weights}' is neither a file nor a pretrained tag of {model}; its tags: {tags}"
            )
        try:
            self._model = open_clip.create_model(model, pretrained=weights).eval()
        except Exception as error:
            raise InputError(f"the weights '{weights}' of {model} could not be loaded: {error}") from None
        self._tokenize = open_clip.get_tokenizer(model)
        origin = sha256(weights)[:16] if local else weights
        self.identity = f"open_clip:{model}:{origin}"
        self.width = int(self._model.encode_text(self._tokenize(["a"])).shape[1])

    @torch.no_grad()
    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        texts = [d if len(d.split()) >= 4 else PROMPT.format(d) for d in descriptions]
        return self._model.encode_text(self._tokenize(texts))
