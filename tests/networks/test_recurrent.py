"""Recurrent trunks: equal to PyTorch's own layers, step by step; lengths; one operation of a graph; refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.core.compile import bind, capture, record, state_of
from ppvae.networks import Combiner, Recurrent
from ppvae.networks.recurrent import _recurrence

EXACT = {"rtol": 1e-12, "atol": 1e-12}
every_cell = pytest.mark.parametrize("cell", ["gru", "tanh", "relu"])
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def by_pytorch(net: Recurrent, way: str, x: Tensor) -> Tensor:
    """The layer's own forward, over one time axis after one data axis."""
    states: Tensor = net.layers[way](x.transpose(0, 1))[0]
    return states.transpose(0, 1)


@every_cell
@pytest.mark.parametrize("device", DEVICES)
def test_states_and_gradients_are_those_of_pytorchs_layers(cell: Any, device: str, float64: torch.dtype) -> None:
    net = Recurrent(4, 5, cell=cell, direction="both").to(device)
    x = torch.randn(3, 7, 4, device=device, requires_grad=True)
    backwards = by_pytorch(net, "backwards", x.flip(1)).flip(1)
    expected = torch.cat([by_pytorch(net, "forwards", x), backwards], -1)
    found, weight = net(x), torch.randn_like(expected)
    assert net.out_features == 10
    torch.testing.assert_close(found, expected, **EXACT)
    inputs = [x, *net.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


@every_cell
def test_the_operation_keeps_pytorchs_contract_of_one(cell: str, float64: torch.dtype) -> None:
    """Shapes without numbers, gradients, and that nothing is an alias of something else."""
    gates = 3 if cell == "gru" else 1
    shapes = [(2, 4, 3), (gates * 5, 3), (gates * 5, 5), (gates * 5,), (gates * 5,)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    x, *weights = inputs
    for lengths, backwards in ((None, False), (torch.tensor([1, 4]), True)):
        torch.library.opcheck(_recurrence, (x, lengths, *weights, cell, backwards))
        torch.library.opcheck(_recurrence, (x.detach(), lengths, *weights, cell, backwards))


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_padding_is_neither_read_nor_differentiated(direction: Any, float64: torch.dtype) -> None:
    """Each sequence's features are those of itself alone, whatever stands after it."""
    net, lengths = Recurrent(3, 4, direction=direction), torch.tensor([6, 1, 4])
    x = torch.randn(3, 6, 3, requires_grad=True)
    inside = torch.arange(6) < lengths[:, None]
    found = net(x.where(inside[..., None], torch.nan), lengths)
    for b, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[b, :length], net(x[b, :length]), **EXACT)
        assert not bool(found[b, length:].any())
    gradients = torch.autograd.grad(found.square().sum(), [x, *net.parameters()])
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert not bool(gradients[0][~inside].any()) and bool((gradients[0] != 0)[inside].all())
    other = net(x.where(inside[..., None], 1e3), lengths)
    assert torch.equal(found, other)


def test_directions_see_what_they_say() -> None:
    x = torch.randn(5, 2)
    changed = x.clone()
    changed[2] += 1
    for direction, moved in (("forward", [2, 3, 4]), ("backward", [0, 1, 2]), ("both", [0, 1, 2, 3, 4])):
        net = Recurrent(2, 3, direction=direction)  # type: ignore[arg-type]
        differs = (net(x) != net(changed)).any(-1)
        assert differs.nonzero().flatten().tolist() == moved


def test_leading_axes_are_folded() -> None:
    net, x = Recurrent(3, 4, direction="both"), torch.randn(2, 5, 6, 3)
    lengths = torch.randint(1, 7, (2, 5))
    found = net(x, lengths)
    for k in range(2):
        torch.testing.assert_close(found[k], net(x[k], lengths[k]))
    assert net(x[0, 0]).shape == (6, 8)


def gradients(net: Recurrent, x: Tensor, lengths: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        parameters = [parameter.requires_grad_() for parameter in net.parameters()]
        return list(torch.autograd.grad(net(x, lengths).square().sum(), parameters))


@every_cell
def test_a_recorded_gradient_has_as_many_nodes_whatever_the_number_of_steps(cell: Any) -> None:
    net, nodes = Recurrent(3, 4, cell=cell, direction="both"), []
    state = state_of(net)

    def pure(*tensors: Tensor) -> list[Tensor]:
        *parameters, x, lengths = tensors
        return bind(net, gradients)(dict(zip(state, parameters, strict=True)), x, lengths)

    for steps in (4, 40):
        inputs = [*state.values(), torch.randn(5, steps, 3), torch.randint(1, steps + 1, (5,))]
        graph = record(pure, inputs)
        nodes.append(len(graph.graph.nodes))
        for one, other in zip(graph(*inputs), pure(*inputs), strict=True):
            torch.testing.assert_close(one, other)
    assert nodes[0] == nodes[1]


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    net, x, lengths = Recurrent(3, 4, direction="both"), torch.randn(5, 6, 3), torch.randint(1, 7, (5,))
    expected = gradients(net, x, lengths)
    run = capture(bind(net, gradients), mode="compiled")
    for one, other in zip(run(state_of(net), x, lengths), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert run.fallback == ""


def test_combiner_is_the_formula() -> None:
    net = Combiner(2, 3)
    previous, features = torch.randn(4, 5, 2), torch.randn(5, 3)
    expected = (torch.tanh(previous @ net.layer.weight.T + net.layer.bias) + features) / 2
    torch.testing.assert_close(net(previous, features), expected)
    assert net.out_features == 3


def test_refusals() -> None:
    with pytest.raises(PpvaeError, match="unknown cell 'grru': did you mean 'gru'"):
        Recurrent(3, 4, cell="grru")  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match="unknown direction 'backwards': did you mean 'backward'"):
        Recurrent(3, 4, direction="backwards")  # type: ignore[arg-type]
    for sizes, name in (((0, 4), "in_features"), ((3, 0), "hidden")):
        with pytest.raises(PpvaeError, match=rf"{name}: expected at least one unit"):
            Recurrent(*sizes)
    for sizes, name in (((0, 4), "latent_dim"), ((3, 0), "features")):
        with pytest.raises(PpvaeError, match=rf"{name}: expected at least one unit"):
            Combiner(*sizes)
    net = Recurrent(3, 4)
    for x in (torch.zeros(3), torch.zeros(2, 5, 4)):
        with pytest.raises(PpvaeError, match=r"expected sequences \[\*S, T, D\] with D = 3, found(.|\n)*Try one of"):
            net(x)
    with pytest.raises(PpvaeError, match=r"expected lengths \[2\] as the leading axes of x, found \[3\]"):
        net(torch.zeros(2, 5, 3), torch.tensor([1, 2, 3]))
