r"""Sequences as one site: chains of latents, guides that read a sequence, a likelihood at every step; with lengths.

A latent z [*S, T, Z] and data x [*S, T, D] are one site each. With ``lengths=True`` the last context is the length L of
every sequence, [*S], from 1 to T, and what comes after is padding: of latents, standard normal and independent of all
else, in the prior as in the guide; of data, without density, whatever stands there.

A deep Markov model (Krishnan, Shalit & Sontag 2016, arXiv 1609.09869) of sequences of the same length:

>>> from ppvae.distributions import Bernoulli, DiagonalNormal, EachStep, GatedTransition, MarkovNormal
>>> from ppvae.models import VAE
>>> from ppvae.networks import MLP, Combiner, Recurrent
>>> T = 16
>>> dmm = VAE(
...     prior=MarkovNormal(GatedTransition(10, hidden=20), T),
...     likelihood=EachStep(Bernoulli(MLP(10, [20]), 88), T),
...     posterior=MarkovNormal(
...         DiagonalNormal(Combiner(10, 30), 10), T, trunk=Recurrent(88, 30, direction="backward")
...     ),
... )
"""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from .conditional import ConditionalDistribution, Head, independent, require_context
from .normal_chain import NormalChain
from ..core.errors import PpvaeError, try_one_of
from ..core.lengths import present
from ..core.wrappers import with_axes


class MarkovNormal(ConditionalDistribution):
    r"""A chain of normal latents, $p(z) = p(z_1) \prod_t p(z_t \mid z_{t-1})$, or $q(z \mid x)$ with a trunk.

    As a prior it has no context. With a trunk, which turns the contexts into features $h_t$, every step is given them
    too: $q(z_1 \mid h_1) \prod_t q(z_t \mid z_{t-1}, h_t)$. The density is computed for all steps at once and draws are
    made step by step: :class:`~ppvae.distributions.NormalChain`, which says what lengths mean.

    Args:
        transition: the distribution of a state of event shape (Z,) given the state before, and the features of its step
            where there is a trunk: normal, as :class:`GatedTransition`, :class:`LinearTransition` and
            ``DiagonalNormal(MLP(Z, [100]), Z)``, or ``DiagonalNormal(Combiner(Z, H), Z)`` of two contexts.
        num_steps: T.
        initial: the first state, of event shape (Z,), given the features of its step where there is a trunk; None for
            the transition from a state $z_0$ that is a parameter.
        trunk: a network from the contexts, lengths among them, to features [*S, T, H]; None for a prior.
        lengths: the last context is the length of every sequence, [*S].

    Raises:
        PpvaeError: a transition or initial state that has not this event shape, or no step.
    """

    def __init__(
        self,
        transition: ConditionalDistribution,
        num_steps: int,
        *,
        initial: ConditionalDistribution | None = None,
        trunk: nn.Module | None = None,
        lengths: bool = False,
    ) -> None:
        super().__init__((num_steps, *transition.event_shape))
        if len(transition.event_shape) != 1 or (initial and initial.event_shape != transition.event_shape):
            raise PpvaeError(
                "MarkovNormal: expected a transition and an initial state of one event shape (Z,), found "
                f"{transition.event_shape} and {initial.event_shape if initial else 'no initial state'}"
            )
        self.num_steps, self.lengths = num_steps, lengths
        self.transition, self.initial, self.trunk = transition, initial, trunk
        if initial is None:
            self.start = nn.Parameter(torch.zeros(transition.event_shape))

    def forward(self, *context: Tensor) -> NormalChain:
        """The chain, given sequences [*S, T, D] where there is a trunk, and lengths [*S] where these are asked for."""
        inside = _present(self, context) if self.lengths else None
        features: tuple[Tensor, ...] = ()
        if self.trunk is not None:
            features = (_of_steps(self.trunk(*require_context(context, self)), self),)
        # Taken apart once: the gradient of a slice a step would be as large as all steps, for every step.
        apart = [feature.unbind(-2) for feature in features]
        first = [steps[0] for steps in apart]
        initial = self.initial(*first) if self.initial is not None else self.transition(self.start, *first)
        if features:
            initial = initial.expand(torch.broadcast_shapes(initial.batch_shape, first[0].shape[:-1]))

        def step(previous: Tensor, index: int | slice) -> dist.TorchDistribution:
            if isinstance(index, slice):
                read = [feature[..., index, :] for feature in features]
            else:
                read = [steps[index] for steps in apart]
            return cast(dist.TorchDistribution, self.transition(previous, *read))

        return NormalChain(initial, step, self.num_steps, present=inside)


class StepwiseNormal(ConditionalDistribution):
    r"""Normal latents that are independent given what was read, $q(z \mid x) = \prod_t \mathcal{N}(z_t; \mu(h_t),
    \mathrm{diag}\,\sigma^2(h_t))$: the mean-field guide of a sequence.

    With ``Recurrent(..., direction="both")`` it is "MF-LR" of Krishnan, Shalit & Sontag 2016 (arXiv 1609.09869). Both
    draws and density are computed for all steps at once.

    Args:
        trunk: a network from the contexts, lengths among them, to features [*S, T, H], with ``out_features``.
        event_shape: (T, Z).
        lengths: the last context is the length of every sequence, [*S].

    Raises:
        PpvaeError: an event shape of other axes.
    """

    def __init__(self, trunk: nn.Module, event_shape: tuple[int, int], *, lengths: bool = False) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 2:
            raise PpvaeError(f"StepwiseNormal: expected an event shape (T, Z), found {self.event_shape}")
        self.num_steps, self.lengths = self.event_shape[0], lengths
        self.head = Head(trunk, self.event_shape[1:], 2)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given sequences [*S, T, D], and lengths [*S] where these are asked for."""
        loc, log_scale = (_of_steps(value, self) for value in self.head(*require_context(context, self)))
        if self.lengths:
            inside = _present(self, context)[..., None]
            loc, log_scale = loc.where(inside, 0.0), log_scale.where(inside, 0.0)
        return independent(dist.Normal(loc, log_scale.exp()), self.event_shape)


class EachStep(ConditionalDistribution):
    r"""One likelihood at every step, $p(x \mid z) = \prod_{t \le L} p(x_t \mid z_t)$, of event shape (T, \*event).

    What stands in the padding of x, NaN among it, changes neither the density nor a gradient.

    Args:
        likelihood: the distribution of one step given one latent [*S, Z]; its trunk acts on the last axis.
        num_steps: T.
        lengths: the last context is the length of every sequence, [*S].
    """

    def __init__(self, likelihood: ConditionalDistribution, num_steps: int, *, lengths: bool = False) -> None:
        super().__init__((num_steps, *likelihood.event_shape))
        self.likelihood, self.num_steps, self.lengths = likelihood, num_steps, lengths

    @property
    def mean_range(self) -> tuple[float, float] | None:
        """That of one step."""
        return cast("tuple[float, float] | None", getattr(self.likelihood, "mean_range", None))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, T, Z], and lengths [*S] where these are asked for."""
        inside = _present(self, context) if self.lengths else None
        of_steps = require_context(context, self)[: -1 if self.lengths else None]
        steps: dist.TorchDistribution = self.likelihood(*(_of_steps(part, self) for part in of_steps))
        return independent(steps if inside is None else padded(steps, inside), (self.num_steps,))


class LinearTransition(ConditionalDistribution):
    r"""$z_t \mid z_{t-1} \sim \mathcal{N}(A z_{t-1} + b, \mathrm{diag}\,\sigma^2)$.

    Args:
        latent_dim: Z.

    Attributes:
        matrix: A, [Z, Z]; it starts as the identity.
        loc: b, [Z].
        log_scale: $\log \sigma$, [Z].
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.matrix = nn.Parameter(torch.eye(latent_dim))
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The next state given the state before, [*S, Z]."""
        (previous,) = require_context(context, self)
        loc = functional.linear(previous, self.matrix, self.loc)
        return independent(dist.Normal(loc, self.log_scale.exp().expand_as(loc)), self.event_shape)


class GatedTransition(ConditionalDistribution):
    r"""The gated transition of the deep Markov model: near linear where a gate is shut.

    $$g = \mathrm{sigmoid}(\mathrm{MLP}_g(z_{t-1})),\qquad h = \mathrm{MLP}_h(z_{t-1})$$
    $$z_t \mid z_{t-1} \sim \mathcal{N}\left((1 - g) (A z_{t-1} + b) + g\, h,\;
      \mathrm{diag}\,\mathrm{softplus}(W\, \mathrm{relu}(h) + c)^2\right)$$

    Krishnan, Shalit & Sontag 2016 (arXiv 1609.09869), section 5; A starts as the identity and b as zero. The softplus
    is the standard deviation, as in Pyro's example of the model; in the paper it is the variance.

    Args:
        latent_dim: Z.
        hidden: units of the hidden layer of either perceptron.

    Raises:
        PpvaeError: a layer without units.
    """

    def __init__(self, latent_dim: int, *, hidden: int) -> None:
        super().__init__(latent_dim)
        if hidden < 1:
            raise PpvaeError(f"GatedTransition: expected at least one hidden unit, found {hidden}")
        # Both perceptrons' hidden layers in one product.
        self.hidden_layers = nn.Linear(latent_dim, 2 * hidden)
        self.gate_layer, self.proposal_layer = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.linear, self.scale_layer = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(latent_dim))
            self.linear.bias.zero_()

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The next state given the state before, [*S, Z]."""
        (previous,) = require_context(context, self)
        of_gate, of_proposal = self.hidden_layers(previous).relu().chunk(2, -1)
        gate, proposal = self.gate_layer(of_gate).sigmoid(), self.proposal_layer(of_proposal)
        loc = torch.lerp(self.linear(previous), proposal, gate)
        scale = functional.softplus(self.scale_layer(proposal.relu()))
        return independent(dist.Normal(loc, scale), self.event_shape)


def padded(steps: dist.TorchDistribution, inside: Tensor) -> dist.TorchDistribution:
    """Steps some of which are padding: without density, whatever their values, NaN among them.

    Args:
        steps: the distribution of every step, of batch shape [*S, T].
        inside: which steps are no padding, bool [*S, T], the first always.
    """
    return _Padded(steps, inside)  # type: ignore[no-untyped-call]


class _Padded(dist.MaskedDistribution):
    """Its base under a mask, given values that the base takes."""

    def log_prob(self, value: Tensor) -> Tensor:
        mask = torch.as_tensor(self._mask)
        inside = with_axes(mask, mask.dim() + self.event_dim)
        # The first step is data, hence such a value; its density is then left out.
        first = value.narrow(-1 - self.event_dim, 0, 1)
        return cast(Tensor, super().log_prob(value.where(inside, first)))  # type: ignore[no-untyped-call]


def _of_steps(value: Tensor, owner: MarkovNormal | StepwiseNormal | EachStep) -> Tensor:
    """The value [*S, T, features], where T is that of its owner."""
    if value.dim() < 2 or value.shape[-2] != owner.num_steps:
        raise PpvaeError(
            f"{type(owner).__name__}: expected sequences of num_steps = {owner.num_steps} steps, [*S, T, D], found "
            f"{list(value.shape)}"
            + try_one_of("num_steps of the longest sequence", "lengths=True, and shorter ones padded to the longest")
        )
    return value


def _present(owner: MarkovNormal | StepwiseNormal | EachStep, context: tuple[Tensor, ...]) -> Tensor:
    """Which steps are no padding, [*S, T], by the last context."""
    needed = 1 if isinstance(owner, MarkovNormal) and owner.trunk is None else 2
    if len(context) < needed:
        raise PpvaeError(
            f"{type(owner).__name__} with lengths=True: expected lengths [*S] as the last context, found "
            f"{len(context)} of at least {needed} contexts"
            + try_one_of('.given(..., "lengths")', "lengths=False, for sequences that are whole")
        )
    return present(context[-1], owner.num_steps)
