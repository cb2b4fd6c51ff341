"""The gamma-Poisson model of counts, where everything is exact."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .components import Values, as_floats, check_event_shape
from ..core.errors import DataError, PairError, try_one_of
from ..core.pair import ModelGuidePair
from ..distributions import count_densities as densities
from ..distributions.conditional import ConditionalDistribution, independent
from ..distributions.counts import for_each_datum

Counts = Tensor | Mapping[str, Tensor]


class GammaPoisson(ModelGuidePair):
    r"""Counts with one Gamma rate for each datum: the tuning fork for counts and for latents that are positive.

    $$z_b \sim \mathrm{Gamma}(\alpha, \beta),\qquad x_{bd} \mid z_b \sim \mathrm{Poisson}(t_b\,\lambda_d\,z_b)$$

    With $n_b = \sum_d x_{bd}$ and $\Lambda = \sum_d \lambda_d$ the posterior is conjugate, the total is negative
    binomial, and the total falls upon the dimensions as a multinomial (together, a negative multinomial):

    $$p(z \mid x_b) = \mathrm{Gamma}(\alpha + n_b,\ \beta + t_b \Lambda),\qquad
      \log p(x_b) = \log \mathrm{NB}(n_b; \mu = t_b \Lambda \alpha / \beta, \text{dispersion } 1 / \alpha)
      + \log \mathrm{Multinomial}(x_b; n_b, \lambda / \Lambda)$$

    Gelman et al. 2013 (Bayesian Data Analysis), section 2.6.

    ====================  =====================================  ==========================
    symbol                meaning                                name in code
    ====================  =====================================  ==========================
    $z_b$, [1]            rate of one datum                      site ``"z"``
    $x_b$, [D]            counts of one datum                    site ``"x"``
    $t_b$                 exposure of one datum; 1 where absent  ``x["exposure"]``, [B]
    $\alpha$              concentration of the rates             ``concentration``
    $\beta$               rate of the rates, one over scale      ``rate``
    $\lambda$, [D]        counts per rate and exposure           ``loading``
    ====================  =====================================  ==========================

    Data are counts [B, D], or a mapping of "x" [B, D] and "exposure" [B].

    Limitations: one latent for each datum, which moves all of its counts together; $\beta$ and $\lambda$ are determined
    up to a common factor.

    Args:
        data_dim: D.
        posterior: a guide with parameters of its own, given x [B, D], of event shape (1,) and positive; None for the
            exact posterior.

    Raises:
        PairError: a dimension below 1, or a posterior of another event shape.

    >>> import torch
    >>> from ppvae.models import GammaPoisson
    >>> pair = GammaPoisson.from_parameters(concentration=2.0, rate=0.5, loading=[1.0, 0.2])
    >>> x = torch.tensor([[3.0, 0.0], [9.0, 4.0]])
    >>> [round(p, 3) for p in pair.log_evidence(x).tolist()]
    [-2.653, -6.572]
    >>> [round(m, 3) for m in pair.posterior(x).mean[:, 0].tolist()]
    [2.941, 8.824]
    """

    def __init__(self, data_dim: int, *, posterior: ConditionalDistribution | None = None) -> None:
        super().__init__()
        if data_dim < 1:
            raise PairError(f"expected data_dim of at least 1, found {data_dim}")
        check_event_shape(posterior, (1,))
        self.data_dim = data_dim
        self.log_concentration = nn.Parameter(torch.zeros(()))
        self.log_rate = nn.Parameter(torch.zeros(()))
        self.log_loading = nn.Parameter(torch.zeros(data_dim))
        self.encoder = posterior

    @staticmethod
    def from_parameters(concentration: Values, rate: Values, loading: Values) -> GammaPoisson:
        """A model with given parameters.

        Args:
            concentration: alpha, a scalar; positive.
            rate: beta, a scalar; positive.
            loading: lambda, [D]; positive.

        Raises:
            PairError: shapes that do not fit, or what is not positive.
        """
        values = dict(zip(("concentration", "rate", "loading"), as_floats(concentration, rate, loading), strict=True))
        shapes = [list(value.shape) for value in values.values()]
        if shapes[:2] != [[], []] or len(shapes[2]) != 1 or shapes[2] == [0]:
            raise PairError(
                "expected concentration and rate, both scalars, and loading [D], found {}, {} and {}".format(*shapes)
            )
        pair = GammaPoisson(shapes[2][0])
        for name, value in values.items():
            if not bool((value > 0).all()):
                raise PairError(f"expected a positive {name}, found a minimum of {value.min():g}")
            getattr(pair, f"log_{name}").data = value.log()
        return pair

    @property
    def concentration(self) -> Tensor:
        """alpha, a scalar."""
        return self.log_concentration.exp()

    @property
    def rate(self) -> Tensor:
        """beta, a scalar."""
        return self.log_rate.exp()

    @property
    def loading(self) -> Tensor:
        """lambda, [D]."""
        return self.log_loading.exp()

    def log_evidence(self, x: Counts) -> Tensor:
        """log p(x) of every datum, [B], in nats, at x [B, D] or a mapping with its exposure."""
        counts, exposure = self._split(x)
        log_total = self.log_loading.logsumexp(-1)
        total = counts.sum(-1)
        logits = exposure.log() + log_total - self.log_rate  # of mean times dispersion: alpha has no place in it
        of_total: Tensor = densities.NegativeBinomial(self.concentration, logits=logits).log_prob(total)
        return of_total + densities.Multinomial(total, self.log_loading).log_prob(counts)

    def posterior(self, x: Counts) -> dist.TorchDistribution:
        """The exact p(z | x), a Gamma of batch shape [B] and event shape [1], at x [B, D]."""
        counts, exposure = self._split(x)
        concentration = self.concentration + counts.sum(-1, keepdim=True)
        rate = self.rate + exposure[:, None] * self.loading.sum()
        return independent(dist.Gamma(concentration, rate.expand_as(concentration)), (1,))

    def with_posterior(self, posterior: ConditionalDistribution | None) -> GammaPoisson:
        """This model (the same parameters, shared) with another guide; None for the exact posterior."""
        other = GammaPoisson(self.data_dim, posterior=posterior)
        for name in ("log_concentration", "log_rate", "log_loading"):
            setattr(other, name, getattr(self, name))
        return other

    def model(self, x: Counts, num_data: int | None = None) -> None:
        """p(z) p(x | z) of a batch x [B, D] or a mapping with its exposure."""
        counts, exposure = self._split(x)
        with self.data_plate(x, num_data):
            z = pyro.sample("z", independent(dist.Gamma(self.concentration[None], self.rate[None]), (1,)))
            log_rate = self.log_loading + exposure.log()[:, None] + z.log()
            pyro.sample("x", independent(densities.Poisson(log_rate), (self.data_dim,)), obs=counts)

    def guide(self, x: Counts, num_data: int | None = None) -> None:
        """q(z | x) of a batch x [B, D] or a mapping with its exposure."""
        with self.data_plate(x, num_data):
            pyro.sample("z", self.posterior(x) if self.encoder is None else self.encoder(self._split(x)[0]))

    def _split(self, x: Counts) -> tuple[Tensor, Tensor]:
        """Counts [B, D] and exposures [B]."""
        counts = x["x"] if isinstance(x, Mapping) else x
        if counts.dim() != 2 or counts.shape[1] != self.data_dim:
            raise DataError(
                f"expected x [B, D] with D = {self.data_dim}, found {list(counts.shape)}"
                + try_one_of(f"GammaPoisson({counts.shape[-1] if counts.dim() else 1}), for these data")
            )
        if not isinstance(x, Mapping) or "exposure" not in x:
            return counts, torch.ones_like(counts[:, 0], dtype=self.log_rate.dtype)
        return counts, for_each_datum(x["exposure"], counts.shape[:1], "exposure").expand(len(counts))
