"""A part of the compatibility table: public architectures are traced, kept and matched."""

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")
from benchmarks.compatibility import measure

PART = ["shufflenet_v2_x0_5", "squeezenet1_1", "densenet", "maxvit (torchvision)", "timm vit", "timm nfnet", "DeBERTa v2", "Llama", "Gemma 2", "T5", "BART", "Mamba"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PART)
def test_a_public_network_is_traced_kept_and_matched(name):
    row = measure(name)
    assert row["traced"], row.get("error")
    assert row["kept"]
    assert row["groups"]
    assert row["recovered"]
