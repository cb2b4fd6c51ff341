"""The report per site: routes of the KLs, KL per dimension, active units, and log p = ELBO + KL."""

from __future__ import annotations

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.elbo_oracles import GlobalPair, binary_vae, some_data
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PpvaeError, draw, log_joint
from ppvae.distributions import DiagonalNormal, Normal, StandardNormal
from ppvae.distributions.reparameterization import Reparameterized
from ppvae.inference import elbo, site_report
from ppvae.inference.execution.memory import peak_memory
from ppvae.models import VAE, FactorAnalysis
from ppvae.networks import MLP


def vae_with_idle_units() -> VAE:
    """Four latents: in the first two the guide follows x, in the last two it is the prior."""
    pair = VAE(StandardNormal(4), Normal(MLP(4, []), 3, scale=1.0), DiagonalNormal(MLP(3, []), 4)).double()
    with torch.no_grad():
        loc, log_scale = pair.posterior.head.layers
        loc.weight.copy_(torch.tensor([[0.5, 0, 0], [0, 0.3, 0], [0, 0, 0], [0, 0, 0]]))
        loc.bias.zero_()
        log_scale.weight.zero_()
        log_scale.bias.copy_(torch.tensor([-0.5, -0.2, 0.0, 0.0]))
    return pair


def test_kl_and_activity_are_the_closed_forms() -> None:
    pair, x = vae_with_idle_units(), some_data(500)
    report = site_report(pair, x, num_particles=200)
    z = report.site("z")
    assert (z.route, z.reason) == ("analytic", "")
    assert z.kl_error < 1e-12
    loc = x @ pair.posterior.head.layers[0].weight.mT.detach()
    scale = pair.posterior.head.layers[1].bias.detach().exp()
    kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
    assert z.kl_per_dimension == pytest.approx(kl.mean(0).tolist(), abs=1e-12)
    assert z.kl == pytest.approx(kl.sum(-1).mean().item(), abs=1e-12)
    assert z.active_units == 2
    assert z.activity == pytest.approx(loc.var(0).tolist(), abs=0.02)
    assert report.site("x").route == "observed"
    assert "2 of 4 units active" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["sites"][1]["kl"] is None


def test_sampled_kls_say_why() -> None:
    pair, x = vae_with_idle_units(), some_data(200)
    analytic, sampled = (site_report(pair, x, num_particles=500, analytic=flag) for flag in (True, False))
    assert sampled.site("z").route == "sampled"
    assert sampled.site("z").kl_error > 0
    assert sampled.site("z").kl == pytest.approx(analytic.site("z").kl, abs=4 * sampled.site("z").kl_error)
    odd = VAE(StandardNormal(2), Normal(MLP(2, []), 3, scale=1.0), Reparameterized("student_t", MLP(3, []), 2))
    row = site_report(odd, x.float()).site("z")
    assert row.route == "sampled"
    assert "no closed form is registered for KL(StudentT || Normal)" in row.reason
    assert row.kl_per_dimension == ()


def test_the_bound_is_the_sum_of_its_sites(float64: torch.dtype) -> None:
    x = some_data(6, 2)
    report = site_report(GlobalPair(with_global=True), x, num_particles=4000)
    expected = GlobalPair(with_global=True).expected_elbo(x).item() / 6
    assert report.elbo == pytest.approx(expected, abs=0.1)
    assert report.site("w").scope == "global"
    assert report.site("w").activity == ()
    binary = site_report(binary_vae(), some_data())
    assert binary.site("z").route == "analytic"


def test_log_p_is_elbo_plus_kl(float64: torch.dtype) -> None:
    model, x = FactorAnalysis(5, 2), torch.randn(7, 5)
    for pair in (model, model.with_wrong_guide(), model.with_posterior(DiagonalNormal(MLP(5, [4]), 2))):
        drawn = draw(pair, x, 100)
        bound = (log_joint(pair, x, drawn.latents).local - drawn.log_q).mean(0)
        divergence = (drawn.log_q - pair.posterior(x).log_prob(drawn.latents["z"])).mean(0)
        assert float((pair.log_evidence(x) - bound - divergence).abs().max().detach()) < 1e-9
    wrong = model.with_wrong_guide(shift=0.6, stretch=1.2)
    values = elbo.TraceELBO(num_particles=20_000).terms(wrong, x).local.detach()
    gap = (model.log_evidence(x) - values).mean().item()
    assert gap == pytest.approx(wrong.guide_divergence(), abs=0.03)


def test_errors() -> None:
    with pytest.raises(PpvaeError, match="at least 2, found 1"):
        site_report(vae_with_idle_units(), some_data(), num_particles=1)


def test_the_kl_per_dimension_adds_up_to_the_kl_where_a_dimension_has_classes() -> None:
    """Three one-hot latents of four classes: KL by hand, dimension by dimension."""

    class Classes(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.OneHotCategorical(logits=x.new_zeros(3, 4)).to_event(1))
                pyro.sample("x", dist.Normal(z[..., 0], 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.OneHotCategorical(logits=self.logits.expand(len(x), 3, 4)).to_event(1))

    pair = Classes()
    row = site_report(pair, torch.randn(20, 3), num_particles=5).site("z")
    probs = pair.logits.softmax(-1).detach()
    expected = (probs * (4 * probs).log()).sum(-1)
    assert torch.allclose(torch.tensor(row.kl_per_dimension, dtype=expected.dtype), expected, atol=1e-5)
    assert sum(row.kl_per_dimension) == pytest.approx(row.kl, abs=1e-5)


def test_chunks_and_peak_memory() -> None:
    """All data times all draws were one batch once."""
    pair, x = binary_vae(), some_data(230)
    whole, parts = (site_report(pair, x, num_particles=50, chunk_size=size) for size in (230, 40))
    assert (parts.num_data, parts.num_particles) == (230, 50)
    for name in ("z", "x"):
        one, other = whole.site(name), parts.site(name)
        assert other.log_p == pytest.approx(one.log_p, rel=0.02)
        assert other.kl_per_dimension == pytest.approx(one.kl_per_dimension)  # analytic: no noise
        assert other.activity == pytest.approx(one.activity, abs=0.05)
    needs = [
        peak_memory(lambda size=size: site_report(pair, x, chunk_size=size), torch.device("cpu")) for size in (230, 10)
    ]
    assert needs[1] < 0.3 * needs[0]
