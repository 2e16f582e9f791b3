"""Families of checkpoints as people have them, through the command line: nothing but the files and their config.json.

Each family is written in every layout it is distributed in, `canon align` is run on the files, and what it wrote is
loaded again by the library that wrote the input. Two things are asked: does a planted relabelling come back bit
for bit, and does an independently drawn network keep its function, compared in float64 by its own class, outside
canon.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import canon
from benchmarks.common import write_result
from benchmarks.public_networks import NETWORKS, disturb, picture, words
from canon.actions import permutation
from canon.cli import console
from canon.cli.main import app

TOLERANCE = 1e-9  # relative to the largest output

# Folders of transformers: those of the library, and a bare state dict with the config.json beside it.
TRANSFORMERS = (
    "Llama", "Llama, tied", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma 2", "Gemma 3", "Phi", "Phi-3", "GPT-2", "T5",
    "T5 v1.1", "BERT", "RoBERTa", "XLM-RoBERTa", "DistilBERT", "ViT (transformers)", "DINOv2", "CLIP", "Whisper",
    "ConvNeXt (transformers)", "Mixtral", "Qwen2-MoE", "Qwen3-MoE",
)  # fmt: skip


class LanguageModel(nn.Module):
    """The recurrent language model of PyTorch's examples."""

    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(50, 32), kind(32, 48, 2, batch_first=True)
        self.decoder = nn.Linear(48, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.decoder(self.rnn(self.encoder(tokens))[0])
        return found


class Tutorial(nn.Module):
    """The convolutional network of PyTorch's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.conv1(x).relu(), 2)
        x = torch.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        found: Tensor = self.fc3(self.fc2(self.fc1(x).relu()).relu())
        return found


class TutorialMLP(nn.Module):
    """Three named linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc3(self.fc2(self.fc1(x).relu()).relu())
        return found


# Networks whose keys leave open how their layers are joined: a person says that they are a chain.
CHAINS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "LSTM language model": lambda: (LanguageModel(), (words(),)),
    "GRU language model": lambda: (LanguageModel(nn.GRU), (words(),)),
    "tutorial (conv1, conv2, fc1 to fc3)": lambda: (Tutorial(), (picture(32),)),
    "tutorial (fc1 to fc3)": lambda: (TutorialMLP(), (torch.randn(4, 64),)),
}
FAMILIES = (*TRANSFORMERS, *CHAINS)

Place = tuple[Path, Callable[[Path], Mapping[str, Tensor]]]


class _Wide(TorchFunctionMode):
    """Computes in float64 where a module casts to float32 inside, as norms and softmaxes of language models do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wide = tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs or {}))
        return func(*wide[0], **wide[1])


def outputs(module: Any, state: Mapping[str, Tensor], inputs: Any) -> list[Tensor]:
    """What the module's own class computes in float64 with the tensors of `state`."""
    wide = {key: t.double() if t.is_floating_point() else t for key, t in state.items()}
    if getattr(getattr(module, "config", None), "num_experts_per_tok", None) is not None:
        module.set_experts_implementation("eager")  # the grouped products have no float64
    given = tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
    positional, named = ((), given) if isinstance(given, dict) else (given, {})
    with torch.no_grad(), _Wide():
        found = torch.func.functional_call(module.double().eval(), wide, positional, named, tie_weights=False)
    return [x for x in tree_leaves(found) if isinstance(x, Tensor) and x.is_floating_point()]


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, relative to the largest entry of its output."""
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(found, wanted, strict=True))


def _folder(module: Any, path: Path, **options: Any) -> Place:
    module.save_pretrained(path, **options)

    def load(written: Path) -> Mapping[str, Tensor]:
        return dict(type(module).from_pretrained(written, dtype=torch.float32).state_dict())

    return path, load


def _shards(module: Any, path: Path) -> Place:
    found = _folder(module, path, max_shard_size="10KB")
    assert (path / "model.safetensors.index.json").is_file()
    return found


def _bin(module: Any, path: Path) -> Place:
    """What versions of transformers before safetensors wrote."""
    path.mkdir()
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(path)
    torch.save(module.state_dict(), path / "pytorch_model.bin")

    def load(written: Path) -> Mapping[str, Tensor]:
        return dict(torch.load(written / "pytorch_model.bin", weights_only=True))

    return path, load


def _bare(module: Any, path: Path) -> Place:
    """A state dict in a file, and the configuration beside it."""
    path.mkdir()
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(path)
    return _pickle(module, path)


def _pickle(module: nn.Module, path: Path) -> Place:
    path.mkdir(exist_ok=True)
    torch.save(module.state_dict(), path / "net.pt")
    return path / "net.pt", lambda written: dict(torch.load(written, weights_only=True))


def _trainer(module: nn.Module, path: Path) -> Place:
    path.mkdir()
    state = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path / "net.ckpt")

    def load(written: Path) -> Mapping[str, Tensor]:
        found = torch.load(written, weights_only=True)
        assert found["epoch"] == 3
        return {key.removeprefix("module."): tensor for key, tensor in found["state_dict"].items()}

    return path / "net.ckpt", load


def _safetensors(module: nn.Module, path: Path) -> Place:
    from safetensors.torch import load_file

    path.mkdir()
    save_file(dict(module.state_dict()), path / "net.safetensors")
    return path / "net.safetensors", lambda written: load_file(written)


LAYOUTS = {"folder": _folder, "shards": _shards, "bin": _bin, "bare": _bare}
CHAIN_LAYOUTS = {"bare": _pickle, "trainer": _trainer, "safetensors": _safetensors}


def _aligned(a: Path, b: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """The report of `canon align`; `RuntimeError` where it does not succeed."""
    report = out.with_name("report.json")
    command = ["align", str(a), str(b), "--out", str(out), "--report", str(report), "--quiet", *options]
    with redirect_stdout(io.StringIO()):
        code = console.run_cli(app, command, name="canon")
    if code:
        raise RuntimeError(f"canon {' '.join(command)}: exit code {code}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def measure_family(name: str, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of a family, one a layout."""
    chain = name in CHAINS
    build = CHAINS[name] if chain else NETWORKS[name]
    options = _assumed(build) if chain else []
    states = []
    for number in (seed, seed + 1):
        torch.manual_seed(number)
        module, inputs = build()
        disturb(module.eval(), torch.Generator().manual_seed(number))
        states.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
    own, other = states
    spec = canon.trace(module, inputs)
    planted = permutation.apply(spec, permutation.random(spec, torch.Generator().manual_seed(seed + 2)), own)
    rows = []
    for layout, write in (CHAIN_LAYOUTS if chain else LAYOUTS).items():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            module = module.float()
            places = {}
            for letter, state in (("a", own), ("p", planted), ("b", other)):
                module.load_state_dict(state)
                places[letter], load = write(module, root / letter)
            suffix = places["a"].suffix
            back, moved = root / f"back{suffix}", root / f"moved{suffix}"
            _aligned(places["a"], places["p"], back, options)
            report = _aligned(places["a"], places["b"], moved, options)
            found = load(moved)
            rows.append(
                {
                    "network": name,
                    "layout": layout,
                    "source": " ".join(options) or "config.json",
                    "groups": len(spec.groups),
                    "recovered": _same(load(back), own),
                    "moved_fraction": round(report["moved_fraction"], 4),
                    "changed": not _same(found, other),
                    "planted_difference": relative(outputs(module, planted, inputs), outputs(module, own, inputs)),
                    "relative_difference": relative(outputs(module, found, inputs), outputs(module, other, inputs)),
                    "seconds": round(time.perf_counter() - began, 2),
                }
            )  # fmt: skip
            rows[-1]["kept"] = rows[-1]["relative_difference"] <= TOLERANCE
    return rows


def _assumed(build: Callable[[], tuple[nn.Module, Any]]) -> list[str]:
    """What a person says of a chain: of one with convolutions also that they are neither transposed nor grouped."""
    convolutions = any(isinstance(module, nn.Conv2d) for module in build()[0].modules())
    return ["--assume", "chain", *(["--assume", "plain-convolutions"] if convolutions else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=FAMILIES, help="measure these families only")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    start, rows = time.perf_counter(), []
    for name in asked.only or FAMILIES:
        for row in measure_family(name, asked.seed):
            rows.append(row)
            print(row, flush=True)
    if asked.only:
        return
    count = len(rows)
    kept, recovered = (sum(row[key] for row in rows) for key in ("kept", "recovered"))
    moved = sum(row["changed"] for row in rows)
    aims = [
        {"name": "functions changed", "aim": "0", "value": count - kept, "met": kept == count},
        {"name": "planted relabellings recovered", "aim": f"{count} of {count}", "value": recovered, "met": recovered == count},
        {"name": "pairs of which something moved", "aim": f"{count} of {count}", "value": moved, "met": moved == count},
    ]  # fmt: skip
    size = "two layers, 32 to 48 wide, random weights"
    seconds = time.perf_counter() - start
    print(write_result("families", size=size, seeds=[asked.seed], seconds=seconds, rows=rows, aims=aims))


if __name__ == "__main__":
    main()
