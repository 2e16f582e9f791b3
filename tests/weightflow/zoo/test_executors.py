"""Builders side by side: one folder, one sound zoo, whoever dies on the way."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import tomli_w
import torch

from canon.errors import InputError
from weightflow import config
from weightflow.zoo.builders import parallel
from weightflow.zoo.builders.construction import ZooConstruction
from weightflow.zoo.builders.file_lock import holding
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo, shard_path

RECIPE = read_recipe(
    "digits",
    {
        "architecture": {"arguments": {"inputs": 64, "hidden": [8]}},
        "tasks": {"sizes": [2, 3], "seen": 8, "validation": 2, "unseen": 2},
        "training": {"steps": 5},
        "shard_size": 3,
    },
)
CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "zoo"
    assert build_zoo(RECIPE, folder) == 12
    return Zoo(folder)


def hold_a_shard(path):
    """Claim a shard as a builder does, then work for ever."""
    with holding(path, wait=False) as mine:
        assert mine
        path.with_suffix(".held").touch()
        time.sleep(600)


def build_when_told(folder, ready, go):
    ready.release()
    go.wait()
    build_zoo(RECIPE, folder)


@pytest.mark.slow
def test_two_builders_in_one_folder_make_the_zoo_that_one_makes(alone, tmp_path):
    ready, go = CONTEXT.Semaphore(0), CONTEXT.Event()
    builders = [
        CONTEXT.Process(target=build_when_told, args=(tmp_path / "zoo", ready, go), daemon=True)
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for _ in builders:
        ready.acquire()
    go.set()
    for builder in builders:
        builder.join()
        assert builder.exitcode == 0
    assert Zoo(tmp_path / "zoo").verify() == []
    assert Zoo(tmp_path / "zoo").identity == alone.identity


def test_a_killed_builder_costs_its_shard_alone(alone, tmp_path):
    folder = tmp_path / "zoo"
    ZooConstruction(RECIPE, folder)
    lock = folder / ".locks" / "shard00001"
    other = CONTEXT.Process(target=hold_a_shard, args=(lock,), daemon=True)
    other.start()
    while not lock.with_suffix(".held").exists():
        time.sleep(0.05)
    result = []
    builder = threading.Thread(target=lambda: result.append(build_zoo(RECIPE, folder)))
    builder.start()
    while not shard_path(folder, 3).exists():
        time.sleep(0.05)
    assert not shard_path(folder, 1).exists()
    os.kill(other.pid, signal.SIGKILL)
    builder.join()
    assert result == [12]
    assert Zoo(folder).identity == alone.identity


def test_a_lock_is_held_by_one_and_let_go_of(tmp_path):
    with holding(tmp_path / "locks" / "a", wait=False) as first:
        with holding(tmp_path / "locks" / "a", wait=False) as second:
            assert (first, second) == (True, False)
        with holding(tmp_path / "locks" / "b", wait=False) as other:
            assert other
    with holding(tmp_path / "locks" / "a", wait=False) as again:
        assert again


@pytest.mark.slow
def test_workers_end_with_a_builder_that_is_killed(tmp_path):
    recipe = config.replace_nested(config.to_dict(RECIPE), {"training": {"steps": 10**6}})
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe))
    builder = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "weightflow",
            "zoo",
            "build",
            tmp_path / "r.toml",
            "--workers",
            "2",
            "--out",
            tmp_path / "zoo",
            "-q",
        ]
    )
    listed = Path(f"/proc/{builder.pid}/task/{builder.pid}/children")
    until = time.monotonic() + 60
    while len(workers := listed.read_text().split()) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(workers) >= 2
    time.sleep(3)
    builder.kill()
    builder.wait()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.slow
def test_workers_make_the_zoo_that_one_process_makes(alone, tmp_path):
    shown = []
    assert parallel.build_with("local", RECIPE, tmp_path / "zoo", shown.append, 2) == 12
    assert sum(shown) == 12
    found, expected = Zoo(tmp_path / "zoo"), alone
    assert found.verify() == []
    assert [r.to_json() for r in found.records] == [r.to_json() for r in expected.records]


@pytest.mark.parametrize(
    ("executor", "workers", "message"),
    [("rai", 1, "unknown executor 'rai'; there are: local, ray"), ("local", 0, "--workers is 0")],
)
def test_bad_executors_are_refused(tmp_path, executor, workers, message):
    with pytest.raises(InputError, match=message):
        parallel.build_with(executor, RECIPE, tmp_path / "zoo", lambda n: None, workers)
    assert not (tmp_path / "zoo").exists()


def test_ray_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray; install it: pip install 'weightflow\[ray\]'"):
        parallel.build_with("ray", RECIPE, tmp_path / "zoo", lambda n: None, 1)
    assert not (tmp_path / "zoo").exists()


BUILD_ON_RAY = """
import json, sys
from pathlib import Path
from weightflow.zoo.builders.parallel import build_with
from weightflow.zoo.recipe import read_recipe
print(build_with("ray", read_recipe("digits", json.loads(sys.argv[1])), Path(sys.argv[2]), lambda n: None, 2))
"""
LONG = {
    "architecture": {"arguments": {"inputs": 64, "hidden": [16]}},
    "tasks": {"sizes": [2, 3], "seen": 8, "validation": 2, "unseen": 2},
    "training": {"steps": 4000},
    "shard_size": 3,
}


def busy_ray_worker(mark: str) -> int | None:
    """A Ray worker that is training a shard, of those that `mark` in the environment tells from others."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
            if title.startswith(b"ray::_call") and mark.encode() in (process / "environ").read_bytes():
                return int(process.name)
        except OSError:  # it has ended meanwhile
            continue
    return None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'weightflow[ray]'")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the worker to kill in /proc")
def test_a_ray_worker_that_is_killed_costs_its_shard_alone(tmp_path):
    folder, mark = tmp_path / "zoo", f"WEIGHTFLOW_TEST={tmp_path}"
    name, value = mark.split("=")
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD_ON_RAY, json.dumps(LONG), str(folder)],
        env={**os.environ, name: value, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    killed = None
    while killed is None and builder.poll() is None:
        killed = busy_ray_worker(mark)
        time.sleep(0.02)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    said, _ = builder.communicate(timeout=300)
    assert builder.returncode == 0
    assert int(said.splitlines()[-1]) == 12  # Ray says on standard output that a worker has died
    assert Zoo(folder).verify() == []
    expected = tmp_path / "expected"
    build_zoo(read_recipe("digits", LONG), expected)
    assert [r.id for r in Zoo(folder).records] == [r.id for r in Zoo(expected).records]
    for name, tensor in Zoo(folder).load().items():
        torch.testing.assert_close(tensor, Zoo(expected).load()[name], atol=1e-3, rtol=1e-3)
