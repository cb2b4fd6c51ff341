"""The prior that reads the posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .conditional import ConditionalDistribution
from .mixtures import DiagonalNormalMixture, require_vector
from .normals import mean_and_scale
from ..core.errors import PpvaeError, try_one_of


class VampPrior(ConditionalDistribution):
    r"""$p(z) = \frac{1}{K} \sum_k q_\phi(z \mid u_k)$, a variational mixture of posteriors.

    Tomczak & Welling 2018 (arXiv 1705.07120, eq. 9). The pseudo-inputs $u_k$ are trained; $q_\phi$ is the pair's own
    posterior, whose parameters stay the posterior's: they are saved, trained and counted once, and a copy of the pair
    has a prior that reads the copy's posterior. The K encodings are computed once a call, whatever the number of draws.

    The paper keeps the pseudo-inputs in [0, 1] by a Hardtanh, which has no gradient at the bounds and beyond, where
    binary data stand. Here free numbers that leave the bounds are reflected at them: the same range, and a gradient
    everywhere. There is no closed-form KL: use ``TraceELBO`` or ``TraceMeanFieldELBO(on_missing_kl="sample")``.

    Args:
        posterior: the posterior of the same pair, whose distribution is a diagonal normal over a vector.
        num_components: K; may be left out beside ``pseudo_inputs``.
        input_shape: shape of one datum, or its number of features; may be left out beside ``pseudo_inputs``.
        pseudo_inputs: the start of $u$, [K, \*input_shape], for instance ``data[:500]``; where absent, draws that
            spread over the whole range (N(0, 1) where there are no bounds).
        bounds: the range of the data; None for data of any size.

    Raises:
        PpvaeError: K and the shape of the data are not given or contradict the pseudo-inputs, pseudo-inputs outside
            the bounds, or a posterior that cannot read them or is no diagonal normal.
    """

    def __init__(
        self,
        posterior: ConditionalDistribution,
        num_components: int | None = None,
        input_shape: int | Sequence[int] | None = None,
        *,
        pseudo_inputs: Tensor | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(posterior.event_shape)
        require_vector(self)
        if bounds is not None and not bounds[0] < bounds[1]:
            raise PpvaeError(f"VampPrior: expected bounds (low, high) with low < high, found {bounds}")
        # A tuple, so that the posterior is no submodule of the prior: the pair holds it, under one name.
        self._borrowed = (posterior,)
        self.bounds = bounds
        self.free = nn.Parameter(self._start(num_components, input_shape, pseudo_inputs))
        try:
            with torch.no_grad(), pyro.validation_enabled(False):  # validation looks at values; here it is shapes
                self._encode()
        except (RuntimeError, TypeError) as error:
            raise PpvaeError(
                f"VampPrior: the posterior fails on pseudo-inputs of shape {list(self.free.shape)}: {error}"
            ) from error

    @property
    def borrowed(self) -> tuple[nn.Module, ...]:
        """The posterior, which the pair must hold under a name of its own."""
        return self._borrowed

    @property
    def posterior(self) -> ConditionalDistribution:
        """The posterior that is read."""
        return self._borrowed[0]

    @property
    def pseudo_inputs(self) -> Tensor:
        """$u$, [K, *input_shape], inside the bounds."""
        if self.bounds is None:
            return self.free
        low, high = self.bounds
        place = ((self.free - low) / (high - low)).remainder(2)  # of a wave that goes up and down again
        return low + (high - low) * torch.where(place < 1, place, 2 - place)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The mixture, whatever the context."""
        loc, scale = self._encode()
        return DiagonalNormalMixture(loc.new_zeros(loc.shape[0]), loc, scale)

    def _start(self, count: int | None, input_shape: int | Sequence[int] | None, given: Tensor | None) -> Tensor:
        shape = (input_shape,) if isinstance(input_shape, int) else None if input_shape is None else tuple(input_shape)
        if given is None:
            if count is None or shape is None or count < 1:
                raise PpvaeError(
                    f"VampPrior: expected num_components of at least 1 and input_shape, found {count} and {shape}"
                    + try_one_of("VampPrior(posterior, 500, 784)", "VampPrior(posterior, pseudo_inputs=data[:500])")
                )
            if self.bounds is None:
                return torch.randn(count, *shape)
            return self.bounds[0] + (self.bounds[1] - self.bounds[0]) * torch.rand(count, *shape)
        if given.dim() < 2 or count not in (None, given.shape[0]) or shape not in (None, given.shape[1:]):
            asked = [count or "K", *(shape or ["*input_shape"])]
            raise PpvaeError(f"VampPrior: expected pseudo_inputs {asked}, found {list(given.shape)}".replace("'", ""))
        if not given.is_floating_point():
            given = given.to(torch.get_default_dtype())
        if self.bounds is None:
            return given.detach().clone()
        low, high = self.bounds
        if bool(((given < low) | (given > high)).any()):
            raise PpvaeError(
                f"VampPrior: expected pseudo_inputs within {self.bounds}, found values from {float(given.min()):g} to "
                f"{float(given.max()):g}" + try_one_of("bounds=None", "bounds=(low, high) of the data")
            )
        return given.detach().clone()

    def _encode(self) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z | u_k), each [K, Z]."""
        return mean_and_scale(self, self.posterior, self.pseudo_inputs)
