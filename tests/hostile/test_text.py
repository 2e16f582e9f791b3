"""Names from files and prompts are shown, and do nothing else."""

import copy
import dataclasses
import io
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from canon.cli import console
from canon.errors import InputError
from canon.validation import markdown, shown
from weightflow.cli.main import app
from weightflow.data.types import from_arrays
from weightflow.text import Prompt
from weightflow.text.description import Description
from weightflow.zoo.store import Zoo, write_shard

NAMES = ["\x1b[2J", "\u202egnp.exe", "a\nb", "\x07", "\x9b31m"]


@pytest.mark.parametrize("name", NAMES)
def test_control_and_bidirectional_characters_are_escaped_on_the_terminal(capsys, name):
    console.say(f"error: {name}")
    console.show({}, f"the class {name}", False)
    said = capsys.readouterr()
    left = (said.err + said.out).replace("\n", "")
    assert left.isprintable()
    assert "error: " in said.err


@pytest.mark.parametrize("name", [*NAMES, "[bold red]x[/]", "[/]"])
def test_names_are_inert_in_tables_and_progress_bars(name):
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    shown = io.StringIO()
    drawn = console.InertConsole(file=shown, width=100)
    drawn.print(table, markup=False)
    with Progress(TextColumn("{task.fields[note]}", markup=False), console=drawn) as bar:
        bar.add_task("", note=name)
    assert shown.getvalue().replace("\n", "").isprintable()
    assert ("[bold red]x[/]" in shown.getvalue()) == (name == "[bold red]x[/]")


@pytest.mark.parametrize(
    ("name", "found"),
    [("a\x1bb", "control characters"), ("a\nb", "control"), ("x" * 1001, "1001 characters")],
)
def test_names_that_no_file_can_keep_are_refused_before_the_work(name, found, raw_zoo, tmp_path):
    inputs, labels = np.arange(400.0).reshape(100, 4), np.arange(100) % 2
    with pytest.raises(InputError, match=f"the class .* has .*{found}"):
        from_arrays("x", ["a", name], inputs, labels, divisor=1.0, licence="")
    with pytest.raises(InputError, match=f"the data set .* has .*{found}"):
        from_arrays(name, ["a", "b"], inputs, labels, divisor=1.0, licence="")
    with pytest.raises(InputError, match=f"the class .* has .*{found}"):
        Prompt(("one", name))
    with pytest.raises(InputError, match=f"the class .* has .*{found}"):
        Prompt(("one", "two"), (Description.of("one"), Description("two", (name,))))
    record = dataclasses.replace(raw_zoo.records[0], classes=("one", name))
    with pytest.raises(InputError, match=f"network {record.id} cannot be kept in a zoo: classes"):
        write_shard(tmp_path, 0, raw_zoo.load([0]), [record])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_class_with_an_empty_name_is_refused():
    inputs, labels = np.arange(400.0).reshape(100, 4), np.arange(100) % 2
    with pytest.raises(InputError, match="data set 'x': class 1 has an empty name"):
        from_arrays("x", ["a", " "], inputs, labels, divisor=1.0, licence="")


def test_colours_of_our_own_stay():
    shown = io.StringIO()
    drawn = console.InertConsole(file=shown, width=100, force_terminal=True, color_system="standard")
    drawn.print(Text("x\x1b[2J", style="red"))
    assert "\x1b[31m" in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()


def hostile_strings(value, name):
    """The same tables and lists, with every key of open tables and every text made hostile."""
    if isinstance(value, dict):
        return {key: hostile_strings(one, name) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile_strings(one, name) for one in value]
    return name if isinstance(value, str) else value


@pytest.fixture(scope="module")
def measured(run):
    from weightflow.api.evaluation import report

    return dict(report(run, limit=2))


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.found += [f"{key}=" for key, _ in attributes]
        self.found += [v for k, v in attributes if k in ("href", "src") and v]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "' onload='x", '" onload="x', "</svg><img src=x onerror=x>"]
)
def test_names_are_inert_in_a_report(name, measured):
    from weightflow.report.html import page

    found, plain = copy.deepcopy(measured), page(measured)
    for split in found["splits"].values():
        if isinstance(split, dict):
            split["classes"] = {name + key: value for key, value in split["classes"].items()}
            split["baselines"][name] = next(iter(split["baselines"].values()))
    for key in ("environment", "fine_tuning", "ensembles", "diversity", "guidance", "speed"):
        found[key] = hostile_strings(found[key], name)
    for row in found["solvers"]:
        row["method"] = name
    parsed, before = _Page(), _Page()
    parsed.feed(page(found))
    before.feed(plain)
    assert set(parsed.found) <= set(before.found)
    assert "alert(1)</script>" not in page(found)


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x1b", "\x9b"])
def test_a_name_cannot_turn_the_text_beside_it_in_a_report(sign, measured):
    from weightflow.report.html import page

    found = copy.deepcopy(measured)
    split = found["splits"][found["focus"]]
    split["classes"] = {sign + key: value for key, value in split["classes"].items()}
    text = page(found)
    assert sign not in text
    assert sign.encode("unicode_escape").decode() in text


def texts(value, at=()):
    """The places of all texts in nested tables and lists."""
    if isinstance(value, str):
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from texts(one, (*at, key))


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "</style><img src=x onerror=x>", '" onload="x']
)
def test_every_text_of_a_report_is_inert(name, measured):
    from weightflow.report.html import page

    before, shown = _Page(), 0
    before.feed(page(measured))
    for *path, last in texts(measured):
        found = copy.deepcopy(measured)
        owner = found
        for key in path:
            owner = owner[key]
        owner[last] = name
        try:
            text = page(found)
        except (KeyError, ValueError):
            continue  # the name of a part, such as that in focus
        parsed = _Page()
        parsed.feed(text)
        allowed = {*before.found, name} if last == "picture" else set(before.found)  # the source of an image
        assert set(parsed.found) <= allowed, (*path, last)
        shown += 1
    assert shown > 20


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "x](javascript:1)", "`x`", "a\n# b", "| x |"])
def test_names_are_inert_in_the_cards(name, run, zoo, tmp_path):
    from weightflow.generator.model_card import card_of
    from weightflow.training.run_store import read_header
    from weightflow.zoo.dataset_card import card
    from weightflow.zoo.store import Zoo

    header = read_header(run)
    data = dataclasses.replace(header.data, dataset=name, known=(name, *header.data.known), licence=name)
    lying = dataclasses.replace(
        header, data=data, encoder=name, zoo=dataclasses.replace(header.zoo, identity=name)
    )
    report = {
        "weights": "w",
        "splits": {name: {"accuracy": {"mean": 0.5}, "trained": {"mean": 0.5}, "chance": 0.5}},
        "environment": {"torch": name, "commit": name},
    }
    shutil.copytree(zoo.path, tmp_path / "zoo")
    lied = Zoo(tmp_path / "zoo")
    lied.records[:] = [
        dataclasses.replace(r, id=name, lineage=name, classes=(name, "two")) for r in lied.records
    ]
    lied.manifest["held_out_classes"] = lied.manifest["unseen_by_backbone"] = [name]
    lied.manifest["base"] = {"file": name}
    for text in (card_of(lying, report, 3, "w"), card(lied)):
        prose = re.sub(r"(?ms)^(---|```\w*)$.*?^(---|```)$", "", text)
        assert "<script>" not in prose
        assert not re.search(r"(?<!\\)\]\(javascript", prose)
        assert "\n# b" not in text
        assert not re.search(r"(?<!\\)`x", prose)


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


def test_lines_of_standard_input_are_bounded_and_are_text(run, tmp_path, monkeypatch, capsys):
    lines = ["one, two", "x" * 5_000_000, "\udcff, two", "three, four"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert console.run_cli(app, ["sample", str(run), "--prompts", "-", "--out", str(tmp_path / "nets")]) == 1
    said = capsys.readouterr().err
    assert "line 2: the prompt has more than 100000 characters" in said
    assert "line 3: the prompt '\\udcff, two' is not text in UTF-8" in said
    assert "2 lines not answered: 2, 3" in said
    assert len(Zoo(tmp_path / "nets")) == 2


def test_a_prompt_of_very_many_classes_is_refused_at_once():
    begun = time.monotonic()
    with pytest.raises(InputError, match="characters; at most"):
        Prompt.parse(", ".join(f"c{n}" for n in range(100_000)))
    with pytest.raises(InputError, match="'same' twice"):
        Prompt((*(f"c{n}" for n in range(100_000)), "same", "same"))
    assert time.monotonic() - begun < 5
