"""The command as a process: what it imports to answer, and how a signal ends it. Each costs a start of Python."""

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


# What takes a second or more to import. (How long help takes is no test: that depends on what else the machine does.)
HEAVY = {
    "torch",
    "pyro",
    "numpy",
    "scipy",
    "sklearn",
    "pandas",
    "arviz",
    "xarray",
    "matplotlib",
    "safetensors",
    "pydantic",
}


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ppvae", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"ppvae", "typer"} <= imported  # the list was read
    assert imported & HEAVY == set()


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_evaluated(tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--epochs", "1", "--set", "training.compile=eager"]
    words += ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--out", str(out)]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True, env=ENVIRONMENT)
    # Far longer than this test waits: it can only end by the signal.
    method = "ais:num_chains=2,num_temperatures=1000,num_leapfrog=50"
    words = ["evaluate", str(out), "--method", method, "--chunk-size", "1", "-k", "7", "--threads", "1"]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "evaluation.json").exists() and "L_7" in (out / "evaluation.json").read_text():
                break
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert stdout == ""
    assert f"what is finished is kept; go on with: ppvae evaluate {out} --part test --seed 0" in stderr
    assert "Traceback" not in stderr
    assert [row["label"] for row in json.loads((out / "evaluation.json").read_text())["estimates"]] == ["ELBO", "L_7"]
    assert list(out.rglob("*.tmp")) == []
