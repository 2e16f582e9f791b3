"""Write the README's tables from the results. `--check` fails where one is out of date.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import read_result
from canon.files import atomic_write

README = Path(__file__).parents[1] / "README.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(values: Sequence[float], digits: int = 1, scale: float = 100) -> str:
    v = scale * np.asarray(values)
    return f"{v.mean():.{digits}f}" + (f" ± {v.std():.{digits}f}" if len(v) > 1 else "")


def origin(result: dict[str, Any]) -> str:
    e = result["environment"]
    return (
        f"`{result['command']}`, {len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}, torch {e['torch']}, {e['threads']} threads"
        f"{' of ' + e['processor'] if 'processor' in e else ''}, {result['seconds']:.0f} s"
    )


def demo() -> str:
    result = read_result("demo")
    rows = result["rows"]
    names = ["generated", "trained", "zoo_mean_rows", "nearest_rows", "gaussian_pc", "nearest_prompt"]
    names += ["zoo_mean", "shuffled_prompt", "chance"]
    body = [(name.replace("_", " "), spread([r[name] for r in rows])) for name in names]
    plain = {
        "nearest-distance ratio": "nearest_distance_ratio",
        "max wrong-IoU, generated": "wrong_iou_generated",
        "max wrong-IoU, zoo against itself": "wrong_iou_zoo",
        "root-mean-square ratio": "rms_ratio",
    }
    facts = [(label, spread([r[key] for r in rows], 2, 1)) for label, key in plain.items()]
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
    rows = [
        (a["name"], a["aim"], _value(a), "yes" if a["met"] else "**no**") for a in read_result(name)["aims"]
    ]
    return markdown(("aim", "wanted", "reached", "met"), rows)


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


def barriers() -> str:
    rows = [
        (r["network"], *(f"{r['mean'][way]:.3f}" for way in ("unaligned", "identity", "auto", "frank_wolfe")))
        for r in read_result("alignment")["rows"]
        if r["table"] == "barriers"
    ]
    head = ("mean loss barrier of 6 trained pairs", "unaligned", "identity start", "default", "Frank–Wolfe")
    return markdown(head, rows)


def alignment_aims() -> str:
    return aims("alignment") + f"\n\n{origin(read_result('alignment'))}"


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


def _with_aims(table: str, name: str) -> str:
    return f"{table}\n\n{aims(name)}\n\n{origin(read_result(name))}"


def tina() -> str:
    result = read_result("tina")
    rows = [r for r in result["rows"] if r["table"] == "splits" and r["zoo"] == "heads"]
    splits = list(dict.fromkeys(r["split"] for r in rows))

    def line(label: str, variant: str, key: str) -> tuple[str, ...]:
        found = [[r[key] for r in rows if (r["variant"], r["split"]) == (variant, s)] for s in splits]
        return (label, *(spread(values) if values else "" for values in found))

    ours = "weightflow"
    others = [v for v in dict.fromkeys(r["variant"] for r in rows) if v != ours]
    names = ("zoo_mean_rows", "nearest_rows", "ridge_rows", "nearest_class", "shuffled_prompt", "random_text")
    body = [line(ours, ours, "accuracy"), *(line(v, v, "accuracy") for v in others)]
    body.append(line("trained on the same task", ours, "trained"))
    body += [line(name.replace("_", " "), ours, name) for name in (*names, "chance")]
    head = ("linear heads, CIFAR-100, accuracy in %", *(s.replace("_", " ") for s in splits))
    return markdown(head, body) + f"\n\n{origin(result)}"


def tina_aims() -> str:
    return aims("tina")


TABLES: dict[str, Callable[[], str]] = {
    "fusion": fusion,
    "enhancement": enhancement,
    "transfer": transfer,
    "tina": tina,
    "tina aims": tina_aims,
    "demo": demo,
    "solvers": solvers,
    "demo aims": demo_aims,
    "ablations": ablations,
    "symmetries": symmetries,
    "barriers": barriers,
    "alignment aims": alignment_aims,
}


def filled(text: str) -> str:
    """The text with every table between its marks written again."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w ]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit("README.md is out of date; run python -m benchmarks.readme" if filled(text) != text else 0)
    atomic_write(README, filled(text))


if __name__ == "__main__":
    main()
