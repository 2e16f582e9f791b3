"""The recipes of the papers' zoos: they are read whole, and make networks of the papers' sizes."""

import dataclasses
import re

import pytest
import torch

from canon.errors import InputError, InputWarning
from weightflow import datasets
from weightflow.networks.architectures import Architecture
from weightflow.zoo.builders.local import build_zoo
from weightflow.zoo.recipe import built_in, read_recipe
from weightflow.zoo.store import Zoo

PARAMETERS = {
    "iris": (131, (4,), 3),
    "mnist": (26_506, (1, 28, 28), 10),
    "fashion_mnist": (118_282, (1, 28, 28), 10),
    "cifar10_cnn": (21_914, (3, 32, 32), 10),
    "cifar10_resnet20": (272_474, (3, 32, 32), 10),
    "cifar10_resnet18": (11_173_962, (3, 32, 32), 10),
    "cifar10_vit": (2_693_578, (3, 32, 32), 10),
    "tina_head": (5_130, (512,), 10),
    "t2w_adapter": (16_912, (512,), 31),
    "yelp": (108_599_045, (128,), 5),
    "tina_cnn": (5_370, (3, 32, 32), 10),
    "specialists": (2_102, (512,), 10),
    "specialists_cnn": (213, (1, 14, 14), 5),
}


def test_every_recipe_is_listed_here_and_has_a_small_size():
    names = {name for name in built_in() if not name.endswith("-small")}
    assert names - {"digits", "digits_groupings", "specialists_digits"} == PARAMETERS.keys()
    assert {name + "-small" for name in PARAMETERS} <= built_in().keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_makes_networks_of_the_papers_size(name):
    count, shape, classes = PARAMETERS[name]
    plan = read_recipe(name)
    assert re.split(r" through |\?", plan.dataset)[0] in datasets.SOURCES
    assert (
        Architecture(plan.architecture.name, plan.architecture.arguments, shape, classes).parameters == count
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_small_size_is_smaller_and_can_be_built(name):
    _, shape, classes = PARAMETERS[name]
    plan, small = read_recipe(name), read_recipe(name + "-small")
    assert small.tasks.networks < plan.tasks.networks
    assert small.training.steps < plan.training.steps
    architecture = Architecture(small.architecture.name, small.architecture.arguments, shape, classes)
    outputs = classes if architecture.has_logits else 512  # as wide as CLIP's vectors
    assert architecture.build().eval()(architecture.example(2)).shape == (2, outputs)
    same = dataclasses.replace(small, dataset=plan.dataset, tasks=plan.tasks, training=plan.training, base=plan.base,
                               architecture=plan.architecture, shard_size=plan.shard_size)  # fmt: skip
    assert same == plan


def test_changes_are_laid_over_the_small_size():
    assert read_recipe("iris-small", {"training": {"steps": 7}}).training.steps == 7


def test_small_sizes_are_for_recipes_by_name(tmp_path):
    text = 'dataset = "iris"\narchitecture = { name = "mlp" }\n[small]\nshard_size = 3\n'
    (tmp_path / "mine.toml").write_text(text)
    assert read_recipe(str(tmp_path / "mine.toml")).shard_size == 250
    with pytest.raises(InputError, match="unknown recipe 'mine-small'"):
        read_recipe("mine-small")
    with pytest.raises(InputError, match="unknown setting 'small'"):
        read_recipe("iris", {"small": {"seed": 1}})


def test_each_split_of_few_combinations_has_one():
    """Three pairs of three classes: a tenth of them is none."""
    changes = {"tasks": {"sizes": [2, 2], "seen": 6, "validation": 2, "unseen": 2, "classes": []}}
    pairs: dict[str, set[frozenset[str]]] = {}
    for task in read_recipe("iris", changes).make_tasks():
        pairs.setdefault(task.split, set()).add(frozenset(task.classes))
    assert sorted(map(len, pairs.values())) == [1, 1, 1]
    assert len(set.union(*pairs.values())) == 3
    with pytest.raises(InputError, match="is left for the split 'validation'; ask for no network of it"):
        read_recipe("iris", {"tasks": changes["tasks"] | {"sizes": [3, 3]}}).make_tasks()


def test_networks_of_one_task_stand_in_a_row_and_differ_by_their_seeds(tmp_path):
    few = {"seen": 5, "validation": 2, "unseen": 3, "networks_per_task": 2}
    plan = read_recipe("digits", {"tasks": few, "training": {"steps": 2}})
    one_each = read_recipe("digits", {"tasks": {**few, "networks_per_task": 1}})
    tasks = plan.make_tasks()
    assert [task.split for task in tasks] == [task.split for task in one_each.make_tasks()]
    assert tasks[0] == tasks[1] != tasks[2] == tasks[3] != tasks[4]
    build_zoo(plan, tmp_path / "zoo")
    networks = Zoo(tmp_path / "zoo").load([0, 1])
    assert not torch.equal(networks["1.weight"][0], networks["1.weight"][1])
    with pytest.raises(InputError, match="tasks.networks_per_task is 0"):
        read_recipe("digits", {"tasks": {"networks_per_task": 0}})


def test_arguments_of_another_architecture_are_left_out_and_said():
    with pytest.warns(InputWarning, match="'mlp' are left out for 'linear_head': hidden"):
        plan = read_recipe("digits", {"architecture": {"name": "linear_head"}})
    assert plan.architecture.arguments == {"inputs": 64}
    asked = {"name": "mlp", "arguments": {"hidden": [7]}}
    assert read_recipe("digits", {"architecture": asked}).architecture.arguments == {
        "inputs": 64,
        "hidden": [7],
    }
