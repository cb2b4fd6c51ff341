"""Sections by what a pair and its data say: classes, layers, sequences, counts, gaps, each against a closed form."""

from __future__ import annotations

import math
from typing import Any

import torch

from ppvae.core import structure
from ppvae.data import Dataset
from ppvae.distributions import DiagonalNormal, Normal, StandardNormal
from ppvae.inference import discrete_posterior
from ppvae.models import Latent, LatentModel, Mask, Observed, conditional_vae, mixture_vae, semi_supervised_vae
from ppvae.networks import MLP
from ppvae.report.classes import COLUMNS, class_findings
from ppvae.report.counts import BINS, CountFindings, shares
from ppvae.report.described import evidence_of
from ppvae.report.figures.images import as_images
from ppvae.report.figures.sequences import roll
from ppvae.report.filled import filled_findings
from ppvae.report.layers import held_layers

OPTIONS: dict[str, Any] = {"seed": 0, "device": "cpu"}


def test_the_classes_of_a_label_a_covariate_and_a_latent() -> None:
    """Decoders that read the class alone: each row is the mean of its class, by whatever way the model has it."""
    x, labels = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)).round(), torch.arange(12) % 3
    torch.manual_seed(0)
    rows = {"x": x, "label": torch.eye(3)[labels]}
    known = {"x": x, "label": torch.full((12,), -1)}
    cases: list[tuple[Any, Any, str]] = [
        (semi_supervised_vae(6, 3, latent_dim=2, hidden=(4,)), known, "known"),
        (conditional_vae(6, 3, latent_dim=2, hidden=(4,)), rows, "given"),
        (mixture_vae(6, num_components=3, latent_dim=2, hidden=(4,), given_class="data"), x, "found"),
    ]
    for pair, values, kind in cases:
        with torch.no_grad():
            weights = [p for p in pair.likelihood_x.parameters() if p.dim() > 1]
            for weight in weights:
                weight.normal_()
            weights[0][:, :2] = 0.0  # z
        data = Dataset(values, labels=labels, value_space="binary")
        shape = structure(pair, data.batch(torch.arange(1)))
        discrete = discrete_posterior(pair, data, num_samples=2) if kind == "found" else None
        found = class_findings(pair, data, "x", shape, discrete, OPTIONS)
        assert found is not None and found.kind == kind and found.names == ("0", "1", "2")
        expected = pair.likelihood_x(torch.zeros(3, 2), torch.eye(3)).mean.detach()
        assert found.samples.shape == (3, COLUMNS, 6)
        torch.testing.assert_close(found.samples, expected[:, None].expand(3, COLUMNS, 6))
        assert float(expected.std(0).max()) > 0.05


def test_the_share_of_an_upper_layer_is_in_closed_form() -> None:
    """z1 | z2 ~ N(2 z2, 1.5^2) and E[x | z1] = z1 W: z2 decides 4 / (4 + 2.25) of the variance."""
    pair = LatentModel(
        z2=Latent(StandardNormal(1), posterior=DiagonalNormal(MLP(1, []), 1).given("z1")),
        z1=Latent(DiagonalNormal(MLP(1, []), 1).given("z2"), posterior=DiagonalNormal(MLP(2, []), 1).given("x")),
        x=Observed(Normal(MLP(1, []), 2, scale=0.1).given("z1")),
    )
    with torch.no_grad():
        for parameter, value in zip(pair.prior_z1.parameters(), (2.0, 0.0, 0.0, math.log(1.5)), strict=True):
            parameter.fill_(value)
        made = pair.prior_z1(torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(made.mean.flatten(), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(made.stddev.flatten(), torch.tensor([1.5, 1.5]))
    (found,) = held_layers(pair, Dataset(torch.zeros(5, 2)), "x", structure(pair, torch.zeros(1, 2)), OPTIONS)
    assert (found.sites, found.redrawn) == (("z2",), ("z1",))
    assert abs(found.share - 4 / 6.25) < 4 * found.share_error and found.share_error < 0.05


def test_a_class_that_is_summed_out_is_no_layer() -> None:
    pair = mixture_vae(4, num_components=2, latent_dim=1, hidden=(3,))
    assert held_layers(pair, Dataset(torch.zeros(5, 4)), "x", structure(pair, torch.zeros(1, 4)), OPTIONS) == []


def test_a_filled_gap_is_the_exact_conditional() -> None:
    """x = W z + b + noise: given what is there a gap is normal, of a mean and a variance that linear algebra gives."""
    torch.manual_seed(0)
    pair = LatentModel(
        seen=Mask(),
        z=Latent(StandardNormal(1), posterior=DiagonalNormal(MLP(3, []), 1).given("x")),
        x=Observed(Normal(MLP(1, []), 3, scale=0.5).given("z"), mask="seen"),
    )
    with torch.no_grad():
        ends = pair.likelihood_x(torch.tensor([[0.0], [1.0]])).mean
    b, w = ends[0], ends[1] - ends[0]
    covariance = torch.outer(w, w) + 0.25 * torch.eye(3)
    x = (torch.randn(40, 1) * w + b + 0.5 * torch.randn(40, 3)).detach()
    seen = torch.ones(40, 3, dtype=torch.bool)
    seen[::5, 2] = False
    data = Dataset({"x": x.masked_fill(~seen, 0.0), "seen": seen})
    found = filled_findings(pair, data, "x", seen, structure(pair, data.batch(torch.arange(1))), OPTIONS)
    assert found is not None and found.restoration is not None
    assert found.rows.tolist() == list(range(0, 40, 5)) and not bool(found.present[:, 2].any())
    inverse = torch.linalg.inv(covariance[:2, :2])
    mean = b[2] + (x[::5, :2] - b[:2]) @ inverse @ covariance[:2, 2]
    variance = covariance[2, 2] - covariance[2, :2] @ inverse @ covariance[:2, 2]
    error = found.restoration.standard_error[:, 2]
    assert bool(((found.restoration.mean[:, 2] - mean).abs() < 5 * error + 1e-3).all())
    torch.testing.assert_close(found.restoration.standard_deviation[:, 2], variance.sqrt().expand(8), rtol=0.1, atol=0)
    # The trial hides known values alone, and the bars are as wide as they should be.
    assert bool(seen[found.datum, found.column].all())
    assert bool((found.truth == x[found.datum, found.column]).all())
    share, share_error = found.within_two
    assert abs(share - 0.954) < 4 * max(share_error, (0.954 * 0.046 / len(found.truth)) ** 0.5)


def test_a_roll_has_the_pixels_of_the_data() -> None:
    x, lengths = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)).round(), torch.tensor([5, 3])
    images = roll(x, lengths)
    assert images.shape == (2, 3, 5)
    assert torch.equal(images[0].flip(0).mT, x[0]) and torch.equal(images[1, :, :3].flip(0).mT, x[1, :3])
    assert bool((images[1, :, 3] == images[1, 0, 3]).all()) and 0 < float(images[1, 0, 3]) < 1  # the end
    assert as_images(x, Dataset({"x": x, "lengths": lengths})) is None  # steps are no rows of pixels


def test_shares_of_levels_by_hand() -> None:
    level = torch.tensor([[0.01, 0.02, 0.99], [0.51, float("nan"), 0.03]], dtype=torch.float64)
    share, error = shares(level, torch.tensor([[True, True, True], [True, False, True]]))
    expected = torch.zeros(BINS, dtype=torch.float64)
    expected[0], expected[10], expected[-1] = 3 / 5, 1 / 5, 1 / 5
    torch.testing.assert_close(share, BINS * expected)
    # Residuals of the first bin: 2 - 3 * 3/5 and 1 - 2 * 3/5.
    torch.testing.assert_close(float(error[0]), BINS * (0.2**2 + 0.2**2) ** 0.5 / 5)
    sets = torch.tensor([[1.0, 2.0], [2.0, 3.0]])
    assert CountFindings(sets[0], torch.tensor([1.5, 9.0]), sets, sets).outside == 1


def test_the_evidence_has_its_covariates_behind_the_bar() -> None:
    assert evidence_of(conditional_vae(6, 3, latent_dim=2, hidden=(4,))) == "log p(x | label)"
    assert evidence_of(mixture_vae(6, num_components=3, latent_dim=2, hidden=(4,))) == "log p(x)"
