"""The walls between the rooms: who may import whom, and who may open the test images."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


def test_canon_knows_nothing_of_weightflow():
    assert not [p for p in sources("canon") if any(m.startswith("weightflow") for m in imported(p))]


def test_numerics_do_not_import_a_command_line():
    shells = {"weightflow/cli.py", "weightflow/demo.py"}
    talk = ("typer", "rich", "canon.cli.console", "canon.cli.main", "weightflow.cli.main", "weightflow.cli")
    guilty = [
        path
        for path in sources("weightflow")
        if str(path.relative_to(ROOT)) not in shells
        and path.parent.name != "commands"
        and any(m.startswith(talk) for m in imported(path))
    ]
    assert not guilty


def test_only_evaluation_opens_test_images():
    openers = [
        str(p.relative_to(ROOT))
        for p in sources("weightflow")
        if ".open_for_evaluation()" in p.read_text("utf-8")
    ]
    assert openers == ["weightflow/evaluate.py"]


@pytest.mark.parametrize("package", ["weightflow", "canon"])
def test_help_answers_before_torch_is_imported(package):
    code = f"import sys; sys.argv = ['{package}', '--help']\nfrom {package}.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
