"""Discrete latents asked for: against exact posteriors, under right and wrong guides, HMC; gaps, plates, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError
from ppvae.distributions import DiagonalNormal, draw_gaps, observe_with_gaps
from ppvae.inference import (
    DiscretePosterior,
    discrete_posterior,
    sample_discrete,
    sample_posterior,
)
from ppvae.models import FactorAnalysis, HiddenMarkovModel, MixtureOfFactorAnalysers
from ppvae.networks import MLP

PARALLEL: Any = {"enumerate": "parallel"}
MODES = pytest.mark.parametrize("mode", ["eager", "graph"])


def mixture() -> MixtureOfFactorAnalysers:
    """Components that overlap, so that no probability is near zero or one."""
    return MixtureOfFactorAnalysers.from_parameters(
        probs=[0.3, 0.3, 0.4],
        loc=[[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]],
        loading=[[[1.0], [0.5]], [[-1.0], [1.0]], [[0.5], [0.2]]],
        scale=[[0.7, 0.6], [0.9, 0.6], [0.8, 0.8]],
    )


def chain() -> HiddenMarkovModel:
    return HiddenMarkovModel.from_parameters(
        initial=[0.5, 0.5],
        transition=[[0.8, 0.2], [0.3, 0.7]],
        loc=[[-0.7, 0.0], [0.7, 0.3]],
        scale=[[0.8, 0.9], [0.7, 0.8]],
        loading=[[[0.6], [0.3]], [[-0.4], [0.8]]],
    )


def data_of(shape: tuple[int, ...] = (40, 2), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def worst_score(posterior: DiscretePosterior, name: str, truth: Tensor) -> float:
    """Distance from the truth in standard errors, at least rounding."""
    error = posterior.standard_error[name].clamp(min=1e-6)
    return float(((posterior.probabilities[name] - truth).abs() / error).max())


def wrong_guide() -> DiagonalNormal:
    torch.manual_seed(3)
    return DiagonalNormal(MLP(2, [8]), event_shape=(1,))


# --- the truth ------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("weights", ["guide", "importance"])
def test_exact_guide_reaches_the_exact_posterior(weights: Any, mode: Any) -> None:
    pair, x = mixture(), data_of()
    found = discrete_posterior(pair, x, weights=weights, num_samples=400, chunk_size=30, compile=mode)
    truth = pair.discrete_posterior(x).detach()
    assert found.probabilities["y"].shape == truth.shape
    assert worst_score(found, "y", truth) < 4.5
    assert float(found.standard_error["y"].max()) < 0.03
    assert bool(found.trusted.all())
    torch.testing.assert_close(found.probabilities["y"].sum(-1), torch.ones(40))


def test_standard_error_is_that_of_repetitions() -> None:
    """Under both weights, with a guide that makes them unequal."""
    pair, x = mixture().with_posterior(wrong_guide()), data_of((12, 2))
    for weights in ("guide", "importance"):
        runs = [discrete_posterior(pair, x, weights=weights, num_samples=200, seed=i) for i in range(60)]  # type: ignore[arg-type]
        spread = torch.stack([run.probabilities["y"] for run in runs]).std(0).square().mean().sqrt()
        stated = torch.stack([run.standard_error["y"] for run in runs]).square().mean().sqrt()
        assert 0.8 < float(stated / spread) < 1.25, weights


def test_importance_weights_mend_a_wrong_guide() -> None:
    pair, x = mixture().with_posterior(wrong_guide()), data_of()
    truth = pair.discrete_posterior(x).detach()
    plain, weighted = (discrete_posterior(pair, x, weights=w, num_samples=3000) for w in ("guide", "importance"))  # type: ignore[arg-type]
    good = weighted.trusted
    assert int(good.sum()) > 30
    error = weighted.standard_error["y"].clamp(min=1e-6)
    assert float(((weighted.probabilities["y"] - truth).abs() / error)[good].max()) < 5
    assert worst_score(plain, "y", truth) > 20


def test_draws_of_hmc_reach_the_exact_posterior() -> None:
    pair, x = mixture(), data_of((8, 2))
    draws = sample_posterior(pair, x, num_samples=150, num_warmup=100, num_chains=8, progress=False)
    found = discrete_posterior(pair, x, draws=draws, chunk_size=5)
    assert worst_score(found, "y", pair.discrete_posterior(x).detach()) < 5
    assert 0 < float(found.standard_error["y"].max()) < 0.05
    whole = discrete_posterior(pair, x, draws=draws, compile="eager")
    torch.testing.assert_close(whole.probabilities, found.probabilities)


def test_draws_of_failed_chains_do_not_count() -> None:
    pair, x = mixture(), data_of((3, 2))
    draws = sample_posterior(pair, x, num_samples=50, num_warmup=50, num_chains=2, progress=False)
    alone = discrete_posterior(
        pair, x, draws=replace(draws, unconstrained=draws.unconstrained[:1], outcome=draws.outcome[:1])
    )
    draws.unconstrained[1] = 30.0
    outcome = draws.outcome.clone()
    outcome[1] = 2
    outcome[0, 2] = 2
    found = discrete_posterior(pair, x, draws=replace(draws, outcome=outcome))
    torch.testing.assert_close(found.probabilities["y"][:2], alone.probabilities["y"][:2])
    assert bool(found.probabilities["y"][2].isnan().all())
    assert found.trusted.tolist() == [True, True, False]


@MODES
def test_states_of_a_chain(mode: Any) -> None:
    pair, x = chain(), data_of((20, 4, 2))
    found = discrete_posterior(pair, x, num_samples=300, compile=mode)
    truth = pair.discrete_posterior(x).detach()
    assert list(found.probabilities) == ["y_0", "y_1", "y_2", "y_3"]
    for t in range(4):
        assert worst_score(found, f"y_{t}", truth[:, t]) < 5
    alone = discrete_posterior(pair, x, num_samples=300, compile=mode, site="y_2")
    assert list(alone.probabilities) == ["y_2"]
    torch.testing.assert_close(alone.probabilities["y_2"], found.probabilities["y_2"])


def test_all_latents_summed_out_is_exact() -> None:
    pair = HiddenMarkovModel.from_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.7, 0.3], [0.1, 0.9]]
    )
    x = torch.randint(0, 2, (7, 3), generator=torch.Generator().manual_seed(0))
    for weights in ("guide", "importance"):
        found = discrete_posterior(pair, x, weights=weights)  # type: ignore[arg-type]
        stacked = torch.stack(list(found.probabilities.values()), 1)
        torch.testing.assert_close(stacked, pair.discrete_posterior(x).detach())
        assert all(bool((error == 0).all()) for error in found.standard_error.values())
        assert "without sampling error" in repr(found)


@MODES
def test_draws_have_the_posterior_as_frequencies(mode: Any) -> None:
    """Also jointly: a pair of states of a chain."""
    pair = HiddenMarkovModel.from_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.7, 0.3], [0.1, 0.9]]
    )
    x, number = torch.tensor([[0, 1], [1, 1], [0, 0]]), 4000
    paths = sample_discrete(pair, x, num_samples=number, compile=mode)
    assert paths["y_0"].shape == (number, 3)
    prior = pair.initial_probs[:, None] * pair.transition_probs
    likely = torch.stack([pair.emission.probs[:, a, None] * pair.emission.probs[None, :, b] for a, b in x.tolist()])
    joint = prior * likely
    truth = (joint / joint.sum((1, 2), keepdim=True)).detach()
    for a in range(2):
        for b in range(2):
            share = ((paths["y_0"] == a) & (paths["y_1"] == b)).double().mean(0)
            error = (truth[:, a, b] * (1 - truth[:, a, b]) / number).sqrt()
            assert bool(((share - truth[:, a, b]).abs() < 4.5 * error).all())


def test_draws_beside_a_continuous_latent() -> None:
    pair, x, number = mixture(), data_of((6, 2)), 3000
    truth = pair.discrete_posterior(x).detach()
    drawn = sample_discrete(pair, x, num_samples=number, site="y")["y"]
    shares = torch.nn.functional.one_hot(drawn, 3).double().mean(0)
    assert float(((shares - truth).abs() / (truth * (1 - truth) / number).sqrt()).max()) < 4.5
    draws = sample_posterior(pair, x, num_samples=10, num_warmup=100, num_chains=2, progress=False)
    assert sample_discrete(pair, x, draws=draws)["y"].shape == (20, 6)
    again = [sample_discrete(pair, x, num_samples=5, seed=seed)["y"] for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


# --- a guide that draws y, gaps, nested plates, other supports --------------------------------------


class Labelled(ModelGuidePair):
    """y with gaps, x of it; the guide has y too, or leaves it to the sum."""

    def __init__(self, guided: bool, style_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifier, self.loc = nn.Linear(2, 3), nn.Parameter(torch.randn(3, 2))
        self.guided, self.style_first = guided, style_first

    def model(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y = observe_with_gaps("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 3)), batch["label"])
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(y @ self.loc + 0.5 * z.unsqueeze(-1), 0.7).to_event(1), obs=x)

    def guide(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            logits = self.classifier(x)
            if self.style_first:
                z = pyro.sample("z", dist.Normal(0.2 * x[:, 0], 1.0))
                logits = logits + z[..., None] * x.new_tensor([1.0, 0.0, -1.0])
            if self.guided:
                draw_gaps("y", dist.OneHotCategorical(logits=logits), batch["label"])
            if not self.style_first:
                pyro.sample("z", dist.Normal(0.2 * x[:, 0], 1.0))

    def exact(self, x: Tensor) -> Tensor:
        """p(y | x), z integrated out: a normal of covariance 0.49 I + 0.25 1 1^T."""
        fn = dist.MultivariateNormal(self.loc, 0.49 * torch.eye(2) + 0.25)
        return fn.log_prob(x[:, None]).softmax(-1).detach()


BATCH = {"x": data_of((30, 2)), "label": torch.tensor([0, -1, 2, -1, -1] * 6)}
GAPS = BATCH["label"] < 0


def test_marked_site_of_the_guide_is_the_classifier() -> None:
    pair = Labelled(guided=True)
    found = discrete_posterior(pair, BATCH)
    p, truth = found.probabilities["y_unobserved"], pair.classifier(BATCH["x"]).softmax(-1).detach()
    torch.testing.assert_close(p[GAPS], truth[GAPS])
    assert bool(p[~GAPS].isnan().all())
    assert bool((found.standard_error["y_unobserved"][GAPS] == 0).all())
    assert torch.equal(found.values["y_unobserved"][GAPS], truth[GAPS].argmax(-1))
    assert found.values["y_unobserved"][~GAPS].unique().tolist() == [-1]
    assert torch.equal(found.support["y_unobserved"], torch.eye(3))
    shares = sample_discrete(pair, BATCH, num_samples=3000)["y_unobserved"].double().mean(0)[GAPS]
    error = (truth[GAPS] * (1 - truth[GAPS]) / 3000).sqrt()
    assert float(((shares - truth[GAPS]).abs() / error).max()) < 4.5


def test_marked_site_after_another_latent_is_averaged() -> None:
    """q(y | x) is an average over z here, so that it has an error; 60 nodes of Gauss-Hermite know the truth."""
    import numpy as np

    pair = Labelled(guided=True, style_first=True)
    nodes, mass = (torch.as_tensor(a, dtype=torch.float32) for a in np.polynomial.hermite_e.hermegauss(60))
    z = 0.2 * BATCH["x"][:, 0] + nodes[:, None]
    logits = pair.classifier(BATCH["x"]) + z[..., None] * torch.tensor([1.0, 0.0, -1.0])
    truth = ((mass / mass.sum())[:, None, None] * logits.softmax(-1)).sum(0).detach()
    found = discrete_posterior(pair, BATCH, num_samples=500)
    error = found.standard_error["y_unobserved"][GAPS]
    assert 0 < float(error.max()) < 0.05
    assert float(((found.probabilities["y_unobserved"] - truth)[GAPS].abs() / error).max()) < 5


@pytest.mark.parametrize("guided", [True, False])
def test_importance_weights_give_the_models_posterior_of_gaps(guided: bool) -> None:
    pair = Labelled(guided)
    found = discrete_posterior(pair, BATCH, weights="importance", num_samples=1500)
    truth, error = pair.exact(BATCH["x"]), found.standard_error["y_unobserved"][GAPS]
    assert float(((found.probabilities["y_unobserved"] - truth)[GAPS].abs() / error).max()) < 5
    if guided:
        assert float((pair.classifier(BATCH["x"]).detach().softmax(-1) - truth)[GAPS].abs().max()) > 0.1


class Parts(ModelGuidePair):
    """A class for each of three parts of a datum, and a coin for the datum, with z shared by the parts."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            coin = pyro.sample("coin", dist.Bernoulli(0.3), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("parts", 3, dim=-2):
                y = pyro.sample("y", dist.Bernoulli(0.2 + 0.5 * coin), infer=PARALLEL)
                pyro.sample("x", dist.Normal(2 * y + z, 0.5), obs=x.T)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.5 * x.mean(-1), 0.7))

    @staticmethod
    def exact(x: Tensor) -> tuple[Tensor, Tensor]:
        """p(coin = 1 | x), [B], and p(y = 1 | x), [B, 3], by quadrature over z."""
        z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None, None]
        x = x.double()
        on, off = (dist.Normal(level + z, 0.5).log_prob(x).exp() for level in (2.0, 0.0))  # [Z, B, 3]
        prior = dist.Normal(0.0, 1.0).log_prob(z[..., 0]).exp()
        by_coin, with_y = [], []
        for coin, rate in ((0.7, 0.2), (0.3, 0.7)):
            parts = rate * on + (1 - rate) * off
            whole = coin * prior * parts.prod(-1)
            by_coin.append(whole.sum(0))
            with_y.append((whole[..., None] * rate * on / parts).sum(0))
        total = by_coin[0] + by_coin[1]
        return by_coin[1] / total, (with_y[0] + with_y[1]) / total[:, None]


def test_nested_plate() -> None:
    pair, x = Parts(), data_of((8, 3)) + 1
    found = discrete_posterior(pair, x, weights="importance", num_samples=2000, chunk_size=5)
    coin, y = Parts.exact(x)
    assert found.probabilities["y"].shape == (8, 3, 2)
    assert worst_score(found, "coin", torch.stack([1 - coin, coin], -1)) < 5
    assert worst_score(found, "y", torch.stack([1 - y, y], -1)) < 5
    drawn = sample_discrete(pair, x, num_samples=4)
    assert (drawn["y"].shape, drawn["coin"].shape) == ((4, 8, 3), (4, 8))
    assert 0 <= found.accuracy(torch.ones(8, 3), site="y") <= 1


# --- scores -----------------------------------------------------------------------------------------


def of_probabilities(p: Tensor) -> DiscretePosterior:
    zeros = torch.zeros(len(p))
    return DiscretePosterior({"y": p}, {"y": 0 * p}, {"y": torch.arange(p.shape[-1])}, "guide", zeros, zeros.long())


def test_accuracy_and_calibration_by_hand() -> None:
    p = torch.tensor([[0.95, 0.05], [0.15, 0.85], [0.55, 0.45], [0.58, 0.42], [torch.nan, torch.nan], [0.7, 0.3]])
    found = of_probabilities(p)
    labels = torch.tensor([0, 0, 1, 0, 0, -1])
    assert found.values["y"].tolist() == [0, 1, 0, 0, -1, 0]
    assert found.accuracy(labels) == 0.5
    assert of_probabilities(p[:4]).accuracy(torch.tensor([False, False, True, False])) == 0.5
    table = found.calibration(labels, bins=2)
    assert table.count.tolist() == [0, 4]
    assert table.error == pytest.approx(abs(0.5 - (0.95 + 0.85 + 0.55 + 0.58) / 4))
    fine = found.calibration(labels, bins=10)
    assert fine.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]
    assert fine.error == pytest.approx((abs(1 - 1.13) + 0.85 + 0.05) / 4, abs=1e-6)
    assert "expected calibration error" in repr(table)
    assert "y: mean probabilities 0.586 0.414" in repr(found)


def test_calibration_tells_overconfidence() -> None:
    """Labels drawn from p are calibrated; a sharpened p is not (power)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert of_probabilities(logits.softmax(-1)).calibration(labels).error < 0.015
    assert of_probabilities((3 * logits).softmax(-1)).calibration(labels).error > 0.2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5), r"expected one for each value of 'y', \[4\], found \[5\]"),
        (torch.zeros(4, 3), r"expected one for each value of 'y'"),
        (torch.tensor([0, 1, 2, 3]), r"expected whole numbers below 3(?s:.*)found 3"),
        (torch.tensor([0.5, 1, 2, 0]), r"expected whole numbers(?s:.*)found 0\.5"),
        (torch.full((4,), -1), r"found none"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, message: str) -> None:
    found = of_probabilities(torch.full((4, 3), 1 / 3))
    for score in (found.accuracy, found.calibration):
        with pytest.raises(PpvaeError, match=message):
            score(labels)
    with pytest.raises(PpvaeError, match="bins"):
        found.calibration(torch.zeros(4), bins=0)


def test_result_says_what_it_is() -> None:
    pair, x = mixture(), data_of((5, 2))
    plain = discrete_posterior(pair, x, num_samples=20)
    assert "averages over 20 draws of the guide" in repr(plain)
    assert "y: mean probabilities" in repr(plain)
    assert "importance-weighted" in repr(discrete_posterior(pair, x, num_samples=20, weights="importance"))
    assert "Discrete latents" in plain._repr_html_()


# --- what is refused ----------------------------------------------------------------------------------


def test_refused_by_name() -> None:
    x = data_of((4, 2))
    for verb in (discrete_posterior, sample_discrete):
        with pytest.raises(PairError, match="no discrete site that is summed out"):
            verb(FactorAnalysis(2, 1), x)
        with pytest.raises(PairError, match="no discrete site 'yy'"):
            verb(mixture(), x, site="yy")
        with pytest.raises(PpvaeError, match="num_samples"):
            verb(mixture(), x, num_samples=0)
    with pytest.raises(PpvaeError, match="unknown weights 'prior'"):
        discrete_posterior(mixture(), x, weights="prior")  # type: ignore[arg-type]


def test_draws_of_something_else_are_refused() -> None:
    pair, x = mixture(), data_of((4, 2))
    draws = sample_posterior(pair, x, num_samples=5, num_warmup=5, num_chains=1, progress=False)
    for verb in (discrete_posterior, sample_discrete):
        with pytest.raises(PpvaeError, match="expected draws of this pair"):
            verb(mixture(), x, draws=draws)
        with pytest.raises(PpvaeError, match="expected those of 3 data, found 4"):
            verb(pair, x[:3], draws=draws)
    with pytest.raises(PpvaeError, match="draws of the posterior need none"):
        discrete_posterior(pair, x, draws=draws, weights="importance")
