"""Write the tables of both READMEs from the results. `--check` fails where one is out of date.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import read_result
from canon.io.files import atomic_write

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).with_name("README.md")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(values: Sequence[float], digits: int = 1, scale: float = 100) -> str:
    v = scale * np.asarray(values)
    return f"{v.mean():.{digits}f}" + (f" ± {v.std():.{digits}f}" if len(v) > 1 else "")


def origin(result: dict[str, Any]) -> str:
    e = result["environment"]
    took = f", {result['seconds']:.0f} s" if result["seconds"] is not None else ""
    return (
        f"`{result['command']}`, {len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}, torch {e['torch']}, {e['threads']} threads"
        f"{' of ' + e['processor'] if 'processor' in e else ''}{took}"
    )


def demo() -> str:
    result = read_result("demo")
    rows = result["rows"]
    names = [
        "generated",
        "trained",
        "generalist",
        "hypernetwork",
        "zoo_mean_rows",
        "nearest_rows",
        "gaussian_pc",
        "nearest_prompt",
    ]
    names += ["soup_16", "interpolation", "noise_as_wide_as_the_zoo", "zoo_mean", "random_text"]
    names += ["shuffled_prompt", "chance"]
    body = [(name.replace("_", " "), spread([r[name] for r in rows])) for name in names if name in rows[0]]
    plain = {
        "nearest-distance ratio": "nearest_distance_ratio",
        "max wrong-IoU, generated": "wrong_iou_generated",
        "max wrong-IoU, zoo against itself": "wrong_iou_zoo",
        "root-mean-square ratio": "rms_ratio",
    }
    facts = [
        (label, "–" if None in (found := [r[key] for r in rows]) else spread(found, 2, 1))
        for label, key in plain.items()
    ]
    ratios = [r["diversity"]["ratio"] for r in rows]
    facts.append(("disagreement of one prompt's networks over trained", spread(ratios, 2, 1)))
    facts.append(("seconds for 100 networks", spread([r["seconds_for_100"] for r in rows], 2, 1)))
    return (
        markdown(("unseen combinations, digits", "accuracy, %"), body)
        + "\n\n"
        + markdown(("new, healthy, fast?", ""), facts)
        + f"\n\n{origin(result)}"
    )


def solvers() -> str:
    rows = [r["solvers"] for r in read_result("demo")["rows"]]
    body = [
        (
            f"{same[0]['method']}, {same[0]['steps']}",
            str(same[0]["evaluations"]),
            spread([s["mean"] for s in same]),
            spread([s["rms_ratio"] for s in same], 2, 1),
            spread([s["nearest_distance_ratio"] for s in same], 2, 1),
        )
        for same in zip(*rows, strict=True)
    ]
    head = ("solver, steps", "evaluations", "accuracy, %", "root-mean-square ratio", "nearest-distance ratio")
    return markdown(head, body)


def demo_aims() -> str:
    return aims("demo")


def _value(aim: dict[str, Any]) -> str:
    return aim["reason"] if aim["value"] is None else f"{aim['value']:.3g}"


def aims(name: str) -> str:
    """The aims of a result, after the effects that it measures without an aim."""
    result = read_result(name)
    rows = [(a["name"], a["aim"], _value(a), "yes" if a["met"] else "**no**") for a in result["aims"]]
    table = markdown(("aim", "wanted", "reached", "met"), rows)
    effects = [
        (e["name"], _value(e), "–" if e["interval"] is None else "{:.3g} to {:.3g}".format(*e["interval"]))
        for e in result.get("effects", ())
    ]
    return f"{markdown(('effect', 'mean', '95 % interval'), effects)}\n\n{table}" if effects else table


def ablations() -> str:
    result = read_result("ablations")
    body = []
    for name in dict.fromkeys(r["variant"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["variant"] == name]
        ratios = [r["nearest_distance_ratio"] for r in rows]
        body.append(
            (
                name,
                spread([r["accuracy"] / r["trained"] for r in rows]),
                spread([r["rms_ratio"] for r in rows], 2, 1),
                rows[0].get("reason", "") if None in ratios else spread(ratios, 2, 1),
            )
        )
    head = (f"{result['size']}", "% of trained accuracy", "root-mean-square ratio", "nearest-distance ratio")
    return markdown(head, body) + f"\n\n{origin(result)}"


def symmetries() -> str:
    result = read_result("symmetries")
    rows = [
        (
            r["network"],
            f"{r['groups']}",
            f"{100 * r['moving_share']:.2f}",
            f"{r['relative_difference']:.1e}",
            f"{r['seconds']:.1f}",
        )
        for r in result["rows"]
    ]
    head = ("network", "groups", "parameters that move, %", "largest relative change", "seconds")
    return markdown(head, rows) + f"\n\n{origin(result)}"


CONTROLS = ("shuffled_prompt", "random_text", "generalist", "hypernetwork")


def _best(baselines: dict[str, float]) -> tuple[str, float]:
    """The most accurate baseline that is trivial: no training, and no controls."""
    name = max((n for n in baselines if n not in CONTROLS), key=lambda n: baselines[n])
    return name.replace("_", " "), baselines[name]


def _per_cent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def headline() -> str:
    """One line for each kind of population: generated beside everything that it must beat."""
    rows: list[tuple[str, ...]] = []

    def add(
        what: str, r: dict[str, float], best: tuple[str, float], chance: float, generalist: float | None
    ) -> None:
        rows.append(
            (
                what,
                *(_per_cent(v) for v in (r["accuracy"], r["trained"], generalist)),
                f"{_per_cent(best[1])} ({best[0]})",
                _per_cent(chance),
            )
        )

    row = _means([r for r in read_result("specialists")["rows"] if r["table"] == "accuracy"])
    add("specialists: 4 hidden units for 10 of 57 classes", row, _best(row["baselines"]), row["chance"],
        row["baselines"]["generalist"])  # fmt: skip
    row = _means([r for r in read_result("specialists_cnn")["rows"] if r["table"] == "accuracy"])
    add("CNNs of 213 parameters for 3 to 5 of 10 kinds of clothing", row, _best(row["baselines"]), row["chance"],
        row["baselines"]["generalist"])  # fmt: skip
    digits = read_result("demo")["rows"][0]
    names = ("zoo_mean_rows", "nearest_rows", "soup_16", "interpolation", "ridge_rows", "nearest_prompt")
    add("MLPs with 6 hidden units for 3 to 6 of 10 digits", {**digits, "accuracy": digits["generated"]}, _best({n: digits[n] for n in names}),
        digits["chance"], digits["generalist"])  # fmt: skip
    tina = [r for r in read_result("tina")["rows"] if r["table"] == "splits" and r["variant"] == "weightflow"]
    names = ("zoo_mean_rows", "nearest_rows", "ridge_rows", "nearest_class")
    for what, zoo, split in (
        ("linear heads for 10 classes", "heads", "unseen_combinations"),
        ("CNNs of 5,370 parameters for 10 classes", "cnns", "unseen_combinations"),
        ("linear heads, **nine classes never seen**", "heads", "unseen_classes"),
    ):
        own = [r for r in tina if (r["zoo"], r["split"]) == (zoo, split)]
        mean = {
            key: float(np.mean([r[key] for r in own])) for key in (*names, "accuracy", "trained", "chance")
        }
        add(what, mean, _best({n: mean[n] for n in names}), mean["chance"], None)
    head = (
        "accuracy on test images, unseen combinations, %",
        "generated",
        "trained on the task",
        "generalist",
    )
    return markdown((*head, "best trivial baseline", "chance"), rows)


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of the accuracies, and of each baseline."""
    mean = {key: float(np.mean([r[key] for r in rows])) for key in ("accuracy", "trained", "chance")}
    names = [n for n, v in rows[0]["baselines"].items() if v is not None]
    return {**mean, "baselines": {n: float(np.mean([r["baselines"][n] for r in rows])) for n in names}}


def specialists(name: str, networks: str) -> str:
    result = read_result(name)
    rows = [r for r in result["rows"] if r["table"] == "accuracy"]
    body = [
        ("generated", spread([r["accuracy"] for r in rows])),
        ("generated, without noise", spread([r["without_noise"] for r in rows])),
        ("trained on the task", spread([r["trained"] for r in rows])),
        *(
            (other.replace("_", " "), spread([r["baselines"][other] for r in rows]))
            for other in _means(rows)["baselines"]
        ),
        ("chance", spread([rows[0]["chance"]])),
    ]
    head = (f"{networks}, unseen combinations", "accuracy, %")
    return markdown(head, body) + f"\n\n{origin(result)}"


def specialists_diversity(name: str) -> str:
    measured = [r for r in read_result(name)["rows"] if r["table"] == "diversity"]
    rows = [r for r in measured if r["variant"] != "hypernetwork"]
    body = []
    for noise in dict.fromkeys(r.get("noise") for r in rows):
        same = [r for r in rows if r.get("noise") == noise]
        what = "trained from independent seeds" if noise is None else f"generated, noise x {noise:g}"
        chosen = sum(r.get("default") == noise for r in same if noise is not None)
        body.append(
            (
                what + (f" (chosen for {chosen} of {len(same)} seeds)" if chosen else ""),
                *(spread([r[key] for r in same]) for key in ("one", "ensemble", "disagreement")),
            )
        )
    alone = [r["one"] for r in measured if r["variant"] == "hypernetwork"]
    body.append(("hypernetwork, one network for every seed", spread(alone), "–", "–"))
    return markdown(("eight networks of one prompt, %", "one", "ensemble", "disagreement of two"), body)


def groupings() -> str:
    result = read_result("groupings")
    rows = result["rows"]
    named = [(name, [r[name] for r in rows]) for name in ("generated", "trained")]
    for name in rows[0]["baselines"]:
        values = [r["baselines"][name] for r in rows]
        if None not in values:
            named.append((name.replace("_", " "), values))
    named.append(("chance", [r["chance"] for r in rows]))
    body = [(name, spread(values)) for name, values in named]
    return markdown(("unseen groupings of digits", "accuracy, %"), body) + f"\n\n{origin(result)}"


def pictures() -> str:
    """Accuracy by the number of pictures: linear heads, then narrow ones."""
    result = read_result("pictures")
    rows, body = result["rows"], []
    counts = sorted({r["pictures"] for r in rows})
    for networks in dict.fromkeys(r["networks"] for r in rows):
        own = [r for r in rows if r["networks"] == networks]
        for group in dict.fromkeys(r["group"] for r in own):
            for way, named in (("pictures", "pictures alone"), ("both", "words and pictures")):
                values = [
                    [
                        r["accuracy"]
                        for r in own
                        if (r["group"], r["pictures"]) == (group, count)
                        and r["way"] == ("words" if not count and way == "both" else way)
                    ]
                    for count in counts
                ]
                cells = [spread(v) if v else "–" for v in values]
                body.append((f"{group}, {networks}", named, *cells))
    head = [str(c) if c < 1000 else "all" for c in counts]
    return markdown(("accuracy, %", "pictures of a class:", *head), body) + f"\n\n{origin(result)}"


def specialists_curve(sweep: str) -> str:
    result = read_result("specialists_curve")
    rows = [
        (
            r["point"],
            *(_per_cent(r[key]) for key in ("generalist", "trained", "generated")),
            f"{_per_cent(r['best_trivial'])} ({r['best_trivial_name'].replace('_', ' ')})"
            if r["best_trivial"]
            else "–",
        )
        for r in result["rows"]
        if r["sweep"] == sweep
    ]
    head = (sweep, "generalist", "trained", "generated", "best trivial")
    return markdown(head, rows) + f"\n\n{origin(result)}"


def compatibility() -> str:
    result = read_result("compatibility")
    rows = [
        (
            r["network"],
            *(
                ("no", "–", "–", "–", "–", "–", "–", r["error"])
                if not r["traced"]
                else (
                    "yes",
                    f"{r['groups']}",
                    f"{100 * r['share_of_axes']:.0f}",
                    "yes" if r["kept"] else "**no**",
                    "–" if r["recovered"] is None else "yes" if r["recovered"] else "**no**",
                    f"{r['seconds']:.1f}",
                    f"{r['added_memory_bytes'] / 2**20:.0f}",
                    reasons(r["frozen"]),
                )
            ),
        )
        for r in result["rows"]
    ]
    head = (
        "network",
        "traced",
        "groups",
        "axes that move, %",
        "function kept",
        "planted recovered",
        "seconds",
        "memory, MiB",
        "what is frozen, besides inputs and outputs",
    )
    return markdown(head, rows) + f"\n\n{origin(result)}"


def reasons(frozen: dict[str, str]) -> str:
    """Why parts of a network stay, without the places; how many parts stay for one reason, where it is more than one."""
    said = (re.sub(r" \(\S+ in \S+\)$", "", reason) for reason in frozen.values())
    said = (re.sub(r"^\S+ (is not used|is a table)", r"a parameter \1", reason) for reason in said)
    said = (re.sub(r"^axis \d+ of constant .*", "a constant", reason) for reason in said)
    counts = Counter(reason for reason in said if not re.match(r"axis \d+ of (input|an output)", reason))
    return "; ".join(f"{reason} × {n}" if n > 1 else reason for reason, n in counts.items()) or "–"


def families() -> str:
    """One row a family, one column a layout; a cell says what went wrong, if anything did."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    result = read_result("families")
    for row in result["rows"]:
        rows.setdefault(row["network"], {})[row["layout"]] = row
    layouts = list(dict.fromkeys(layout for found in rows.values() for layout in found))

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return "–"
        wrong = [] if row["kept"] else ["function changed"]
        wrong += [] if row["recovered"] else ["not recovered"]
        wrong += [] if row["changed"] else ["nothing moved"]
        return f"**{', '.join(wrong)}**" if wrong else "yes"

    body = [
        (
            name,
            next(iter(found.values()))["source"],
            f"{next(iter(found.values()))['groups']}",
            f"{max(row['relative_difference'] for row in found.values()):.1e}",
            *(cell(found.get(layout)) for layout in layouts),
        )
        for name, found in rows.items()
    ]
    head = ("family", "known by", "groups", "largest relative difference", *layouts)
    return markdown(head, body) + f"\n\n{origin(result)}"


def planted() -> str:
    rows = [
        (
            r.get("network") or f"planted stack {r['stream']}/{r['hidden']}",
            f"{r.get('noise', 0):g}",
            *(f"{r['recovered'][start]} of {r['cases']}" for start in ("identity", "auto")),
        )
        for r in read_result("alignment")["rows"]
        if r["table"] == "planted"
    ]
    head = ("relabelled at random", "noise over signal", "all units right, identity start", "default")
    return markdown(head, rows)


def barriers() -> str:
    rows = [
        (r["network"], *(f"{r['mean'][way]:.3f}" for way in ("unaligned", "identity", "auto", "frank_wolfe")))
        for r in read_result("alignment")["rows"]
        if r["table"] == "barriers"
    ]
    head = ("mean loss barrier of 6 trained pairs", "unaligned", "identity start", "default", "Frank–Wolfe")
    return markdown(head, rows)


def planted_heads() -> str:
    result = read_result("heads")
    rows = [
        (
            r["network"],
            f"{r['noise']:g}",
            *(f"{100 * r['recovered'][way]:.0f}" for way in ("spectra", "pairs")),
        )
        for r in result["rows"]
        if r["table"] == "planted heads"
    ]
    head = ("planted heads", "noise over signal", "recovered, %: transfusion", "weights")
    return markdown(head, rows)


def barriers_by_method() -> str:
    result = read_result("heads")
    ways = ("unaligned", "weights", "transfusion", "activations")
    rows = [
        (r["network"], f"{r['pairs']}", *(f"{r['mean'][way]:.3f}" for way in ways))
        for r in result["rows"]
        if r["table"] == "barriers"
    ]
    head = ("mean loss barrier of trained pairs", "pairs", *ways)
    return markdown(head, rows) + f"\n\n{origin(result)}"


def means() -> str:
    rows = [r for r in read_result("alignment")["rows"] if r["table"] == "mean of the zoo"]
    kinds = list(dict.fromkeys(r.get("kind", "torch") for r in rows))
    found = {(r["way"], r.get("kind", "torch")): r.get("ratio", 1.0) for r in rows}
    ways = [way for way in dict.fromkeys(r["way"] for r in rows) if not way.startswith("the zoo")]
    body = [(way, *(f"{found[way, kind]:.3f}" for kind in kinds)) for way in ways]
    head = ("accuracy of the mean of 100 MLPs / the zoo's", *(f"{kind} initialisation" for kind in kinds))
    chosen = (
        "Settings were chosen on networks of another seed, on validation images; these are test images."
        if all("seed" in r for r in rows)
        else "The settings were chosen by looking at that same test accuracy, so the figure is optimistic."
    )
    return f"{markdown(head, body)}\n\n{chosen}"


def _mebibytes(count: int | None) -> str:
    return "not measured" if count is None else f"{count / 2**20:.0f}"


def speeds() -> str:
    rows = [
        (
            r["network"],
            f"{r['seconds']:.1f}",
            f"{r['plain_seconds']:.1f}",
            f"{r['objective']:.1f}",
            f"{r['plain_objective']:.1f}",
            _mebibytes(r.get("added_memory_bytes")),
        )
        for r in read_result("alignment")["rows"]
        if r["table"] == "speed"
    ]
    head = ("pair", "seconds", "plain descent, s", "objective", "plain descent", "memory added, MiB")
    return markdown(head, rows)


def alignment_aims() -> str:
    result = read_result("alignment")
    loads = [r["load_of_the_machine"] for r in result["rows"] if "load_of_the_machine" in r]
    load = f"; load of the machine up to {max(loads):.1f} while it was timed" if loads else ""
    return f"{aims('alignment')}\n\n{origin(result)}{load}"


def fusion() -> str:
    result = read_result("fusion")
    names = {
        "fused": "generated from the union's words",
        "trained": "trained on the union",
        "ensemble": "ensemble of the two",
        "average_in_frame": "average in the run's frame",
        "git_rebasin_average": "average by Git Re-Basin",
        "straight_average": "average as they stand",
        "chance": "chance",
    }
    kinds = list(dict.fromkeys(r["pairs"] for r in result["rows"]))
    body = [
        (label, *(spread([r[name] for r in result["rows"] if r["pairs"] == kind]) for kind in kinds))
        for name, label in names.items()
    ]
    count = result["rows"][0]["count"]
    head = (
        "one network for two networks' classes, accuracy, %",
        *(f"{count} {kind} pairs" for kind in kinds),
    )
    return _with_aims(markdown(head, body), "fusion")


def enhancement() -> str:
    rows = read_result("enhancement")["rows"]
    body = []
    for weak in dict.fromkeys(r["weak"] for r in rows):
        own = [r for r in rows if r["weak"] == weak]
        chosen = sorted({f"{r['strength']:g}" for r in own})
        columns = (spread([r[name] for r in own]) for name in ("before", "after", "words alone", "trained"))
        body.append((weak, *columns, ", ".join(chosen)))
    head = ("accuracy, %", "weak", "enhanced", "words alone", "fully trained", "strength chosen")
    return _with_aims(markdown(head, body), "enhancement")


def transfer() -> str:
    rows = read_result("transfer")["rows"]
    body = []
    for images, epochs in dict.fromkeys((r["images"], r["epochs"]) for r in rows if r["epochs"]):
        own = [r for r in rows if (r["images"], r["epochs"]) == (images, epochs)]
        cells = (spread([r[name] for r in own]) for name in ("generated", "zoo", "random"))
        body.append(("all" if images is None else str(images), str(epochs), *cells))
    head = ("images a class", "epochs", "from generated", "from trained on digits", "from random")
    return _with_aims(markdown(head, body), "transfer")


def initialisation() -> str:
    rows = read_result("initialisation")["rows"]
    body = []
    for start in dict.fromkeys(r["start"] for r in rows):
        curves = [r["accuracy"] for r in rows if r["start"] == start]
        cells = (spread(same) for same in zip(*curves, strict=True))
        body.append((start.replace("_", " "), *cells))
    head = ("accuracy, %, after steps of training", *map(str, rows[0]["steps"]))
    return _with_aims(markdown(head, body), "initialisation")


def ensembles() -> str:
    rows, body = read_result("ensembles")["rows"], []
    for of in dict.fromkeys(r["of"] for r in rows):
        cells = []
        for size in ("1", "10", "100"):
            own = [r[size] for r in rows if r["of"] == of and r[size] is not None]
            every = len(own) == sum(r["of"] == of for r in rows)
            cells.append(spread(own) if every else "too few know a task")
        body.append((of, *cells))
    head = ("networks that vote, accuracy, %", "1", "10", "100")
    return _with_aims(markdown(head, body), "ensembles")


def judging() -> str:
    rows = read_result("judging")["rows"]
    body = [
        (str(r["networks"]), str(r["images"]), f"{r['seconds']:.1f}", f"{r['floor_seconds']:.1f}")
        for r in rows
    ]
    head = ("MLPs 784-128-128-10", "images", "seconds", "floor: the products alone")
    return _with_aims(markdown(head, body), "judging")


def _with_aims(table: str, name: str) -> str:
    return f"{table}\n\n{aims(name)}\n\n{origin(read_result(name))}"


def tina(zoo: str, what: str) -> str:
    """A line a generator, a baseline and a bound, a column a split, of one of the zoos."""
    result = read_result("tina")
    rows = [r for r in result["rows"] if r["table"] == "splits" and r["zoo"] == zoo]
    splits = list(dict.fromkeys(r["split"] for r in rows))

    def line(label: str, variant: str, key: str) -> tuple[str, ...]:
        found = [[r.get(key) for r in rows if (r["variant"], r["split"]) == (variant, s)] for s in splits]
        known = [[v for v in values if isinstance(v, float)] for values in found]
        return (label, *(spread(values) if values else "" for values in known))

    ours = "weightflow"
    others = [v for v in dict.fromkeys(r["variant"] for r in rows) if v != ours]
    names = (
        "anchors_alone",
        "zoo_mean_rows",
        "nearest_rows",
        "ridge_rows",
        "nearest_class",
        "shuffled_prompt",
        "random_text",
    )
    body = [line(ours, ours, "accuracy"), *(line(v, v, "accuracy") for v in others)]
    body.append(line("trained on the same task", ours, "trained"))
    body += [line(name.replace("_", " "), ours, name) for name in (*names, "chance")]
    head = (f"{what}, CIFAR-100, accuracy in %", *(s.replace("_", " ") for s in splits))
    return markdown(head, [row for row in body if any(row[1:])]) + f"\n\n{origin(result)}"


def tina_ways() -> str:
    """Accuracy by the number of classes of a task."""
    rows = [r for r in read_result("tina")["rows"] if r["table"] == "ways"]
    ways = list(dict.fromkeys(r["ways"] for r in rows))
    body = [
        (label, *(spread([r[key] for r in rows if r["ways"] == w]) for w in ways))
        for label, key in (
            ("weightflow", "accuracy"), ("trained on the same task", "trained"),
            ("ridge rows", "ridge_rows"), ("chance", "chance"),
        )
    ]  # fmt: skip
    return markdown(("unseen combinations of so many classes, accuracy in %", *ways), body)


def tina_prompts() -> str:
    """The same classes by their own names, by other names, and by images where a real CLIP was there."""
    rows = [r for r in read_result("tina")["rows"] if r["zoo"] == "heads"]
    head, body = ["heads, accuracy in %"], []
    keys = {"own names": "own_names", "other names": "accuracy", "classes that have one, %": "renamed"}
    images = {"in that CLIP's words": "accuracy_in_words", "one image a class": "accuracy_of_1_images"}
    images["five images"] = "accuracy_of_5_images"
    for split in ("unseen_combinations", "unseen_classes", "unseen_by_backbone"):
        other = [r for r in rows if r["table"] == "other names" and r["split"] == split]
        shown = [r for r in rows if r["table"] == "image prompts" and r.get("split") == split]
        real = [r for r in shown if not r["weights"].startswith("random")]
        found = {name: [r[key] for r in other] for name, key in keys.items()}
        found |= {name: [r[key] for r in real] for name, key in images.items() if real}
        head = [head[0], *found]
        body.append((split.replace("_", " "), *map(spread, found.values())))
    return markdown(head, body)


def tina_aims() -> str:
    return aims("tina")


def zoos() -> str:
    """Of the networks trained for each split, a line a zoo and split."""
    body = [
        (
            row["zoo"],
            split.replace("_", " "),
            f"{found['networks']}",
            " to ".join(str(k) for k in sorted({found["classes"][0], found["classes"][-1]})),
            f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f}",
            f"{100 * found['chance']:.1f}",
        )
        for row in read_result("zoos")["rows"]
        for split, found in row["splits"].items()
    ]
    head = ("zoo", "split", "networks", "classes each", "test accuracy, %", "chance, %")
    return markdown(head, body) + "\n\n" + origin(read_result("zoos"))


def memorization() -> str:
    result = read_result("memorization")
    rows = [r for r in result["rows"] if r.get("own_sampler", True)]
    body = [
        (
            f"{name}{', 1,000 networks' if large else ''}",
            spread([r["accuracy"] for r in same]),
            spread([r["share_of_trained"] for r in same]),
            spread([r["nearest_distance_ratio"] for r in same], 2, 1),
            spread([r["wrong_iou"] for r in same], 2, 1),
            spread([r["wrong_iou_among_generated"] for r in same], 2, 1),
        )
        for name, large in dict.fromkeys((r["generator"], r["networks_in_zoo"] >= 1000) for r in rows)
        if (same := [r for r in rows if (r["generator"], r["networks_in_zoo"] >= 1000) == (name, large)])
    ]
    zoo = rows[0]
    body.append(("the zoo itself", spread([zoo["trained"]]), "100", "1", f"{zoo['wrong_iou_zoo']:.2f}", ""))
    head = ("Fashion-MNIST MLPs", "accuracy, %", "of the zoo's, %", "distance to the nearest", "wrong-IoU with the zoo", "among themselves")  # fmt: skip
    return markdown(head, body) + f"\n\n{origin(result)}"


def deepweightflow() -> str:
    result = read_result("deepweightflow")
    rows = [r for r in result["rows"] if r["accuracy"] is not None]
    keys = dict.fromkeys((r["population"], r["generator"], r["frame"], r["source"]) for r in rows)
    body = []
    for key in keys:
        same = [r for r in rows if (r["population"], r["generator"], r["frame"], r["source"]) == key]
        figures = (
            spread([r["accuracy"] for r in same]),
            f"{100 * same[0]['trained']:.1f}",
            spread([r["wrong_iou"] for r in same], 2, 1),
            f"{same[0]['wrong_iou_zoo']:.2f}",
        )
        body.append((key[0], key[1], key[2], f"{key[3]:g}", *figures))
    head = ("population", "generator", "frame", "s", "accuracy, %", "originals, %", "wrong-IoU", "zoo-zoo")
    return markdown(head, body) + f"\n\n{origin(result)}"


def speed() -> str:
    result = read_result("speed")
    keys = ("network", "generator", "method", "steps")
    body = []
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in result["rows"]):
        same = [r for r in result["rows"] if tuple(r[k] for k in keys) == key]
        body.append(
            (
                key[0],
                key[1],
                f"{key[2]}, {key[3]}",
                str(same[0]["evaluations"]),
                spread([r["networks_per_second"] for r in same], 1, 1),
                spread([r["floor_networks_per_second"] for r in same], 0, 1),
                spread([r["peak_mib"] for r in same], 0, 1),
            )
        )
    head = (
        "network",
        "generator",
        "solver, steps",
        "evaluations",
        "networks a second",
        "at the floor",
        "peak, MiB",
    )
    return markdown(head, body) + f"\n\n{origin(result)}"


def profiles() -> str:
    result = read_result("profiles")
    body = [
        (
            r["work"],
            f"{r['seconds']:.2f}",
            ", ".join(f"{name.lstrip('_')} {100 * share:.0f}" for name, share in r["shares"].items()),
        )
        for r in result["rows"]
    ]
    return markdown(("work, one thread", "seconds", "share of the time, %"), body) + f"\n\n{origin(result)}"


def startup() -> str:
    result = read_result("startup")
    body = [(f"`{r['command']}`", f"{r['seconds']:.2f}", f"{r['times']:.2f}") for r in result["rows"]]
    head = ("command, small files", "processor seconds", "times `import torch`")
    return _with_aims(markdown(head, body), "startup")


def time_to_accuracy() -> str:
    result = read_result("time_to_accuracy")
    body = [
        (
            str(r["seed"]),
            f"{r['preset']}, {r['training_steps']:,} steps",
            f"{r['training_seconds']:.1f}",
            f"{100 * r['validation']:.1f}",
            f"{100 * r['accuracy']:.1f}",
            f"{100 * r['trained']:.1f}",
            f"{r['nearest_distance_ratio']:.2f}",
        )
        for r in result["rows"]
    ]
    head = (
        "seed",
        "training",
        "seconds",
        "validation accuracy, %",
        "test accuracy, %",
        "zoo, %",
        "distance ratio",
    )
    return markdown(head, body) + f"\n\n{aims('time_to_accuracy')}\n\n{origin(result)}"


def large() -> str:
    result = read_result("large")
    body = [
        (
            r["way"],
            f"{r['zoo_gib']:.2f}",
            f"{r['peak_gib']:.2f}",
            f"{r['seconds_to_begin']:.0f}",
            f"{r['seconds_a_step']:.3f}",
        )
        for r in result["rows"]
    ]
    first = result["rows"][0]
    head = (f"{first['networks']} networks of {first['parameters']:,} parameters", "the zoo, GiB", "peak, GiB", "seconds to begin", "seconds a step")  # fmt: skip
    return _with_aims(markdown(head, body), "large")


def large_zoos() -> str:
    """Private memory and seconds of each command, by the size of the zoo."""
    result = read_result("large_zoos")
    sizes = list(dict.fromkeys(r["networks"] for r in result["rows"]))
    found = {(r["command"], r["networks"]): r for r in result["rows"]}
    body = [
        (
            f"`{name}`",
            *(f"{found[name, n]['private_gib']:.2f} ({found[name, n]['seconds']:.0f} s)" for n in sizes),
        )
        for name in dict.fromkeys(r["command"] for r in result["rows"])
    ]
    head = ("private memory, GiB (seconds)", *(f"{n:,} networks" for n in sizes))
    return markdown(head, body) + f"\n\n{origin(result)}"


def populations() -> str:
    """Networks a minute of each population, and accuracies of both precisions below."""
    rows = read_result("populations")["rows"]
    body = [
        (
            row["population"],
            f"{row['per_minute_alone']:.3g}",
            f"{row['per_minute']:.3g}",
            f"{row['speedup']:.3g}",
            f"{row['per_minute_at_the_floor']:.3g}",
            row["precision"],
        )
        for row in rows
        if row.get("per_minute") is not None
    ]
    head = ("networks a minute", "one at a time", "many", "times", "at the floor", "products in")
    return _with_aims(markdown(head, body), "populations")


def t2w() -> str:
    """A line a variant, then a line a baseline and what training reaches, a column a split."""
    result = read_result("t2w")
    splits = [name for name in ("seen", "unseen_combinations", "unseen_classes") if name in result["rows"][0]]
    body = []
    for name in dict.fromkeys(r["variant"] for r in result["rows"] if "variant" in r):
        same = [r for r in result["rows"] if r.get("variant") == name]
        cells = (spread([r[split]["accuracy"] for r in same]) for split in splits)
        unseen = [r["unseen_combinations"] for r in same]
        extra = (spread([u[key] for u in unseen], 2, 1) for key in ("rms_ratio", "nearest_distance_ratio"))
        body.append((name, *cells, *extra))
    first = [r for r in result["rows"] if r.get("variant") == "t2w"]
    body.append(("trained", *(spread([r[split]["trained"] for r in first]) for split in splits), "1", ""))
    rows = {split: [r for r in result["rows"] if r.get("baselines") == split] for split in splits}
    for name in [key for key in rows["seen"][0] if key not in ("baselines", "seed")]:
        values = {split: [r[name] for r in rows[split]] for split in splits}
        if all(isinstance(v, float) for own in values.values() for v in own):
            body.append((name.replace("_", " "), *(spread(values[split]) for split in splits), "", ""))
    head = (
        "adapters, accuracy, %",
        *(split.replace("_", " ") for split in splits),
        "root-mean-square ratio",
        "nearest-distance ratio",
    )
    return _with_aims(markdown(head, body), "t2w")


TABLES: dict[str, Callable[[], str]] = {
    "t2w": t2w,
    "fusion": fusion,
    "enhancement": enhancement,
    "transfer": transfer,
    "initialisation": initialisation,
    "ensembles": ensembles,
    "judging": judging,
    "tina": lambda: tina("heads", "linear heads"),
    "tina cnns": lambda: tina("cnns", "CNNs"),
    "tina ways": tina_ways,
    "tina prompts": tina_prompts,
    "tina aims": tina_aims,
    "memorization": memorization,
    "memorization aims": lambda: aims("memorization"),
    "deepweightflow": deepweightflow,
    "deepweightflow aims": lambda: aims("deepweightflow"),
    "speed": speed,
    "speed aims": lambda: aims("speed"),
    "profiles": profiles,
    "startup": startup,
    "time to accuracy": time_to_accuracy,
    "large": large,
    "large zoos": large_zoos,
    "large zoos aims": lambda: aims("large_zoos"),
    "demo": demo,
    "solvers": solvers,
    "demo aims": demo_aims,
    "ablations": ablations,
    "headline": headline,
    "specialists": lambda: specialists("specialists", "heads with 4 hidden units"),
    "specialists diversity": lambda: specialists_diversity("specialists"),
    "specialists cnn": lambda: specialists("specialists_cnn", "CNNs of 213 parameters"),
    "specialists cnn diversity": lambda: specialists_diversity("specialists_cnn"),
    "specialists cnn aims": lambda: aims("specialists_cnn"),
    "specialists curve": lambda: specialists_curve("hidden units"),
    "specialists networks": lambda: specialists_curve("networks in the zoo"),
    "specialists images": lambda: specialists_curve("training examples a class"),
    "specialists aims": lambda: aims("specialists"),
    "groupings": groupings,
    "groupings aims": lambda: aims("groupings"),
    "pictures": pictures,
    "pictures aims": lambda: aims("pictures"),
    "compatibility": compatibility,
    "compatibility aims": lambda: aims("compatibility"),
    "families": families,
    "families aims": lambda: aims("families"),
    "symmetries": symmetries,
    "planted": planted,
    "barriers": barriers,
    "planted heads": planted_heads,
    "barriers by method": barriers_by_method,
    "means of zoos": means,
    "alignment speed": speeds,
    "alignment aims": alignment_aims,
    "zoos": zoos,
    "populations": populations,
}


def filled(text: str) -> str:
    """The text with every table between its marks written again."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w ]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    for path in (README, RESULTS):
        text = path.read_text(encoding="utf-8")
        if "--check" not in sys.argv:
            atomic_write(path, filled(text))
        elif filled(text) != text:
            sys.exit(f"{path} is out of date; run python -m benchmarks.readme")


if __name__ == "__main__":
    main()
