"""Capture: the same numbers, the same noise, recorded once, and a fall that is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppvae.core import PairError, PpvaeError
from ppvae.core.compile import MODES, Mode, bind, capture, state_of

MODE = pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("compiled", marks=pytest.mark.slow)])


def gradient_of_cube(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = (leaf**3).sum()
        (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), {"slope": slope}


class Doubled(torch.autograd.Function):
    """Twice its argument, by NumPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.numpy())


@MODE
def test_gradients_inside_are_captured(mode: str) -> None:
    captured = capture(gradient_of_cube, mode=mode)  # type: ignore[arg-type]
    for x in (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])):
        value, found = captured(x)
        torch.testing.assert_close(value, (x**3).sum())
        torch.testing.assert_close(found["slope"], 3 * x**2)
    assert captured.fallback == "" and captured.graphs == (0 if mode == "eager" else 1)


@MODE
def test_noise_is_that_of_the_seed(mode: str) -> None:
    captured = capture(lambda x: x + torch.randn_like(x) * torch.rand(3), mode=mode)  # type: ignore[arg-type]
    x = torch.zeros(3)
    torch.manual_seed(5)
    expected = torch.randn(3) * torch.rand(3)
    torch.manual_seed(5)
    first = captured(x)  # recording must use up no random numbers
    torch.testing.assert_close(first, expected)
    assert not torch.equal(captured(x), first)


def test_one_graph_for_each_shape_and_static_value() -> None:
    captured = capture(lambda x, n, extra: {"y": n * x["a"] + extra}, mode="graph")
    assert captured({"a": torch.ones(2)}, 3, 1)["y"].tolist() == [4.0, 4.0]
    captured({"a": torch.zeros(2)}, 3, 1)
    assert captured.graphs == 1
    captured({"a": torch.ones(4)}, 3, 1)
    captured({"a": torch.ones(2, dtype=torch.float64)}, 3, 1)
    assert captured({"a": torch.ones(2)}, 5, 1)["y"].tolist() == [6.0, 6.0]
    assert captured.graphs == 4


def test_what_cannot_be_captured_runs_eagerly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def branching(x: Tensor) -> Tensor:
        return x + 1 if float(x.sum()) > 0 else x - 1

    captured = capture(branching, mode="graph", name="the branching one")
    with caplog.at_level(logging.WARNING, logger="ppvae.compile"):
        assert captured(torch.ones(2)).tolist() == [2.0, 2.0]
        assert captured(-torch.ones(2)).tolist() == [-2.0, -2.0]
        capture(branching, mode="graph", name="the branching one")(torch.ones(3))  # once for a name, not for a shape
    assert "the branching one runs in mode 'eager' instead of 'graph'" in caplog.text
    assert len(caplog.records) == 1 and captured.fallback.startswith("eager: the program branches on the value")
    assert "tracing_mode" not in caplog.text


@pytest.mark.parametrize(
    "leave",
    [
        lambda x: torch.as_tensor(2 * x.numpy()),
        lambda x: torch.from_numpy(2 * np.asarray(x)),
        lambda x: torch.as_tensor(2 * np.from_dlpack(x)),
        lambda x: torch.tensor([2 * value for value in x.tolist()]),
        lambda x: 2 * torch.tensor([[value] for value in x]).squeeze(-1),
        lambda x: 2 * torch.as_tensor(data=list(x)),
        lambda x: x.clone().apply_(lambda value: 2 * value),
        lambda x: torch.tensor([2 * float(f"{value:.4f}") for value in x]),
        Doubled.apply,
    ],
)
def test_a_value_that_leaves_pytorch_is_no_constant_of_a_graph(leave: Callable[[Tensor], Tensor]) -> None:
    """The graph held the first call's result, and gave it for any input."""
    captured = capture(leave, mode="graph")
    for x in (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])):
        assert torch.equal(captured(x), 2 * x)
    assert captured.fallback.startswith("eager: the program branches on the value of a tensor, or takes one out")


def test_numbers_and_tensors_of_the_programs_own_are_recorded() -> None:
    captured = capture(lambda x: x * torch.tensor([1.0, 2.0]) + torch.as_tensor(x) + x.new_tensor(3.0), mode="graph")
    for x in (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])):
        assert torch.equal(captured(x), x * torch.tensor([1.0, 2.0]) + x + 3.0)
    assert captured.fallback == "" and captured.graphs == 1


def test_no_compiler_falls_back_to_the_graph(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile", no_compiler)
    captured = capture(lambda x: 2 * x, mode="compiled")
    with caplog.at_level(logging.WARNING, logger="ppvae.compile"):
        assert captured(torch.ones(2)).tolist() == [2.0, 2.0]
    assert captured.fallback == "graph: no C++ compiler" and captured.graphs == 1


def test_errors_of_our_own_are_not_swallowed() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise PairError("no")

    with pytest.raises(PairError, match="no"):
        capture(refuse, mode="graph")(torch.ones(2))
    with pytest.raises(PpvaeError, match="unknown mode 'fast'"):
        capture(refuse, mode="fast")  # type: ignore[arg-type]


@MODE
def test_a_bound_function_follows_the_state_it_is_given(mode: str) -> None:
    layer = nn.Linear(2, 1)
    layer.register_buffer("offset", torch.tensor(3.0))
    run = capture(bind(layer, lambda module, x: module(x) + module.offset), mode=mode)  # type: ignore[arg-type]
    x = torch.randn(4, 2)
    torch.testing.assert_close(run(state_of(layer), x), layer(x).detach() + 3)
    with torch.no_grad():
        layer.weight += 1
        layer.offset += 2
    torch.testing.assert_close(run(state_of(layer), x), layer(x).detach() + 5)
    assert set(state_of(layer)) == {"weight", "bias", "offset"}
    assert MODES == ("eager", "graph", "compiled")


@MODE
def test_noise_that_nobody_uses_still_moves_the_seed(mode: str) -> None:
    """What is not asked for is not computed, but random numbers are drawn all the same."""

    def wasteful(x: Tensor) -> Tensor:
        torch.randn(5)
        (x @ x).exp()
        return x + torch.randn(3)

    torch.manual_seed(5)
    torch.randn(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    found = capture(lambda x: wasteful(x[0]), mode=mode)(torch.zeros(1, 3))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_recording_leaves_running_statistics_as_they_were(mode: Mode) -> None:
    net = torch.nn.BatchNorm1d(2)
    step = capture(bind(net, lambda net, x: net(x)), mode=mode)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    for _ in range(2):
        step(state_of(net), x)
    assert net.num_batches_tracked is not None
    assert net.running_mean is not None
    assert int(net.num_batches_tracked) == 2
    assert torch.allclose(net.running_mean, 0.19 * torch.tensor([2.0, 4.0]))  # 1 - 0.9^2 of the mean


class Tied(nn.Module):
    """One trunk registered twice, and one parameter and one buffer in two different modules."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(2, 2)
        self.again = self.trunk
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.first.register_buffer("offset", torch.tensor(1.0))
        self.second.register_buffer("offset", self.first.offset)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.trunk(x))
        return self.second(self.first(x) + self.first.offset) + self.second.offset  # type: ignore[no-any-return]


def test_what_is_shared_follows_the_state_and_has_its_own_tensors_back() -> None:
    net = Tied()
    before = dict(net.named_parameters(remove_duplicate=False))
    buffers = dict(net.named_buffers(remove_duplicate=False))
    assert before["again.weight"] is before["trunk.weight"]
    pure, x = bind(net, lambda net, x: net(x)), torch.randn(3, 2)
    state = {name: torch.randn_like(value) for name, value in state_of(net).items()}
    assert {"again.weight", "second.weight", "second.offset"} & set(state) == set()
    affine = nn.functional.linear
    inner = affine(x, state["trunk.weight"], state["trunk.bias"])
    inner = affine(inner, state["trunk.weight"], state["trunk.bias"])
    inner = affine(inner, state["first.weight"], state["first.bias"]) + state["first.offset"]
    expected = affine(inner, state["first.weight"], state["second.bias"]) + state["first.offset"]
    torch.testing.assert_close(pure(state, x), expected)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            bind(net, lambda net: 1 / 0)(state)
        after = dict(net.named_parameters(remove_duplicate=False))
        assert after.keys() == before.keys()
        assert all(after[name] is value for name, value in before.items())
        assert all(dict(net.named_buffers(remove_duplicate=False))[name] is value for name, value in buffers.items())
    with pytest.raises(PpvaeError, match="no parameter or buffer 'nobody'"):
        pure({"nobody": x}, x)
