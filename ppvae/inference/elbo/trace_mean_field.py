"""SGVB estimator B: the KL in closed form."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from .base import ELBO, BoundTerms
from ...core import Data, ModelGuidePair, PairError, PpvaeError, SiteTerm, site_terms
from ...core.errors import try_one_of

_log = logging.getLogger("ppvae.elbo")


class TraceMeanFieldELBO(ELBO):
    r"""SGVB estimator B (Kingma & Welling 2013, arXiv 1312.6114, eq. 7).

    $$\widetilde{\mathcal{L}}^B = -\mathrm{KL}(q_\phi(z \mid x) \| p_\theta(z))
      + \frac{1}{K} \sum_{k=1}^{K} \log p_\theta(x \mid z_k)$$

    Differs from :class:`TraceELBO` in the KL alone, site by site: in closed form where PyTorch or Pyro registers one.
    Where there is none, ``pyro.infer.TraceMeanField_ELBO`` samples it silently; here that is an option.

    With an exact guide the bound is tight in expectation, but $\log p(x \mid z)$ still varies with z: unlike
    estimator A it has no zero variance there.

    Args:
        num_particles: K, draws per datum.
        on_missing_kl: "raise" an error for a site without a closed form, or "sample" its KL (logged once).
        free_bits: $\lambda$ in nats, or None. In the objective the KL of the local sites is then
            $\sum_g \max(\lambda, \frac{1}{M} \sum_{b=1}^{M} \mathrm{KL}_{gb})$ over groups g (Kingma et al. 2016, arXiv
            1606.04934, appendix C.8): a group whose mean over the batch is below $\lambda$ is not pressed further down.
            The reported bound is without it; the gradient is no longer the bound's.
        free_bits_per: the groups: every latent "dimension", for which a KL must be a sum over dimensions in closed
            form, or every "site".

    Raises:
        PpvaeError: an unknown word, or free_bits that is not positive and finite.
    """

    is_lower_bound = True
    needs_rsample = True
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = False
    serves_noise_per_datum = True
    serves_scaled_sites = True
    serves_all_values = True
    serves_kl_per_site = True

    def __init__(
        self,
        *,
        num_particles: int = 1,
        on_missing_kl: Literal["raise", "sample"] = "raise",
        free_bits: float | None = None,
        free_bits_per: Literal["dimension", "site"] = "dimension",
    ) -> None:
        super().__init__(num_particles=num_particles)
        if on_missing_kl not in ("raise", "sample"):
            raise PpvaeError(f"on_missing_kl: expected 'raise' or 'sample', found {on_missing_kl!r}")
        if free_bits_per not in ("dimension", "site"):
            raise PpvaeError(f"free_bits_per: expected 'dimension' or 'site', found {free_bits_per!r}")
        if free_bits is not None and not 0 < free_bits < math.inf:
            raise PpvaeError(f"free_bits: expected a positive, finite number of nats or None, found {free_bits!r}")
        self.on_missing_kl = on_missing_kl
        self.free_bits, self.free_bits_per = free_bits, free_bits_per
        self.unbiased_gradient = self.sums_over_data = free_bits is None
        self._sites_in_log: set[str] = set()

    def terms(
        self,
        pair: ModelGuidePair,
        x: Data,
        num_data: int | None = None,
        *,
        kl_weight: Tensor | float | Mapping[str, Tensor | float] = 1.0,
    ) -> BoundTerms:
        """The terms of estimator B for a batch; see :meth:`ELBO.terms`.

        Here ``kl_weight`` may be a mapping of latent sites to weights; those it does not name have weight one.

        Raises:
            PairError: no closed-form KL for a site, under ``on_missing_kl="raise"``, or none by dimension where each
                has free bits.
        """
        with pair.mean_sites() as means:
            sites = site_terms(pair, x, self.num_particles, num_data)
        if names := [name for name in means if sites[name].route == "sampled"]:
            with pair.mean_sites(draw=names):
                sites = site_terms(pair, x, self.num_particles, num_data)
        for term in sites.values():
            if term.route == "sampled":
                self._report(term)
        local = [term for term in sites.values() if term.scope == "local"]
        global_terms = [term for term in sites.values() if term.scope == "global"]
        like = next(term.log_p if term.log_p is not None else term.log_q for term in local or global_terms)
        assert like is not None
        zero_local = like.new_zeros(like.shape if local else (*like.shape, 0))
        zero = like.new_zeros(like.shape[0])
        reconstruction = sum((t.log_p for t in local if t.kl is None and t.log_p is not None), zero_local).mean(0)
        kl = sum((t.kl for t in local if t.kl is not None), zero_local).mean(0)
        global_observed = sum((t.log_p for t in global_terms if t.kl is None and t.log_p is not None), zero).mean(0)
        global_kl = sum((t.kl for t in global_terms if t.kl is not None), zero).mean(0)
        weights = {name: kl_weight.get(name, 1.0) if isinstance(kl_weight, Mapping) else kl_weight for name in sites}
        objective, objective_global = reconstruction, global_observed
        for term in local:
            if term.kl is not None:
                objective = objective - weights[term.name] * self._charged(term, term.kl)
            if term.tilt is not None:
                objective = objective + term.tilt.mean(0)
        for term in global_terms:
            if term.kl is not None:
                objective_global = objective_global - weights[term.name] * term.kl.mean(0)
        return BoundTerms(
            local=reconstruction - kl,
            global_=global_observed - global_kl,
            reconstruction=reconstruction,
            kl=kl,
            objective_local=objective,
            objective_global=objective_global,
        )

    def _charged(self, term: SiteTerm, kl: Tensor) -> Tensor:
        """What the objective charges for a local site's KL, [K, B], before its weight: [B], or a scalar for all."""
        if self.free_bits is None:
            return kl.mean(0)
        if self.free_bits_per == "site":
            return kl.mean().clamp(min=self.free_bits)
        if term.kl_per_dimension is None:
            raise PairError(
                f"site {term.name!r}: free bits for every dimension need a KL that is a sum over dimensions in closed "
                f"form, found none{': ' + term.reason if term.reason else ''}"
                + try_one_of('TraceMeanFieldELBO(free_bits=..., free_bits_per="site")')
            )
        return term.kl_per_dimension.mean((0, 1)).clamp(min=self.free_bits).sum()

    def _report(self, term: SiteTerm) -> None:
        if self.on_missing_kl == "raise":
            raise PairError(
                f"site {term.name!r}: expected a closed-form KL, found none: {term.reason}"
                + try_one_of("TraceMeanFieldELBO(on_missing_kl='sample')", "TraceELBO(), which samples every KL")
            )
        if term.name not in self._sites_in_log:
            self._sites_in_log.add(term.name)
            _log.warning("TraceMeanFieldELBO samples the KL of site %r: %s", term.name, term.reason)
