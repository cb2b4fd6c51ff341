"""Several views of a datum: the contract of a pair, and a linear Gaussian model, whose posterior is a product."""

from __future__ import annotations

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_joint
from ppvae.distributions import LinearNormal, StandardNormal
from ppvae.inference import evidence, fit, inpaint, log_evidence
from ppvae.models import Latent, LatentModel, LinearGaussian, Mask, Observed, likelihoods, multimodal_vae

D, E, K, SIZE = 5, 3, 4, 8


def batch(size: int = SIZE) -> dict[str, Tensor]:
    """Views are there or not in every combination; what is not there is NaN."""
    has = {name: torch.arange(size) // 2**place % 2 == 1 for place, name in enumerate(("x", "y", "label"))}
    views = {"x": torch.randn(size, D), "y": torch.randn(size, E), "label": torch.eye(K)[torch.arange(size) % K]}
    given = {name: value.where(has[name][:, None], torch.tensor(torch.nan)) for name, value in views.items()}
    return {**given, **{f"has_{name}": there for name, there in has.items()}}


def real_views() -> LatentModel:
    """One latent, two real views with standard deviations of their own, and a label."""
    likelihood = likelihoods.gaussian(scale="per-dimension")
    others = {"y": (E, likelihood)}
    return multimodal_vae(D, K, latent_dim=1, hidden=(2,), activation="relu", likelihood=likelihood, others=others)


class TestMultimodalVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return multimodal_vae(D, K, latent_dim=2, hidden=(4,))

    def make_data(self) -> Data:
        x = batch(6)
        return {**{k: x[k] for k in ("label", "has_x", "has_label")}, "x": (x["x"] > 0).float()}


def with_twin() -> tuple[LatentModel, LinearGaussian]:
    """The pair with linear networks, since relu(a) - relu(-a) = a: the decoders of a linear Gaussian model, and for
    experts the posteriors given each view alone, without the prior."""
    torch.manual_seed(5)
    twin = LinearGaussian(
        has_x=Mask(per_datum=True),
        has_y=Mask(per_datum=True),
        z=Latent(StandardNormal(1)),
        x=Observed(LinearNormal([1], D).given("z"), mask="has_x"),
        y=Observed(LinearNormal([1], E).given("z"), mask="has_y"),
    ).double()
    pair = real_views().double()
    scramble(pair, 0.3)
    scramble(twin, 0.3)
    with torch.no_grad():
        for expert, name in zip(pair.posterior_z.experts, ("x", "label", "y"), strict=True):
            if name == "label":
                continue
            exact, mine = getattr(twin, f"likelihood_{name}"), getattr(pair, f"likelihood_{name}")
            w, precision = exact.weights[0], (-2 * exact.log_scale).exp()
            _linear(mine.head, torch.ones(1, 1), torch.zeros(1), w, exact.bias)
            mine.log_scale.copy_(exact.log_scale)
            total = (w[:, 0].square() * precision).sum()
            gain = (w[:, 0] * precision / total)[None]
            _linear(expert.head, gain, -gain @ exact.bias, torch.ones(1, 1), torch.zeros(1))
            expert.head.layers[1].weight.zero_()
            expert.head.layers[1].bias.copy_(-0.5 * total.log())
    return pair, twin


def _linear(head: object, inner: Tensor, shift: Tensor, outer: Tensor, bias: Tensor) -> None:
    """Make a head's first parameter outer (inner c + shift) + bias."""
    hidden, last = head.trunk.layers[0], head.layers[0]  # type: ignore[attr-defined]
    hidden.weight.copy_(torch.cat([inner, -inner]))
    hidden.bias.copy_(torch.cat([shift, -shift]))
    last.weight.copy_(torch.cat([outer, -outer], 1))
    last.bias.copy_(bias)


def test_product_of_linear_experts_is_the_posterior(float64: torch.dtype) -> None:
    """Then log p(x, z) - log q(z | x) is the evidence at every z, whichever views are there."""
    (pair, twin), x = with_twin(), batch()
    x["has_label"] = torch.zeros(SIZE)
    drawn = draw(pair, x, 5)
    joint = log_joint(pair, x, drawn.latents).local
    torch.testing.assert_close(joint, log_joint(twin, x, drawn.latents).local)
    exact = twin.log_evidence(x).detach()
    torch.testing.assert_close((joint - drawn.log_q).detach(), exact.expand(5, SIZE), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exact[0], torch.zeros(()))  # no view is there


def test_evidence_with_a_label_is_the_integral(float64: torch.dtype) -> None:
    pair, x = real_views().double(), batch()
    scramble(pair, 0.3)
    z = torch.linspace(-8, 8, 4001)
    latents = {"z": z[:, None, None].expand(-1, SIZE, 1)}
    exact = (log_joint(pair, x, latents).local.logsumexp(0) + (z[1] - z[0]).log()).detach()
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_chains=64, num_temperatures=15)):
        found = log_evidence(pair, x, method=method, compile="eager", progress=False)
        assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error + 1e-6).all())
        assert float(found.standard_error.max()) < 0.2


def test_a_missing_label_is_filled_in_with_its_probabilities(float64: torch.dtype) -> None:
    pair, x = real_views().double(), batch(4)
    scramble(pair, 0.5)
    x = {**x, "has_x": torch.ones(4), "has_label": torch.zeros(4), "x": torch.randn(4, D)}
    found = inpaint(pair, x, site="label", num_chains=64, num_steps=120, num_burn_in=70)
    by_class = []
    for k in range(K):
        given = {**x, "label": torch.eye(K)[k].expand(4, K), "has_label": torch.ones(4)}
        z = torch.linspace(-8, 8, 1001)
        by_class.append(log_joint(pair, given, {"z": z[:, None, None].expand(-1, 4, 1)}).local.logsumexp(0))
    probabilities = torch.stack(by_class, -1).softmax(-1).detach()
    assert float(((found.mean - probabilities).abs() / found.standard_error).max()) < 4.5
    assert float(found.standard_error.max()) < 0.05


def test_what_is_refused() -> None:
    with pytest.raises(PpvaeError, match=r"expected rows of D entries, found data of shape \(2, 3\)"):
        multimodal_vae((2, 3), K)
    with pytest.raises(PpvaeError, match="others: the name 'label' is taken"):
        multimodal_vae(D, K, others={"label": (3, likelihoods.bernoulli())})
    numbers = {"x": torch.ones(6, D), "label": torch.arange(6) % K, "has_x": torch.ones(6), "has_label": torch.ones(6)}
    with pytest.raises(PairError, match=r"member .label.: expected \[B, 4\], found \[6\][\s\S]*torch\.eye"):
        fit(multimodal_vae(D, K, latent_dim=1, hidden=(2,)), numbers, num_epochs=1, progress=False)
