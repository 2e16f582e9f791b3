"""A part of the compatibility tables: public architectures and their files are traced, kept and matched."""

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")
from benchmarks.compatibility import measure
from benchmarks.families import measure_family

PART = ["shufflenet_v2_x0_5", "squeezenet1_1", "densenet", "maxvit (torchvision)", "timm vit", "timm nfnet", "DeBERTa v2", "Llama", "Gemma 2", "T5", "BART", "Mamba"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PART)
def test_a_public_network_is_traced_kept_and_matched(name):
    row = measure(name)
    assert row["traced"], row.get("error")
    assert row["kept"]
    assert row["groups"]
    assert row["recovered"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DistilBERT", "Qwen3-MoE", "LSTM language model", "tutorial (fc1 to fc3)"])
def test_files_of_a_family_are_kept_and_matched_in_every_layout(name):
    rows = measure_family(name)
    assert len({row["layout"] for row in rows}) >= 3
    for row in rows:
        assert row["kept"], row
        assert row["recovered"], row
        assert row["changed"], row
