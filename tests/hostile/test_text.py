"""Names from files and prompts are shown, and do nothing else."""

import time

import pytest

from canon.cli import console
from canon.errors import InputError
from canon.validation import markdown, shown
from weightflow.text import Prompt

NAMES = ["\x1b[2J", "\u202egnp.exe", "a\nb", "\x07", "\x9b31m"]


@pytest.mark.parametrize("name", NAMES)
def test_control_and_bidirectional_characters_are_escaped_on_the_terminal(capsys, name):
    console.say(f"error: {name}")
    console.show({}, f"the class {name}", False)
    said = capsys.readouterr()
    left = (said.err + said.out).replace("\n", "")
    assert left.isprintable()
    assert "error: " in said.err


def test_a_long_line_is_not_repeated_whole(capsys):
    assert len(console.explain(InputError("x" * 10_000_000))[1]) < 3000


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "](javascript:x)", "`rm`", "a | b", "# x\n# y", "![x](y)"]
)
def test_names_are_inert_in_markdown(name):
    text = markdown(name)
    assert "<" not in text
    assert "\n" not in text
    assert not any(text[i] in "`[]|!" and text[i - 1] != "\\" for i in range(1, len(text)))
    assert text[:1] not in "`[]|!" or text == ""


def test_ordinary_names_are_left_alone():
    for name in ("three", "great white shark", "breast_cancer", "T-shirt/top", "ÄÖ", "50 %"):
        assert markdown(name) == name == shown(name)


def test_a_prompt_of_very_many_classes_is_refused_at_once():
    begun = time.monotonic()
    with pytest.raises(InputError, match="characters; at most"):
        Prompt.parse(", ".join(f"c{n}" for n in range(100_000)))
    with pytest.raises(InputError, match="'same' twice"):
        Prompt((*(f"c{n}" for n in range(100_000)), "same", "same"))
    assert time.monotonic() - begun < 5
