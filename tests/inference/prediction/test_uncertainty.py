"""Epistemic and aleatoric variance against the closed form; evidence averaged over weights."""

from __future__ import annotations

import pytest
import torch
from contracts.bayesian_pairs import NOISE, flat_posterior, jacobian, linear, widen
from core.pairs import GlobalWeight

from ppvae.core import PairError, PpvaeError, draw, predict
from ppvae.data import Dataset
from ppvae.inference import evidence, log_evidence
from ppvae.inference.prediction.moments import predictive_moments
from ppvae.models import bayesianise, bernoulli_vae


@pytest.mark.parametrize("posterior", ["diagonal", "low-rank"])
def test_regression_in_closed_form(posterior: str) -> None:
    pair, x = linear()
    bayes = widen(bayesianise(pair, modules=["layer"], posterior=posterior))  # type: ignore[arg-type]
    loc, covariance = (value.detach() for value in flat_posterior(bayes))
    design = jacobian(bayes, x).detach()
    exact = torch.einsum("bod,de,boe->bo", design, covariance, design)
    found = predictive_moments(bayes, x, num_weights=800, num_latents=1, chunk_size=4)
    assert bool(((found.mean - design @ loc).abs() < 4 * (exact / 800).sqrt()).all())
    assert bool(((found.epistemic / exact - 1).abs() < 4 * (2 / 800) ** 0.5).all())
    torch.testing.assert_close(found.aleatoric, torch.full_like(exact, NOISE**2))
    torch.testing.assert_close(found.total, found.aleatoric + found.epistemic)


def test_latents_and_weights_are_told_apart() -> None:
    """x = z w + noise: aleatoric is E[w^2] Var z + (E z)^2 ... by hand, and both are unbiased with few latents."""
    torch.manual_seed(2)
    pair, x = GlobalWeight().double(), torch.randn(3, 3, dtype=torch.float64)
    w, s = pair.weight_loc.detach(), pair.weight_log_scale.exp().detach()
    loc, log_scale = pair.encoder(x).detach().chunk(2, -1)
    epistemic = loc.square() * s.square()
    aleatoric = (w.square() + s.square()) * (2 * log_scale).exp() + 0.25
    runs = [predictive_moments(pair, x, num_weights=40, num_latents=3, seed=k) for k in range(30)]
    for name, exact in (("epistemic", epistemic), ("aleatoric", aleatoric), ("mean", loc * w)):
        values = torch.stack([getattr(run, name) for run in runs])
        assert bool(((values.mean(0) - exact).abs() < 4 * values.std(0) / 30**0.5).all())
    # Power: without the correction, the latents' noise would be counted as the weights'.
    bias = (w.square() + s.square()) * (2 * log_scale).exp() / 3
    assert bool((4 * torch.stack([run.epistemic for run in runs]).std(0) / 30**0.5 < bias).any())


def test_total_is_the_spread_of_predictions() -> None:
    torch.manual_seed(3)
    pair, x = bayesianise(bernoulli_vae(6, latent_dim=2, hidden=(4,))), torch.bernoulli(torch.full((3, 6), 0.4))
    with torch.no_grad():
        for name, parameter in pair.named_parameters():
            if name.endswith("log_scale"):
                parameter.fill_(0.0)
    found = predictive_moments(pair, x, num_weights=300, num_latents=5)
    mean = torch.cat([predict(pair, x, draw(pair, x, 500).latents)["x"] for _ in range(4)]).detach().mean(0)
    assert (found.mean - mean).abs().max() < 0.06
    torch.testing.assert_close(found.total, found.mean * (1 - found.mean), rtol=0.05, atol=0)  # of a coin
    assert found.epistemic.min() > 0.01
    again = predictive_moments(pair, x, num_weights=300, num_latents=5)
    assert torch.equal(found.epistemic, again.epistemic)


def test_evidence_averaged_over_weights() -> None:
    """The log of the mean of p(x | w) over draws of w."""
    vae = bernoulli_vae(6, latent_dim=2, hidden=(4,))
    data = torch.bernoulli(torch.full((4, 6), 0.4))
    bayes = bayesianise(vae)
    method = evidence.ImportanceSampling(200)
    found = log_evidence(bayes, data, method=method, global_sites=6, progress=False)
    assert found.bound == "consistent" and found.info["global_sites"] == "6 draws" and len(found) == 4
    torch.manual_seed(0)
    drawn = {n: v for n, v in draw(bayes, data[:1], 6).latents.items() if n != "z"}
    parts = [
        log_evidence(bayes, data, method=method, global_sites={n: v[k] for n, v in drawn.items()}, progress=False)
        for k in range(6)
    ]
    # Another seed inside, the same weights: equal within the method's errors.
    average = torch.stack([part.log_evidence for part in parts]).logsumexp(0) - torch.tensor(6.0).log()
    error = (found.standard_error.square() + parts[0].standard_error.square()).sqrt()
    assert bool(((found.info["uncorrected"] - average).abs() < 4.5 * error).all())  # the lower bound
    assert bool((found.log_evidence >= found.info["uncorrected"]).all())


@pytest.mark.slow
def test_evidence_averaged_over_weights_in_closed_form() -> None:
    """x = z w + noise: p(x | w) is normal for every coordinate; its mean over q(w) by a fine grid."""
    torch.manual_seed(5)
    pair, x = GlobalWeight().double(), torch.randn(5, 3, dtype=torch.float64)
    w, s = pair.weight_loc.detach(), pair.weight_log_scale.exp().detach()
    found = log_evidence(pair, x, method=evidence.ImportanceSampling(2000), global_sites=300, progress=False)
    # Given w, x is normal with covariance w w' + I / 4: averaged over many exact draws, whose error is counted too.
    many = w + s * torch.randn(200_000, 3, dtype=torch.float64)
    covariance = many.unsqueeze(-1) * many.unsqueeze(-2) + 0.25 * torch.eye(3, dtype=torch.float64)
    logs = torch.stack(
        [torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(row) for row in x]
    )
    truth = logs.logsumexp(1) - torch.tensor(200_000.0).log()
    spread = (logs - truth.unsqueeze(1)).exp().std(1) / 200_000**0.5
    error = (found.standard_error.square() + spread.square()).sqrt()
    assert bool(((found.log_evidence - truth).abs() < 4 * error).all())
    # Power: evidence at the mean of the weights is another number, and the choice of weights is in the error.
    one = log_evidence(pair, x, method=evidence.ImportanceSampling(2000), global_sites="mean", progress=False)
    assert bool(((one.log_evidence - truth).abs() > 4 * error).any())
    between = (logs - truth.unsqueeze(1)).exp().std(1) / 300**0.5
    assert bool((found.standard_error > 0.7 * between).all() and (found.standard_error < 1.5 * between).all())


def test_averaged_evidence_keeps_one_binarisation() -> None:
    """Data that are binarised anew for every seed are the same at every draw of the weights."""
    vae = bernoulli_vae(6, latent_dim=2, hidden=(4,))
    bayes = bayesianise(vae)
    with torch.no_grad():
        for name, parameter in bayes.named_parameters():
            if name.endswith("log_scale"):
                parameter.fill_(-30.0)  # all draws of the weights are one
    grey = Dataset(torch.full((50, 6), 0.5), value_space="unit", binarization="dynamic")
    method = evidence.ImportanceSampling(400)
    many = log_evidence(bayes, grey, method=method, global_sites=4, seed=1, progress=False)
    one = log_evidence(bayes, grey, method=method, global_sites="mean", seed=1, progress=False)
    error = (many.standard_error.square() + one.standard_error.square()).sqrt()
    assert bool(((many.log_evidence - one.log_evidence).abs() < 5 * error + 1e-4).all())


def test_refuses() -> None:
    pair, x = linear()
    with pytest.raises(PairError, match="no global latent"):
        predictive_moments(pair, x)
    with pytest.raises(PairError, match="no global latent"):
        log_evidence(pair, x, global_sites=3)
    bayes = bayesianise(pair, modules=["layer"])
    with pytest.raises(PpvaeError, match="at least 2 draws of weights"):
        predictive_moments(bayes, x, num_weights=1)
    with pytest.raises(PairError, match="no observed site 'x'"):
        predictive_moments(bayes, x, site="x")
    with pytest.raises(PairError, match="belong to the weights they were simulated at"):
        log_evidence(bayes, evidence.SimulatedData(x, {}), method=evidence.BDMC(), global_sites=3)
    with pytest.raises(PpvaeError, match="expected at least 1, found 0"):
        log_evidence(bayes, x, global_sites=0)
