"""Normalising flows as priors and as posteriors; the transforms are zuko's, but for the planar one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from .conditional import ConditionalDistribution, Head, independent, require_context
from .mixtures import require_vector
from .own_draw import OwnDraw, kept_density, own_draw
from .planar import AmortizedPlanar
from ..core.errors import PpvaeError, did_you_mean

PriorFlow = Literal["maf", "coupling", "spline"]
PosteriorFlow = Literal["planar", "iaf", "coupling", "spline"]

_NO_SHAPE = torch.Size()
_BINS = 8


class Flow(dist.TorchDistribution):
    r"""$z = g_n \circ \ldots \circ g_1(\epsilon)$ with $\epsilon$ from a base over vectors.

    $$\log q(z) = \log q_0(\epsilon) - \sum_i \log \left| \det \frac{\partial g_i}{\partial z_{i-1}} \right|$$

    The density of its own last draw is kept from drawing it, so that no transform is inverted for it; that of any
    other value inverts them.

    Args:
        base: the distribution of $\epsilon$, of event shape [Z].
        transforms: $g_1, \ldots, g_n$, which have zuko's ``call_and_ladj``, as all have once it is imported.
    """

    arg_constraints = {}  # noqa: RUF012 - as torch declares it
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: dist.TorchDistribution, transforms: Sequence[Any], *, validate_args: bool | None = None
    ) -> None:
        self.base, self.transforms = base, tuple(transforms)
        self._last: OwnDraw | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same flow, for a larger batch."""
        new: Any = self._get_checked_instance(Flow, _instance)  # type: ignore[no-untyped-call]
        new.base, new.transforms, new._last = self.base.expand(torch.Size(batch_shape)), self.transforms, None
        super(Flow, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """Draws, [*sample_shape, *batch, Z], that carry gradients."""
        z, log_density = self.rsample_and_log_prob(sample_shape)
        self._last = own_draw(z, log_density)
        return z

    def rsample_and_log_prob(self, sample_shape: Any = _NO_SHAPE) -> tuple[Tensor, Tensor]:
        """Draws [*sample_shape, *batch, Z] and their log densities [*sample_shape, *batch]."""
        z = self.base.rsample(torch.Size(sample_shape))
        log_density = self.base.log_prob(z)
        for transform in self.transforms:
            z, change = transform.call_and_ladj(z)
            log_density = log_density - change
        return z, log_density

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) at z [*S, *batch, Z], in nats."""
        if (kept := kept_density(self._last, value)) is not None:
            return kept
        if self._validate_args:
            self._validate_sample(value)
        total: Any = 0.0
        for transform in reversed(self.transforms):
            value, change = transform.inv.call_and_ladj(value)
            total = total + change
        log_density: Tensor = self.base.log_prob(value) + total
        return log_density


class FlowPrior(ConditionalDistribution):
    r"""$p(z) = \mathcal{N}(f(z); 0, I)\, |\det \partial f / \partial z|$ with a trained $f$, a prior.

    The density takes one pass; a draw takes one too, or Z of them for "maf". It has no closed-form KL: use
    ``TraceELBO`` or ``TraceMeanFieldELBO(on_missing_kl="sample")``.

    Args:
        event_shape: Z, the number of latent dimensions.
        flow: "coupling" (affine, RealNVP: Dinh et al. 2016, arXiv 1605.08803), "spline" (coupling by monotonic
            rational-quadratic splines: Durkan et al. 2019, arXiv 1906.04032; the identity outside [-5, 5]) or "maf"
            (Papamakarios et al. 2017, arXiv 1705.07057).
        num_transforms: how many, the order of dimensions reversed from one to the next.
        hidden: units of the hidden layers of the network in every transform.

    Raises:
        PpvaeError: an unknown flow, no transform, a layer without units, or an event of several axes.
    """

    zero: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        *,
        flow: PriorFlow = "coupling",
        num_transforms: int = 4,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(event_shape)
        require_vector(self)
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)
        self.transforms = _transforms(self, ("maf", "coupling", "spline"), flow, num_transforms, hidden, 0)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The flow, whatever the context."""
        base = independent(dist.Normal(self.zero, torch.ones_like(self.zero)), self.event_shape)
        return Flow(base, [transform().inv for transform in reversed(self.transforms)])


class FlowPosterior(ConditionalDistribution):
    r"""$z = g_{h(x)}(\epsilon)$ with $\epsilon \sim \mathcal{N}(\mu(x), \mathrm{diag}\,\sigma^2(x))$, a posterior.

    Every transform reads the trunk's features $h(x)$ too. A draw and its density take one pass; the density of a value
    that was not drawn just now (annealed importance sampling, bridges, path derivatives) inverts every transform: in
    one more pass for couplings, in Z passes for "iaf", by bisection for "planar".

    Args:
        trunk: a network from the context to features [*S, ``out_features``].
        event_shape: Z, the number of latent dimensions.
        flow: "iaf" (Kingma et al. 2016, arXiv 1606.04934), "planar" (Rezende & Mohamed 2015, arXiv 1505.05770),
            "coupling" or "spline" (see :class:`FlowPrior`).
        num_transforms: how many.
        hidden: units of the hidden layers of the network in every transform; planar transforms have none.

    Raises:
        PpvaeError: an unknown flow, no transform, a layer without units, or an event of several axes.
    """

    def __init__(
        self,
        trunk: nn.Module,
        event_shape: int | Sequence[int],
        *,
        flow: PosteriorFlow = "iaf",
        num_transforms: int = 4,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(event_shape)
        require_vector(self)
        self.head = Head(trunk, self.event_shape, 2)
        if self.head.per_event:
            raise PpvaeError("FlowPosterior: expected a trunk that puts out features, found one per element")
        known = ("planar", "iaf", "coupling", "spline")
        context: int = trunk.out_features  # type: ignore[assignment]
        self.transforms = _transforms(self, known, flow, num_transforms, hidden, context)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        features: Tensor = self.head.trunk(*require_context(context, self))
        loc, log_scale = self.head.read(features)
        base = independent(dist.Normal(loc, log_scale.exp()), self.event_shape)
        return Flow(base, [transform(features) for transform in self.transforms])


class _Transforms(nn.ModuleList):
    def __repr__(self) -> str:
        with torch.random.fork_rng(devices=[]):  # zuko draws random numbers to print a transform
            return super().__repr__()


def _transforms(
    owner: ConditionalDistribution,
    known: Sequence[str],
    flow: str,
    count: int,
    hidden: Sequence[int],
    context: int,
) -> nn.ModuleList:
    name = type(owner).__name__
    if flow not in known:
        raise PpvaeError(f"{name}: unknown flow {flow!r}: {did_you_mean(flow, known)}")
    if count < 1 or any(units < 1 for units in hidden):
        raise PpvaeError(
            f"{name}: expected at least one transform and at least one unit in every layer, found "
            f"num_transforms={count} and hidden={list(hidden)}"
        )
    (dim,) = owner.event_shape
    make: Callable[..., nn.Module] = _zuko().flows.MaskedAutoregressiveTransform
    if flow == "planar":
        return nn.ModuleList(AmortizedPlanar(dim, context) for _ in range(count))
    options: dict[str, Any] = {"hidden_features": tuple(hidden)}
    if flow in ("coupling", "spline"):
        options["passes"] = 2  # zuko's spelling of a coupling: two blocks, of which the second reads the first
    if flow == "spline":
        options["univariate"] = _zuko().transforms.MonotonicRQSTransform
        options["shapes"] = ([_BINS], [_BINS], [_BINS - 1])
    ascending = torch.arange(dim)
    orders = (ascending, ascending.flip(0))
    return _Transforms(make(dim, context, order=orders[place % 2], **options) for place in range(count))


def _zuko() -> Any:
    """zuko, whose import turns the validation of arguments off for all of torch's distributions: it is put back."""
    validate = Distribution._validate_args
    import zuko

    Distribution.set_default_validate_args(validate)
    return zuko
