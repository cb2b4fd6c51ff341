"""The conditional distribution of one observed site given other sites, all else integrated out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .guide_mean import observed_site
from .predictive import Kind
from ..evidence.outcome import Outcome
from ..evidence.weights import from_weights
from ..execution.arguments import require_integer, require_literal
from ..execution.over_data import OverData, rows_like
from ..execution.placement import Compile, to
from ...core import Data, ModelGuidePair, PairError, PpvaeError, simulate_given
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import given_present, require_simulable


@dataclass(frozen=True, eq=False)
class ConditionalPrediction:
    r"""One observed site given other sites, of every datum.

    Attributes:
        site: the site.
        mean: $\mathrm{E}[x \mid x_g]$, [N, *event].
        standard_error: its Monte Carlo standard error, [N, *event].
        samples: draws of $p(x \mid x_g)$, [S, N, *event], by resampling, so that some may be repeated; or means of
            $p(x \mid z)$ at draws of $p(z \mid x_g)$.
        effective_sample_size: how many independent draws each datum's mean is worth, [N].
        pareto_k: tail index of the weights, [N]; ``trusted`` says what follows from it.
        outcome: :class:`~.evidence.Outcome` of each, [N], int64; 0 where the mean stands.
    """

    site: str
    mean: Tensor
    standard_error: Tensor
    samples: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    outcome: Tensor

    @property
    def trusted(self) -> Tensor:
        """Which data's numbers can be trusted, [N], bool."""
        return self.outcome == Outcome.OK

    def __repr__(self) -> str:
        return (
            f"ConditionalPrediction({self.site!r}, {int(self.trusted.sum())} of {len(self.outcome)} data trusted, "
            f"smallest effective sample size {float(self.effective_sample_size.min()):.0f})"
        )


_ENOUGH = 25
"""Below this effective sample size the standard error is not reliable."""


@in_evaluation_mode
def predict_given(
    pair: ModelGuidePair,
    given: Mapping[str, Tensor],
    *,
    like: Any,
    site: str | None = None,
    kind: Kind = "sample",
    num_samples: int = 1000,
    num_draws: int = 1,
    seed: int = 0,
    chunk_size: int = 100,
    device: str = "auto",
    compile: Compile = "auto",
) -> ConditionalPrediction:
    r"""The conditional distribution of one observed site given other sites, $p(x \mid x_g)$, all else integrated out.

    $$z_k, x_k \sim p \text{ with } x_g \text{ in its place},\qquad w_k = \prod_g p(x_g \mid \cdot),\qquad
      \mathrm{E}[x \mid x_g] \approx \frac{\sum_k w_k\, \mathrm{E}[x \mid z_k, x_g, \ldots]}{\sum_k w_k}$$

    Likelihood weighting (Fung & Chang 1989): self-normalised importance sampling from the prior, whose error is that
    of a ratio, $\mathrm{se}^2 = \sum_k \bar w_k^2 (f_k - \bar f)^2$. The guide is not used: it conditions on all
    observed sites. :func:`~ppvae.inference.generate` draws all sites unconditionally.

    What is given may be latents of each datum too: a class that is summed out (data of one class), or the upper layers
    of several (data that differ in the lower ones alone). Where nothing that is drawn stands above them, their weights
    are all alike, and the draws are independent.

    Limitations: draws are from the prior, so that very many are needed where the given sites are informative about
    many dimensions of z; see the effective sample size and :attr:`ConditionalPrediction.trusted`.

    Args:
        pair: the pair; global latents are fixed at the guide's mean.
        given: observed site, or local latent, to value [N, *event].
        like: data of the right shape; their values matter only as covariates (rows repeated cyclically up to N).
        site: the observed site to predict; None where one is not given.
        kind: what the samples are: draws of x, "sample", or means of $p(x \mid z)$ at draws of $p(z \mid x_g)$, "mean".
        num_samples: K, draws for every datum, all in memory at once for a chunk of data.
        num_draws: S, number of samples to return.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site; one that is masked out, such as the label of a datum that has none; a model that
            cannot be simulated; a site whose distribution has no known mean.
        PpvaeError: nothing given, or values of different lengths.

    >>> import torch
    >>> from ppvae.models import FactorAnalysis
    >>> pair = FactorAnalysis(3, 1)
    >>> try:
    ...     predict_given(pair, {}, like=torch.zeros(1, 3))
    ... except PpvaeError as error:
    ...     print(str(error).splitlines()[0])
    predict_given: expected the values of some sites, found none
    """
    if not given:
        raise PpvaeError(
            "predict_given: expected the values of some sites, found none"
            + try_one_of("given={site: values}", "generate, where nothing is given")
        )
    lengths = {name: len(value) for name, value in given.items()}
    if len(set(lengths.values())) > 1:
        raise PpvaeError(f"given: expected values of one length, found {lengths}")
    require_integer("num_samples", num_samples, 1)
    require_integer("num_draws", num_draws, 1)
    require_literal("kind", kind, Kind)
    rows = rows_like(like, next(iter(lengths.values())), pair)
    work = OverData(pair, rows, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    name = observed_site(work, site, exclude=given)
    require_simulable(work.pair, work.example)
    values = to(given, work.device, work.dtype)
    heard = work.run(lambda x, each: given_present(work.pair, x, each), beside=values)
    for given_name, present in heard.items():
        if not bool(present.all()):
            row = int((~present).nonzero()[0])
            raise PairError(
                f"given: site {given_name!r} is masked out for datum {row} of the data like which it is to be: what is "
                "given there has no effect"
                + try_one_of("like= data for which the model does not mask it, such as those with this label")
            )

    def estimate(x: Data, evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        means, log_w = simulate_given(work.pair, x, num_samples, evidence, name)
        weight = torch.softmax(log_w.double(), 0).to(means.dtype)
        weight = weight.reshape(*weight.shape, *(1,) * (means.dim() - 2))
        mean = (weight * means).sum(0)
        error = (weight.square() * (means - mean).square()).sum(0).sqrt()
        at: Literal["sample", "location"] = "sample" if kind == "sample" else "location"
        samples, log_v = simulate_given(work.pair, x, num_samples, evidence, name, kind=at)
        noise = torch.rand(num_draws, *log_v.shape, dtype=torch.float64, device=log_v.device)
        index = (log_v - (-noise.log()).log()).argmax(1)  # [S, B]; by Gumbel's trick
        draws = samples[index, torch.arange(log_v.shape[1], device=log_v.device)]
        return {"mean": mean, "error": error, "samples": draws.movedim(0, 1), "log_w": log_w.movedim(0, 1)}

    result = work.average(estimate, beside=values)
    weights = from_weights(result["log_w"].mT)
    outcome = weights.outcome
    outcome[(outcome == Outcome.OK) & (weights.effective_sample_size < _ENOUGH)] = Outcome.UNRELIABLE
    return ConditionalPrediction(
        name,
        result["mean"],
        result["error"],
        result["samples"].movedim(1, 0),
        weights.effective_sample_size,
        weights.pareto_k,
        outcome,
    )
