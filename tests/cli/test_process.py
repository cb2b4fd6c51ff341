"""The command as a process: how fast it answers, and how a signal ends it. Each costs a start of Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "ppvae"]
# Warnings of other people's packages are errors in the tests' own process only.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_help_answers_at_once() -> None:
    best = 9.0
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, env=ENVIRONMENT)
        best = min(best, time.perf_counter() - started)
        assert done.returncode == 0
        assert "Usage: " in done.stdout
    assert best < 0.5


def test_version() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0
    assert done.stdout.startswith("ppvae ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--epochs", "1000000", "--set", "training.compile=eager"]
    words += ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--out", str(out)]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") > 2:
                break
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert stdout == ""
    assert "its state is saved; go on with: ppvae fit --resume" in stderr
    assert "Traceback" not in stderr
    assert json.loads((out / "run.json").read_text())["outcome"] == "interrupted"
    assert list((out / "checkpoints").glob("last-*.sha256"))
