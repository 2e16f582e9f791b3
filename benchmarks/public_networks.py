"""More than a hundred public architectures, small: torchvision, timm, transformers, recurrent networks of torch.nn.

Each is a function that builds the module and its example inputs. Configurations are the smallest that
have every kind of layer of their family; torchvision's have their own widths and small pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

Network = tuple[nn.Module, Any]
Builder = Callable[[], Network]


def disturb(module: nn.Module, generator: torch.Generator) -> None:
    """Noise on every float tensor; running variances stay positive."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            tensor.copy_(noise + 0.5 if name.endswith("running_var") else tensor + 0.2 * noise - 0.1)


def picture(size: int, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def words(length: int = 6, vocabulary: int = 50, batch: int = 2) -> torch.Tensor:
    return torch.randint(1, vocabulary - 1, (batch, length))


def _torchvision(name: str, size: int, **options: Any) -> Builder:
    def build() -> Network:
        module = getattr(torchvision.models, name)(weights=None, num_classes=5, **options)
        return module, (picture(size),)

    return build


_TORCHVISION = {
    "resnet18": 32, "squeezenet1_0": 64, "squeezenet1_1": 64, "googlenet": 64,
    "inception_v3": 128, "shufflenet_v2_x0_5": 32, "shufflenet_v2_x1_0": 32, "mobilenet_v2": 32,
    "mobilenet_v3_small": 32, "mobilenet_v3_large": 32, "mnasnet0_5": 32, "mnasnet1_0": 32,
    "efficientnet_b0": 32, "efficientnet_v2_s": 32, "regnet_x_400mf": 32, "regnet_y_400mf": 32,
    "convnext_tiny": 32, "swin_t": 64, "swin_v2_t": 64,
}  # fmt: skip


def _with_small_classifier(name: str, size: int) -> Builder:
    """VGG and AlexNet with 64 hidden units in the classifier, not 4096."""

    def build() -> Network:
        module = getattr(torchvision.models, name)(weights=None)
        first = next(layer for layer in module.classifier if isinstance(layer, nn.Linear))
        layers = nn.Linear(first.in_features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
        module.classifier = nn.Sequential(*layers)
        return module, (picture(size),)

    return build


def _resnet(bottleneck: bool, **options: Any) -> Builder:
    """A torchvision ResNet with one block a stage."""

    def build() -> Network:
        kinds = torchvision.models.resnet
        block = kinds.Bottleneck if bottleneck else kinds.BasicBlock
        return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5, **options), (picture(32),)

    return build


def _densenet() -> Network:
    return torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5), (picture(32),)


def _torchvision_vit() -> Network:
    return torchvision.models.VisionTransformer(16, 8, 2, 4, 32, 64, num_classes=5), (picture(16),)


def _maxvit() -> Network:
    module = torchvision.models.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=5)
    return module, (picture(64),)


def _fcn(name: str) -> Builder:
    def build() -> Network:
        options = {"weights": None, "weights_backbone": None, "num_classes": 4}
        return getattr(torchvision.models.segmentation, name)(**options), (picture(32),)

    return build


def _timm(name: str, size: int, **options: Any) -> Builder:
    def build() -> Network:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=5, **options), (picture(size),)

    return build


_SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
_TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "timm vit": ("vit_tiny_patch16_224", 32, _SMALL_VIT),
    "timm deit distilled": ("deit_tiny_distilled_patch16_224", 32, _SMALL_VIT),
    "timm vit, register tokens": ("vit_small_patch14_reg4_dinov2", 32, _SMALL_VIT),
    "timm vit, average pool": ("vit_base_patch16_siglip_224", 32, _SMALL_VIT),
    "timm beit": ("beit_base_patch16_224", 32, _SMALL_VIT),
    "timm eva02": ("eva02_tiny_patch14_224", 32, _SMALL_VIT),
    "timm cait": ("cait_xxs24_224", 32, _SMALL_VIT),
    "timm xcit": ("xcit_nano_12_p16_224", 32, {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "timm mixer": ("mixer_s32_224", 64, {"img_size": 64}),
    "timm gmlp": ("gmlp_ti16_224", 32, {"img_size": 32}),
    "timm resmlp": ("resmlp_12_224", 32, {"img_size": 32}),
    "timm poolformer": ("poolformer_s12", 32, {}),
    "timm convnext": ("convnext_atto", 32, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "timm convnextv2": ("convnextv2_atto", 32, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "timm resnet-d": ("resnet26d", 32, {}),
    "timm seresnet": ("seresnet50", 32, {"layers": (1, 1, 1, 1)}),
    "timm ecaresnet": ("ecaresnet26t", 32, {}),
    "timm skresnet": ("skresnet18", 32, {}),
    "timm resnest": ("resnest14d", 32, {}),
    "timm res2net": ("res2net50_26w_4s", 32, {"layers": (1, 1, 1, 1)}),
    "timm resnetv2": ("resnetv2_18", 32, {}),
    "timm nfnet": ("nf_regnet_b0", 64, {}),
    "timm regnety": ("regnety_002", 32, {}),
    "timm efficientnet": ("efficientnet_b0", 32, {}),
    "timm tf_mixnet": ("mixnet_s", 32, {}),
    "timm mobilenetv3": ("mobilenetv3_small_050", 32, {}),
    "timm mobilenetv4": ("mobilenetv4_conv_small", 32, {}),
    "timm ghostnet": ("ghostnet_050", 32, {}),
    "timm dla": ("dla46_c", 32, {}),
    "timm hrnet": ("hrnet_w18_small", 64, {}),
    "timm vovnet": ("ese_vovnet19b_slim", 32, {}),
    "timm cspnet": ("cspresnet50", 64, {}),
    "timm repvgg": ("repvgg_a0", 32, {}),
    "timm inception_v4": ("inception_v4", 96, {}),
    "timm xception": ("legacy_xception", 64, {}),
    "timm dpn": ("dpn48b", 32, {}),
    "timm swin": ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}),
    "timm pvt_v2": ("pvt_v2_b0", 32, {}),
    "timm twins": ("twins_pcpvt_small", 32, {"img_size": 32, "depths": (1, 1, 1, 1)}),
    "timm levit": ("levit_128s", 64, {"img_size": 64}),
    "timm mobilevit": ("mobilevit_xxs", 64, {}),
    "timm edgenext": ("edgenext_xx_small", 64, {}),
    "timm efficientformer": ("efficientformer_l1", 224, {}),
    "timm crossvit": ("crossvit_9_240", 240, {}),
    "timm coatnet": ("coatnet_nano_rw_224", 64, {"img_size": 64}),
    "timm repghost": ("repghostnet_050", 32, {}),
    "timm fastvit": ("fastvit_t8", 64, {}),
}  # fmt: skip


def _transformer(kind: str, configuration: str, inputs: Callable[[], Any] = words, **options: Any) -> Builder:
    """A class of transformers with a small configuration."""

    def build() -> Network:
        import transformers

        config = getattr(transformers, configuration)(**options)
        module = getattr(transformers, kind)(config)
        given = inputs()
        return module, given if isinstance(given, dict | tuple) else (given,)

    return build


_LLAMA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MOE = {
    **_LLAMA,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_BERT = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
_SEEN = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def _encoder_decoder() -> dict[str, Any]:
    return {"input_ids": words(), "decoder_input_ids": words(4)}


def _seen(size: int = 16) -> Callable[[], Any]:
    return lambda: {"pixel_values": picture(size)}


_TRANSFORMERS: dict[str, Builder] = {
    "BERT": _transformer("BertForMaskedLM", "BertConfig", **_BERT),
    "BERT, classifier": _transformer("BertForSequenceClassification", "BertConfig", **_BERT),
    "RoBERTa": _transformer("RobertaForMaskedLM", "RobertaConfig", **_BERT),
    "DistilBERT": _transformer("DistilBertForMaskedLM", "DistilBertConfig", vocab_size=50, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=32),
    "ALBERT": _transformer("AlbertForMaskedLM", "AlbertConfig", **_BERT, embedding_size=16),
    "ELECTRA": _transformer("ElectraForPreTraining", "ElectraConfig", **_BERT, embedding_size=16),
    "DeBERTa v2": _transformer("DebertaV2ForMaskedLM", "DebertaV2Config", **_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "MPNet": _transformer("MPNetForMaskedLM", "MPNetConfig", **_BERT),
    "ModernBERT": _transformer("ModernBertForMaskedLM", "ModernBertConfig", **_BERT, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
    "SqueezeBERT": _transformer("SqueezeBertForMaskedLM", "SqueezeBertConfig", **{**_BERT, "embedding_size": 32}),
    "GPT-2": _transformer("GPT2LMHeadModel", "GPT2Config", vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2),
    "GPT-Neo": _transformer("GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=50, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], max_position_embeddings=32, bos_token_id=1, eos_token_id=2),
    "GPT-J": _transformer("GPTJForCausalLM", "GPTJConfig", vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, bos_token_id=1, eos_token_id=2),
    "GPT-NeoX": _transformer("GPTNeoXForCausalLM", "GPTNeoXConfig", **{k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}),
    "OPT": _transformer("OPTForCausalLM", "OPTConfig", vocab_size=50, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "BLOOM": _transformer("BloomForCausalLM", "BloomConfig", vocab_size=50, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "Falcon": _transformer("FalconForCausalLM", "FalconConfig", vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2),
    "Llama": _transformer("LlamaForCausalLM", "LlamaConfig", **_LLAMA),
    "Llama, tied": _transformer("LlamaForCausalLM", "LlamaConfig", **_LLAMA, tie_word_embeddings=True),
    "Mistral": _transformer("MistralForCausalLM", "MistralConfig", **_LLAMA),
    "Qwen2": _transformer("Qwen2ForCausalLM", "Qwen2Config", **_LLAMA),
    "Qwen3": _transformer("Qwen3ForCausalLM", "Qwen3Config", **_LLAMA, head_dim=8),
    "Gemma": _transformer("GemmaForCausalLM", "GemmaConfig", **_LLAMA, head_dim=8),
    "Gemma 2": _transformer("Gemma2ForCausalLM", "Gemma2Config", **_LLAMA, head_dim=8),
    "Gemma 3": _transformer("Gemma3ForCausalLM", "Gemma3TextConfig", **_LLAMA, head_dim=8),
    "Phi": _transformer("PhiForCausalLM", "PhiConfig", **{**_LLAMA, "num_key_value_heads": 4}),
    "Phi-3": _transformer("Phi3ForCausalLM", "Phi3Config", **_LLAMA),
    "StableLM": _transformer("StableLmForCausalLM", "StableLmConfig", **_LLAMA),
    "OLMo": _transformer("OlmoForCausalLM", "OlmoConfig", **_LLAMA),
    "OLMo 2": _transformer("Olmo2ForCausalLM", "Olmo2Config", **_LLAMA),
    "Cohere": _transformer("CohereForCausalLM", "CohereConfig", **_LLAMA),
    "StarCoder2": _transformer("Starcoder2ForCausalLM", "Starcoder2Config", **_LLAMA),
    "Granite": _transformer("GraniteForCausalLM", "GraniteConfig", **_LLAMA),
    "Mixtral": _transformer("MixtralForCausalLM", "MixtralConfig", **_MOE),
    "Qwen2-MoE": _transformer("Qwen2MoeForCausalLM", "Qwen2MoeConfig", **_MOE, shared_expert_intermediate_size=24),
    "Qwen3-MoE": _transformer("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **_MOE, head_dim=8),
    "Mamba": _transformer("MambaForCausalLM", "MambaConfig", vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "XLM-RoBERTa": _transformer("XLMRobertaForMaskedLM", "XLMRobertaConfig", **_BERT),
    "T5": _transformer("T5ForConditionalGeneration", "T5Config", _encoder_decoder, vocab_size=50, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, decoder_start_token_id=0),
    "T5 v1.1": _transformer("T5ForConditionalGeneration", "T5Config", _encoder_decoder, vocab_size=50, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0),
    "BART": _transformer("BartForConditionalGeneration", "BartConfig", _encoder_decoder, vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, forced_eos_token_id=2, decoder_start_token_id=2),
    "Marian": _transformer("MarianMTModel", "MarianConfig", _encoder_decoder, vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32, pad_token_id=0, decoder_start_token_id=0),
    "ViT (transformers)": _transformer("ViTForImageClassification", "ViTConfig", _seen(), **_SEEN),
    "DeiT (transformers)": _transformer("DeiTForImageClassification", "DeiTConfig", _seen(), **_SEEN),
    "BEiT (transformers)": _transformer("BeitForImageClassification", "BeitConfig", _seen(), **_SEEN),
    "DINOv2": _transformer("Dinov2ForImageClassification", "Dinov2Config", _seen(), **{k: v for k, v in _SEEN.items() if k != "intermediate_size"}),
    "ConvNeXt (transformers)": _transformer("ConvNextForImageClassification", "ConvNextConfig", _seen(32), hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "ResNet (transformers)": _transformer("ResNetForImageClassification", "ResNetConfig", _seen(32), embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"),
    "SegFormer": _transformer("SegformerForSemanticSegmentation", "SegformerConfig", _seen(64), hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16),
    "Whisper": _transformer("WhisperForConditionalGeneration", "WhisperConfig", lambda: {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": words(4, batch=1)}, vocab_size=50, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=16, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None),
    "Wav2Vec2": _transformer("Wav2Vec2ForCTC", "Wav2Vec2Config", lambda: {"input_values": torch.randn(1, 800)}, **{k: v for k, v in _BERT.items() if k != "max_position_embeddings"}, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4),
    "CLIP": _transformer("CLIPModel", "CLIPConfig", lambda: {"input_ids": words(), "pixel_values": picture(16)}, text_config={**_BERT, "bos_token_id": 1, "eos_token_id": 49, "projection_dim": 16}, vision_config={**_SEEN, "projection_dim": 16}, projection_dim=16),
}  # fmt: skip


class _Recurrent(nn.Module):
    """Embedding, recurrent layers, and a head: a language model, a tagger, or a classifier of the last state."""

    def __init__(
        self,
        kind: Any,
        classes: int,
        hidden: int = 24,
        last: bool = False,
        tied: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        directions = 2 if options.get("bidirectional") else 1
        self.embedding = nn.Embedding(50, 24)
        self.layers = kind(24, hidden, batch_first=True, **options)
        self.norm = nn.LayerNorm(24 * directions)
        self.head = nn.Linear(24 * directions, classes, bias=not tied)
        if tied:
            self.head.weight = self.embedding.weight
        self.last = last

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.layers(self.embedding(tokens))
        found: torch.Tensor = self.head(self.norm(states[:, -1] if self.last else states))
        return found


class _Cells(nn.Module):
    """A language model that steps a cell from token to token."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(50, 16), kind(16, 24), nn.Linear(24, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        state: Any = None
        states = []
        for step in self.embedding(tokens).unbind(1):
            state = self.cell(step, state)
            states.append(state[0] if isinstance(state, tuple) else state)
        found: torch.Tensor = self.head(torch.stack(states, 1))
        return found


class _Translator(nn.Module):
    """A GRU that reads, and one that begins in its last state and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 16), nn.Embedding(50, 16)
        self.encoder = nn.GRU(16, 24, batch_first=True)
        self.decoder = nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(24, 50)

    def forward(self, tokens: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        _, state = self.encoder(self.source(tokens))
        found: torch.Tensor = self.head(self.decoder(self.target(written), state)[0])
        return found


class _Convolutional(nn.Module):
    """Convolutions over a spectrogram, then recurrent layers over time, as for speech and handwriting."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d((2, 1))
        )
        self.layers = nn.LSTM(8 * 8, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layers(self.features(x).flatten(1, 2).transpose(1, 2))[0])
        return found


def _recurrent(kind: Any, classes: int, **options: Any) -> Builder:
    return lambda: (_Recurrent(kind, classes, **options), (words(),))


def _cells(kind: Any) -> Builder:
    return lambda: (_Cells(kind), (words(),))


_RECURRENT: dict[str, Builder] = {
    "LSTM, language model": _recurrent(nn.LSTM, 50),
    "LSTM, two layers, tied": _recurrent(nn.LSTM, 50, num_layers=2, tied=True),
    "LSTM, projected": _recurrent(nn.LSTM, 50, hidden=32, proj_size=24),
    "LSTM, bidirectional tagger": _recurrent(nn.LSTM, 7, num_layers=2, bidirectional=True),
    "LSTM, classifier": _recurrent(nn.LSTM, 5, num_layers=2, last=True),
    "GRU, language model": _recurrent(nn.GRU, 50, num_layers=2),
    "GRU, bidirectional tagger": _recurrent(nn.GRU, 7, num_layers=2, bidirectional=True),
    "RNN (tanh), language model": _recurrent(nn.RNN, 50),
    "RNN (ReLU), two layers": _recurrent(nn.RNN, 50, num_layers=2, nonlinearity="relu"),
    "LSTM cell": _cells(nn.LSTMCell),
    "GRU cell": _cells(nn.GRUCell),
    "GRU, encoder and decoder": lambda: (_Translator(), (words(), words(4))),
    "convolutions and LSTM": lambda: (_Convolutional(), (picture(16, 1),)),
}


NETWORKS: dict[str, Builder] = {
    **{name: _torchvision(name, size, **({"init_weights": False} if name in ("googlenet", "inception_v3") else {})) for name, size in _TORCHVISION.items()},
    "alexnet": _with_small_classifier("alexnet", 64),
    "vgg11": _with_small_classifier("vgg11", 32),
    "vgg11_bn": _with_small_classifier("vgg11_bn", 32),
    "resnet, basic": _resnet(False),
    "resnet, bottleneck": _resnet(True),
    "resnext": _resnet(True, groups=32, width_per_group=4),
    "wide_resnet": _resnet(True, width_per_group=128),
    "densenet": _densenet,
    "vit (torchvision)": _torchvision_vit,
    "maxvit (torchvision)": _maxvit,
    "fcn_resnet50": _fcn("fcn_resnet50"),
    "deeplabv3_mobilenet_v3_large": _fcn("deeplabv3_mobilenet_v3_large"),
    "lraspp_mobilenet_v3_large": _fcn("lraspp_mobilenet_v3_large"),
    **{label: _timm(name, size, **options) for label, (name, size, options) in _TIMM.items()},
    **_TRANSFORMERS,
    **_RECURRENT,
}  # fmt: skip
