"""What a prediction is of: programs that were checked, whichever verb comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, check_pair
from ppvae.inference import embed, fit, inpaint, log_evidence, predict_given, quantile_residuals, reconstruct

SCALE = 0.5
GAIN = 1 / (1 + SCALE**2)  # E[z | x] = GAIN x
X = torch.tensor([[-1.0, 0.2], [0.4, 1.5], [2.0, -0.7], [0.3, 0.1]])


def model(x: Tensor) -> None:
    """Two latents, each seen through noise."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, SCALE).to_event(1), obs=x)


def test_a_program_that_does_not_broadcast_is_run_particle_by_particle() -> None:
    """It reads the first particle's latents, whatever the particle: all draws together would be one draw."""

    def of_one(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(d["x"])), 1.0)).reshape(-1)[: len(d["x"])]
            pyro.sample("x", dist.Normal(z, SCALE), obs=d["x"])
            pyro.sample("y", dist.Normal(z, SCALE), obs=d["y"])

    def guide(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            pyro.sample("z", dist.Normal(GAIN * d["x"], GAIN**0.5 * SCALE))

    pair, x = ModelGuidePair.from_callables(of_one, guide), X[:, 0]
    found = predict_given(pair, {"x": x}, like={"x": x, "y": x}, site="y", num_samples=2000, compile="eager")
    assert bool(((found.mean - GAIN * x).abs() < 4 * found.standard_error).all())
    assert float(found.standard_error.min()) > 0.001


def _other_name(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("zz", dist.Normal(GAIN * x, 0.4).to_event(1))


def _factor(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(GAIN * x, 0.4).to_event(1))
        pyro.factor("push", -z.square().sum(-1), has_rsample=True)


def _batch_statistics(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x - x.mean(0), 0.4).to_event(1))


VERBS: list[Callable[[ModelGuidePair], Any]] = [
    lambda pair: reconstruct(pair, X),
    lambda pair: embed(pair, X),
    lambda pair: inpaint(pair, X, torch.tensor([True, False])),
    lambda pair: quantile_residuals(pair, X),
]


@pytest.mark.parametrize(
    ("guide", "pattern"),
    [
        (_other_name, "'zz' is not in the model"),
        (_factor, "'push' is a factor"),
        (_batch_statistics, "of a datum is .* by itself"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_refused(guide: Callable[[Tensor], None], pattern: str, verb: Callable[[ModelGuidePair], Any]) -> None:
    with pytest.raises(PairError, match=pattern):
        verb(ModelGuidePair.from_callables(model, guide))


def test_parameters_for_every_datum() -> None:
    pair = ModelGuidePair.from_callables(model, AutoNormal(model))
    fit(pair, X, num_epochs=300, batch_size=None, learning_rate=0.05, progress=False, compile="eager")
    torch.testing.assert_close(embed(pair, X, chunk_size=2), GAIN * X, atol=0.2, rtol=0.0)
    assert quantile_residuals(pair, X, num_replicates=9, chunk_size=2).level.shape == X.shape
    with pytest.raises(PairError, match="parameters for every datum"):
        inpaint(pair, X, torch.tensor([True, False]))


@pytest.mark.parametrize("reads", [False, True])
def test_gaps_that_another_site_reads(reads: bool) -> None:
    """y = 2 x + noise would say of a hidden x what z does not know."""

    def of_two(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            x = pyro.sample("x", dist.Normal(z, SCALE).mask(d["seen"].bool()).to_event(1), obs=d["x"])
            pyro.sample("y", dist.Normal(2 * (x if reads else z)[..., 0], 0.3), obs=d["y"])

    def guide(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            pyro.sample("z", dist.Normal(GAIN * d["x"] * d["seen"], 0.6).to_event(1))

    seen = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    data = {"x": X, "seen": seen, "y": 2 * X[:, 0]}
    pair = ModelGuidePair.from_callables(of_two, guide)
    if reads:
        with pytest.raises(PairError, match="datum 1 depends on what stands in its masked entries"):
            inpaint(pair, data, site="x", compile="eager")
        return
    found = inpaint(pair, data, site="x", num_steps=240, num_burn_in=100)
    variance = 1 / (1 + 4 / 0.09)  # of z[0] given y alone, for datum 1
    exact = variance * 2 * float(data["y"][1]) / 0.09
    assert abs(float(found.mean[1, 0]) - exact) < 5 * float(found.standard_error[1, 0])


def test_given_values_that_a_site_does_not_have() -> None:
    """An exponential has a finite log density below zero: 2 / (1 + c) came out for c = -0.3, and was trusted."""

    def counts(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            z = pyro.sample("z", dist.Gamma(torch.tensor(1.0), 1.0))
            pyro.sample("c", dist.Exponential(z), obs=d["c"])
            pyro.sample("x", dist.Poisson(z), obs=d["x"])

    def guide(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            pyro.sample("z", dist.Gamma(2.0 + d["x"], 2.0 + d["c"]))

    pair = ModelGuidePair.from_callables(counts, guide)
    like = {"x": torch.tensor([1.0, 2.0]), "c": torch.tensor([1.0, 2.0])}
    found = predict_given(pair, {"c": torch.tensor([0.5, 1.0])}, like=like, site="x", num_samples=4000, compile="eager")
    assert bool(((found.mean - torch.tensor([2 / 1.5, 1.0])).abs() < 4 * found.standard_error).all())
    with pytest.raises(PairError, match="'c': expected values of a Exponential"):
        predict_given(pair, {"c": torch.tensor([-0.3, 1.0])}, like=like, site="x", compile="eager")


def test_given_values_at_which_the_model_fails() -> None:
    def model(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(0.0, z + 9.0), obs=d["x"])

    def guide(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            pyro.sample("z", dist.Normal(0.0 * d["x"], 1.0))

    pair = ModelGuidePair.from_callables(model, guide)
    with pytest.raises(PairError, match=r"(?s)fails at these values of 'z': Expected parameter scale.*z \+ 9.0"):
        predict_given(pair, {"z": torch.full((2,), -10.0)}, like={"x": torch.zeros(2)}, site="x", compile="eager")


def test_residuals_of_data_that_the_likelihood_does_not_have() -> None:
    def counts(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(1.0), 1.0))
            pyro.sample("x", dist.Poisson(z[..., None]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(1.0 + x[:, 0].abs(), 2.0))

    pair = ModelGuidePair.from_callables(counts, guide)
    assert quantile_residuals(pair, torch.tensor([[0.0], [3.0], [1.0]])).level.shape == (3, 1)
    with pytest.raises(PairError, match=r"'x': expected data in the support .* for instance -3"):
        quantile_residuals(pair, torch.tensor([[0.0], [-3.0], [1.0]]))


def test_gaps_that_another_site_reads_have_no_evidence() -> None:
    """It was -106 or -1146 by the placeholder; masked where x is, or given z, the site reads nothing."""

    def program(reads: bool, masked: bool) -> Callable[..., None]:
        def of_two(d: dict[str, Tensor]) -> None:
            seen = d["seen"].bool()
            with pyro.plate("data", len(seen)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                x = pyro.sample("x", dist.Normal(z, SCALE).mask(seen).to_event(1), obs=d["x"])
                y = dist.Normal(2 * (x if reads else z)[..., 0], 0.3)
                pyro.sample("y", y.mask(seen[..., 0]) if masked else y, obs=d["y"])

        return of_two

    def guide(d: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(d["x"])):
            pyro.sample("z", dist.Normal(GAIN * d["x"] * d["seen"], 0.6).to_event(1))

    seen = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    data = {"x": X * seen, "seen": seen, "y": 2 * X[:, 0]}
    check_pair(ModelGuidePair.from_callables(program(reads=False, masked=False), guide), data)
    check_pair(ModelGuidePair.from_callables(program(reads=True, masked=True), guide), data)
    with pytest.raises(PairError, match=r"'x': .* datum 1 depends on what stands in its masked entries(?s:.*)obs_mask"):
        log_evidence(ModelGuidePair.from_callables(program(reads=True, masked=False), guide), data, progress=False)
