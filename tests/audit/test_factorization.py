"""Models that read what they observe, observe it twice or leave out possible values: refused; ordered ones: exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, as_one_datum
from ppvae.inference import fit, log_evidence
from ppvae.inference.evidence import ImportanceSampling

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
COUNTS = torch.poisson(torch.full((12, 4), 1.0), generator=torch.Generator().manual_seed(2))
Program = Callable[..., Any]


def latent() -> Tensor:
    """z of each datum, [..., B, 1]."""
    z: Tensor = pyro.sample("z", dist.Normal(0.0, 1.0))
    return z[..., None]


def wide(*x: Tensor) -> None:
    """The prior, a little wider."""
    with pyro.plate("data", len(x[0])):
        pyro.sample("z", dist.Normal(0.0, 1.2))


def pair_of(inside: Program, guide: Program = wide) -> ModelGuidePair:
    """The pair whose model is this inside the plate over data."""

    def model(*x: Tensor) -> None:
        with pyro.plate("data", len(x[0])):
            inside(*x)

    return ModelGuidePair.from_callables(model, guide)


def shifted(x: Tensor) -> Tensor:
    """What stands one step before, zero at first."""
    return nn.functional.pad(x[..., :-1], (1, 0))


def observe(mean: Tensor, x: Tensor, scale: float = 1.0) -> None:
    pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


# --- refused ------------------------------------------------------------------------------------------------------


def own_value(x: Tensor) -> None:
    observe(latent() + 0.9 * x, x)


def both_neighbours(x: Tensor) -> None:
    observe(latent() + 0.5 * shifted(x) + 0.5 * shifted(x.flip(-1)).flip(-1), x)


def prior_of_data(x: Tensor) -> None:
    observe(pyro.sample("z", dist.Normal(x.mean(-1), 1.0))[..., None].expand(x.shape), x)


def crossed(x: Tensor) -> None:
    z = latent()[..., 0]
    pyro.sample("a", dist.Normal(z + x[:, 1], 1.0), obs=x[:, 0])
    pyro.sample("b", dist.Normal(z + x[:, 0], 1.0), obs=x[:, 1])


def total_of_own(x: Tensor) -> None:
    pyro.sample("x", dist.Poisson(x.sum(-1, keepdim=True) * (0.1 + latent().sigmoid() + 0 * x)).to_event(1), obs=x)


def class_of_data(x: Tensor) -> None:
    z = latent()
    y = pyro.sample("y", dist.Bernoulli(logits=x[:, 0]), infer={"enumerate": "parallel"})
    observe(z + y[..., None] + 0 * x, x)


class Untrained(nn.Module):
    """A network whose last weights start at zero, so that nothing depends on its input yet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        nn.init.zeros_(self.layer.weight)


class Residual(ModelGuidePair):
    """A decoder with a connection to the data that it explains."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Untrained()

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            observe(latent() + self.net.layer(x), x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.0, 1.0))


READS: dict[str, tuple[Callable[[], ModelGuidePair], Tensor, str]] = {
    "its own value": (
        lambda: pair_of(own_value),
        X,
        "site 'x': the distribution of entry 0 depends on what is observed",
    ),
    "values on both sides": (lambda: pair_of(both_neighbours), X, "entry 1 of 'x' on entry 0 of 'x'"),
    "in the prior": (lambda: pair_of(prior_of_data), X, "site 'x': its distribution depends on what it obs.*'z'"),
    "two sites each other": (lambda: pair_of(crossed), X, "entry 0 of 'b' on entry 0 of 'a'"),
    "its own total": (lambda: pair_of(total_of_own), COUNTS, "a total, as a member of its own"),
    "in a class that is summed out": (lambda: pair_of(class_of_data), X, "'y'"),
    "by weights that are zero yet": (Residual, X, "'x'"),
    "all data as one": (lambda: as_one_datum(pair_of(own_value)), X[None], "'x'"),
    "one datum": (lambda: pair_of(own_value), X[:1], "'x'"),
}


@pytest.mark.parametrize("how", READS)
def test_a_model_that_reads_what_it_observes_is_refused(how: str) -> None:
    """All of these had an evidence with an error bar, and a bound that training raised for ever."""
    make, data, message = READS[how]
    with pytest.raises(PairError, match=f"(?s){message}"):
        log_evidence(make(), data, progress=False)
    with pytest.raises(PairError, match="no density of the data"):
        fit(make(), data, num_epochs=1, progress=False)


def test_data_that_two_sites_observe_are_refused() -> None:
    def twice(x: Tensor) -> None:
        z = latent()
        observe(z + 0 * x, x)
        pyro.sample("again", dist.Normal(2 * z[..., 0], 1.0), obs=x[:, 2])

    with pytest.raises(PairError, match="sites 'x' and 'again' observe the same entries"):
        log_evidence(pair_of(twice), X, progress=False)


def test_values_for_several_plates_are_refused() -> None:
    def repeated(x: Tensor) -> None:
        z = latent()[..., 0]
        with pyro.plate("replicates", 3, dim=-2):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    with pytest.raises(PairError, match=r"expected values of shape \[3, 12\], found \[12\]"):
        log_evidence(pair_of(repeated), X, progress=False)


def test_a_mask_that_leaves_out_zeros_is_refused() -> None:
    def counts(x: Tensor) -> None:
        pyro.sample("x", dist.Poisson(latent().exp() + 0 * x).mask(x > 0).to_event(1), obs=x)

    with pytest.raises(PairError, match="its mask depends on its own values and leaves out 0, which its Poisson can"):
        log_evidence(pair_of(counts), COUNTS, progress=False)


def test_a_mask_that_leaves_out_what_lies_below_a_limit_is_refused() -> None:
    def censored(x: Tensor) -> None:
        z = latent()[..., 0]
        with poutine.mask(mask=x[:, 0] > -0.5):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("rest", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=x[:, 1:])

    with pytest.raises(PairError, match="its mask depends on its own values and leaves out -"):
        log_evidence(pair_of(censored), X, progress=False)


# --- served -------------------------------------------------------------------------------------------------------


def agrees(pair: ModelGuidePair, x: Any, exact: Tensor) -> None:
    """The evidence of every datum is within five of its errors of the exact one."""
    torch.manual_seed(0)
    found = log_evidence(pair, x, method=ImportanceSampling(20_000), progress=False)
    assert found.estimated.all()
    off = (found.log_evidence - exact).abs()
    assert bool((off <= 5 * found.standard_error + 1e-3).all()), off


def normal(x: Tensor, covariance: Tensor) -> Tensor:
    value: Tensor = dist.MultivariateNormal(torch.zeros(len(covariance)), covariance).log_prob(x)
    return value


def test_an_autoregressive_likelihood_is_exact() -> None:
    """The matrix of x_t - x_{t-1} / 2 has a determinant of one."""

    def chain(x: Tensor) -> None:
        observe(latent() + 0.5 * shifted(x), x)

    agrees(pair_of(chain), X, normal(X - 0.5 * shifted(X), torch.ones(4, 4) + torch.eye(4)))


@pytest.mark.parametrize("vectorised", [True, False])
def test_latents_that_follow_what_was_observed_before_are_exact(vectorised: bool) -> None:
    """z_t ~ N(x_{t-1}, 1), x_t ~ N(z_t, 1), as in a variational recurrent network: x_t ~ N(x_{t-1}, 2)."""

    def model(x: Tensor) -> None:
        if vectorised:
            observe(pyro.sample("z", dist.Normal(shifted(x), 1.0).to_event(1)), x)
            return
        for step in range(2):
            z = pyro.sample(f"z{step}", dist.Normal(x[:, step - 1] if step else 0.0, 1.0))
            pyro.sample(f"x{step}", dist.Normal(z, 1.0), obs=x[:, step])

    def given(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if vectorised:
                pyro.sample("z", dist.Normal((shifted(x) + x) / 2, 0.8).to_event(1))
                return
            for step in range(2):
                pyro.sample(f"z{step}", dist.Normal(x[:, step] / 2, 1.0))

    data = X if vectorised else X[:, :2]
    exact = dist.Normal(shifted(data), math.sqrt(2)).log_prob(data).sum(-1)
    agrees(pair_of(model, given), data, exact)


def test_covariates_may_be_read_by_all() -> None:
    def model(c: Tensor, y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("y", dist.Normal(z + c, 1.0), obs=y)

    c, y = X[:, 0].contiguous(), X[:, 1].contiguous()

    def given(c: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(y / 2, 0.9))

    agrees(pair_of(model, given), (c, y), dist.Normal(2 * c, math.sqrt(2)).log_prob(y))


def test_counts_given_their_total_are_served() -> None:
    """log p(x | n, z), with n read off x."""

    def counts(x: Tensor) -> None:
        n = int(x.sum(-1).max())
        logits = latent() * torch.tensor([1.0, 0.0, 0.0, 0.0])
        pyro.sample("x", dist.Multinomial(total_count=n, logits=logits, validate_args=False), obs=x)

    z = torch.linspace(-8, 8, 4001)[:, None]
    log_q = torch.log_softmax(torch.cat([z, torch.zeros(4001, 3)], -1), -1)
    log_p = COUNTS @ log_q.T + (COUNTS.sum(-1) + 1).lgamma()[:, None] - (COUNTS + 1).lgamma().sum(-1, keepdim=True)
    exact = (log_p + dist.Normal(0.0, 1.0).log_prob(z[:, 0])).logsumexp(1) + math.log(float(z[1, 0] - z[0, 0]))
    agrees(pair_of(counts), COUNTS, exact)


def test_sites_that_share_the_data_out_are_exact() -> None:
    """Data above zero in the first column belong to one site, the others to another."""

    def model(kind: Tensor, x: Tensor) -> None:
        z = latent()[..., 0]
        for name, scale, mine in (("narrow", 0.5, kind > 0), ("wide", 2.0, kind <= 0)):
            with poutine.mask(mask=mine):
                pyro.sample(name, dist.Normal(z, scale), obs=x)

    def given(kind: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0))

    kind, x = X[:, 0].contiguous(), X[:, 1].contiguous()
    variance = 1 + torch.where(kind > 0, 0.25, 4.0)
    agrees(pair_of(model, given), (kind, x), dist.Normal(0.0, variance.sqrt()).log_prob(x))


def test_a_hurdle_is_served() -> None:
    """A coin says whether there is anything, and a gamma how much: zero is no value of the gamma."""
    x = X[:, :1].relu()

    def hurdle(x: Tensor) -> None:
        z = latent()[..., 0]
        pyro.sample("any", dist.Bernoulli(logits=z), obs=(x[:, 0] > 0).float())
        with poutine.mask(mask=x[:, 0] > 0):
            pyro.sample("x", dist.Gamma(2.0, z.exp(), validate_args=False), obs=x[:, 0])

    z = torch.linspace(-8, 8, 4001)
    amount = dist.Gamma(2.0, z.exp(), validate_args=False).log_prob(x.clamp(min=1e-9))
    log_p = dist.Bernoulli(logits=z).log_prob((x > 0).float()) + torch.where(x > 0, amount, 0.0)
    exact = (log_p + dist.Normal(0.0, 1.0).log_prob(z)).logsumexp(1) + math.log(float(z[1] - z[0]))
    agrees(pair_of(hurdle), x, exact)


def test_a_number_in_place_of_what_is_missing_is_no_value() -> None:
    x, seen = torch.where(X > 1.0, -999.0, X), X <= 1.0

    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(latent() + torch.zeros(4), 1.0).mask(x != -999.0).to_event(1), obs=x)

    exact = torch.stack(
        [
            normal(row[s], torch.ones(int(s.sum()), int(s.sum())) + torch.eye(int(s.sum())))
            for row, s in zip(X, seen, strict=True)
        ]
    )
    agrees(pair_of(model), x, exact)


def test_classes_of_covariates_may_be_summed_out() -> None:
    """y ~ Bernoulli(sigmoid(c)), x ~ N(z + y, 1): a mixture of two normals."""

    @config_enumerate
    def model(c: Tensor, x: Tensor) -> None:
        z = latent()[..., 0]
        y = pyro.sample("y", dist.Bernoulli(logits=c))
        pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    c, x = X[:, 0].contiguous(), X[:, 1].contiguous()
    parts = [
        dist.Bernoulli(logits=c).log_prob(torch.tensor(y)) + dist.Normal(y, math.sqrt(2)).log_prob(x)
        for y in (0.0, 1.0)
    ]
    agrees(pair_of(model), (c, x), torch.logaddexp(*parts))
