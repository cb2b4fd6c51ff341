"""The topics of a report."""

from __future__ import annotations

from typing import Any

import torch

from ppvae.inference import Topics
from ppvae.report.findings import ReportData
from ppvae.report.html.tables import topics_table
from ppvae.report.sites import LatentFindings


def test_the_active_dimensions_have_their_words_the_most_active_first() -> None:
    told = Topics((("court", "judge"), ("a", "b"), ("goal", "team")), torch.zeros(3, 2), torch.zeros(3, 2))
    latent = {"z": LatentFindings("z", shape=(3,), active=torch.tensor([0.5, 0.001, 0.9]))}
    run: Any = None
    empty: Any = None
    page = topics_table(ReportData(run, "test", empty, torch.zeros(1, 2), latent=latent, topics=told))
    assert page.index("goal team") < page.index("court judge") and "a b" not in page
    assert "2 of" in page and "3 dimensions" in page
    assert not topics_table(ReportData(run, "test", empty, torch.zeros(1, 2), latent=latent))
