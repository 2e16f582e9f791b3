"""Configurations that contradict the tensors beside them, or one another, are refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import canon
from canon.cli import console, main
from canon.errors import InputError

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 40}
CONFIG = transformers.BertConfig(**SIZES, num_attention_heads=6)


def folder(path: Path, seed: int, **changed: Any) -> Path:
    torch.manual_seed(seed)
    transformers.BertModel(CONFIG).save_pretrained(path)
    config = json.loads((path / "config.json").read_text()) | changed
    (path / "config.json").write_text(json.dumps(config))
    return path


WRONG = [
    ({"hidden_size": 48}, "hidden_size=48"),
    ({"intermediate_size": 99}, "intermediate_size=99"),
    ({"num_attention_heads": 5}, "num_attention_heads=5, which does not divide the width 24"),
    ({"num_attention_heads": 0}, "not a number of heads"),
    ({"num_attention_heads": "six"}, "not a number of heads"),
    ({"num_hidden_layers": 3}, "says 3 layers"),
    ({"num_hidden_layers": 1}, "says 1 layers"),
    ({"vocab_size": 101}, "vocab_size=101"),  # the tokenizer was resized, the embedding was not
    ({"num_attention_heads": 4}, "num_attention_heads=6 and that of .*b num_attention_heads=4"),
    ({"hidden_act": "relu"}, "hidden_act=gelu and that of"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_a_wrong_configuration_is_refused_on_either_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], message: str
) -> None:
    one, two = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1, **changed)
    with pytest.raises(InputError, match=message):
        canon.align(one, two)
    capsys.readouterr()
    for given in ((one, two), (two, one)):
        assert (
            console.run_cli(main.app, ["align", *map(str, given), "-o", str(tmp_path / "c")], name="canon")
            == 2
        )
        told = capsys.readouterr().err
        assert told.startswith("error: config.json of")
        assert told.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_the_configuration_of_either_network_serves_both(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1)
    (one / "config.json").unlink()
    assert "config.json" in canon.align(one, two).report["assumptions"][0]
    assert "config.json" in canon.align(two, one).report["assumptions"][0]


SOUND = {
    "albert": lambda: transformers.AlbertConfig(
        **SIZES | {"num_hidden_layers": 5}, num_attention_heads=6, embedding_size=8
    ),
    "mixtral": lambda: transformers.MixtralConfig(
        **SIZES | {"num_hidden_layers": 1}, num_attention_heads=6, num_key_value_heads=2, num_local_experts=3
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=97, d_model=24, d_kv=5, num_heads=7, d_ff=40, num_layers=2, num_decoder_layers=3
    ),
    "gemma": lambda: transformers.GemmaConfig(
        **SIZES, num_attention_heads=5, num_key_value_heads=1, head_dim=6
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=97, n_embd=24, n_head=3, n_layer=2, n_positions=16),
    "vit": lambda: transformers.ViTConfig(
        **{k: v for k, v in SIZES.items() if k != "vocab_size"}, num_attention_heads=3, image_size=32
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_transformers_writes_is_not_refused(tmp_path: Path, kind: str) -> None:
    made = transformers.AutoModel.from_config(SOUND[kind]())
    made.save_pretrained(tmp_path / "a")
    assert canon.merge([tmp_path / "a", tmp_path / "a"], align=False).report["weights"] == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_quantized_weights_are_refused_in_one_line(tmp_path: Path, dtype: torch.dtype) -> None:
    name = "encoder.layer.0.output.dense.weight"
    for seed, letter in enumerate("ab"):
        path = folder(tmp_path / letter, seed, quantization_config={"quant_method": "fp8"})
        state = safetensors.torch.load_file(path / "model.safetensors")
        state[name] = (state[name] * 20).to(dtype)
        state[f"{name}_scale"] = torch.rand(len(state[name]), 1) + seed
        safetensors.torch.save_file(state, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="holds quantized weights") as told:
        canon.align(tmp_path / "a", tmp_path / "b")
    assert "\n" not in str(told.value)
    bare = [safetensors.torch.load_file(tmp_path / x / "model.safetensors") for x in "ab"]
    with pytest.raises(InputError, match=f"{name} is of .* beside it: quantized weights have no mean"):
        canon.merge(bare, align=False)


def test_integers_that_differ_have_no_mean() -> None:
    a, b = ({"w": torch.ones(2, 2), "code": torch.full((2, 2), n, dtype=torch.int8)} for n in (1, 2))
    with pytest.raises(InputError, match=r"code is of torch.int8 and differs in network 1"):
        canon.merge(a, b, align=False)
    assert torch.equal(canon.merge(a, a, align=False)["code"], a["code"])
