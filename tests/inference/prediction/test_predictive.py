"""The predictive verbs against closed forms: factor analysis, hand-made pairs, and a decoder evaluated by hand."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppvae.core import DataError, ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset
from ppvae.inference.evidence.run import model_ready
from ppvae.inference.execution.over_data import OverData, rows_like
from ppvae.inference.execution.placement import Compile
from ppvae.inference.prediction import decode, embed, generate, inpaint, reconstruct
from ppvae.models import FactorAnalysis, bernoulli_vae

MODES: tuple[Compile, ...] = ("eager", "graph")


@pytest.fixture
def factors(float64: torch.dtype) -> FactorAnalysis:
    return FactorAnalysis.from_parameters(
        [0.5, -1.0, 2.0, 0.0], [[1.0, 0.2], [-0.7, 0.9], [0.3, -1.2], [0.8, 0.5]], [0.4, 0.7, 0.5, 0.9]
    )


class TwoLevels(ModelGuidePair):
    """A guide whose second site depends on the first: E[z2 | x] = 2 x + 1."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z2[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z1 = pyro.sample("z1", dist.Normal(x[:, 0], 0.5))
            pyro.sample("z2", dist.Normal(2 * z1 + 1, 0.3))


class Skewed(ModelGuidePair):
    """A guide whose distribution does not know its mean: exp of a normal, moved by one."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            base = dist.Normal(0.1 * x[:, 0], 0.5)
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]))


class Switch(ModelGuidePair):
    """A discrete latent, and a covariate that shifts the data."""

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal((z + x["shift"])[..., None], 1.0).to_event(1), obs=x["x"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x["x"][:, 0])))


class GlobalWeight(ModelGuidePair):
    """A global slope w with guide N(3, 0.1^2), beside a local latent."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(3.0))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((w * z)[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("w", dist.Normal(self.loc, 0.1))
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.2))


def test_embed_is_the_mean_of_the_exact_posterior(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((7,))
    expected = factors.posterior(x).mean
    assert torch.allclose(embed(factors, x), expected, atol=1e-12)
    # In chunks, the last of them padded, recorded or not.
    for mode in MODES:
        assert torch.allclose(embed(factors, x, chunk_size=3, compile=mode), expected, atol=1e-12)


def test_embed_sees_a_wrong_guide(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((5,))
    shift = factors.posterior(x).scale_tril.sum(-1) * 0.5
    assert torch.allclose(embed(factors.with_wrong_guide(shift=0.5), x), factors.posterior(x).mean + shift, atol=1e-12)


def test_embed_averages_conditional_means_of_a_hierarchy() -> None:
    x = torch.tensor([[0.3], [-2.0], [5.0]])
    assert torch.allclose(embed(TwoLevels(), x, site="z1", num_samples=3), x[:, 0], atol=1e-6)
    repeats = torch.stack([embed(TwoLevels(), x, site="z2", num_samples=200, seed=s) for s in range(8)])
    error = repeats.std(0) / math.sqrt(8)
    assert ((repeats.mean(0) - (2 * x[:, 0] + 1)).abs() < 5 * error).all()
    # The conditional mean varies with sd 1 over draws of z1: 200 of them leave 0.07.
    assert 0.02 < float(repeats.std(0).mean()) < 0.2


def test_embed_averages_draws_where_no_mean_is_known() -> None:
    x = torch.tensor([[1.0], [-3.0]])
    truth = torch.exp(0.1 * x[:, 0] + 0.125)
    repeats = torch.stack([embed(Skewed(), x, num_samples=500, seed=s) for s in range(8)])
    assert ((repeats.mean(0) - truth).abs() < 5 * repeats.std(0) / math.sqrt(8)).all()


def test_embed_gives_probabilities_of_a_discrete_latent() -> None:
    x = {"x": torch.tensor([[0.0], [2.0]]), "shift": torch.zeros(2)}
    assert torch.allclose(embed(Switch(), x), torch.sigmoid(x["x"][:, 0]))


def test_reconstruct_is_the_decoder_at_the_mean() -> None:
    torch.manual_seed(1)
    pair = bernoulli_vae(6, latent_dim=2, hidden=(5,))
    x = torch.bernoulli(torch.full((9, 6), 0.4))
    expected = pair.likelihood(pair.posterior(x).mean).mean
    assert torch.allclose(reconstruct(pair, x, chunk_size=4), expected, atol=1e-6)


def test_reconstruct_averages_over_the_posterior(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((6,))
    posterior = factors.posterior(x)
    expected = posterior.mean @ factors.loading.mT + factors.loc
    spread = (factors.loading @ posterior.covariance_matrix @ factors.loading.mT).diagonal(dim1=-2, dim2=-1)
    error = (spread / 400).sqrt()
    found = reconstruct(factors, x, num_samples=400)
    assert ((found - expected).abs() < 5 * error).all()
    wrong = reconstruct(factors.with_wrong_guide(shift=1.0), x, num_samples=400)
    assert ((wrong - expected).abs() > 5 * error).any()


def test_reconstruct_refuses_the_mean_of_a_discrete_latent() -> None:
    x = {"x": torch.zeros(4, 1), "shift": torch.arange(4.0)}
    with pytest.raises(PairError, match="site 'z' is discrete"):
        reconstruct(Switch(), x)
    found = reconstruct(Switch(), x, num_samples=400)[:, 0]
    assert ((found - (0.5 + x["shift"])).abs() < 5 * 0.5 / 20).all()


def test_global_latents_are_held_at_the_guides_mean() -> None:
    x = torch.tensor([[1.0], [4.0]])
    # The mean of w comes from 1000 draws with sd 0.1.
    assert torch.allclose(reconstruct(GlobalWeight(), x), 3 * x / 2, rtol=5 * 0.1 / 3 / math.sqrt(1000))

    # Not drawn anew from its prior N(0, 1): x has the variance 3^2 + 1.
    count = 20_000
    drawn = generate(GlobalWeight(), count, like=x, kind="sample")
    assert abs(float(drawn.var()) - 10) < 5 * 10 * math.sqrt(2 / count)


def test_decode_is_the_decoder() -> None:
    torch.manual_seed(1)
    pair = bernoulli_vae(6, latent_dim=2, hidden=(5,))
    z = torch.randn(11, 2)
    like = torch.zeros(3, 6)
    assert torch.allclose(decode(pair, z, like=like, chunk_size=4), pair.likelihood(z).mean, atol=1e-6)
    assert torch.equal(decode(pair, {"z": z}, like=like), decode(pair, z, like=like))
    drawn = decode(pair, z, like=like, kind="sample")
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


def test_decode_takes_covariates_in_turn() -> None:
    like = {"x": torch.zeros(2, 1), "shift": torch.tensor([10.0, 20.0])}
    assert decode(Switch(), torch.zeros(4), like=like)[:, 0].tolist() == [10.0, 20.0, 10.0, 20.0]


def test_generate_draws_from_the_model(factors: FactorAnalysis) -> None:
    count = 20_000
    x = generate(factors, count, like=torch.zeros(1, 4), kind="sample", chunk_size=7000)
    truth = factors.marginal()
    assert ((x.mean(0) - factors.loc).abs() < 5 * (truth.variance / count).sqrt()).all()
    covariance = truth.covariance_matrix
    spread = (covariance.square() + covariance.diagonal()[:, None] * covariance.diagonal()).sqrt() / math.sqrt(count)
    assert ((x.T.cov() - covariance).abs() < 5 * spread).all()
    mean = generate(factors, count, like=torch.zeros(1, 4))
    explained = factors.loading @ factors.loading.mT
    spread = (explained.square() + explained.diagonal()[:, None] * explained.diagonal()).sqrt() / math.sqrt(count)
    assert ((mean.T.cov() - explained).abs() < 5 * spread).all()


def test_seeds_decide_and_nothing_global_is_touched(factors: FactorAnalysis) -> None:
    like = torch.zeros(1, 4)
    before = torch.get_rng_state()
    one, same, other = (generate(factors, 5, like=like, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, generate(factors, 5, like=like, seed=3, compile="graph"))


def _conditional_mean(factors: FactorAnalysis, x: Tensor, seen: Tensor) -> Tensor:
    covariance, loc = factors.marginal().covariance_matrix, factors.loc
    gain = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, ~seen])
    return (loc[~seen] + (x[:, seen] - loc[seen]) @ gain).detach()


def test_inpaint_is_the_conditional_mean_for_a_wrong_guide_too(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((3,))
    seen = torch.tensor([True, False, True, False])
    truth = _conditional_mean(factors, x, seen)
    x[:, ~seen] = math.nan

    def repeats(pair: FactorAnalysis, method: Any) -> tuple[Tensor, Tensor]:
        # Forty independent chains for each of three data.
        restored = inpaint(pair, x.repeat(40, 1), seen, num_steps=120, num_burn_in=50, num_chains=1, method=method)
        found = restored.mean
        assert torch.equal(found[:, seen], x.repeat(40, 1)[:, seen])
        values = found[:, ~seen].reshape(40, 3, 2)
        return values.mean(0), values.std(0) / math.sqrt(40)

    wrong = factors.with_wrong_guide(shift=0.8, stretch=1.2)
    for pair, method in ((factors, "pseudo-gibbs"), (wrong, "metropolis-within-gibbs"), (wrong, "hmc")):
        mean, error = repeats(pair, method)
        assert ((mean - truth).abs() < 5 * error).all()
    mean, error = repeats(wrong, "pseudo-gibbs")
    assert ((mean - truth).abs() > 5 * error).any()


def test_what_is_wrong_is_named(factors: FactorAnalysis) -> None:
    x = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(PairError, match=r"no local latent site 'zz': .*Known: z"):
        embed(factors, x, site="zz")
    with pytest.raises(PairError, match="2 local latent sites"):
        embed(TwoLevels(), torch.zeros(2, 1))
    with pytest.raises(PpvaeError, match="num: expected at least 1, found 0"):
        generate(factors, 0, like=x)
    with pytest.raises(PpvaeError, match="num_burn_in < num_steps, found 5 and 5"):
        inpaint(factors, x, torch.ones(4), num_steps=5, num_burn_in=5)
    with pytest.raises(DataError, match=r"mask \[3\] does not broadcast to the data \[2, 4\]"):
        inpaint(factors, x, torch.ones(3))
    mapping: Any = {"x": x}
    for data in (mapping, Dataset(mapping)):
        with pytest.raises(DataError, match="found a mapping"):
            inpaint(factors, data, torch.ones(4))


def test_float64_stays_float64() -> None:
    """Data of a double-precision pair are not rounded to single precision on the way in."""
    torch.manual_seed(0)
    pair = FactorAnalysis(3, 1).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    exact = pair.posterior(x).mean.detach()
    assert float((exact - pair.posterior(x.float().double()).mean.detach()).abs().max()) > 1e-9  # it would show
    for data in (x, x.numpy(), Dataset(x)):
        assert torch.equal(OverData(pair, data, device="cpu").batch(torch.arange(4)), x)
        assert torch.equal(model_ready(data, torch.float64), x)
    assert torch.equal(rows_like(x, 4, pair).x, x)
