"""Exemplar priors: the mixture over data, that a datum does not explain itself, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.conditional import CONTEXT, ConditionalContract, trunk
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.core import PpvaeError, check_pair, log_joint, parameter_roles
from ppvae.core.modes import evaluation_mode
from ppvae.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    DiagonalNormalMixture,
    ExemplarPrior,
)
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import VAE, Covariate, Latent, LatentModel, Observed
from ppvae.networks import MLP


class TestExemplarPrior(ConditionalContract):
    event_shapes = ((4,), (1,))
    conditional = False
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        posterior = DiagonalNormal(trunk(), event_shape)
        made = ExemplarPrior(posterior, torch.randn(5, CONTEXT), leave_one_out=False, scale="posterior")
        made.of_the_pair = posterior  # what a pair does, so that it follows in dtype, device and state
        return made


def data_of(count: int = 40) -> Tensor:
    """Binary rows, of which the last is equal to the first."""
    x = torch.rand(count, 6, generator=torch.Generator().manual_seed(2)).round()
    x[-1] = x[0]
    return x


def described(x: Tensor, **options: Any) -> tuple[LatentModel, ExemplarPrior]:
    torch.manual_seed(0)
    posterior = DiagonalNormal(MLP(6, [8]), 2)
    prior = ExemplarPrior(posterior, x, **options)
    pair = LatentModel(
        row=Covariate(()),
        z=Latent(prior.given("row"), posterior=posterior.given("x")),
        x=Observed(Bernoulli(MLP(2, [8]), 6).given("z")),
    )
    return pair, prior


def by_hand(prior: ExemplarPrior, z: Tensor, left_out: Tensor) -> Tensor:
    """log of the mean of r(z | x_n) over the exemplars that are not left out, one datum after the other, [B]."""
    rows = []
    for value, out in zip(z, left_out, strict=True):
        found = prior.posterior(prior.exemplars[~out]).base_dist
        scale = found.scale if prior.log_scale is None else prior.log_scale.exp()
        each = torch.distributions.Normal(found.loc, scale).log_prob(value).sum(-1)
        rows.append(each.logsumexp(0) - torch.tensor(float(len(each))).log())
    return torch.stack(rows)


@pytest.mark.parametrize("scale", ["shared", "posterior"])
def test_it_is_the_mixture_over_the_exemplars_without_the_datum_itself(scale: Any) -> None:
    x = data_of()
    _, prior = described(x, scale=scale)
    z, few = torch.randn(4, 2), torch.stack((x[0], x[3], 1 - x[5], x[-1]))
    row = prior.rows_of(few)
    assert row[0] == row[3] == 0 and row[1] == 3
    own = (few[:, None] == x).all(-1)
    assert own[0].sum() >= 2  # both of those that are equal are left out
    found = prior.train()(row).log_prob(z)
    torch.testing.assert_close(found, by_hand(prior, z, own))
    everything = by_hand(prior, z, torch.zeros_like(own))
    torch.testing.assert_close(prior.eval()(row).log_prob(z), everything)
    assert float((found - everything)[:2].detach().abs().min()) > 1e-3


def test_a_datum_of_other_data_has_all_exemplars() -> None:
    x = data_of()
    _, prior = described(x)
    z = torch.randn(2, 2)
    torch.testing.assert_close(prior(torch.tensor([-1, -1])).log_prob(z), prior.eval()().log_prob(z))


def test_weights_that_differ_from_datum_to_datum() -> None:
    """Moments, draws and the axes of a mixture that leaves one component out for each datum."""
    loc, scale = torch.tensor([[0.0], [4.0], [9.0]]), torch.tensor([[0.5], [1.0], [2.0]])
    logits = torch.zeros(2, 3).masked_fill(torch.eye(3, dtype=torch.bool)[1:], -torch.inf)
    fn = DiagonalNormalMixture(logits, loc, scale)
    assert fn.batch_shape == (2,) and fn.expand((5, 2)).log_prob(torch.zeros(5, 2, 1)).shape == (5, 2)
    torch.testing.assert_close(fn.mean[:, 0], torch.tensor([4.5, 2.0]))
    torch.testing.assert_close(fn.variance[:, 0], torch.tensor([4.5**2 + 2.125, 4.0 + 0.625]))
    torch.manual_seed(0)
    drawn = fn.sample((20_000,))
    assert drawn.shape == (20_000, 2, 1) and fn.expand((5, 2)).sample((3,)).shape == (3, 5, 2, 1)
    assert bool(((drawn.mean(0) - fn.mean).abs() < 5 * (fn.variance / 20_000).sqrt()).all())


def test_parameters_are_counted_once_and_the_state_holds_the_exemplars() -> None:
    x = data_of()
    (pair, prior), (other, read) = described(x), described(1 - x)
    with_its_scales, _ = described(x, scale="posterior")
    names = [name for name, _ in pair.named_parameters(remove_duplicate=False)]
    assert [name for name in names if name.startswith("prior")] == ["prior_z.log_scale"]
    roles = parameter_roles(with_its_scales, {"x": x[:5], "row": prior.rows_of(x[:5])})
    assert all(roles[name] == {"model", "guide"} for name in names if name.startswith("posterior"))
    with torch.no_grad():
        next(pair.posterior_z.parameters()).add_(0.3)
    other.load_state_dict(pair.state_dict())
    z = torch.randn(5, 2)
    assert torch.equal(read.eval()().log_prob(z), prior.eval()().log_prob(z))
    assert torch.equal(read.rows_of(x), prior.rows_of(x))


@pytest.mark.parametrize("num_used", [None, 10])
def test_a_captured_step_is_the_eager_one(num_used: int | None) -> None:
    x = data_of()
    histories = []
    for mode in ("eager", "graph"):
        pair, prior = described(x, num_used=num_used)
        batch = {"x": x, "row": prior.rows_of(x)}
        made = fit(pair, batch, elbo=elbo.TraceELBO(), num_epochs=4, batch_size=20, compile=mode, progress=False)
        histories.append([row["elbo_train"] for row in made.history])
    assert histories[1] == pytest.approx(histories[0], rel=1e-5)
    assert len(set(histories[0])) == 4


def test_a_subset_is_drawn_anew_and_its_density_is_in_expectation_below() -> None:
    _, prior = described(data_of(), num_used=5)
    z = torch.randn(1, 2)
    prior.train()
    torch.manual_seed(1)
    drawn = torch.cat([prior(torch.tensor([-1])).log_prob(z) for _ in range(400)]).detach()
    assert drawn.unique().numel() > 300
    whole = prior.eval()().log_prob(z).detach()
    assert float(drawn.mean()) < float(whole) + 4 * float(drawn.std()) / 20
    assert float(drawn.exp().mean() / whole.exp()) == pytest.approx(
        1, abs=4.5 * float(drawn.exp().std() / whole.exp()) / 20
    )


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):
                self.entries = max(self.entries, value.numel())
        return found


def test_no_tensor_holds_draws_exemplars_and_dimensions() -> None:
    posterior = DiagonalNormal(MLP(6, []), 32)
    prior = ExemplarPrior(posterior, torch.rand(100, 6))
    value = torch.randn(10, 20, 32, requires_grad=True)
    with Largest() as largest:
        prior(torch.arange(20)).log_prob(value).sum().backward()
    assert largest.entries <= 10 * 20 * 100


def test_every_verb_serves_it() -> None:
    x = data_of()
    pair, prior = described(x)
    batch = {"x": x, "row": prior.rows_of(x)}
    check_pair(pair, batch)
    few = {"x": x[:3], "row": prior.rows_of(x[:3])}
    left_out = log_joint(pair, few, {"z": torch.zeros(1, 3, 2)}).local
    with evaluation_mode(pair):
        whole = log_joint(pair, few, {"z": torch.zeros(1, 3, 2)}).local
        options: dict[str, Any] = {"progress": False, "compile": "eager"}
        first = log_evidence(pair, few, method=evidence.ImportanceSampling(4000), **options)
        second = log_evidence(pair, few, method=evidence.PriorSampling(20_000), **options)
    assert bool((left_out != whole).all())
    spread = (first.standard_error.square() + second.standard_error.square()).sqrt()
    assert bool(((first.log_evidence - second.log_evidence).abs() < 4.5 * spread).all())


def test_without_leaving_out_it_is_the_prior_of_a_plain_vae() -> None:
    x = data_of()
    posterior = DiagonalNormal(MLP(6, [8]), 2)
    pair = VAE(ExemplarPrior(posterior, x, leave_one_out=False), Bernoulli(MLP(2, [8]), 6), posterior)
    made = fit(pair, x, elbo=elbo.TraceELBO(), num_epochs=2, compile="eager", progress=False)
    assert made.history[-1]["elbo_train"] > made.history[0]["elbo_train"]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(4), {}, r"expected exemplars \[N, \*input_shape\], found \[4\]"),
        (torch.zeros(4, 5), {"leave_one_out": False}, r"the posterior fails on exemplars of shape \[2, 5\]"),
        (torch.zeros(4, 6), {}, "expected exemplars that differ, found 4 exemplars, 4 of them equal"),
        (data_of(), {"num_used": 2}, "expected num_used from 4 to 40, found 2 of 40 exemplars, 3 of them equal"),
        (data_of(), {"num_used": 41}, "found 41 of 40 exemplars"),
        (data_of(), {"scale": "free"}, "expected scale 'shared' or 'posterior', found 'free'"),
    ],
)
def test_exemplars_that_cannot_be_are_refused(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        ExemplarPrior(DiagonalNormal(MLP(6, [8]), 2), x, **options)


def test_training_without_rows_is_refused() -> None:
    x = data_of()
    posterior = DiagonalNormal(MLP(6, [8]), 2)
    pair = VAE(ExemplarPrior(posterior, x), Bernoulli(MLP(2, [8]), 6), posterior)
    with pytest.raises(PpvaeError, match=r"(?s)expected the row of each datum, to leave it out.*prior\.rows_of"):
        fit(pair, x, elbo=elbo.TraceELBO(), num_epochs=1, compile="eager", progress=False)
