"""Where values lie: a density is zero elsewhere, in every waist function, and data that are elsewhere are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions.transforms as T
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints

from ppvae.core import FitError, ModelGuidePair, PairError, check_pair, log_joint
from ppvae.core.support import log_density, require_bijections, support_of
from ppvae.inference import elbo, evaluate_bound, evidence, fit, log_evidence

Program = Callable[[Any], None]


@pytest.fixture
def _unchecked() -> Any:
    """As in recorded functions, no distribution validates its values."""
    with pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False):
        yield


def shifted(family: Any, *transforms: Any) -> Any:
    return dist.TransformedDistribution(family, [*transforms])


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (lambda: shifted(dist.Exponential(1.0), T.AffineTransform(0.5, 1.0)), 0.5, math.inf),
        (lambda: shifted(dist.Exponential(1.0), T.AffineTransform(0.5, -2.0)), -math.inf, 0.5),
        (lambda: shifted(dist.Weibull(1.0, 2.0), T.AffineTransform(-1.0, 1.0)), -1.0, math.inf),
        (lambda: shifted(dist.Uniform(0.0, 1.0), T.AffineTransform(1.0, -3.0)), -2.0, 1.0),
        (lambda: shifted(dist.Normal(0.0, 1.0), T.ExpTransform(), T.AffineTransform(2.0, 1.0)), 2.0, math.inf),
        (lambda: shifted(dist.Normal(0.0, 1.0), T.SigmoidTransform(), T.AffineTransform(0.0, 4.0)), 0.0, 4.0),
        (lambda: shifted(dist.Exponential(1.0), T.SigmoidTransform()), 0.5, 1.0),
        (lambda: dist.LogNormal(0.0, 1.0), 0.0, math.inf),
        (lambda: dist.Gamma(1.0, 1.0).expand([3]).to_event(1), 0.0, math.inf),
        (lambda: shifted(dist.Exponential(1.0).expand([3]).to_event(1), T.AffineTransform(0.5, 1.0)), 0.5, math.inf),
    ],
)
def test_the_support_is_the_image_of_the_base(make: Callable[[], Any], least: float, most: float) -> None:
    fn = make()
    support = support_of(fn)
    assert support is not None and support.event_dim == len(fn.event_shape)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    assert torch.as_tensor([float(low), float(high)]).tolist() == pytest.approx([least, most], abs=1e-6)
    values = torch.linspace(-6.0, 6.0, 200)[:, None].expand(200, *fn.event_shape or (1,))
    values = values if fn.event_shape else values[:, 0]
    found = log_density({"fn": fn, "value": values, "infer": {}})
    inside = ((values > least) & (values < most)).reshape(200, -1).all(1)
    torch.testing.assert_close(found[inside], fn.log_prob(values)[inside], equal_nan=True)
    assert bool((found[~inside & ((values != least) & (values != most)).reshape(200, -1).all(1)] == -math.inf).all())


@pytest.mark.usefixtures("_unchecked")
def test_what_is_masked_out_may_be_anywhere() -> None:
    fn = dist.Exponential(torch.ones(2)).mask(torch.tensor([True, False])).to_event(1)
    found = log_density({"fn": fn, "value": torch.tensor([[1.0, -5.0], [-1.0, 2.0]]), "infer": {}})
    assert found.tolist() == [-1.0, -math.inf]


X = torch.tensor([[0.8], [0.3], [2.0], [0.55]])


def in_plate(body: Callable[[Tensor], None]) -> Program:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            body(x[:, 0])

    return program


def start_time(x: Tensor) -> None:
    """A waiting time from a start that is not known: z lies before x."""
    z = pyro.sample("z", dist.Exponential(torch.tensor(2.0)))
    pyro.sample("x", dist.Exponential(torch.tensor(1.0)), obs=x - z)


def shifted_likelihood(x: Tensor) -> None:
    z = pyro.sample("z", dist.Exponential(torch.tensor(2.0)))
    pyro.sample("x", shifted(dist.Exponential(torch.tensor(1.0)), T.AffineTransform(z, 1.0)), obs=x)


def below(x: Tensor) -> None:
    z = pyro.sample("z", dist.Exponential(torch.tensor(2.0)))
    pyro.sample("x", dist.Uniform(torch.zeros_like(z), z + 0.01), obs=x)


def shifted_prior(x: Tensor) -> None:
    z = pyro.sample("z", shifted(dist.Exponential(torch.tensor(2.0)), T.AffineTransform(0.25, 1.0)))
    pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def same(x: Tensor) -> None:
    pyro.sample("z", dist.Exponential(torch.tensor(1.0)))


def same_shifted(x: Tensor) -> None:
    pyro.sample("z", shifted(dist.Exponential(torch.tensor(1.0)), T.AffineTransform(0.25, 1.0)))


def truth(log_joint_at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    z = torch.linspace(0.0, 30.0, 600_001, dtype=torch.float64)[:, None]
    return torch.logsumexp(log_joint_at(z, X[:, 0].double()), 0) + math.log(float(z[1] - z[0]))


def log_exponential(value: Tensor, rate: float) -> Tensor:
    return torch.where(value >= 0, math.log(rate) - rate * value, -math.inf)


@pytest.mark.parametrize(
    ("model", "guide", "joint"),
    [
        (start_time, same, lambda z, x: log_exponential(z, 2.0) + log_exponential(x - z, 1.0)),
        (shifted_likelihood, same, lambda z, x: log_exponential(z, 2.0) + log_exponential(x - z, 1.0)),
        (below, same, lambda z, x: torch.where(x <= z + 0.01, log_exponential(z, 2.0) - (z + 0.01).log(), -math.inf)),
        (
            shifted_prior,
            same_shifted,
            lambda z, x: log_exponential(z - 0.25, 2.0) + dist.Normal(z, 0.5).log_prob(x.float()).double(),
        ),
    ],
)
def test_the_evidence_is_that_of_quadrature(model: Any, guide: Any, joint: Any) -> None:
    pair = ModelGuidePair.from_callables(in_plate(model), in_plate(guide))
    for method in (evidence.ImportanceSampling(4000), evidence.PriorSampling(4000)):
        found = log_evidence(pair, X, method=method, progress=False)
        error = (found.log_evidence - truth(joint)).abs()
        assert bool((error < 4.5 * found.standard_error + 1e-4).all()), (method, found.log_evidence, truth(joint))


def test_hmc_stays_where_the_prior_is() -> None:
    from ppvae.inference import sample_posterior

    pair = ModelGuidePair.from_callables(in_plate(shifted_prior), in_plate(same_shifted))
    draws = sample_posterior(pair, X, num_samples=200, num_warmup=100, num_chains=2, progress=False)
    latents, _ = draws.coordinates.constrain(draws.unconstrained)
    assert float(latents["z"].min()) >= 0.25


def normal_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(x, 0.5))


def test_a_guide_over_the_reals_is_refused_wherever_in_the_batch_it_leaves_the_support() -> None:
    pair = ModelGuidePair.from_callables(in_plate(shifted_prior), in_plate(normal_guide))
    with pytest.raises(PairError, match="draws values outside the support of the prior"):
        log_evidence(pair, X, progress=False)
    far = torch.cat([torch.full((30, 1), 9.0), torch.full((10, 1), 0.3)])  # sorted: the first rows tell nothing
    with pytest.raises(PairError, match="draws values outside the support of the prior"):
        check_pair(pair, far)


class Walks(ModelGuidePair):
    """A guide that starts inside the support of its prior, and is drawn out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor(3.0))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Exponential(torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, 0.4), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x)), 0.2))


def test_training_that_leaves_the_support_stops_and_names_the_site() -> None:
    with pytest.raises(FitError, match=r"site 'z' has a log density .* where the prior has no density"):
        fit(Walks(), torch.full((50, 1), 0.1), num_epochs=200, learning_rate=0.2, elbo=elbo.TraceELBO(), progress=False)


# --- data that a likelihood does not have, beyond the batch that is checked first ---


def observing(family: Callable[[Tensor], Any], value: Callable[[Tensor], Tensor]) -> ModelGuidePair:
    class Pair(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.sample("t", family(z), obs=value(x))

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return Pair()


def categorical(z: Tensor) -> Any:
    return dist.Categorical(logits=z[..., None] * torch.ones(3))


@pytest.mark.parametrize(
    ("family", "value", "good", "bad"),
    [
        (lambda z: dist.Exponential(z.exp()), lambda x: x[:, 0], 1.0, -1.0),
        (lambda z: dist.Exponential(z.exp()), lambda x: 1 - x[:, 0], 0.5, 2.0),
        (lambda z: dist.Poisson(z.exp()), lambda x: x[:, 1], 2.0, 1.5),
        (lambda z: dist.Binomial(10, logits=z), lambda x: x[:, 0], 3.0, 12.0),
        (categorical, lambda x: x[:, 0], 2.0, 3.0),
    ],
)
def test_all_data_are_checked_before_training(family: Any, value: Any, good: float, bad: float) -> None:
    x = torch.full((200, 2), good)
    fit(observing(family, value), x, num_epochs=1, batch_size=20, progress=False)
    x[150] = bad
    for verb in (
        lambda: fit(observing(family, value), x, num_epochs=1, batch_size=20, progress=False),
        lambda: evaluate_bound(observing(family, value), x, elbo=elbo.TraceELBO(), progress=False),
    ):
        with pytest.raises(PairError, match="site 't': expected data in the support"):
            verb()


def test_a_guide_with_parameters_for_every_datum_sees_all_data_at_once() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("t", dist.Exponential(z.exp()), obs=x[:, 1])

    x = torch.rand(1100, 2)
    fit(ModelGuidePair.from_callables(model, AutoNormal(model)), x, num_epochs=1, batch_size=None, progress=False)
    x[1050, 1] = -1.0
    with pytest.raises(PairError, match="site 't': expected data in the support"):
        fit(ModelGuidePair.from_callables(model, AutoNormal(model)), x, num_epochs=1, batch_size=None, progress=False)


def test_a_support_that_a_latent_moves_refuses_no_data() -> None:
    """Uniform(0, z): one draw of z below x says nothing of x."""
    pair = ModelGuidePair.from_callables(in_plate(below), in_plate(same))
    for seed in range(5):
        pyro.set_rng_seed(seed)
        check_pair(pair, X)
    assert bool((log_joint(pair, X, {"z": torch.full((1, 4), 0.1)}).local == -math.inf).all())


def with_prior(make: Callable[[], Any]) -> ModelGuidePair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", make())
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x[:, 0].log(), 0.8))

    return ModelGuidePair.from_callables(model, guide)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: shifted(dist.Normal(0.0, 1.0), T.PowerTransform(2.0)),
            "PowerTransform .* from 0 to inf, .* from -inf",
        ),
        (lambda: shifted(dist.Uniform(-1.0, 1.0), T.PowerTransform(2.0)), "from 0 to inf, .* go from -1 to 1"),
        (
            lambda: shifted(dist.Exponential(1.0), T.AffineTransform(-2.0, 1.0), T.PowerTransform(2.0)),
            "go from -2 to inf",
        ),
        (lambda: shifted(dist.Normal(0.0, 1.0), T.AbsTransform()), "AbsTransform .* several values of one image"),
        (
            lambda: shifted(shifted(dist.Normal(0.0, 1.0), T.AbsTransform()), T.AffineTransform(1.0, 2.0)),
            "AbsTransform .* several values of one image",
        ),
    ],
)
def test_what_no_bijection_makes_has_no_density(make: Callable[[], Any], words: str) -> None:
    """Of the square of a normal PyTorch has half of the density, that of the positive half."""
    with pytest.raises(PairError, match=f"site 'z': .*{words}"):
        log_evidence(with_prior(make), torch.tensor([[0.4], [1.2]]), progress=False)


def test_a_bijection_of_what_lies_in_its_domain_is_served() -> None:
    """The square of a half-normal is chi-squared; the logit of a uniform is logistic."""
    x = torch.tensor([[0.4], [1.2], [3.0]])
    squared = with_prior(lambda: shifted(dist.HalfNormal(1.0), T.PowerTransform(2.0)))
    direct = with_prior(lambda: dist.Chi2(torch.tensor(1.0)))
    for value in (0.1, 1.0, 4.0):
        z = {"z": torch.full((1, 3), value)}
        torch.testing.assert_close(log_joint(squared, x, z).local, log_joint(direct, x, z).local)
    check_pair(squared, x)
    require_bijections("z", shifted(dist.Uniform(0.0, 1.0), T.SigmoidTransform().inv, T.ExpTransform()))
    # The unit interval ends at 1.0000001 here, by rounding.
    require_bijections(
        "z", shifted(dist.Uniform(0.0, 0.1), T.AffineTransform(0.0, 10.000001), T.SigmoidTransform().inv)
    )
    require_bijections("z", dist.FoldedDistribution(dist.Normal(0.0, 1.0)))
