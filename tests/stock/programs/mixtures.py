"""Mixtures and topics: Gaussian and Dirichlet process mixtures, LDA, a deep exponential family."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from stock.programs.regressions import noise
from stock.record import EXAMPLES, TUTORIALS, Case, Refusal, Stock
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.inference import elbo, evidence

# --- a Gaussian mixture ---

COMPONENTS = 2


@config_enumerate
def mixture_model(data: Tensor) -> None:
    """Global weights, scale and means; the assignments are summed out."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(COMPONENTS)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", COMPONENTS):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def numbers() -> dict[str, Tensor]:
    """Two clusters."""
    return {"data": torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])}


def mixture(auto: Any) -> Case:
    """The guide sees the global sites alone."""
    globals_ = poutine.block(mixture_model, expose=["weights", "locs", "scale"])
    return Case(mixture_model, auto(globals_), numbers(), unpack=True)


def mixture_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """The mixture's own density."""
    logs = dist.Normal(held["locs"][:, None], held["scale"]).log_prob(case.data["data"])
    return (held["weights"].log()[:, None] + logs).logsumexp(0)


def mixture_full_guide(data: Tensor) -> None:
    """The tutorial's own guide of everything: the assignments have a table of parameters."""
    weights = pyro.param("weights_q", 2.0 * torch.ones(COMPONENTS), constraint=constraints.positive)
    loc = pyro.param("locs_q", torch.tensor([0.5, 11.0]))
    table = pyro.param(
        "assignment_probs", torch.ones(len(data), COMPONENTS) / COMPONENTS, constraint=constraints.simplex
    )
    pyro.sample("weights", dist.Dirichlet(weights))
    pyro.sample("scale", dist.LogNormal(pyro.param("scale_q", torch.tensor(0.0)), 0.1))
    with pyro.plate("components", COMPONENTS):
        pyro.sample("locs", dist.Normal(loc, 0.3))
    with pyro.plate("data", len(data)):
        pyro.sample("assignment", dist.Categorical(table))


def mixture_drawn() -> Case:
    """The assignments drawn by the guide."""
    guide = config_enumerate(mixture_full_guide)
    return Case(mixture_model, guide, numbers(), unpack=True)


# --- a Dirichlet process mixture, truncated ---

STICKS = 3


def broken(beta: Tensor) -> Tensor:
    """Weights of a stick that is broken at these shares."""
    rest = (1 - beta).cumprod(-1)
    return F.pad(beta, (0, 1), value=1) * F.pad(rest, (1, 0), value=1)


def sticks_model(data: Tensor) -> None:
    """Shares, means, and an assignment of every datum."""
    with pyro.plate("beta_plate", STICKS - 1):
        beta = pyro.sample("beta", dist.Beta(1.0, 1.5))
    with pyro.plate("mu_plate", STICKS):
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2)))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(broken(beta)))
        pyro.sample("obs", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)


def sticks_guide(data: Tensor) -> None:
    """A table of assignments."""
    kappa = pyro.param("kappa", lambda: torch.ones(STICKS - 1), constraint=constraints.positive)
    tau = pyro.param("tau", lambda: 2.0 * torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]))
    phi = pyro.param("phi", lambda: torch.ones(len(data), STICKS) / STICKS, constraint=constraints.simplex)
    with pyro.plate("beta_plate", STICKS - 1):
        pyro.sample("beta", dist.Beta(torch.ones(STICKS - 1), kappa))
    with pyro.plate("mu_plate", STICKS):
        pyro.sample("mu", dist.MultivariateNormal(tau, torch.eye(2)))
    with pyro.plate("data", len(data)):
        pyro.sample("z", dist.Categorical(phi))


def sticks() -> Case:
    """Six points of two clouds."""
    cloud = torch.randn(6, 2, generator=noise(11))
    return Case(sticks_model, sticks_guide, cloud + torch.tensor([[2.0, 2.0]] * 3 + [[-2.0, -2.0]] * 3))


def sticks_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """The mixture's own density."""
    logs = dist.MultivariateNormal(held["mu"], torch.eye(2)).log_prob(case.data[:, None])
    return (broken(held["beta"]).log() + logs).logsumexp(-1)


# --- LDA ---

ARGS = SimpleNamespace(num_topics=2, num_words=4, num_docs=5, num_words_per_doc=3)


def topics_model(data: Tensor, args: Any, batch_size: int | None = None) -> None:
    """Words [word, document]: the documents are the second axis; the topic of every word is summed out."""
    with pyro.plate("topics", args.num_topics):
        weights = pyro.sample("topic_weights", dist.Gamma(1.0 / args.num_topics, 1.0))
        words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(args.num_words) / args.num_words))
    with pyro.plate("documents", args.num_docs) as ind:
        data = data[:, ind]
        shares = pyro.sample("doc_topics", dist.Dirichlet(weights))
        with pyro.plate("words", args.num_words_per_doc):
            topic = pyro.sample("word_topics", dist.Categorical(shares), infer={"enumerate": "parallel"})
            pyro.sample("doc_words", dist.Categorical(words[topic]), obs=data)


def predictor() -> nn.Module:
    """From a histogram of words to shares of topics."""
    return nn.Sequential(nn.Linear(ARGS.num_words, 5), nn.Sigmoid(), nn.Linear(5, ARGS.num_topics), nn.Softmax(dim=-1))


def topics_of_all(args: Any) -> None:
    """The guide of the global sites."""
    weights = pyro.param(
        "topic_weights_posterior", lambda: torch.ones(args.num_topics), constraint=constraints.positive
    )
    words = pyro.param(
        "topic_words_posterior",
        lambda: torch.ones(args.num_topics, args.num_words),
        constraint=constraints.greater_than(0.5),
    )
    with pyro.plate("topics", args.num_topics):
        pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
        pyro.sample("topic_words", dist.Dirichlet(words))


def histogram(data: Tensor, args: Any) -> Tensor:
    """How often each word occurs, [document, word]."""
    counts = torch.zeros(args.num_words, data.shape[1]).scatter_add(0, data, torch.ones(data.shape))
    return counts.transpose(0, 1)


def topics_guide(predictor: nn.Module, data: Tensor, args: Any, batch_size: int | None = None) -> None:
    """The shares of a document are a point, by a network."""
    topics_of_all(args)
    pyro.module("predictor", predictor)
    with pyro.plate("documents", args.num_docs, batch_size) as ind:
        pyro.sample("doc_topics", dist.Delta(predictor(histogram(data[:, ind], args)), event_dim=1))


def spread_guide(predictor: nn.Module, data: Tensor, args: Any, batch_size: int | None = None) -> None:
    """The shares of a document have a Dirichlet."""
    topics_of_all(args)
    pyro.module("predictor", predictor)
    with pyro.plate("documents", args.num_docs, batch_size) as ind:
        pyro.sample("doc_topics", dist.Dirichlet(10 * predictor(histogram(data[:, ind], args))))


def words() -> Tensor:
    """Ids of words, [word, document]."""
    return torch.randint(0, ARGS.num_words, (ARGS.num_words_per_doc, ARGS.num_docs), generator=noise(12))


def topics() -> Case:
    """As it is published."""
    return Case(
        functools.partial(topics_model, args=ARGS),
        functools.partial(topics_guide, predictor(), args=ARGS),
        words(),
    )


def topics_by_document() -> Case:
    """Documents on axis 0, a Dirichlet for a document's shares."""
    shares = predictor()

    def model(documents: Tensor) -> None:
        topics_model(documents.long().T, SimpleNamespace(**{**vars(ARGS), "num_docs": len(documents)}))

    def guide(documents: Tensor) -> None:
        args = SimpleNamespace(**{**vars(ARGS), "num_docs": len(documents)})
        spread_guide(shares, documents.long().T, args)

    return Case(model, guide, words().T.contiguous())


def topics_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """Two topics: an integral over the share of the first, by the Beta's quantiles."""
    from scipy import stats

    a, b = held["topic_weights"].double().tolist()
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    share = torch.as_tensor(stats.beta.ppf(u.numpy(), a, b))[:, None, None]
    first, second = held["topic_words"].double()[:, case.data]
    return (share * first + (1 - share) * second).prod(-1).mean(0).log()


# --- a sparse gamma deep exponential family ---


class SparseGammaDEF:
    """Three layers of gamma latents, global gamma weights, counts."""

    def __init__(self) -> None:
        self.top_width, self.mid_width, self.bottom_width, self.image_size = 3, 2, 2, 4
        self.alpha_z, self.beta_z = torch.tensor(0.5), torch.tensor(0.5)
        self.alpha_w, self.beta_w = torch.tensor(0.5), torch.tensor(0.5)
        self.softplus = nn.Softplus()

    def model(self, x: Tensor) -> None:
        """Weights outside, latents inside the plate."""
        gamma = dist.Gamma(self.alpha_w, self.beta_w)
        with pyro.plate("w_top_plate", self.top_width * self.mid_width):
            w_top = pyro.sample("w_top", gamma)
        with pyro.plate("w_mid_plate", self.mid_width * self.bottom_width):
            w_mid = pyro.sample("w_mid", gamma)
        with pyro.plate("w_bottom_plate", self.bottom_width * self.image_size):
            w_bottom = pyro.sample("w_bottom", gamma)
        with pyro.plate("data", x.size(0)):
            z = pyro.sample("z_top", dist.Gamma(self.alpha_z, self.beta_z).expand([self.top_width]).to_event(1))
            w_top = self.matrices(w_top, self.top_width, self.mid_width)
            w_mid = self.matrices(w_mid, self.mid_width, self.bottom_width)
            w_bottom = self.matrices(w_bottom, self.bottom_width, self.image_size)
            z = pyro.sample("z_mid", dist.Gamma(self.alpha_z, self.beta_z / torch.matmul(z, w_top)).to_event(1))
            z = pyro.sample("z_bottom", dist.Gamma(self.alpha_z, self.beta_z / torch.matmul(z, w_mid)).to_event(1))
            pyro.sample("obs", dist.Poisson(torch.matmul(z, w_bottom)).to_event(1), obs=x)

    def matrices(self, weights: Tensor, rows: int, columns: int) -> Tensor:
        """Weights of a plate as a matrix, or as one for every particle."""
        return weights.reshape(-1, rows, columns)

    def guide(self, x: Tensor) -> None:
        """Mean field, with parameters for every datum."""

        def gamma(name: str, shape: tuple[int, ...]) -> Any:
            alpha = pyro.param(f"alpha_q_{name}", lambda: 1.5 + 0.1 * torch.randn(shape))
            mean = pyro.param(f"mean_q_{name}", lambda: 0.5 + 0.1 * torch.randn(shape))
            alpha, mean = self.softplus(alpha), self.softplus(mean)
            return dist.Gamma(alpha, alpha / mean)

        widths = {"top": self.top_width, "mid": self.mid_width, "bottom": self.bottom_width}
        for (name, width), after in zip(
            widths.items(), [self.mid_width, self.bottom_width, self.image_size], strict=True
        ):
            with pyro.plate(f"w_{name}_plate", width * after):
                pyro.sample(f"w_{name}", gamma(f"w_{name}", (width * after,)))
        with pyro.plate("data", x.size(0)):
            for name, width in widths.items():
                pyro.sample(f"z_{name}", gamma(f"z_{name}", (x.size(0), width)).to_event(1))


def gamma_family() -> Case:
    """Five counts of four numbers."""
    family = SparseGammaDEF()
    return Case(family.model, family.guide, torch.poisson(torch.full((5, 4), 2.0), generator=noise(13)))


PROGRAMS: dict[str, Stock] = {
    "gmm": Stock(
        "Gaussian mixture, assignments enumerated, `AutoDelta`",
        TUTORIALS + "gmm.html",
        lambda: mixture(AutoDelta),
        ("fit", "evaluate_bound", "log_evidence"),
        refusal=Refusal(
            "guide site 'locs' is a point|guide site 'weights' is a point|guide site 'scale' is a point",
            "`AutoNormal` for `AutoDelta`",
            lambda: mixture(lambda model: AutoNormal(model, init_scale=0.1)),
        ),
        enumerates=True,
        exact=mixture_exact,
    ),
    "gmm-full": Stock(
        "Gaussian mixture, assignments in the guide too",
        TUTORIALS + "gmm.html",
        mixture_drawn,
        ("fit", "evaluate_bound", "log_evidence"),
        enumerates=True,
        whole=True,
        exact=mixture_exact,
        method=evidence.ImportanceSampling(400),
        importance=0,
    ),
    "dp-mixture": Stock(
        "Dirichlet process mixture, truncated, assignments drawn by the guide",
        TUTORIALS + "dirichlet_process_mixture.html",
        sticks,
        ("fit", "evaluate_bound", "log_evidence"),
        estimator=elbo.ScoreFunctionELBO,
        whole=True,
        exact=sticks_exact,
        method=evidence.ImportanceSampling(400),
        importance=0,
    ),
    "lda": Stock(
        "LDA: the topic of every word enumerated, shares amortised",
        EXAMPLES + "lda.py",
        topics,
        ("fit", "evaluate_bound", "log_evidence", "sample_posterior"),
        refusal=Refusal(
            "doc_topics.* is a point|plate 'documents': expected",
            "documents on axis 0 of the batch, and a Dirichlet for the Delta of `doc_topics`",
            topics_by_document,
            lines=2,
        ),
        enumerates=True,
        exact=topics_exact,
    ),
    "sparse-gamma": Stock(
        "sparse gamma deep exponential family",
        EXAMPLES + "sparse_gamma_def.py",
        gamma_family,
        ("fit", "evaluate_bound", "log_evidence", "sample_posterior"),
        whole=True,
        warmup=400,
    ),
}
