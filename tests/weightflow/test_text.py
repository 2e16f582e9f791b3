"""Text encoders and prompts. The CLIP encoder here has random weights: it tests the code path alone."""

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow.text import Prompt, encode_prompts, load_encoder
from weightflow.text.encoder import Cached, TextEncoder
from weightflow.text.table import TableEncoder


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.fixture
def table(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    np.savez(tmp_path / "t.npz", names=np.array(["cat", "dog", "ankle boot"]), embeddings=vectors)
    return tmp_path / "t.npz"


def test_wordllama_knows_what_words_mean():
    vectors = load_encoder("wordllama").encode(["cat", "kitten", "refrigerator"])
    assert vectors.shape == (3, 256)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.1


def test_vectors_have_the_scale_the_generator_expects():
    vectors = load_encoder("wordllama").encode(["three", "seven"])
    torch.testing.assert_close(vectors.square().mean(1), torch.ones(2))


@pytest.mark.parametrize("text", ["", " ", "\U0001f700"])
def test_wordllama_refuses_what_it_cannot_represent(text):
    with pytest.raises(InputError, match="wordllama has no vector for"):
        load_encoder("wordllama").encode(["three", text])


def test_a_table_gives_its_own_vectors(table):
    encoder = load_encoder(f"table:{table}")
    vectors = encoder.encode(["ankle boot", "cat"])
    with np.load(table) as raw:
        expected = torch.from_numpy(raw["embeddings"][[2, 0]].astype(np.float32))
    torch.testing.assert_close(
        torch.nn.functional.normalize(vectors), torch.nn.functional.normalize(expected)
    )


def test_a_table_names_the_nearest_entry_for_one_it_lacks(table):
    with pytest.raises(InputError, match="no entry 'ankle bot'; nearest: ankle boot"):
        TableEncoder(table).vectors(["ankle bot"])


def test_a_table_without_its_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", words=np.zeros(3))
    with pytest.raises(InputError, match="it needs arrays 'names' and 'embeddings'"):
        TableEncoder(tmp_path / "t.npz")


def test_a_table_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", names=np.array([{}], dtype=object), embeddings=np.zeros((1, 2)))
    with pytest.raises(InputError, match="not a table of vectors"):
        TableEncoder(tmp_path / "t.npz")


def test_open_clip_reads_a_local_checkpoint(tmp_path, monkeypatch):
    import open_clip

    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))

    model = open_clip.create_model("RN50-quickgelu", pretrained=None)
    path = tmp_path / "random.pt"
    torch.save(model.state_dict(), path)
    encoder = load_encoder(f"open_clip:RN50-quickgelu:{path}")
    vectors = encoder.encode(["cat", "dog"])
    assert vectors.shape == (2, encoder.width)
    assert not torch.allclose(vectors[0], vectors[1])
    assert encoder.identity.startswith("open_clip:RN50-quickgelu:")
    load_encoder.cache_clear()
    again = load_encoder(f"open_clip:RN50-quickgelu:{path}")
    torch.testing.assert_close(again.encode(["dog", "cat"]), vectors.flip(0))
    assert "_tower" not in again.inner.__dict__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-3:laion400m_e32", "open_clip has no model 'ViT-B-3'; nearest: ViT-B-32"),
        (
            "open_clip:ViT-B-32:nowhere",
            "'nowhere' is neither a file nor a pretrained tag of ViT-B-32; its tags",
        ),
        ("open_clip", "write open_clip:MODEL:WEIGHTS"),
        ("word2vec", "no text encoder is called 'word2vec'; there are: open_clip, table, wordllama"),
    ],
)
def test_wrong_encoders_are_explained(name, message):
    with pytest.raises(InputError, match=message):
        load_encoder(name)


class Counting(TextEncoder):
    identity, width = "counting", 2

    def __init__(self):
        self.asked = []

    def vectors(self, descriptions):
        self.asked += descriptions
        return torch.ones(len(descriptions), 2)


def test_a_description_is_encoded_once():
    inner = Counting()
    encoder = Cached(inner)
    encoder.encode(["a", "b", "a"])
    encoder.encode(["b", "c"])
    assert inner.asked == ["a", "b", "c"]


def test_vectors_are_kept_by_content(tmp_path):
    first, second = Counting(), Counting()
    kept = Cached(first, tmp_path).encode(["a", "b"])
    assert torch.equal(Cached(second, tmp_path).encode(["b", "a"]), kept.flip(0))
    assert second.asked == []
    next(tmp_path.iterdir()).write_bytes(b"rubbish")
    Cached(second, tmp_path).encode(["a", "b"])
    assert len(second.asked) == 1
    second.identity = "another"
    Cached(second, tmp_path).encode(["a"])
    assert second.asked[1:] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no class, or an empty one"),
        ("three,, nine", "names no class, or an empty one"),
        ("three", "names one class, 'three'; a classifier needs two or more"),
        ("three, nine, three", "names 'three' twice"),
    ],
)
def test_bad_prompts_are_explained(text, message):
    with pytest.raises(InputError, match=message):
        Prompt.parse(text)


def test_prompts_are_padded_in_logit_order():
    encoder = load_encoder("wordllama")
    batch = encode_prompts(encoder, [Prompt(("nine", "two")), Prompt(("one", "two", "six"))], 4)
    assert batch.present.tolist() == [[True, True, False, False], [True, True, True, False]]
    torch.testing.assert_close(batch.vectors[0, 1], encoder.encode(["two"])[0])
    assert not batch.vectors[0, 2:].any()


def test_too_many_classes_are_refused():
    with pytest.raises(InputError, match="names 3 classes; this run was built for 2 at most"):
        encode_prompts(load_encoder("wordllama"), [Prompt(("one", "two", "six"))], 2)
