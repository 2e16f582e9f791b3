"""Builders side by side: one folder, one sound zoo, whoever dies on the way."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from canon.errors import InputError
from weightflow.zoo import build, executors
from weightflow.zoo.build import build_zoo
from weightflow.zoo.lock import holding
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
    build._claim(folder, RECIPE)
    lock = build._lock(folder, "shard00001")
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
def test_workers_make_the_zoo_that_one_process_makes(alone, tmp_path):
    shown = []
    assert executors.build_with("local", RECIPE, tmp_path / "zoo", shown.append, 2) == 12
    assert sum(shown) == 12
    found, expected = Zoo(tmp_path / "zoo"), alone
    assert found.verify() == []
    assert [r.to_json() for r in found.records] == [r.to_json() for r in expected.records]


@pytest.mark.parametrize(
    ("executor", "workers", "message"),
    [("rai", 1, "no executor is called 'rai'; there are: local"), ("local", 0, "--workers is 0")],
)
def test_bad_executors_are_refused(tmp_path, executor, workers, message):
    with pytest.raises(InputError, match=message):
        executors.build_with(executor, RECIPE, tmp_path / "zoo", lambda n: None, workers)
    assert not (tmp_path / "zoo").exists()
