"""Trunks: shapes, equality with the layers written out, initialisation, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ppvae.core import PpvaeError
from ppvae.networks import MLP, Branches, ConvDecoder, ConvEncoder, JoinedMLP, LogCounts, glorot, he, paper


def test_mlp_is_the_formula() -> None:
    net = MLP((2, 3), [4, 5], activation="softplus")
    x = torch.randn(7, 2, 3)
    hidden = x.reshape(7, 6)
    for layer in (net.layers[0], net.layers[2]):
        hidden = torch.log1p(torch.exp(hidden @ layer.weight.T + layer.bias))
    torch.testing.assert_close(net(x), hidden)
    assert net.out_features == 5 and net(torch.randn(2, 7, 2, 3)).shape == (2, 7, 5)
    assert MLP(3, []).out_features == 3


def test_papers_initialisation() -> None:
    net = MLP(300, [200], init=paper())
    values = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert abs(values.std().item() - 0.1) < 4 * 0.1 / math.sqrt(2 * len(values))
    assert abs(values.mean().item()) < 4 * 0.1 / math.sqrt(len(values))


def test_hes_initialisation() -> None:
    layer = MLP(50, [400], init=he()).layers[0]
    assert abs(layer.weight.std().item() - 0.2) < 4 * 0.2 / math.sqrt(2 * 20_000) and bool((layer.bias == 0).all())


def test_a_gated_layer_is_the_formula() -> None:
    net, x = MLP(3, [4, 2], activation="gated"), torch.randn(5, 3)
    hidden = x
    for layer in (net.layers[0], net.layers[2]):
        value, gate = (hidden @ layer.weight.T + layer.bias).chunk(2, -1)
        hidden = value / (1 + torch.exp(-gate))
    torch.testing.assert_close(net(x), hidden)
    joined = JoinedMLP([1, 2], [4, 2], activation="gated")
    joined.mlp.load_state_dict(net.state_dict())
    torch.testing.assert_close(joined(x[:, :1], x[:, 1:]), hidden)
    images, decoder = ConvEncoder((8, 8), (3, 4), 5, activation="gated"), ConvDecoder(2, (8, 8), activation="gated")
    assert images(torch.randn(6, 64)).shape == (6, 5) and decoder(torch.randn(6, 2)).shape == (6, 64, 1)
    value, gate = images.convolutions[0](torch.ones(1, 1, 8, 8)).chunk(2, 1)
    torch.testing.assert_close(images.convolutions[:2](torch.ones(1, 1, 8, 8)), value * gate.sigmoid())


def test_branches_are_the_formula_and_broadcast() -> None:
    net, x, z = Branches([(2, 3), 2], [4, 5]), torch.randn(7, 2, 3), torch.randn(3, 7, 2)
    first = [torch.tanh(b.layers[0](v)) for b, v in zip(net.branches, (x.flatten(1).expand(3, 7, 6), z), strict=True)]
    torch.testing.assert_close(net(x, z), torch.tanh(net.joined.mlp.layers[0](torch.cat(first, -1))))
    torch.testing.assert_close(Branches([(2, 3), 2], [])(x, z[0]), torch.cat([x.flatten(1), z[0]], -1))
    with pytest.raises(PpvaeError, match="expected 2 inputs, found 1"):
        net(x)


def test_glorots_initialisation() -> None:
    layer = MLP(30, [20], init=glorot()).layers[0]
    limit = math.sqrt(6 / 50)
    assert 0.9 * limit < layer.weight.abs().max() <= limit and bool((layer.bias == 0).all())


@pytest.mark.parametrize("event", [(64,), (8, 8), (1, 8, 8)])
def test_convolutional_encoder_takes_every_layout_and_leading_axes(event: tuple[int, ...]) -> None:
    net = ConvEncoder((8, 8), (3, 4), 5)
    flat = torch.randn(6, 64)
    expected = net(flat)
    torch.testing.assert_close(net(flat.reshape(6, *event)), expected)
    torch.testing.assert_close(net(flat.reshape(2, 3, *event)), expected.reshape(2, 3, 5))


def test_a_batch_of_one_is_no_channel() -> None:
    net, x = ConvEncoder((8, 8), (3, 4), 5, in_shape=(8, 8)), torch.randn(6, 1, 8, 8)
    assert net(x).shape == (6, 1, 5)
    with pytest.raises(PpvaeError, match=r"image_shape \(1, 8, 8\) does not hold data of shape \(63,\)"):
        ConvEncoder((8, 8), in_shape=63)


def test_convolutional_decoder_folds_leading_axes() -> None:
    net = ConvDecoder(2, (3, 8, 8), (4, 5), outputs_per_pixel=2)
    z = torch.randn(6, 2)
    assert net(z).shape == (6, 192, 2)
    torch.testing.assert_close(net(z.reshape(2, 3, 2)), net(z).reshape(2, 3, 192, 2))


def test_convolutional_decoder_cuts_off_what_is_beyond_the_image() -> None:
    """Both sides of 5 x 7 are as if the image were 8 x 8."""
    small, whole = ConvDecoder(2, (5, 7), (4, 3)), ConvDecoder(2, (8, 8), (4, 3))
    whole.load_state_dict(small.state_dict())
    z = torch.randn(6, 2)
    torch.testing.assert_close(small(z).reshape(6, 5, 7), whole(z).reshape(6, 8, 8)[:, :5, :7])


def test_refusals() -> None:
    with pytest.raises(PpvaeError, match=r"channels: expected at least one unit in every layer, found \[0\]"):
        ConvDecoder(2, (6, 6), ())
    with pytest.raises(PpvaeError, match=r"expected images of shape \(1, 8, 8\) \(64 values\), found data \(2, 60\)"):
        ConvEncoder((8, 8))(torch.zeros(2, 60))
    with pytest.raises(PpvaeError, match="did you mean 'tanh'"):
        MLP(3, [2], activation="tahn")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda size: MLP(3, [4, size]), "hidden"),
        (lambda size: ConvEncoder((8, 8), channels=(size, 4)), "channels"),
        (lambda size: ConvEncoder((8, 8), channels=(4,), hidden=size), "hidden"),
        (lambda size: ConvDecoder(2, (8, 8), channels=(4, size)), "channels"),
    ],
)
def test_every_layer_has_units(make: Callable[[int], object], name: str) -> None:
    make(1)
    for size in (0, -3):
        with pytest.raises(PpvaeError, match=rf"{name}: expected at least one unit in every layer, found \[.*{size}"):
            make(size)


def test_counts_reach_a_trunk_by_their_logarithm() -> None:
    counts, covariate = torch.tensor([[0.0, 3.0, 1e6]]), torch.randn(1, 2)
    plain, joined = MLP(3, [4], init=paper()), JoinedMLP([3, 2], [5])
    torch.testing.assert_close(LogCounts(plain)(counts), plain(torch.log(1 + counts)))
    torch.testing.assert_close(LogCounts(joined)(counts, covariate), joined(torch.log(1 + counts), covariate))
    assert (LogCounts(plain).out_features, LogCounts(joined).out_features) == (4, 5)
    assert LogCounts(plain).init is plain.init and LogCounts(joined).init is None
