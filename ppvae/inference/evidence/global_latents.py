"""Evidence where there are global latents, such as weights: of a datum, averaged over draws of them (the posterior
predictive density), and of a whole data set, all latents integrated out (bridge sampling over reference draws)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .base import Evidence
from .bridge import both_ways
from .outcome import Outcome
from .posterior import Draws
from .run import first_rows, model_ready
from ..execution.placement import dtype_of, home_of, to
from ..hmc.global_posterior import GlobalDraws, log_density_of_all
from ...core import ModelGuidePair, PairError, PpvaeError, check_pair, draw
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


def weight_draws(pair: ModelGuidePair, data: Any, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Draws of all global sites from the guide.

    Args:
        pair: a pair with global latents.
        data: data of the right shape; the guide runs on the first datum.
        count: S, number of draws.
        seed: of the draws.

    Returns:
        S times site to value, [*event].

    Raises:
        PairError: the pair has no global latent.
        PpvaeError: a count below one.
    """
    if count < 1:
        raise PpvaeError(f"draws of the global sites: expected at least 1, found {count}")
    first = to(first_rows(model_ready(data, dtype_of(pair)), 1), home_of(pair))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        names = [info.name for info in check_pair(pair, first).global_latents]
        if not names:
            raise PairError(
                "the pair has no global latent, so there is nothing to average over"
                + try_one_of("log_evidence without global_sites", "bayesianise(pair)")
            )
        draws = draw(pair, first, count).latents
    return [{name: draws[name][k] for name in names} for k in range(count)]


def average(parts: Sequence[Evidence], info: Mapping[str, Any]) -> Evidence:
    r"""The log of the mean of $\hat p(x_b \mid w_s)$ over s, from the evidence at every $w_s$.

    $$\log \hat p = \log \tfrac{1}{S} \textstyle\sum_s \hat p_s + \frac{v}{2 S},\qquad
      v = \frac{\mathrm{var}_s\, \hat p_s}{(\tfrac{1}{S} \sum_s \hat p_s)^2}$$

    The logarithm of an average lies below that of the mean in expectation (Jensen), by v / 2S to second order: the
    second term corrects this where it is small. ``info["uncorrected"]`` is the first term alone, the lower bound.
    The standard error is $\sqrt{v / S}$, which contains the method's own error and is at least that, times the ratio
    of Student's quantile with S - 1 degrees of freedom to the normal one (at 95 %). With one draw the error due to the
    choice of weights is unknown: NaN. All data share the draws, so the error of their mean comes from the variance of
    the draws' means. Where v / S exceeds a quarter the outcome is TOO_FEW_DRAWS.

    Args:
        parts: the evidence of the same data at every draw, in nats.
        info: further entries. Tensors in the parts' own info are averaged over draws, for "rhat" and "uncovered" the
            largest is taken.
    """
    count = len(parts)
    logs = torch.stack([part.log_evidence for part in parts])
    mean = logs.logsumexp(0) - math.log(count)
    relative = (logs - mean).exp()  # p(x | w_s) over their mean
    errors = torch.stack([part.standard_error for part in parts])
    within = (relative * errors).square().sum(0).nan_to_num() / count**2
    outcome = _worst(torch.stack([part.outcome for part in parts]))
    common, standard_error, value = math.nan, mean * math.nan, mean
    if count > 1:
        import scipy.stats

        factor = float(scipy.stats.t.ppf(0.975, count - 1) / scipy.stats.norm.ppf(0.975))
        of_choice = relative.var(0) / count  # the relative variance of the average
        small = of_choice <= _BELIEVED
        value = mean + torch.where(small, 0.5 * of_choice, 0.0)
        standard_error = factor * torch.maximum(within, of_choice).sqrt()
        outcome = torch.where((outcome == Outcome.OK) & ~small, int(Outcome.TOO_FEW_DRAWS), outcome)
        ok = torch.isfinite(mean) & (outcome == Outcome.OK)
        if bool(ok.any()):
            # Both are variances of one average: the first counts all of the noise, the second only the method's.
            of_mean = relative[:, ok].double().mean(1).var(0) / count
            of_method = float(within[ok].double().sum()) / int(ok.sum()) ** 2
            common = factor * math.sqrt(max(float(of_mean), of_method))
    return replace(
        parts[0],
        log_evidence=value,
        standard_error=standard_error,
        effective_sample_size=torch.stack([part.effective_sample_size for part in parts]).sum(0),
        pareto_k=torch.stack([part.pareto_k for part in parts]).amax(0),
        bound="lower" if count == 1 and parts[0].bound in ("exact", "lower") else "consistent",
        outcome=outcome,
        seconds=sum(part.seconds for part in parts),
        info={**_together(parts), "uncorrected": mean, **info},
        common_error=common,
    )


_BELIEVED = 0.25  # of the average's relative variance: above it, S draws are worth fewer than about four
_LARGEST = ("rhat", "uncovered")


def _together(parts: Sequence[Evidence]) -> dict[str, Any]:
    """The info of all draws in one: tensors combined, the rest from the first draw."""
    info: dict[str, Any] = {}
    for name, value in parts[0].info.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            values = torch.stack([part.info[name] for part in parts])
            info[name] = values.amax(0) if name in _LARGEST else values.mean(0)
        else:
            info[name] = value
    return info


_BEST_FIRST = (
    Outcome.OK,
    Outcome.DOUBTFUL,
    Outcome.TOO_FEW_DRAWS,
    Outcome.NOT_CONVERGED,
    Outcome.LOOSE,
    Outcome.CHAINS_DISAGREE,
    Outcome.MISSED_MASS,
    Outcome.UNRELIABLE,
    Outcome.REFUSED_TAIL,
    Outcome.REFUSED_DIMENSION,
    Outcome.NOT_FINITE,
    Outcome.DIVERGED,
    Outcome.INTERRUPTED,
)


def _worst(outcomes: Tensor) -> Tensor:
    """The worst of the draws' outcomes [S, B]; those without an estimate are worse than all others: [B]."""
    rank = torch.empty(len(_BEST_FIRST), dtype=torch.int64)
    rank[torch.tensor(_BEST_FIRST)] = torch.arange(len(_BEST_FIRST))
    return outcomes.gather(0, rank[outcomes].argmax(0, keepdim=True))[0]


_AT_ONCE = 100  # proposals whose density is evaluated together


@in_evaluation_mode
def log_evidence_of_data_set(
    pair: ModelGuidePair, draws: GlobalDraws, *, seed: int = 0, max_iterations: int = 1000
) -> Evidence:
    r"""The marginal likelihood of all data at once, over weights and latents, by bridge sampling.

    $$\log p(x_1, \ldots, x_N) = \log \int\! p(w) \prod_{b=1}^{N} \int p(x_b, z_b \mid w)\,dz_b\,dw$$

    This, and not a bound, is for comparing models: which prior over weights, how many units. The bridge is that of
    :class:`BridgeSampling` (Meng & Wong 1996, Statistica Sinica 6), between the draws of all sites together and normals
    of full covariance fitted to halves of them.

    Limitations: for small pairs. A mode that no chain visited goes unseen: the units of a network may be permuted and
    their signs turned, so that its posterior has many equal modes, and one chain sees one; the result is then low by up
    to the logarithm of their number. A normal is a poor proposal in hundreds of dimensions: see the standard error.

    Args:
        pair: the pair of the draws, its parameters unchanged.
        draws: of :func:`~ppvae.inference.sample_global_posterior`.
        seed: of the proposals.
        max_iterations: of the bridge's fixed point.

    Returns:
        Evidence of one entry, [1]: of the whole data set, in nats; consistent, on neither side of the truth.

    Raises:
        PpvaeError: no draws of weights and latents together, or fewer draws than a full covariance needs.

    >>> from ppvae.inference import sample_global_posterior
    >>> from ppvae.models import bayesianise, FactorAnalysis
    >>> pair = bayesianise(FactorAnalysis.from_parameters([0.0], [[1.0]], [0.5]), modules=["loc"])
    >>> options = dict(num_samples=20, num_warmup=10, num_chains=2, progress=False)
    >>> draws = sample_global_posterior(pair, torch.ones(2, 1), **options)
    >>> len(log_evidence_of_data_set(pair, draws))
    1
    """
    if not isinstance(draws, GlobalDraws):
        raise PpvaeError(
            f"log_evidence_of_data_set: expected draws of all sites given all data, found {type(draws).__name__}"
            + try_one_of(
                "draws = sample_global_posterior(pair, data), and log_evidence_of_data_set(pair, draws)",
                "log_evidence(pair, data), for the evidence of every datum",
            )
        )
    start = time.perf_counter()
    chains, num, dim = draws.unconstrained.shape
    half = (chains // 2 or 1) * (num if chains > 1 else num // 2)
    if half < 2 * (dim + 1):
        raise PpvaeError(
            f"log_evidence_of_data_set: the normals in {dim} dimensions are fitted to half of the draws, which are "
            f"{half}: expected at least {2 * (dim + 1)}"
            + try_one_of(f"num_samples={-(-4 * (dim + 1) // chains)} or more", "a smaller pair, or fewer data")
        )

    def log_density(u: Tensor) -> Tensor:
        parts = [log_density_of_all(pair, draws.x, part) for part in u[:, 0].split(_AT_ONCE)]
        return torch.cat(parts).unsqueeze(-1)

    good = torch.ones(chains, 1, dtype=torch.bool)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        u = draws.unconstrained
        there = torch.stack([log_density(chain.unsqueeze(1)) for chain in u])  # in the precision of the pair
        result = both_ways(Draws(u.unsqueeze(2), there, good, {}), log_density, max_iterations)
    return Evidence(
        result.log_evidence,
        result.standard_error,
        result.effective_sample_size,
        torch.full_like(result.log_evidence, torch.nan),
        "consistent",
        result.outcome,
        "BridgeSampling of all sites",
        time.perf_counter() - start,
        {
            "seed": seed,
            "num_dimensions": dim,
            "num_draws": chains * num,
            "divergences": int(draws.stats["diverging"].sum()),
        },
    )
