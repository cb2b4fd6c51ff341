"""Progress of long work: bars on a terminal; in a file, lines that are few and say what is left."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from ppvae.inference import evidence, fit, log_evidence
from ppvae.inference.execution import progress
from ppvae.inference.execution.progress import Lines, progress_bar
from ppvae.models import FactorAnalysis


class Clock:
    """A clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=one))
    monkeypatch.setattr(Lines, "_last_sign", 0.0)
    monkeypatch.setattr("tqdm.std.time", one)
    return one


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_line_every_thirty_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=100, desc="work", unit="epoch", show=True) as bar:
        for second in range(100):
            clock.now = 1001.0 + second
            bar.update()
            bar.set_postfix_str(f"elbo {-second}.00")
    assert lines_of(capsys) == [
        "work: epoch 30/100, elbo -28.00; 00:30 so far, 01:10 left",
        "work: epoch 60/100, elbo -58.00; 01:00 so far, 00:40 left",
        "work: epoch 90/100, elbo -88.00; 01:30 so far, 00:10 left",
    ]


def test_short_work_says_nothing_and_bars_share_the_clock(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress_bar(range(5), show=True):
        clock.now += 1
    assert lines_of(capsys) == []
    for _ in range(10):  # many short bars are long work
        for _ in progress_bar(range(5), desc="chunk", show=True, leave=False):
            clock.now += 1
    assert len(lines_of(capsys)) == 1
    clock.now += 1000  # what stands still is no work
    with progress_bar(total=3, show=True) as bar:
        bar.update()
    assert lines_of(capsys) == []


def test_what_goes_on_counts_its_own_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=100, initial=80, unit="epoch", show=True) as bar:
        clock.now += 40
        bar.update(10)
    assert lines_of(capsys) == ["epoch 90/100; 00:40 so far, 00:40 left"]


def test_bars_on_a_terminal_and_none_where_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(progress_bar(total=1, show=True)) is Lines
    assert progress_bar(total=1, show=False).disable
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(progress_bar(total=1, show=True)) is tqdm


def test_training_and_evidence_tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    pair, x = FactorAnalysis(3, 1), torch.randn(20, 3)
    fit(pair, x, num_epochs=3, batch_size=10, compile="eager", validation=x)
    text = "\n".join(lines_of(capsys))
    assert re.search(r"^epoch 3/3, elbo -\d+\.\d\d, validation -\d+\.\d\d nats/datum, [\d,]+ data/s; 0", text, re.M)
    log_evidence(pair, x, method=evidence.ImportanceSampling(10), chunk_size=5)
    assert re.search(r"^ImportanceSampling.*: datum \d+/20", "\n".join(lines_of(capsys)), re.M)
    fit(pair, x, num_epochs=1, batch_size=10, compile="eager", progress=False)
    assert lines_of(capsys) == []
