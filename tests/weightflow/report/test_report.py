"""The report: keys that other programs rely on, reasons beside nulls, a page for a real browser."""

import base64
import copy
import csv
import dataclasses
import json
import re
import shutil
from io import BytesIO

import pytest
from PIL import Image

import weightflow
from canon.cli import console
from canon.errors import InputError
from canon.io.digests import with_digest
from tests import browser
from weightflow.cli.main import app
from weightflow.evaluation.baselines import BASELINES
from weightflow.report import make_report, verdict
from weightflow.report.diversity import measure_diversity
from weightflow.report.html import page as html_page
from weightflow.report.html import write_page
from weightflow.report.html.figure import series
from weightflow.report.html.tables import full_table
from weightflow.report.verdict import kind
from weightflow.training.trainer import start
from weightflow.zoo.store import Zoo, shard_path


@pytest.fixture(scope="module")
def report(run):
    return make_report(run, limit=6)


@pytest.fixture(scope="module")
def one_task_report(one_task_run):
    return make_report(one_task_run, limit=4)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    executable = browser.find()
    if executable is None:
        pytest.skip("no Chromium on this computer: the page was not looked at in a browser")
    with browser.tab(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def reasons_are_given(value, path=""):
    """Every null has a reason beside it: under its own key, or one for the whole table."""
    if isinstance(value, dict):
        for key, item in value.items():
            if item is None and key not in ("interval",):
                assert value.get(f"{key}_reason") or value.get("reason"), f"{path}.{key}"
            reasons_are_given(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            reasons_are_given(item, path + "[]")


def test_the_report_has_the_keys_that_other_programs_rely_on(report):
    assert {"zoo", "splits", "novelty", "speed", "environment"} <= report.keys()
    assert report["zoo"].keys() >= {"count", "architecture", "accuracy"}
    for split in ("seen", "unseen_combinations"):
        figures = report["splits"][split]
        assert figures.keys() >= {"tasks", "networks", "accuracy", "trained", "chance", "baselines"}
        assert figures["baselines"].keys() == BASELINES.keys()
        assert 0 <= figures["accuracy"]["mean"] <= 1
    assert report["splits"]["unseen_classes"] is None
    assert 0 <= report["novelty"]["novel_and_good_trained"]["1"] <= 1
    assert report["novelty"].keys() >= {
        *("nearest_distance_ratio", "max_wrong_iou", "rms_ratio", "functional_disagreement", "novel_and_good")
    }
    assert report["speed"].keys() >= {
        *("sample_seconds", "networks_per_second", "evaluations_per_network", "decode_seconds")
    }
    assert report["environment"].keys() >= {"torch", "device", "threads", "commit", "seed"}
    assert report["fine_tuning"]["steps"] == [0, 1, 5, 20]
    assert len(full_table(report)) == 4 + len(BASELINES)
    reasons_are_given({k: v for k, v in report.items() if k != "training"})


def test_networks_of_one_task_are_reported_too(one_task_report):
    assert one_task_report["focus"] == "seen"
    assert "one task" in one_task_report["splits"]["unseen_combinations_reason"]
    assert one_task_report["splits"]["seen"]["baselines"]["shuffled_prompt"]["mean"] is None
    assert one_task_report["novelty"]["nearest_distance_ratio_trained"] > 0
    reasons_are_given({k: v for k, v in one_task_report.items() if k != "training"})


def test_the_same_seed_gives_the_same_figures(run, report):
    expected, taken = [], []
    again = make_report(run, 0, 6, progress=lambda steps, note: taken.append(steps), expect=expected.append)
    assert expected == [sum(taken)]  # the bar ends at its end
    assert max(taken) < expected[0] / 4  # and moves on the way
    for key in ("splits", "novelty", "guidance", "fine_tuning", "ensembles", "diversity"):
        assert json.dumps(again[key]) == json.dumps(report[key]), key


def figures(report, accuracy, trained=0.9, chance=0.25, interval=(0.01, 0.9), **novelty):
    """The report with other figures in focus."""
    changed = copy.deepcopy(report)
    focus = changed["splits"][changed["focus"]]
    focus["accuracy"]["mean"], focus["trained"]["mean"], focus["chance"] = accuracy, trained, chance
    focus["above_chance"]["interval"] = list(interval)
    changed["novelty"] |= novelty
    return changed


def test_the_verdict_follows_accuracy_then_distance(report):
    assert [kind(r) for r in (0.02, 0.57, 1.0)] == ["copies", "interpolates", "generates new networks"]
    good = {"nearest_distance_ratio": 1.0, "spacing_share": 0.8}
    assert verdict(figures(report, 0.88, **good)).startswith("It generates new networks: ")
    assert verdict(figures(report, 0.88, **good | {"nearest_distance_ratio": 0.02})).startswith("It copies: ")
    at_chance = verdict(figures(report, 0.268, chance=0.247, **good))
    assert at_chance.startswith("It does not work: ")
    assert "at chance, 26.8 % (trained networks 90.0 %, chance 24.7 %)" in at_chance
    assert verdict(figures(report, 0.45, **good)).startswith("It works poorly: ")
    assert "cannot be told from 6 networks" in verdict(figures(report, 0.7, interval=(-0.1, 0.8), **good))
    assert verdict(figures(report, 0.26, trained=0.26, **good)).startswith("Nothing can be said: ")


def test_the_verdict_says_that_a_zoo_of_near_duplicates_tells_nothing_of_novelty(report):
    found = verdict(figures(report, 0.88, nearest_distance_ratio=3.0, spacing_share=0.004))
    assert "new networks:" not in found
    assert "near-duplicates" in found
    assert "cannot be told from copies" in found


def test_the_verdict_says_that_a_baseline_is_better(report):
    changed = figures(report, 0.8)
    baselines = changed["splits"][changed["focus"]]["baselines"]
    for own in baselines.values():
        own["mean"] = None if own["mean"] is None else 0.5
    baselines["zoo_mean"] |= {"mean": 0.85, "nearest_distance_ratio": 0.9}
    assert "the best baseline, zoo mean, reaches 85.0 % at 0.90, more than it" in verdict(changed)


def test_a_generator_of_two_steps_is_said_to_be_at_chance(zoo, tiny_config, tmp_path):
    start(zoo, dataclasses.replace(tiny_config, steps=2, warmup=500), tmp_path / "run").run()
    assert verdict(make_report(tmp_path / "run", limit=8)).startswith("It does not work: ")


def test_networks_of_one_prompt_are_compared_with_networks_trained_from_independent_seeds(report):
    found = report["diversity"]
    assert found["networks"] == 8
    assert found["trained"]["disagreement"]["mean"] > 0
    ours, theirs = (found[name]["disagreement"]["mean"] for name in ("generated", "trained"))
    assert found["ratio"] == pytest.approx(ours / theirs, rel=1e-3)
    for figures in (found["generated"], found["trained"]):
        gain = figures["ensemble"]["mean"] - figures["one"]["mean"]
        assert figures["gain"]["mean"] == pytest.approx(gain, abs=1e-5)


def test_copies_of_one_network_have_neither_disagreement_nor_gain(context):
    task = context.tasks[0]
    copies = {n: t[:1].expand(4, *t.shape[1:]) for n, t in context.picked(range(len(context.rows))).items()}
    found = measure_diversity(context, copies, [task])
    assert float(found.disagreement) == 0
    assert float(found.ensemble) == pytest.approx(float(found.one))


def test_the_verdict_names_a_generator_that_answers_every_seed_alike(report):
    changed = copy.deepcopy(report)
    changed["diversity"]["ratio"] = 0.05
    assert "every seed with nearly the same network" in verdict(changed)
    changed["diversity"]["ratio"] = 0.9
    assert "Networks of one prompt differ" in verdict(changed)


def test_the_page_says_what_it_is_of(report, tmp_path):
    weightflow.Report(report).save(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    about = report["about"]
    assert (
        f"<title>{about['dataset']}, {about['architecture']}, {about['run']} · weightflow report</title>"
        in text
    )
    for said in (
        about["zoo_identity"][:12],
        f"{about['steps']:,} steps",
        about["date"],
        "stretched",
    ):
        assert said in text
    assert "commit_reason" not in text
    assert "/" not in about["dataset"] + about["command"]
    head = text.partition('<p class="verdict">')[0]
    assert " ".join(re.findall(r"<span>(.*?)</span>", head)) == about["command"]
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1] == report["focus"].replace("_", " ")
    assert [tuple(row) for row in rows] == full_table(report)
    assert 'href="report.csv"' in text


def test_the_page_shows_single_networks_pictures_and_confusions(report, tmp_path):
    write_page(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<title>generated: ") >= 6
    shown = report["examples"]["shown"]
    assert len(shown) == 12
    assert {one["class"] for one in shown} == set(report["examples"]["classes"])
    picture = Image.open(BytesIO(base64.b64decode(shown[0]["picture"].partition(",")[2])))
    assert picture.size == (8, 8)
    matrix = report["confusion"]["matrix"]
    assert all(sum(row) == pytest.approx(1, abs=0.01) for row in matrix)
    by_class = report["splits"][report["focus"]]["classes"]
    for name, row, place in zip(report["confusion"]["classes"], matrix, range(len(matrix)), strict=True):
        assert 0 <= row[place] <= 1
        assert name in by_class


@pytest.mark.parametrize("which", ["report", "one_task_report"])
def test_the_page_is_one_file_for_any_screen(tab, request, tmp_path, which):
    path = tmp_path / "report.html"
    write_page(path, request.getfixturevalue(which))
    for width, dark in ((360, False), (360, True), (1280, False)):
        tab.open(path, width, dark)
        assert tab.complaints == []
        assert tab.requests == [path.resolve().as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.querySelectorAll('svg.plot').length") >= 6
        broken = (
            "[...document.querySelectorAll('svg *')].some(e => /NaN|Infinity|undefined/.test(e.outerHTML))"
        )
        assert tab.evaluate(broken) is False
        # what scrolls can be reached without a mouse
        scrolling = "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0 && e.ariaLabel)"
        assert tab.evaluate(scrolling) is True


CONTRAST = """(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number).map(v => text.startsWith('color(') ? 255 * v : v);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return Math.min(...[...document.querySelectorAll('.matrix tbody td')].map(cell => {
    const style = getComputedStyle(cell), a = light(parts(style.color)), b = light(parts(style.backgroundColor));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_of_full_cells_can_be_read(tab, report, tmp_path, dark):
    sure = copy.deepcopy(report)
    size = len(sure["confusion"]["classes"])
    sure["confusion"]["matrix"] = [[float(i == j) for j in range(size)] for i in range(size)]
    write_page(tmp_path / "report.html", sure)
    tab.open(tmp_path / "report.html", 800, dark)
    assert tab.evaluate(CONTRAST) >= 4.5  # WCAG 2.2 AA


def test_a_population_far_from_all_others_does_not_press_them_together(report, tmp_path):
    far = copy.deepcopy(report)
    for point in far["scatter"]["noise_0.01"]:
        point["ratio"] = 40.0
    write_page(tmp_path / "report.html", far)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Farther right than the edge at which they are drawn: noise 0.01 (40.00)." in text
    assert "Farther right" not in html_page(report)


def test_each_population_of_the_first_picture_has_a_mark_of_its_own():
    marks = [series(name) for name in ("generated", "trained", *BASELINES)]
    assert len({(mark.colour, mark.marker) for mark in marks}) == len(marks)


def test_a_ticked_baseline_shows_its_networks(tab, report, tmp_path):
    write_page(tmp_path / "report.html", report)
    tab.open(tmp_path / "report.html", 800)
    cloud = "getComputedStyle(document.querySelector('.wide .cloud[data-s=soup_16]')).display"
    assert tab.evaluate(cloud) == "none"
    tab.evaluate("document.querySelector('input[data-s=soup_16]').click()")
    assert tab.evaluate(cloud) == "inline"


def call(*arguments):
    return console.run_cli(app, [str(a) for a in arguments], name="weightflow")


def test_a_report_needs_the_zoo_it_was_trained_on(zoo, tiny_config, tmp_path, capsys):
    folder, run, out = tmp_path / "zoo", tmp_path / "run", tmp_path / "out"
    shutil.copytree(zoo.path, folder)
    start(Zoo(folder), dataclasses.replace(tiny_config, steps=2), run).run()
    shard = shard_path(folder, 0)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"\x7f")
    assert call("report", run, "--out", out) == 2
    assert "is damaged" in capsys.readouterr().err
    shard.write_bytes(content)
    manifest = folder / "zoo.json"
    changed = json.loads(manifest.read_text()) | {"lineage": "branched"}
    manifest.write_text(json.dumps(with_digest(changed)))
    assert call("report", run, "--out", out) == 2
    assert "has changed since" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert call("report", run, "--out", out) == 2
    assert "is no longer at" in capsys.readouterr().err
    assert not out.exists()


def test_a_report_needs_a_zoo_and_not_another_folder(zoo, tiny_config, tmp_path):
    shutil.copytree(zoo.path, tmp_path / "zoo")
    start(Zoo(tmp_path / "zoo"), dataclasses.replace(tiny_config, steps=2), tmp_path / "run").run()
    (tmp_path / "zoo" / "zoo.json").unlink()
    with pytest.raises(InputError, match="a zoo that is not finished, not a zoo"):
        make_report(tmp_path / "run")
