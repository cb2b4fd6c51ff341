"""An AutoGuide makes its own plates: it replaces a model's explicit subsample by random rows (pyro#3468)."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, check_pair
from ppvae.inference import elbo, evidence, fit, log_evidence

DATA = 8


def model(x: Tensor, rows: Tensor) -> None:
    """Rows of eight data, given by their numbers."""
    with pyro.plate("data", DATA, subsample=rows):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def batch(rows: list[int]) -> dict[str, Tensor]:
    """These rows."""
    return {"x": torch.linspace(-2, 2, DATA)[rows], "rows": torch.tensor(rows)}


def pair_of(guide: Any) -> ModelGuidePair:
    """The pair, its batch as keyword arguments."""
    return ModelGuidePair.from_callables(model, guide, unpack=True)


def trained(rows: list[int]) -> AutoNormal:
    """A guide made for these rows, with parameters that differ from datum to datum."""
    guide = AutoNormal(model)
    guide(**batch(rows))
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += torch.linspace(-0.5, 0.5, DATA)
    return guide


def test_random_rows_of_a_trained_guide_are_refused() -> None:
    with pytest.raises(PairError, match=r"makes this plate anew(?s:.*)create_plates"):
        check_pair(pair_of(trained([5, 2, 6])), batch([5, 2, 6]))


def test_random_rows_of_a_fresh_guide_are_refused() -> None:
    """At the start all rows of its table are equal, so that two runs agree."""
    with pytest.raises(PairError, match="makes this plate anew"):
        fit(pair_of(AutoNormal(model)), batch([5, 2, 6]), elbo=elbo.TraceELBO(), num_epochs=1, progress=False)


def test_minibatches_are_refused() -> None:
    with pytest.raises(PairError, match="batch_size=None"):
        fit(pair_of(AutoNormal(model)), batch(list(range(DATA))), batch_size=3, num_epochs=1, progress=False)


def test_all_rows_are_served() -> None:
    """The rows of all data, in order, are the guide's own."""
    data = batch(list(range(DATA)))
    pair = pair_of(trained(list(range(DATA))))
    method = evidence.PriorSampling(20_000)
    found = log_evidence(pair, data, method=method, progress=False, compile="eager")
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(data["x"])
    assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error + 1e-4).all())


def test_a_plate_of_the_guides_own_serves() -> None:
    """The remedy: plates that hand the rows on."""

    def plates(x: Tensor, rows: Tensor) -> Any:
        return pyro.plate("data", DATA, subsample=rows)

    guide = AutoNormal(model, create_plates=plates)
    guide(**batch([5, 2, 6]))
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += torch.linspace(-0.5, 0.5, DATA)
    check_pair(pair_of(guide), batch([5, 2, 6]))
