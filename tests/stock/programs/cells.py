"""Cells with and without labels: scANVI."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import config_enumerate
from stock.programs.autoencoders import joined, one_hot
from stock.programs.regressions import average, noise
from stock.record import ALL, EXAMPLES, Case, Refusal, Stock
from torch import Tensor, nn
from torch.distributions import constraints


class SCANVI(nn.Module):
    """Cells with and without labels; everything is scaled, and a labelled cell has a factor in the guide."""

    def __init__(self, genes: int = 3, labels: int = 2, alpha: float = 0.1, scale_factor: float = 0.1) -> None:
        super().__init__()
        self.genes, self.labels, self.alpha, self.scale_factor = genes, labels, alpha, scale_factor
        self.z2_decoder, self.x_decoder = norm_net(1 + labels, 4, 2), norm_net(1, 4, 2 * genes)
        self.z2l_encoder, self.classifier = norm_net(genes, 4, 4), norm_net(1, 4, labels)
        self.z1_encoder = norm_net(1 + labels, 4, 2)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """A zero-inflated negative binomial of every gene."""
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", x.new_ones(self.genes), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(1)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.labels)), obs=y)
            z2 = pyro.sample("z2", spread(self.z2_decoder, joined(z1, y)))
            size = pyro.sample("l", dist.LogNormal(2.0, 0.5 * x.new_ones(1)).to_event(1))
            gate, mu = flat(self.x_decoder, z2).chunk(2, -1)
            logits = (theta + 1e-6).log() - (size * mu.softmax(-1) + 1e-6).log()
            gate = 1e-6 + (1 - 2e-6) * gate.sigmoid()
            counts = dist.ZeroInflatedNegativeBinomial(gate=gate, total_count=theta, logits=logits)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """The label of a labelled cell trains the classifier by a factor."""
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            loc, scale = flat(self.z2l_encoder, x).chunk(2, -1)
            pyro.sample("l", dist.LogNormal(loc[..., 1:], F.softplus(scale[..., 1:])).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc[..., :1], F.softplus(scale[..., :1])).to_event(1))
            labels = dist.OneHotCategorical(logits=flat(self.classifier, z2))
            if y is None:
                y = pyro.sample("y", labels)
            elif self.alpha:
                pyro.factor("classification_loss", -self.alpha * labels.log_prob(y), has_rsample=False)
            pyro.sample("z1", spread(self.z1_encoder, joined(z2, y)))


def norm_net(*sizes: int) -> nn.Sequential:
    """Linear layers with batch normalisation."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flat(network: nn.Module, value: Tensor) -> Tensor:
    """Batch normalisation wants two axes."""
    out: Tensor = network(value.reshape(-1, value.shape[-1]))
    return out.reshape(*value.shape[:-1], -1)


def spread(network: nn.Module, value: Tensor) -> Any:
    """A normal by a network."""
    loc, scale = flat(network, value).chunk(2, -1)
    return dist.Normal(loc, F.softplus(scale)).to_event(1)


def scanvi(labelled: bool, alpha: float = 0.1) -> Case:
    """Six cells; `config_enumerate` of the guide."""
    program = SCANVI(alpha=alpha)
    guide = config_enumerate(program.guide, "parallel", expand=True)
    counts = torch.poisson(torch.full((6, 3), 2.0), generator=noise(35))
    data: Any = {"x": counts, "y": one_hot([0, 1, 1, 0, 1, 0], 2)} if labelled else counts
    return Case(program.model, guide, data, unpack=labelled, about=program)


def scanvi_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """By half a million draws of the prior."""
    program, many = case.about.eval(), 500_000
    given = isinstance(case.data, dict)
    x, theta = case.data["x"] if given else case.data, held["inverse_dispersion"]
    z1, eps = torch.randn(many, 1, generator=noise(36)), torch.randn(many, 1, generator=noise(37))
    size = (2.0 + 0.5 * torch.randn(many, 1, generator=noise(38))).exp()
    of_label = []
    for label in torch.eye(program.labels):
        normal = spread(program.z2_decoder, joined(z1, label)).base_dist
        gate, mu = program.x_decoder(normal.loc + normal.scale * eps).chunk(2, -1)
        logits = (theta + 1e-6).log() - (size * mu.softmax(-1) + 1e-6).log()
        gate = 1e-6 + (1 - 2e-6) * gate.sigmoid()
        counts = dist.ZeroInflatedNegativeBinomial(gate=gate, total_count=theta, logits=logits)
        logs = torch.stack([average(counts.log_prob(row).sum(-1), 1) for row in x])
        of_label.append(logs - torch.tensor(float(program.labels)).log())
    found = torch.stack(of_label, -1)
    return (found * case.data["y"]).sum(-1) if given else found.logsumexp(-1)


PROGRAMS: dict[str, Stock] = {
    "scanvi-labelled": Stock(
        "scANVI, labelled cells: a factor in the guide trains the classifier",
        EXAMPLES + "scanvi/scanvi.py",
        lambda: scanvi(labelled=True),
        ALL,
        refusal=Refusal(
            "guide site 'classification_loss' is a factor",
            "without the factor: alpha = 0",
            lambda: scanvi(labelled=True, alpha=0.0),
        ),
        exact=scanvi_exact,
    ),
    "scanvi-unlabelled": Stock(
        "scANVI, unlabelled cells: the guide's label enumerated",
        EXAMPLES + "scanvi/scanvi.py",
        lambda: scanvi(labelled=False),
        ALL[:3],
        enumerates=True,
        exact=scanvi_exact,
    ),
}
