"""Executors: the same results in the same order, whoever computes and whoever dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from canon.errors import InputError, WorkError
from weightflow.evaluation.population import evaluate_zoo
from weightflow.executors import LocalProcesses, RayCluster, make_executor, processes, ray_cluster
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow
from weightflow.generator.populations import generate_zoo
from weightflow.report.baselines import baseline_results
from weightflow.text import Prompt
from weightflow.zoo.canonicalize import canonicalize_zoo
from weightflow.zoo.store import Zoo

PROMPTS = [Prompt(("three", "seven")), Prompt(("one", "two", "nine"))]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


def square(x):
    return x * x


def die_once(mark, x):
    """Ends its process as a killed one does, where nobody has died before."""
    if x == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(x):
    raise InputError(f"{x} is refused")


def wait(seconds):
    time.sleep(seconds)
    return seconds


def test_this_process_computes_an_item_when_its_result_is_asked_for():
    seen = []
    found = make_executor().map(seen.append, [1, 2])
    assert seen == []
    next(found)
    assert seen == [1]


@pytest.mark.parametrize("name", ["local", "ray"])
def test_an_executor_has_a_worker(name):
    with pytest.raises(InputError, match="--workers is 0"):
        make_executor(name, 0)


@pytest.mark.slow
def test_processes_give_results_in_order_whoever_dies(tmp_path):
    executor = LocalProcesses(2)
    assert list(executor.map(square, range(9))) == [x * x for x in range(9)]
    assert list(executor.map(partial(die_once, tmp_path / "dead"), range(9))) == [x * x for x in range(9)]
    assert (tmp_path / "dead").exists()
    with pytest.raises(InputError, match="0 is refused"):
        list(executor.map(refuse, range(9)))


@pytest.mark.slow
def test_an_item_that_ends_its_process_every_time_ends_the_work(monkeypatch):
    monkeypatch.setattr(processes, "RETRIES", 1)
    with pytest.raises(WorkError, match="died 2 times in a row"):
        list(LocalProcesses(1).map(die, [0]))


@pytest.mark.slow
def test_workers_end_when_the_results_are_not_wanted_any_more():
    executor = LocalProcesses(2)
    found = executor.map(wait, [0, 600, 600])
    begin = time.monotonic()
    assert next(found) == 0
    found.close()
    assert time.monotonic() - begin < 60


IMPORT = """
import os, pathlib, time
if os.environ.setdefault("OWNER", str(os.getpid())) != str(os.getpid()):
    pathlib.Path(__file__).with_name(str(os.getpid())).touch()
    time.sleep(600)
float32 = bfloat16 = device = int
get_num_threads = lambda: 2
"""


def ended(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_workers_that_still_import_torch_end_with_an_owner_that_is_killed(tmp_path):
    (tmp_path / "torch.py").write_text(IMPORT)
    work = "import torch; from weightflow.executors import LocalProcesses; list(LocalProcesses(2).map(abs, [1, 2]))"
    places = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    owner = subprocess.Popen([sys.executable, "-c", work], env={**os.environ, "PYTHONPATH": places})
    until = time.monotonic() + 60
    while len(workers := [int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal()]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    until = time.monotonic() + 20
    while not all(ended(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(InputError, match=f"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port}"):
        list(RayCluster().map(square, [1]))


def test_a_worker_of_another_version_is_named():
    with pytest.raises(InputError, match=r"has weightflow 0\.2\.\d and this process 9\.9; install the same"):
        ray_cluster._call(b"not read", b"not read", "cpu", "9.9")


def made(flow, folder, executor):
    list(generate_zoo(flow, PROMPTS, 3, 0, SampleConfig(batch_size=3), folder, executor=executor))
    return Zoo(folder)


def assert_same_zoo(found, expected):
    assert [r.to_json() for r in found.records] == [r.to_json() for r in expected.records]
    for name, tensor in expected.load().items():
        torch.testing.assert_close(found.load()[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", pytest.param("ray", marks=needs_ray)])
def test_sampling_evaluating_and_aligning_give_what_one_process_gives(run, raw_zoo, zoo, tmp_path, name):
    executor, flow = make_executor(name, 2), Flow(run)
    alone, many = made(flow, tmp_path / "alone", None), made(flow, tmp_path / "many", executor)
    assert_same_zoo(many, alone)
    found, expected = evaluate_zoo(many, executor=executor), evaluate_zoo(alone)
    assert found["zoo"]["accuracy"]["mean"] == pytest.approx(expected["zoo"]["accuracy"]["mean"], abs=1e-6)
    assert [p["ensemble"] for p in found["prompts"]] == [p["ensemble"] for p in expected["prompts"]]
    canonicalize_zoo(raw_zoo, tmp_path / "canonical", executor=executor)
    assert_same_zoo(Zoo(tmp_path / "canonical"), zoo)


def test_prompts_that_come_one_by_one_have_one_worker(run, tmp_path):
    with pytest.raises(InputError, match="by one worker; give a file of them"):
        list(
            generate_zoo(
                Flow(run), iter(PROMPTS), 1, 0, SampleConfig(), tmp_path / "a", executor=LocalProcesses(2)
            )
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", pytest.param("ray", marks=needs_ray)])
def test_baselines_of_a_report_are_the_same_whoever_computes_them(context, name):
    tasks = context.tasks[:4]
    here = baseline_results(context, tasks, 0)
    there = baseline_results(context, tasks, 0, make_executor(name, 2))
    assert list(here) == list(there)
    for key, one in here.items():
        assert one.reason == there[key].reason
        for a, b in ((one.accuracy, there[key].accuracy), (one.ratios, there[key].ratios)):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
