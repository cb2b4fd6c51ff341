"""The priors that read the posterior: at inputs that are trained, or at data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .conditional import ConditionalDistribution
from .mixtures import DiagonalNormalMixture, require_vector
from .normals import mean_and_scale
from ..core.errors import PpvaeError, try_one_of


class _PosteriorReader(ConditionalDistribution):
    """A prior that is a mixture of the pair's own posteriors; its parameters stay the posterior's."""

    def __init__(self, posterior: ConditionalDistribution) -> None:
        super().__init__(posterior.event_shape)
        require_vector(self)
        # A tuple, so that the posterior is no submodule of the prior: the pair holds it, under one name.
        self._borrowed = (posterior,)

    @property
    def borrowed(self) -> tuple[nn.Module, ...]:
        """The posterior, which the pair must hold under a name of its own."""
        return self._borrowed

    @property
    def posterior(self) -> ConditionalDistribution:
        """The posterior that is read."""
        return self._borrowed[0]

    def _encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z | u_k), each [K, Z]."""
        return mean_and_scale(self, self.posterior, inputs)

    def _require_encoding(self, what: str, inputs: Tensor) -> None:
        """Raise a PpvaeError unless the posterior reads these and is a diagonal normal."""
        try:
            with torch.no_grad(), pyro.validation_enabled(False):  # validation looks at values; here it is shapes
                self._encode(inputs)
        except (RuntimeError, TypeError, PpvaeError) as error:
            if str(error).startswith(type(self).__name__):
                raise
            raise PpvaeError(
                f"{type(self).__name__}: the posterior fails on {what} of shape {list(inputs.shape)}: {error}"
                + try_one_of("a posterior of the data alone", "another prior, such as a mixture")
            ) from error


class VampPrior(_PosteriorReader):
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
            spread over the whole range (N(0, 1), reflected at a lower end, where it is infinite).
        bounds: the range of the data, of which the upper end may be infinite, as for counts; None for data of any size.

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
        super().__init__(posterior)
        if bounds is not None and not -math.inf < bounds[0] < bounds[1]:
            raise PpvaeError(f"VampPrior: expected bounds (low, high) with low < high, found {bounds}")
        self.bounds = bounds
        self.free = nn.Parameter(self._start(num_components, input_shape, pseudo_inputs))
        self._require_encoding("pseudo-inputs", self.pseudo_inputs)

    @property
    def pseudo_inputs(self) -> Tensor:
        """$u$, [K, *input_shape], inside the bounds."""
        if self.bounds is None:
            return self.free
        low, high = self.bounds
        if math.isinf(high):
            return low + (self.free - low).abs()
        place = ((self.free - low) / (high - low)).remainder(2)  # of a wave that goes up and down again
        return low + (high - low) * torch.where(place < 1, place, 2 - place)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The mixture, whatever the context."""
        loc, scale = self._encode(self.pseudo_inputs)
        return DiagonalNormalMixture(loc.new_zeros(loc.shape[0]), loc, scale)

    def _start(self, count: int | None, input_shape: int | Sequence[int] | None, given: Tensor | None) -> Tensor:
        shape = (input_shape,) if isinstance(input_shape, int) else None if input_shape is None else tuple(input_shape)
        if given is None:
            if count is None or shape is None or count < 1:
                raise PpvaeError(
                    f"VampPrior: expected num_components of at least 1 and input_shape, found {count} and {shape}"
                    + try_one_of("VampPrior(posterior, 500, 784)", "VampPrior(posterior, pseudo_inputs=data[:500])")
                )
            if self.bounds is None or math.isinf(self.bounds[1]):
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


class ExemplarPrior(_PosteriorReader):
    r"""$p(z \mid X) = \frac{1}{N} \sum_n r(z \mid x_n)$, a mixture over data: $r$ is the posterior's, at exemplars.

    Norouzi, Fleet & Norouzi 2020 (arXiv 2004.04795, section 3). $r(z \mid x_n) = \mathcal{N}(\mu_\phi(x_n),
    \sigma^2)$ has the mean of the pair's own posterior and one trained $\sigma$. In training a datum $x_i$ that is an
    exemplar is left out, so that it does not explain itself: $\frac{1}{N - 1} \sum_{n \ne i} r(z \mid x_n)$. The prior
    sees no data, so that which exemplar a datum is must be told: :meth:`rows_of` says it by comparing rows, and it is a
    covariate of the model::

        prior = ExemplarPrior(posterior, x)
        pair = LatentModel(
            row=Covariate(()),
            z=Latent(prior.given("row"), posterior=posterior.given("x")),
            x=Observed(Bernoulli(MLP(2, [30]), 64).given("z")),
        )
        fit(pair, {"x": x, "row": prior.rows_of(x)})

    Exemplars that are equal have one number, and are left out together. In evaluation mode none is, whatever the
    number: the prior is then one and the same for every datum, also for those of training. There is no closed-form KL:
    use ``TraceELBO`` or ``TraceMeanFieldELBO(on_missing_kl="sample")``.

    Limitations: the exemplars are encoded anew at every call, which ``num_used`` bounds in training; they are part of
    the pair's state, and so of what is saved.

    Args:
        posterior: the posterior of the same pair, whose distribution is a diagonal normal over a vector.
        exemplars: data, [N, *input_shape], as the posterior reads them.
        num_used: M: in training, the mixture of M exemplars drawn anew at each call, whose log density is in
            expectation at most that of all. None for all.
        leave_one_out: False for the plain mixture, which takes no context.
        scale: "shared" for one trained $\sigma$, or "posterior" for the posterior's own scales.

    Raises:
        PpvaeError: fewer than two exemplars that differ, ``num_used`` that could be all equal, or a posterior that
            cannot read them or is no diagonal normal; when it is called in training, no row.

    >>> from ppvae.distributions import DiagonalNormal
    >>> from ppvae.networks import MLP
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    >>> ExemplarPrior(DiagonalNormal(MLP(2, [3]), 1), x).rows_of(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor([ 1,  0, -1])
    """

    exemplars: Tensor
    number: Tensor

    def __init__(
        self,
        posterior: ConditionalDistribution,
        exemplars: Tensor,
        *,
        num_used: int | None = None,
        leave_one_out: bool = True,
        scale: Literal["shared", "posterior"] = "shared",
    ) -> None:
        super().__init__(posterior)
        if scale not in ("shared", "posterior"):
            raise PpvaeError(f"ExemplarPrior: expected scale 'shared' or 'posterior', found {scale!r}")
        if exemplars.dim() < 2 or not len(exemplars):
            raise PpvaeError(f"ExemplarPrior: expected exemplars [N, *input_shape], found {list(exemplars.shape)}")
        if not exemplars.is_floating_point():
            exemplars = exemplars.to(torch.get_default_dtype())
        self.register_buffer("exemplars", exemplars.detach().clone())
        self.register_buffer("number", _numbers(exemplars))
        self.num_used, self.leave_one_out = num_used, leave_one_out
        self.log_scale = nn.Parameter(torch.zeros(())) if scale == "shared" else None
        most = int(self.number.bincount().max())  # equal to one another
        fewest = most + 1 if leave_one_out else 1
        if not fewest <= (len(exemplars) if num_used is None else num_used) <= len(exemplars):
            used = "" if num_used is None else f"num_used from {fewest} to {len(exemplars)}, found {num_used} of "
            raise PpvaeError(
                f"ExemplarPrior: expected {used or 'exemplars that differ, found '}{len(exemplars)} exemplars, "
                f"{most} of them equal" + try_one_of("more exemplars", "leave_one_out=False")
            )
        self._require_encoding("exemplars", self.exemplars[:2])

    def rows_of(self, x: Tensor) -> Tensor:
        """The number of the exemplar that each datum is equal to, bit for bit, [N] int64; -1 where it is none."""
        known = {_key(row): number for row, number in zip(self.exemplars, self.number.tolist(), strict=True)}
        x = x.to(self.exemplars.dtype)
        return torch.tensor([known.get(_key(row), -1) for row in x], device=x.device)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The mixture; in training, at the numbers [B] of :meth:`rows_of`, without the exemplar that each datum is.

        Raises:
            PpvaeError: no row in training.
        """
        inputs, number = self.exemplars, self.number
        if self.training and self.num_used is not None:
            chosen = torch.randperm(len(inputs), device=inputs.device)[: self.num_used]
            inputs, number = inputs[chosen], number[chosen]
        loc, scale = self._encode(inputs)
        if self.log_scale is not None:
            scale = self.log_scale.exp().expand_as(loc)
        if not (self.training and self.leave_one_out):
            return DiagonalNormalMixture(loc.new_zeros(loc.shape[0]), loc, scale)
        if len(context) != 1:
            raise PpvaeError(
                "ExemplarPrior: expected the row of each datum, to leave it out in training, found no context"
                + try_one_of(
                    "row=Covariate(()), Latent(prior.given('row'), ...) and {'row': prior.rows_of(x)} in the batch",
                    "leave_one_out=False",
                )
            )
        own = context[0][..., None] == number
        return DiagonalNormalMixture(torch.zeros_like(own, dtype=loc.dtype).masked_fill(own, -torch.inf), loc, scale)


def _numbers(rows: Tensor) -> Tensor:
    """The place of the first row that each is equal to, [N]."""
    first: dict[bytes, int] = {}
    return torch.tensor([first.setdefault(_key(row), place) for place, row in enumerate(rows)], device=rows.device)


def _key(row: Tensor) -> bytes:
    """The bytes of a row; zero has one sign."""
    content: bytes = (row.detach().cpu() + 0.0).numpy().tobytes()
    return content
