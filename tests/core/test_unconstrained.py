"""Unconstrained coordinates of several latents: there and back, with the log-Jacobian, for any sample axes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, unconstrained


class TwoLatents(ModelGuidePair):
    """A positive pair of numbers and a point of a simplex of three, for every datum."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            scale = pyro.sample("scale", dist.Gamma(torch.tensor([2.0, 3.0]), 1.0).to_event(1))
            share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
            pyro.sample("x", dist.Normal(share[..., 0], scale[..., 0]), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("scale", dist.Gamma(torch.tensor([2.0, 2.0]), 1.0).to_event(1))
            pyro.sample("share", dist.Dirichlet(torch.ones(3)))


@pytest.mark.parametrize("axes", [(), (2,), (3, 2)])
def test_there_and_back(axes: tuple[int, ...], float64: torch.dtype) -> None:
    x = torch.randn(5)
    space = unconstrained(TwoLatents(), x)
    assert (space.dim, space.names) == (4, ("scale", "share"))
    u = torch.randn(*axes, 5, 4)
    latents, log_jacobian = space.constrain(u)
    assert latents["scale"].shape == (*axes, 5, 2)
    assert latents["share"].shape == (*axes, 5, 3)
    torch.testing.assert_close(space.unconstrain(latents), u)
    torch.testing.assert_close(latents["scale"], u[..., :2].exp())

    def coordinates(u: Tensor) -> Tensor:  # of one datum: the last share follows from the others
        latents, _ = space.constrain(u.expand(1, 4))
        return torch.cat((latents["scale"][0], latents["share"][0, :2]))

    by_differentiation = [torch.linalg.slogdet(torch.func.jacrev(coordinates)(one))[1] for one in u.reshape(-1, 4)]
    torch.testing.assert_close(log_jacobian.flatten(), torch.stack(by_differentiation))
