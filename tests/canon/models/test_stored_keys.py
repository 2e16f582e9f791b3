"""Folders of transformers whose tensors are renamed, stacked or taken apart when they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import canon
from canon.actions.transform_files import transform_file
from canon.io import checkpoint
from canon.models.stored_keys import stored_keys

transformers = pytest.importorskip("transformers", minversion="5")
TEXT = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}  # fmt: skip
PICTURES = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 12, "num_experts_per_tok": 2}
# Class and configuration; gates of experts, units of experts (up, gate, down), units elsewhere (up, down).
MIXTRAL = ("block_sparse_moe", "w3", "w1", "w2")
QWEN = ("mlp", "up_proj", "gate_proj", "down_proj")
KINDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "MixtralForCausalLM": ("MixtralConfig", {**TEXT, "num_local_experts": 3}, MIXTRAL),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {**TEXT, **EXPERTS, "num_experts": 3, "shared_expert_intermediate_size": 24}, QWEN),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**TEXT, **EXPERTS, "num_experts": 3}, QWEN),
    "ViTForImageClassification": ("ViTConfig", PICTURES, ("vit.encoder.layer.0", "intermediate.dense", "output.dense")),
    "DeiTForImageClassification": ("DeiTConfig", PICTURES, ("deit.encoder.layer.0", "intermediate.dense", "output.dense")),
    "Dinov2Model": ("Dinov2Config", {k: n for k, n in PICTURES.items() if k != "intermediate_size"}, ("encoder.layer.0", "mlp.fc1", "mlp.fc2")),
}  # fmt: skip
FAST = ("MixtralForCausalLM", "ViTForImageClassification")


def folder(kind: str, place: Path, seed: int) -> dict[str, torch.Tensor]:
    config, options, _ = KINDS[kind]
    torch.manual_seed(seed)
    made = getattr(transformers, kind)(getattr(transformers, config)(**options))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    made.save_pretrained(place)
    return load_file(place / "model.safetensors")


def planted(state: dict[str, torch.Tensor], layout: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The file with its units, and its experts, in another order."""
    generator = torch.Generator().manual_seed(1)
    moved = dict(state)

    def move(up: list[str], down: str) -> None:
        order = torch.randperm(len(state[f"{up[0]}.weight"]), generator=generator)
        for key in (f"{name}.{end}" for name in up for end in ("weight", "bias")):
            if key in state:
                moved[key] = moved[key][order].contiguous()
        moved[f"{down}.weight"] = moved[f"{down}.weight"][:, order].contiguous()

    if len(layout) == 3:
        prefix, up, down = layout
        move([f"{prefix}.{up}"], f"{prefix}.{down}")
        return moved
    block, up, gate, down = layout
    base = f"model.layers.0.{block}"
    for expert in range(3):  # each its own order of units
        own = f"{base}.experts.{expert}"
        move([f"{own}.{up}", f"{own}.{gate}"], f"{own}.{down}")
    order, units = torch.tensor([2, 0, 1]), dict(moved)
    moved[f"{base}.gate.weight"] = moved[f"{base}.gate.weight"][order].contiguous()
    for place, expert in enumerate(order.tolist()):
        for name in (up, gate, down):
            moved[f"{base}.experts.{place}.{name}.weight"] = units[f"{base}.experts.{expert}.{name}.weight"]
    return moved


@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_planted_orders_come_back_in_the_keys_of_the_file(kind: str, tmp_path: Path) -> None:
    state = folder(kind, tmp_path / "a", 0)
    folder(kind, tmp_path / "b", 1)
    assert (
        not load_file(tmp_path / "b" / "model.safetensors").keys()
        <= dict(getattr(transformers, kind).from_pretrained(tmp_path / "b").state_dict()).keys()
    )
    other = planted(state, KINDS[kind][2])
    save_file(other, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    aligned = canon.align(tmp_path / "a", tmp_path / "b")
    assert list(aligned) == list(checkpoint.read(tmp_path / "b").state)
    assert all(torch.equal(aligned[name], tensor) for name, tensor in state.items())
    aligned.save(tmp_path / "c")
    again = getattr(transformers, kind).from_pretrained(tmp_path / "c").state_dict()
    first = getattr(transformers, kind).from_pretrained(tmp_path / "a").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    aligned.transform.save(tmp_path / "t.safetensors")
    transform_file(tmp_path / "t.safetensors", tmp_path / "b", tmp_path / "d", keys_of=stored_keys)
    assert all(torch.equal(load_file(tmp_path / "d" / "model.safetensors")[n], t) for n, t in state.items())


@pytest.mark.slow
def test_a_state_dict_in_the_keys_of_the_file_is_read_like_the_folder(tmp_path: Path) -> None:
    state = folder("ViTForImageClassification", tmp_path / "a", 0)
    aligned = canon.align(tmp_path / "a", planted(state, KINDS["ViTForImageClassification"][2]))
    assert all(torch.equal(aligned[name], tensor) for name, tensor in state.items())


@pytest.mark.slow
def test_shards_and_narrow_dtypes_are_kept(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        folder("MixtralForCausalLM", tmp_path / name, seed)
        made = transformers.MixtralForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
        made.save_pretrained(tmp_path / name, max_shard_size="4KB")
        (tmp_path / name / "model.safetensors").unlink(missing_ok=True)
    found = canon.merge(tmp_path / "a", tmp_path / "b")
    found.save(tmp_path / "c")
    index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
    assert index == json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert transformers.MixtralForCausalLM.from_pretrained(tmp_path / "c").num_parameters() > 0


def test_tensors_that_are_read_as_they_are_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).save_pretrained(tmp_path / "a")
    assert stored_keys(checkpoint.read(tmp_path / "a")) is None
    assert stored_keys(canon.Checkpoint({"0.weight": torch.zeros(2, 2)})) is None
