"""What each site of a pair adds to the bound: which KLs are analytic, how much every latent dimension is used."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..execution.placement import dtype_of
from ...core import Data, ModelGuidePair, PpvaeError, check_pair, draw, log_joint, site_terms, structure
from ...core.modes import in_evaluation_mode
from ...data import as_dataset

ACTIVE_VARIANCE = 0.01  # Burda et al. 2015, section 5


@dataclass(frozen=True)
class SiteRow:
    r"""One site; means over the data, in nats per datum, or in nats for a global site.

    Attributes:
        name: the site.
        scope: "local" or "global".
        route: "analytic", "sampled", or "observed".
        reason: why the KL was sampled; empty where it was not.
        log_p: mean log density under the model; NaN for a site that only the guide has.
        kl: mean KL(q || p); NaN for an observed site.
        kl_error: its Monte Carlo standard error: zero where KL is analytic and depends on no other draw.
        kl_per_dimension: mean KL of every latent dimension, flattened; empty where the families do not factorise.
        activity: $\mathrm{Var}_x\,\mathrm{E}_q[z_j]$ of every latent dimension, flattened; empty for other sites.
        active_units: how many dimensions have an activity above 0.01 (Burda et al. 2015, arXiv 1509.00519, section 5).
    """

    name: str
    scope: str
    route: str
    reason: str
    log_p: float
    kl: float
    kl_error: float
    kl_per_dimension: tuple[float, ...]
    activity: tuple[float, ...]
    active_units: int


@dataclass(frozen=True, repr=False)
class SiteReport:
    """The bound of a batch, site by site.

    Attributes:
        sites: one row for each site, guide's first.
        elbo: the bound, nats per datum, global sites shared out over the data.
        num_data: how many data the batch holds.
        num_particles: K, draws per datum.
    """

    sites: tuple[SiteRow, ...]
    elbo: float
    num_data: int
    num_particles: int

    def site(self, name: str) -> SiteRow:
        """The row of a site.

        Raises:
            KeyError: there is none.
        """
        for row in self.sites:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings and lists; a number that is not finite becomes None."""
        return {
            "elbo": self.elbo,
            "num_data": self.num_data,
            "num_particles": self.num_particles,
            "sites": [
                {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
                for row in self.sites
            ],
        }

    def table(self) -> str:
        """The report as text."""
        lines = [f"elbo {self.elbo:.3f} nats per datum ({self.num_data} data, {self.num_particles} draws each)"]
        for row in self.sites:
            if row.route == "observed":
                lines.append(f"  {row.name}: observed, log p {row.log_p:.3f}")
                continue
            line = f"  {row.name}: {row.scope}, KL {row.kl:.3f}, {row.route}"
            if row.reason:
                line += f" ({row.reason})"
            if row.activity:
                line += f"; {row.active_units} of {len(row.activity)} units active"
            lines.append(line)
            if row.kl_per_dimension:
                largest = sorted(row.kl_per_dimension, reverse=True)
                lines.append("    KL per dimension, largest first: " + " ".join(f"{v:.2f}" for v in largest[:20]))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.table()


@in_evaluation_mode
def site_report(
    pair: ModelGuidePair, data: Any, *, num_particles: int = 100, analytic: bool = True, seed: int = 0
) -> SiteReport:
    r"""Report what each site adds to the bound.

    $$\mathcal{L} = \sum_{\text{observed}} \log p - \sum_{\text{latent}} \mathrm{KL}(q \| p)$$

    Args:
        pair: the pair.
        data: a Dataset, tensor, array or mapping of such, [B, *event]; all of it is one batch.
        num_particles: K, draws per datum, at least 2.
        analytic: False to sample every KL.
        seed: of the draws.

    Raises:
        PpvaeError: K < 2.

    >>> from ppvae.models import FactorAnalysis
    >>> report = site_report(FactorAnalysis(3, 2), torch.randn(8, 3))
    >>> report.site("z").route, report.site("x").route
    ('analytic', 'observed')
    """
    if num_particles < 2:
        raise PpvaeError(f"site_report: expected num_particles of at least 2, found {num_particles}")
    x = _batch(pair, data, seed)
    check_pair(pair, x)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        terms = site_terms(pair, x, num_particles, analytic=analytic)
        latents = draw(pair, x, num_particles).latents
    shape = structure(pair, x)
    discrete = {info.name for info in shape.guide_latents if info.is_discrete and info.event_shape == ()}
    rows, total = [], 0.0
    size = max(shape.batch, 1)
    for term in terms.values():
        share = 1.0 if term.scope == "local" else 1.0 / size
        log_p, kl = _mean(term.log_p), _mean(term.kl)
        total += share * (-kl if term.kl is not None else log_p)
        per_dimension = term.kl_per_dimension
        value = latents.get(term.name)
        activity: Tensor | None = None
        if term.scope == "local" and value is not None and term.name not in discrete and shape.batch > 1:
            activity = _activity(value.double())
        rows.append(
            SiteRow(
                name=term.name,
                scope=term.scope,
                route=term.route,
                reason=term.reason,
                log_p=log_p,
                kl=kl,
                kl_error=_error(term.kl),
                kl_per_dimension=_floats(None if per_dimension is None else per_dimension.double().mean((0, 1))),
                activity=_floats(activity),
                active_units=0 if activity is None else int((activity > ACTIVE_VARIANCE).sum()),
            )
        )
    return SiteReport(tuple(rows), total, shape.batch, num_particles)


@in_evaluation_mode
def identity_gap(pair: Any, data: Any, *, num_particles: int = 100, seed: int = 0) -> Tensor:
    r"""How far $\log p(x) = \mathcal{L} + \mathrm{KL}(q(z \mid x) \| p(z \mid x))$ is from holding, [B], in nats.

    Both terms are estimated from the same draws, so that on a model with an exact posterior and evidence what is left
    is rounding.

    Args:
        pair: a pair with ``log_evidence(x)`` and ``posterior(x)``, such as ``FactorAnalysis``, and one local latent.
        data: as for :func:`site_report`.
        num_particles: K, draws per datum.
        seed: of the draws.

    Raises:
        PpvaeError: the pair has no exact evidence or posterior, or more than one latent site.
    """
    if not all(callable(getattr(pair, name, None)) for name in ("log_evidence", "posterior")):
        raise PpvaeError(f"identity_gap: {type(pair).__name__} has no exact log_evidence(x) and posterior(x)")
    x = _batch(pair, data, seed)
    shape = structure(pair, x)
    if len(shape.model_latents) != 1 or shape.global_latents:
        raise PpvaeError("identity_gap: expected one local latent site")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = draw(pair, x, num_particles)
        elbo = (log_joint(pair, x, drawn.latents).local - drawn.log_q).mean(0)
        log_posterior = pair.posterior(x).log_prob(drawn.latents[shape.model_latents[0].name])
        divergence = (drawn.log_q - log_posterior).mean(0)
        gap: Tensor = pair.log_evidence(x) - elbo - divergence
    return gap


def _activity(value: Tensor) -> Tensor:
    """Variance over the data of the guide's mean, from draws [K, B, *event]; the draws' own noise is taken out."""
    count = value.shape[0]
    noise = value.var(0).mean(0) / count
    return (value.mean(0).var(0) - noise).clamp_min(0).flatten()


def _mean(term: Tensor | None) -> float:
    return math.nan if term is None else float(term.double().mean())


def _error(term: Tensor | None) -> float:
    if term is None:
        return math.nan
    per_draw = term.double().reshape(len(term), -1).mean(1)
    return float(per_draw.std()) / math.sqrt(len(per_draw))


def _floats(value: Tensor | None) -> tuple[float, ...]:
    return () if value is None else tuple(value.flatten().tolist())


def _batch(pair: ModelGuidePair, data: Any, seed: int) -> Data:
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(next((p.device for p in pair.parameters()), torch.device("cpu")))
    return dataset.tensor(torch.Generator(device=dataset.device).manual_seed(seed), dtype=dtype)
