"""What a report finds of each site."""

from __future__ import annotations

import torch

from ppvae.core import structure
from ppvae.data import as_dataset
from ppvae.models import deep_exponential_family, poisson_vae
from ppvae.report import sites
from ppvae.report.sites import latent_findings


def test_no_dimension_of_positive_latents_is_called_active_or_not() -> None:
    """The variance of a mean depends on the unit of the latent, which the weights set."""
    x = torch.distributions.Poisson(2.0).sample((6, 3))
    positive, real = (
        deep_exponential_family(3, latent_dims=(2,), hidden=(3,)),
        poisson_vae(3, latent_dim=2, hidden=(3,)),
    )
    for pair, site, measured in ((positive, "z1", False), (real, "z", True)):
        options = {"seed": 0, "device": "cpu"}
        found = latent_findings(pair, as_dataset(x), None, structure(pair, x), None, [], options)[site]
        assert found.latents is not None and (found.active is not None) == measured


def test_a_long_chain_of_observed_sites_shows_its_ends() -> None:
    """Its start and its end, and a note says which; figures of all took minutes, and nobody looked through them."""
    notes: list[str] = []
    assert sites._some([f"x_{t}" for t in range(29)], notes) == ["x_0", "x_28"]
    assert notes[0].startswith("29 observed sites: figures and checks of x_0, x_28;")
    assert sites._some(["a", "b"], notes) == ["a", "b"] and len(notes) == 1
