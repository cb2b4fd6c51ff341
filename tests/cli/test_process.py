"""The command as a process: what it imports to answer, and how a signal ends it. Each start of Python costs seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from contracts.processes import Ppvae
from contracts.runs import newest

from ppvae.runs import RunFolder
from ppvae.runs.evaluation.files import paths_of

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


def stopped_by(number: signal.Signals, words: list[str], ready: Callable[[], bool]) -> tuple[int, str, str]:
    """Run the command, send it a signal once it is ready: status, stdout and stderr. It never outlives this."""
    with subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell's background jobs, of which pytest may be one, ignore Ctrl-C, under nohup SIGHUP too, and so would
        # their children.
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and not ready():
                time.sleep(0.05)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, stdout, stderr


EPOCH = ["--set", "training.compile=eager", "--set", "data.num_train=200", "--set", "model.hidden=[8]"]


def without_end(out: Path) -> tuple[list[str], Callable[[], bool]]:
    """A training run that only a signal ends, and whether it has begun."""
    metrics = out / "metrics.jsonl"
    words = ["fit", "--model", "bernoulli-vae", "--epochs", "1000000", *EPOCH, "--out", str(out)]
    return words, lambda: metrics.exists() and metrics.read_text().count("\n") > 2


def assert_saved(out: Path, stdout: str, stderr: str) -> None:
    assert stdout == ""
    assert "its state is saved; go on with: ppvae fit --resume" in stderr
    assert "Traceback" not in stderr
    assert json.loads((out / "run.json").read_text())["outcome"] == "interrupted"
    assert list((out / "checkpoints").glob("last-*.sha256"))


def test_an_interrupt_saves_the_run_of_a_command_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words, ready = without_end(out)
    code, stdout, stderr = stopped_by(signal.SIGINT, words, ready)
    assert code == 130, stderr
    assert_saved(out, stdout, stderr)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_run(ppvae: Ppvae, tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "run"
    words, ready = without_end(out)
    code, stdout, stderr = ppvae.stopped_by(number, words, ready, tmp_path)
    assert code == status, stderr
    assert_saved(out, stdout, stderr)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_evaluated(ppvae: Ppvae, tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "run"
    ppvae.check("fit", "--model", "bernoulli-vae", "--epochs", "1", *EPOCH, "--out", str(out))
    # Far longer than this test waits: it can only end by the signal.
    method = "ais:num_chains=2,num_temperatures=1000,num_leapfrog=50"
    words = ["evaluate", str(out), "--method", method, "--chunk-size", "1", "-k", "7", "--threads", "1"]
    words += ["--num-data", "20", "--seed", "0"]

    def is_half_done() -> bool:
        return any("L_7" in path.read_text() for path in paths_of(RunFolder(out)))

    code, stdout, stderr = ppvae.stopped_by(number, words, is_half_done, tmp_path)
    assert code == status, stderr
    assert stdout == ""
    assert f"what is finished is kept; go on with: ppvae evaluate {out} --part test --num-data 20 --seed 0" in stderr
    assert "Traceback" not in stderr
    assert [row["label"] for row in newest(RunFolder(out)).rows] == ["ELBO", "L_7"]
    assert list(out.rglob("*.tmp")) == []
