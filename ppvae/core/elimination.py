r"""Sums of products of factors over plates, one variable at a time, in log space and exact.

$$\log \sum_y \prod_f \psi_f(y_f)$$

Each factor is a tensor of $\log \psi_f$ whose axes have names: of variables, which are summed over, and of plates,
which are multiplied over or kept (tensor variable elimination: Obermeyer et al. 2019, arXiv 1902.03210). A chain of T
variables with K values costs $T K^2$, and a variable inside a plate is summed inside it. Sums are ``logsumexp`` over
whole products: Pyro's contraction shifts each factor by its own maximum and multiplies exponentials, which underflows
where two sharp factors meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .bounds import in_words, memory_limit
from .errors import PairError, try_one_of

_LARGE = 10**8  # elements of a product above which the memory is asked
_MOST_AXES = 60  # of a tensor, of PyTorch's 64


class Factor(NamedTuple):
    """A log density over some axes, each named by a symbol; an axis that is absent is broadcast.

    Attributes:
        tensor: in nats.
        dims: the symbol of each of its axes.
        plates: the plates that it stands in, their axes present or not.
    """

    tensor: Tensor
    dims: tuple[str, ...]
    plates: frozenset[str]

    def aligned(self, dims: tuple[str, ...]) -> Tensor:
        """Its tensor with these axes in this order, of length one where it does not vary."""
        present = [d for d in dims if d in self.dims]
        if tuple(present) == self.dims == dims:
            return self.tensor
        tensor = self.tensor.permute([self.dims.index(d) for d in present])
        return tensor[tuple(slice(None) if d in self.dims else None for d in dims)]

    def at(self, index: Mapping[str, Factor]) -> Factor:
        """The factor at one value of some of its variables, which are chosen for every entry of their plates."""
        factor = self
        for dim in [d for d in self.dims if d in index]:
            chosen = index[dim]
            others = tuple(d for d in factor.dims if d != dim)
            dims = tuple(dict.fromkeys((*others, *chosen.dims)))
            values, places = factor.aligned((dim, *dims)), chosen.aligned(dims).unsqueeze(0)
            shape = torch.broadcast_shapes(values.shape[1:], places.shape[1:])
            taken = values.expand(-1, *shape).gather(0, places.expand(1, *shape)).squeeze(0)
            factor = Factor(taken, dims, factor.plates | chosen.plates)
        return factor


class Step(NamedTuple):
    """One variable summed out of the product of the factors that have it."""

    variable: str
    product: Factor


class Elimination:
    """How sums over variables and products over plates are taken.

    Args:
        sizes: the length of each axis, by symbol.
        variables: symbol to the site that messages name, in the order of the program.
        kept: the plates that a result has axes for.
    """

    def __init__(self, sizes: Mapping[str, int], variables: Mapping[str, str], kept: tuple[str, ...]) -> None:
        self.sizes, self.variables, self.kept = sizes, variables, kept
        self._order = {symbol: place for place, symbol in enumerate(variables)}

    def total(self, factors: Iterable[Factor]) -> tuple[Factor, list[Step]]:
        """The log of the sum over all variables, over the plates that are kept; and the steps that led there.

        Raises:
            PairError: variables that are coupled across plates, or a product that does not fit into memory.
        """
        pending = list(factors)
        variables = {dim for factor in pending for dim in factor.dims if dim in self.variables}
        plates_of = {
            variable: frozenset.intersection(*(f.plates for f in pending if variable in f.dims))
            for variable in variables
        }
        steps: list[Step] = []
        done: list[Factor] = []
        while pending:  # deepest plates first
            leaf = max((f.plates for f in pending), key=lambda plates: (len(plates), sorted(plates)))
            here = [f for f in pending if f.plates == leaf]
            pending = [f for f in pending if f.plates != leaf]
            for terms, own in _components(here, {v for v in variables if plates_of[v] == leaf}):
                term = self._sum_out(terms, own, steps)
                coupled = [dim for dim in term.dims if dim in self.variables]
                if not coupled:
                    done.append(self.over_kept(term))
                    continue
                parent = frozenset.union(*(plates_of[v] for v in coupled))
                if parent == leaf:
                    raise self.intractable(leaf - set(self.kept), coupled)
                pending.append(self._multiply_out(term, leaf - parent))
        return self.product(done), steps

    def draw(self, steps: list[Step], plates_of: Mapping[str, frozenset[str]]) -> dict[str, Factor]:
        """A joint draw of the variables in proportion to what was summed, one for every entry of their plates.

        Args:
            steps: of :meth:`total`.
            plates_of: the plates of each variable.

        Returns:
            by variable which value, over its plates.
        """
        index: dict[str, Factor] = {}
        for step in reversed(steps):  # what was summed out last depends on nothing that is still to be drawn
            plates = plates_of[step.variable]
            dims = (step.variable, *sorted(plates))
            logits = step.product.at(index).aligned(dims).expand([self.sizes[dim] for dim in dims])
            noise = torch.rand_like(logits).clamp_min(torch.finfo(logits.dtype).tiny)
            index[step.variable] = Factor((logits - (-noise.log()).log()).argmax(0), dims[1:], plates)  # Gumbel's trick
        return index

    def over_kept(self, term: Factor) -> Factor:
        """The product over the entries of all plates that are not kept."""
        return self._multiply_out(term, term.plates - set(self.kept))

    def product(self, factors: list[Factor]) -> Factor:
        """The product of some factors.

        Raises:
            PairError: it does not fit into memory.
        """
        if len(factors) == 1:
            return factors[0]
        seen = dict.fromkeys(d for f in factors for d in f.dims)
        dims = (*(d for d in seen if d in self.variables), *(d for d in seen if d not in self.variables))
        self._check_size(dims, factors[0].tensor)
        total = factors[0].aligned(dims)
        for factor in factors[1:]:
            total = total + factor.aligned(dims)
        return Factor(total, dims, frozenset.union(*(f.plates for f in factors)))

    def intractable(self, plates: frozenset[str], variables: list[str]) -> PairError:
        """The error about variables that are coupled across the entries of some plates."""
        values = math.prod(self.sizes[v] for v in variables)
        entries = math.prod(self.sizes[plate] for plate in plates)
        return PairError(
            f"{_sites([self.variables[v] for v in variables])}: what depends on it stands outside of a plate of "
            f"{entries} entries that it stands in, or in another one, so that its sum has {values}^{entries} terms"
            + try_one_of(
                "what depends on it inside the same plates, and nothing summed over their axes",
                "a site for the guide to draw, instead of a sum",
            )
        )

    def _sum_out(self, factors: list[Factor], variables: set[str], steps: list[Step]) -> Factor:
        """Sum these variables out, the cheapest first and of equals the last: a chain goes backwards in time."""
        remaining = set(variables)
        cost: dict[str, int] = {}
        while remaining:
            for variable in remaining - cost.keys():
                joint = {d for f in factors if variable in f.dims for d in f.dims}
                cost[variable] = math.prod(self.sizes[d] for d in joint)
            variable = min(remaining, key=lambda v: (cost[v], -self._order[v]))
            remaining.discard(variable)
            product = self.product([f for f in factors if variable in f.dims])
            steps.append(Step(variable, product))
            dims = tuple(d for d in product.dims if d != variable)
            summed = Factor(product.tensor.logsumexp(product.dims.index(variable)), dims, product.plates)
            factors = [*(f for f in factors if variable not in f.dims), summed]
            for other in dims:
                cost.pop(other, None)
        return self.product(factors)

    def _multiply_out(self, term: Factor, plates: frozenset[str]) -> Factor:
        """The product over the entries of plates: a sum of logs, where one that does not vary counts for each."""
        tensor, dims = term.tensor, list(term.dims)
        for plate in sorted(plates):
            if plate in dims:
                tensor = tensor.sum(dims.index(plate))
                dims.remove(plate)
            else:
                tensor = tensor * self.sizes[plate]
        return Factor(tensor, tuple(dims), term.plates - plates)

    def _check_size(self, dims: tuple[str, ...], like: Tensor) -> None:
        elements = math.prod(self.sizes[d] for d in dims)
        size = elements * like.element_size()
        if len(dims) <= _MOST_AXES and (elements <= _LARGE or size <= memory_limit()):
            return
        variables = [d for d in dims if d in self.variables]
        terms = math.prod(self.sizes[d] for d in variables)
        raise PairError(
            f"{_sites([self.variables[d] for d in variables])}: expected a sum that fits into memory, found {terms:,} "
            f"terms at once for each datum ({in_words(size)})"
            + try_one_of(
                "for t in pyro.markov(range(T)): around a chain, so that its sites are summed one by one",
                "a site for the guide to draw, instead of a sum",
            )
        )


def _components(factors: list[Factor], variables: set[str]) -> list[tuple[list[Factor], set[str]]]:
    """Factors that are connected by these variables."""
    groups: list[tuple[list[Factor], set[str]]] = []
    for factor in factors:
        own = variables.intersection(factor.dims)
        together, apart = [g for g in groups if g[1] & own], [g for g in groups if not g[1] & own]
        joined = [f for g in together for f in g[0]] + [factor]
        groups = [*apart, (joined, own.union(*(g[1] for g in together)))]
    return groups


def _sites(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    if len(quoted) > 4:
        quoted = [*quoted[:2], "...", quoted[-1]]
    return f"latent site{'s' * (len(quoted) > 1)} {', '.join(quoted)}"
