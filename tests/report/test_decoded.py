"""Points of the latent space that a report decodes, neighbours of samples, and probabilities against frequencies."""

from __future__ import annotations

import pytest
import torch

from ppvae.report.decoded import DIMENSIONS, PAIRS, STEPS, interpolations, nearest, reliability, traversals


def test_a_traversal_moves_one_dimension_from_the_most_active() -> None:
    latents = torch.tensor([[0.0, 1.0, 2.0], [0.1, 1.1, 2.1], [9.0, 9.0, 9.0]])  # their mean is nearest to the second
    prior = torch.linspace(-1, 1, 101)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    points, dimensions = traversals(latents, prior, torch.tensor([0.2, 0.1, 0.5]))
    assert dimensions == [2, 0, 1] and points.shape == (3, STEPS, 3)
    for row, dimension in enumerate(dimensions):
        others = [other for other in range(3) if other != dimension]
        assert torch.equal(points[row][:, others], latents[1, others].expand(STEPS, 2))
        reach = 0.98 * (dimension + 1)
        torch.testing.assert_close(points[row, [0, -1], dimension], torch.tensor([-reach, reach]))
    many = traversals(torch.randn(4, 20), torch.randn(50, 20), torch.rand(20))[1]
    assert len(many) == DIMENSIONS


def test_an_interpolation_is_a_line_between_two_data_of_two_labels() -> None:
    latents, labels = torch.randn(40, 3), torch.arange(40) // 20
    lines, ends = interpolations(latents, labels)
    assert lines.shape == (PAIRS, STEPS, 3) and ends.shape == (PAIRS, 2)
    assert bool((labels[ends[:, 0]] != labels[ends[:, 1]]).all())
    torch.testing.assert_close(lines[:, 0], latents[ends[:, 0]])
    torch.testing.assert_close(lines[:, -1], latents[ends[:, 1]])
    torch.testing.assert_close(lines[:, STEPS // 2], latents[ends].mean(1))
    assert interpolations(latents, None)[1].tolist() == torch.arange(2 * PAIRS).reshape(-1, 2).tolist()
    assert interpolations(latents[:3], None)[1].tolist() == [[0, 1]]


def test_the_nearest_datum() -> None:
    data = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
    rows, distance = nearest(torch.tensor([[[0.0, 1.0]], [[3.0, 2.0]]]), data)
    assert rows.tolist() == [0, 1] and distance.tolist() == pytest.approx([1.0, 2.0])


def test_reliability_by_hand() -> None:
    predicted = torch.tensor([[0.05, 0.95], [0.05, 1.0]])
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    low, high = reliability(predicted, x).tolist()
    assert low == pytest.approx([0.05, 0.5, 0.5**0.5 / 2, 0.5])  # residuals -1/2 and 1/2 of two data
    assert high == pytest.approx([0.975, 1.0, 0.0, 0.5])


def test_reliability_of_calibrated_probabilities() -> None:
    """Frequencies lie within four of their errors; those of other probabilities do not."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2000, 5, generator=generator)
    x = torch.bernoulli(p, generator=generator)
    for predicted, right in ((p, True), (p**2, False)):
        rows = reliability(predicted, x)
        scaled = (rows[:, 1] - rows[:, 0]) / rows[:, 2]
        assert bool((scaled.abs() < 4).all()) is right
