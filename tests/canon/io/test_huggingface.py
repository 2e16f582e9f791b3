"""Folders that transformers writes, aligned, and read by transformers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from canon.cli import console, main

transformers = pytest.importorskip("transformers")
IDS = torch.randint(97, (2, 8), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 40}
CLASSES = {"bert": "BertModel", "llama": "LlamaForCausalLM"}


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SIZES, num_attention_heads=6)).eval()


def llama() -> Any:
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **heads)).eval()


def llama_with_inputs() -> Any:
    return llama(), {"input_ids": IDS}


def network(kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    made = {"bert": bert, "llama": llama}[kind]()
    with torch.no_grad():
        for tensor in made.parameters():  # norms and biases of a new network are constant
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return made


def save(made: Any, path: Path, shards: bool, pickled: bool) -> Path:
    made.save_pretrained(path, max_shard_size="10KB" if shards else "5GB")
    if pickled:  # as older versions of transformers did
        for file in sorted(path.glob("*.safetensors")):
            stem = file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
            torch.save(tensors(file), path / stem)
            file.unlink()
        for file in sorted(path.glob("*.index.json")):
            text = file.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            (path / "pytorch_model.bin.index.json").write_text(text)
            file.unlink()
    return path


def tensors(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def run(*arguments: object) -> int:
    return console.run_cli(main.app, [str(a) for a in arguments], name="canon")


def largest_difference(kind: str, made: Any, path: Path) -> float:
    again = getattr(transformers, CLASSES[kind]).from_pretrained(path, dtype=torch.float64).eval()
    made = made.double()
    with torch.no_grad():
        return (again(IDS)[0] - made(IDS)[0]).abs().max().item()


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shards", [False, True], ids=["one", "shards"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_align_writes_loads_and_computes_what_b_does(
    tmp_path: Path, kind: str, shards: bool, pickled: bool
) -> None:
    b = network(kind, 1)
    one = save(network(kind, 0), tmp_path / "a", not shards, False)
    two = save(b, tmp_path / "b", shards, pickled)
    out = tmp_path / "c"
    model = [] if kind == "bert" else ["--model", f"{__name__}:llama_with_inputs"]
    assert run("align", one, two, *model, "--out", out, "--report", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["moved_fraction"] > 0.5
    # Llama rounds its norms to float32, whatever the dtype of its weights
    assert largest_difference(kind, b, out) < (1e-9 if kind == "bert" else 1e-5)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in two.iterdir())
    assert (out / "config.json").read_bytes() == (two / "config.json").read_bytes()
    for file in two.glob("*.index.json"):
        assert json.loads((out / file.name).read_text()) == json.loads(file.read_text())
        for shard in sorted(two.glob("*-of-*")):
            assert tensors(out / shard.name).keys() == tensors(shard).keys()
