"""The report in words: one sentence that judges."""

from __future__ import annotations

from typing import Any

from weightflow.report.diversity import LEAST

# spacings of the zoo: midpoints of two training networks lie at about 0.6, noise that is still harmless below 0.5
NEW, COPY = 0.75, 0.3
CONTROLS = ("shuffled_prompt", "random_text")


def verdict(report: dict[str, Any]) -> str:
    """One sentence: how good the networks are, how new, and what the best trivial way to have some reaches."""
    focus, novelty = report["splits"][report["focus"]], report["novelty"]
    trained = focus["trained"]["mean"]
    where = {
        "unseen_combinations": "on combinations of classes it never saw it",
        "seen": "on the tasks of its zoo it",
    }[report["focus"]]
    reaches = f"{where} reaches {100 * focus['accuracy']['mean'] / trained:.1f} % of the accuracy of trained networks"
    ratio = novelty["nearest_distance_ratio"]
    if ratio is None:
        return (
            f"{reaches[0].upper()}{reaches[1:]}; whether they are new was not measured: "
            f"{novelty['nearest_distance_ratio_reason']}.{_seeds(report)}"
        )
    return (
        f"It {kind(ratio)}: {reaches}, at {ratio:.2f} times the distance of training networks from each "
        f"other{_best_baseline(focus)}{_unseen_classes(report)}.{_seeds(report)}"
    )


def _seeds(report: dict[str, Any]) -> str:
    """Whether networks of one prompt differ; a sentence of its own where that is known."""
    found = report["diversity"]
    if found["ratio"] is None:
        return ""
    ours, trained = (100 * found[name]["disagreement"]["mean"] for name in ("generated", "trained"))
    beside = f"two networks of one prompt differ on {ours:.1f} % of examples, two trained from independent seeds on {trained:.1f} %"
    if found["ratio"] < LEAST:
        return f" It answers every seed with nearly the same network, as a table would: {beside}."
    gain = 100 * found["generated"]["gain"]["mean"]
    return f" Networks of one prompt differ: {beside}; {found['networks']} together gain {gain:.1f} points over one."


def kind(ratio: float) -> str:
    """What a generator does whose networks lie so many of the zoo's spacings from the nearest one."""
    return "generates new networks" if ratio >= NEW else "interpolates" if ratio >= COPY else "copies"


def _unseen_classes(report: dict[str, Any]) -> str:
    split = report["splits"]["unseen_classes"]
    if split is None:
        return ""
    ours, trained = 100 * split["accuracy"]["mean"], 100 * split["trained"]["mean"]
    return (
        f"; on classes it never saw {ours:.1f} % (trained {trained:.1f}, chance {100 * split['chance']:.1f})"
    )


def _best_baseline(split: dict[str, Any]) -> str:
    """The most accurate baseline that makes networks of its own: a verdict must not hide it."""
    found = {
        name: figure
        for name, figure in split["baselines"].items()
        if name not in CONTROLS and (figure.get("nearest_distance_ratio") or 0) >= COPY
    }
    if not found:
        return ""
    name, best = max(found.items(), key=lambda item: item[1]["mean"])
    share, ratio = best["mean"] / split["trained"]["mean"], best["nearest_distance_ratio"]
    return f"; the best baseline, {name.replace('_', ' ')}, reaches {100 * share:.1f} % at {ratio:.2f}"


def cell(figure: dict[str, Any]) -> str:
    """A mean and its spread in per cent, or a dash where there is none."""
    if figure["mean"] is None:
        return "–"
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"
