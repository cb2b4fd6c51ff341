"""Trace and rank plots: ranks of chains that mixed are uniform, of chains that did not are not; the page shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ppvae.inference import compare_elbos
from ppvae.inference.elbo import TraceELBO
from ppvae.report import write_report
from ppvae.report.figures.chains import BINS, rank_counts
from ppvae.runs import Recipe, train


def test_ranks_tell_chains_that_mixed_from_chains_that_did_not() -> None:
    u = torch.randn(4, 300, 5)
    counts = rank_counts(u)
    assert counts.shape == (4, BINS)
    assert bool((counts.sum(1) == 1500).all())
    expected = 1500 / BINS
    assert float((counts - expected).abs().max()) < 5 * expected**0.5
    apart = u.clone()
    apart[0] += 3.0
    assert float((rank_counts(apart)[0] - expected).abs().max()) > 20 * expected**0.5


def test_by_hand() -> None:
    u = torch.arange(30.0).reshape(2, 15, 1)  # the first chain holds the lower half of all ranks
    assert rank_counts(u)[0].tolist() == [2.0] * 7 + [1.0] + [0.0] * 7


@pytest.mark.slow
def test_the_page_shows_the_chains_and_the_comparison(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {"name": "bernoulli-vae", "latent_dim": 3, "hidden": [8]},
            "data": {"num_train": 200, "binarize": "static"},
            "training": {"num_epochs": 1, "compile": "eager"},
        }
    )
    run = train(recipe, tmp_path / "run", progress=False)
    plain = Path(write_report(run)).read_text(encoding="utf-8")
    assert "HMC chains" not in plain
    assert "How noisy" not in plain
    folder = run.folder.path / "comparison"
    folder.mkdir()
    (folder / "comparison.json").write_text('{"estimators": [{}]}')
    assert "How noisy" not in Path(write_report(run)).read_text(encoding="utf-8")  # a damaged one is not shown
    compared = compare_elbos(run.pair, run.data.take(20), {"trace": TraceELBO()}, num_repeats=4, progress=False)
    (folder / "comparison.json").write_text(json.dumps(compared.to_dict()))
    html = Path(write_report(run, chains_for=3)).read_text(encoding="utf-8")
    assert "4 chains of 250 draws for each of 3 data: worst R-hat 1.0" in html
    assert (run.folder.figures / "chains.png").is_file()
    assert "How noisy are the estimators?" in html
    assert all(f'id="{name}"' in html for name in ("compared_bounds", "compared_noise", "compared_cost"))
