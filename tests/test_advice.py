"""Advice leads somewhere: every option and setting that an error or a help text names exists where it is shown."""

import ast
import dataclasses
import inspect
import re
import typing
from pathlib import Path

import pytest
from typer.main import get_command

from canon.cli.main import app as canon_app
from weightflow.backbones.train import BackboneRecipe
from weightflow.cli.main import app as weightflow_app
from weightflow.training.config import TrainConfig
from weightflow.zoo.recipe import ZooRecipe

ROOT = Path(__file__).parent.parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"\b(?:weightflow|canon) [a-z][a-z ]*")
EVERYWHERE = {"--help", "--debug", "--plugin", "--version"}
HINTED = ("align", "canonicalize", "inspect", "verify", "barrier", "merge")
# Which commands show the texts of a module that is not of the command line itself.
SHOWN_BY = {
    "weightflow/backbones/pretrained.py": ("backbone take",),
    "weightflow/backbones/train.py": ("backbone train",),
    "weightflow/batched/training.py": ("zoo build", "zoo import"),
    "weightflow/executors/base.py": ("canonicalize", "evaluate", "sample", "zoo build"),
    "weightflow/export/export.py": ("export",),
    "weightflow/generator/populations.py": ("sample",),
    "weightflow/networks/architectures/__init__.py": ("zoo build", "zoo import"),
    "weightflow/registry.py": (),
    "weightflow/report/verdict.py": ("report",),
    "weightflow/zoo/builders/parallel.py": ("zoo build",),
    "weightflow/zoo/import_checkpoints.py": ("zoo import",),
    "weightflow/zoo/network_file.py": ("fuse", "enhance"),
    "weightflow/training/loggers.py": ("train",),
    "weightflow/training/processes.py": ("train",),
    "weightflow/zoo/recipe.py": ("zoo build",),
    "canon/api/exceptions.py": ("align", "merge"),
    "canon/equivalence/outputs.py": ("verify",),
    "canon/equivalence/verdict.py": ("verify",),
    "canon/matching/registry.py": ("align", "barrier", "merge"),
    "canon/merging/merge.py": ("merge",),
    "canon/merging/activation_repair.py": ("barrier", "merge"),
    "canon/cli/option_groups.py": HINTED,
    "canon/cli/formatting.py": HINTED,
    "canon/cli/main.py": HINTED,
    **dict.fromkeys(
        (
            "canon/models/loading.py",
            "canon/models/spec_resolution.py",
            "canon/models/families/__init__.py",
            "canon/models/families/base.py",
            "canon/models/families/functional.py",
            "canon/models/families/hyperparameters.py",
            "canon/models/families/named_chain.py",
            "canon/models/families/resnet.py",
            "canon/models/families/sequential.py",
            "canon/io/exported_program.py",
        ),
        HINTED,
    ),
}
# Options that a text says some of its commands have: it names those commands itself.
SAID = {
    ("canon/matching/registry.py", "--data"),
    ("canon/matching/registry.py", "--train"),
    ("weightflow/training/processes.py", "--nproc-per-node"),
}


def options():
    """Every command of both command lines and its options."""
    found = {}

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        given = {part for p in command.params for part in (*p.opts, *p.secondary_opts)}
        found[path] = EVERYWHERE | {part for part in given if part.startswith("--")}

    walk(get_command(weightflow_app), "weightflow")
    walk(get_command(canon_app), "canon")
    return found


def texts(path):
    """The strings of a file with the function that each stands in; of docstrings only those of commands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner, docs = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {
                id(part) for part in ast.walk(node) if part is not node and isinstance(part, ast.Constant)
            }
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and not getattr(node, "decorator_list", []):
            docs |= {id(first.value)}

    def walk(node, function):
        if isinstance(node, ast.FunctionDef):
            function = function or node
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values), function
        elif isinstance(getattr(node, "value", None), str) and id(node) not in inner | docs:
            yield node.value, function
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    yield from walk(tree, None)


def name_of(function):
    """`train` of `@app.command("train") def ...`; None for a function that is not a command."""
    for made in getattr(function, "decorator_list", []):
        if (
            isinstance(made, ast.Call)
            and isinstance(made.func, ast.Attribute)
            and made.func.attr == "command"
        ):
            return made.args[0].value if made.args else function.name.rstrip("_").replace("_", "-")
    return None


def commands_of(path, function, known):
    """The commands of a file of a command line that show a text: its own, or those that call the helper."""
    package, stem = path.parts[0], path.stem
    functions = [
        f for f in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(f, ast.FunctionDef)
    ]
    used = {f.name: {n.id for n in ast.walk(f) if isinstance(n, ast.Name)} for f in functions}
    shown = {function.name}
    while True:
        more = shown | {name for name, names in used.items() if names & shown}
        if more == shown:
            break
        shown = more
    for name in (name_of(f) for f in functions if f.name in shown and name_of(f)):
        full = f"{package} {stem} {name}"
        yield full if full in known else f"{package} {name}"


def of_commands(text, known):
    """What a text says of commands that it names, as faults, and the text without it."""
    found, rest = [], text
    for match in COMMAND.finditer(text):
        name = match.group().strip()
        while name not in known and " " in name:
            name = name.rpartition(" ")[0]
        if " " in name:  # a command, not only the package
            named = re.split(r"[;`\n,)]", text[match.start() :])[0]
            found += [
                f"{name} has no {option}" for option in OPTION.findall(named) if option not in known[name]
            ]
            rest = rest.replace(named, "")
    return found, rest


def faults(path, known):
    where = str(path)
    for text, function in texts(ROOT / path):
        found, rest = of_commands(text, known)
        yield from (f"{where}: {fault}: {text}" for fault in found)
        asked = set(OPTION.findall(rest)) - EVERYWHERE
        if not asked or (text.startswith("--") and " " not in text):
            continue  # none, or the declaration of an option
        if where in SHOWN_BY:
            shown = [f"{path.parts[0]} {name}" for name in SHOWN_BY[where]]
        elif path.parts[1] == "cli" and path.stem not in ("main", "console"):
            # help stands outside functions; it is read in each command
            shown = [] if function is None else list(commands_of(path, function, known))
        else:
            yield f"{where}: say in SHOWN_BY which commands show: {text}"
            continue
        for name in shown:
            missing = sorted(o for o in asked - known[name] if (where, o) not in SAID)
            yield from (f"{where}: {name} has no {option}: {text}" for option in missing)


FILES = [
    path.relative_to(ROOT)
    for package in ("canon", "weightflow")
    for path in sorted((ROOT / package).rglob("*.py"))
    # the dashes of html are variables of CSS; options.py holds help alone, which the next test reads in each command
    if "html" not in path.parts and path.name != "options.py"
]


def test_options_that_texts_name_exist_in_the_commands_that_show_them():
    known = options()
    assert len(FILES) > 150
    assert not [fault for path in FILES for fault in faults(path, known)]


@pytest.mark.parametrize("app", [weightflow_app, canon_app], ids=["weightflow", "canon"])
def test_options_that_the_help_of_an_option_names_are_those_of_its_command(app):
    missing, known = [], options()

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        given = EVERYWHERE | {part for p in command.params for part in (*p.opts, *p.secondary_opts)}
        for p in command.params:
            found, rest = of_commands(getattr(p, "help", None) or "", known)
            missing.extend(
                [*found, *((path, p.name, option) for option in set(OPTION.findall(rest)) - given)]
            )

    walk(get_command(app), "")
    assert not missing


def test_an_option_that_a_command_lacks_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_advice.ROOT", tmp_path)
    (tmp_path / "weightflow" / "cli").mkdir(parents=True)
    path = Path("weightflow/cli/train.py")
    (tmp_path / path).write_text(
        '@app.command()\ndef train():\n    """Try --speedy cpu, `weightflow sample X --speed`, or --resume."""\n'
        '    raise InputError(f"give {1} with --classes")\n'
    )
    found = " ".join(faults(path, options()))
    assert "weightflow train has no --speedy" in found
    assert "weightflow sample has no --speed" in found
    assert "weightflow train has no --classes" in found
    assert "no --resume" not in found


@pytest.mark.parametrize("app", [weightflow_app, canon_app], ids=["weightflow", "canon"])
def test_a_command_to_copy_from_the_help_is_one_line_of_a_terminal_of_80_columns(app):
    copied = []

    def walk(command):
        for child in getattr(command, "commands", {}).values():
            walk(child)
        for line in inspect.cleandoc(command.help or "").split("\n"):
            if re.match(r" *(?:Example: )?(?:\[bold\])?(?:canon|weightflow) [a-z]+ ", line):
                copied.append(re.sub(r"\[/?(?:bold)?\]", "", line))

    walk(get_command(app))
    assert len(copied) > 8
    assert [line for line in copied if len(line) > 78] == []  # and a margin on either side


@pytest.mark.parametrize("app", [canon_app, weightflow_app])
def test_no_bracket_in_a_help_text_is_taken_for_markup(app):
    def walk(command):
        for child in getattr(command, "commands", {}).values():
            walk(child)
        for text in (command.help, *(getattr(p, "help", None) for p in command.params)):
            tags = set(re.findall(r"(?<!\\)\[([a-z/][^\]]*)\]", text or ""))
            assert tags <= {"bold", "/bold", "/"}, text

    walk(get_command(app))


def fields(config, prefix=""):
    """The names of all settings of a config and its tables, with dots."""
    for name, kind in typing.get_type_hints(config).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
            yield from fields(kind, f"{prefix}{name}.")


SETTINGS = {
    "train": set(fields(TrainConfig)),
    "zoo": set(fields(ZooRecipe)),
    "backbone": set(fields(BackboneRecipe)),
}


def test_settings_that_texts_name_exist():
    every = set().union(*SETTINGS.values())
    tables = {name.partition(".")[0] for name in every if "." in name}
    dotted = re.compile(rf"(?<![\w./])(?:{'|'.join(sorted(tables))})\.[a-z_]+\b(?![(/])")
    seen = set()
    for path in [*FILES, *(p.relative_to(ROOT) for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])]:
        if path.suffix == ".md":
            found = [((ROOT / path).read_text(encoding="utf-8"), None)]
        else:
            found = list(texts(ROOT / path))
        for text, _function in found:
            for setting in re.findall(r"--set[ \]/]+([a-z_.]+)=", text):
                if setting == "part.setting" or setting.startswith("architecture.arguments."):
                    continue  # stands for any; an architecture's own
                stem = path.stem if path.parent.name == "cli" else ""
                assert setting in SETTINGS.get(stem, every), (path, setting)
                seen.add(setting)
            if path.suffix == ".py" and " " in text:
                for name in dotted.findall(text):
                    assert name in every, (path, text)
                    seen.add(name)
    assert {"steps", "encoder", "tasks.held_out", "readout.encoder"} <= seen


@pytest.mark.parametrize(
    ("name", "example"), [("train", "steps"), ("zoo build", "training.steps"), ("backbone train", "epochs")]
)
def test_the_setting_that_the_help_of_a_command_shows_is_its_own(name, example):
    command = get_command(weightflow_app)
    for part in name.split():
        command = command.commands[part]
    (shown,) = (p.help for p in command.params if "--set" in p.opts)
    (setting,) = re.findall(r"--set ([a-z_.]+)=", shown)
    assert setting == example
    assert setting in SETTINGS[name.split()[0]]
