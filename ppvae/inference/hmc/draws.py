"""The result of posterior sampling: draws by site, statistics of the sampler, diagnostics, and their export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .chains import ChainOutcome
from .diagnostics import ess, rhat
from ...core import Data, ModelGuidePair, Unconstrained, log_joint, predict, structure
from ...core.modes import evaluation_mode
from ...notebook import curves, number, panel

BLOCK = 2**24  # draws times numbers of x in one block of work
_QUICK, _TRACES = 2**18, 8  # numbers whose R-hat takes no time, chains of a picture


class Groups(NamedTuple):
    """Draws as plain arrays, ready for ArviZ or for a file.

    Attributes:
        groups: group to variable to array, by ArviZ's names.
        dims: group to variable to the names of its axes.
        coords: name of an axis to its coordinates.
        attrs: library and version.
    """

    groups: dict[str, dict[str, np.ndarray]]
    dims: dict[str, dict[str, list[str]]]
    coords: dict[str, np.ndarray]
    attrs: dict[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorDraws:
    """Draws from p(z | x) of every datum.

    Attributes:
        unconstrained: positions u, [chain, draw, datum, d].
        stats: name to [chain, draw, datum]: ``acceptance`` (probability), ``energy`` and ``log_density`` (nats;
            the latter of u, Jacobian included), ``step_size``, ``diverging`` (bool), ``num_leapfrog``.
        outcome: how every chain ended, codes of :class:`~.chains.ChainOutcome`, [chain, datum].
        inverse_mass: the frozen diagonal, an estimate of the variances of u, [datum, d].
        coordinates: the map from u to latents.
        pair: the pair of this posterior, its global sites at the values of ``global_sites``.
        x: the data, [datum, *event].
        seed: of the run.
    """

    unconstrained: Tensor
    stats: dict[str, Tensor]
    outcome: Tensor
    inverse_mass: Tensor
    coordinates: Unconstrained
    pair: ModelGuidePair
    x: Data
    seed: int

    def __repr__(self) -> str:
        chains, draws, data, dim = self.unconstrained.shape
        return f"PosteriorDraws({chains} chains x {draws} draws x {data} data, d = {dim}; {self.summary()})"

    def _repr_html_(self) -> str:
        """For notebooks: how the sampler did, and the trace of the coordinate on which chains agree least.

        R-hat is of the unconstrained coordinates of the first data, as many as take no time.
        """
        chains, draws, data, dim = self.unconstrained.shape
        facts = {"draws": f"{chains} chains × {draws} draws", "data": f"{data}, with {dim} coordinates each"}
        facts["acceptance"] = number(self._mean_acceptance())
        facts["divergences"] = str(int(self.stats["diverging"].sum()))
        few = self.unconstrained[:, :, : max(1, _QUICK // max(1, chains * draws * dim))]
        picture = ""
        if few.numel():
            values = rhat(few)
            known = ~values.isnan()
            if bool(known.any()):
                where = "" if few.shape[2] == data else f" (of the first {few.shape[2]} data)"
                facts["worst R-hat"] = f"{number(float(values[known].max()), 3)}{where}"
            datum, coordinate = divmod(int(values.nan_to_num(-1.0).argmax()), dim)
            lines = {f"chain {i + 1}": line.tolist() for i, line in enumerate(few[:_TRACES, :, datum, coordinate])}
            picture = curves(lines, label=f"trace of datum {datum}, coordinate {coordinate}, draw by draw")
        return panel("Posterior draws", facts, picture, self._failures())

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Local latent site to its draws, [chain, draw, datum, *event]."""
        return self.coordinates.constrain(self.unconstrained)[0]

    @property
    def ok(self) -> Tensor:
        """Which chains were sampled without failure, bool [chain, datum]."""
        return self.outcome == int(ChainOutcome.OK)

    def summary(self) -> str:
        """Acceptance, divergences and failed chains in one line."""
        divergences = int(self.stats["diverging"].sum())
        return ", ".join([f"acceptance {self._mean_acceptance():.2f}", f"{divergences} divergences", *self._failures()])

    def _mean_acceptance(self) -> float:
        """Over the chains without failure; NaN where there are none."""
        acceptance = self.stats["acceptance"].movedim(1, 2)[self.ok]
        return float(acceptance.double().mean()) if acceptance.numel() else float("nan")

    def _failures(self) -> list[str]:
        """How many chains failed, by the way they did."""
        counts = {code: int((self.outcome == int(code)).sum()) for code in ChainOutcome if code is not ChainOutcome.OK}
        whole = self.outcome.numel()
        return [f"{count} of {whole} chains: {code.message}" for code, count in counts.items() if count]

    def rhat(self) -> dict[str, Tensor]:
        """Rank-normalised split R-hat of every datum and coordinate: site to [datum, *event]."""
        return {name: rhat(value) for name, value in self.samples.items()}

    def ess(self) -> dict[str, Tensor]:
        """Bulk effective sample size of every datum and coordinate, in draws: site to [datum, *event]."""
        return {name: ess(value) for name, value in self.samples.items()}

    def log_likelihood(self) -> Tensor:
        """log p(x | z) at every draw, [chain, draw, datum], nats."""
        with evaluation_mode(self.pair):
            blocks = [log_joint(self.pair, self.x, self._latents(part)).observed for part in self._blocks()]
        return torch.cat(blocks, 1)

    def posterior_predictive(self, *, seed: int = 0) -> dict[str, Tensor]:
        """New data drawn from p(x' | z) at every draw: observed site to [chain, draw, datum, *event]."""
        with torch.random.fork_rng(), torch.no_grad(), evaluation_mode(self.pair):
            torch.manual_seed(seed)
            blocks = [
                predict(
                    self.pair,
                    self.x,
                    self._latents(part),
                    kind="sample",
                    given={},
                    discrete="data",
                )
                for part in self._blocks()
            ]
        return {name: torch.cat([block[name] for block in blocks], 1) for name in blocks[0]}

    def groups(self, *, log_likelihood: bool = True, posterior_predictive: bool = False) -> Groups:
        """All of it as plain arrays, by ArviZ's group names.

        Args:
            log_likelihood: evaluate log p(x | z) at every draw (``az.loo`` needs it).
            posterior_predictive: draw new data at every draw.
        """
        lead = ["chain", "draw", "datum"]
        data = dict(self.x) if isinstance(self.x, Mapping) else {}
        with evaluation_mode(self.pair):
            observed = [info.name for info in structure(self.pair, self.x).observed]
        label = observed[0] if len(observed) == 1 else "observed"
        if isinstance(self.x, Tensor):
            data = {label if len(observed) == 1 else "x": self.x}
            members = set(data)
        else:
            members = set(observed) & set(data) or set(data)
        # (group, leading axes, variables)
        parts: list[tuple[str, list[str], dict[str, Tensor]]] = [
            ("posterior", lead, self.samples),
            ("sample_stats", lead, {_ARVIZ_NAMES.get(k, k): v for k, v in self.stats.items()}),
            ("observed_data", lead[2:], {k: v for k, v in data.items() if k in members}),
            ("constant_data", lead[2:], {k: v for k, v in data.items() if k not in members}),
        ]
        if log_likelihood:
            parts.append(("log_likelihood", lead, {label: self.log_likelihood()}))
        if posterior_predictive:
            parts.append(("posterior_predictive", lead, self.posterior_predictive(seed=self.seed)))
        groups: dict[str, dict[str, np.ndarray]] = {}
        dims: dict[str, dict[str, list[str]]] = {}
        for group, axes, variables in parts:
            if variables:
                groups[group] = {name: value.detach().cpu().numpy() for name, value in variables.items()}
                dims[group] = {
                    name: axes + [f"{name}_dim_{i}" for i in range(value.dim() - len(axes))]
                    for name, value in variables.items()
                }
        chains, draws, num_data = self.unconstrained.shape[:3]
        coords = {"chain": np.arange(chains), "draw": np.arange(draws), "datum": np.arange(num_data)}
        from ... import __version__

        return Groups(groups, dims, coords, {"inference_library": "ppvae", "inference_library_version": __version__})

    def to_arviz(self, *, log_likelihood: bool = True, posterior_predictive: bool = False) -> Any:
        """The draws for ArviZ: an ``InferenceData`` (0.x) or an ``xarray.DataTree`` (1.x).

        Args:
            log_likelihood: as for :meth:`groups`.
            posterior_predictive: likewise.
        """
        # Here, because ArviZ takes over a second to import.
        from ...inference_data import to_arviz

        groups = self.groups(log_likelihood=log_likelihood, posterior_predictive=posterior_predictive)
        return to_arviz(groups.groups, groups.dims, groups.coords, groups.attrs)

    def _latents(self, u: Tensor) -> dict[str, Tensor]:
        return self.coordinates.constrain(u)[0]

    def _blocks(self) -> tuple[Tensor, ...]:
        """The positions in blocks of draws, so that the memory of a block stays small."""
        tensors = self.x.values() if isinstance(self.x, Mapping) else [self.x]
        numbers = self.unconstrained.shape[0] * sum(tensor.numel() for tensor in tensors)
        return torch.split(self.unconstrained, max(1, BLOCK // max(1, numbers)), 1)


# ArviZ's names for the common statistics.
_ARVIZ_NAMES = {"acceptance": "acceptance_rate", "log_density": "lp", "num_leapfrog": "n_steps"}
