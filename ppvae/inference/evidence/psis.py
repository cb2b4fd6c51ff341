"""Pareto-smoothed importance sampling with the guide as proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Bound
from .importance import ImportanceSampling


@dataclass(frozen=True)
class PSIS(ImportanceSampling):
    r"""Importance sampling whose largest weights are replaced by quantiles of a Pareto tail fitted to them
    (:func:`pareto_smoothed`; Vehtari, Simpson, Gelman, Yao & Gabry 2024, arXiv 1507.02646).

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \tilde w_k$$

    Less variance where the weights have a heavy tail, for a bias that vanishes as draws are added: it is not a bound.
    Everything else, with the outcome, the options and the errors, is as for :class:`ImportanceSampling`.

    Limitations: below 25 draws there is no tail to fit, and the weights are unchanged; a mode that no draw reached is
    in no tail.

    >>> import torch
    >>> from ppvae.inference.evidence import log_evidence
    >>> from ppvae.models import FactorAnalysis
    >>> pair, x = FactorAnalysis(4, 2), torch.randn(3, 4)
    >>> result = log_evidence(pair, x, method=PSIS(100), progress=False)
    >>> bool((result.log_evidence - pair.log_evidence(x)).abs().max() < 1e-4), result.bound
    (True, 'consistent')
    """

    bound: ClassVar[Bound] = "consistent"
    smooth: ClassVar[bool] = True
