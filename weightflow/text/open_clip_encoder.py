"""CLIP's text tower through open_clip: any of its models, a pretrained tag or a local weight file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

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
        self._name, self._weights = model, weights
        self.identity = f"open_clip:{model}:{sha256(weights)[:16] if local else weights}"
        self.width = int(open_clip.get_model_config(model)["embed_dim"])

    @cached_property
    def _tower(self) -> Any:
        """The model, loaded when a description is first asked for."""
        import open_clip

        try:
            return open_clip.create_model(self._name, pretrained=self._weights).eval()
        except Exception as error:
            raise InputError(
                f"the weights '{self._weights}' of {self._name} could not be loaded: {error}"
            ) from None

    @torch.no_grad()
    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        import open_clip

        for text in descriptions:
            if not text.strip():
                raise InputError("CLIP has no vector for an empty description")
        texts = [d if len(d.split()) >= 4 else PROMPT.format(d) for d in descriptions]
        return self._tower.encode_text(open_clip.get_tokenizer(self._name)(texts))
