"""What every test has: one thread, a seed, and a check that it changed no global setting."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pyro
import pytest
import torch
from contracts.processes import Ppvae

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # test processes run side by side, and seeded numbers depend on the thread count

if device := os.environ.get("PPVAE_TEST_DEVICE"):  # of `make test-gpu`: tensors and pairs of the tests stand there
    torch.set_default_device(device)

VALIDATION = (
    "validate_distributions_pyro",
    "validate_distributions_torch",
    "validate_infer",
    "validate_poutine",
)


def _global_settings() -> dict[str, object]:
    settings: dict[str, object] = {name: pyro.settings.get(name) for name in VALIDATION}
    return settings | {
        "torch default dtype": torch.get_default_dtype(),
        "torch grad mode": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _seeded_and_clean() -> Iterator[None]:
    """Seed torch, numpy and random; afterwards fail the test that left a global setting changed."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    before = _global_settings()
    yield
    after = _global_settings()
    if after != before:  # put back, so that one culprit does not fail the tests that follow
        for name in VALIDATION:
            pyro.settings.set(**{name: before[name]})
        torch.set_default_dtype(before["torch default dtype"])
        torch.set_grad_enabled(bool(before["torch grad mode"]))
        torch.set_num_threads(1)
        changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
        pytest.fail(f"the test, or what it ran, left global settings changed (before, after): {changed}")


@pytest.fixture
def float64() -> Iterator[torch.dtype]:
    """Make float64 torch's default dtype for the length of one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def ctrl_c_works() -> Iterator[None]:
    """Where the tests run in the background of a shell, SIGINT is ignored: here it is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def ppvae(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ppvae]:
    """The command in processes of its own."""
    server = Ppvae(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are left blank, which takes most of the time of a page: for tests of its words."""
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "png": b""}
    monkeypatch.setattr("ppvae.report.figures.theme._make", lambda *args, **options: MagicMock())
    monkeypatch.setattr("ppvae.report.figures.theme._save", lambda *args, format, **options: blank[format])


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of data sets outside the package, from the environment variable PPVAE_DATA."""
    folder = os.environ.get("PPVAE_DATA")
    if not folder:
        pytest.skip("the environment variable PPVAE_DATA, the folder of real data sets, is unset")
    return Path(folder)
