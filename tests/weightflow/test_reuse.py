"""Enhancing, fusing, and networks as files."""

import pytest
import torch

from canon import permutation as perm
from canon.errors import InputError
from weightflow.enhance import enhance
from weightflow.fuse import average_by_class, fuse, union
from weightflow.network import Network, read_network, write_network
from weightflow.sample import Flow, SampleConfig
from weightflow.text import Prompt
from weightflow.train import start


@pytest.fixture(scope="module")
def flow(run):
    return Flow(run)


def network(zoo, row):
    record = zoo.records[row]
    state = {name: tensor[:1] for name, tensor in zoo.load([row]).items()}
    return Network(state, Prompt(record.classes), record.dataset)


def test_a_network_survives_its_file(flow, zoo, tmp_path):
    given = network(zoo, 0)
    path, classes = tmp_path / "n.safetensors", given.prompt.classes
    write_network(path, zoo.architecture, given.state, classes)
    found = read_network(path, zoo.architecture, "digits")
    assert found.prompt == given.prompt
    assert all(torch.equal(found.state[name], given.state[name]) for name in given.state)


def test_a_file_without_classes_asks_for_them(flow, zoo, tmp_path):
    path = tmp_path / "n.pt"
    torch.save(zoo.network(0), path)
    with pytest.raises(
        InputError, match="does not say which classes it tells apart; give them with --classes"
    ):
        read_network(path, zoo.architecture, "digits")
    read_network(path, zoo.architecture, "digits", Prompt(zoo.records[0].classes))


def test_another_architecture_names_what_differs(zoo, tmp_path):
    path = tmp_path / "n.pt"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).state_dict(), path)
    with pytest.raises(
        InputError, match=r"1.weight is \(5, 64\), expected \(12, 64\); .*3.weight is missing"
    ):
        read_network(path, zoo.architecture, "digits", Prompt(("one", "two")))


def test_strength_runs_from_as_it_is_to_made_anew(flow, zoo):
    given = network(zoo, 0)
    same = enhance(flow, given.state, [given.task], 0.0, [0])
    assert all(torch.equal(same[name], given.state[name]) for name in same)
    anew = enhance(flow, given.state, [given.task], 1.0, [0])
    sampled = flow.sample([given.prompt], [0], SampleConfig())
    for name in anew:
        torch.testing.assert_close(anew[name], sampled[name])
    for strength in (-0.1, 1.1):
        with pytest.raises(InputError, match="it is a share from 0"):
            enhance(flow, given.state, [given.task], strength, [0])


def test_the_order_of_a_networks_units_does_not_matter(flow, zoo):
    given, spec = network(zoo, 1), zoo.architecture.spec
    shuffled = perm.apply(spec, perm.random(spec, torch.Generator().manual_seed(0), (1,)), given.state)
    one, other = (enhance(flow, state, [given.task], 0.4, [0]) for state in (given.state, shuffled))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_a_run_without_frame_cannot_place_other_networks(raw_zoo, tiny_config, tmp_path):
    start(raw_zoo, tiny_config, tmp_path / "run")
    given = network(raw_zoo, 0)
    with pytest.raises(InputError, match="was trained on a zoo that is not canonical"):
        enhance(Flow(tmp_path / "run"), given.state, [given.task], 0.5, [0])


def test_the_average_takes_each_row_from_who_knows_the_class(flow, zoo):
    rows = [i for i, r in enumerate(zoo.records) if len(r.classes) == 2]
    a = network(zoo, rows[0])
    b = next(n for n in (network(zoo, i) for i in rows) if not set(n.prompt.classes) & set(a.prompt.classes))
    fused = fuse(flow, a, b)
    assert fused.task.classes == (*a.prompt.classes, *b.prompt.classes)
    alone = average_by_class(flow, [a], a.task)
    torch.testing.assert_close(fused.average["3.bias"][0, :2], alone["3.bias"][0, :2])
    twice = average_by_class(flow, [a, a], a.task)
    for name in twice:
        torch.testing.assert_close(twice[name], alone[name])


def test_a_union_keeps_order_and_names_each_class_once():
    assert union(("a", "b"), ("c", "b", "d")) == ("a", "b", "c", "d")


def test_a_union_beyond_the_run_is_refused(flow, zoo):
    rows = [i for i, r in enumerate(zoo.records) if len(r.classes) == 4]
    a = network(zoo, rows[0])
    b = next(n for n in (network(zoo, i) for i in rows) if set(n.prompt.classes) != set(a.prompt.classes))
    with pytest.raises(InputError, match=r"the union has \d classes; this run was built for 4 at most"):
        fuse(flow, a, b)
