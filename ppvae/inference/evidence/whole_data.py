"""The evidence of a whole data set, all latents and weights integrated out: bridge sampling over reference draws."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from .base import Evidence
from .bridge import both_ways
from .posterior import Draws
from ..hmc.global_posterior import GlobalDraws, log_density_of_all
from ...core import ModelGuidePair, PpvaeError
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode

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
