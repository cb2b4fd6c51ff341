"""The benchmarks run: each at its smallest size, from its command line, with its numbers in a folder of the test's."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SMALLEST = {
    "svi_step": "--rounds 1 --steps 1",
    "model_steps": "--only bernoulli-vae semi-supervised-vae --modes graph --rounds 1 --steps 1",
    "baselines": "--rounds 1 --steps 1 --modes graph",
    "semi_supervised": "--rounds 1 --steps 1",
    "processes": "--rows 20 --epochs 2",
    "many": "--rounds 1 --ways stacked --cases 64-50-2,graph",
    "hmc": "--rounds 1",
    "gpu": "--device cpu --small",
    "checkpoint": "--epochs 2",
    "quick": "--only factor-analysis --epochs 1",
    "estimators": "--only training --epochs 1",
    "evidence_memory": "--num-data 5 --num-chains 3 --num-temperatures 2",
    "deep_markov": "--small --batches 1 --rounds 1",
    "scaling": "--small --rounds 1",
    "larger_than_memory": "--rounds 1 --limit 30000000",
    "small_fit": "--rounds 1 --epochs 1 --modes graph",
    "calibration": "--targets laplace --guides best --methods ImportanceSampling PriorSampling --num-data 3 --work {}",
}
NEEDS_DATA = {"checkpoint": "MNIST", "deep_markov": "the JSB chorales"}
# Minutes or hours even at their smallest; what they call, the others call.
LONG = {"bayesian_overfitting", "bayesian_step"}


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def test_every_benchmark_is_here() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == set(SMALLEST) | LONG


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    words = SMALLEST[name].format(tmp_path / "cells").split()
    command = [sys.executable, BENCHMARKS / f"{name}.py", *words, "--out", tmp_path]
    if name in NEEDS_DATA and "PPVAE_DATA" not in os.environ:
        pytest.skip(f"needs {NEEDS_DATA[name]}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert found and done.stdout
    for path in found:
        content = json.loads(path.read_text())
        values = list(numbers(content))
        assert values and all(math.isfinite(value) for value in values)
        if name == "deep_markov":
            assert content["difference of the bounds"] < 1e-9
