"""Zoos: tasks, training many at once, the store, and what happens to damaged files."""

import dataclasses
import hashlib
import json

import pytest
import torch

from canon.errors import InputError, WorkError
from weightflow import datasets
from weightflow.batched.inference import accuracies, predict_many
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task, deal_combinations, draw_tasks
from weightflow.batched.training import train_many
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import read_recipe
from weightflow.zoo.store import Zoo, shard_path
from weightflow.zoo.summary import inspect_zoo, picture

DIGITS = datasets.load("digits")


def deal(seed=0, sizes=(3, 6)):
    return deal_combinations(
        DIGITS.class_names, sizes, validation_fraction=0.1, unseen_fraction=0.2, seed=seed
    )


def test_every_combination_is_dealt_to_exactly_one_split():
    pools = deal()
    every = [combination for pool in pools.values() for combination in pool]
    assert len(every) == len({frozenset(c) for c in every}) == 120 + 210 + 252 + 210
    assert len(pools["unseen_combinations"]) == round(0.2 * len(every))


def test_splits_are_fixed_by_the_seed():
    assert deal(3) == deal(3)
    assert deal(3) != deal(4)


def test_tasks_use_every_combination_before_any_twice_and_many_orders():
    pool = deal(sizes=(3, 3))["seen"]
    tasks = draw_tasks("digits", pool, 2 * len(pool), "seen", 0)
    first = [frozenset(t.classes) for t in tasks[: len(pool)]]
    assert len(set(first)) == len(pool)
    assert len({t.classes for t in tasks}) > 1.5 * len(pool)


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="tasks of 3 to 11 classes cannot be cut from 10 classes"):
        deal(sizes=(3, 11))


def test_training_many_equals_training_one_at_a_time(tiny_recipe):
    """The loop is the reference: plain PyTorch, one module, one optimizer."""
    architecture, tasks, seeds = tiny_recipe.make_architecture(), tiny_recipe.make_tasks()[:4], [7, 8, 9, 10]
    recipe = dataclasses.replace(tiny_recipe.training, steps=25)
    together = train_many(architecture, DIGITS, tasks, seeds, recipe).state
    for row, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
        alone = train_alone(architecture, task, seed, recipe)
        for name, expected in architecture.trim(alone, len(task.classes)).items():
            found = architecture.trim({k: v[row] for k, v in together.items()}, len(task.classes))[name]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def train_alone(architecture, task, seed, recipe):
    module = architecture.build()
    module.load_state_dict({k: v[0] for k, v in initialise(architecture, [seed]).items()})
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    wanted = DIGITS.class_index(task.classes)
    rows = torch.nonzero(torch.isin(DIGITS.train.labels, torch.tensor(wanted))).squeeze(1)
    generator, stream = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        while len(stream) < recipe.batch_size:
            stream = torch.cat([stream, rows[torch.randperm(len(rows), generator=generator)]])
        batch, stream = stream[: recipe.batch_size], stream[recipe.batch_size :]
        targets = torch.tensor([wanted.index(int(label)) for label in DIGITS.train.labels[batch]])
        logits = module(DIGITS.train.inputs[batch])[:, : len(wanted)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        schedule.step()
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": {"arguments": {"hiden": [4]}}}, "has no argument 'hiden'; nearest: hidden"),
        ({"architecture": {"name": "mpl"}}, "unknown architecture 'mpl'"),
        ({"architecture": {"arguments": {"inputs": 63}}}, "cannot take examples of shape"),
        (
            {"training": {"lerning_rate": 1.0}},
            "unknown setting 'training.lerning_rate'; nearest: training.learning_rate",
        ),
    ],
)
def test_a_recipe_that_cannot_be_built_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        build_zoo(read_recipe("digits", changes), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_a_recipe_without_an_architecture_says_so(tmp_path):
    (tmp_path / "mine.toml").write_text('dataset = "digits"')
    with pytest.raises(InputError, match="setting 'architecture' is missing"):
        read_recipe(str(tmp_path / "mine.toml"))


def test_a_zoo_of_a_version_without_some_setting_is_gone_on_with(tiny_recipe, tmp_path):
    plan = dataclasses.replace(tiny_recipe, training=dataclasses.replace(tiny_recipe.training, steps=1))
    assert build_zoo(plan, tmp_path / "zoo") == plan.tasks.networks
    path = tmp_path / "zoo" / "recipe.json"
    older = json.loads(path.read_text())
    del older["training"]["patience"]
    path.write_text(json.dumps(older))
    assert build_zoo(plan, tmp_path / "zoo") == 0
    older["training"]["patience"] = 3
    path.write_text(json.dumps(older))
    with pytest.raises(InputError, match="holds a zoo of another recipe"):
        build_zoo(plan, tmp_path / "zoo")


def test_a_full_disk_loses_nothing(tiny_recipe, tmp_path, monkeypatch):
    """What is finished stays, the message says what to do, the next run goes on."""
    from canon.io import checkpoint

    write, written = checkpoint.write, []

    def full(path, *rest):
        if len(written) == 2:
            raise WorkError(f"{path} was not written: No space left on device; free some space and run again")
        written.append(path)
        write(path, *rest)

    plan = dataclasses.replace(tiny_recipe, training=dataclasses.replace(tiny_recipe.training, steps=2))
    monkeypatch.setattr("weightflow.zoo.store.checkpoint.write", full)
    with pytest.raises(WorkError, match="free some space and run again"):
        build_zoo(plan, tmp_path / "zoo")
    monkeypatch.undo()
    assert len(written) == 2
    assert build_zoo(plan, tmp_path / "zoo") == plan.tasks.networks - 2 * plan.shard_size
    assert Zoo(tmp_path / "zoo").verify() == []


def test_a_network_does_not_depend_on_its_neighbours(tiny_recipe):
    architecture, tasks = tiny_recipe.make_architecture(), tiny_recipe.make_tasks()[:3]
    recipe = dataclasses.replace(tiny_recipe.training, steps=5)
    three = train_many(architecture, DIGITS, tasks, [1, 2, 3], recipe).state
    one = train_many(architecture, DIGITS, tasks[2:], [3], recipe).state
    for name in one:
        torch.testing.assert_close(three[name][2], one[name][0], atol=1e-6, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_step_and_seed(tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe.training, steps=50, learning_rate=1e30)
    with pytest.raises(WorkError, match=r"network 0 \(seed 5\): loss is not finite at step \d+"):
        train_many(tiny_recipe.make_architecture(), DIGITS, tiny_recipe.make_tasks()[:1], [5], recipe)


def test_trained_networks_tell_their_classes_apart(raw_zoo):
    tasks = [r.task for r in raw_zoo.records]
    split = DIGITS.validation
    predicted = predict_many(raw_zoo.architecture, raw_zoo.load(), split.inputs, DIGITS, tasks)
    assert float(accuracies(predicted, split.labels, DIGITS, tasks).mean()) > 0.8


def test_predictions_stay_inside_the_task(raw_zoo):
    task = Task("digits", ("nine", "two"))
    state = {name: tensor[:1] for name, tensor in raw_zoo.load([0]).items()}
    predicted = predict_many(raw_zoo.architecture, state, DIGITS.validation.inputs, DIGITS, [task])
    assert set(predicted.unique().tolist()) <= {2, 9}


def test_a_network_is_a_plain_trimmed_state_dict(raw_zoo):
    record = raw_zoo.records[3]
    module = raw_zoo.architecture.build(len(record.classes))
    module.load_state_dict(raw_zoo.network(3))
    logits = module(DIGITS.validation.inputs[:5])
    assert logits.shape == (5, len(record.classes))


def test_rows_come_in_the_order_asked_for(raw_zoo):
    rows = [33, 2, 21]
    some, everything = raw_zoo.load(rows), raw_zoo.load()
    assert all(torch.equal(some[name], everything[name][rows]) for name in some)


def test_building_again_trains_nothing(raw_zoo, tiny_recipe):
    before = raw_zoo.identity
    assert build_zoo(tiny_recipe, raw_zoo.path) == 0
    assert Zoo(raw_zoo.path).identity == before


def test_a_damaged_shard_is_named_and_rebuilt_alone(tiny_recipe, tmp_path):
    folder = tmp_path / "zoo"
    build_zoo(tiny_recipe, folder)
    before, path = Zoo(folder).identity, shard_path(folder, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert [str(path) in problem and "damaged" in problem for problem in Zoo(folder).verify()] == [True]
    with pytest.raises(InputError, match="00001.safetensors is damaged: its SHA-256 .* run the command"):
        Zoo(folder).load()
    assert build_zoo(tiny_recipe, folder) == 20
    assert Zoo(folder).identity == before


def test_a_missing_shard_is_named_and_rebuilt_alone(tiny_recipe, tmp_path):
    folder = tmp_path / "zoo"
    build_zoo(tiny_recipe, folder)
    before = Zoo(folder).identity
    shard_path(folder, 0).unlink()
    with pytest.raises(InputError, match="00000.safetensors is missing"):
        Zoo(folder).load([0])
    assert build_zoo(tiny_recipe, folder) == 20
    assert Zoo(folder).identity == before


def test_a_build_that_was_killed_before_its_recipe_was_noted_begins_again(tiny_recipe, tmp_path):
    plan = dataclasses.replace(tiny_recipe, training=dataclasses.replace(tiny_recipe.training, steps=1))
    assert build_zoo(plan, tmp_path / "zoo") == plan.tasks.networks
    killed, other = tmp_path / "killed", tmp_path / "other"
    for folder, note in ((killed, (tmp_path / "zoo" / "data.json").read_text()), (other, '{"rows": [1, 2]}')):
        folder.mkdir()
        (folder / "data.json").write_text(note)
    assert build_zoo(plan, killed) == plan.tasks.networks
    assert Zoo(killed).identity == Zoo(tmp_path / "zoo").identity
    with pytest.raises(InputError, match="is not an empty folder and holds no zoo"):  # a file of someone else
        build_zoo(plan, other)


def test_a_folder_of_another_recipe_is_refused(raw_zoo, tiny_recipe):
    with pytest.raises(InputError, match="holds a zoo of another recipe"):
        build_zoo(dataclasses.replace(tiny_recipe, seed=1), raw_zoo.path)


def test_records_that_were_edited_are_refused(tiny_recipe, tmp_path):
    folder = tmp_path / "zoo"
    build_zoo(tiny_recipe, folder)
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(InputError, match="does not match its hash"):
        Zoo(folder).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        (json.dumps({"format": "weightflow-zoo-0"}), "format 'weightflow-zoo-0'; this version reads"),
        (json.dumps([1]), "format 'list'"),
        (json.dumps({"format": "weightflow-zoo-1"}), "lacks architecture, dataset, records_sha256, shards"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path, content, message):
    (tmp_path / "zoo.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Zoo(tmp_path)


def test_a_folder_without_manifest_is_no_zoo(tmp_path):
    with pytest.raises(InputError, match="is an empty folder, not a zoo"):
        Zoo(tmp_path)


def test_an_unknown_key_in_a_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown setting 'training.step'; nearest: training.steps"):
        read_recipe("digits", {"training": {"step": 3}})


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match="unknown recipe 'digit'; nearest: digits"):
        read_recipe("digit")


def test_inspection_counts_what_is_there(raw_zoo):
    found = inspect_zoo(raw_zoo)
    assert found["splits"] == {"seen": 40, "validation": 6, "unseen_combinations": 8}
    assert found["lineage"] == {"independent": 54}
    assert "54 networks" in picture(found)


def test_a_histogram_of_equal_accuracies_stays_within_0_and_1(raw_zoo, monkeypatch):
    same = [dataclasses.replace(r, accuracy={"validation": 0.99}) for r in raw_zoo.records]
    zoo = Zoo(raw_zoo.path)
    monkeypatch.setattr(zoo, "records", same)
    edges = inspect_zoo(zoo)["validation_accuracy"]["histogram"]["edges"]
    assert 0 <= edges[0] < 0.99 < edges[-1] <= 1


def test_a_record_of_another_kind_is_refused(tiny_recipe, tmp_path):
    folder = tmp_path / "zoo"
    build_zoo(tiny_recipe, folder)
    text = '{"name": "stranger"}\n'
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    manifest = json.loads((folder / "zoo.json").read_text(encoding="utf-8"))
    manifest["records_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    del manifest["sha256"]
    (folder / "zoo.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="holds a record that this version cannot read"):
        Zoo(folder).load()


def test_a_walk_by_shards_gives_what_loading_at_once_gives(raw_zoo):
    """Rows of several shards, out of order; no part is larger than a shard."""
    rows = [45, 3, 21, 7, 50]
    whole = raw_zoo.load(rows)
    seen = []
    for positions, state in raw_zoo.by_shard(rows):
        seen += positions.tolist()
        for name, tensor in state.items():
            assert torch.equal(tensor, whole[name][positions])
    assert sorted(seen) == list(range(len(rows)))
