"""CLIP's two towers through open_clip: any of its models, a pretrained tag or a local weight file.

Both towers answer in one space, so that a class may be described by words, by images, or by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.files import sha256
from weightflow.data.pictures import open_picture
from weightflow.registry import suggest
from weightflow.text.encoder import TextEncoder

PROMPT = "a photo of a {}"


class OpenClipEncoder(TextEncoder):
    """`model` is an open_clip name, `weights` a pretrained tag or a checkpoint file.

    Names that already read as a sentence (four words or more) are taken as they are, others go into
    "a photo of a {}".
    """

    sees = True

    def __init__(self, model: str, weights: str) -> None:
        try:
            import open_clip
        except ModuleNotFoundError:
            raise InputError(
                "the text encoder open_clip is not installed; run: pip install 'weightflow[clip]'"
            ) from None

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
    def _towers(self) -> tuple[Any, Any]:
        """The model and what prepares its images, loaded when a description is first asked for."""
        import open_clip

        try:
            model, _, prepare = open_clip.create_model_and_transforms(self._name, pretrained=self._weights)
            return model.eval(), prepare
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
        return self._towers[0].encode_text(open_clip.get_tokenizer(self._name)(texts))

    @torch.no_grad()
    def image_vectors(self, files: Sequence[str]) -> Tensor:
        for file in files:  # before the towers are loaded; one at a time, since pictures may be large
            open_picture(file)
        model, prepare = self._towers
        images = (prepare(open_picture(file).convert("RGB")) for file in files)
        return torch.cat([model.encode_image(image.unsqueeze(0)) for image in images])
