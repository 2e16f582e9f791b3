"""The layers of both packages: who may import whom, and who may open the test images."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first. Each entry is a file or a folder of the package; those of one line stand side by side and
# do not import each other.
LAYERS = {
    "canon": [
        ["errors", "types", "validation"],
        ["spec"],
        ["io"],
        ["actions"],
        ["tracing"],
        ["models"],
        ["folding"],
        ["matching"],
        ["equivalence"],
        ["alignment"],
        ["merging"],
        ["api"],
        ["cli"],
        ["__main__"],
    ],
    "weightflow": [
        ["registry"],
        ["config", "device", "folders", "seeds"],
        ["executors"],
        ["data", "flow"],
        ["text"],
        ["networks"],
        ["backbones"],
        ["datasets"],
        ["batched"],
        ["zoo"],
        ["representation"],
        ["zero_shot"],
        ["models"],
        ["training"],
        ["generator"],
        ["evaluation"],
        ["report"],
        ["applications"],
        ["export"],
        ["api"],
        ["cli"],
        ["__main__"],
    ],
}
HEIGHT = {(p, name): i for p, layers in LAYERS.items() for i, layer in enumerate(layers) for name in layer}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    """The file or folder at the root of the package that a source file belongs to."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


@pytest.mark.parametrize("package", LAYERS)
def test_every_file_and_folder_has_a_layer(package):
    rooms = {room(path) for path in sources(package)} - {"__init__"}
    assert rooms == {name for p, name in HEIGHT if p == package}


@pytest.mark.parametrize("package", LAYERS)
def test_no_folder_imports_one_above_it(package):
    upward = []
    for path in sources(package):
        if room(path) == "__init__":  # the front door names everything
            continue
        for module in imported(path):
            parts = module.split(".")
            if len(parts) < 2 or parts[0] != package or (package, parts[1]) not in HEIGHT:
                continue
            if parts[1] != room(path) and HEIGHT[package, parts[1]] >= HEIGHT[package, room(path)]:
                upward.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not upward


def test_canon_does_not_import_weightflow():
    assert not [p for p in sources("canon") if any(m.startswith("weightflow") for m in imported(p))]


@pytest.mark.parametrize("package", LAYERS)
def test_at_most_five_loose_files_stand_at_a_root(package):
    loose = [path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= 5


@pytest.mark.parametrize("package", LAYERS)
def test_only_the_command_line_talks(package):
    talk = ("typer", "rich", "click", "canon.cli", "weightflow.cli")
    guilty = [
        path
        for path in sources(package)
        if room(path) not in ("cli", "__main__") and any(m.startswith(talk) for m in imported(path))
    ]
    assert not guilty


@pytest.mark.parametrize("package", LAYERS)
def test_no_public_name_is_that_of_a_module(package):
    found = importlib.import_module(package)
    homes = {
        name: getattr(getattr(found, name), "__module__", "").rpartition(".")[2] for name in found.__all__
    }
    beside = {path.stem for path in (ROOT / package).iterdir()}
    assert not [name for name, home in homes.items() if name == home or name in beside]


def test_only_evaluation_opens_test_images():
    openers = [
        str(p.relative_to(ROOT))
        for p in sources("weightflow")
        if ".open_for_evaluation()" in p.read_text("utf-8")
    ]
    assert openers == ["weightflow/evaluation/chance.py", "weightflow/evaluation/evaluate.py"]


@pytest.mark.parametrize("package", LAYERS)
def test_help_answers_before_torch_is_imported(package):
    code = f"import sys; sys.argv = ['{package}', '--help']\nfrom {package}.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
