"""Sampling speed."""

from __future__ import annotations

import time
from typing import Any

from weightflow.evaluation.context import EvaluationContext
from weightflow.generator.decode import decode
from weightflow.text import Prompt


def speed(context: EvaluationContext, networks: int = 100) -> dict[str, Any]:
    """Seconds for a batch of networks with the report's own solver, after one batch to warm up."""
    flow, config = context.flow, context.config
    prompts = [Prompt(context.tasks[i % len(context.tasks)].classes) for i in range(networks)]
    words, seeds = flow.prompts(prompts), range(networks)
    flow.tokens(words, flow.noise(seeds, words.present), config, seeds=seeds)  # warm-up
    begin = time.perf_counter()
    z = flow.tokens(words, flow.noise(seeds, words.present), config, seeds=seeds)
    middle = time.perf_counter()
    decode(flow.coordinates, z, words)
    end = time.perf_counter()
    return {
        "networks": networks,
        "sample_seconds": round(middle - begin, 6),
        "networks_per_second": round(networks / (end - begin), 3),
        "evaluations_per_network": config.evaluations,
        **({} if config.evaluations else {"evaluations_per_network_reason": "the solver adapts"}),
        "decode_seconds": round(end - middle, 6),
    }
