"""The verdict of a report: accuracy against chance, trained networks and the best baseline; novelty."""

from __future__ import annotations

from typing import Any

from canon.validation import many

# spacings of the zoo: midpoints of two training networks lie at about 0.6, noise that is still harmless below 0.5
NEW, COPY = 0.75, 0.3
# shares of the way from chance to trained networks
AT_CHANCE, POOR = 0.1, 0.5
# a zoo whose networks lie nearer to each other than this share of their own size holds near-duplicates
DUPLICATES = 0.05
# below this share of the trained networks' disagreement, seeds do not matter
SEEDS_MATTER = 0.3
CONTROLS = ("shuffled_prompt", "random_text")


def verdict(report: dict[str, Any]) -> str:
    """What the generator does, judged by accuracy against chance, trained networks and the best baseline, and by
    distance; then whether seeds matter."""
    focus = report["splits"][report["focus"]]
    return f"{_evaluated(report, focus)}{_unseen_classes(report)}.{_seeds(report)}"


def _evaluated(report: dict[str, Any], focus: dict[str, Any]) -> str:
    where = {
        "unseen_combinations": "on combinations of classes it never saw it",
        "seen": "on the tasks of its zoo it",
    }[report["focus"]]
    ours, trained, chance = focus["accuracy"]["mean"], focus["trained"]["mean"], focus["chance"]
    beside = f"{_percent(ours)} (trained networks {_percent(trained)}, chance {_percent(chance)})"
    works = standing_of_split(focus)
    if works == "unknown":
        return f"Nothing can be said: trained networks are at chance themselves; {where} reaches {beside}"
    if works == "at chance":
        return f"It does not work: {where} is at chance, {beside}{_best_baseline(focus)}"
    if works == "unclear":
        return (
            f"Whether it works cannot be told from {many(focus['networks'], 'network')}: {where} reaches {beside}, and the "
            "interval of its gain over chance holds zero; report on more with --limit"
        )
    if works == "poor":
        return f"It works poorly: {where} reaches {beside}{_distance(report)}{_best_baseline(focus)}"
    reaches = f"{where} reaches {beside}, {_percent(ours / trained)} of the accuracy of trained networks"
    ratio = report["novelty"]["nearest_distance_ratio"]
    if ratio is None:
        reason = report["novelty"]["nearest_distance_ratio_reason"]
        return f"{_capital(reaches)}{_best_baseline(focus)}; whether its networks are new was not measured: {reason}"
    does = "repeats a zoo of near-duplicates" if _of_duplicates(report) else kind(ratio)
    return f"It {does}: {reaches}{_distance(report)}{_best_baseline(focus)}"


def standing_of_split(focus: dict[str, Any]) -> str:
    """Where the networks of a split stand between chance and trained networks.

    "unknown" where trained networks are at chance, "at chance" below a tenth of the way, "unclear" where the
    interval of the gain over chance holds zero, "poor" below half of the way, else "works".
    """
    ours, trained, chance = focus["accuracy"]["mean"], focus["trained"]["mean"], focus["chance"]
    if trained - chance < 0.02:
        return "unknown"
    share = (ours - chance) / (trained - chance)
    if share < AT_CHANCE:
        return "at chance"
    gain = focus["above_chance"]["interval"]
    if gain is not None and gain[0] <= 0:
        return "unclear"
    return "poor" if share < POOR else "works"


def _distance(report: dict[str, Any]) -> str:
    ratio = report["novelty"]["nearest_distance_ratio"]
    if ratio is None:
        return ""
    if _of_duplicates(report):
        size = report["novelty"]["spacing_share"]
        return f"; training networks lie only {_percent(size)} of their size apart, so new networks cannot be told from copies"
    return f", at {ratio:.2f} times the distance of training networks from each other"


def _of_duplicates(report: dict[str, Any]) -> bool:
    share = report["novelty"]["spacing_share"]
    return share is not None and share < DUPLICATES


def _seeds(report: dict[str, Any]) -> str:
    """Whether networks of one prompt differ; a sentence of its own where that is known."""
    found = report["diversity"]
    if found["ratio"] is None:
        return ""
    ours, trained = (100 * found[name]["disagreement"]["mean"] for name in ("generated", "trained"))
    beside = f"two networks of one prompt differ on {ours:.1f} % of examples, two trained from independent seeds on {trained:.1f} %"
    if found["ratio"] < SEEDS_MATTER:
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
    ours, trained = _percent(split["accuracy"]["mean"]), _percent(split["trained"]["mean"])
    return f"; on classes it never saw {ours} (trained {trained}, chance {_percent(split['chance'])})"


def _best_baseline(split: dict[str, Any]) -> str:
    """The most accurate baseline that makes networks of its own: a verdict must not hide it."""
    found = {
        name: figure
        for name, figure in split["baselines"].items()
        if name not in CONTROLS
        and figure["mean"] is not None
        and figure.get("nearest_distance_ratio", COPY) >= COPY
    }
    if not found:
        return ""
    name, best = max(found.items(), key=lambda item: item[1]["mean"])
    ratio, better = best.get("nearest_distance_ratio"), best["mean"] > split["accuracy"]["mean"]
    far = "" if ratio is None else f" at {ratio:.2f}"
    return (
        f"; the best baseline, {name.replace('_', ' ')}, reaches {_percent(best['mean'])}{far}"
        f"{', more than it' if better else ''}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def cell(figure: dict[str, Any]) -> str:
    """A mean and its spread in per cent, or a dash where there is none."""
    if figure["mean"] is None:
        return "–"
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"
