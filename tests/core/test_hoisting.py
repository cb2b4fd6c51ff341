"""What a seed gives in every mode: the noise is drawn in the order in which the program draws it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.core.compile import capture
from ppvae.core.hoisting import split_noise


def record(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    with torch.random.fork_rng():
        graph = make_fx(function)(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def names(module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


def reparameterised(x: Tensor) -> tuple[Tensor, Tensor]:
    late = torch.empty(40).normal_()
    unused = torch.rand(3)
    early = torch.randn_like(x) * x
    exponential = torch.empty(2).exponential_()
    return (early + exponential.sum()).tanh() @ x, late.sum() + 0 * unused.sum()


def test_both_parts_together_are_the_whole() -> None:
    x = torch.randn(5)
    graph = record(reparameterised, x)
    before = names(graph)
    noise, rest = split_noise(graph)  # type: ignore[misc]
    assert names(graph) == before
    assert not any("rand" in name or "normal" in name or "exponential" in name for name in names(rest))
    torch.manual_seed(3)
    expected = reparameterised(x)
    torch.manual_seed(3)
    found = rest(x, *noise())
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_up_to_the_first_draw_that_depends_on_data() -> None:
    def mixed(p: Tensor) -> Tensor:
        first = torch.randn(2)
        coin = torch.bernoulli(p)
        return coin + first + torch.randn(2)

    p = torch.tensor([0.2, 0.7])
    noise, rest = split_noise(record(mixed, p))  # type: ignore[misc]
    assert names(noise) == ["aten.randn.default"]
    assert names(rest)[0] == "aten.bernoulli.default" and "aten.randn.default" in names(rest)
    torch.manual_seed(1)
    expected = mixed(p)
    torch.manual_seed(1)
    assert torch.equal(rest(p, *noise()), expected)


def test_nothing_to_move() -> None:
    assert split_noise(record(lambda x: 2 * x, torch.ones(2))) is None
    assert split_noise(record(lambda p: torch.bernoulli(p), torch.full((2,), 0.5))) is None


def test_a_tensor_that_others_read_is_not_overwritten_elsewhere() -> None:
    def shared(x: Tensor) -> Tensor:
        kept = torch.zeros(3)
        before = kept + 1
        return before + kept.normal_() + x

    x = torch.ones(3)
    graph = record(shared, x)
    assert split_noise(graph) is None


def test_like_a_transposed_tensor_is_drawn_in_its_order_of_memory() -> None:
    x = torch.randn(3, 2).T

    def like(x: Tensor) -> Tensor:
        return torch.randn_like(x) + x

    assert split_noise(record(like, x)) is None
    torch.manual_seed(2)
    expected = like(x)
    torch.manual_seed(2)
    assert torch.equal(capture(like, mode="graph")(x), expected)


@pytest.mark.slow
def test_draws_that_are_not_used_are_not_moved_among_those_that_are() -> None:
    """Of scale, weight, noise in turn the scales are not used: left to itself, Inductor draws the others first."""

    def function(x: Tensor) -> Tensor:
        total = x
        for width in (4, 4, 6, 6):
            scale, weight, noise = (torch.empty(2, 1, width, k).normal_() for k in (1, 2, 3))
            total = (total + (weight * x.exp()).sum() + (scale + noise).shape[0]).tanh() * weight.mean()
        return total + torch.empty(2, 6, 2).normal_().sum()

    x = torch.randn(2, dtype=torch.float64).float()
    found = []
    for mode in ("eager", "graph", "compiled"):
        captured = capture(function, mode=mode)  # type: ignore[arg-type]
        captured(x)
        assert captured.fallback == ""
        torch.manual_seed(4)
        found.append((captured(x), torch.get_rng_state()))
    for value, state in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-4, atol=1e-5)
        assert torch.equal(state, found[0][1])
