"""Hugging Face's BERT, bare or with any of its heads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family, has_with_prefix
from canon.models.families.example_inputs import token_ids
from canon.models.families.functional import Tensors, attend
from canon.models.families.hyperparameters import Hyperparameters


def _bert(t: Tensors, ids: Tensor, given: Hyperparameters) -> tuple[Tensor, ...]:
    """Whatever heads the checkpoint holds; a bare encoder shows its residual stream, which then stays."""
    bert = _encoder(t)
    words = bert["embeddings.word_embeddings.weight"]
    bert.get("embeddings.position_ids")
    x = F.embedding(ids, words) + bert["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + F.embedding(ids * 0, bert["embeddings.token_type_embeddings.weight"])
    x = bert.layer_norm("embeddings.LayerNorm", x)
    for number in bert.children("encoder.layer."):
        block = bert.under(f"encoder.layer.{number}.")
        q, k, v = (block.linear(f"attention.self.{name}", x) for name in ("query", "key", "value"))
        y = block.linear("attention.output.dense", attend(q, k, v, heads=given.heads, width=x.shape[-1]))
        x = block.layer_norm("attention.output.LayerNorm", x + y)
        y = block.linear("output.dense", given.activate(block.linear("intermediate.dense", x)))
        x = block.layer_norm("output.LayerNorm", x + y)
    return _bert_heads(t, bert, x, words)


def _encoder(t: Tensors) -> Tensors:
    return t.under("bert.") if "bert.embeddings.word_embeddings.weight" in t else t


def _bert_heads(t: Tensors, bert: Tensors, x: Tensor, words: Tensor) -> tuple[Tensor, ...]:
    # GELU stands for whatever a head applies entry by entry: no sign or scale is claimed for it.
    outputs = []
    pooled = F.gelu(bert.linear("pooler.dense", x[:, 0])) if "pooler.dense.weight" in bert else None
    if "cls.predictions.transform.dense.weight" in t:
        y = F.gelu(t.linear("cls.predictions.transform.dense", x))
        y = t.layer_norm("cls.predictions.transform.LayerNorm", y)
        decoder = t.get("cls.predictions.decoder.weight")
        t.get("cls.predictions.decoder.bias")
        bias = t.get("cls.predictions.bias")
        outputs.append(F.linear(y, words if decoder is None else decoder, bias))
    if "cls.seq_relationship.weight" in t and pooled is not None:
        outputs.append(t.linear("cls.seq_relationship", pooled))
    if "classifier.weight" in t:
        outputs.append(t.linear("classifier", x if pooled is None else pooled))
    if "qa_outputs.weight" in t:
        outputs.append(t.linear("qa_outputs", x))
    if not outputs:
        outputs = [x]
    if pooled is not None and not {"cls.seq_relationship.weight", "classifier.weight"} & set(t):
        outputs.append(pooled)  # no head reads it, so a caller does
    return tuple(outputs)


BERT = Family(
    _bert,
    has_with_prefix("bert.", "embeddings.word_embeddings.weight"),
    token_ids,
    lambda t: "Hugging Face BERT",
    takes=("heads", "activation"),
    width=lambda t: _encoder(t)["embeddings.word_embeddings.weight"].shape[-1],
)
