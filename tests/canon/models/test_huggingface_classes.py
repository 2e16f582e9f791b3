"""Folders whose `config.json` names a class of transformers: that class is the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import canon

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
HEADS = {"num_attention_heads": 4}
GROUPED = {**HEADS, "num_key_value_heads": 2}
T5 = {"vocab_size": 97, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
KINDS = {
    "LlamaForCausalLM": ("LlamaConfig", {**SIZES, **GROUPED}),
    "Qwen2ForCausalLM": ("Qwen2Config", {**SIZES, **GROUPED, "tie_word_embeddings": True}),
    "T5ForConditionalGeneration": ("T5Config", T5),
    "RobertaForMaskedLM": ("RobertaConfig", {**SIZES, **HEADS, "max_position_embeddings": 40}),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [6, 8, 10, 12], "depths": [1, 1, 1, 1], "image_size": 32},
    ),
}


def folder(path: Path, kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    config, sizes = KINDS[kind]
    made = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    made.save_pretrained(path)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_aligned_as_the_class_that_its_configuration_names(kind: str, tmp_path: Path) -> None:
    folder(tmp_path / "a", kind, 0)
    b = folder(tmp_path / "b", kind, 1)
    done = canon.align(tmp_path / "a", tmp_path / "b")
    done.save(tmp_path / "c")
    assert done.report["assumptions"] == [f"config.json, which names {kind} of transformers"]
    assert done.report["moved_fraction"] > 0.5
    assert done.report["max_output_difference"] < 1e-9
    again = getattr(transformers, kind).from_pretrained(tmp_path / "c")
    own, moved = b.state_dict(), again.state_dict()
    assert any(not torch.equal(own[name], moved[name]) for name in own)
    verdict = canon.equivalent(tmp_path / "b", tmp_path / "c")
    assert verdict
    assert "assuming config.json" in verdict.report["verdict"]


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "T5ForConditionalGeneration"])
def test_code_of_the_library_needs_no_example_inputs(kind: str, tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", kind, 0), folder(tmp_path / "b", kind, 1)
    aligned = canon.align(a, b)
    assert aligned.report["verified"]
    assert aligned.report["moved_fraction"] > 0.5
    words = {"input_ids": torch.arange(6)[None]}
    words |= {"decoder_input_ids": torch.arange(3)[None]} if b.config.is_encoder_decoder else {}
    assert torch.allclose(aligned(**words).logits, b(**words).logits, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_keys_of_the_network_without_its_head_are_known(prefix: str, tmp_path: Path) -> None:
    folder(tmp_path / "a", "LlamaForCausalLM", 0)
    file = tmp_path / "a" / "model.safetensors"
    tensors = {n.removeprefix("model."): t for n, t in load_file(file).items() if n != "lm_head.weight"}
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    found = canon.inspect(tmp_path / "a")
    assert found.spec.groups
    assert found.source.endswith("which names LlamaModel of transformers")


@pytest.mark.parametrize(
    "changed",
    [
        {"auto_map": {"AutoModelForCausalLM": "code.Network"}},
        {"model_type": "unheard-of", "architectures": ["LlamaForCausalLM"]},
        {"architectures": ["os.system"], "model_type": "os"},
        {"num_experts": 10**9},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_code_that_is_not_known_and_sizes_that_do_not_fit_are_not_taken(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    folder(tmp_path / "a", "LlamaForCausalLM", 0)
    config = json.loads((tmp_path / "a" / "config.json").read_text()) | changed
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(canon.InputError, match="no family known"):
        canon.inspect(tmp_path / "a")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"num_key_value_heads": 4},
            r"LlamaForCausalLM as config.json describes it .*k_proj.weight \(16, 16\) and \(8, 16\)",
        ),
        (
            {"head_dim": 8},
            r"LlamaForCausalLM as config.json describes it .*q_proj.weight \(32, 16\) and \(16, 16\)",
        ),
        (
            {"model_type": "bert", "architectures": ["BertModel"]},
            "BertModel as config.json describes it and the file are different",
        ),
        ({"hidden_act": "no such thing"}, "cannot build what config.json describes"),
    ],
    ids=["heads", "width of heads", "class", "activation"],
)
def test_a_configuration_of_another_network_is_named(
    changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    for number, name in enumerate("ab"):
        folder(tmp_path / name, "LlamaForCausalLM", number)
        config = json.loads((tmp_path / name / "config.json").read_text()) | changed
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(canon.InputError, match=told):
        canon.align(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "differing", "left_out"),
    [
        ("LlamaForCausalLM", {"vocab_size": 101}, ["model.embed_tokens", "lm_head"]),
        ("Qwen2ForCausalLM", {"vocab_size": 101}, ["model.embed_tokens"]),
        ("ConvNextForImageClassification", {"num_labels": 7}, ["classifier"]),
    ],
)
def test_folders_may_differ_in_words_and_labels_that_are_left_out(
    kind: str, differing: dict[str, Any], left_out: list[str], tmp_path: Path
) -> None:
    folder(tmp_path / "a", kind, 0)
    config, sizes = KINDS[kind]
    torch.manual_seed(1)
    b = getattr(transformers, kind)(getattr(transformers, config)(**{**sizes, **differing})).eval()
    b.save_pretrained(tmp_path / "b")
    with pytest.raises(canon.InputError, match="--except"):
        canon.align(tmp_path / "a", tmp_path / "b")
    for first, second in (("a", "b"), ("b", "a")):
        done = canon.align(tmp_path / first, tmp_path / second, except_for=left_out)
        assert done.report["moved_fraction"] > 0.5
        assert done.report["max_output_difference"] < 1e-9
    mean = canon.merge([tmp_path / "b", tmp_path / "a"], except_for=left_out)
    mean.save(tmp_path / "m")
    getattr(transformers, kind).from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
def test_kernels_that_a_configuration_names_are_not_asked_for(key: str, tmp_path: Path) -> None:
    folder(tmp_path / "a", "LlamaForCausalLM", 0)
    config = json.loads((tmp_path / "a" / "config.json").read_text()) | {key: "someone/kernel"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    assert canon.inspect(tmp_path / "a").source.endswith("which names LlamaForCausalLM of transformers")


def test_parameters_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "a", "RobertaForMaskedLM", 0)
    file = tmp_path / "a" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("LayerNorm.weight"))
    save_file(tensors | {name: tensors[name].long()}, file)
    with pytest.raises(
        canon.InputError, match=r"LayerNorm.weight as torch.int64, a parameter of \w+ is floating"
    ):
        canon.inspect(tmp_path / "a")


def test_an_example_is_no_longer_than_the_positions_of_the_network(tmp_path: Path) -> None:
    for name in "ab":
        config = transformers.RobertaConfig(**SIZES, **HEADS, max_position_embeddings=12)
        transformers.RobertaModel(config).save_pretrained(tmp_path / name)
    assert canon.align(tmp_path / "a", tmp_path / "b").report["moved_fraction"] > 0.5
