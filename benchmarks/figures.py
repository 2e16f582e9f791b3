"""Draw the README's pictures from the results.

python -m benchmarks.figures
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.common import read_result

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
NAMES = {
    "ours": "generated (narrow)",
    "deepweightflow": "generated (DeepWeightFlow)",
    "one centre and noise": "one network and noise",
    "noise_0.01": "training networks + noise",
    "noise_as_wide_as_the_zoo": "noise as wide as the zoo",
    "soup_16": "soup of 16",
    "interpolation": "midpoints",
    "gaussian": "Gaussian",
    "gaussian_pc": "Gaussian in components",
    "zoo_mean": "mean of the zoo",
}
ASIDE = {
    "zoo_mean": (7, 2),
    "soup_16": (7, -11),
    "interpolation": (-52, 3),
    "noise_0.01": (7, 5),
    "deepweightflow": (-4, -17),
    "gaussian_pc": (-128, -3),
}


def novelty() -> None:
    """Accuracy over the zoo's against the distance to the nearest training network, 100 Fashion-MNIST MLPs."""
    found = defaultdict(list)
    for row in read_result("memorization")["rows"]:
        if row["networks_in_zoo"] == 100 and row["generator"] in NAMES:
            found[row["generator"]].append((row["nearest_distance_ratio"], 100 * row["share_of_trained"]))
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, label in NAMES.items():
        x, y = np.mean(found[name], axis=0)
        ours = label.startswith("generated")
        axes.scatter(x, y, s=60 if ours else 25, color="tab:orange" if ours else "tab:gray", zorder=3)
        axes.annotate(
            label,
            (x, y),
            ASIDE.get(name, (7, -3)),
            textcoords="offset points",
            fontsize=9,
            weight="bold" if ours else None,
        )
    axes.axvline(1, color="tab:gray", lw=0.8, ls=":")
    axes.axhline(100, color="tab:gray", lw=0.8, ls=":")
    axes.set(
        xlim=(0, 1.45),
        ylim=(65, 104),
        xlabel="distance to the nearest training network (0: a copy; 1: as new as a new one)",
        ylabel="accuracy, % of the zoo's",
        title="100 MLPs on Fashion-MNIST, without words",
    )
    axes.grid(alpha=0.2)
    FIGURES.mkdir(parents=True, exist_ok=True)
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "novelty"}
    ):  # text stays text, ids stay the same
        figure.savefig(FIGURES / "novelty.svg", metadata={"Date": None})


def main() -> None:
    novelty()


if __name__ == "__main__":
    main()
