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
from ..prediction.joint import require_simulable
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_joint, predict, simulate, structure
from ...core.conditioning import DerivedPair
from ...core.errors import did_you_mean
from ...core.modes import in_evaluation_mode
from ...core.structure import to_pyro

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
        """How many standard deviations of the replicates the data lie above their mean."""
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
        notes: what the numbers do not say by themselves.
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
    r"""Compare data with data sets of the same size that the model makes, by test quantities T.

    $$p_T = P\bigl(T(x^\text{rep}) > T(x)\bigr) + \tfrac12 P\bigl(T(x^\text{rep}) = T(x)\bigr)$$

    ``source="prior"``: $z_b \sim p(z),\ x^\text{rep}_b \sim p(x \mid z_b)$, whole data sets that the trained model
    generates. For held-out data and the right parameters, $p_T$ is uniform. It is a check of *this* model, its
    parameters included: where they were fitted to few data, their error shows in it too.

    ``source="posterior"``: $z_b \sim q(z \mid x_b),\ x^\text{rep}_b \sim p(x \mid z_b)$, every datum again from its own
    latents. A discrepancy $T(x, z)$ is then compared at the same draw of z (Gelman, Meng & Stern 1996): the log
    likelihood $\log p(x_b \mid z_b)$ and, where the likelihood has a density, the chi-square
    $\sum_i (x_{bi} - \mathrm{E}[x_i \mid z_b])^2 / \mathrm{Var}[x_i \mid z_b]$. Data are used twice here, once to find
    z and once to be compared, so such a p-value is **conservative, not uniform**: under the right model it gathers
    around one half (Meng 1994; Gelman et al. 2013, *Bayesian Data Analysis*, chapter 6). Near 0 or 1 it tells of a
    misfit; near one half it tells little.

    With several observed sites, those of a replicate are drawn together under "prior"; under "posterior" the other
    sites keep the datum's values.

    Weights with a posterior are drawn anew for every replicate, so their uncertainty is part of its spread. Values that
    the model masks are compared like all others: leave their rows out of the data.

    Args:
        pair: the pair.
        data: data that it was not fitted to, [N, *event].
        statistics: name to function from a data set [N, *event], float64, to a number for each datum, [N] (whose
            mean is compared, and each datum too), or to one number; None for quantities that fit the kind of values:
            means, spreads, extremes, shares of classes, change between neighbouring pixels, nearest neighbours.
        num_replicates: R.
        source: "prior" or "posterior".
        discrepancies: add those that need z, under "posterior".
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
    >>> found = posterior_checks(pair, x, num_replicates=100)
    >>> found["spread within a datum"].p_value, found["spread within a datum"].z_score > 5
    (0.0, True)
    """
    if source not in get_args(Source):
        raise PpvaeError(f"source: {did_you_mean(str(source), get_args(Source))}")
    if num_replicates < 2:
        raise PpvaeError(f"num_replicates: expected at least 2, found {num_replicates}")
    asked = Replicator(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        info, support, values = asked.observed(site)
        if source == "prior":
            asked.draw_weights()
            require_simulable(asked.pair, asked.example)
    x = values.cpu()
    quantities = statistics if statistics is not None else default_quantities(x, info, support, asked.data.image_shape)
    observed = evaluate_quantities(quantities, x, "observed")
    realised = _Realised(asked, info.name, x) if source == "posterior" and discrepancies else None
    name = info.name

    def replicate(batch: Data, beside: Parts) -> Parts:
        if source == "prior":
            return {"x": simulate(asked.pair, batch).observed[name].reshape(-1, *info.shape)}
        drawn = draw(asked.pair, batch, 1).latents
        z = {i.name: drawn[i.name] for i in asked.shape.local_latents}
        new = predict(asked.pair, batch, z, kind="sample")[name].reshape(-1, *info.shape)
        return {"x": new, **(realised(batch, z, beside["x"], new) if realised is not None else {})}

    tally = _Tally(len(asked), observed)

    def visit(found: Parts) -> None:
        tally.add(evaluate_quantities(quantities, found["x"], "replicated"), found)

    asked.each(replicate, num_replicates, visit, beside=None if realised is None else {"x": values})
    notes: tuple[str, ...] = ()
    if info.allows_grey and bool(((x != 0) & (x != 1)).any()):
        notes = ("the data are grey, and what a Bernoulli draws is zero or one: they differ by construction",)
    return PosteriorChecks(tally.checks(), source, name, len(asked), num_replicates, seed, notes)


class _Realised:
    """Discrepancies T(x, z) of the data and of a replicate at the same z."""

    def __init__(self, asked: Replicator, name: str, x: Tensor) -> None:
        self.asked, self.name = asked, name
        self.new: Parts = {}
        pair = asked.original
        self.again = DerivedPair(
            pair,
            model=lambda x, n: pyro.condition(pair.model, data={**asked.weights, **self.new})(x, n),
            guide=asked.pair.guide,
        )
        self.chi_square = x.is_floating_point() and self._has_moments()

    def __call__(self, batch: Data, z: Mapping[str, Tensor], x: Tensor, new: Tensor) -> Parts:
        """Of the data and of the replicate, [B] each."""
        shape = structure(self.asked.pair, batch)
        found = {f"{LOG_LIKELIHOOD}/data": log_joint(self.asked.pair, batch, z).observed}
        self.new[self.name] = to_pyro(new[None], self.asked.shape.site(self.name), shape.nesting)
        try:
            found[f"{LOG_LIKELIHOOD}/replicate"] = log_joint(self.again, batch, z).observed
        finally:
            self.new.clear()
        if self.chi_square:
            mean, variance = (
                predict(self.asked.pair, batch, z, kind=kind, sites=(self.name,))[self.name].reshape(new.shape)
                for kind in ("mean", "variance")
            )
            for which, value in (("data", x), ("replicate", new)):
                found[f"{CHI_SQUARE}/{which}"] = ((value - mean).square() / variance).reshape(len(new), -1).sum(1)
        return {key: value.reshape(len(new)) for key, value in found.items()}

    def _has_moments(self) -> bool:
        """Whether mean and variance are known and finite; of a coin, one rare outcome would outweigh all else."""
        info = self.asked.shape.site(self.name)
        if info.is_a(Bernoulli, Categorical):
            return False
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            few = self.asked.example
            drawn = draw(self.asked.original, few, 1).latents
            z = {i.name: drawn[i.name] for i in self.asked.shape.model_latents}
            try:
                variance = predict(self.asked.original, few, z, kind="variance", sites=(self.name,))[self.name]
                mean = predict(self.asked.original, few, z, kind="mean", sites=(self.name,))[self.name]
            except PairError:
                return False
        return bool(torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance > 0).all())


class _Tally:
    """Adds up replicates: of each only the values of the quantities are kept."""

    def __init__(self, size: int, observed: Mapping[str, tuple[float, Tensor | None]]) -> None:
        self.size, self.observed = size, observed
        self.replicated: dict[str, list[float]] = {name: [] for name in observed}
        self.data: dict[str, list[float]] = {}
        self.scores: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, tuple[float, Tensor | None]], found: Parts) -> None:
        """One more replicate."""
        for name, (value, each) in values.items():
            self.replicated[name].append(value)
            mine = self.observed[name][1]
            if mine is not None and each is not None:
                self._score(name, each, mine)
        for name in (LOG_LIKELIHOOD, CHI_SQUARE):
            if f"{name}/data" in found:
                mine, new = found[f"{name}/data"].double(), found[f"{name}/replicate"].double()
                self.data.setdefault(name, []).append(float(mine.mean()))
                self.replicated.setdefault(name, []).append(float(new.mean()))
                self._score(name, new, mine)

    def _score(self, name: str, new: Tensor, mine: Tensor) -> None:
        known = self.scores.get(name)
        score = _score(new - mine, mine)
        self.scores[name] = score if known is None else known + score

    def checks(self) -> dict[str, PredictiveCheck]:
        """What has been added up."""
        result = {}
        for name, values in self.replicated.items():
            replicated = torch.tensor(values, dtype=torch.float64)
            mine = torch.tensor(self.data[name] if name in self.data else self.observed[name][0], dtype=torch.float64)
            each = self.scores.get(name)
            result[name] = PredictiveCheck(
                name, float(mine.mean()), replicated, replicated - mine, None if each is None else each / len(values)
            )
        return result


def _score(differences: Tensor, scale: Tensor | float) -> Tensor:
    """One where a replicate lies above, a half where it is level up to rounding, zero below; NaN where it is none."""
    tie = _TIE * torch.as_tensor(scale, dtype=torch.float64).abs()
    score = (differences > tie).double() + 0.5 * (differences.abs() <= tie).double()
    return score.masked_fill(differences.isnan(), math.nan)
