"""Chains of latents, guides that read a sequence, a likelihood at every step: against loops and dense Gaussians."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.conditional import ConditionalContract
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError, check_pair
from ppvae.core.compile import bind, record, state_of
from ppvae.distributions import (
    Bernoulli,
    Categorical,
    ConditionalDistribution,
    DiagonalNormal,
    EachStep,
    FullCovarianceNormal,
    GatedTransition,
    LinearTransition,
    MarkovNormal,
    Normal,
    NormalChain,
    Reparameterized,
    StandardNormal,
    StepwiseNormal,
)
from ppvae.inference import elbo, embed, evidence, fit, log_evidence, sample_posterior
from ppvae.models import VAE
from ppvae.networks import MLP, Combiner, JoinedMLP, Recurrent

EXACT = {"rtol": 1e-12, "atol": 1e-12}
T, Z, D, H = 6, 2, 3, 5
LENGTHS = torch.tensor([T, 1, 4])


def scramble(module: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return module


TRANSITIONS: dict[str, Any] = {
    "linear": lambda: LinearTransition(Z),
    "gated": lambda: GatedTransition(Z, hidden=4),
    "network": lambda: DiagonalNormal(MLP(Z, [4]), Z),
    "correlated": lambda: FullCovarianceNormal(MLP(Z, [4]), Z),
}
READERS: dict[str, Any] = {
    "combined": lambda: DiagonalNormal(Combiner(Z, H), Z),
    "joined": lambda: FullCovarianceNormal(JoinedMLP([Z, H], [4]), Z),
}


def prior(transition: str = "gated", *, initial: bool = False, lengths: bool = False) -> MarkovNormal:
    first = StandardNormal(Z) if initial else None
    return scramble(MarkovNormal(TRANSITIONS[transition](), T, initial=first, lengths=lengths))


def guide(reader: str = "combined", *, initial: bool = False, lengths: bool = False) -> MarkovNormal:
    first = DiagonalNormal(MLP(H, []), Z) if initial else None
    trunk = Recurrent(D, H, direction="backward")
    return scramble(MarkovNormal(READERS[reader](), T, initial=first, trunk=trunk, lengths=lengths))


# --- the contract ---


class TestLinearTransition(ConditionalContract):
    event_shapes = ((3,),)

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return LinearTransition(*event_shape)


class TestGatedTransition(ConditionalContract):
    event_shapes = ((3,),)

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return GatedTransition(*event_shape, hidden=8)


class TestChainOfLatents(ConditionalContract):
    conditional = False
    event_shapes = ((T, 3), (1, 2))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return MarkovNormal(GatedTransition(max(event_shape[-1], 1), hidden=8), event_shape[0])


class TestChainThatReads(ConditionalContract):
    context_shape = (T, D)
    event_shapes = ((T, 1), (T, 3))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        latent_dim = max(event_shape[-1], 1)
        trunk = Recurrent(D, H, direction="backward")
        return MarkovNormal(DiagonalNormal(Combiner(latent_dim, H), latent_dim), event_shape[0], trunk=trunk)


class TestStepwiseNormal(ConditionalContract):
    context_shape = (T, D)
    event_shapes = ((T, 2), (T, 3))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return StepwiseNormal(Recurrent(D, H, direction="both"), event_shape)  # type: ignore[arg-type]


class TestEachStep(ConditionalContract):
    context_shape = (T, D)
    event_shapes = ((T, 4), (T, 2, 3))
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return EachStep(Bernoulli(MLP(D, [6]), event_shape[1:]), event_shape[0])


# --- the density of a chain ---


def by_loop(made: MarkovNormal, z: Tensor, features: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
    """log p(z), [B], step by step, at z [B, T, Z]."""
    lengths = torch.full((len(z),), T) if lengths is None else lengths
    totals = []
    for b, length in enumerate(lengths.tolist()):
        total = torch.zeros(())
        for t in range(T):
            read = () if features is None else (features[b, t],)
            if t >= length:
                step: Any = dist.Normal(torch.zeros(Z), 1.0).to_event(1)
            elif t == 0 and made.initial is not None:
                step = made.initial(*read)
            else:
                step = made.transition(z[b, t - 1] if t else made.start, *read)
            total = total + step.log_prob(z[b, t])
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("initial", [False, True], ids=["from-start", "initial"])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_density_and_gradient_of_a_prior_are_those_of_a_loop(
    transition: str, initial: bool, padded: bool, float64: torch.dtype
) -> None:
    made = prior(transition, initial=initial, lengths=padded)
    z = torch.randn(3, T, Z, requires_grad=True)
    found = made(*([LENGTHS] if padded else [])).log_prob(z)
    expected = by_loop(made, z, lengths=LENGTHS if padded else None)
    torch.testing.assert_close(found, expected, **EXACT)
    inputs = [z, *made.parameters()]
    for one, other in zip(
        torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, **EXACT)
        assert bool(one.abs().sum() > 0)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("initial", [False, True], ids=["from-start", "initial"])
@pytest.mark.parametrize("reader", READERS)
def test_density_of_a_guide_is_that_of_a_loop(reader: str, initial: bool, padded: bool, float64: torch.dtype) -> None:
    made, x = guide(reader, initial=initial, lengths=padded), torch.randn(3, T, D)
    context = (x, LENGTHS) if padded else (x,)
    assert made.trunk is not None
    z = made(*context).sample((2,))
    found = made(*context).log_prob(z)
    for k in range(2):
        expected = by_loop(made, z[k], made.trunk(*context), LENGTHS if padded else None)
        torch.testing.assert_close(found[k], expected, **EXACT)


def dense(made: MarkovNormal) -> dist.MultivariateNormal:
    """A linear chain as one normal over [T * Z], from z = M z + c + S e, hence z = (I - M)^-1 (c + S e)."""
    step: Any = made.transition
    following = torch.eye(T * Z) - torch.kron(torch.diag(torch.ones(T - 1), -1), step.matrix)
    inverse = torch.linalg.inv(following)
    constant, scale = step.loc.repeat(T), step.log_scale.exp().repeat(T)
    constant = torch.cat([constant[:Z] + step.matrix @ made.start, constant[Z:]])
    return dist.MultivariateNormal(inverse @ constant, scale_tril=inverse * scale)


def test_a_linear_chain_is_a_normal_in_density_and_in_moments(float64: torch.dtype) -> None:
    made = prior("linear")
    made.requires_grad_(False)
    expected, z = dense(made), torch.randn(4, T, Z)
    torch.testing.assert_close(made().log_prob(z), expected.log_prob(z.flatten(1)), rtol=1e-10, atol=1e-10)
    draws = made().sample((20000,)).flatten(1)
    error = (draws.mean(0) - expected.mean) / (expected.variance / len(draws)).sqrt()
    assert float(error.abs().max()) < 4.5
    # Of a normal, the standard error of a variance is itself times sqrt(2 / n); the last step has the memory of all.
    ratio = (draws.var(0) / expected.variance - 1) / (2 / len(draws)) ** 0.5
    assert float(ratio.abs().max()) < 4.5


def test_draws_are_a_function_of_noise_whose_jacobian_is_the_density(
    float64: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log p(z(e)) + log |dz / de| is the density of the noise: the correlated kind too, and in the padding."""
    for made, context in (
        (prior("correlated", lengths=True), (LENGTHS[2:],)),
        (guide("joined", lengths=True), (torch.randn(1, T, D), LENGTHS[2:])),
    ):
        chain = made(*context)
        noise = torch.randn(1, T, Z)

        def drawn(value: Tensor, chain: Any = chain) -> Tensor:
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randn", lambda *_, **__: value)
                z: Tensor = chain.rsample()
            return z

        jacobian = torch.autograd.functional.jacobian(drawn, noise).reshape(T * Z, T * Z)
        expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(chain.log_prob(drawn(noise))[0], expected, **EXACT)
        torch.testing.assert_close(drawn(noise)[:, 4:], noise[:, 4:], **EXACT)


# --- lengths ---


def test_what_is_padding_is_independent_and_standard_normal_on_both_sides(float64: torch.dtype) -> None:
    """A chain with padding is the shorter chain, and the padding adds the same to prior and guide."""
    made, x = guide(lengths=True), torch.randn(3, T, D)
    short = MarkovNormal(made.transition, 4, trunk=made.trunk, lengths=True)
    short.start = made.start
    z = torch.randn(3, T, Z)
    padding = dist.Normal(0.0, 1.0).log_prob(z[:, 4:]).sum((-1, -2))
    fours = torch.full((3,), 4)
    torch.testing.assert_close(made(x, fours).log_prob(z), short(x[:, :4], fours).log_prob(z[:, :4]) + padding, **EXACT)
    other = prior(lengths=True)
    moved = z.clone()
    moved[:, 4:] += 1
    before, after = (made(x, fours).log_prob(v) - other(fours).log_prob(v) for v in (z, moved))
    torch.testing.assert_close(before, after, **EXACT)
    field = StepwiseNormal(Recurrent(D, H, direction="both"), (T, Z), lengths=True)(x, fours)
    assert not bool(field.mean[:, 4:].any()) and bool((field.variance[:, 4:] == 1).all())
    assert bool((field.variance[:, :4] != 1).all())


LIKELIHOODS: dict[str, Any] = {
    "bernoulli": (lambda: Bernoulli(MLP(Z, [4]), D), lambda: torch.bernoulli(torch.full((3, T, D), 0.4))),
    "normal": (lambda: Normal(MLP(Z, [4]), D), lambda: torch.randn(3, T, D)),
    "categorical": (lambda: Categorical(MLP(Z, [4]), D, 3), lambda: torch.randint(3, (3, T, D)).double()),
    "gamma": (lambda: Reparameterized("gamma", MLP(Z, [4]), D), lambda: torch.rand(3, T, D) + 0.1),
    "matrices": (lambda: Normal(MLP(Z, [4]), (D, 2)), lambda: torch.randn(3, T, D, 2)),
}


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_padding_of_what_is_observed_has_neither_density_nor_gradient(kind: str, float64: torch.dtype) -> None:
    """NaN, infinity and values outside the support among it; the density is the sum over steps that are data."""
    make, values = LIKELIHOODS[kind]
    made, x = EachStep(make(), T, lengths=True), values()
    z = torch.randn(3, T, Z, requires_grad=True)
    inside = torch.arange(T) < LENGTHS[:, None]
    expected = (made.likelihood(z).log_prob(x) * inside).sum(-1)
    torch.testing.assert_close(made(z, LENGTHS).log_prob(x), expected, **EXACT)
    found = []
    for junk in (torch.nan, torch.inf, -7.0):
        spoilt = x.where(inside.reshape(3, T, *(1,) * (x.dim() - 2)), junk)
        log_prob = made(z, LENGTHS).log_prob(spoilt)
        found.append([log_prob, *torch.autograd.grad(log_prob.sum(), [z, *made.parameters()])])
        torch.testing.assert_close(log_prob, expected, **EXACT)
        assert all(bool(value.isfinite().all()) for value in found[-1])
        assert not bool(found[-1][1][~inside].any())
        assert all(torch.equal(one, other) for one, other in zip(found[0], found[-1], strict=True))


def test_each_step_is_the_likelihood_of_every_step() -> None:
    made = EachStep(Normal(MLP(Z, [4]), D, mean="sigmoid"), T)
    z, x = torch.randn(2, 3, T, Z), torch.rand(3, T, D)
    torch.testing.assert_close(made(z).log_prob(x), made.likelihood(z).log_prob(x).sum(-1))
    assert made.mean_range == (0.0, 1.0) and EachStep(made.likelihood, T).event_shape == (T, D)
    pair = VAE(prior(), made, guide())
    with pytest.raises(PairError, match=r"the likelihood's mean lies in \(0.0, 1.0\)"):
        check_pair(pair, 3 * x)


# --- composed ---


def deep_markov_model(num_steps: int, kind: str = "backward") -> VAE:
    chain = MarkovNormal(DiagonalNormal(Combiner(Z, H), Z), num_steps, trunk=Recurrent(D, H, direction="backward"))
    field = StepwiseNormal(Recurrent(D, H, direction="both"), (num_steps, Z))
    prior = MarkovNormal(GatedTransition(Z, hidden=4), num_steps)
    likelihood = EachStep(Bernoulli(MLP(Z, [4]), D), num_steps)
    return VAE(prior, likelihood, chain if kind == "backward" else field)


@pytest.mark.parametrize("kind", ["backward", "both"])
def test_a_deep_markov_model_is_trained(kind: str, float64: torch.dtype) -> None:
    pair, x = scramble(deep_markov_model(3, kind)), torch.bernoulli(torch.full((40, 3, D), 0.3))
    x[:, :, 0] = (torch.arange(3) % 2).double()  # something to be learnt
    check_pair(pair, x)
    assert pair.vectorizes
    options: Any = {"elbo": elbo.TraceELBO(), "batch_size": 20, "learning_rate": 3e-2, "compile": "eager"}
    history = fit(pair, x, num_epochs=12, seed=1, **options).history
    assert history[-1]["elbo_train"] > history[0]["elbo_train"] + 0.5
    assert embed(pair, x[:4], num_samples=3).shape == (4, 3, Z)


def test_evidence_and_hmc_of_a_deep_markov_model(float64: torch.dtype) -> None:
    pair, x = scramble(deep_markov_model(3)), torch.bernoulli(torch.full((4, 3, D), 0.3))
    options: Any = {"progress": False, "compile": "eager"}
    first = log_evidence(pair, x, method=evidence.ImportanceSampling(2000), seed=1, **options)
    second = log_evidence(pair, x, method=evidence.PriorSampling(20000), seed=2, **options)
    error = (first.standard_error.square() + second.standard_error.square()).sqrt()
    assert bool(((first.log_evidence - second.log_evidence).abs() < 4 * error).all())
    draws = sample_posterior(pair, x[:2], num_samples=5, num_warmup=60, num_chains=2, seed=1, **options)
    assert draws.samples["z"].shape == (2, 5, 2, 3, Z)


class Padded(ModelGuidePair):
    """A deep Markov model of sequences with lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.posterior = prior(lengths=True), guide(lengths=True)
        self.likelihood = scramble(EachStep(Bernoulli(MLP(Z, [4]), D), T, lengths=True))

    def model(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x["x"], num_data):
            z = pyro.sample("z", self.prior(x["lengths"]))
            pyro.sample("x", self.likelihood(z, x["lengths"]), obs=x["x"])

    def guide(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x["x"], num_data):
            pyro.sample("z", self.posterior(x["x"], x["lengths"]))


def test_padding_changes_neither_the_bound_nor_a_gradient(float64: torch.dtype) -> None:
    pair, x = Padded(), torch.bernoulli(torch.full((3, T, D), 0.3))
    check_pair(pair, {"x": x, "lengths": LENGTHS})
    assert pair.vectorizes
    inside, found = torch.arange(T) < LENGTHS[:, None], []
    for junk in (0.0, torch.nan, 1e3):
        torch.manual_seed(1)
        terms = elbo.TraceELBO(num_particles=2).terms(pair, {"x": x.where(inside[..., None], junk), "lengths": LENGTHS})
        found.append([terms.local, *torch.autograd.grad(terms.objective(), list(pair.parameters()))])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert all(bool(value.isfinite().all()) and bool(value.any()) for value in found[0])


@pytest.mark.parametrize(("kind", "per_step"), [("both", 0), ("backward", 70)])
def test_the_recorded_step_does_not_grow_but_where_sampling_loops(kind: str, per_step: int) -> None:
    """The bound and its gradient: of a mean-field guide as many nodes whatever T."""
    nodes = []
    for steps in (3, 7):
        pair, x = deep_markov_model(steps, kind), torch.bernoulli(torch.full((5, steps, D), 0.3))
        state = state_of(pair)

        def gradients(pair: VAE, x: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                parameters = [parameter.requires_grad_() for parameter in pair.parameters()]
                return list(torch.autograd.grad(elbo.TraceELBO().terms(pair, x).objective(), parameters))

        def pure(*tensors: Tensor, pair: Any = pair, names: Any = tuple(state)) -> list[Tensor]:
            return bind(pair, gradients)(dict(zip(names, tensors[:-1], strict=True)), tensors[-1])

        graph = record(pure, [*state.values(), x]).graph
        graph.eliminate_dead_code()
        nodes.append(len(graph.nodes))
    assert nodes[1] - nodes[0] <= 4 * per_step


# --- errors ---


def test_refusals() -> None:
    wide = StandardNormal(Z + 1)
    for make, message in (
        (
            lambda: MarkovNormal(LinearTransition(Z), T, initial=wide),
            r"one event shape \(Z,\), found \(2,\) and \(3,\)",
        ),
        (lambda: MarkovNormal(StandardNormal((Z, 1)), T), r"found \(2, 1\) and no initial state"),
        (lambda: StepwiseNormal(Recurrent(D, H), (T, Z, 1)), r"expected an event shape \(T, Z\), found \(6, 2, 1\)"),
        (lambda: GatedTransition(Z, hidden=0), "expected at least one hidden unit, found 0"),
        (lambda: MarkovNormal(Bernoulli(MLP(Z, []), Z), T)(), r"expected a normal distribution(.|\n)*Try one of"),
        (lambda: NormalChain(dist.Normal(0.0, 1.0), lambda z, _: z, T), r"found 6 and \[\]"),
        (lambda: NormalChain(StandardNormal(Z)(), lambda z, _: z, 0), r"found 0 and \[2\]"),
        (lambda: guide()(), "MarkovNormal is conditional: expected a context tensor, found none"),
        (lambda: guide()(torch.zeros(3, T + 1, D)), r"num_steps = 6 steps, \[\*S, T, D\], found \[3, 7, 5\]"),
        (lambda: EachStep(Bernoulli(MLP(Z, []), D), T)(torch.zeros(3, 1, Z)), r"num_steps = 6 .*found \[3, 1, 2\]"),
        (lambda: prior(lengths=True)(), "expected lengths .* as the last context, found 0 of at least 1"),
        (lambda: guide(lengths=True)(torch.zeros(3, T, D)), r"found 1 of at least 2 contexts\nTry one of"),
    ):
        with pytest.raises(PpvaeError, match=message):
            make()
    with pytest.raises(PairError, match=r"the prior's \(6, 2\), found \(5, 2\)"):
        VAE(prior(), EachStep(Bernoulli(MLP(Z, []), D), T), MarkovNormal(TRANSITIONS["linear"](), T - 1))
