r"""Discrete sites summed out of a model: $\log \sum_y p(x, y, z)$ from one run with all their values side by side.

A model site marked ``infer={"enumerate": "parallel"}`` that the guide does not draw takes all of its values in one run,
on an axis of its own left of all plates (Pyro's ``EnumMessenger``). The log densities that depend on such axes are the
factors of a sum (:mod:`ppvae.core.elimination`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from .elimination import Elimination, Factor
from .errors import PairError, try_one_of
from .wrappers import entries_present

PARTICLES = "_particles"
"""The plate of particles, which the waist adds."""

Sites = Mapping[str, Mapping[str, Any]]


class SummedOut:
    r"""What the enumerated sites of one run of a model add up to.

    Args:
        sites: the sample sites of an enumerated run.
        log_probs: their log densities, neither scaled nor masked.
        data_plate: the name of the plate over data.
        batch: B.
        particles: L, axis 0 of the results.
        stand_in: what an entry that is masked out contributes. None for a uniform probability, so that its sum is one
            (Pyro's zero would count log K for each); a number for all mass on that value, to see whether anything
            depends on it.

    Raises:
        PairError: what depends on an enumerated site has an axis that is no plate's, or stands outside of its plates.
    """

    def __init__(
        self,
        sites: Sites,
        log_probs: Mapping[str, Tensor],
        data_plate: str | None,
        batch: int,
        particles: int,
        stand_in: int | None = None,
    ) -> None:
        self.sites, self.particles, self.batch = sites, particles, batch
        self.variables = {s["infer"]["_enumerate_symbol"]: name for name, s in sites.items() if is_enumerated(s)}
        self._like = log_probs[next(iter(self.variables.values()))]
        self._sizes: dict[str, int] = {}
        plates: dict[str, str] = {}
        for site in sites.values():
            for frame in site["cond_indep_stack"]:
                if frame.vectorized:
                    symbol = plates[frame.name] = site["infer"]["_dim_to_symbol"][frame.dim]
                    self._sizes[symbol] = int(frame.size)
            if is_enumerated(site):
                self._sizes[site["infer"]["_enumerate_symbol"]] = _num_values(site)
        kept = tuple(plates[name] for name in (PARTICLES, data_plate) if name in plates)
        self._data_symbol = plates.get(data_plate or "")
        self._elimination = Elimination(self._sizes, self.variables, kept)
        self._factors: dict[str, Factor] = {}
        for name, site in sites.items():
            if is_enumerated(site):
                self._factors[name] = self._factor(site, proper_log_prob(log_probs[name], site, stand_in))
            elif self._dims_of(site, log_probs[name]):
                self._factors[name] = self._factor(site, scale_and_mask(log_probs[name], 1.0, site["mask"]))
        self._check_plates()

    @property
    def names(self) -> frozenset[str]:
        """The enumerated sites, and those whose densities depend on them."""
        return frozenset(self._factors)

    @property
    def enumerated(self) -> frozenset[str]:
        """The sites that are summed out."""
        return frozenset(self.variables.values())

    def log_sum(self, names: Container[str]) -> Tensor:
        """Log of the sum over all enumerated sites, of the product of their own densities and those of these sites.

        Returns:
            [L, B], nats.
        """
        return self._per_datum(self._elimination.total(self._chosen(names))[0])

    def sample(self, names: Container[str]) -> dict[str, Factor]:
        """A joint draw of the enumerated sites given the other densities of these sites: which value, by symbol."""
        _, steps = self._elimination.total(self._chosen(names))
        plates_of = {symbol: self._factors[name].plates for symbol, name in self.variables.items()}
        index = self._elimination.draw(steps, plates_of)
        for symbol, plates in plates_of.items():  # a single value is no axis, and nothing to draw
            zero = torch.zeros((), dtype=torch.long, device=self._like.device)
            index.setdefault(symbol, Factor(zero, (), plates))
        return index

    def values(self, index: Mapping[str, Factor]) -> dict[str, Tensor]:
        """Enumerated site to its value at an index, with Pyro's axes of batch and event."""
        values = {}
        for symbol, name in self.variables.items():
            site = self.sites[name]
            support = site["value"].reshape(-1, *site["fn"].event_shape)
            values[name] = support[self._placed(index[symbol], site)]
        return values

    def log_joint_at(self, index: Mapping[str, Factor]) -> Tensor:
        """The log of the product that is summed, at one value of each site, [L, B], nats."""
        terms = [self._elimination.over_kept(factor.at(index)) for factor in self._factors.values()]
        return self._per_datum(self._elimination.product(terms))

    def probabilities(self, name: str, names: Container[str]) -> Tensor:
        """The posterior probability of each value of an enumerated site, [K, *batch] with Pyro's axes.

        Args:
            name: the site.
            names: the sites whose densities count beside those of the enumerated sites.
        """
        site = self.sites[name]
        symbol = site["infer"]["_enumerate_symbol"]
        probability = self._placed(self._posterior(site, (symbol,), names), site)
        return probability.reshape(self._sizes[symbol], *_batch(site))

    def average(self, site: Mapping[str, Any], value: Tensor, event_dim: int, names: Container[str]) -> Tensor:
        """The posterior mean of a value that was computed at a site for every value of the variables.

        Args:
            site: where it was computed.
            value: Pyro's [*enumerated, *batch, *event].
            event_dim: how many axes on the right are of one event.
            names: the sites whose densities count.

        Returns:
            [*batch, *event].
        """
        dims = self._dims_of(site, value, event_dim)
        if not dims:
            return value
        weight = self._placed(self._posterior(site, dims, names), site)
        mean = (weight.reshape(*weight.shape, *(1,) * event_dim) * value).sum(
            [_places(site)[dim] - event_dim for dim in dims], keepdim=True
        )
        return mean.reshape(mean.shape[mean.dim() - len(_batch(site)) - event_dim :])

    # --- below: from sites to factors and back ---------------------------------------------------------------------

    def _dims_of(self, site: Mapping[str, Any], value: Tensor, event_dim: int = 0) -> tuple[str, ...]:
        """Which variables a value computed at this site depends on."""
        symbols, rank = site["infer"]["_dim_to_symbol"], value.dim() - event_dim
        return tuple(
            symbols[axis - rank]
            for axis in range(rank)
            if value.shape[axis] > 1 and symbols.get(axis - rank) in self.variables
        )

    def _factor(self, site: Mapping[str, Any], log_prob: Tensor) -> Factor:
        symbols: Mapping[int, str] = site["infer"]["_dim_to_symbol"]
        places = {axis - log_prob.dim(): size for axis, size in enumerate(log_prob.shape) if size > 1}
        for place, size in places.items():
            if place not in symbols:
                raise PairError(
                    f"site {site['name']!r} depends on a site that is summed out and has a batch axis of {size} "
                    "entries in no plate: expected every axis to be a plate's or an event's"
                    + try_one_of(f'with pyro.plate("...", {size}): around it', ".to_event(1)")
                )
        plates = frozenset(symbols[frame.dim] for frame in site["cond_indep_stack"] if frame.vectorized)
        return Factor(log_prob.squeeze(), tuple(symbols[place] for place in places), plates)

    def _check_plates(self) -> None:
        """What depends on an enumerated site stands in all of its plates: elsewhere it would need every combination.

        The axes of these plates are of length one in an enumerated value, so that a sum over them shows nothing.
        """
        for factor in self._factors.values():
            for symbol in factor.dims:
                if symbol in self.variables:
                    outside = self._factors[self.variables[symbol]].plates - factor.plates
                    if outside:
                        raise self._elimination.intractable(outside, [symbol])

    def _chosen(self, names: Container[str]) -> list[Factor]:
        return [f for name, f in self._factors.items() if name in self.enumerated or name in names]

    def _posterior(self, site: Mapping[str, Any], dims: tuple[str, ...], names: Container[str]) -> Factor:
        r"""The posterior probability of some variables, for every entry of a site's plates.

        It is the derivative of the log of the sum with respect to a factor over these variables that is zero.
        """
        plates = [site["infer"]["_dim_to_symbol"][f.dim] for f in site["cond_indep_stack"] if f.vectorized]
        dims = (*dims, *plates)
        with torch.enable_grad():
            probe = self._like.new_zeros([self._sizes[dim] for dim in dims]).requires_grad_()
            total, _ = self._elimination.total([*self._chosen(names), Factor(probe, dims, frozenset(plates))])
            (probability,) = torch.autograd.grad(self._per_datum(total).sum(), [probe])
        return Factor(probability.detach(), dims, frozenset(plates))

    def _placed(self, factor: Factor, site: Mapping[str, Any]) -> Tensor:
        """A factor's tensor with Pyro's batch axes at a site, of length one where it has none."""
        places = _places(site)
        order = tuple(sorted(factor.dims, key=lambda dim: places[dim]))
        shape = [1] * -min((places[dim] for dim in order), default=0)
        for dim in order:
            shape[places[dim]] = self._sizes[dim]
        return factor.aligned(order).reshape(shape)

    def _per_datum(self, total: Factor) -> Tensor:
        """[L, B]."""
        kept = self._elimination.kept
        value = total.aligned(kept)
        if kept[-1:] != (self._data_symbol,):  # no plate over data
            value = value.unsqueeze(-1)
        return value.expand(self.particles, self.batch)


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site of a run was run once for each of its values."""
    return "_enumerate_symbol" in site["infer"]


def _num_values(site: Mapping[str, Any]) -> int:
    return int(site["value"].shape[site["infer"]["_enumerate_dim"] - site["fn"].event_dim])


def _places(site: Mapping[str, Any]) -> dict[str, int]:
    """Where the axis of a symbol is, counted from the right of the batch axes."""
    return {symbol: dim for dim, symbol in site["infer"]["_dim_to_symbol"].items()}


def _batch(site: Mapping[str, Any]) -> tuple[int, ...]:
    """The batch shape of a site as its plates say, without the axes of variables."""
    sizes = {f.dim: int(f.size) for f in site["cond_indep_stack"] if f.vectorized}
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))


def mask_of(site: Mapping[str, Any]) -> Tensor | None:
    """Which entries of an enumerated site count, over its batch axes; None where all do."""
    present = entries_present(site)
    return None if present is None else present.reshape(present.shape[: present.dim() - site["fn"].event_dim])


def proper_log_prob(log_prob: Tensor, site: Mapping[str, Any], stand_in: int | None = None) -> Tensor:
    """The log probability of an enumerated site, which sums to one where it is masked out as well."""
    present, size = mask_of(site), _num_values(site)
    if present is None:
        return log_prob
    if stand_in is None:
        return torch.where(present, log_prob, -math.log(size))
    places = torch.arange(size, device=log_prob.device).reshape(-1, *(1,) * (-1 - site["infer"]["_enumerate_dim"]))
    return torch.where(present, log_prob, torch.where(places == stand_in, 0.0, -math.inf))
