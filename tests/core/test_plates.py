"""The plate over data wherever it stands and whatever its name, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import pytest
import torch
from audit.idioms import LOADING, ROOT, SCALE, data, evidence_of, posterior_mean, shift
from pyro.infer import autoguide
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, check_pair, draw, log_guide, log_joint, predict, simulate, structure
from ppvae.inference import elbo, evaluate_bound, evidence, fit, generate, log_evidence, sample_posterior

X = data()
WIDE = 1.2 * ROOT
Programs = tuple[Callable[..., Any], Callable[..., Any]]


def rows_outside(rows: str = "sequences", columns: str = "tones") -> Programs:
    """The data at dim -2, outside a plate of columns at dim -1, as in Pyro's examples of hidden Markov models."""

    def model(x: Tensor) -> None:
        with pyro.plate(rows, len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate(columns, x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal((z @ LOADING.T).squeeze(-2), SCALE), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate(rows, len(x), dim=-2):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x)[:, None] + shift(), scale_tril=WIDE))

    return model, guide


def rows_inside() -> Programs:
    """The same with the data at dim -1, and the columns to their left."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequences", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("tones", 3, dim=-2):
                means = (z @ LOADING.T).transpose(-1, -2) if z.dim() == 2 else (z @ LOADING.T).squeeze(-3).mT
                pyro.sample("x", dist.Normal(means, SCALE), obs=x.mT)

    def guide(x: Tensor) -> None:
        with pyro.plate("sequences", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=WIDE))

    return model, guide


LAYOUTS = {"outside": rows_outside, "inside": rows_inside}
METHODS = {
    "importance": evidence.ImportanceSampling(4000),
    "ais": evidence.AIS(num_temperatures=25, num_chains=16, num_leapfrog=2),
}


def require_truth(pair: ModelGuidePair, x: Any, exact: Tensor, method: evidence.EvidenceMethod | None = None) -> None:
    """An estimate by a method, from a captured graph, is within four standard errors of the exact value; without a
    method one by importance sampling, which takes less time than to capture it."""
    mode: Literal["eager", "graph"] = "eager" if method is None else "graph"
    found = log_evidence(pair, x, method=method or METHODS["importance"], compile=mode, progress=False)
    assert found.log_evidence.shape == exact.shape
    assert bool(((found.log_evidence - exact).abs() <= 4 * found.standard_error + 1e-5).all()), (found, exact)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("method", list(METHODS))
def test_the_evidence_of_every_datum(layout: str, method: str) -> None:
    pair = ModelGuidePair.from_callables(*LAYOUTS[layout]())
    require_truth(pair, X, evidence_of(X), METHODS[method])
    assert pair.vectorizes


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_training_and_sampling(layout: str) -> None:
    pair = ModelGuidePair.from_callables(*LAYOUTS[layout]())
    quick: dict[str, Any] = {"compile": "eager", "progress": False}
    run = fit(pair, X, elbo=elbo.TraceELBO(), num_epochs=2, batch_size=2, learning_rate=1e-3, **quick)
    assert run.history[-1]["elbo_train"] < float(evidence_of(X).mean()) + 3
    bound = evaluate_bound(pair, X, elbo=elbo.TraceELBO(num_particles=400), **quick)
    assert bound.mean < float(evidence_of(X).mean()) + 0.1
    draws = sample_posterior(
        pair, X, num_samples=150, num_warmup=80, num_chains=4, num_leapfrog=5, progress=False, compile="graph"
    )
    z = draws.samples["z"]
    assert z.shape == (4, 150, 4, 2)
    error = 4 * z.flatten(0, 1).std(0) / draws.ess()["z"].sqrt()
    assert bool(((z.mean((0, 1)) - posterior_mean(X)).abs() <= error).all())


def test_both_layouts_are_one_model() -> None:
    """The same latents, in canonical order, have the same densities; so have predictions the same axes."""
    outside, inside = (ModelGuidePair.from_callables(*make()) for make in (rows_outside, rows_inside))
    latents = draw(outside, X, 3).latents
    assert latents["z"].shape == (3, 4, 2)  # the axis that only puts the datum in its place is not ours
    joints = [log_joint(pair, X, latents).local for pair in (outside, inside)]
    assert joints[0].shape == (3, 4) and torch.allclose(joints[0], joints[1], atol=1e-5)
    guides = [log_guide(pair, X, latents)[0] for pair in (outside, inside)]
    assert torch.allclose(guides[0], guides[1], atol=1e-5)
    means = [predict(pair, X, latents)["x"] for pair in (outside, inside)]
    assert means[0].shape == (3, 4, 3) and torch.allclose(means[0], means[1], atol=1e-5)
    assert torch.allclose(means[0], latents["z"] @ LOADING.T, atol=1e-5)


def test_simulation_has_the_data_on_axis_0() -> None:
    pair = ModelGuidePair.from_callables(*rows_outside())
    assert simulate(pair, X).observed["x"].shape == (4, 3)
    assert generate(pair, 7, like=X).shape == (7, 3)


def test_captured_equals_eager() -> None:
    pair = ModelGuidePair.from_callables(*rows_outside())
    found = [log_evidence(pair, X, compile=mode, progress=False) for mode in ("eager", "graph")]
    assert torch.allclose(found[0].log_evidence, found[1].log_evidence, atol=1e-5)


# --- which plate is that over the data ---

SQUARE = X[:3]


def test_as_many_columns_as_data_are_told_by_their_rows() -> None:
    """Rows that are rolled move in the plate over data alone; where they all are equal, it has to be named."""
    pair = ModelGuidePair.from_callables(*rows_outside())
    with pytest.raises(PairError, match=r"2 plates of the length of the batch .* 'sequences' of 3, 'tones' of 3"):
        check_pair(pair, torch.ones(3, 3))
    require_truth(pair, SQUARE, evidence_of(SQUARE))
    pair = ModelGuidePair.from_callables(*rows_outside(), data_plate="sequences")
    require_truth(pair, SQUARE, evidence_of(SQUARE))
    require_truth(ModelGuidePair.from_callables(*rows_outside("data")), SQUARE, evidence_of(SQUARE))


def test_what_was_found_serves_batches_of_the_length_of_another_plate() -> None:
    pair = ModelGuidePair.from_callables(*rows_outside())
    check_pair(pair, X)
    assert structure(pair, SQUARE).data_plate == "sequences"
    require_truth(pair, X, evidence_of(X))


def test_columns_that_are_as_many_as_the_data_are_not_taken_for_them() -> None:
    """One plate, of three columns, around three data that stand on an event axis: its size alone would lie."""

    def columns(x: Tensor) -> None:
        with pyro.plate("columns", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, SCALE).to_event(1), obs=x.mT)

    def guide(x: Tensor) -> None:
        with pyro.plate("columns", 3):
            pyro.sample("z", dist.Normal(x.mT / (1 + SCALE**2), 0.6).to_event(1))

    with pytest.raises(PairError, match="'columns' is as long as the batch, but its entries are not the rows"):
        check_pair(ModelGuidePair.from_callables(columns, guide), SQUARE)


def test_a_plate_of_another_length_is_named_with_what_was_found() -> None:
    def shorter(x: Tensor) -> None:
        with pyro.plate("rows", 2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x[:2])

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", 2):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x[:2]), scale_tril=ROOT))

    with pytest.raises(PairError, match=r"no plate around all data has the length of the batch, 4: found 'rows' of 2"):
        check_pair(ModelGuidePair.from_callables(shorter, guide), X)


def test_a_misspelt_name_is_refused() -> None:
    pair = ModelGuidePair.from_callables(*rows_outside(), data_plate="sequence")
    with pytest.raises(PairError, match="no plate 'sequence': did you mean 'sequences'"):
        check_pair(pair, X)


def test_latents_in_a_plate_of_their_own() -> None:
    """Two plates of the length of the batch: the remedy, one plate for both, serves."""

    def model(x: Tensor, split: bool) -> None:
        rows = pyro.plate("data", len(x))
        with pyro.plate("latents", len(x)) if split else rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with rows:
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)

    def guide(x: Tensor, split: bool) -> None:
        with pyro.plate("latents" if split else "data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=WIDE))

    def pair(split: bool) -> ModelGuidePair:
        return ModelGuidePair.from_callables(lambda x: model(x, split), lambda x: guide(x, split))

    with pytest.raises(PairError, match=r"'z' stands outside the plate over data, 'data', (.|\n)*one plate for all"):
        check_pair(pair(True), X)
    require_truth(pair(False), X, evidence_of(X))


# --- plates without a size, random rows, sequential plates ---


def unsized(axis: bool = True) -> Programs:
    """A plate whose size is that of what stands in it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data"):
            zeros = torch.zeros(len(x), 2) if axis else torch.zeros(2)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)
            pyro.sample("extra", dist.Normal(0.0, 1.0), obs=x.new_ones(len(x)))

    def guide(x: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=WIDE))

    return model, guide


def test_a_plate_without_a_size_has_that_of_the_batch() -> None:
    pair = ModelGuidePair.from_callables(*unsized())
    exact = evidence_of(X) + dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0))
    require_truth(pair, X, exact)
    assert simulate(pair, X).observed["extra"].shape == (4,)  # drawn for every datum, as its plate says
    assert len(set(simulate(pair, X).observed["extra"].tolist())) == 4


def test_one_latent_value_in_a_plate_without_a_size_is_refused_with_the_line() -> None:
    pair = ModelGuidePair.from_callables(*unsized(axis=False))
    with pytest.raises(PairError, match=r"site 'z' stands in the plate 'data', which has no size") as caught:
        check_pair(pair, X)
    message = str(caught.value)
    assert 'z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))' in message and __file__ in message
    assert "Trace Shapes" not in message and message.count("Try one of") == 1


def test_random_rows_of_the_batch_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x[rows]), scale_tril=ROOT))

    with pytest.raises(PairError, match=r"plate 'data': expected 4 data, the length of the batch, found 2"):
        check_pair(ModelGuidePair.from_callables(model, guide), X)


def test_a_plate_that_states_n_draws_no_rows() -> None:
    """``subsample_size=len(x)`` around a minibatch: its rows are the batch's, in both programs, and no noise."""

    def table(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(10, 2))
        with pyro.plate("data", 10, subsample_size=len(x)) as rows:
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + loc[rows] * 0, scale_tril=ROOT))

    def model(x: Tensor) -> None:
        with pyro.plate("data", 10, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)

    require_truth(ModelGuidePair.from_callables(model, table), X, evidence_of(X))


def test_a_table_whose_rows_are_drawn_is_refused() -> None:
    """Parameters of other rows than the batch's: drawn once for the model and again for the guide."""

    def table(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(10, 2))
        with pyro.plate("data", 10, subsample_size=len(x)) as rows:
            pyro.sample("z", dist.MultivariateNormal(loc[rows], scale_tril=ROOT))

    with pytest.raises(PairError, match=r"of a datum is .* by itself"):
        check_pair(ModelGuidePair.from_callables(rows_of_ten, table), X)


def rows_of_ten(x: Tensor, rows: Tensor | None = None) -> None:
    """A minibatch of ten data."""
    with pyro.plate("data", 10, subsample=torch.arange(len(x)) if rows is None else rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)


def test_an_automatic_guide_that_would_pick_other_rows_is_refused() -> None:
    """It replaces the model's subsample by one of its own (Pyro's issue 3468)."""
    pair = ModelGuidePair.from_callables(rows_of_ten, autoguide.AutoNormal(rows_of_ten, init_scale=0.6))
    with pytest.raises(PairError, match=r"'data' shows 4 of 10 data, and the automatic guide AutoNormal makes this"):
        check_pair(pair, X)

    def whole(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)

    pair = ModelGuidePair.from_callables(whole, autoguide.AutoNormal(whole, init_scale=0.6))
    fit(pair, X, num_epochs=300, batch_size=None, learning_rate=0.02, progress=False)
    require_truth(pair, X, evidence_of(X))


def test_an_automatic_guide_with_the_models_own_plate_serves_minibatches() -> None:
    """The other remedy: its parameters for every datum are looked up by the rows that a batch names."""
    x, rows = torch.cat([X, X + 0.1, X[:2]]), torch.arange(10)
    guide = autoguide.AutoNormal(
        rows_of_ten, init_scale=0.6, create_plates=lambda x, rows: pyro.plate("data", 10, subsample=rows)
    )
    pair = ModelGuidePair.from_callables(rows_of_ten, guide)
    check_pair(pair, (x, rows))  # the guide makes its parameters for the data of its first run
    fit(pair, (x, rows), num_epochs=200, batch_size=5, learning_rate=0.05, progress=False)
    require_truth(pair, (x, rows), evidence_of(x))
    require_truth(pair, (x[3:6], rows[3:6]), evidence_of(x[3:6]))


def one_by_one(x: Tensor) -> None:
    """A site for every datum."""
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(f"x{i}", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x[i])


def guide_one_by_one(x: Tensor) -> None:
    """Of each of these."""
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", dist.MultivariateNormal(posterior_mean(x[i]) + shift(), scale_tril=WIDE))


@pytest.mark.parametrize("name", ["data", "observations"])
def test_a_sequential_plate_is_refused(name: str) -> None:
    def model(x: Tensor) -> None:
        for i in pyro.plate(name, len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(f"x{i}", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x[i])

    match = "'z0' stands in a sequential plate" if name == "data" else "."
    with pytest.raises(PairError, match=match):
        check_pair(ModelGuidePair.from_callables(model, guide_one_by_one), X)


# --- factors ---


def by_factor(inside: bool) -> Programs:
    """The likelihood as a factor."""

    def model(x: Tensor) -> None:
        rows = pyro.plate("data", len(x))
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        terms = dist.Normal(z @ LOADING.T, SCALE).to_event(1).log_prob(x)
        if inside:
            with rows:
                pyro.factor("fit", terms)
        else:
            pyro.factor("fit", terms.sum(-1, keepdim=True))

    return model, rows_named("data")


def rows_named(name: str) -> Callable[..., Any]:
    """A guide whose plate has this name."""

    def guide(x: Tensor) -> None:
        with pyro.plate(name, len(x)):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=WIDE))

    return guide


def test_a_factor_inside_the_plate_is_a_likelihood() -> None:
    pair = ModelGuidePair.from_callables(*by_factor(inside=True))
    for method in METHODS.values():
        require_truth(pair, X, evidence_of(X), method)
    draws = sample_posterior(pair, X, num_samples=150, num_warmup=80, num_chains=4, num_leapfrog=5, progress=False)
    z = draws.samples["z"]
    error = 4 * z.flatten(0, 1).std(0) / draws.ess()["z"].sqrt()
    assert bool(((z.mean((0, 1)) - posterior_mean(X)).abs() <= error).all())


def test_a_factor_outside_the_plate_is_refused() -> None:
    with pytest.raises(PairError, match=r"'fit' is a factor that stands outside the plate(.|\n)*as_one_datum"):
        check_pair(ModelGuidePair.from_callables(*by_factor(inside=False)), X)
