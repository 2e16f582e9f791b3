"""Fine-tuning curves of generated networks as initializations."""

from __future__ import annotations

from typing import Any

from weightflow.evaluation.baselines import Inapplicable, answer
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import Spread
from weightflow.evaluation.fine_tuning import INITIALISATIONS, curve, zoo_recipe
from weightflow.report.generated import Generated

STEPS = (0, 1, 5, 20)
BESIDE = ("zoo_mean_rows", "nearest_rows")


def starts(context: EvaluationContext, made: Generated, seed: int, most: int = 40) -> dict[str, Any]:
    """Test accuracy after `STEPS` steps from generated networks, initialisations and two baselines."""
    architecture, tasks = context.zoo.architecture, made.tasks[:most]
    seeds = [seed + i for i in range(len(tasks))]
    recipe = zoo_recipe(context.zoo)
    begin = {"generated": {name: tensor[:most] for name, tensor in made.state.items()}}
    begin |= {name: make(architecture, tasks, seeds) for name, make in INITIALISATIONS.items()}
    found: dict[str, Any] = {
        "steps": list(STEPS),
        "networks": len(tasks),
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch_size,
        "trained": Spread.of(made.trained.accuracy[:most]).to_dict(),
        "curves": {},
    }
    for name in BESIDE:
        try:
            begin[name] = answer(context, name, tasks, seed)
        except Inapplicable as reason:
            found["curves"][name], found["curves"][f"{name}_reason"] = None, str(reason)
    for name, state in begin.items():
        accuracy = curve(architecture, state, tasks, seeds, recipe, STEPS)
        found["curves"][name] = [Spread.of(accuracy[steps]).to_dict() for steps in STEPS]
    return found
