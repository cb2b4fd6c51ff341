"""The waist against densities written by hand, and against Pyro's own sums over a trace."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from core.pairs import Discrete, GammaLatent, GlobalWeight, Hierarchy, Nested, PyroExampleVAE, Regression
from pyro import poutine
from torch import Tensor

from ppvae.core import (
    ModelGuidePair,
    PairError,
    draw,
    log_joint,
    predict,
    simulate,
    site_terms,
    structure,
    unconstrained,
)
from ppvae.models import bernoulli_vae

pytestmark = pytest.mark.usefixtures("float64")


def normal(value: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log N(value; loc, scale^2), written out."""
    scale = torch.as_tensor(scale)
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))


def test_vae_by_hand() -> None:
    pair = bernoulli_vae(7, latent_dim=3, hidden=(5,)).double()
    x = torch.bernoulli(torch.full((4, 7), 0.4))
    drawn = draw(pair, x, 2)
    z = drawn.latents["z"]
    decoder, encoder = pair.likelihood.head, pair.posterior.head
    hidden = torch.tanh(z @ decoder.trunk.layers[0].weight.T + decoder.trunk.layers[0].bias)
    y = torch.sigmoid(hidden @ decoder.layers[0].weight.T + decoder.layers[0].bias)
    observed = (x * y.log() + (1 - x) * (1 - y).log()).sum(-1)
    features = torch.tanh(x @ encoder.trunk.layers[0].weight.T + encoder.trunk.layers[0].bias)
    loc = features @ encoder.layers[0].weight.T + encoder.layers[0].bias
    scale = (features @ encoder.layers[1].weight.T + encoder.layers[1].bias).exp()
    joint = log_joint(pair, x, drawn.latents)
    torch.testing.assert_close(joint.observed, observed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(joint.local, observed + normal(z, 0.0, 1.0).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(drawn.log_q, normal(z, loc, scale).sum(-1), rtol=1e-12, atol=1e-12)
    kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log())  # AEVB appendix B
    term = site_terms(pair, x, 2)["z"]
    assert term.route == "analytic"
    torch.testing.assert_close(term.kl, kl.sum(-1).expand(2, 4), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(term.kl_per_dimension, kl.expand(2, 4, 3), rtol=1e-12, atol=1e-12)


def test_hierarchy_by_hand() -> None:
    pair, x = Hierarchy().double(), torch.randn(5, 4)
    drawn = draw(pair, x, 3)
    top, z = drawn.latents["top"], drawn.latents["z"]
    prior = normal(top, 0.0, 1.0).sum(-1) + normal(z, pair.down(top), 0.7).sum(-1)
    observed = normal(x, pair.out(z.tanh()), 0.4).sum(-1)
    log_q = normal(z, pair.up1(x), pair.log_scale.exp()).sum(-1) + normal(top, pair.up2(z), 0.9).sum(-1)
    joint = log_joint(pair, x, drawn.latents)
    torch.testing.assert_close(joint.local, prior + observed)
    torch.testing.assert_close(joint.observed, observed)
    torch.testing.assert_close(drawn.log_q, log_q)


def test_a_guide_in_another_order_has_its_kl_sampled() -> None:
    """The guide draws z before top, the model top before z: KL(q(z|x) || p(z|top)) is not what a closed form gives."""
    terms = site_terms(Hierarchy().double(), torch.randn(5, 4))
    assert {terms["z"].route, terms["top"].route} == {"sampled"}
    assert "order" in terms["z"].reason


def test_gamma_by_hand() -> None:
    pair = GammaLatent().double()
    x = torch.poisson(torch.full((5, 3), 3.0))
    drawn = draw(pair, x, 2)
    z = drawn.latents["z"]
    prior = (2 * pair.rate.log() + z.log() - pair.rate * z).sum(-1)  # log Gamma(z; 2, rate)
    mean = pair.decoder(z).exp()
    observed = (x * mean.log() - mean - torch.lgamma(x + 1)).sum(-1)
    joint = log_joint(pair, x, drawn.latents)
    torch.testing.assert_close(joint.local, prior + observed)
    a, b = pair.encoder(x / 4).exp().chunk(2, -1)
    torch.testing.assert_close(drawn.log_q, (a * b.log() - torch.lgamma(a) + (a - 1) * z.log() - b * z).sum(-1))
    assert site_terms(pair, x)["z"].route == "analytic"


def test_global_weight_by_hand() -> None:
    pair, x = GlobalWeight().double(), torch.randn(5, 3)
    drawn = draw(pair, x, 4)
    w, z = drawn.latents["w"], drawn.latents["z"]
    assert w.shape == (4, 3) and z.shape == (4, 5, 1)
    joint = log_joint(pair, x, drawn.latents)
    torch.testing.assert_close(joint.global_, normal(w, 0.0, 1.0).sum(-1))
    expected = normal(z, 0.0, 1.0).sum(-1) + normal(x, z * w[:, None], 0.5).sum(-1)
    torch.testing.assert_close(joint.local, expected)
    scale = pair.weight_log_scale.exp()
    torch.testing.assert_close(drawn.global_log_q, normal(w, pair.weight_loc, scale).sum(-1))
    torch.testing.assert_close(joint.total(50), 10 * expected.sum(-1) + joint.global_)


def test_nested_plates_by_hand() -> None:
    pair, x = Nested().double(), torch.randn(5, 3)
    drawn = draw(pair, x, 2)
    z = drawn.latents["z"]
    assert z.shape == (2, 5, 3)  # the plate to the left of the data is an event axis here
    observed = normal(x, pair.gain * z, 0.5).sum(-1)
    joint = log_joint(pair, x, drawn.latents)
    torch.testing.assert_close(joint.observed, observed)
    torch.testing.assert_close(joint.local, observed + normal(z, 0.0, 1.0).sum(-1))
    torch.testing.assert_close(drawn.log_q, normal(z, pair.slope * x, 0.6).sum(-1))


def test_discrete_latent_sums_to_the_evidence() -> None:
    """Over every value of k the joint adds up to the mixture's density."""
    pair, x = Discrete().double(), torch.randn(5, 2)
    k = torch.arange(3)[:, None].expand(3, 5)
    found = log_joint(pair, x, {"k": k}).local.logsumexp(0)
    weights = torch.log_softmax(pair.logits, 0)
    parts = torch.stack([weights[j] + normal(x, pair.means[j], 0.8).sum(-1) for j in range(3)])
    torch.testing.assert_close(found, parts.logsumexp(0))
    drawn = draw(pair, x, 7)
    expected = torch.log_softmax(pair.encoder(x), -1).expand(7, 5, 3).gather(-1, drawn.latents["k"][..., None])
    torch.testing.assert_close(drawn.log_q, expected[..., 0])


def test_mapping_with_a_mask_by_hand() -> None:
    pair = Regression().double()
    x = {"y": torch.randn(6), "covariates": torch.randn(6, 2), "seen": torch.tensor([1, 0, 1, 1, 0, 1]).bool()}
    drawn = draw(pair, x, 2)
    a = drawn.latents["a"]
    observed = normal(x["y"], a + x["covariates"] @ pair.slope, 0.3) * x["seen"]
    torch.testing.assert_close(log_joint(pair, x, drawn.latents).observed, observed)


def _example() -> tuple[ModelGuidePair, Tensor]:
    vae = PyroExampleVAE().double()
    return ModelGuidePair.from_callables(vae.model, vae.guide), torch.bernoulli(torch.full((5, 12), 0.4))


CASES: dict[str, Callable[[], tuple[ModelGuidePair, Tensor]]] = {
    "vae": lambda: (
        bernoulli_vae(7, latent_dim=3, hidden=(5,)).double(),
        torch.bernoulli(torch.full((4, 7), 0.4)),
    ),
    "hierarchy": lambda: (Hierarchy().double(), torch.randn(5, 4)),
    "gamma": lambda: (GammaLatent().double(), torch.poisson(torch.full((5, 3), 3.0))),
    "global weight": lambda: (GlobalWeight().double(), torch.randn(5, 3)),
    "nested": lambda: (Nested().double(), torch.randn(5, 3)),
    "discrete": lambda: (Discrete().double(), torch.randn(5, 2)),
    "example of Pyro": _example,
}


@pytest.mark.parametrize("case", CASES)
def test_equals_pyros_own_sums(case: str) -> None:
    """Same seed, same programs: Pyro's log_prob_sum of guide and replayed model is our total, with N / B too."""
    pair, x = CASES[case]()
    num_data = 3 * len(x) if pair.accepts_num_data else len(x)
    arguments = (x, num_data)
    torch.manual_seed(11)
    guide_trace = poutine.trace(pair.guide).get_trace(*arguments)
    model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*arguments)
    expected = model_trace.log_prob_sum() - guide_trace.log_prob_sum()
    torch.manual_seed(11)
    drawn = draw(pair, x, 1, num_data)
    joint = log_joint(pair, x, drawn.latents, num_data)
    factor = num_data / len(x)
    found = joint.total(num_data) - (factor * drawn.log_q.sum(-1) + drawn.global_log_q)
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-12)


def test_the_waist_leaves_pyros_parameter_store_alone() -> None:
    pair, x = _example()
    pyro.clear_param_store()
    log_joint(pair, x, draw(pair, x, 2).latents)
    assert len(pyro.get_param_store()) == 0


def test_a_weight_of_the_programs_own_is_no_part_of_the_density() -> None:
    class Tempered(Nested):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                with poutine.scale(scale=0.25):
                    pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=x.mT)

    pair, x = Tempered().double(), torch.randn(5, 3)
    drawn = draw(pair, x, 2, 500)
    joint = log_joint(pair, x, drawn.latents, 500)
    expected = normal(x, pair.gain * drawn.latents["z"], 0.5).sum(-1)
    torch.testing.assert_close(joint.observed, expected)
    torch.testing.assert_close(joint.tilt, -0.75 * expected)  # what an objective adds


def test_a_pair_that_does_not_broadcast_runs_particle_by_particle() -> None:
    pair, x = Nested().double(), torch.randn(5, 3)
    drawn = draw(pair, x, 4)
    together = log_joint(pair, x, drawn.latents)
    pair.vectorizes = False
    apart = log_joint(pair, x, drawn.latents)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b)
    assert draw(pair, x, 4).log_q.shape == (4, 5)
    assert site_terms(pair, x, 4)["z"].kl.shape == (4, 5)  # type: ignore[union-attr]


def test_missing_and_unknown_latents_are_refused() -> None:
    pair, x = Hierarchy().double(), torch.randn(5, 4)
    drawn = dict(draw(pair, x, 1).latents)
    with pytest.raises(PairError, match=r"'zz' is not a latent site.*did you mean 'z'"):
        log_joint(pair, x, {**drawn, "zz": drawn["z"]})
    top = drawn.pop("top")
    with pytest.raises(PairError, match="latent site 'top' of the model has no value"):
        log_joint(pair, x, drawn)
    with pytest.raises(
        PairError, match=r"site 'top': expected a value of shape \[\*samples, 5, 2\], found \[1, 5, 1\]"
    ):
        log_joint(pair, x, {**drawn, "top": top[..., :1]})


def test_simulate_draws_from_the_prior_and_the_likelihood() -> None:
    """Moments of simulated data against the closed form, in measured standard errors; not of the observed values."""
    pair = Nested().double()
    x = torch.full((20_000, 3), 99.0)
    found = simulate(pair, x)
    assert found.latents["z"].shape == found.observed["x"].shape == (20_000, 3)
    variance = pair.gain.item() ** 2 + 0.25
    squares = found.observed["x"].square()
    assert abs(squares.mean() - variance) < 4.5 * squares.std() / squares.numel() ** 0.5
    cross = found.observed["x"] * found.latents["z"]
    assert abs(cross.mean() - pair.gain.item()) < 4.5 * cross.std() / cross.numel() ** 0.5
    wrong = cross[torch.randperm(len(cross))] * 0 + found.observed["x"].roll(1, 0) * found.latents["z"]
    assert abs(wrong.mean() - pair.gain.item()) > 4.5 * wrong.std() / wrong.numel() ** 0.5


def test_predict_is_the_likelihoods_mean() -> None:
    pair = bernoulli_vae(7, latent_dim=3, hidden=(5,)).double()
    x = torch.bernoulli(torch.full((4, 7), 0.4))
    z = torch.randn(2, 3, 4, 3)
    found = predict(pair, x, {"z": z})["x"]
    torch.testing.assert_close(found, pair.likelihood(z).mean)
    draws = predict(pair, x, {"z": z}, kind="sample")["x"]
    assert draws.shape == found.shape and set(draws.unique().tolist()) <= {0.0, 1.0}
    nested, y = Nested().double(), torch.randn(5, 3)
    latents = {"z": torch.randn(2, 5, 3)}
    torch.testing.assert_close(predict(nested, y, latents)["x"], nested.gain * latents["z"])


def test_structure_says_what_is_where() -> None:
    shape = structure(GlobalWeight().double(), torch.randn(5, 3))
    assert [i.name for i in shape.global_latents] == ["w"] and [i.name for i in shape.local_latents] == ["z"]
    assert shape.site("z").family_name == "Normal" and shape.site("z").has_rsample and not shape.site("z").is_discrete
    with pytest.raises(PairError, match="did you mean 'z'"):
        shape.site("zed")
    assert structure(Discrete().double(), torch.randn(5, 2)).site("k").is_discrete


def test_a_factor_counts_in_the_density_and_has_no_value() -> None:
    class Weighted(Nested):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=x.mT)
                pyro.factor("extra", -0.25 * z.abs())

    pair, x = Weighted().double(), torch.randn(5, 3)
    drawn = draw(pair, x, 2)
    z = drawn.latents["z"]
    expected = (normal(x, pair.gain * z, 0.5) - 0.25 * z.abs()).sum(-1)
    torch.testing.assert_close(log_joint(pair, x, drawn.latents).observed, expected)
    assert simulate(pair, x).observed.keys() == {"x"}


class Tempered(ModelGuidePair):
    """A latent whose prior alone is scaled or masked, as by a power."""

    def __init__(self, *, both: bool, mask: bool) -> None:
        super().__init__()
        self.both = both
        self.change = poutine.mask(mask=torch.tensor(False)) if mask else poutine.scale(scale=0.1)
        self.loc = torch.nn.Parameter(torch.tensor(0.5))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            with self.change:
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            if self.both:
                with self.change:
                    pyro.sample("z", dist.Normal(self.loc.expand(1), 1.0).to_event(1))
            else:
                pyro.sample("z", dist.Normal(self.loc.expand(1), 1.0).to_event(1))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_a_closed_form_is_not_used_where_one_side_is_scaled_or_masked(both: bool, mask: bool) -> None:
    pair, x = Tempered(both=both, mask=mask), torch.zeros(3, 1)
    term = site_terms(pair, x, 20_000)["z"]
    assert term.kl is not None
    factor = 0.0 if mask else 0.1
    entropy = 0.5 * torch.log(torch.tensor(2 * torch.pi)) + 0.5
    crossed = 0.5 * torch.log(torch.tensor(2 * torch.pi)) + 0.5 * (1 + 0.25)
    weighted = factor * (crossed - entropy) if both else factor * crossed - entropy
    assert term.route == ("analytic" if both else "sampled")
    ascended = term.kl if term.tilt is None else term.kl - term.tilt  # a scale is of the objective, not of the density
    density = weighted if mask else crossed - entropy
    for found, exact in ((ascended, weighted), (term.kl, density)):
        error = found.std(0) / 20_000**0.5
        assert bool(((found.mean(0) - exact).abs() <= 5 * error + 1e-6).all())


class Bounded(ModelGuidePair):
    """A uniform latent whose upper bound is learned, or differs from datum to datum."""

    def __init__(self, *, per_datum: bool = False) -> None:
        super().__init__()
        self.per_datum = per_datum
        self.high = torch.nn.Parameter(torch.ones(1))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            self._uniform(x)
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            self._uniform(x)

    def _uniform(self, x: Tensor) -> None:
        high = self.high * (1 + x.abs()) if self.per_datum else self.high
        pyro.sample("z", dist.Uniform(torch.zeros_like(high), high).to_event(1))


def test_bounds_of_a_support_follow_their_parameter() -> None:
    pair, x = Bounded(), torch.zeros(3, 1)
    u = torch.full((3, 1), 2.0)
    first = unconstrained(pair, x).constrain(u)[0]["z"]
    with torch.no_grad():
        pair.high.fill_(10.0)
    second = unconstrained(pair, x).constrain(u)[0]["z"]
    assert torch.allclose(first, torch.sigmoid(u))
    assert torch.allclose(second, 10 * torch.sigmoid(u))


@pytest.mark.parametrize("num", [1, 3])
def test_bounds_for_every_datum_are_refused(num: int) -> None:
    with pytest.raises(PairError, match="bounds for every datum"):
        unconstrained(Bounded(per_datum=True), torch.ones(num, 1))
