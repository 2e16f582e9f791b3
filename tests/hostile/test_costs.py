"""Small files of large cost: refused within seconds, and within bounds of memory, each in a process of its own."""

import gzip
import io
import resource
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from canon.errors import InputError
from weightflow.datasets import mnist
from weightflow.zoo.recipe import read_recipe

SECONDS, BYTES = 20, 2 << 30
CALL = """
import resource, sys
from canon.cli import console
from canon.cli.main import app as canon_app
from weightflow.cli.main import app as weightflow_app
program, *arguments = sys.argv[1:]
code = console.run_cli(canon_app if program == "canon" else weightflow_app, arguments, name=program)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def run(*command):
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CALL, *map(str, command)], capture_output=True, text=True, timeout=300
    )
    peak = int(done.stdout.rpartition("peak ")[2])
    return done, time.monotonic() - begun, peak


def zeros_of(shape, dtype):
    """A compressed array of zeros that was never in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def bomb(path, gigabytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("inputs", "labels", "x"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(zeros_of((gigabytes << 10, 1 << 20), "|u1"))
                for _ in range(gigabytes << 4 if name == "inputs" else 1):
                    file.write(bytes(1 << 26))


def test_a_recipe_does_not_ask_for_any_number_of_networks():
    with pytest.raises(InputError, match="asks for 4294967.* networks; a zoo has at most 2000000"):
        read_recipe("digits", {"tasks": {"seen": 2**32}})


def expanded(path):
    torch.save({"w": torch.zeros(1).expand(40_000, 50_000)}, path)


def nested_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))


def test_a_small_file_of_pixels_does_not_unpack_to_any_size(tmp_path):
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"\x00\x00\x08\x01" + (1000).to_bytes(4, "big"))
        for _ in range(64):
            file.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="more values, its header says 1000"):
        mnist.read_idx(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name", "command"),
    [
        (expanded, "x.pt", "canon inspect {0}"),
        (nested_zip, "x.pt", "canon inspect {0}"),
        (
            lambda path: bomb(path, 8),
            "x.npz",
            "weightflow zoo build digits --set dataset=npz:{0} --out {0}.out",
        ),
        (
            lambda path: path.write_text(", ".join(f"c{n}" for n in range(100_000))),
            "prompts.txt",
            "weightflow sample {run} --prompts {0} --out {0}.out",
        ),
        (
            lambda path: path.write_text("one, two, three, four, five, six, seven\n" * 1_000_000),
            "prompts.txt",
            "weightflow sample {run} --prompts {0} --out {0}.out",
        ),
        (lambda path: path.write_text("[" * 10_000_000), "x.toml", "weightflow zoo build {0} --out {0}.out"),
        (
            lambda path: path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
            "x.safetensors",
            "canon inspect {0}",
        ),
    ],
)
def test_small_files_of_large_cost_are_refused(make, name, command, run_folder, tmp_path):
    make(tmp_path / name)
    done, seconds, peak = run(*(part.format(tmp_path / name, run=run_folder) for part in command.split()))
    assert done.returncode == 2, done.stderr[-500:]
    assert "(unexpected" not in done.stderr
    assert len(done.stderr) < 5000
    assert seconds < SECONDS
    assert peak < BYTES


@pytest.fixture
def run_folder(request):
    return request.getfixturevalue("run")


def test_a_million_prompts_fit_in_memory(request, tmp_path):
    """They are read and checked, one object for lines that are equal."""
    from weightflow.generator.populations import read_prompts

    path = tmp_path / "prompts.txt"
    path.write_text("one, two\nthree, four\n" * 100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_prompts(path)
    assert len(found) == 200_000
    assert len({id(prompt) for prompt in found}) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
