"""The pictures of a report, in the order of the page. A new one is a function here and a name in `PICTURES`."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from weightflow.report.html.figure import Figure, series, unmeasured
from weightflow.report.html.legend import legend
from weightflow.report.html.svg import Plot, linear, logarithmic, of_errors, places

Report = dict[str, Any]
FARTHEST = 1.6
"""Distance at the right edge of the first picture: a population far from all others must not press them together."""
ACCURACY = "test accuracy, %"
STRETCHED = "test accuracy, % (stretched)"
STRETCHED_SAID = " The axis of accuracy is stretched towards 100 %."


def novelty_and_accuracy(report: Report) -> Figure:
    title = "New and good?"
    clouds = report["scatter"]
    if clouds is None:
        return unmeasured(title, report["novelty"]["nearest_distance_ratio_reason"])
    split = report["splits"][report["focus"]]
    good = 100 * report["novelty"]["good"] * split["trained"]["mean"]
    means = {
        name: (
            sum(p["ratio"] for p in points) / len(points),
            100 * sum(p["accuracy"] for p in points) / len(points),
        )
        for name, points in clouds.items()
    }
    x = linear([min(_edge(clouds), FARTHEST), 1.1], include=[0.0])
    y = of_errors([m for _, m in means.values()] + [good])
    plot = Plot(x, y, "distance to the nearest training network / the zoo's own", STRETCHED, 560, 400, 62, 54)
    plot.region(1.0, good, "new and good")
    for name, points in clouds.items():
        said = [f"{series(name).label}: {100 * p['accuracy']:.1f} % at {p['ratio']:.2f}" for p in points]
        plot.cloud(series(name), [(p["ratio"], 100 * p["accuracy"]) for p in points], words=said)
    intervals = {n: b["interval"] for n, b in split["baselines"].items()} | {
        "generated": split["accuracy"]["interval"]
    }
    outside = []
    for name, (ratio, accuracy) in reversed(means.items()):
        ends = intervals.get(name)
        plot.mean(series(name), ratio, accuracy, ends and [100 * e for e in ends])
        if ratio > x.high:
            outside.append(f"{series(name).label} ({ratio:.2f})")
    baselines = [name for name in clouds if name not in ("generated", "trained")]
    caption = (
        "Every large mark is a population: how accurate its networks are on average, and how far from "
        "the nearest training network, in units of how far training networks lie from each other. "
        "Copies lie at the left, noise at the bottom. Small dots are single networks; tick a baseline to "
        f"see its own.{STRETCHED_SAID}"
    )
    if outside:
        caption += f" Farther right than the edge at which they are drawn: {', '.join(outside)}."
    drawn = plot.render(f"Accuracy against novelty of {len(clouds)} populations")
    return Figure(title, caption, drawn + legend([series(n) for n in clouds], baselines), wide=True)


def _edge(clouds: dict[str, list[dict[str, float]]]) -> float:
    """The distance that 99 in 100 networks do not exceed."""
    across = sorted(p["ratio"] for points in clouds.values() for p in points)
    return across[int(0.99 * (len(across) - 1))]


def evaluations(report: Report) -> Figure:
    rows, split = report["solvers"], report["splits"][report["focus"]]
    trained = 100 * split["trained"]["mean"]
    ends = [100 * e for r in rows for e in r["interval"] or [r["mean"]]]
    plot = Plot(
        logarithmic([r["evaluations"] for r in rows]),
        linear([*ends, trained]),
        "evaluations of the model a network",
        ACCURACY,
    )
    plot.level(trained, "trained")
    methods = dict.fromkeys(r["method"] for r in rows)
    shown = [
        series(name) for name in ("generated", "interpolation", "gaussian", "noise_0.01", "nearest_prompt")
    ]
    named = [type(s)(method, s.colour, s.marker) for method, s in zip(methods, shown, strict=False)]
    for s in named:
        own = [r for r in rows if r["method"] == s.name]
        points = [(r["evaluations"], 100 * r["mean"]) for r in own]
        plot.line(s, points, [r["interval"] and [100 * e for e in r["interval"]] for r in own])
    return Figure(
        "How many steps does it need?",
        "Accuracy against the work for one network, by solver; bars are 95 % intervals over networks.",
        plot.render("Accuracy against evaluations") + legend(named),
    )


def guidance(report: Report) -> Figure:
    title = "Guidance: accuracy for diversity"
    rows = report["guidance"]["scales"]
    if rows is None:
        return unmeasured(title, report["guidance"]["scales_reason"])
    s = series("generated")
    plot = Plot(
        linear([r["diversity"] for r in rows]),
        of_errors([100 * r["mean"] for r in rows]),
        "diversity: distance within a prompt / within the zoo",
        STRETCHED,
    )
    plot.line(s, [(r["diversity"], 100 * r["mean"]) for r in rows])
    for r in rows:
        plot.words(r["diversity"], 100 * r["mean"], f"{r['guidance']:g}")
    return Figure(
        title,
        "The numbers are scales of guidance: 0 ignores the prompt, 1 is the prompt alone, more follows it harder."
        + STRETCHED_SAID,
        plot.render("Accuracy against diversity by scale of guidance"),
    )


def learning(report: Report) -> Figure:
    title, lines = "How it learned", report["training"]
    names = {"held_out_match": "generated", "held_out_behaviour": "noise_0.01"}
    curves = {key: [(line["step"], line[key]) for line in lines if line.get(key, 0) > 0] for key in names}
    curves = {key: points for key, points in curves.items() if points}
    if not curves:
        return unmeasured(title, "the run has no metrics")
    every = [p for points in curves.values() for p in points]
    plot = Plot(
        linear([x for x, _ in every], include=[0.0]),
        logarithmic([y for _, y in every]),
        "step",
        "held-out loss",
    )
    shown = []
    for key, points in curves.items():
        like = series(names[key])
        s = type(like)(key.removeprefix("held_out_").replace("match", "weights"), like.colour, like.marker)
        plot.line(s, points)
        shown.append(s)
    return Figure(
        title,
        "Loss on networks that the generator does not train on: how well their weights are predicted, and "
        "how well the predicted networks answer on validation images.",
        plot.render("Held-out loss against training steps") + legend(shown),
    )


def positions(report: Report) -> Figure:
    title, found = "Where networks lie", report["map"]
    if found["points"] is None:
        return unmeasured(title, found["points_reason"])
    points = found["points"]
    every = [p for cloud in points.values() for p in cloud]
    plot = Plot(
        linear([p[0] for p in every]),
        linear([p[1] for p in every]),
        f"first component ({100 * found['explained'][0]:.0f} % of the variance)",
        f"second ({100 * found['explained'][1]:.0f} %)",
    )
    names = {"zoo": "random_text", "trained": "trained", "generated": "generated"}
    shown = []
    for key, like in names.items():
        if key not in points:
            continue
        words = {"zoo": "training networks", "trained": "trained, held out"}.get(key, key)
        s = type(series(like))(words, series(like).colour)
        plot.cloud(s, [(p[0], p[1]) for p in points[key]], 2.4)
        shown.append(s)
    return Figure(
        title,
        "The zoo in its first two principal components. Two of many directions: clouds that part here do "
        "differ; clouds that meet may still differ elsewhere.",
        plot.render("Principal components of zoo and generated networks") + legend(shown),
    )


def fine_tuning(report: Report) -> Figure:
    found = report["fine_tuning"]
    steps, curves = found["steps"], {n: c for n, c in found["curves"].items() if isinstance(c, list)}
    trained = 100 * found["trained"]["mean"]
    values = [100 * r["mean"] for c in curves.values() for r in c]
    plot = Plot(places(steps), of_errors([*values, trained]), "steps of training", STRETCHED)
    plot.level(trained, "trained")
    for name, curve in reversed(curves.items()):
        bars = [r["interval"] and [100 * e for e in r["interval"]] for r in curve]
        plot.line(series(name), [(s, 100 * r["mean"]) for s, r in zip(steps, curve, strict=True)], bars)
    return Figure(
        "As an initialisation",
        f"Accuracy after a few mini-batches of {found['batch_size']}, the same for all, learning rate "
        f"{found['learning_rate']:g}, mean of {found['networks']} networks.{STRETCHED_SAID}",
        plot.render("Accuracy after fine-tuning from each start") + legend([series(n) for n in curves]),
    )


def ensembles(report: Report) -> Figure:
    title, found = "Ensembles", report["ensembles"]
    measured = {
        name: [(int(size), f) for size, f in found[name].items() if f["mean"] is not None]
        for name in ("generated", "zoo")
    }
    measured = {name: rows for name, rows in measured.items() if rows}
    sizes = sorted({size for rows in measured.values() for size, _ in rows})
    ends = [100 * e for rows in measured.values() for _, f in rows for e in f["interval"] or [f["mean"]]]
    plot = Plot(places(sizes), linear(ends), "networks that vote", ACCURACY)
    for name, rows in reversed(measured.items()):
        bars = [f["interval"] and [100 * e for e in f["interval"]] for _, f in rows]
        plot.line(series(name), [(size, 100 * f["mean"]) for size, f in rows], bars)
    missing = {
        f["reason"] for name in ("generated", "zoo") for f in found[name].values() if f["mean"] is None
    }
    note = f" Where a size is missing, {' and '.join(sorted(missing))}." if missing else ""
    return Figure(
        title,
        f"Networks that average their probabilities, on {found['tasks']} tasks; the zoo's are training "
        f"networks that know all the classes.{note}",
        plot.render("Accuracy of ensembles") + legend([series(n) for n in measured]),
    )


def classes(report: Report, most: int = 30) -> Figure:
    split = report["splits"][report["focus"]]
    found = sorted(split["classes"].items(), key=lambda item: item[1]["generated"])[:most]
    rows = [
        f'<div class="bar"><span>{html.escape(name)}</span>'
        f'<i style="--v:{100 * v["generated"]:.1f}%;--t:{100 * v["trained"]:.1f}%"></i>'
        f"<b>{100 * v['generated']:.1f}</b><em>{100 * v['trained']:.1f}</em></div>"
        for name, v in found
    ]
    hidden = len(split["classes"]) - len(found)
    more = f" The {len(found)} hardest of {len(split['classes'])}." if hidden else ""
    return Figure(
        "Class by class",
        f"Test accuracy in per cent: bars and first number generated, mark and second number trained.{more}",
        f'<div class="bars">{"".join(rows)}</div>',
        wide=True,
    )


DARKEST = 45
"""Per cent of colour in a full cell, on which its number can still be read."""


def confused(report: Report, most: int = 12) -> Figure:
    """Which classes are taken for which: a matrix of few classes, the most frequent pairs of many."""
    title, found = (
        "What is taken for what",
        report.get("confusion", {"matrix": None, "reason": "an earlier report"}),
    )
    if found["matrix"] is None:
        return unmeasured(title, found["reason"])
    names, matrix = found["classes"], found["matrix"]
    pairs = sorted(
        (
            (share, i, j)
            for i, row in enumerate(matrix)
            for j, share in enumerate(row)
            if i != j and share > 0
        ),
        reverse=True,
    )[:most]
    listed = "".join(
        f'<div class="bar"><span>{html.escape(names[i])} → {html.escape(names[j])}</span>'
        f'<i style="--v:{100 * share / pairs[0][0]:.1f}%"></i><b>{100 * share:.1f}</b></div>'
        for share, i, j in pairs
    )
    table = ""
    if len(names) <= most:
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(names[i])}</th>'
            + "".join(f'<td style="--v:{DARKEST * share:.0f}%">{100 * share:.0f}</td>' for share in row)
            + "</tr>"
            for i, row in enumerate(matrix)
        )
        table = (
            '<div class="scroll" tabindex="0" role="region" aria-label="Answers by class">'
            f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return Figure(
        title,
        "Of a class's test examples, how many per cent generated networks take for another class (rows are the truth; the longest bar is the "
        "largest share).",
        f'<div class="bars single">{listed}</div>{table}'
        if pairs
        else f'<p class="none">Nothing is confused.</p>{table}',
        wide=True,
    )


def examples(report: Report) -> Figure:
    """Test pictures with the answers of a generated network."""
    title, found = "Examples", report.get("examples", {"shown": None, "reason": "an earlier report"})
    if found["shown"] is None:
        return unmeasured(title, found["reason"])
    shown = "".join(
        f'<div><img alt="{html.escape(one["class"])}" src="{html.escape(one["picture"])}">{_answer(one)}</div>'
        for one in found["shown"]
    )
    names = html.escape(", ".join(found["classes"]))
    return Figure(
        title,
        f"Test pictures and the answers of the network that was generated for {names}.",
        f'<div class="shown">{shown}</div>',
        wide=True,
    )


def _answer(one: dict[str, str]) -> str:
    answer, truth = html.escape(one["answer"]), html.escape(one["class"])
    return answer if answer == truth else f"<b>{answer}</b> ({truth})"


PICTURES: tuple[Callable[[Report], Figure], ...] = (
    novelty_and_accuracy,
    evaluations,
    guidance,
    fine_tuning,
    ensembles,
    positions,
    learning,
    classes,
    confused,
    examples,
)
