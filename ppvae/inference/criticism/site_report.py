"""The contribution of each site to the bound: which KLs are analytic, how active every latent dimension is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..execution.arguments import require_integer
from ..execution.over_data import OverData
from ..execution.readiness import check_all
from ...core import Data, ModelGuidePair, SiteTerm, draw, site_terms, structure
from ...core.modes import in_evaluation_mode

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
        elbo: the bound, nats per datum, global sites divided by the number of data.
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
    pair: ModelGuidePair,
    data: Any,
    *,
    num_particles: int = 100,
    analytic: bool = True,
    seed: int = 0,
    chunk_size: int = 100,
    device: str = "auto",
) -> SiteReport:
    r"""Report the contribution of each site to the bound.

    $$\mathcal{L} = \sum_{\text{observed}} \log p - \sum_{\text{latent}} \mathrm{KL}(q \| p)$$

    Args:
        pair: the pair.
        data: a Dataset, tensor, array or mapping of such, [N, *event].
        num_particles: K, draws per datum, at least 2.
        analytic: False to sample every KL.
        seed: of the draws.
        chunk_size: data at a time, with K draws each.
        device: "auto", "cpu", "cuda".

    Raises:
        PpvaeError: K < 2.

    >>> from ppvae.models import FactorAnalysis
    >>> report = site_report(FactorAnalysis(3, 2), torch.randn(8, 3))
    >>> report.site("z").route, report.site("x").route
    ('analytic', 'observed')
    """
    require_integer("site_report: num_particles", num_particles, 2)
    require_integer("chunk_size", chunk_size, 1)
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile="eager")
    if check_all(pair, work.batch(torch.arange(len(work), device=work.device))):
        work.chunk_size = len(work)
    last_terms: dict[str, SiteTerm] = {}
    global_terms: dict[str, list[Tensor]] = {}

    def visit(x: Data) -> dict[str, Tensor]:
        terms = site_terms(pair, x, num_particles, analytic=analytic)
        latents = draw(pair, x, num_particles).latents
        last_terms.update(terms)
        values: dict[str, Tensor] = {}
        for name, term in terms.items():
            for key in ("log_p", "kl"):
                value: Tensor | None = getattr(term, key)
                if value is not None and term.scope == "local":
                    values[f"{name} {key}"] = value.mT  # [B, K]
                elif value is not None:
                    global_terms.setdefault(f"{name} {key}", []).append(value.cpu())
            if term.kl_per_dimension is not None:
                values[f"{name} per dimension"] = term.kl_per_dimension.mean(0)
            if term.scope == "local" and name in latents:
                draws = latents[name].double().reshape(*latents[name].shape[:2], -1)
                values[f"{name} mean"], values[f"{name} noise"] = draws.mean(0), draws.var(0) / num_particles
        return values

    columns = work.run(visit) | {key: torch.stack(parts).mean(0) for key, parts in global_terms.items()}
    discrete = {i.name for i in structure(pair, work.example).guide_latents if i.is_discrete and i.event_shape == ()}
    rows, total = [], 0.0
    for name, term in last_terms.items():
        share = 1.0 if term.scope == "local" else 1.0 / len(work)
        log_p, kl = _mean(columns.get(f"{name} log_p")), _mean(columns.get(f"{name} kl"))
        total += share * (-kl if term.kl is not None else log_p)
        per_dimension, mean = columns.get(f"{name} per dimension"), columns.get(f"{name} mean")
        activity: Tensor | None = None
        if mean is not None and name not in discrete and len(work) > 1:
            # Variance over the data of the guide's mean; the draws' own noise is taken out.
            activity = (mean.var(0) - columns[f"{name} noise"].mean(0)).clamp_min(0)
        rows.append(
            SiteRow(
                name=name,
                scope=term.scope,
                route=term.route,
                reason=term.reason,
                log_p=log_p,
                kl=kl,
                kl_error=_error(columns.get(f"{name} kl")),
                kl_per_dimension=_floats(None if per_dimension is None else per_dimension.double().mean(0)),
                activity=_floats(activity),
                active_units=0 if activity is None else int((activity > ACTIVE_VARIANCE).sum()),
            )
        )
    return SiteReport(tuple(rows), total, len(work), num_particles)


def _mean(term: Tensor | None) -> float:
    return math.nan if term is None else float(term.double().mean())


def _error(term: Tensor | None) -> float:
    """Of the mean of draws, the last axis."""
    if term is None:
        return math.nan
    per_draw = term.double().reshape(-1, term.shape[-1]).mean(0)
    return float(per_draw.std()) / math.sqrt(len(per_draw))


def _floats(value: Tensor | None) -> tuple[float, ...]:
    return () if value is None else tuple(value.flatten().tolist())
