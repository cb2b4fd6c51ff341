"""Sites that are summed out: the sum against brute force over all values, its gradient, memory, draws and refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ppvae.core import (
    ModelGuidePair,
    PairError,
    check_pair,
    discrete_marginals,
    draw,
    draw_all_values,
    draw_discrete,
    local_parameters,
    log_guide,
    log_joint,
    predict,
    simulate,
    site_terms,
    structure,
    sum_out,
    unconstrained,
)
from ppvae.core.compile import bind, capture, state_of
from ppvae.distributions import draw_gaps, observe_with_gaps
from ppvae.inference import elbo, evidence, log_evidence

PARALLEL: Any = {"enumerate": "parallel"}
K, D = 3, 2


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Base(ModelGuidePair):
    """z ~ N(0, 1) for every datum, and tables that the models read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.initial = nn.Parameter(torch.randn(K))
        self.transition = nn.Parameter(torch.randn(K, K))
        self.loc = nn.Parameter(torch.randn(K, D))

    def guide(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    def emission(self, y: Tensor, z: Tensor | float = 0.0) -> Any:
        shift = z.unsqueeze(-1) if isinstance(z, Tensor) else z
        return dist.Normal(Vindex(self.loc)[y] + shift, 0.7).to_event(1)


class Mixture(Base):
    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", self.emission(y, z), obs=x)

    def brute(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, y | z) by value, [K, *S, B]."""
        prior = self.initial.log_softmax(0)
        return torch.stack([prior[k] + self.emission(torch.tensor(k), z).log_prob(x) for k in range(K)])


class PriorOfStyle(Base):
    """The prior of z depends on y."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(Vindex(self.loc)[y, 0], 1.0))
            pyro.sample("x", self.emission(y, z), obs=x)


class Chain(Base):
    """y_0 -> y_1 -> ..., with an observation each; x [B, T, D]."""

    markov = True

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        steps: Any = range(x.shape[1])
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            logits = self.initial
            for t in pyro.markov(steps) if self.markov else steps:
                y = pyro.sample(f"y_{t}", dist.Categorical(logits=logits), infer=PARALLEL)
                logits = Vindex(self.transition)[y]
                pyro.sample(f"x_{t}", self.emission(y, z), obs=x[:, t])

    def brute(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, y | z) of every path, [K, ..., K, *S, B]."""
        steps = x.shape[1]
        initial, transition = self.initial.log_softmax(0), self.transition.log_softmax(1)
        paths = []
        for path in itertools.product(range(K), repeat=steps):
            prior = initial[path[0]] + sum(transition[a, b] for a, b in itertools.pairwise(path))
            likely = [self.emission(torch.tensor(k), z).log_prob(x[:, t]) for t, k in enumerate(path)]
            paths.append(prior + sum(likely))
        return torch.stack(paths).reshape(*(K,) * steps, *z.shape)


class Nested(Base):
    """A class c of the datum, and a class y of each of its M parts; x [B, M, D]."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("parts", x.shape[1], dim=-2):
                y = pyro.sample("y", dist.Categorical(logits=Vindex(self.transition)[c.long()]), infer=PARALLEL)
                pyro.sample("x", self.emission(y, z), obs=x.movedim(1, 0))

    def brute(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, c | z), [2, *S, B]."""
        transition = self.transition.log_softmax(1)
        values = []
        for c, prior in enumerate((0.7, 0.3)):
            parts = [transition[c, k] + self.emission(torch.tensor(k), z[..., None]).log_prob(x) for k in range(K)]
            values.append(math.log(prior) + torch.stack(parts).logsumexp(0).sum(-1))
        return torch.stack(values)


CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mixture": (Mixture, (4, D)),
    "chain": (Chain, (4, 4, D)),
    "nested": (Nested, (4, 3, D)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axes", [(), (1,), (5,), (2, 3)])
def test_sum_is_that_over_all_values(case: str, axes: tuple[int, ...]) -> None:
    make, shape = CASES[case]
    pair, x = make(), torch.randn(shape)
    check_pair(pair, x)
    z = torch.randn(*axes, 4)
    terms = log_joint(pair, x, {"z": z})
    truth = pair.brute(x, z)
    truth = truth.flatten(0, truth.dim() - z.dim() - 1).logsumexp(0)
    assert terms.local.shape == z.shape
    torch.testing.assert_close(terms.observed, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.local, truth + dist.Normal(0.0, 1.0).log_prob(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_over_all_values_captured_too(case: str) -> None:
    make, shape = CASES[case]
    pair, x, z = make(), torch.randn(shape), torch.randn(2, 4, requires_grad=True)
    truth = pair.brute(x, z)
    truth = truth.flatten(0, truth.dim() - 3).logsumexp(0) + dist.Normal(0.0, 1.0).log_prob(z)
    parameters = dict(pair.named_parameters())
    used = [name for name in parameters if case != "mixture" or name != "transition"]
    used = [name for name in used if case != "nested" or name != "initial"]
    wanted = torch.autograd.grad(truth.sum(), [*(parameters[name] for name in used), z])

    def value_and_gradient(state: dict[str, Tensor], x: Tensor, z: Tensor) -> Any:
        with torch.enable_grad():
            state = {name: value.detach().requires_grad_() for name, value in state.items()}
            z = z.detach().requires_grad_()
            local = bind(pair, lambda pair, x, z: log_joint(pair, x, {"z": z}).local)(state, x, z)
            return local, torch.autograd.grad(local.sum(), [*(state[name] for name in used), z])

    for mode in ("eager", "graph"):
        captured = capture(value_and_gradient, mode=mode)  # type: ignore[arg-type]
        value, gradient = captured(state_of(pair), x, z.detach())
        assert captured.fallback == ""
        torch.testing.assert_close(value, truth.detach(), rtol=0, atol=1e-10)
        for found, true in zip(gradient, wanted, strict=True):
            torch.testing.assert_close(found, true, rtol=0, atol=1e-9)


def test_prior_that_depends_on_the_site_is_told_from_the_likelihood() -> None:
    pair, x, z = PriorOfStyle(), torch.randn(4, D), torch.randn(5, 4)
    check_pair(pair, x)
    prior = pair.initial.log_softmax(0)
    of_z = torch.stack([prior[k] + dist.Normal(pair.loc[k, 0], 1.0).log_prob(z) for k in range(K)])
    both = torch.stack([of_z[k] + pair.emission(torch.tensor(k), z).log_prob(x) for k in range(K)])
    terms = log_joint(pair, x, {"z": z})
    torch.testing.assert_close(terms.local, both.logsumexp(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.observed, both.logsumexp(0) - of_z.logsumexp(0), rtol=0, atol=1e-10)
    torch.manual_seed(3)
    found = site_terms(pair, x, 6)
    assert (found["z"].route, found["x"].route) == ("sampled", "observed")
    assert "summed out" in found["z"].reason
    torch.manual_seed(3)
    draws = draw(pair, x, 6)
    total = found["x"].log_p - found["z"].kl
    torch.testing.assert_close(total, log_joint(pair, x, draws.latents).local - draws.log_q, rtol=0, atol=1e-10)


def test_long_chain_takes_linear_time_and_memory() -> None:
    saved: dict[int, int] = {}
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal largest
        saved[steps] = saved.get(steps, 0) + tensor.untyped_storage().nbytes()
        largest = max(largest, tensor.numel())
        return tensor

    pair = Chain()
    pair.initial, pair.transition = nn.Parameter(torch.randn(10)), nn.Parameter(torch.randn(10, 10))
    pair.loc = nn.Parameter(torch.randn(10, D))
    for steps in (50, 200):
        x, z = torch.randn(2, steps, D), torch.randn(2)
        log_joint(pair, x, {"z": z})  # the structure
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            log_joint(pair, x, {"z": z}).local.sum().backward()
    assert saved[200] < 4.2 * saved[50]
    assert largest <= 2 * 10 * 10  # a step's two states for each of two data


def test_sharp_factors_do_not_underflow() -> None:
    """Two states that the data rule out in turn: exponentials of differences from each factor's maximum are zero."""
    pair, z = Chain(), torch.zeros(1, requires_grad=True)
    with torch.no_grad():
        pair.loc.copy_(torch.tensor([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]]))
        pair.transition.copy_(torch.tensor([[0.0, -2000.0, -2000.0], [0.0, 0.0, -2000.0], [0.0, 0.0, 0.0]]))
    x = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0], [0.0, 0.0]]])
    value = log_joint(pair, x, {"z": z}).observed
    truth = pair.brute(x, z).flatten(0, 2).logsumexp(0)
    torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-8)
    (gradient,) = torch.autograd.grad(value.sum(), [z])
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("case", CASES)
def test_posterior_of_the_sites_and_draws_of_it(case: str) -> None:
    make, shape = CASES[case]
    pair, x, z = make(), torch.randn(shape), torch.randn(2, 4)
    truth = pair.brute(x, z).detach()
    variables = truth.dim() - 2
    weight = truth.flatten(0, variables - 1).softmax(0).reshape(truth.shape)
    found = discrete_marginals(pair, x, {"z": z})
    names = [info.name for info in structure(pair, x).enumerated]
    if case == "nested":
        assert found["y"].shape == (2, 4, 3, K)
        torch.testing.assert_close(found["y"].sum(-1), torch.ones(2, 4, 3))
        names = ["c"]
    for place, name in enumerate(names):
        others = [axis for axis in range(variables) if axis != place]
        marginal = (weight.sum(others) if others else weight).movedim(0, -1)
        torch.testing.assert_close(found[name], marginal, rtol=0, atol=1e-10)
    # Draws are joint: the share of every combination is its probability.
    count = 3000
    value = draw_discrete(pair, x, {"z": z.expand(count, 2, 4)})
    at = _flat_index([value[name].long() for name in names], truth.shape[:variables])
    shares = torch.stack([(at == index).double().mean(0) for index in range(weight[..., 0, 0].numel())])
    shares = shares.reshape(weight.shape)
    likely = weight > 10 / count
    score = (shares - weight)[likely] / (weight * (1 - weight) / count).sqrt()[likely]
    assert float(score.square().mean().sqrt()) < 1.5
    assert float(score.abs().max()) < 5


def _flat_index(at: list[Tensor], sizes: tuple[int, ...]) -> Tensor:
    index = torch.zeros_like(at[0])
    for place, size in enumerate(sizes):
        index = index * size + at[place]
    return index


def test_predictions_average_over_the_sites() -> None:
    pair, x, z = Mixture(), torch.randn(4, D), torch.randn(3, 4)
    means = torch.stack([pair.loc[k] + z[..., None] for k in range(K)]).detach()
    posterior, prior = pair.brute(x, z).softmax(0).detach(), pair.initial.softmax(0).detach()
    for given, weight in ((None, posterior), ({}, prior[:, None, None].expand(K, 3, 4))):
        mean = (weight[..., None] * means).sum(0)
        variance = 0.49 + (weight[..., None] * (means - mean).square()).sum(0)
        pair.requires_grad_(False)
        found = {kind: predict(pair, x, {"z": z}, kind=kind, given=given)["x"] for kind in ("mean", "variance")}  # type: ignore[arg-type]
        torch.testing.assert_close(found["mean"], mean)
        torch.testing.assert_close(found["variance"], variance)
        many = {"z": z.expand(4000, 3, 4)}
        draws = predict(pair, x, many, kind="sample", given=given)["x"]
        score = (draws.mean(0) - mean) / (variance / 4000).sqrt()
        assert float(score.abs().max()) < 4.5
    by_data = predict(pair, x, {"z": z}, given={}, discrete="data")["x"]
    torch.testing.assert_close(by_data, (posterior[..., None] * means).sum(0))


def test_simulation_draws_the_sites() -> None:
    pair, x = Mixture().requires_grad_(False), torch.zeros(6000, D)
    drawn = simulate(pair, x)
    assert set(drawn.latents) == {"z"}
    weight = pair.initial.softmax(0).detach()
    mean = (weight[:, None] * pair.loc.detach()).sum(0)
    score = (drawn.observed["x"].mean(0) - mean) / (drawn.observed["x"].std(0) / 6000**0.5)
    assert float(score.abs().max()) < 4.5


# --- masks, and labels with gaps ------------------------------------------------------------------


class Masked(Base):
    """A chain of which some data have fewer steps: what is masked out counts for nothing."""

    def model(self, batch: Any, num_data: int | None = None) -> None:
        x, lengths = batch["x"], batch["lengths"]
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            logits = self.initial
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    y = pyro.sample(f"y_{t}", dist.Categorical(logits=logits), infer=PARALLEL)
                    logits = Vindex(self.transition)[y]
                    pyro.sample(f"x_{t}", self.emission(y, z), obs=x[:, t])


def test_masked_steps_count_for_nothing() -> None:
    """Pyro's own sum counts log K for every masked site."""
    pair, whole = Masked(), Chain()
    batch = {"x": torch.randn(3, 4, D), "lengths": torch.tensor([4, 2, 1])}
    check_pair(pair, batch)
    z = torch.randn(3)
    found = log_joint(pair, batch, {"z": z}).observed
    for row, length in enumerate((4, 2, 1)):
        x = batch["x"][row : row + 1, :length]
        torch.testing.assert_close(found[row : row + 1], log_joint(whole, x, {"z": z[row : row + 1]}).observed)


class GapsInLabels(ModelGuidePair):
    def __init__(self, guided: bool, categorical: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.classifier = nn.Linear(D, K)
        self.loc = nn.Parameter(torch.randn(K, D))
        self.guided, self.categorical = guided, categorical

    def of(self, logits: Tensor) -> Any:
        return dist.Categorical(logits=logits) if self.categorical else dist.OneHotCategorical(logits=logits)

    def model(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y = observe_with_gaps("y", self.of(torch.arange(3.0).expand(len(x), 3)), batch["label"])
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            loc = Vindex(self.loc)[y.long()] if self.categorical else y @ self.loc
            pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 0.7).to_event(1), obs=x)

    def guide(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y: Any = 0.0
            if self.guided:
                y = draw_gaps("y", self.of(self.classifier(x)), batch["label"])
                y = y.double() if self.categorical else y[..., 0]
            pyro.sample("z", dist.Normal(0.1 * x[:, 0] + 0.2 * y, 1.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@pytest.mark.parametrize("categorical", [False, True])
def test_labels_are_observed_where_given_and_summed_out_elsewhere(dtype: torch.dtype, categorical: bool) -> None:
    pair = GapsInLabels(guided=False, categorical=categorical)
    labels = torch.tensor([0, -1, 2, -1, 1], dtype=dtype)
    batch = {"x": torch.randn(5, D), "label": labels}
    check_pair(pair, batch)
    z = torch.randn(4, 5)
    prior = torch.arange(3.0).log_softmax(0)
    by_class = torch.stack(
        [prior[k] + dist.Normal(pair.loc[k] + z[..., None], 0.7).log_prob(batch["x"]).sum(-1) for k in range(K)]
    )
    given = by_class.gather(0, labels.clamp_min(0).long().expand(1, 4, 5))[0]
    truth = torch.where(labels >= 0, given, by_class.logsumexp(0))
    torch.testing.assert_close(log_joint(pair, batch, {"z": z}).observed, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("categorical", [False, True])
def test_guide_of_labels_with_gaps_gives_the_same_evidence(categorical: bool) -> None:
    batch = {"x": torch.randn(5, D), "label": torch.tensor([0, -1, 2, -1, 1])}
    summed, guided = (GapsInLabels(guided, categorical) for guided in (False, True))
    check_pair(guided, batch)
    truth = log_joint(summed, batch, {"z": torch.linspace(-8, 8, 4001)[:, None].expand(-1, 5)}).local
    truth = truth.logsumexp(0) + math.log(16 / 4000)
    bound = elbo.ImportanceWeightedELBO(4000).terms(guided, batch).local
    torch.testing.assert_close(bound, truth, rtol=0, atol=0.1)
    averages = torch.stack([elbo.TraceELBO().terms(guided, batch).local for _ in range(50)])
    assert bool((averages.mean(0) < truth + 4 * averages.std(0) / 50**0.5).all())


# --- the guide's own discrete sites ---------------------------------------------------------------


class ClassAndStyle(ModelGuidePair):
    """y and z in both programs, q(z | x, y) q(y | x)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.classifier, self.loc, self.shift = nn.Linear(D, K), nn.Parameter(torch.randn(K, D)), nn.Linear(D, K)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=torch.arange(3.0)), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(Vindex(self.loc)[y] + z.unsqueeze(-1), 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer=PARALLEL)
            shift = Vindex(self.shift(x))[torch.arange(len(x)), y]
            pyro.sample("z", dist.Normal(shift, 0.8))


@pytest.mark.parametrize("particles", [1, 3])
def test_expectation_over_the_guide_is_that_of_trace_enum(particles: int) -> None:
    """Noise for noise: the value and every gradient."""
    pair, x = ClassAndStyle(), torch.randn(4, D)
    check_pair(pair, x)
    stock = TraceEnum_ELBO(max_plate_nesting=1, num_particles=particles, vectorize_particles=True)
    ours: Any = elbo.TraceELBO(num_particles=particles)
    outcomes = []
    for own in (False, True):
        pair.zero_grad()
        torch.manual_seed(7)
        with local_parameters(pair):
            loss = -ours.terms(pair, x).local.sum() if own else stock.differentiable_loss(pair.model, pair.guide, x)
        loss.backward()
        gradients = [p.grad.clone() for p in pair.parameters() if p.grad is not None]
        outcomes.append((loss.detach(), gradients))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0])
    torch.testing.assert_close(outcomes[0][1], outcomes[1][1])


def test_all_values_have_their_probabilities_as_weights() -> None:
    pair, x = ClassAndStyle(), torch.randn(4, D)
    draws = draw_all_values(pair, x, 2)
    assert draws.log_share is not None
    assert draws.latents["y"].shape == draws.log_q.shape == (2 * K, 4)
    shares = draws.log_share.exp() / (2 * K)
    torch.testing.assert_close(shares.sum(0), torch.ones(4))
    by_class = torch.stack([(shares * (draws.latents["y"] == k)).sum(0) for k in range(K)], -1)
    torch.testing.assert_close(by_class, pair.classifier(x).softmax(-1))


@pytest.mark.parametrize("estimator", [elbo.TraceMeanFieldELBO(), elbo.RenyiELBO(0.5), elbo.ImportanceWeightedELBO(4)])
def test_estimators_that_take_all_values(estimator: Any) -> None:
    """On average estimator B is A; the others stay below the evidence."""
    pair, x = ClassAndStyle(), torch.randn(4, D)
    estimator.check(pair, x)
    truth = truth_of(pair, x)
    values = torch.stack([estimator.terms(pair, x).local.detach() for _ in range(300)])
    error = values.std(0) / 300**0.5
    assert bool((values.mean(0) < truth + 4 * error).all())
    if isinstance(estimator, elbo.TraceMeanFieldELBO):
        others = torch.stack([elbo.TraceELBO().terms(pair, x).local.detach() for _ in range(300)])
        score = (values.mean(0) - others.mean(0)) / (error.square() + others.var(0) / 300).sqrt()
        assert float(score.abs().max()) < 4


def test_other_estimators_say_which_take_all_values() -> None:
    with pytest.raises(PairError, match=r"guide site 'y'(?s:.*)TraceELBO"):
        elbo.StickingTheLandingELBO().check(ClassAndStyle(), torch.randn(4, D))


# --- summed out of both programs ------------------------------------------------------------------


def truth_of(pair: ClassAndStyle, x: Tensor) -> Tensor:
    """log p(x), by a fine grid of z."""
    grid = torch.linspace(-9, 9, 2001)
    table = pair.loc[:, None, None] + grid[:, None, None]
    joint = dist.Normal(table, 0.7).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(grid)[:, None]
    total = (joint + torch.arange(3.0).log_softmax(0)[:, None, None]).flatten(0, 1).logsumexp(0)
    return (total + math.log(18 / 2000)).detach()


def test_site_of_both_programs_is_summed_out_of_both() -> None:
    pair, x = ClassAndStyle(), torch.randn(4, D)
    summed = sum_out(pair, "y")
    check_pair(summed, x)
    draws = draw(summed, x, 5)
    assert set(draws.latents) == {"z"}
    probability, z = pair.classifier(x).softmax(-1), draws.latents["z"]
    density = dist.Normal(pair.shift(x), 0.8).log_prob(z[..., None]) + probability.log()
    torch.testing.assert_close(draws.log_q, density.logsumexp(-1))
    torch.testing.assert_close(log_guide(summed, x, {"z": z})[0], density.logsumexp(-1))
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_temperatures=40)):
        found = log_evidence(summed, x, method=method, progress=False, compile="eager")
        assert float(((found.log_evidence - truth_of(pair, x)) / found.standard_error).abs().max()) < 4


def test_summed_pair_says_what_it_does_not_serve() -> None:
    pair, x = ClassAndStyle(), torch.randn(4, D)
    with pytest.raises(PairError, match=r"summed out of the guide(?s:.*)given to sum_out"):
        elbo.TraceELBO().check(sum_out(pair, "y"), x)
    with pytest.raises(PairError, match="given to sum_out"):
        site_terms(sum_out(pair, "y"), x)
    with pytest.raises(PairError, match=r"sum_out: 'z' is no site(?s:.*)enumerate"):
        check_pair(sum_out(pair, "z"), x)
    with pytest.raises(PairError, match=r"sum_out\(pair, 'y'\)"):
        unconstrained(pair, x)


# --- what is refused, by name ---------------------------------------------------------------------


def pair_of(model: Callable[[Any, Tensor], None], guide: Callable[[Any, Tensor], None] | None = None) -> Any:
    class Pair(Base):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            model(self, x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            if guide is None:
                super().guide(x, num_data)
            else:
                guide(self, x)

    return Pair()


def latent() -> Tensor:
    z: Tensor = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
    return z


def global_site(self: Base, x: Tensor) -> None:
    y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
    with self.data_plate(x):
        pyro.sample("x", self.emission(y, latent()), obs=x)


def draws_of_values(self: Base, x: Tensor) -> None:
    infer: Any = {"enumerate": "parallel", "num_samples": 5}
    with self.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=infer)
        pyro.sample("x", self.emission(y, latent()), obs=x)


def no_list_of_values(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Poisson(2.0), infer=PARALLEL)
        pyro.sample("x", dist.Normal((latent() + y).unsqueeze(-1), 1.0).expand([len(x), D]).to_event(1), obs=x)


def many_values_at_once(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        total = latent()
        for i in range(30):
            total = total + pyro.sample(f"y_{i}", dist.Bernoulli(0.5), infer=PARALLEL)
        pyro.sample("x", dist.Normal(total.unsqueeze(-1), 1.0).expand((*total.shape, D)).to_event(1), obs=x)


def sum_over_a_plate(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        z = latent()
        with pyro.plate("parts", 3, dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.5).expand([3, 1]), infer=PARALLEL)
        total = z + y.sum(-2)
        pyro.sample("x", dist.Normal(total.unsqueeze(-1), 1.0).expand((*total.shape, D)).to_event(1), obs=x)


def outside_of_a_plate(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        z = latent()
        with pyro.plate("parts", 3, dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.5).expand([3, 1]), infer=PARALLEL)
        total = z + y.sum(-2, keepdim=True)
        pyro.sample("x", dist.Normal(total.unsqueeze(-1), 1.0).expand((*total.shape, D)).to_event(1), obs=x)


def sum_over_the_data(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Bernoulli(0.5).expand([len(x)]), infer=PARALLEL)
        shift = latent() + y - y.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(shift.unsqueeze(-1), 1.0).expand((*shift.shape, D)).to_event(1), obs=x)


def branch_on_the_shape(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        scale = 0.7 if y.dim() > 1 else 0.9
        mean = Vindex(self.loc)[y] + latent().unsqueeze(-1)
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


def table_without_vindex(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=self.initial).expand([len(x)]), infer=PARALLEL)
        table = self.loc.expand(len(x), K, D)
        mean = table[torch.arange(len(x)), y.reshape(len(x))] + latent().unsqueeze(-1)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def axis_without_plate(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        z = latent()
        parts = [Vindex(self.loc)[y, i] + z for i in range(D)]
        loc = torch.cat([part.reshape(*part.shape[:-2], 1, part.shape[-1]) for part in parts], -2)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x.T)


def masked_and_used(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        with poutine.mask(mask=x[:, 0] > 0):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        pyro.sample("x", self.emission(y, latent()), obs=x)


def masked_in_the_end(self: Base, x: Tensor) -> None:
    """The mask leaves out the last data alone: what a look at the first few does not see."""
    with self.data_plate(x):
        with poutine.mask(mask=torch.arange(len(x)) < 20):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        pyro.sample("x", self.emission(y, latent()), obs=x)


def masked_and_read_by_shape(self: Base, x: Tensor) -> None:
    mask = x[:, 0] > x[:, 0].mean()
    with self.data_plate(x):
        with poutine.mask(mask=mask):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        mean = Vindex(self.loc)[y] * mask[:, None] + latent().unsqueeze(-1)
        pyro.sample("x", dist.Normal(mean, 0.7 if y.dim() > 1 else 0.9).to_event(1), obs=x)


def unequal_weights(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        with poutine.scale(scale=0.5):
            y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
        pyro.sample("x", self.emission(y, latent()), obs=x)


def unmarked(self: Base, x: Tensor) -> None:
    with self.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=self.initial))
        pyro.sample("x", self.emission(y, latent()), obs=x)


REFUSED = {
    global_site: r"'y' is to be summed out and stands outside the plate over data",
    draws_of_values: r"'y' is marked to be enumerated with num_samples",
    no_list_of_values: r"'y' is marked to be enumerated, but a Poisson",
    many_values_at_once: r"'y_0', 'y_1', \.\.\., 'y_29': expected a sum that fits(?s:.*)pyro\.markov",
    sum_over_a_plate: r"'y': with one value for each datum the model's log p is",
    outside_of_a_plate: r"'y': what depends on it stands outside of a plate of 3 entries(?s:.*)2\^3 terms",
    sum_over_the_data: r"'y': with one value for each datum the model's log p is(?s:.*)Vindex",
    branch_on_the_shape: r"'y': with one value for each datum the model's log p is",
    table_without_vindex: r"'y': the model fails where it has an axis for its values(?s:.*)Vindex",
    axis_without_plate: r"'x' depends on a site that is summed out and has a batch axis of 2 entries in no plate",
    masked_and_used: r"'y' is masked out in part, and the rest of the model depends on",
    masked_in_the_end: r"'y' is masked out in part, and the rest of the model depends on",
    masked_and_read_by_shape: r"'y': with one value for each datum the model's log p is",
    unequal_weights: r"is weighted \(poutine\.scale\) otherwise than other sites under the same sum",
    unmarked: r"'y' of the model is not in the guide(?s:.*)enumerate",
}


@pytest.mark.parametrize("program", REFUSED, ids=lambda program: program.__name__)
def test_refused_by_name(program: Callable[[Any, Tensor], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPVAE_MEMORY", "2GB")
    with pytest.raises(PairError, match=REFUSED[program]):
        check_pair(pair_of(program), torch.randn(24, D))


def test_config_enumerate_marks_what_the_guide_lacks() -> None:
    marked = pair_of(lambda self, x: config_enumerate(unmarked)(self, x))
    x, z = torch.randn(4, D), torch.randn(4)
    check_pair(marked, x)
    torch.testing.assert_close(log_joint(marked, x, {"z": z}).local, log_joint(Mixture(), x, {"z": z}).local)


def global_guide(self: Base, x: Tensor) -> None:
    pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
    with self.data_plate(x):
        latent()


def test_guide_whose_values_cannot_all_be_taken() -> None:
    pair = pair_of(global_site, global_guide)
    with pytest.raises(PairError, match=r"guide site 'y' is marked to be enumerated and stands outside"):
        elbo.TraceELBO().check(pair, torch.randn(4, D))


def test_common_weight_is_out_of_the_density_and_in_the_objective() -> None:
    def weighted(self: Base, x: Tensor) -> None:
        with self.data_plate(x):
            z = latent()
            with poutine.scale(scale=0.25):
                y = pyro.sample("y", dist.Categorical(logits=self.initial), infer=PARALLEL)
                pyro.sample("x", self.emission(y, z), obs=x)

    pair, plain, x, z = pair_of(weighted), Mixture(), torch.randn(4, D), torch.randn(4)
    terms, truth = log_joint(pair, x, {"z": z}), log_joint(plain, x, {"z": z})
    torch.testing.assert_close(terms.local, truth.local)
    assert terms.tilt is not None
    torch.testing.assert_close(terms.tilt, -0.75 * truth.observed)
