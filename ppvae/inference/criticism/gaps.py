r"""The gap between log p(x) and the ELBO, KL(q || posterior), and its two sources."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..evidence import BridgeSampling, Evidence, EvidenceMethod, log_evidence
from ..evidence.posterior import Posterior
from ..evidence.run import EvidenceRun, collect, guide_weights, prepare
from ..execution.over_data import Chunk, over_chunks
from ..execution.placement import Compile, to
from ...core import Data, DataError, ModelGuidePair, PpvaeError, batch_size, rows_of
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode

Family = Literal["diagonal", "full"]

_EVALUATION = 1000  # draws for a final ELBO
_GUIDE_DRAWS = 64  # for the Gaussian's start


class Gaussian(NamedTuple):
    """A Gaussian of unconstrained coordinates for every datum.

    Attributes:
        loc: [B, d].
        log_scale: logarithm of the diagonal of the Cholesky factor, [B, d].
        below: the factor's strictly lower part, [B, d, d]; zero for a diagonal covariance.
    """

    loc: Tensor
    log_scale: Tensor
    below: Tensor

    def place(self, noise: Tensor) -> Tensor:
        """u = m + L noise, [K, B, d]."""
        return self.loc + self.log_scale.exp() * noise + (self.below @ noise.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, noise: Tensor) -> Tensor:
        """Log density at ``place(noise)``, [K, B], nats."""
        normal = -0.5 * (noise.square() + math.log(2 * math.pi))
        return normal.sum(-1) - self.log_scale.sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class Gaps:
    r"""The gap of every datum's bound, and its two parts; all [B], nats.

    $$\log p(x) - \mathcal{L}[q] = \underbrace{\log p(x) - \mathcal{L}[q^*]}_\text{approximation}
      + \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_\text{amortisation}$$

    Attributes:
        log_evidence: log p(x), estimated.
        log_evidence_error: its standard error.
        elbo: the bound under the guide.
        elbo_error: its standard error.
        best_elbo: the bound under the best Gaussian for this datum, $q^*$.
        best_elbo_error: its standard error.
        family: "diagonal" or "full" covariance of $q^*$.
        outcome: how the evidence was estimated, :class:`ppvae.inference.evidence.Outcome`.
    """

    log_evidence: Tensor
    log_evidence_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    best_elbo: Tensor
    best_elbo_error: Tensor
    family: Family
    outcome: Tensor

    def __len__(self) -> int:
        return len(self.elbo)

    @property
    def inference(self) -> Tensor:
        """Inference gap, log p(x) - ELBO = KL(q || posterior), [B]."""
        return self.log_evidence - self.elbo

    @property
    def inference_error(self) -> Tensor:
        """Its standard error, [B]."""
        return _together(self.log_evidence_error, self.elbo_error)

    @property
    def approximation(self) -> Tensor:
        """Approximation gap, log p(x) - ELBO of the best Gaussian, [B]: the part that no Gaussian can close."""
        return self.log_evidence - self.best_elbo

    @property
    def approximation_error(self) -> Tensor:
        """Its standard error, [B]."""
        return _together(self.log_evidence_error, self.best_elbo_error)

    @property
    def amortization(self) -> Tensor:
        """Amortisation gap, the rest, [B]: the loss because the guide is not fitted to this datum.

        Below zero where the guide's family is richer than the Gaussian.
        """
        return self.best_elbo - self.elbo

    @property
    def amortization_error(self) -> Tensor:
        """Its standard error, [B]."""
        return _together(self.best_elbo_error, self.elbo_error)

    def summary(self) -> str:
        """The three gaps, averaged over the data that have an evidence, with their Monte Carlo errors."""
        finite = torch.isfinite(self.log_evidence)
        lines = [f"gaps in nats per datum, mean over {int(finite.sum())} of {len(self)} data ({self.family} Gaussian)"]
        for name in ("inference", "approximation", "amortization"):
            value = getattr(self, name)[finite].double()
            error = getattr(self, f"{name}_error")[finite].double()
            lines.append(f"  {name:<14}{value.mean():8.4f} ± {error.square().sum().sqrt() / max(len(error), 1):.4f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Gaps({self.summary()})"


def _together(first: Tensor, second: Tensor) -> Tensor:
    return (first.square() + second.square()).sqrt()


@in_evaluation_mode
def inference_gaps(
    pair: ModelGuidePair,
    data: Any,
    *,
    log_evidence: Evidence | Tensor | EvidenceMethod | None = None,
    family: Family = "diagonal",
    num_steps: int = 500,
    num_particles: int = 16,
    learning_rate: float = 0.05,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    memory_budget: int = 2**30,
    progress: bool = True,
    global_sites: Any = None,
) -> Gaps:
    r"""Split the gap between log p(x) and the bound into approximation and amortisation.

    Cremer, Li & Duvenaud 2018 (arXiv 1801.03558). The best Gaussian of every datum, in unconstrained coordinates, is
    fitted by Adam to its own bound, all data at once, from the guide's mean and scale; with the path derivative of
    Roeder, Wu & Duvenaud 2017 (arXiv 1703.09194), which has no variance at the optimum of a family that contains the
    posterior.

    Limitations: $q^*$ is a local optimum, up to the optimiser's precision, which makes the approximation gap too large
    if anything; an estimate of log p(x) below the truth makes it too small: use a method whose side is known.

    Args:
        pair: the pair.
        data: the data, [N, *event]: a Dataset, tensor, array or mapping.
        log_evidence: log p(x) of these data: an Evidence, a tensor [N] of exact values, or the method to estimate it
            with; None for ``BridgeSampling()``.
        family: of the best Gaussian: "diagonal", or "full" covariance.
        num_steps: of Adam; the learning rate falls to zero along a cosine.
        num_particles: draws per datum and step.
        learning_rate: the first one.
        seed: of all noise.
        device: as for :func:`log_evidence`, and so the rest.
        compile: as there.
        memory_budget: as there.
        progress: show the progress of the evidence.
        global_sites: as there.

    Raises:
        PairError: discrete latents, or global sites without values.
        DataError: an evidence of another number of data.
        PpvaeError: an option out of range.
    """
    if family not in ("diagonal", "full") or num_steps < 1 or num_particles < 1 or not learning_rate > 0:
        raise PpvaeError(
            "inference_gaps: expected family 'diagonal' or 'full', positive num_steps, num_particles, learning_rate; "
            f"found {family!r}, {num_steps}, {num_particles}, {learning_rate}"
        )
    run, data = prepare(pair, data, seed, device, compile, memory_budget, global_sites)
    num_data = batch_size(data)
    options = {"device": device, "compile": compile, "memory_budget": memory_budget, "global_sites": global_sites}
    evidence = _evidence_of(pair, data, log_evidence, num_data, seed, progress, options)
    size = max(1, min(num_data, run.draws_at_once // num_particles))
    size = num_data if run.needs_all_data else size
    run.chunks = -(-num_data // size)

    def bounds(chunk: Chunk) -> Tensor:
        batch = to(rows_of(data, chunk.rows), run.device)
        columns = _bounds(run, batch, family, num_steps, num_particles, learning_rate)
        return torch.stack(list(columns))[:, : chunk.valid].to("cpu", run.dtype)

    parts = over_chunks(num_data, size, bounds, seed=seed, device=run.device)
    elbo, elbo_error, best, best_error = torch.cat(parts, 1)
    return Gaps(
        evidence.log_evidence, evidence.standard_error, elbo, elbo_error, best, best_error, family, evidence.outcome
    )


def _evidence_of(
    pair: ModelGuidePair,
    x: Data,
    evidence: Evidence | Tensor | EvidenceMethod | None,
    num_data: int,
    seed: int,
    progress: bool,
    options: dict[str, Any],
) -> Evidence:
    if evidence is None or isinstance(evidence, EvidenceMethod):
        return log_evidence(pair, x, method=evidence or BridgeSampling(), seed=seed, progress=progress, **options)
    if isinstance(evidence, Tensor):
        value = evidence.detach().cpu()
        zero, nan = torch.zeros_like(value), torch.full_like(value, math.nan)
        evidence = Evidence(value, zero, nan, nan, "exact", torch.zeros_like(value, dtype=torch.int64), "given")
    if len(evidence) != num_data:
        raise DataError(
            f"inference_gaps: expected an evidence for each of {num_data} data, found {len(evidence)}"
            + try_one_of("the evidence of the same data, in the same order")
        )
    return evidence


def _bounds(
    run: EvidenceRun, x: Data, family: Family, num_steps: int, num_particles: int, learning_rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ELBO of the guide and of the best Gaussian, each with its standard error, [B]."""
    posterior = Posterior(run)
    guide = collect(run, run.pair, x, "elbo", guide_weights, _EVALUATION).double()
    q = _best_gaussian(posterior, x, family, num_steps, num_particles, learning_rate)
    noise = torch.randn(_EVALUATION, *q.loc.shape, dtype=q.loc.dtype, device=q.loc.device)
    best = (posterior.log_density(x, q.place(noise)) - q.log_prob(noise)).double()
    root = math.sqrt(_EVALUATION)
    return guide.mean(0), guide.std(0) / root, best.mean(0), best.std(0) / root


def _best_gaussian(
    posterior: Posterior, x: Data, family: Family, num_steps: int, num_particles: int, learning_rate: float
) -> Gaussian:
    run = posterior.run
    u = posterior.start(x, _GUIDE_DRAWS)
    scale = u.std(0).nan_to_num(1.0).clamp(min=1e-4)
    dim = u.shape[-1]
    q = Gaussian(u.mean(0).nan_to_num(0.0), scale.log(), u.new_zeros(*u.shape[1:], dim))
    # Steps are taken in units of the guide's spread, so that one learning rate serves every datum.
    unit = Gaussian(scale, torch.ones_like(scale), scale.unsqueeze(-1).expand(q.below.shape))
    mask = torch.ones(dim, dim, dtype=u.dtype, device=u.device).tril(-1) * (family == "full")
    step = run.remember(
        "bound of a Gaussian",
        lambda x, q, noise: _path_gradient(posterior, x, q, noise),
        calls=num_steps,
        draws=3 * num_particles * u.shape[1],
    )
    parameters = [torch.zeros_like(value) for value in q]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    noise_like = u.new_empty(num_particles, *u.shape[1:])
    for _ in range(num_steps):
        current = Gaussian(*(v + s * p for v, s, p in zip(q, unit, parameters, strict=True)))
        gradient = step(x, current, torch.randn_like(noise_like))
        for parameter, factor, part in zip(parameters, unit, gradient, strict=True):
            # A particle where the density is zero must not spoil its datum's parameters.
            parameter.grad = -(factor * part).nan_to_num(0.0, 0.0, 0.0)
        assert parameters[2].grad is not None
        parameters[2].grad *= mask
        optimizer.step()
        schedule.step()
    return Gaussian(*(v + s * p for v, s, p in zip(q, unit, parameters, strict=True)))


def _path_gradient(posterior: Posterior, x: Data, q: Gaussian, noise: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        leaves = Gaussian(*(value.detach().requires_grad_() for value in q))
        u = leaves.place(noise)
        # The score term is left out: q is a constant in the density, a variable in the place.
        loc, log_scale, below = (value.detach() for value in q)
        deviation = (u - loc).unsqueeze(-1)
        factor = torch.diag_embed(log_scale.exp()) + below
        back = torch.linalg.solve_triangular(factor, deviation, upper=False).squeeze(-1)
        bound = (posterior.density(x, u) + 0.5 * back.square().sum(-1)).mean(0).sum()
        return list(torch.autograd.grad(bound, list(leaves)))
