"""A wrong argument is refused in words that name it, what was expected and what to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ppvae.core import PpvaeError, sum_out
from ppvae.inference import (
    Flips,
    compare_elbos,
    denoise,
    elbo,
    evaluate_bound,
    fit,
    hide,
    inpaint,
    log_evidence,
    sample_posterior,
)
from ppvae.models import bernoulli_vae, missing_data_vae, semi_supervised_vae, sigmoid_belief_network

X = torch.arange(4 * 64).reshape(4, 64).remainder(3).eq(0).float()
SHORT: dict[str, Any] = {"num_steps": 20, "num_burn_in": 10, "num_chains": 2}


def vae(**options: Any) -> Any:
    return bernoulli_vae(64, latent_dim=2, hidden=(8,), **options)


def labels(*values: float) -> dict[str, Any]:
    return {"x": X, "label": torch.tensor(values)}


def classes() -> Any:
    return semi_supervised_vae(64, num_classes=3, latent_dim=2, hidden=(8,))


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (lambda: bernoulli_vae(64, prior="vmap"), r"prior: expected a function of ppvae.models.priors.*mean 'vamp'"),
        (lambda: bernoulli_vae(64, posterior="iaff"), r"posterior: expected a function of .*did you mean 'iaf'"),
        (lambda: sample_posterior(vae(), X, kernel="nuts"), r"kernel: expected HMC or ChEES with its options.*'nuts'"),
        (lambda: compare_elbos(vae(), X, {"a": "trace"}), r"expected an estimator with its options, found 'trace'"),
        (lambda: compare_elbos(vae(), X, "trace"), r"expected an estimator with its options, found 'trace'"),
        (lambda: inpaint(vae(), X, hide((8, 7), "left")), r"the mask \[8, 7\] does not broadcast(.|\n)*a mask \[64\]"),
        (lambda: denoise(vae(), X / 2, Flips(0.1)), r"^datum 0 has grey values"),
        (lambda: fit(vae(), X[:, :30], progress=False), r"batch of shape \[4, 30\]: expected \[B, 64\]"),
        (lambda: fit(vae(), X.reshape(4, 8, 8), progress=False), r"expected \[B, 64\](.|\n)*x.reshape\(len\(x\), 64\)"),
        (
            lambda: fit(missing_data_vae(64), {"x": X[:, :30], "seen": X[:, :30]}, progress=False),
            r"expected member 'x' of \[B, 64\]",
        ),
        (
            lambda: log_evidence(missing_data_vae(64), {"x": X, "seen": X, "mask": X}),
            r"no variable reads the member 'mask' of shape \[4, 64\](.|\n)*'seen' as its name",
        ),
        (lambda: evaluate_bound(vae(), {"x": X, "mask": X}), r"no variable reads the member 'mask'"),
        (lambda: log_evidence(classes(), labels(0.9, 1.0, 2.0, -1.0)), r"labels 0, 1, ..., 2, and -1.*instance 0.9"),
        (
            lambda: evaluate_bound(classes(), labels(0, 1, 2, 17)),
            r"found 1 values.*instance 17; the first is in datum 3",
        ),
    ],
)
def test_it_is_refused_by_name(verb: Callable[[], Any], words: str) -> None:
    with pytest.raises(PpvaeError, match=words):
        verb()


def test_labels_beyond_the_first_batch_are_checked_before_training() -> None:
    x = {"x": X.repeat(50, 1), "label": torch.arange(200).remainder(3)}
    fit(classes(), x, num_epochs=1, batch_size=20, progress=False)
    x["label"][150] = 3
    with pytest.raises(PpvaeError, match="the first is in datum 150"):
        fit(classes(), x, num_epochs=1, batch_size=20, progress=False)


def test_labels_may_stand_beside_data_that_do_not_read_them() -> None:
    assert len(log_evidence(vae(), {"x": X, "label": torch.arange(4)}, progress=False)) == 4


def test_masks_of_numpy_and_of_the_shape_of_pictures() -> None:
    of_rows = inpaint(vae(), X, np.asarray(hide((64,), "left")), **SHORT)
    assert of_rows.mean.shape == X.shape
    assert "no R-hat is known" in repr(inpaint(vae(), X, hide((64,), "left"), **{**SHORT, "num_chains": 1}))
    seen = hide((8, 8), "top")
    assert torch.equal(inpaint(vae(), X, seen, **SHORT).mean[:, seen.flatten()], X[:, seen.flatten()])


def test_a_bound_of_discrete_latents_is_evaluated_and_not_trained_without_their_gradient() -> None:
    torch.manual_seed(0)
    pair, x = sigmoid_belief_network(8, latent_dims=(3,)), X[:, :8]
    bounds = [
        evaluate_bound(pair, x, elbo=kind, num_repeats=400, progress=False)
        for kind in (None, elbo.TraceELBO(), elbo.ScoreFunctionELBO())
    ]
    for bound in bounds[1:]:
        error = bounds[0].mean_standard_error + bound.mean_standard_error
        assert abs(bound.mean - bounds[0].mean) < 4 * error
    with pytest.raises(PpvaeError, match="differentiates through the draws"):
        fit(pair, x, elbo=elbo.TraceELBO(), progress=False)
    with pytest.raises(PpvaeError):
        evaluate_bound(sum_out(pair, "z"), x, progress=False)
