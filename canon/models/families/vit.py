"""Vision transformers, as torchvision and as timm write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family, has
from canon.models.families.example_inputs import patches
from canon.models.families.functional import Tensors, attend
from canon.models.families.hyperparameters import Hyperparameters


def _torchvision_vit(t: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    x = t.patches("conv_proj", x)
    x = torch.cat([t["class_token"].expand(len(x), -1, -1), x], 1)
    x = x + t["encoder.pos_embedding"][:, : x.shape[1]]
    for number in range(len(t.children("encoder.layers."))):
        block = t.under(f"encoder.layers.encoder_layer_{number}.")
        y = block.layer_norm("ln_1", x)
        qkv = F.linear(y, block["self_attention.in_proj_weight"], block["self_attention.in_proj_bias"])
        x = x + block.linear(
            "self_attention.out_proj", attend(*qkv.chunk(3, -1), heads=given.heads, width=x.shape[-1])
        )
        first, second = ("mlp.0", "mlp.3") if "mlp.0.weight" in block else ("mlp.linear_1", "mlp.linear_2")
        x = x + block.linear(second, given.activate(block.linear(first, block.layer_norm("ln_2", x))))
    return t.linear("heads.head", t.layer_norm("encoder.ln", x)[:, 0])


def _timm_vit(t: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    x = t.patches("patch_embed.proj", x)
    if "cls_token" in t:
        x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + t["pos_embed"][:, : x.shape[1]]
    for number in t.children("blocks."):
        block = t.under(f"blocks.{number}.")
        qkv = block.linear("attn.qkv", block.layer_norm("norm1", x))
        # timm's Eva has the same keys where its queries have no bias, and rotary positions.
        rotated = "attn.qkv.bias" not in block
        y = block.linear(
            "attn.proj", attend(*qkv.chunk(3, -1), heads=given.heads, width=x.shape[-1], rotated=rotated)
        )
        x = x + (y * block["ls1.gamma"] if "ls1.gamma" in block else y)
        y = block.linear("mlp.fc2", given.activate(block.linear("mlp.fc1", block.layer_norm("norm2", x))))
        x = x + (y * block["ls2.gamma"] if "ls2.gamma" in block else y)
    x = t.layer_norm("norm", x) if "norm.weight" in t else x
    x = x[:, 0] if "cls_token" in t and "fc_norm.weight" not in t else x.mean(1)
    x = t.layer_norm("fc_norm", x) if "fc_norm.weight" in t else x
    return t.linear("head", x) if "head.weight" in t else x


TORCHVISION = Family(
    _torchvision_vit,
    has("conv_proj.weight", "class_token"),
    patches("conv_proj.weight"),
    lambda t: "torchvision VisionTransformer",
    takes=("heads", "activation"),
    width=lambda t: t["conv_proj.weight"].shape[0],
)
TIMM = Family(
    _timm_vit,
    has("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    patches("patch_embed.proj.weight"),
    lambda t: "timm VisionTransformer",
    takes=("heads", "activation"),
    width=lambda t: t["patch_embed.proj.weight"].shape[0],
)
