"""Does the model make data like the data? Prior and posterior predictive checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from .quantities import Quantity, default_quantities, evaluate_quantities
from .replicates import Parts, Replicator
from ..execution.placement import Compile
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_joint, predict, simulate, structure
from ...core.axes import to_pyro
from ...core.conditioning import DerivedPair
from ...core.errors import did_you_mean
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable

Source = Literal["prior", "posterior"]

LOG_LIKELIHOOD = "log likelihood"
CHI_SQUARE = "chi-square"
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    r"""One test quantity: its value for the data beside its distribution over replicated data sets.

    Attributes:
        name: of the quantity.
        observed: $T(x)$; of a discrepancy, $T(x, z_r)$ averaged over replicates.
        replicated: $T(x^\text{rep}_r)$, [R], float64.
        differences: $T(x^\text{rep}_r) - T(x, z_r)$, [R].
        per_datum: $P(T(x^\text{rep}_b) \ge T(x_b))$ of every datum, mid-p, [N]; None for a quantity of the data set
            as a whole. Under ``source="prior"`` and the right model they are uniform.
    """

    name: str
    observed: float
    replicated: Tensor
    differences: Tensor
    per_datum: Tensor | None = None

    @property
    def p_value(self) -> float:
        r"""$P(T(x^\text{rep}) > T(x)) + \frac12 P(T(x^\text{rep}) = T(x))$."""
        return float(self._scores().mean())

    @property
    def p_value_error(self) -> float:
        """Monte Carlo standard error of the p-value, at (count + 1) / (R + 2), so that it is never zero."""
        count, num = float(self._scores().sum()), len(self.replicated)
        p = (count + 1) / (num + 2)
        return math.sqrt(p * (1 - p) / num)

    @property
    def z_score(self) -> float:
        """Distance of the data above the replicates' mean, in standard deviations of the replicates."""
        spread = float(self.differences.std())
        distance = -float(self.differences.mean())
        if spread <= _TIE * max(abs(self.observed), abs(distance)):
            return 0.0 if abs(distance) <= _TIE * abs(self.observed) else math.copysign(math.inf, distance)
        return distance / spread

    @property
    def z_score_error(self) -> float:
        r"""Its Monte Carlo standard error, with the skewness $\gamma$ and kurtosis $\kappa$ of the replicates.

        $$\mathrm{se}^2 = \frac{1}{R} \Bigl(1 + z \gamma + z^2\, \frac{\kappa - 1}{4}\Bigr)$$
        """
        z, d = self.z_score, self.differences
        if not math.isfinite(z) or float(d.std()) == 0:
            return math.nan
        unit = (d - d.mean()) / d.std(correction=0)
        skewness, kurtosis = float(unit.pow(3).mean()), float(unit.pow(4).mean())
        return math.sqrt(max(1 + z * skewness + z * z * (kurtosis - 1) / 4, 0.0) / len(d))

    def _scores(self) -> Tensor:
        return _score(self.differences, self.observed)


@dataclass(frozen=True, eq=False)
class PosteriorChecks(Mapping[str, PredictiveCheck]):
    """Checks by the name of their quantity.

    Attributes:
        checks: the checks.
        source: "prior" or "posterior".
        site: the observed site.
        num_data: N, the size of the data and of every replicate.
        num_replicates: R.
        seed: of the draws.
        notes: remarks for the reader of the numbers.
    """

    checks: Mapping[str, PredictiveCheck]
    source: Source
    site: str
    num_data: int
    num_replicates: int
    seed: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> PredictiveCheck:
        if name not in self.checks:
            raise KeyError(f"no quantity {name!r}: {did_you_mean(name, list(self.checks))}")
        return self.checks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __repr__(self) -> str:
        return f"PosteriorChecks({self.summary()})"

    def summary(self) -> str:
        """One line for each quantity."""
        width = max(map(len, self.checks), default=0)
        lines = [f"{self.num_replicates} replicates of {self.num_data} data from the {self.source}"]
        for name, check in self.checks.items():
            r = check.replicated
            lines.append(
                f"{name:<{width}}  data {check.observed:.4g}, model {float(r.mean()):.4g} ± {float(r.std()):.2g}, "
                f"p {check.p_value:.3f} ± {check.p_value_error:.3f}, z {check.z_score:+.1f} ± {check.z_score_error:.1f}"
            )
        return "\n".join([*lines, *self.notes])


@in_evaluation_mode
def posterior_checks(
    pair: ModelGuidePair,
    data: Any,
    *,
    statistics: Mapping[str, Quantity] | None = None,
    num_replicates: int = 200,
    source: Source = "prior",
    discrepancies: bool = True,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> PosteriorChecks:
    r"""Compare data with data sets of the same size that the model generates, by test quantities T.

    $$p_T = P\bigl(T(x^\text{rep}) > T(x)\bigr) + \tfrac12 P\bigl(T(x^\text{rep}) = T(x)\bigr)$$

    ``source="prior"``: $z_b \sim p(z),\ x^\text{rep}_b \sim p(x \mid z_b)$, whole data sets that the trained model
    generates. For held-out data and the right parameters, $p_T$ is uniform. It checks *this* model with its
    parameters: where they were fitted to few data, their error shows in it too.

    ``source="posterior"``: $z_b \sim q(z \mid x_b),\ x^\text{rep}_b \sim p(x \mid z_b)$, every datum again from its own
    latents. A discrepancy $T(x, z)$ is then compared at the same draw of z (Gelman, Meng & Stern 1996): the log
    likelihood $\log p(x_b \mid z_b)$ and, where the likelihood has a density, the chi-square
    $\sum_i (x_{bi} - \mathrm{E}[x_i \mid z_b])^2 / \mathrm{Var}[x_i \mid z_b]$. The data are used twice here, for z
    and for the comparison, so such a p-value is **conservative, not uniform**: under the right model it concentrates
    around one half (Meng 1994; Gelman et al. 2013, *Bayesian Data Analysis*, chapter 6). Near 0 or 1 it shows a
    misfit; near one half it shows little.

    With several observed sites, those of a replicate are drawn together under "prior"; under "posterior" the other
    sites keep the datum's values.

    Weights with a posterior are drawn anew for every replicate, so the replicates include their uncertainty. Values
    that the model masks are compared like all others: leave their rows out of the data.

    Args:
        pair: the pair.
        data: held-out data, [N, *event].
        statistics: name to function from a data set [N, *event], float64, to a number for each datum, [N] (of which
            the mean and each datum are compared), or to one number; None for quantities by the type of the values:
            means, spreads, extremes, shares of classes, change between neighbouring pixels, nearest neighbours.
        num_replicates: R.
        source: "prior" or "posterior".
        discrepancies: add the discrepancies, which depend on z, under "posterior".
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site, or several and none named.
        PpvaeError: an unknown source, too few replicates, or a statistic of another shape.

    >>> import torch
    >>> from ppvae.models import FactorAnalysis
    >>> _ = torch.manual_seed(0)
    >>> pair = FactorAnalysis.from_parameters([0.0, 0.0, 0.0], [[1.0], [0.5], [0.2]], [0.5, 0.5, 0.5])
    >>> x = 2 * pair.marginal().sample((100,))  # twice as wide as the model says
    >>> checks = posterior_checks(pair, x, num_replicates=100)
    >>> checks["spread within a datum"].p_value, checks["spread within a datum"].z_score > 5
    (0.0, True)
    """
    if source not in get_args(Source):
        raise PpvaeError(f"source: {did_you_mean(str(source), get_args(Source))}")
    if num_replicates < 2:
        raise PpvaeError(f"num_replicates: expected at least 2, found {num_replicates}")
    replicator = Replicator(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        info, (support, values, present) = replicator.observed(site)
        if source == "prior":
            replicator.draw_weights()
            require_simulable(replicator.pair, replicator.example)
    x = values.cpu()
    quantities = (
        statistics if statistics is not None else default_quantities(x, info, support, replicator.data.image_shape)
    )
    observed = evaluate_quantities(quantities, x, "observed")
    discrepancy = _Discrepancies(replicator, info.name, x) if source == "posterior" and discrepancies else None
    name = info.name

    known: dict[str, Tensor] = {} if discrepancy is None and present is None else {"x": values}
    if present is not None:
        known["present"] = present

    def replicate(batch: Data, beside: Parts) -> Parts:
        def with_gaps(new: Tensor) -> Tensor:  # where the data have none, a replicate has the same in their place
            return new if present is None else torch.where(beside["present"], new, beside["x"].to(new.dtype))

        if source == "prior":
            return {"x": with_gaps(simulate(replicator.pair, batch).observed[name].reshape(-1, *info.shape))}
        latents = draw(replicator.pair, batch, 1).latents
        z = {i.name: latents[i.name] for i in replicator.shape.local_latents}
        new = with_gaps(predict(replicator.pair, batch, z, kind="sample")[name].reshape(-1, *info.shape))
        return {"x": new, **(discrepancy(batch, z, beside["x"], new) if discrepancy is not None else {})}

    tally = _Tally(len(replicator), observed)

    def visit(parts: Parts) -> None:
        tally.add(evaluate_quantities(quantities, parts["x"], "replicated"), parts)

    replicator.each(replicate, num_replicates, visit, beside=known or None)
    notes: tuple[str, ...] = ()
    if present is not None and not bool(present.all()):
        notes = ("entries that the model masks out are the same in the data and in every replicate",)
    if info.allows_grey and bool(((x != 0) & (x != 1)).any()):
        notes += ("the data are grey, and what a Bernoulli draws is zero or one: they differ by construction",)
    return PosteriorChecks(tally.checks(), source, name, len(replicator), num_replicates, seed, notes)


class _Discrepancies:
    """Discrepancies T(x, z) of the data and of a replicate at the same z."""

    def __init__(self, replicator: Replicator, name: str, x: Tensor) -> None:
        self.replicator, self.name = replicator, name
        self.new: Parts = {}
        pair = replicator.original
        self.again = DerivedPair(
            pair,
            model=lambda x, n: pyro.condition(pair.model, data={**replicator.weights, **self.new})(x, n),
            guide=replicator.pair.guide,
        )
        self.chi_square = x.is_floating_point() and self._has_moments()

    def __call__(self, batch: Data, z: Mapping[str, Tensor], x: Tensor, new: Tensor) -> Parts:
        """Of the data and of the replicate, [B] each."""
        shape = structure(self.replicator.pair, batch)
        values = {f"{LOG_LIKELIHOOD}/data": log_joint(self.replicator.pair, batch, z).observed}
        self.new[self.name] = to_pyro(new[None], self.replicator.shape.site(self.name), shape.nesting)
        try:
            values[f"{LOG_LIKELIHOOD}/replicate"] = log_joint(self.again, batch, z).observed
        finally:
            self.new.clear()
        if self.chi_square:
            mean, variance = (
                predict(self.replicator.pair, batch, z, kind=kind, sites=(self.name,))[self.name].reshape(new.shape)
                for kind in ("mean", "variance")
            )
            for which, value in (("data", x), ("replicate", new)):
                square = (value - mean).square()
                # What is known for sure, such as the words of an empty document, has no variance, and no deviation.
                ratio = torch.where(square == 0, 0.0, square / variance)
                values[f"{CHI_SQUARE}/{which}"] = ratio.reshape(len(new), -1).sum(1)
        return {key: value.reshape(len(new)) for key, value in values.items()}

    def _has_moments(self) -> bool:
        """Whether mean and variance are known and finite; not for Bernoulli, where one rare value would dominate."""
        info = self.replicator.shape.site(self.name)
        if info.is_a(Bernoulli, Categorical):
            return False
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            few = self.replicator.example
            latents = draw(self.replicator.original, few, 1).latents
            z = {i.name: latents[i.name] for i in self.replicator.shape.model_latents}
            try:
                variance = predict(self.replicator.original, few, z, kind="variance", sites=(self.name,))[self.name]
                mean = predict(self.replicator.original, few, z, kind="mean", sites=(self.name,))[self.name]
            except PairError:
                return False
        return bool(torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance > 0).all())


class _Tally:
    """Adds up replicates; stores only the values of their quantities."""

    def __init__(self, size: int, observed: Mapping[str, tuple[float, Tensor | None]]) -> None:
        self.size, self.observed = size, observed
        self.replicated: dict[str, list[float]] = {name: [] for name in observed}
        self.data: dict[str, list[float]] = {}
        self.scores: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, tuple[float, Tensor | None]], parts: Parts) -> None:
        """One more replicate."""
        for name, (value, each) in values.items():
            self.replicated[name].append(value)
            data = self.observed[name][1]
            if data is not None and each is not None:
                self._score(name, each, data)
        for name in (LOG_LIKELIHOOD, CHI_SQUARE):
            if f"{name}/data" in parts:
                data, new = parts[f"{name}/data"].double(), parts[f"{name}/replicate"].double()
                self.data.setdefault(name, []).append(float(data.mean()))
                self.replicated.setdefault(name, []).append(float(new.mean()))
                self._score(name, new, data)

    def _score(self, name: str, new: Tensor, data: Tensor) -> None:
        total = self.scores.get(name)
        score = _score(new - data, data)
        self.scores[name] = score if total is None else total + score

    def checks(self) -> dict[str, PredictiveCheck]:
        """The checks over all replicates so far."""
        result = {}
        for name, values in self.replicated.items():
            replicated = torch.tensor(values, dtype=torch.float64)
            data = torch.tensor(self.data[name] if name in self.data else self.observed[name][0], dtype=torch.float64)
            each = self.scores.get(name)
            result[name] = PredictiveCheck(
                name,
                float(data.mean()),
                replicated,
                replicated - data,
                None if each is None else each / len(values),
            )
        return result


def _score(differences: Tensor, scale: Tensor | float) -> Tensor:
    """One where a replicate lies above, a half where it is equal up to rounding, zero below; NaN for NaN."""
    tie = _TIE * torch.as_tensor(scale, dtype=torch.float64).abs()
    score = (differences > tie).double() + 0.5 * (differences.abs() <= tie).double()
    return score.masked_fill(differences.isnan(), math.nan)
