"""The aggregate posterior of all data in the latent space, compared with the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from .replicates import Parts, Replicator
from ..execution.arguments import require_integer
from ..execution.placement import Compile
from ..prediction.guide_mean import latent_site
from ...core import Data, ModelGuidePair, PairError, draw, simulate
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode

_ENOUGH = 20_000
_MOST = 20
_COLUMNS = 64  # dimensions that are sorted at once


@dataclass(frozen=True, eq=False)
class AggregatePosterior:
    r"""The aggregate posterior $q(z) = \frac1N \sum_b q(z \mid x_b)$ of one site beside the prior, by dimension.

    Errors are standard errors: over the choice of data for the aggregate posterior, of the draws for the prior.

    Attributes:
        site: the latent site; Z is the number of its elements.
        mean: of q(z), [Z].
        mean_error: its error, [Z].
        variance: of q(z), [Z]: that of the posterior means plus the mean of the posterior variances.
        variance_error: its error, [Z].
        prior_mean: of the prior, [Z].
        prior_mean_error: its error, [Z].
        prior_variance: of the prior, [Z].
        prior_variance_error: its error, [Z].
        distance: the Kolmogorov-Smirnov distance between the two, from 0 to 1, [Z].
        distance_error: its error, at the point where the two differ most, [Z].
        p_value: probability of at least this distance if the two were equal, from one draw per datum, [Z].
        draws: of q(z), [S, N, Z].
        prior: draws of the prior, [S, N, Z].
    """

    site: str
    mean: Tensor
    mean_error: Tensor
    variance: Tensor
    variance_error: Tensor
    prior_mean: Tensor
    prior_mean_error: Tensor
    prior_variance: Tensor
    prior_variance_error: Tensor
    distance: Tensor
    distance_error: Tensor
    p_value: Tensor
    draws: Tensor
    prior: Tensor

    def __repr__(self) -> str:
        return f"AggregatePosterior({self.summary()})"

    def summary(self) -> str:
        """One line for each dimension."""
        lines = [f"{self.site}: {self.draws.shape[1]} data, {self.draws.shape[0]} draws each"]
        for i in range(len(self.mean)):
            lines.append(
                f"{i:>3}  mean {float(self.mean[i]):+.2f} ± {float(self.mean_error[i]):.2f} "
                f"(prior {float(self.prior_mean[i]):+.2f}), variance {float(self.variance[i]):.2f} ± "
                f"{float(self.variance_error[i]):.2f} (prior {float(self.prior_variance[i]):.2f}), "
                f"distance {float(self.distance[i]):.3f} ± {float(self.distance_error[i]):.3f}, "
                f"p {float(self.p_value[i]):.3g}"
            )
        return "\n".join(lines)


@in_evaluation_mode
def aggregate_posterior(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_draws: int | None = None,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> AggregatePosterior:
    r"""Compare the aggregate posterior with the prior, $\frac1N \sum_b q(z \mid x_b)$ against $p(z)$, by dimension.

    Under the right model with the exact posterior the two are equal, if the data are not too few. Draws from a region
    where the prior has mass and no datum lies (a hole) decode to values unlike the data; data outside of the prior
    are never generated (Hoffman & Johnson 2016; Tomczak & Welling 2018, arXiv 1705.07120). Limitation: dimensions are
    compared one by one; a hole in their joint distribution goes unseen.

    Args:
        pair: the pair.
        data: held-out data, [N, *event].
        num_draws: S, draws of every datum and of the prior; None for 20 000 in total, at most 20 per datum.
        site: a local latent site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site, or several and none named.

    >>> import torch
    >>> from ppvae.models import FactorAnalysis
    >>> _ = torch.manual_seed(0)
    >>> pair = FactorAnalysis.from_parameters([0.0, 0.0, 0.0], [[2.0], [1.0], [0.5]], [0.5, 0.5, 0.5])
    >>> result = aggregate_posterior(pair, pair.marginal().sample((500,)))
    >>> bool((result.variance - 1).abs() < 4 * result.variance_error)
    True
    """
    replicator = Replicator(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile)
    size = len(replicator)
    num = min(_MOST, -(-_ENOUGH // size)) if num_draws is None else num_draws
    require_integer("num_draws", num, 1)
    name = latent_site(replicator.shape, site)
    if replicator.shape.site(name).is_a(Categorical):
        raise PairError(
            f"latent site {name!r} is categorical: its numbers are names, which have no mean and no order"
            + try_one_of(
                "site_report, whose KL holds for any latent",
                "the counts of its draws: ppvae.core.draw(pair, x, 100)",
            )
        )
    shape = next(info.shape for info in replicator.shape.local_latents if info.name == name)

    def both(batch: Data, beside: Parts) -> Parts:
        q = draw(replicator.pair, batch, 1).latents[name].reshape(-1, math.prod(shape))
        return {"q": q, "p": simulate(replicator.pair, batch).latents[name].reshape(q.shape)}

    parts: list[Parts] = []
    replicator.each(both, num, parts.append)
    q, p = (torch.stack([part[key] for part in parts]).float() for key in ("q", "p"))
    mean, mean_error, variance, variance_error = _moments(q, by_datum=True)
    prior_mean, prior_mean_error, prior_variance, prior_variance_error = _moments(p, by_datum=False)
    blocks = zip(q.split(_COLUMNS, -1), p.split(_COLUMNS, -1), strict=True)
    distance, distance_error, p_value = (
        torch.cat(column) for column in zip(*(_distances(*block) for block in blocks), strict=True)
    )
    return AggregatePosterior(
        name,
        mean,
        mean_error,
        variance,
        variance_error,
        prior_mean,
        prior_mean_error,
        prior_variance,
        prior_variance_error,
        distance,
        distance_error,
        p_value,
        q,
        p,
    )


def _moments(z: Tensor, *, by_datum: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of draws [S, N, Z] and their errors; the draws of one datum are one observation or S."""
    z = z.double() if by_datum else z.double().flatten(0, 1)[None]
    count = z.shape[1]
    mean = z.mean((0, 1))
    squares = (z - mean).square().mean(0)
    # The mean was estimated from the same data.
    variance = squares.mean(0) * (count / (count - 1) if count > 1 else 1.0)
    errors = [value.std(0) / math.sqrt(count) if count > 1 else mean * math.nan for value in (z.mean(0), squares)]
    return mean, errors[0], variance, errors[1]


def _distances(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kolmogorov-Smirnov distances of draws [S, N, Z] from those of the prior, their errors, and p-values: each [Z]."""
    from scipy.stats import kstwo

    distance, at = _largest_gap(q.flatten(0, 1), p.flatten(0, 1))
    below = (q <= at).double().mean(0)  # of every datum's draws
    prior = (p <= at).double().mean((0, 1))
    variance = below.var(0) if len(below) > 1 else torch.full_like(prior, math.nan)
    error = (variance / len(below) + prior * (1 - prior) / p[..., 0].numel()).sqrt()
    # Draws of one datum are dependent: only one of each is an independent draw of the aggregate posterior.
    single, _ = _largest_gap(q[0], p.flatten(0, 1))
    one, all_ = q.shape[1], p[..., 0].numel()
    p_value: Any = kstwo.sf(single.numpy(), round(one * all_ / (one + all_)))
    return distance, error, torch.as_tensor(p_value, dtype=torch.float64).clamp(0, 1)


def _largest_gap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The largest difference of two empirical distribution functions, of draws [n, Z] and [m, Z], and where: [Z]."""
    n, m = len(first), len(second)
    values, order = torch.cat((first, second)).sort(0)
    gap = torch.where(order < n, m, -n).cumsum(0).abs()  # times n m, so that it is exact
    gap[:-1][values[:-1] == values[1:]] = 0  # of equal draws after the last of them
    largest, place = gap.max(0)
    return largest.double() / (n * m), values.gather(0, place[None])[0]
