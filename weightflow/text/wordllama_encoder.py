"""wordllama: 256-d static word vectors whose weights come inside the package. Works offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from canon.errors import InputError
from weightflow.text.encoder import TextEncoder

_BYTE = re.compile(r"<0x[0-9A-F]{2}>|<unk>|<s>|</s>|▁+")


class WordLlamaEncoder(TextEncoder):
    """Mean of a description's token vectors. The weights are those in the installed package."""

    def __init__(self) -> None:
        import wordllama

        folder = Path(wordllama.__file__).parent
        # The default cache path names a folder that the package does not have.
        self._model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
        self.identity, self.width = "wordllama", 256

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        for text in descriptions:
            # A byte-level vocabulary accepts anything; bytes alone carry no meaning.
            tokens = self._model.tokenizer.encode(text, add_special_tokens=False).tokens
            if all(_BYTE.fullmatch(token) for token in tokens):
                raise InputError(f"wordllama has no vector for '{text}'; describe the class in English words")
        return torch.from_numpy(self._model.embed(list(descriptions)))
