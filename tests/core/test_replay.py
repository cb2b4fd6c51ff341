"""What a GPU replays, on the CPU: what is read where, copies, recordings, and what is never replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.core.replay import CALLS_BEFORE, Replayed, is_replayable


def on_cpu(work: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], Callable[[], None]]:
    """A replay as a CUDA graph makes it: it reads the tensors of the recording and writes into those it returned."""
    results = work()

    def replay() -> None:
        for place, value in zip(results, work(), strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)

    return results, replay


def test_results_are_those_of_the_function_itself() -> None:
    """Of weights that are moved in place, data that change twice, and a number that is another at every call."""
    weights, data, kept = torch.randn(3, 2), torch.randn(5, 3), []
    chunks = [data, data.clone(), data.clone()]

    def run(w: Tensor, x: Tensor, scale: Tensor) -> list[Any]:
        return [(x @ w) * scale, None, w.sum()]

    replayed = Replayed(run, "f", on_cpu)
    for call in range(60):
        with torch.no_grad():
            weights += 0.1
        x, scale = chunks[call // 20], torch.tensor(float(call))
        found = replayed(weights, x, scale)
        kept.append((found, run(weights.clone(), x, scale)))
    for (value, nothing, total), (value_, _, total_) in kept:  # none was overwritten by a later call
        assert torch.equal(value, value_) and nothing is None and torch.equal(total, total_)
    # The data had one address in the first recording; from the second on they are copied, whatever theirs is.
    assert replayed.recordings == 2
    assert replayed.calls == 60


def test_a_few_calls_are_launched_as_they_are() -> None:
    replayed = Replayed(lambda x: [2 * x], "f", on_cpu)
    for _ in range(CALLS_BEFORE):
        replayed(torch.ones(2))
    assert replayed.recordings == 0
    replayed(torch.ones(2))
    assert replayed.recordings == 1


def test_what_cannot_be_recorded_runs_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuses(work: Callable[[], Sequence[Any]]) -> Any:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors")

    replayed = Replayed(lambda x: [2 * x], "the leapfrog", refuses)
    for call in range(CALLS_BEFORE + 5):
        assert replayed(torch.full((2,), float(call)))[0].tolist() == [2.0 * call] * 2
    (line,) = caplog.messages
    reason = "operation not permitted when stream is capturing"
    assert line == f"the leapfrog is launched operation by operation, not replayed: {reason}"


def test_what_writes_into_a_passing_input_is_not_replayed(caplog: pytest.LogCaptureFixture) -> None:
    """The copy would be written, and the caller's tensor not."""
    caplog.set_level(logging.WARNING)
    replayed, kept = Replayed(lambda x: [x.add_(1)], "f", on_cpu), []
    for _ in range(CALLS_BEFORE + 5):
        kept.append(torch.zeros(2))
        replayed(kept[-1])
        assert kept[-1].tolist() == [1.0, 1.0]
    assert replayed.recordings == 0 and "writes into an input" in caplog.text


def replayable(function: Callable[..., Any], *devices: str, size: int = 3) -> bool:
    """Of the graph of a function on devices that need not be there."""
    with FakeTensorMode():
        tensors = [torch.empty(size, device=device) for device in devices]
        return is_replayable(make_fx(function)(*tensors), tensors)


def test_what_is_replayed() -> None:
    """All on one GPU; a number that the CPU holds or draws would be that of the recording for ever."""
    assert replayable(lambda x, y: x + y, "cuda", "cuda")
    assert replayable(lambda x: x + torch.randn_like(x), "cuda")
    assert not replayable(lambda x, y: x + y, "cpu", "cpu")
    assert not replayable(lambda x, y: x + y.sum(), "cuda", "cpu")
    assert not replayable(lambda x: x + torch.randn(()), "cuda")
    assert not replayable(lambda x: x.exp() + 1, "cuda", size=2**26)


def test_what_is_part_of_a_larger_graph_is_not_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a training step, while a graph of several of them is recorded."""
    monkeypatch.setattr("ppvae.core.replay._is_part_of_another", lambda: True)
    replayed = Replayed(lambda x: [2 * x], "f", on_cpu)
    for _ in range(CALLS_BEFORE + 5):
        assert replayed(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert replayed.recordings == replayed.calls == 0
