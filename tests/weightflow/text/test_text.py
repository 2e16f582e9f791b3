"""Text encoders and prompts. The CLIP encoder here has random weights: it tests the code path alone."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from canon.errors import InputError
from weightflow.text import Description, Prompt, encode_prompts, load_encoder
from weightflow.text.description import class_named, misspelt
from weightflow.text.encoder import CachedEncoder, TextEncoder
from weightflow.text.table_encoder import TableEncoder


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
    with pytest.raises(InputError, match="not a .npz file of plain arrays"):
        TableEncoder(tmp_path / "t.npz")


TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def random_clip(tmp_path_factory):
    """The name of a tiny CLIP with random weights in a local checkpoint."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), folder / "random.pt")
    return f"open_clip:tiny-clip:{folder / 'random.pt'}"


@pytest.fixture
def clip(random_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTFLOW_CACHE", str(tmp_path / "cache"))
    load_encoder.cache_clear()
    return load_encoder(random_clip)


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("tom", "kit")]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def test_open_clip_reads_a_local_checkpoint(clip, random_clip):
    vectors = clip.encode(["cat", "dog"])
    assert vectors.shape == (2, clip.width) == (2, 12)
    assert not torch.allclose(vectors[0], vectors[1])
    assert clip.identity.startswith("open_clip:tiny-clip:")
    load_encoder.cache_clear()
    again = load_encoder(random_clip)
    torch.testing.assert_close(again.encode(["dog", "cat"]), vectors.flip(0))
    assert "_towers" not in again.inner.__dict__


def test_a_class_may_be_shown_and_its_images_are_averaged(clip, pictures):
    tom, kit = pictures
    one = encode_prompts(clip, [Prompt.parse(f"cat = image:{tom}, dog")], 2).vectors[0]
    torch.testing.assert_close(one[0], clip.encode_images([tom])[0])
    torch.testing.assert_close(one[1], clip.encode(["dog"])[0])
    both = encode_prompts(clip, [Prompt.parse(f"image:{tom}|{kit}, dog")], 2).vectors[0, 0]
    mean = clip.encode_images([tom, kit]).mean(0)
    torch.testing.assert_close(both, mean / mean.square().mean().sqrt())
    assert float(both.square().mean()) == pytest.approx(1, abs=1e-5)


def test_images_are_kept_by_content(clip, pictures):
    before = clip.encode_images(pictures)
    Path(pictures[0]).write_bytes(Path(pictures[1]).read_bytes())
    torch.testing.assert_close(clip.encode_images(pictures[:1]), before[1:])


def test_an_image_that_cannot_be_read_is_named(clip, pictures, tmp_path):
    Path(pictures[1]).write_bytes(Path(pictures[1]).read_bytes()[:60])
    with pytest.raises(InputError, match=r"kit.png cannot be read as an image \(.*name a PNG or JPEG"):
        clip.encode_images(pictures)
    with pytest.raises(InputError, match="none.png does not exist; check the name"):
        clip.encode_images([str(tmp_path / "none.png")])


def test_an_encoder_without_eyes_says_what_would_help(pictures):
    with pytest.raises(InputError, match="tom.png' is an image, and the text encoder wordllama reads words"):
        encode_prompts(load_encoder("wordllama"), [Prompt.parse(f"image:{pictures[0]}, dog")], 2)


def test_several_ways_to_say_a_class_are_averaged():
    encoder = load_encoder("wordllama")
    prompt = Prompt.parse('pet = cat | a small animal that purrs, "dog = loyal, friendly"')
    assert prompt.classes == ("pet", "dog")
    vectors = encode_prompts(encoder, [prompt], 2).vectors[0]
    mean = encoder.encode(["cat", "a small animal that purrs"]).mean(0)
    torch.testing.assert_close(vectors[0], mean / mean.square().mean().sqrt())
    torch.testing.assert_close(vectors[1], encoder.encode(["loyal, friendly"])[0])
    same = encode_prompts(encoder, [Prompt(("cat", "dog")), Prompt.parse("cat | cat, dog")], 2).vectors
    torch.testing.assert_close(same[0], same[1])


@pytest.mark.parametrize(
    ("text", "name", "words", "images"),
    [
        ("tabby", "tabby", ("tabby",), ()),
        ("cat = image: a.png | b.png", "cat", (), ("a.png", "b.png")),
        ("cat | kitten | image:a.png", "cat", ("cat", "kitten"), ("a.png",)),
        ("image:a.png|b.png", "image:a.png|b.png", (), ("a.png", "b.png")),
    ],
)
def test_descriptions_are_read_as_people_type_them(text, name, words, images):
    assert Description.parse(text) == Description(name, words, images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-3:laion400m_e32", "open_clip has no model 'ViT-B-3'; nearest: ViT-B-32"),
        (
            "open_clip:ViT-B-32:nowhere",
            "'nowhere' is neither a file nor a pretrained tag of ViT-B-32; its tags",
        ),
        ("open_clip", "write open_clip:MODEL:WEIGHTS"),
        ("word2vec", "unknown text encoder 'word2vec'; there are: .*none, open_clip, table, wordllama"),
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
    encoder = CachedEncoder(inner)
    encoder.encode(["a", "b", "a"])
    encoder.encode(["b", "c"])
    assert inner.asked == ["a", "b", "c"]


def test_few_vectors_are_kept_in_memory(monkeypatch):
    monkeypatch.setattr("weightflow.text.encoder.MOST_KEPT", 2)
    encoder = CachedEncoder(Counting())
    assert encoder.encode(["a", "b", "c"]).shape == (3, 2)
    assert not encoder._known
    assert encoder.encode(["a", "b"]).shape == (2, 2)
    assert set(encoder._known) == {"a", "b"}


def test_vectors_are_kept_by_content(tmp_path):
    first, second = Counting(), Counting()
    kept = CachedEncoder(first, tmp_path).encode(["a", "b"])
    assert torch.equal(CachedEncoder(second, tmp_path).encode(["b", "a"]), kept.flip(0))
    assert second.asked == []
    next(tmp_path.iterdir()).write_bytes(b"rubbish")
    CachedEncoder(second, tmp_path).encode(["a", "b"])
    assert len(second.asked) == 1
    second.identity = "another"
    CachedEncoder(second, tmp_path).encode(["a"])
    assert second.asked[1:] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no class, or an empty one"),
        ("three,, nine", "names no class, or an empty one"),
        ("three", "names one class, 'three'; a classifier needs two or more"),
        ("three, nine, three", "names 'three' twice"),
        ("three = a | , nine", "names no class, or an empty one"),
        ("three, image:", "names no class, or an empty one"),
        ('three, "nine', "cannot be read"),
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


def test_names_are_compared_in_the_composed_form_of_unicode():
    composed, decomposed = "café", "cafe\u0301"
    assert Prompt.parse(f"{decomposed}, tea").classes == (composed, "tea")


def test_a_known_class_may_have_the_signs_of_a_description_in_its_name():
    known = {"a=b", "x | y"}
    prompt = Prompt.parse("a=b, x | y, c = d", known)
    assert prompt.classes == ("a=b", "x | y", "c")
    assert prompt.words == ("a=b", "x | y", "d")
    assert Prompt.parse("one, two").words == ()


def test_a_missing_open_clip_is_one_line_with_the_cure(monkeypatch):
    from weightflow.text import load_encoder

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"pip install 'weightflow\[clip\]'"):
        load_encoder("open_clip:ViT-B-32:a-tag-that-no-other-test-names")


def test_misspelt_words_and_other_words():
    digits = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")
    assert [misspelt(w, digits) for w in ("threee", "sevn", "Eigth")] == ["three", "seven", "eight"]
    assert [misspelt(w, ("one", "two", "four")) for w in ("tow", "Oen", "fuor")] == ["two", "one", "four"]
    for word, meant in {"siz": "six", "fve": "five", "thre": "three", "nne": "nine", "onee": "one"}.items():
        assert misspelt(word, digits) == meant
    for word in ("cat", "Seven", "dozen", "", "o", "cone of", "money", "drone", "tea", "forty", "sixteen"):
        assert misspelt(word, digits) is None
    names = ("bear", "can", "bus", "lawn mower")
    assert [misspelt(w, names) for w in ("beer", "bush", "lawnmower")] == ["bear", "bus", "lawn mower"]
    assert [misspelt(w, names) for w in ("bread", "cake", "boat", "flower")] == [None] * 4
    assert class_named("SEVEN", digits) == "seven"
    assert class_named("a", ("A", "a", "b")) == "a"
    assert class_named("ß", ("SS", "ss")) is None  # two classes that differ in capital letters alone


def test_words_of_a_description_name_known_classes_too():
    found = Description.parse("drei = Three | third", ("three", "seven"))
    assert (found.name, found.words) == ("drei", ("three", "third"))
