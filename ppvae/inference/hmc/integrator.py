r"""The leapfrog integrator over many chains: independent, each with its own step size and diagonal mass.

It does not depend on pairs: a target is any pure function ``target(u, *context) -> [*chains]`` of positions
``u [*chains, d]`` whose chain i depends on ``u[i]`` alone; ``context`` is its other tensors (parameters, data, a
temperature).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Target: TypeAlias = Callable[..., Tensor]
"""``target(u, *context) -> [*chains]``: a log density in nats, up to a constant."""


class PhasePoint(NamedTuple):
    """The current point of a trajectory.

    Attributes:
        u: position, [*chains, d].
        momentum: [*chains, d].
        log_density: the target at u, [*chains], nats.
        gradient: of the target at u, [*chains, d].
        finite: whether all numbers so far were finite, [*chains]; otherwise the chain stays at its last finite point.
    """

    u: Tensor
    momentum: Tensor
    log_density: Tensor
    gradient: Tensor
    finite: Tensor


Step: TypeAlias = Callable[..., PhasePoint]
"""``step(point, step_size, inverse_mass, *context) -> point``."""


def value_and_gradient(target: Target) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function ``evaluate(u, *context) -> (log density [*chains], its gradient [*chains, d])``; traceable.

    >>> evaluate = value_and_gradient(lambda u, scale: -0.5 * (u / scale).square().sum(-1))
    >>> evaluate(torch.tensor([[2.0], [4.0]]), torch.tensor(2.0))
    (tensor([-0.5000, -2.0000]), tensor([[-0.5000],
            [-1.0000]]))
    """

    def evaluate(u: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            log_density = target(u, *context)
            # Chains are independent, so the gradient of their sum is the gradient of each. Not by `.sum()`, whose
            # gradient starts from ones like that sum: a recorded graph would compute a value that no one reads.
            ones = torch.ones(log_density.shape, dtype=log_density.dtype, device=log_density.device)
            (gradient,) = torch.autograd.grad(log_density, u, ones)
        return log_density.detach(), gradient

    return evaluate


def leapfrog(target: Target, *, value: bool = True) -> Step:
    r"""One leapfrog step of size $\epsilon$ for inverse mass $M^{-1}$, a pure function that can be captured.

    $$p' = p + \tfrac{\epsilon}{2} \nabla \log \pi(u),\qquad u \leftarrow u + \epsilon M^{-1} p',\qquad
      p \leftarrow p' + \tfrac{\epsilon}{2} \nabla \log \pi(u)$$

    Neal 2011 (arXiv 1206.1901), equations 2.28 to 2.30. Of order 2, reversible under $p \mapsto -p$,
    volume preserving.

    Args:
        target: the target.
        value: False for a step that does not update the log density. Only the end of a trajectory needs it, and a
            compiled step without it takes a quarter less time (784 pixels).

    Returns:
        ``step(point, step_size, inverse_mass, *context) -> point`` with step_size [*chains] and inverse_mass
        broadcasting to [*chains, d]. A trajectory that reaches a number that is not finite does so in reverse as well,
        so rejecting it keeps the target invariant.
    """
    evaluate = value_and_gradient(target)

    def step(point: PhasePoint, step_size: Tensor, inverse_mass: Tensor, *context: Any) -> PhasePoint:
        size = step_size.unsqueeze(-1)
        half = point.momentum + 0.5 * size * point.gradient
        u = point.u + size * inverse_mass * half
        # A chain that is not finite is evaluated at its last finite point: the target may raise an error for the whole
        # batch otherwise (a Cholesky factor of a NaN does).
        inside = point.finite & torch.isfinite(u).all(-1)
        u = torch.where(inside.unsqueeze(-1), u, point.u)
        log_density, gradient = evaluate(u, *context)
        momentum = half + 0.5 * size * gradient
        if not value:
            log_density = point.log_density
        finite = inside & torch.isfinite(log_density) & torch.isfinite(momentum).all(-1)
        keep = finite.unsqueeze(-1)
        return PhasePoint(
            torch.where(keep, u, point.u),
            torch.where(keep, momentum, point.momentum),
            torch.where(finite, log_density, point.log_density),
            torch.where(keep, gradient, point.gradient),
            finite,
        )

    return step


def integrate(
    step: Step,
    point: PhasePoint,
    step_size: Tensor,
    inverse_mass: Tensor,
    num_leapfrog: int,
    *context: Any,
    inner: Step | None = None,
) -> PhasePoint:
    """The end of a trajectory of ``num_leapfrog`` steps, all but the last by ``inner`` where it is given."""
    for _ in range(num_leapfrog - 1):
        point = (inner or step)(point, step_size, inverse_mass, *context)
    return step(point, step_size, inverse_mass, *context)
