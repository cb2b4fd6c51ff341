"""The example that evaluates a Pyro program written elsewhere."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "evaluate_by_mcmc.py"


def test_evaluate_by_mcmc(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 40
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    summaries = [line for line in lines if "mean over" in line]
    means = [float(line.split(": ")[1].split()[0]) for line in summaries]
    assert [line.split()[0] for line in summaries] == ["AIS", "RIS", "BridgeSampling"]
    assert max(means) - min(means) < 0.05
    assert sum("acceptance 0." in line for line in lines) == 3
