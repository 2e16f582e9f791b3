"""The loop: it learns, it stops for NaN with the cause, and a killed run resumes bit for bit."""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch

from canon.errors import InputError, WorkError
from canon.io import checkpoint, large_tensors
from canon.io.digests import KEY, with_digest
from weightflow.training import run_store as runs
from weightflow.training.trainer import resume, start
from weightflow.zoo.builders.file_lock import holding
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.splits import train_validation_split
from weightflow.zoo.store import Zoo, shard_path, write_zoo

ROOT = Path(__file__).parents[3]


def finished_tensors(folder):
    return checkpoint.read(folder / "state.safetensors").state


def assert_same_run(a, b):
    left, right = finished_tensors(a), finished_tensors(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_run_stopped_and_resumed_equals_one_that_was_not(zoo, run, tiny_config, tmp_path):
    folder = tmp_path / "run"
    trainer = start(zoo, tiny_config, folder)

    def stop(steps, note):
        if trainer.progress.step == 7:  # the last save was at step 6
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    resume(zoo, folder).run()
    assert_same_run(folder, run)

    def log(path):
        return [{k: v for k, v in line.items() if k != "seconds"} for line in runs.read_metrics(path)]

    assert log(folder) == log(run)


def test_before_the_first_step_weights_are_stored_once(zoo, run, tiny_config, tmp_path):
    folder = tmp_path / "run"
    trainer = start(zoo, tiny_config, folder)
    weights = {f"raw.{name}" for name in trainer.model.state_dict()}
    assert finished_tensors(folder).keys() == weights | {"generator"}
    assert runs.checkpoint_step(folder) is None
    with pytest.raises(InputError, match="has no checkpoint yet; go on with"):
        runs.read_checkpoint(folder, runs.read_header(folder))
    resume(zoo, folder)
    assert runs.checkpoint_step(folder) is None
    resume(zoo, folder).run()
    assert_same_run(folder, run)


def test_a_run_killed_at_any_moment_resumes_bit_for_bit(zoo, run, tiny_config, tmp_path):
    """SIGKILL, from outside, at moments that nothing in the program knows of."""
    folder = tmp_path / "run"
    start(zoo, tiny_config, folder)
    code = (
        "import sys, time; from pathlib import Path; import weightflow.training.trainer as t; from weightflow.zoo.store import Zoo\n"
        "trainer = t.resume(Zoo(sys.argv[1]), Path(sys.argv[2]))\n"
        "print('ready', flush=True); trainer.run(lambda steps, note: time.sleep(0.05))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for delay in (0.12, 0.33):
        process = subprocess.Popen(
            [sys.executable, "-c", code, zoo.path, folder], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    resume(zoo, folder).run()
    assert_same_run(folder, run)


def test_the_same_seed_gives_the_same_run_and_another_does_not(zoo, run, tiny_config, tmp_path):
    start(zoo, tiny_config, tmp_path / "same").run()
    assert_same_run(tmp_path / "same", run)
    start(zoo, dataclasses.replace(tiny_config, seed=1), tmp_path / "other").run()
    a, b = finished_tensors(tmp_path / "other"), finished_tensors(run)
    assert not torch.equal(a["raw.positions"], b["raw.positions"])


def test_the_loss_on_held_out_networks_falls(zoo, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, steps=60, evaluate_every=20, save_every=60, learning_rate=3e-3)
    start(zoo, config, tmp_path / "run").run()
    losses = [line["held_out"] for line in runs.read_metrics(tmp_path / "run")]
    assert losses[-1] < 0.97 * losses[0]


def test_diffusion_is_an_option_of_the_same_model(zoo, tiny_config, tmp_path):
    objective = dataclasses.replace(tiny_config.objective, path="diffusion", predict="velocity")
    config = dataclasses.replace(tiny_config, objective=objective)
    assert start(zoo, config, tmp_path / "run").run().step == config.steps


def test_half_precision_trains_and_leaves_the_model_in_full(zoo, tiny_config, tmp_path):
    trainer = start(zoo, dataclasses.replace(tiny_config, precision="bfloat16"), tmp_path / "run")
    assert math.isfinite(trainer.run().best)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_a_translated_model_learns_the_same(zoo, run, tmp_path):
    """In a process of its own: the compiler does not see through the checks of shapes that tests switch on."""
    code = (
        "import sys; from pathlib import Path; from tests.population import TINY_RUN; "
        "from weightflow.training.presets import read_preset; from weightflow.training.trainer import start; "
        "from weightflow.zoo.store import Zoo; "
        "config = read_preset('weightflow', {**TINY_RUN, 'compile': True}); "
        "start(Zoo(Path(sys.argv[1])), config, Path(sys.argv[2])).run()"
    )
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, str(zoo.path), str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = runs.unpack("raw", finished_tensors(folder))
    for name, tensor in runs.unpack("raw", finished_tensors(run)).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-2)


def test_early_stopping_keeps_the_best_average(zoo, tiny_config, tmp_path):
    config = dataclasses.replace(
        tiny_config, steps=40, evaluate_every=2, patience=2, learning_rate=0.5, warmup=1, weight_decay=0.0
    )
    progress = start(zoo, config, tmp_path / "run").run()
    assert progress.step < 40
    lines = runs.read_metrics(tmp_path / "run")
    assert progress.best == min(line["held_out"] for line in lines)
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors").metadata["step"] == str(
        progress.best_step
    )


def test_nan_stops_with_the_step_and_the_cause(zoo, tiny_config, tmp_path):
    trainer = start(zoo, tiny_config, tmp_path / "run")
    with torch.no_grad():
        trainer.model.text.weight[0, 0] = torch.nan
    with pytest.raises(WorkError, match="training stopped at step 0: the loss in weights is not finite"):
        trainer.run()


def test_a_folder_with_content_is_refused(zoo, run, tiny_config):
    with pytest.raises(
        InputError, match="is not empty; choose another name, or go on with it: weightflow train .* --resume"
    ):
        start(zoo, tiny_config, run)


def test_resuming_with_another_zoo_is_refused(raw_zoo, run):
    with pytest.raises(InputError, match="give the zoo it began with"):
        resume(raw_zoo, run)


def test_resuming_with_another_architecture_is_refused(run, tiny_recipe, tmp_path):
    architecture = dataclasses.replace(tiny_recipe.architecture, arguments={"inputs": 64, "hidden": [5]})
    tasks = dataclasses.replace(tiny_recipe.tasks, seen=2, validation=1, unseen=1)
    build_zoo(dataclasses.replace(tiny_recipe, architecture=architecture, tasks=tasks), tmp_path / "zoo")
    with pytest.raises(InputError, match=r"\[12\].*\[5\].*: one run has one architecture"):
        resume(Zoo(tmp_path / "zoo"), run)


def test_an_older_format_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.toml"
    path.write_text(path.read_text().replace(runs.FORMAT, "weightflow-run-0"))
    with pytest.raises(InputError, match="is a run of format 'weightflow-run-0'; this version reads"):
        runs.read_header(tmp_path / "old")


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.5, True)])
def test_a_setting_that_no_longer_exists_is_read_where_it_was_off(run, tmp_path, share, refused):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.toml"
    tables = tomllib.loads(path.read_text())
    tables["train"]["behaviour"]["distillation"] = share
    path.write_text(tomli_w.dumps(with_digest({k: v for k, v in tables.items() if k != KEY})))
    if refused:
        with pytest.raises(InputError, match="unknown setting 'train.behaviour.distillation'"):
            runs.read_header(tmp_path / "old")
    else:
        assert runs.read_header(tmp_path / "old").config == runs.read_header(run).config


def test_a_run_keeps_every_setting_and_its_zoo(zoo, run, tiny_config):
    header = runs.read_header(run)
    assert header.config == tiny_config
    assert header.zoo.identity == zoo.identity
    assert json.loads((run / "layout.json").read_text())["layout"]["scheme"] == "rows"


def only_seen(zoo, path, networks):
    """The zoo with its first networks of the split `seen` alone."""
    shutil.copytree(zoo.path, path)
    opened = Zoo(path)
    opened.__dict__["records"] = [r for r in Zoo(zoo.path).records if r.split == "seen"][:networks]
    return opened


def test_where_a_zoo_holds_nothing_out_the_run_holds_out_networks(zoo, tiny_config, tmp_path):
    rows = train_validation_split(only_seen(zoo, tmp_path / "zoo", 40), 0.1)
    assert [len(rows["seen"]), len(rows["validation"])] == [36, 4]
    assert not set(rows["seen"]) & set(rows["validation"])


def test_one_network_is_too_few_to_learn_and_to_choose(zoo, tiny_config, tmp_path):
    with pytest.raises(InputError, match="0 networks to train on and 1 to choose checkpoints by"):
        start(only_seen(zoo, tmp_path / "zoo", 1), tiny_config, tmp_path / "run")


def test_without_words_all_networks_must_have_one_task(zoo, tiny_config, tmp_path):
    with pytest.raises(InputError, match="have different tasks, and a run without words cannot tell"):
        start(zoo, dataclasses.replace(tiny_config, encoder="none"), tmp_path / "run")


def test_a_damaged_zoo_stops_before_anything_is_written(zoo, tiny_config, tmp_path):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    shard_path(tmp_path / "zoo", 0).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="is damaged"):
        start(Zoo(tmp_path / "zoo"), tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def begin_when_told(zoo, config, folder, ready, go, answers):
    """A process that begins a run at the same moment as another one."""
    ready.release()
    go.wait()
    try:
        start(Zoo(zoo), config, folder).run()
        answers.put("trained")
    except InputError as error:
        answers.put(str(error))


@pytest.mark.slow
def test_two_processes_in_one_folder_are_one_run(zoo, tiny_config, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go, answers = context.Semaphore(0), context.Event(), context.Queue()
    config = dataclasses.replace(tiny_config, steps=30)
    both = [
        context.Process(target=begin_when_told, args=(zoo.path, config, tmp_path / "run", ready, go, answers))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    for _ in both:
        ready.acquire()
    go.set()
    found = sorted(answers.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    assert found[1] == "trained"
    assert "another process is training in" in found[0] or "is not empty" in found[0]
    steps = [line["step"] for line in runs.read_metrics(tmp_path / "run")]
    assert steps == sorted(set(steps))


def test_a_run_that_another_process_trains_is_left_alone(zoo, tiny_config, tmp_path):
    trainer = start(zoo, tiny_config, tmp_path / "run")
    message = "another process is training in .*; wait until it ends, or choose another folder"
    with holding(tmp_path / "run" / ".lock", wait=False):
        for work in (trainer.run, lambda: resume(zoo, tmp_path / "run")):
            with pytest.raises(InputError, match=message):
                work()
    resume(zoo, tmp_path / "run").run()
    with pytest.raises(InputError, match="was trained on by another process meanwhile"):
        trainer.run()


def test_a_run_can_be_lengthened_and_nothing_else_of_it_changed(zoo, tiny_config, tmp_path):
    folder = tmp_path / "run"
    start(zoo, tiny_config, folder).run()
    with pytest.raises(InputError, match="begun with model.width = 16, which cannot become 32"):
        resume(zoo, folder, {"model": {"width": 32}})
    with pytest.raises(InputError, match="begun with seed = 0"):
        resume(zoo, folder, {"seed": 1})
    with pytest.raises(InputError, match="taken 12 steps already"):
        resume(zoo, folder, {"steps": 5})
    assert runs.read_header(folder).config == tiny_config
    assert resume(zoo, folder, {"steps": 15, "model": {"width": 16}}).run().step == 15
    assert runs.read_header(folder).config.steps == 15
    assert runs.checkpoint_step(folder) == 15


def test_a_run_interrupted_before_its_first_evaluation_keeps_trained_weights(zoo, tiny_config, tmp_path):
    trainer = start(zoo, dataclasses.replace(tiny_config, evaluate_every=10), tmp_path / "run")
    trainer.run(stop=lambda: trainer.progress.step == 2)
    header = runs.read_header(tmp_path / "run")
    found = runs.read_checkpoint(tmp_path / "run", header)
    assert (found.step, found.trained) == (2, 2)
    assert all(torch.equal(found.average[n], t) for n, t in trainer.average.state_dict().items())


@pytest.mark.parametrize("seed", [10**20, -(10**20)])
def test_a_seed_that_no_stream_takes_is_refused(tiny_config, tiny_recipe, seed):
    for config in (tiny_config, tiny_recipe):
        with pytest.raises(InputError, match=f"seed is {seed}; it is a number from"):
            dataclasses.replace(config, seed=seed)


def test_a_zoo_larger_than_memory_gives_the_run_that_a_small_one_gives(
    zoo, run, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(large_tensors, "IN_MEMORY", 0)
    start(zoo, tiny_config, tmp_path / "run").run()
    assert_same_run(tmp_path / "run", run)


def test_a_zoo_with_a_network_that_is_not_finite_is_refused_by_name(zoo, tiny_config, tmp_path):
    state = zoo.load()
    next(iter(state.values()))[3].flatten()[0] = torch.nan
    header = {key: value for key, value in zoo.header.items() if key != "canonical"}
    write_zoo(tmp_path / "zoo", header, state, zoo.records)
    with pytest.raises(InputError, match=f"of network {zoo.records[3].id} of .* is not finite"):
        start(Zoo(tmp_path / "zoo"), tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_held_out_networks_are_judged_a_part_at_a_time(zoo, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("weightflow.training.trainer.AT_ONCE", 3)
    trainer, sizes = start(zoo, tiny_config, tmp_path / "run"), []
    held_out = type(trainer.loss).held_out

    def judged(loss, model, batch, *rest):
        sizes.append(len(batch))
        return held_out(loss, model, batch, *rest)

    monkeypatch.setattr(type(trainer.loss), "held_out", judged)
    networks = len(trainer.populations["validation"])
    found = trainer._held_out()
    assert sum(sizes) == 4 * networks
    assert max(sizes) == 3
    weight = tiny_config.behaviour.weight
    assert found["total"] == pytest.approx(found["match"] + weight * found["behaviour"], rel=1e-5)
