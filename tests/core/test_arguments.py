"""Programs of several arguments, keyword-only ones, constants: batches that are tuples or mappings."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from audit.idioms import LOADING, SCALE, data, evidence_of, posterior, posterior_mean, shift
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ppvae.core import FitError, ModelGuidePair, PairError, batch_size, check_pair, draw, log_joint, members_of, rows_of
from ppvae.data import as_dataset
from ppvae.inference import elbo, evidence, fit, log_evidence, sample_posterior
from ppvae.models import bernoulli_vae

X = data()
SHIFTS = torch.tensor([[0.4], [-0.3], [0.0], [1.1]])
"""A covariate of each datum: the likelihood's mean is shifted by it."""
IMPORTANCE = evidence.ImportanceSampling(4000)


def model(y: Tensor, covariate: Tensor) -> None:
    """Two arguments, neither called x."""
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ LOADING.T + covariate, SCALE).to_event(1), obs=y)


def guide(y: Tensor, covariate: Tensor) -> None:
    """The posterior, a little too wide."""
    with pyro.plate("data", len(y)):
        loc = posterior_mean(y - covariate) + shift()
        pyro.sample("z", dist.MultivariateNormal(loc, covariance_matrix=1.4 * posterior(y).covariance_matrix))


def require_truth(pair: ModelGuidePair, batch: Any, exact: Tensor) -> None:
    """Importance sampling, captured, is within four standard errors of the evidence."""
    found = log_evidence(pair, batch, method=IMPORTANCE, compile="graph", progress=False)
    assert bool(((found.log_evidence - exact).abs() <= 4 * found.standard_error + 1e-5).all())
    assert bool((found.standard_error > 1e-4).all())  # the guide is not exact: the test can fail


TUPLE = (X, SHIFTS)
BATCHES: dict[str, Any] = {
    "tuple": TUPLE,
    "arrays": (X.numpy(), SHIFTS.numpy()),
    "TensorDataset": TensorDataset(*TUPLE),
    "DataLoader": DataLoader(TensorDataset(*TUPLE), batch_size=2, shuffle=True),
}


@pytest.mark.parametrize("kind", list(BATCHES))
def test_a_tuple_is_the_positional_arguments(kind: str) -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    require_truth(pair, BATCHES[kind], evidence_of(X - SHIFTS))


def test_a_tuple_goes_through_training_and_sampling() -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    run = fit(
        pair, TUPLE, elbo=elbo.TraceELBO(), num_epochs=2, batch_size=2, learning_rate=1e-3, seed=1, progress=False
    )
    assert run.history[-1]["elbo_train"] < float(evidence_of(X - SHIFTS).mean()) + 3
    draws = sample_posterior(
        pair, TUPLE, num_samples=150, num_warmup=80, num_chains=4, num_leapfrog=5, progress=False, compile="graph"
    )
    z = draws.samples["z"]
    error = 4 * z.flatten(0, 1).std(0) / draws.ess()["z"].sqrt()
    assert bool(((z.mean((0, 1)) - posterior_mean(X - SHIFTS)).abs() <= error).all())
    assert set(draws.to_arviz().observed_data.data_vars) >= {"0", "1"}


def test_captured_equals_eager_on_a_tuple() -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    found = [log_evidence(pair, TUPLE, method=IMPORTANCE, compile=mode, progress=False) for mode in ("eager", "graph")]
    assert torch.allclose(found[0].log_evidence, found[1].log_evidence, atol=1e-5)


def test_a_list_and_a_tuple_are_one_batch() -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    check_pair(pair, list(TUPLE))  # type: ignore[arg-type]  # as a DataLoader's batches are
    latents = draw(pair, TUPLE, 2).latents
    assert torch.equal(
        log_joint(pair, TUPLE, latents).local,
        log_joint(pair, list(TUPLE), latents).local,  # type: ignore[arg-type]
    )


def test_rows_and_members_of_a_tuple() -> None:
    rows = rows_of(TUPLE, torch.tensor([2]))
    assert isinstance(rows, tuple) and [tuple(part.shape) for part in rows] == [(1, 3), (1, 1)]
    assert batch_size(TUPLE) == 4 and list(members_of(TUPLE)) == ["0", "1"]


def test_keyword_only_arguments_and_defaults() -> None:
    def named_model(*, y: Tensor, covariate: Tensor | None = None) -> None:
        model(y, SHIFTS[: len(y)] * 0 if covariate is None else covariate)

    def named_guide(*, y: Tensor, covariate: Tensor | None = None) -> None:
        guide(y, SHIFTS[: len(y)] * 0 if covariate is None else covariate)

    pair = ModelGuidePair.from_callables(named_model, named_guide, unpack=True)
    require_truth(pair, {"y": X, "covariate": SHIFTS}, evidence_of(X - SHIFTS))
    pair = ModelGuidePair.from_callables(named_model, named_guide, unpack=True)
    require_truth(pair, {"y": X}, evidence_of(X))


def test_constants_by_partial() -> None:
    def flagged(y: Tensor, covariate: Tensor, factor: float, negative: bool) -> None:
        model(y, -factor * covariate if negative else factor * covariate)

    def flagged_guide(y: Tensor, covariate: Tensor, factor: float, negative: bool) -> None:
        guide(y, -factor * covariate if negative else factor * covariate)

    options: dict[str, Any] = {"factor": 2.0, "negative": True}
    pair = ModelGuidePair.from_callables(
        functools.partial(flagged, **options), functools.partial(flagged_guide, **options)
    )
    require_truth(pair, TUPLE, evidence_of(X + 2 * SHIFTS))


def test_a_constant_in_the_batch_is_refused_with_the_remedy() -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    with pytest.raises(PairError, match=r"batch member '1': expected a tensor, found float(.|\n)*functools\.partial"):
        check_pair(pair, (X, 2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [X, {"y": X, "covariate": SHIFTS}])
def test_arguments_that_do_not_fit_say_how_they_would(batch: Any) -> None:
    pair = ModelGuidePair.from_callables(model, guide)
    with pytest.raises(PairError, match=r"missing 1 required positional argument(.|\n)*a tuple \(x, y\)(.|\n)*unpack"):
        check_pair(pair, batch)


def test_a_class_of_ones_own_without_num_data_is_told_so() -> None:
    class Short(ModelGuidePair):
        def model(self, x: Tensor) -> None:  # type: ignore[override]
            raise AssertionError("not reached")

        guide = model  # type: ignore[assignment]

    with pytest.raises(PairError, match=r"takes 2 positional arguments(.|\n)*def model\(self, x, num_data=None\)"):
        check_pair(Short(), X)


def test_members_of_other_lengths_are_refused() -> None:
    with pytest.raises(PairError, match=r"batch members differ in length: \{'0': \[4, 3\], '1': \[3, 1\]\}"):
        check_pair(ModelGuidePair.from_callables(model, guide), (X, SHIFTS[:3]))


def test_a_packed_sequence_is_refused_and_its_remedy_works() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])

    def masked_model(x: Tensor, lengths: Tensor) -> None:
        present = torch.arange(x.shape[1]) < lengths[:, None]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            steps = dist.Normal(z[..., None, None], 1.0).expand([*z.shape, *x.shape[1:]])
            pyro.sample("x", steps.mask(present[..., None]).to_event(2), obs=x)

    def masked_guide(x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(shift() * torch.ones(len(x)), 1.0))

    pair = ModelGuidePair.from_callables(masked_model, masked_guide, unpack=True)
    with pytest.raises(PairError, match=r"PackedSequence(.|\n)*as_dataset\(packed\)\.tensor\(\)"):
        check_pair(pair, packed)  # type: ignore[arg-type]
    batch = as_dataset(packed).tensor()
    check_pair(pair, batch)
    assert batch_size(batch) == 2
    # x_t ~ N(z, 1): of n values that are ones, log N(1; 0, I + 11').
    exact = [dist.MultivariateNormal(torch.zeros(n), torch.eye(n) + 1).log_prob(torch.ones(n)) for n in (6, 2)]
    require_truth(pair, batch, torch.stack(exact))


def test_a_failing_step_on_a_tuple_keeps_its_batch() -> None:
    """The snapshot of a step that failed holds the members by place, to be put together again."""
    pair = ModelGuidePair.from_callables(model, guide)
    with pytest.raises(FitError) as caught:
        fit(pair, TUPLE, num_epochs=3, batch_size=2, learning_rate=1e38, progress=False)
    assert set(caught.value.snapshot["batch"]) == {"0", "1"} and not caught.value.snapshot["mapping"]


def test_a_class_that_takes_one_argument_says_so_of_a_tuple() -> None:
    with pytest.raises(PairError, match="expected a batch with the members 'x', found a tuple"):
        check_pair(bernoulli_vae(3, latent_dim=2, hidden=(3,)), (X, SHIFTS))
