"""Auto-encoders: plain, semi-supervised, conditional, of topics."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import config_enumerate
from stock.programs.regressions import average, midpoints, noise
from stock.record import ALL, EXAMPLES, TUTORIALS, Case, Stock
from torch import Tensor, nn

from ppvae.inference import evidence


def quantiles(dims: int, count: int) -> Tensor:
    """Places of equal prior mass under a standard normal, [count^dims, dims]."""
    one = dist.Normal(0.0, 1.0).icdf(midpoints(count).float())
    return torch.cartesian_prod(*[one] * dims).reshape(-1, dims)


def net(*sizes: int) -> nn.Sequential:
    """Linear layers with softplus between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Softplus()]
    return nn.Sequential(*layers[:-1])


def images(seed: int, pixels: int = 4) -> Tensor:
    """Six black and white images."""
    return torch.bernoulli(torch.full((6, pixels), 0.4), generator=noise(seed))


# --- the VAE ---


class VAE(nn.Module):
    """An encoder and a decoder, registered by pyro.module."""

    def __init__(self, z_dim: int = 2) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder, self.decoder = net(4, 5, 2 * z_dim), net(z_dim, 5, 4)

    def model(self, x: Tensor) -> Tensor:
        """A standard normal prior, Bernoulli pixels."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype)
            z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            image: Tensor = self.decoder(z).sigmoid()
            pyro.sample("obs", dist.Bernoulli(image, validate_args=False).to_event(1), obs=x)
            return image

    def guide(self, x: Tensor) -> None:
        """A diagonal normal."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def vae() -> Case:
    """Methods of one module."""
    program = VAE()
    return Case(program.model, program.guide, images(31), about=program)


def vae_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule in the prior's quantiles."""
    logits = case.about.decoder(quantiles(2, 150))
    return average(dist.Bernoulli(logits=logits[:, None]).log_prob(case.data).sum(-1), 1)


# --- the semi-supervised VAE, model M2 ---


class SSVAE(nn.Module):
    """Labels that are given, or drawn by the guide and enumerated."""

    def __init__(self, labels: int = 3, z_dim: int = 1) -> None:
        super().__init__()
        self.labels, self.z_dim = labels, z_dim
        self.encoder_y, self.encoder_z = net(4, 5, labels), net(4 + labels, 5, 2 * z_dim)
        self.decoder = net(z_dim + labels, 5, 4)

    def model(self, xs: Tensor, ys: Tensor | None = None) -> None:
        """The plate has no size."""
        pyro.module("ss_vae", self)
        size = xs.size(0)
        with pyro.plate("data"):
            loc = xs.new_zeros([size, self.z_dim])
            zs = pyro.sample("z", dist.Normal(loc, xs.new_ones([size, self.z_dim])).to_event(1))
            alpha = xs.new_ones([size, self.labels]) / self.labels
            ys = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys)
            logits = self.decoder(joined(zs, ys))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        """A label is drawn where none is given."""
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs).softmax(-1)))
            loc, log_scale = self.encoder_z(joined(xs, ys)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def joined(first: Tensor, second: Any) -> Tensor:
    """Side by side, broadcast over what is enumerated."""
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*shape, first.shape[-1]), second.expand(*shape, second.shape[-1])], -1)


def one_hot(labels: list[int], classes: int = 3) -> Tensor:
    """Labels as vectors."""
    return F.one_hot(torch.tensor(labels), classes).float()


def ss_vae(labelled: bool) -> Case:
    """As `svi.step(xs, ys)`, or `svi.step(xs)` with the guide's label enumerated."""
    program = SSVAE()
    guide = config_enumerate(program.guide, "parallel", expand=True)
    data: Any = {"xs": images(32), "ys": one_hot([0, 1, 2, 2, 1, 0])} if labelled else images(32)
    return Case(program.model, guide, data, unpack=labelled, about=program)


def ss_vae_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule over z, and the sum over labels where they are not given."""
    z, labels = quantiles(1, 2000), torch.eye(3)
    xs = case.data["xs"] if isinstance(case.data, dict) else case.data
    logits = case.about.decoder(joined(z[:, None], labels))[:, :, None]
    of_label = average(dist.Bernoulli(logits=logits).log_prob(xs).sum(-1), 1) - torch.tensor(3.0).log()
    if not isinstance(case.data, dict):
        return of_label.logsumexp(0)
    return (of_label.T * case.data["ys"]).sum(-1)


# --- the conditional VAE ---


class CVAE(nn.Module):
    """Fills in pixels that are missing, which are -1 in the input; a baseline network guesses first."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline_net = net(4, 4)
        self.prior_net, self.recognition_net = net(4, 5, 4), net(4, 5, 4)
        self.generation_net = net(2, 5, 4)

    def encode(self, network: nn.Module, x: Tensor, y: Tensor) -> Any:
        """From input and output in one image."""
        both = x.clone()
        both[x == -1] = y[x == -1]
        loc, log_scale = network(both.view(-1, 4)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(self, xs: Tensor, ys: Tensor | None = None) -> Tensor:
        """The plate has no size; the pixels that are missing are picked by a mask."""
        pyro.module("generation_net", self)
        size = xs.shape[0]
        with pyro.plate("data"):
            with torch.no_grad():
                guess = self.baseline_net(xs).sigmoid().view(xs.shape)
            zs = pyro.sample("z", self.encode(self.prior_net, xs, guess))
            loc: Tensor = self.generation_net(zs).sigmoid()
            if ys is not None:
                mask_loc = loc[(xs == -1).view(-1, 4)].view(size, -1)
                mask_ys = ys[xs == -1].view(size, -1)
                pyro.sample("y", dist.Bernoulli(mask_loc).to_event(1), obs=mask_ys)
            else:
                pyro.deterministic("y", loc.detach())
            return loc

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        """From input and output."""
        with pyro.plate("data"):
            if ys is None:
                guess = self.baseline_net(xs).sigmoid().view(xs.shape)
                pyro.sample("z", self.encode(self.prior_net, xs, guess))
            else:
                pyro.sample("z", self.encode(self.recognition_net, xs, ys))


def cvae() -> Case:
    """Two pixels of four are missing in every image."""
    program, ys = CVAE(), images(33)
    xs = ys.clone()
    xs[:, 1:3] = -1
    return Case(program.model, program.guide, {"xs": xs, "ys": ys}, unpack=True, about=program)


def cvae_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule in the quantiles of the network's prior."""
    program, xs, ys = case.about, case.data["xs"], case.data["ys"]
    guess = program.baseline_net(xs).sigmoid()
    prior = program.encode(program.prior_net, xs, guess).base_dist
    z = prior.loc + prior.scale * quantiles(2, 150)[:, None]
    probs = program.generation_net(z).sigmoid()[..., 1:3]
    return average(dist.Bernoulli(probs).log_prob(ys[:, 1:3]).sum(-1), 1)


# --- ProdLDA ---


class ProdLDA(nn.Module):
    """Topics of documents as a product of experts, with batch normalisation and dropout."""

    def __init__(self, words: int = 5, topics: int = 2) -> None:
        super().__init__()
        self.topics = topics
        self.fc = nn.Sequential(nn.Linear(words, 4), nn.Softplus(), nn.Dropout(0.2))
        self.loc, self.log_scale = nn.Linear(4, topics), nn.Linear(4, topics)
        self.loc_norm = nn.BatchNorm1d(topics, affine=False)
        self.beta = nn.Linear(topics, words, bias=False)
        self.beta_norm = nn.BatchNorm1d(words, affine=False)
        self.drop = nn.Dropout(0.2)

    def decode(self, theta: Tensor) -> Tensor:
        """Probabilities of words."""
        return self.beta_norm(self.beta(self.drop(theta))).softmax(-1)

    def model(self, docs: Tensor) -> None:
        """The number of trials is that of the longest document of the batch."""
        pyro.module("decoder", self)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros((docs.shape[0], self.topics))
            logtheta = pyro.sample("logtheta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, self.decode(logtheta.softmax(-1))), obs=docs)

    def guide(self, docs: Tensor) -> None:
        """A log-normal of the topics' shares."""
        pyro.module("encoder", self)
        with pyro.plate("documents", docs.shape[0]):
            h = self.fc(docs)
            loc, scale = self.loc_norm(self.loc(h)), (0.5 * self.log_scale(h)).exp()
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))


def prod_lda() -> Case:
    """Six bags of words, of different lengths."""
    program = ProdLDA()
    return Case(
        program.model, program.guide, torch.poisson(torch.full((6, 5), 1.5), generator=noise(34)), about=program
    )


def prod_lda_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule in the prior's quantiles."""
    words = case.about.eval().decode(quantiles(2, 150).softmax(-1))
    size = case.data.sum(-1)
    orders = (size + 1).lgamma() - (case.data + 1).lgamma().sum(-1)
    return average((words.log() @ case.data.T), 1) + orders


PROGRAMS: dict[str, Stock] = {
    "vae": Stock("variational auto-encoder", TUTORIALS + "vae.html", vae, ALL, exact=vae_exact),
    "ss-vae-labelled": Stock(
        "semi-supervised VAE (M2), a labelled batch",
        EXAMPLES + "vae/ss_vae_M2.py",
        lambda: ss_vae(labelled=True),
        ALL,
        exact=ss_vae_exact,
    ),
    "ss-vae-unlabelled": Stock(
        "semi-supervised VAE (M2), an unlabelled batch: the guide's label enumerated",
        EXAMPLES + "vae/ss_vae_M2.py",
        lambda: ss_vae(labelled=False),
        ALL[:3],
        enumerates=True,
        exact=ss_vae_exact,
    ),
    "cvae": Stock(
        "conditional VAE: missing pixels picked by a mask",
        EXAMPLES + "cvae/cvae.py",
        cvae,
        ALL,
        exact=cvae_exact,
        method=evidence.PriorSampling(1000),
        importance=0,
    ),
    "prodlda": Stock(
        "ProdLDA: batch normalisation, dropout, documents of different lengths",
        TUTORIALS + "prodlda.html",
        prod_lda,
        ALL,
        exact=prod_lda_exact,
        method=evidence.PriorSampling(1000),
        importance=0,
    ),
}
