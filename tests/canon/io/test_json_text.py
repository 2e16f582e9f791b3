"""JSON in parts is the text that the standard library writes."""

import json
from pathlib import Path

import pytest

from canon.io.json_text import json_parts, json_text

NESTED = {
    "a": [],
    "b": {},
    "c": [1, [2.5, {"d": None}], 'é\n"', True],
    "e": {"f": [[]], "7": -1e30},
    "": [{}],
}


@pytest.mark.parametrize("value", [NESTED, [NESTED, 3], [], {}, "x", 1.5, None, list(NESTED)])
def test_the_text_is_that_of_the_standard_library(value):
    assert json_text(value) == json.dumps(value, indent=2)


def test_what_json_has_not_is_written_as_what_it_has():
    value = {1: float("nan"), "path": Path("a/b"), "pair": (1, float("inf"))}
    assert json.loads(json_text(value)) == {"1": None, "path": "a/b", "pair": [1, None]}
    with pytest.raises(TypeError):
        json_text({"a": object()})


def test_a_long_text_comes_in_short_parts():
    assert max(map(len, json_parts([{"a": [1.5] * 10, "b": "text"}] * 100))) < 20
