"""Which examples are for training, validation and test.

Published data sets are cut by a seed, each class alike. Data of a user grow: there an example's part follows from the
hash of its content alone, so that no example changes its part when others come or go, and copies of one example
stay together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

KEY_BYTES = 8


def content_key(content: bytes | memoryview) -> int:
    """A number from 0 to 2^64 that depends on the content alone, evenly spread."""
    return int.from_bytes(hashlib.sha256(content).digest()[:KEY_BYTES], "big")


def content_keys(inputs: np.ndarray) -> np.ndarray:
    """The key of each example (examples, *shape)."""
    return np.array([content_key(np.ascontiguousarray(row).data) for row in inputs], dtype=np.uint64)


def parts_by_content(labels: np.ndarray, keys: np.ndarray, fractions: Sequence[float]) -> list[np.ndarray]:
    """Disjoint index sets that cover `labels`; part i has about `fractions[i]` of the examples, the last what is left.

    A part depends on an example's key alone, as long as its class has an example in each part. Where it has none in a
    part before the last, the smallest key that is left goes there. So no example of the last part, which networks
    are trained on, changes its part when others are added, and none of the first goes to the last with one more.
    (No rule that sees only the present examples gives each small class a first part that never shrinks.)
    A class of as few different examples as there are cuts is cut by number.
    """
    place = keys.astype(np.float64) / 2.0 ** (8 * KEY_BYTES)
    part = np.searchsorted(np.cumsum(fractions), place, side="right")
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        different, rank = np.unique(keys[own], return_inverse=True)
        if len(different) <= len(fractions):  # next to nothing but copies
            cuts = np.clip(np.round(np.cumsum(fractions) * len(own)), np.arange(1, len(fractions) + 1), None)
            part[own] = np.searchsorted(cuts, np.arange(len(own)), side="right")
            continue
        ends, end = [], 0
        for index in range(len(fractions)):
            end = max(end + 1, len(np.unique(keys[own[part[own] <= index]])))
            ends.append(end)
        part[own] = np.searchsorted(ends, rank, side="right")
    return [np.flatnonzero(part == index) for index in range(len(fractions) + 1)]


def stratified_parts(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Disjoint index sets that cover `labels`, each with the same share of every class.

    Part i gets `fractions[i]` of each class, rounded; the last part takes what is left.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(fractions) * len(rows)).astype(int)
        for part, chunk in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def fingerprint(class_names: Sequence[str], parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A hash of the class names and, for each part, of the examples' keys and labels, in whatever order they come."""
    found = hashlib.sha256(json.dumps(list(class_names)).encode())
    for name, (keys, labels) in sorted(parts.items()):
        rows = np.stack([keys.astype(np.uint64), labels.astype(np.uint64)], axis=1)
        found.update(name.encode() + rows[np.lexsort(rows.T)].tobytes())
    return found.hexdigest()[:16]
