"""A Markov chain of normal latents as one distribution, whose density is one expression over all time steps."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from .own_draw import OwnDraw, kept_density, own_draw
from .weight_gradients import WeightGradientsAtOnce
from ..core.errors import PpvaeError, try_one_of
from ..core.lengths import longest
from ..core.wrappers import unwrap


class Step(Protocol):
    """Where a chain goes from a state."""

    def __call__(self, previous: Tensor, index: int | slice) -> TorchDistribution:
        r"""$p(z_t \mid z_{t-1})$, of event shape [Z].

        Args:
            previous: $z_{t-1}$: [*S, Z] at one step, [*S, n, Z] at several.
            index: t from 0, a number of 1 to T - 1, or a slice of these, whose length is n.
        """
        ...


class NormalChain(TorchDistribution):
    r"""A chain of T states, each normal given the one before: a distribution of event shape [T, Z].

    $$p(z) = p(z_1) \prod_{t=2}^{L} p(z_t \mid z_{t-1}) \prod_{t=L+1}^{T} \mathcal{N}(z_t; 0, I)$$

    The padding, from step L + 1 on, is standard normal and independent of all else: p is a density over [T, Z] for
    every length, and two chains with the same lengths, a prior and a guide, say the same about the padding, which adds
    nothing to their divergence, to a bound or to the evidence. The density runs ``step`` once, for all steps; draws
    loop. Neither goes beyond the longest sequence of the batch where that is known (:mod:`ppvae.core.lengths`).

    Args:
        initial: p(z_1), batch shape [*S], event shape [Z]: multivariate, or normals that are independent.
        step: the other steps, of the same kinds.
        num_steps: T.
        present: which steps are no padding, bool [*S, T], the first always; None where all are.

    Raises:
        PpvaeError: another kind of distribution, or no step.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self, initial: TorchDistribution, step: Step, num_steps: int, *, present: Tensor | None = None
    ) -> None:
        if num_steps < 1 or initial.event_dim != 1:
            raise PpvaeError(
                f"expected at least one step and an initial event shape [Z], found {num_steps} and "
                f"{list(initial.event_shape)}"
            )
        _parameters(initial)
        shape = torch.broadcast_shapes(initial.batch_shape, () if present is None else present.shape[:-1])
        self.initial, self.step, self.present = initial.expand(shape), step, present
        self._last: OwnDraw | None = None
        # Nothing to validate of the parameters, which are those of other distributions.
        super().__init__(shape, torch.Size([num_steps, *initial.event_shape]))

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalChain:
        """The same chain for a batch of this shape."""
        new: NormalChain = self._get_checked_instance(NormalChain, _instance)  # type: ignore[no-untyped-call]
        shape = torch.Size(batch_shape)
        new.initial, new.step, new.present = self.initial.expand(shape), self.step, self.present
        new._last = None
        super(NormalChain, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw, [*sample_shape, *S, T, Z], step by step, of noise that is drawn at once; its density is kept."""
        loc, _ = _parameters(self.initial)
        shape = torch.Size([*sample_shape, *self.batch_shape, *self.event_shape])
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        num_steps = self._num_steps()
        inside = [] if self.present is None else self.present[..., None].unbind(-2)
        z: list[Tensor] = []
        scales: list[Tensor] = []
        with WeightGradientsAtOnce():
            for t, fresh in enumerate(noise[..., :num_steps, :].unbind(-2)):
                drawn, scale = _place(self.step(z[-1], t) if z else self.initial, fresh)
                z.append(drawn.where(inside[t], fresh) if inside else drawn)
                scales.append(scale.expand_as(fresh))
        log_scale = torch.stack(scales, -2).log()
        if self.present is not None:
            log_scale = log_scale.where(self.present[..., :num_steps, None], 0.0)
        value = torch.cat([torch.stack(z, -2), noise[..., num_steps:, :]], -2)
        self._last = own_draw(value, _standard(noise).sum(-1) - log_scale.sum((-1, -2)))
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, [*S], at z [*S, T, Z]; that of its own last draw is known from drawing it."""
        if (kept := kept_density(self._last, value)) is not None:
            return kept
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(torch.broadcast_shapes(value.shape[:-2], self.batch_shape) + value.shape[-2:])
        num_steps = self._num_steps()
        terms = self.initial.log_prob(value[..., 0, :])[..., None]
        if num_steps > 1:
            rest = self.step(value[..., : num_steps - 1, :], slice(1, num_steps)).log_prob(value[..., 1:num_steps, :])
            terms = torch.cat([terms, rest], -1)
        if self.present is not None:
            padding = _standard(value)
            terms = terms.where(self.present[..., :num_steps], padding[..., :num_steps])
            terms = torch.cat([terms, padding[..., num_steps:]], -1)
        total: Tensor = terms.sum(-1)
        return total

    def _num_steps(self) -> int:
        """How many steps are not the padding of all sequences."""
        return self.event_shape[0] if self.present is None else longest(self.present)


def _parameters(normal: TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean [*S, Z] and standard deviations [*S, Z], or the Cholesky factor of the covariance [*S, Z, Z]."""
    base = unwrap(normal)
    if isinstance(base, MultivariateNormal):
        return base.loc, base.scale_tril
    if isinstance(base, Normal) and normal.event_dim == 1:
        return base.loc, base.scale
    raise PpvaeError(
        f"expected a normal distribution of event shape [Z] for a step of a chain, found {type(base).__name__} of "
        f"event shape {list(normal.event_shape)}"
        + try_one_of("DiagonalNormal(trunk, Z)", "FullCovarianceNormal(trunk, Z)")
    )


def _place(normal: TorchDistribution, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The draw that this standard normal noise [*S, Z] makes, and the spread of each dimension given those before."""
    loc, scale = _parameters(normal)
    if scale.dim() > loc.dim():
        return loc + (scale @ noise[..., None])[..., 0], scale.diagonal(dim1=-2, dim2=-1)
    return loc + scale * noise, scale


def _standard(value: Tensor) -> Tensor:
    """The standard normal log density of every step, [*S, T], at [*S, T, Z]."""
    return -0.5 * (value.square() + math.log(2 * math.pi)).sum(-1)
