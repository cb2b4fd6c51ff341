"""Wrong arguments are told by name, before any work; results show themselves in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ppvae.core import ModelGuidePair, PpvaeError
from ppvae.inference import aggregate_posterior, decode, elbo, evaluate_bound, fit, generate, inpaint, posterior_checks
from ppvae.models import FactorAnalysis

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


class NoSuper(ModelGuidePair):
    def __init__(self) -> None:
        pass

    def model(self, x: Any, num_data: int | None = None) -> Any:
        return None

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        return None


def fitted(pair: Any = None, **options: Any) -> Any:
    options = {"num_epochs": 1, "batch_size": 20, "progress": False, "compile": "eager", **options}
    return fit(FactorAnalysis(4, 2) if pair is None else pair, X, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: fitted(FactorAnalysis), r"expected a pair, found its class FactorAnalysis"),
        (lambda: fitted((1, 2)), r"expected a ModelGuidePair, found tuple"),
        (lambda: fitted(NoSuper()), r"NoSuper.__init__ does not call super\(\).__init__\(\)"),
        (
            lambda: fitted(seed=2**64),
            r"seed: expected at most 18446744073709551615 \(64 bits\), found 18446744073709551616",
        ),
        (lambda: fitted(num_epochs=10**30), r"num_epochs: expected at most 18446744073709551615"),
        (lambda: fitted(elbo="iwae"), r"elbo: expected an estimator with its options, found 'iwae'"),
        (lambda: fitted(elbo=elbo.TraceELBO), r"found the class TraceELBO"),
        (lambda: fitted(num_epochs=-1), r"num_epochs: expected at least 0, found -1"),
        (lambda: fitted(num_epochs=2.5), r"num_epochs: expected a whole number, found 2.5"),
        (lambda: fitted(batch_size=10.0), r"batch_size: expected a whole number, found 10.0"),
        (lambda: fitted(seed=1.5), r"seed: expected a whole number, found 1.5"),
        (lambda: fitted(seed=-1), r"seed: expected at least 0, found -1"),
        (lambda: fitted(learning_rate="1e-3"), r"learning_rate: expected a positive, finite number, found '1e-3'"),
        (lambda: elbo.RenyiELBO(float("nan")), r"expected a finite alpha, found nan"),
        (lambda: generate(FactorAnalysis(4, 2), 3, like=X, kind="meen"), r"unknown kind 'meen': did you mean 'mean'"),
        (lambda: decode(FactorAnalysis(4, 2), X[:, :2], like=X, kind="men"), r"unknown kind 'men'"),
        (lambda: inpaint(FactorAnalysis(4, 2), X, torch.full((4,), 0.5)), r"the mask says which entries are seen"),
    ],
)
def test_what_is_wrong_is_named(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        wrong()


def test_results_are_shown_in_few_words() -> None:
    pair = FactorAnalysis(4, 2)
    bound = evaluate_bound(pair, X)
    assert repr(bound) == (
        f"BoundEstimate({bound.mean:.3f} ± {bound.mean_standard_error:.3f} nats per datum, 40 data "
        f"(± {bound.sampling_standard_error:.2f} over the choice of data))"
    )
    for found in (posterior_checks(pair, X, num_replicates=20), aggregate_posterior(pair, X)):
        assert repr(found) == f"{type(found).__name__}({found.summary()})"
        assert "tensor(" not in repr(found)
