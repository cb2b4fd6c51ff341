"""Figures of a comparison of estimators; the comparison in ArviZ."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.elbo_oracles import linear_vae, some_data
from matplotlib import rc_context

from ppvae.inference import elbo
from ppvae.inference.comparison.compare import compare_along_run, compare_elbos
from ppvae.report.figures import estimators
from ppvae.report.figures.theme import DARK, LIGHT

CHOICE = {"A": elbo.TraceELBO(), "IWAE": elbo.ImportanceWeightedELBO(4)}


def test_figures_show_the_numbers(tmp_path: Path) -> None:
    pair, x = linear_vae(), some_data()
    found = compare_elbos(pair, x, CHOICE, num_repeats=6, compile="eager")
    with rc_context(LIGHT.settings()):
        (axes,) = estimators.bounds(found, LIGHT).axes
        shown = axes.containers[0].lines[0].get_xdata().tolist()
        assert shown == pytest.approx([row.bound for row in found.estimators])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "IWAE"]
        assert len(estimators.gradient_noise(found, LIGHT).axes) == 2
    files = estimators.save_figures(found, tmp_path / "figures", theme=DARK)
    assert [path.name for path in files] == ["bounds.png", "gradient_noise.png", "cost.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    assert estimators.short("ImportanceWeightedELBO(num_particles=5)") == "ImportanceWeighted(5)"
    assert estimators.short("TraceELBO(num_particles=1)") == "Trace"


def test_figures_along_a_run(tmp_path: Path) -> None:
    pair, x = linear_vae(), some_data()
    states = {10: linear_vae(wrong=0.5).state_dict(), 20: linear_vae(wrong=0.1).state_dict()}
    found = compare_along_run(pair, states, x, CHOICE, num_repeats=4, compile="eager", reference=None)
    with rc_context(LIGHT.settings()):
        left = estimators.along_run(found, LIGHT).axes[0]
        assert left.containers[0].lines[0].get_xdata().tolist() == [10.0, 20.0]
    assert "along_run.png" in [path.name for path in estimators.save_figures(found, tmp_path)]


@pytest.mark.filterwarnings("ignore")
def test_in_arviz() -> None:
    import arviz

    found = compare_elbos(linear_vae(), some_data(), CHOICE, num_repeats=8, compile="eager")
    data = estimators.comparison_to_arviz(found)
    assert dict(data.posterior.sizes) == {"chain": 1, "draw": 8, "estimator": 2}
    table = arviz.summary(data, kind="stats", round_to="none")
    assert table["mean"].tolist() == pytest.approx([row.bound for row in found.estimators])
