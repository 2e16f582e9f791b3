r"""Nested groups, solved exactly: between heads, then within each head.

Which channels of head h fit which of head h' best does not depend on the other heads. So every pair
(h, h') gets its own inner assignments, whose value becomes that pair's score in the assignment of the
heads; the inner permutations of the chosen pairs are kept. Query-key and value-output channels are
groups of their own. Where one tensor involves two inner groups at once (query heads and channels
within a key-value group), the inner groups of a pair take turns until none gains.

Where the order of heads is given, as TransFusion finds it (`canon.matching.head_spectra`), only those pairs are solved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from canon.matching import linear_assignment
from canon.matching.gram import Family, Grams
from canon.spec import PermutationSpec

TURNS = 50


def solve_family(
    spec: PermutationSpec, family: Family, grams: Grams, outer: Tensor | None = None
) -> dict[str, Tensor]:
    """The permutation of a family's groups that maximises the score in `grams`; `outer` is kept where given.

    Returns (networks, size) for the outer group and (networks, outer size, size) for each inner one.
    Exact while no Gram matrix involves two inner groups; a local optimum of each pair otherwise.
    """
    if not family.inners:
        return {family.outer: linear_assignment.solve_many(grams[()])}
    pairs = {names: _by_pair(spec, family, names, gram) for names, gram in grams.items()}
    if outer is not None:
        pairs = {names: _given_pairs(pair, outer) for names, pair in pairs.items()}
    heads = next(iter(pairs.values())).shape[:3]
    inner: dict[str, Tensor] = {}
    # First the groups that have a Gram matrix of their own, then those that have matrices with others only.
    for name in sorted(family.inners, key=lambda name: (name,) not in pairs):
        seen = {names: pair for names, pair in pairs.items() if inner.keys() | {name} >= set(names)}
        still = torch.arange(spec.groups[name].size).expand(*heads, -1)
        inner[name] = _solve_inner(seen, name, inner, otherwise=still)
    if any(len(names) > 1 for names in pairs):
        _take_turns(pairs, inner)
    if outer is not None:
        return {family.outer: outer, **{name: q[:, :, 0] for name, q in inner.items()}}
    value = sum((_contract(pair, names, inner) for names, pair in pairs.items()), torch.zeros(()))
    outer = linear_assignment.solve_many(value)
    chosen = {name: torch.take_along_dim(q, outer[:, :, None, None], 2)[:, :, 0] for name, q in inner.items()}
    return {family.outer: outer, **chosen}


def solve_families(
    spec: PermutationSpec, problems: Sequence[tuple[Family, Grams, Tensor | None]]
) -> list[dict[str, Tensor]]:
    """`solve_family` for several families: plain ones side by side, as pairs of heads are in any case."""
    plain = [(family, grams[()]) for family, grams, _ in problems if not family.inners]
    solved = zip(plain, linear_assignment.solve_side_by_side([gram for _, gram in plain]), strict=True)
    found = {family: {family.outer: outer} for (family, _), outer in solved}
    return [found.get(f) or solve_family(spec, f, grams, outer) for f, grams, outer in problems]


def _by_pair(spec: PermutationSpec, family: Family, names: tuple[str, ...], gram: Tensor) -> Tensor:
    """(networks, units, units) -> (networks, h, h', *units of h, *units of h')."""
    sizes = [spec.groups[name].size for name in (family.outer, *names)]
    opened = gram.unflatten(2, sizes).unflatten(1, sizes)
    return opened.movedim(1 + len(sizes), 2)


def _given_pairs(pair: Tensor, outer: Tensor) -> Tensor:
    """Of the pairs (h, h') those that `outer` names: (networks, h, 1, ...)."""
    index = outer.to(pair.device).reshape(*outer.shape, *[1] * (pair.dim() - 2))
    return torch.take_along_dim(pair, index, 2)


def _solve_inner(pairs: Grams, name: str, inner: dict[str, Tensor], otherwise: Tensor) -> Tensor:
    """Best relabelling of inner group `name` for every pair, the others held: (networks, h, h', size)."""
    others = {other: q for other, q in inner.items() if other != name}
    scores = [_contract(pair, names, others) for names, pair in pairs.items() if name in names]
    if not scores:
        return otherwise
    score = torch.stack(scores).sum(0)
    return linear_assignment.solve_many(score.flatten(0, 2)).unflatten(0, score.shape[:3])


def _contract(gram: Tensor, names: tuple[str, ...], inner: dict[str, Tensor]) -> Tensor:
    """Sum a pair's Gram matrix over the inner groups whose relabelling is given."""
    left = list(names)
    for name in names:
        if name not in inner:
            continue
        ours, theirs = 3 + left.index(name), 3 + len(left) + left.index(name)
        gram = gram.movedim((ours, theirs), (-2, -1))
        index = inner[name].reshape(*inner[name].shape[:3], *[1] * (gram.dim() - 5), -1, 1)
        gram = torch.take_along_dim(gram, index, -1).sum((-1, -2))
        left.remove(name)
    return gram


def _take_turns(pairs: Grams, inner: dict[str, Tensor]) -> None:
    for _ in range(TURNS):
        before = {name: q.clone() for name, q in inner.items()}
        for name in inner:
            inner[name] = _solve_inner(pairs, name, inner, otherwise=inner[name])
        if all(torch.equal(before[name], q) for name, q in inner.items()):
            return
