"""The inherited test case of an ELBO estimator: its declared facts, its value, its gradient, its scaling, its uses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_type_hints

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError, parameter_roles
from ppvae.core.compile import Mode, bind, capture, state_of
from ppvae.inference import fit
from ppvae.inference.elbo import ELBO, BoundTerms, PairWithEstimator
from ppvae.inference.training.scheduled import Scheduled
from ppvae.models import VAE, FactorAnalysis, bayesianise

from .bayesian_pairs import exact_kl, exact_local, linear, widen
from .elbo_oracles import (
    Bound,
    GlobalPair,
    Outside,
    ReplayPair,
    Told,
    binary_vae,
    enumeration,
    linear_vae,
    log_evidence,
    log_mean_exp,
    quadrature,
    some_data,
)

PARTITIONS = ((12,), (6, 6), (4, 4, 4), (5, 7), (1,) * 12)

Test = TypeVar("Test", bound=Callable[..., None])


def declared_facts() -> list[str]:
    """What every estimator declares of itself: the attributes of the base class that are true or false."""
    return [name for name, kind in get_type_hints(ELBO).items() if kind is bool]


def proves(*facts: str) -> Callable[[Test], Test]:
    """Mark a test of the contract: one of these facts, declared wrongly, makes it fail."""

    def mark(test: Test) -> Test:
        test.proves = facts  # type: ignore[attr-defined]
        return test

    return mark


def proofs_of(fact: str) -> Iterator[Callable[..., None]]:
    """The tests of the contract that are marked as proofs of a fact."""
    for member in vars(ELBOContract).values():
        if fact in getattr(member, "proves", ()):
            yield member


class ELBOContract:
    """Inherit, give :meth:`make` and :attr:`bound`, and an estimator has its tests.

    Every fact that the estimator declares has a proof here, marked by :func:`proves`.

    Attributes:
        num_particles: K of the estimator that :meth:`make` makes; at most 2, so that the truth can be computed.
        bound: what the expected value is, as a function of K log weights.
        wrong: how far the guide of the linear VAE is from the exact posterior.
        groups, group_size: statistics rest on so many independent estimates: 25 x 1000 data. A call costs what
            its Python costs, however many data it has; the tests of power say that these are enough.
    """

    num_particles: int = 2
    bound: Bound = staticmethod(log_mean_exp)
    wrong: float = 0.8
    groups: int = 25
    group_size: int = 1000

    def make(self) -> ELBO:
        """A fresh estimator."""
        raise NotImplementedError

    # --- values ---

    @proves("tight_when_guide_exact", "zero_variance_when_guide_exact")
    def test_exact_guide(self, float64: torch.dtype) -> None:
        model = FactorAnalysis(4, 2)
        with torch.no_grad():
            model.log_scale.copy_(torch.tensor([-0.3, 0.1, 0.2, -0.1]))
        pair, x, elbo = model.with_posterior(model.exact_encoder()), torch.randn(5, 4), self.make()
        values = elbo.terms(pair, x.repeat(200, 1)).local.detach().reshape(200, len(x))
        error = values - model.log_evidence(x)
        if elbo.zero_variance_when_guide_exact:
            assert error.abs().max() < 1e-9
        else:
            assert error.std(0).min() > 1e-3
        tight = bool((error.mean(0).abs() <= 4 * error.std(0) / len(error) ** 0.5 + 1e-9).all())
        assert tight == elbo.tight_when_guide_exact

    def test_expected_value(self) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        truth = quadrature(pair, x, type(self).bound, self.num_particles).detach()
        values = elbo.terms(pair, x.repeat(20_000, 1)).local.detach().reshape(-1, len(x))
        error = 4 * values.std(0) / len(values) ** 0.5
        assert bool(((values.mean(0) - truth).abs() <= error).all())
        # Power: sharp enough to tell this value from log p(x), which a right bound is not on a wrong guide.
        assert bool((error < 0.3 * (log_evidence(pair, x) - truth).abs()).any())

    @proves("is_lower_bound")
    def test_side_of_the_evidence(self) -> None:
        pair, x = linear_vae(wrong=self.wrong), some_data()
        gap = log_evidence(pair, x) - quadrature(pair, x, type(self).bound, self.num_particles)
        assert bool((gap > 0).all()) == self.make().is_lower_bound

    def test_reported_is_the_bound_whatever_the_objective(self) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        plain, warm = (self.seeded(elbo, pair, x, kl_weight=w) for w in (1.0, torch.tensor(0.3)))
        torch.testing.assert_close(plain.local, warm.local, rtol=0, atol=0)
        torch.testing.assert_close(self.seeded(elbo, pair, x).objective(), plain.objective(), rtol=0, atol=0)
        assert self.distance(self.gradient(plain, pair), self.gradient(warm, pair)) > 1e-3

    # --- gradients ---

    @proves("unbiased_gradient")
    @pytest.mark.parametrize("kl_weight", [1.0, 0.5])
    def test_mean_gradient(self, kl_weight: float) -> None:
        """It is the gradient of the expected bound, whose weights are tempered during KL warm-up."""
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        expected = quadrature(pair, x, type(self).bound, self.num_particles, kl_weight=kl_weight).mean()
        exact = self.flat(torch.autograd.grad(expected, _of(pair)))
        roles = parameter_roles(pair, x)
        of_guide = torch.cat([torch.full((p.numel(),), "guide" in roles[n]) for n, p in pair.named_parameters()])
        z = self.z_scores(elbo, pair, x, exact, kl_weight=kl_weight)
        assert z[~of_guide].max() < 4
        if elbo.unbiased_gradient:
            assert z.max() < 4
        else:
            assert z[of_guide].max() > 8
        # Power: with half as much of the KL in the objective, as where its weight is applied twice, this test fails.
        assert self.z_scores(elbo, pair, x, exact, kl_weight=kl_weight / 2).max() > 6

    @proves("needs_rsample", "unbiased_gradient")
    def test_discrete_latents_are_refused_or_right(self) -> None:
        pair, x, elbo = binary_vae(), some_data(), self.make()
        if elbo.needs_rsample:
            with pytest.raises(PairError, match=r"'z' has a\s+Bernoulli[\s\S]*VIMCO"):
                elbo.check(pair, x)
            return
        elbo.check(pair, x)
        truth = enumeration(pair, x, type(self).bound, self.num_particles)
        exact = self.flat(torch.autograd.grad(truth.mean(), _of(pair)))
        roles = parameter_roles(pair, x)
        of_guide = torch.cat([torch.full((p.numel(),), "guide" in roles[n]) for n, p in pair.named_parameters()])
        z = self.z_scores(elbo, pair, x, exact)
        assert z[~of_guide].max() < 4
        assert (z[of_guide].max() < 4) == elbo.unbiased_gradient

    # --- minibatches ---

    @proves("supports_global_latents")
    @pytest.mark.parametrize("with_global", [False, True], ids=["local", "global"])
    def test_every_partition_gives_the_same(self, with_global: bool, float64: torch.dtype) -> None:
        pair, elbo = ReplayPair(with_global=with_global), self.make()
        x = torch.randn(12, 2)
        if with_global and not elbo.supports_global_latents:
            with pytest.raises(PairError, match="'w' is global"):
                elbo.check(pair, x)
            return
        elbo.check(pair, x)
        found = []
        for sizes in PARTITIONS:
            parts = [(len(part) / 12, elbo.terms(pair, part, 12)) for part in x.split(list(sizes))]
            bound = sum(weight * terms.bound(12) for weight, terms in parts)
            objective = sum(weight * terms.objective(12) for weight, terms in parts)
            gradient = torch.autograd.grad(objective, _of(pair), allow_unused=True, materialize_grads=True)
            found.append(torch.cat((bound.reshape(1), self.flat(gradient))).detach())
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-10)

    def test_the_kl_weight_of_global_latents(self, float64: torch.dtype) -> None:
        """Under replayed noise the global objective is in proportion to the weight: there is nothing else in it."""
        pair, x, elbo = ReplayPair(with_global=True), torch.randn(6, 2), self.make()
        if not elbo.supports_global_latents:
            return
        found = []
        for weight in (1.0, 0.5):
            ascended = elbo.terms(pair, x, 12, kl_weight=weight).objective_global
            gradient = torch.autograd.grad(ascended, _of(pair), allow_unused=True, materialize_grads=True)
            found.append(torch.cat((ascended.reshape(1), self.flat(gradient))).detach())
        torch.testing.assert_close(found[1], 0.5 * found[0], rtol=1e-12, atol=1e-12)
        assert found[0][0].abs() > 0.1
        assert found[0][1:].abs().max() > 0.1

    def test_an_observation_outside_the_plate_counts_once(self) -> None:
        terms = self.make().terms(Outside(linear_vae(wrong=self.wrong)), some_data(), 30)
        expected = torch.tensor(-0.5 * 1.3**2 - 0.5 * math.log(2 * math.pi), dtype=torch.float64)
        torch.testing.assert_close(terms.global_, expected)
        torch.testing.assert_close(terms.objective_global, expected)

    def test_the_programs_are_told_num_data(self) -> None:
        x, elbo = some_data(), self.make()
        for within in [linear_vae(wrong=self.wrong), *([] if elbo.needs_rsample else [binary_vae()])]:
            pair = Told(within)
            for _ in range(2):  # the first time, the pair's structure is found as well
                pair.heard()
                elbo.terms(pair, x, 30)
            assert pair.heard() == {("model", 30), ("guide", 30)}

    @proves("supports_global_latents")
    def test_global_latents_are_right(self) -> None:
        elbo = self.make()
        if not elbo.supports_global_latents:
            return  # refused, as the test above shows
        pair, x = GlobalPair(with_global=True), some_data(4, 2)
        expected = pair.expected_elbo(x)
        exact = torch.cat((expected.detach().reshape(1), self.flat(torch.autograd.grad(expected, _of(pair)))))
        found = []
        elbo.num_particles = 40  # the expected value is the same, and a draw costs less than a call
        for _ in range(self.groups):
            draws = []
            for half in x.split(2):  # minibatches of two of the four
                terms = elbo.terms(pair, half, 4)
                draws.append(torch.cat((terms.bound(4).reshape(1), self.gradient(terms, pair, 4))).detach())
            found.append(torch.stack(draws).mean(0))
        sample = torch.stack(found)
        z = (sample.mean(0) - exact).abs() / (sample.std(0) / len(sample) ** 0.5).clamp_min(1e-12)
        assert z.max() < 4

    # --- weights that the programs put on sites, noise per datum ---

    @proves("serves_scaled_sites")
    def test_weighted_sites_are_refused_or_right(self) -> None:
        """A weight on the latents of both programs is the weight of the KL; the reported bound is without it."""
        plain, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        pair = _Weighted(plain, 0.25)
        if not elbo.serves_scaled_sites:
            with pytest.raises(PairError, match=r"site '[xz]' is weighted by the program"):
                elbo.check(pair, x)
            return
        for each in (plain, pair):
            elbo.check(each, x)
        found, expected = self.seeded(elbo, pair, x), self.seeded(elbo, plain, x, kl_weight=0.25)
        torch.testing.assert_close(found.local, expected.local, rtol=1e-12, atol=1e-12)
        gradient = self.gradient(found, pair)
        torch.testing.assert_close(gradient, self.gradient(expected, plain), rtol=1e-9, atol=1e-9)
        # Power: without the weight it is another gradient.
        assert self.distance(gradient, self.gradient(self.seeded(elbo, plain, x), plain)) > 1e-3

    @proves("serves_all_values")
    def test_all_values_of_a_discrete_guide_are_taken_or_one_is_drawn(self) -> None:
        """Where the class is the only latent, an estimate over all of its values has no noise."""
        pair, x, elbo = _Classes(), some_data(), self.make()
        if not elbo.serves_all_values:
            try:
                elbo.check(pair, x)
            except PairError:
                with pytest.raises(PairError, match="'y'"):
                    elbo.check(pair, x)
                return
        values = []
        for seed in range(2):
            torch.manual_seed(seed)
            values.append(elbo.terms(pair, x).local.detach())
        if not elbo.serves_all_values:
            assert self.distance(*values) > 1e-6
            return
        elbo.check(pair, x)
        torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
        exact = pair.log_joint(x).logsumexp(-1)
        if elbo.is_lower_bound:
            assert bool((values[0] < exact + 1e-9).all())

    @proves("serves_kl_per_site")
    def test_a_weight_of_the_kl_by_site_is_refused_or_right(self) -> None:
        """Of the only latent site it is the weight of all; the reported bound is without it."""
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        if not elbo.serves_kl_per_site:
            with pytest.raises(PpvaeError, match="takes one weight for the KL of all sites, not one for each"):
                Scheduled(pair, {"z": 0.25}).check(elbo, x)
            return
        Scheduled(pair, {"z": 0.25}).check(elbo, x)
        found, expected = self.seeded(elbo, pair, x, kl_weight={"z": 0.25}), self.seeded(elbo, pair, x, kl_weight=0.25)
        torch.testing.assert_close(found.local, expected.local)
        torch.testing.assert_close(self.gradient(found, pair), self.gradient(expected, pair))

    @proves("sums_over_data")
    def test_the_objective_of_a_datum_does_not_depend_on_the_others(self) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        half = len(x) // 2
        others = torch.cat((x[:half], x[half:].flip(0) + 1.0))
        found, again = (self.seeded(elbo, pair, data).objective_local[:half].detach() for data in (x, others))
        assert bool((found - again).abs().max() < 1e-5) == elbo.sums_over_data

    @proves("serves_noise_per_datum")
    def test_noise_per_datum_is_refused_or_right(self) -> None:
        elbo, (layer, x) = self.make(), linear()
        pair = widen(bayesianise(layer, modules=["layer"], weight_noise="local-reparameterization"))
        if not elbo.serves_noise_per_datum:
            with pytest.raises(PairError, match="no such weight is ever drawn"):
                elbo.check(pair, x)
            return
        elbo.check(pair, x)
        kl = exact_kl(pair)
        expected = exact_local(pair, x).sum() - kl
        exact = torch.cat((expected.detach().reshape(1), self.flat(torch.autograd.grad(expected, _of(pair)))))
        found = []
        elbo.num_particles = 40  # as for global latents above
        for _ in range(self.groups):
            terms = elbo.terms(pair, x)
            torch.testing.assert_close(terms.global_, -kl)  # log q was asked for at no draw
            found.append(torch.cat((terms.bound().detach().reshape(1), self.gradient(terms, pair))))
        sample = torch.stack(found)
        z = (sample.mean(0) - exact).abs() / (sample.std(0) / len(sample) ** 0.5).clamp_min(1e-9)
        assert z.max() < 4

    # --- uses ---

    def test_captured_equals_eager(self) -> None:
        self.check_mode("graph")

    @pytest.mark.slow
    def test_compiled_equals_eager(self) -> None:
        self.check_mode("compiled")

    def check_mode(self, mode: Mode) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        elbo.check(pair, x)
        both = PairWithEstimator(pair, elbo)

        def step(state: dict[str, Tensor], x: Tensor) -> Any:
            with torch.enable_grad():
                state = {n: v.detach().requires_grad_() if "module." not in n else v for n, v in state.items()}
                terms = bind(both, lambda both, x: elbo.terms(both.pair, x, 30))(state, x)
                wanted = [v for v in state.values() if v.requires_grad]
                gradients = torch.autograd.grad(terms.objective(30), wanted, allow_unused=True, materialize_grads=True)
            return terms.local.detach(), terms.objective(30).detach(), gradients, terms.buffers

        results = []
        for how in ("eager", mode):
            run = capture(step, mode=how)
            torch.manual_seed(3)
            results.append(run(state_of(both), x))
            assert not run.fallback
        torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)

    def test_stock_svi(self) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(), self.make()
        ours = self.seeded(self.make(), pair, x, num_data=30)
        for parameter in pair.parameters():
            parameter.grad = None
        torch.manual_seed(3)
        loss = elbo.loss_and_grads(pair.model, pair.guide, x, 30)
        assert loss == pytest.approx(-ours.bound(30).item(), rel=1e-12)
        stock = torch.cat([p.grad.flatten() for p in pair.parameters()])
        torch.testing.assert_close(-stock, self.gradient(ours, pair, 30), rtol=1e-9, atol=1e-9)
        svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), elbo)
        torch.manual_seed(4)
        wide = x.repeat(50, 1)
        losses = [svi.step(wide) for _ in range(60)]
        assert sum(losses[-10:]) < sum(losses[:10])

    def test_fit(self) -> None:
        pair, x, elbo = linear_vae(wrong=self.wrong), some_data(8), self.make()
        own = {name: value.clone() for name, value in elbo.module.state_dict().items()} if elbo.module else {}
        run = fit(
            pair,
            x.repeat(10, 1),
            elbo=elbo,
            num_epochs=8,
            batch_size=40,
            learning_rate=0.03,
            compile="eager",
            progress=False,
        )
        values = [row["elbo_train"] for row in run.history]
        assert values[-1] > values[0]
        assert values[0] < log_evidence(linear_vae(), x).mean().item() + 1  # the bound, not a surrogate
        for name, value in own.items():  # what the estimator learns or remembers was trained along
            assert not torch.equal(elbo.module.state_dict()[name], value)

    # --- helpers ---

    def seeded(
        self, elbo: ELBO, pair: ModelGuidePair, x: Tensor, *, num_data: int | None = None, **how: Any
    ) -> BoundTerms:
        torch.manual_seed(3)
        return elbo.terms(pair, x, num_data, **how)

    def gradient(self, terms: BoundTerms, pair: ModelGuidePair, num_data: int | None = None) -> Tensor:
        found = torch.autograd.grad(terms.objective(num_data), _of(pair), allow_unused=True, materialize_grads=True)
        return self.flat(found)

    def flat(self, gradients: Any) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in gradients])

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max())

    def z_scores(self, elbo: ELBO, pair: ModelGuidePair, x: Tensor, exact: Tensor, **how: Any) -> Tensor:
        """Distance of the mean gradient per datum from the exact one, in measured standard errors, [P]."""
        elbo = copy.deepcopy(elbo)
        torch.manual_seed(11)
        wide = x.repeat(self.group_size, 1)
        found = []
        for _ in range(self.groups):
            terms = elbo.terms(pair, wide, **how)
            found.append(self.gradient(terms, pair).detach() / len(wide))
            elbo.advance(terms)
        sample = torch.stack(found)
        error = (sample.std(0) / len(sample) ** 0.5).clamp_min(1e-12)
        return (sample.mean(0) - exact).abs() / error


class _Classes(ModelGuidePair):
    """A class y of three, and nothing else; the guide knows little of it."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.loc = (
            nn.Parameter(torch.tensor([0.3, -0.2, 0.0])),
            nn.Parameter(torch.tensor([-1.0, 0.0, 2.0])),
        )

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3)), infer={"enumerate": "parallel"})
            loc = Vindex(self.loc)[y].unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).expand((*loc.shape[:-1], x.shape[-1])).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) of every class, [B, 3]."""
        return dist.Normal(self.loc, 1.0).log_prob(x[..., None]).sum(-2).detach() - math.log(3)


class _Weighted(ModelGuidePair):
    """A VAE whose programs weight the latents (``poutine.scale``)."""

    def __init__(self, pair: VAE, weight: float) -> None:
        super().__init__()
        self.pair = pair
        self.weight = weight

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            with poutine.scale(scale=self.weight):
                z = pyro.sample("z", self.pair.prior())
            pyro.sample("x", self.pair.likelihood(z), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data), poutine.scale(scale=self.weight):
            pyro.sample("z", self.pair.posterior(x))


def _of(pair: ModelGuidePair) -> list[Tensor]:
    return list(pair.parameters())
