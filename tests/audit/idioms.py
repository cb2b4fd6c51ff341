"""Ordinary Pyro idioms as small programs, each with the exact answer beside it, and what every verb makes of it.

Two latents, three numbers a datum: z ~ N(0, I), x ~ N(W z, 0.7 I), whose evidence and posterior are known; or one
latent and its integral. An idiom is *served* by a verb if the verb's number is the truth, or *refused* by name before
work begins. There is no third outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor

from ppvae.core import ModelGuidePair

LOADING = torch.tensor([[1.0, 0.5], [0.3, -1.0], [0.2, 0.8]])
SCALE = 0.7
PRECISION = torch.eye(2) + LOADING.T @ LOADING / SCALE**2
COVARIANCE = PRECISION.inverse()
ROOT = torch.linalg.cholesky(COVARIANCE)


def data() -> Tensor:
    """Four data of the model."""
    noise = torch.Generator().manual_seed(3)
    z = torch.randn(4, 2, generator=noise)
    return z @ LOADING.T + SCALE * torch.randn(4, 3, generator=noise)


def evidence_of(x: Tensor) -> Tensor:
    """log p(x), [B]."""
    covariance = LOADING @ LOADING.T + SCALE**2 * torch.eye(3)
    exact: Tensor = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    return exact


def posterior_mean(x: Tensor) -> Tensor:
    """E[z | x], [B, 2]."""
    return x @ LOADING @ COVARIANCE / SCALE**2


def shift() -> Tensor:
    """Something to train: zero."""
    value: Tensor = pyro.param("shift", torch.zeros(()))
    return value


def posterior(x: Tensor) -> Any:
    """p(z | x)."""
    return dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=ROOT)


def latent() -> Tensor:
    """z from its prior."""
    z: Tensor = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return z


def observe(z: Tensor, x: Tensor) -> None:
    """x given z."""
    pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x)


def model(x: Tensor) -> None:
    """The model as it should be."""
    with pyro.plate("data", len(x)):
        observe(latent(), x)


def guide(x: Tensor) -> None:
    """The exact posterior."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))


VERBS = ("fit", "bound", "importance", "ais", "bridge", "sample")
Verdict = str  # "served", or a pattern of the refusal


@dataclass(frozen=True)
class Idiom:
    """A pair of programs in an idiom.

    Attributes:
        title: what the table calls it.
        programs: model and guide, made anew.
        verdicts: verb to a pattern of its refusal; a verb that is not named serves.
        evidence: the exact log p(x), [B], at the data.
        mean: E[z | x], [B, 2], where the posterior is asked for; None where there is no such number.
        whole: the guide has parameters for every datum, so that `fit` is given all data at every step.
        options: of every verb, such as global_sites.
        note: what the table says beside it.
    """

    title: str
    programs: Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    evidence: Callable[[Tensor], Tensor] = evidence_of
    mean: Callable[[Tensor], Tensor] | None = posterior_mean
    whole: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def pair(self) -> ModelGuidePair:
        """The pair."""
        return ModelGuidePair.from_callables(*self.programs())


def everywhere(pattern: str) -> dict[str, Verdict]:
    """Refused by all verbs."""
    return dict.fromkeys(VERBS, pattern)


def without_gradient(pattern: str) -> dict[str, Verdict]:
    """Refused by the verbs that follow a gradient in z."""
    return dict.fromkeys(("ais", "bridge", "sample"), pattern)


def _scaled(where: str, scale: Any = 0.1) -> Any:
    def scaled_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=scale if where in ("both", "model") else 1.0):
                z = latent()
            with poutine.scale(scale=scale if where == "likelihood" else 1.0):
                observe(z, x)

    def scaled_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=scale if where in ("both", "guide") else 1.0):
            pyro.sample("z", posterior(x))

    return scaled_model, scaled_guide


def _delta() -> Any:
    def point(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(posterior_mean(x), event_dim=1))

    return model, point


def _factor_in_guide() -> Any:
    def weighted(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", posterior(x))
            pyro.factor("push", -z.square().sum(-1), has_rsample=True)

    return model, weighted


def _factor_in_model() -> Any:
    def by_factor(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
            pyro.factor("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1).log_prob(x))

    return by_factor, guide


def _auto(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        pyro.set_rng_seed(0)
        return model, getattr(autoguide, name)(model, **options)

    return make


def _guide_list() -> Any:
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoNormal(model, init_scale=0.6))
    return model, guides


def _inner_subsample() -> Any:
    def some_columns(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = latent()
            with pyro.plate("columns", 3, subsample_size=2, dim=-2) as kept:
                pyro.sample("x", dist.Normal((z @ LOADING.T)[..., kept].mT, SCALE), obs=x.mT[kept])

    return some_columns, guide


def present(x: Tensor) -> Tensor:
    """Which of two entries a datum has, [B, 2]: its third number tells."""
    return torch.stack([torch.ones(len(x), dtype=torch.bool), x[:, 2] > 0], -1)


def _chain(mask_model: bool = True, mask_guide: bool = True, mask_observed: bool = True) -> Any:
    """Two steps, z_t ~ N(0, 1), x_t ~ N(z_t, 0.7); the second step of some data is padding."""

    def steps_of_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(2):
                with poutine.mask(mask=present(x)[:, t]) if mask_model else poutine.mask(mask=True):
                    z = pyro.sample(f"z{t}", dist.Normal(torch.zeros(()), 1.0))
                with poutine.mask(mask=present(x)[:, t]) if mask_observed else poutine.mask(mask=True):
                    pyro.sample(f"x{t}", dist.Normal(z, SCALE), obs=x[:, t])

    def steps_of_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(2):
                with poutine.mask(mask=present(x)[:, t]) if mask_guide else poutine.mask(mask=True):
                    pyro.sample(f"z{t}", dist.Normal(x[:, t] / (1 + SCALE**2) + shift(), SCALE / (1 + SCALE**2) ** 0.5))

    return steps_of_model, steps_of_guide


def evidence_of_chain(x: Tensor) -> Tensor:
    """log p of the steps that are there, [B]."""
    terms = dist.Normal(0.0, (1 + SCALE**2) ** 0.5).log_prob(x[:, :2])
    found: Tensor = (terms * present(x)).sum(-1)
    return found


def _masked_event() -> Any:
    """The second latent of some data is masked out, and the loading does not see it."""

    def entries_of_model(x: Tensor) -> None:
        seen = present(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(seen).to_event(1))
            pyro.sample("x", dist.Normal(torch.where(seen, z, 0.0) @ LOADING.T, SCALE).to_event(1), obs=x)

    def entries_of_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = dist.Normal(posterior_mean(x) + shift(), 0.6).mask(present(x)).to_event(1)
            pyro.sample("z", q)

    return entries_of_model, entries_of_guide


def evidence_of_masked_event(x: Tensor) -> Tensor:
    """With the columns of the loading that are there, [B]."""
    found = []
    for row, seen in zip(x, present(x), strict=True):
        loading = LOADING[:, seen]
        covariance = loading @ loading.T + SCALE**2 * torch.eye(3)
        found.append(dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(row))
    return torch.stack(found)


def _not_broadcasting_guide() -> Any:
    def of_first_particle(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z0 = pyro.sample("z0", dist.Normal(x[:, 0] / (1 + SCALE**2) + shift(), SCALE / (1 + SCALE**2) ** 0.5))
            first = 0.1 * z0.reshape(-1)[: len(x)]  # the first particle's, whatever the particle
            pyro.sample("z1", dist.Normal(x[:, 1] / (1 + SCALE**2) + first, SCALE / (1 + SCALE**2) ** 0.5))

    def two(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(2):
                z = pyro.sample(f"z{t}", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, SCALE), obs=x[:, t])

    return two, of_first_particle


def evidence_of_two(x: Tensor) -> Tensor:
    """Of two independent steps, [B]."""
    found: Tensor = dist.Normal(0.0, (1 + SCALE**2) ** 0.5).log_prob(x[:, :2]).sum(-1)
    return found


def _batch_statistics() -> Any:
    def centred(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            observe(latent(), x - x.mean(0))

    return centred, guide


def _sum_in_likelihood() -> Any:
    def summed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
            pyro.factor("x", dist.Normal(z @ LOADING.T, SCALE).log_prob(x).sum() * torch.ones(len(x)))

    return summed, guide


def _bounded_by_global() -> Any:
    def scale_model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, tau))
            pyro.sample("x", dist.Normal(z, SCALE), obs=x[:, 0])

    def scale_guide(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.LogNormal(shift(), 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0.0, tau))

    return scale_model, scale_guide


def evidence_below_one(x: Tensor) -> Tensor:
    r"""log of the integral over z in (0, 1) of N(x | z, 0.7), [B]."""
    normal = dist.Normal(0.0, SCALE)
    found: Tensor = (normal.cdf(x[:, 0]) - normal.cdf(x[:, 0] - 1)).log()
    return found


def _bounded_by_local() -> Any:
    def nested_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Uniform(0.5, 2.0))
            z = pyro.sample("z", dist.Uniform(0.0, top))
            pyro.sample("x", dist.Normal(z, SCALE), obs=x[:, 0])

    def nested_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Uniform(0.5, 2.0).expand([len(x)]))
            pyro.sample("z", dist.Uniform(0.0 * shift(), top))

    return nested_model, nested_guide


def evidence_of_nested(x: Tensor) -> Tensor:
    """By the midpoint rule over both latents, [B]."""
    top = 0.5 + 1.5 * (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    share = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    z = top[:, None] * share
    density = dist.Normal(z, SCALE).log_prob(x[:, 0, None, None].double()).exp()
    found: Tensor = density.mean((1, 2)).log().float()
    return found


def _mixture_prior() -> Any:
    def mixed_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _mixture())
            observe(z, x)

    def wide_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x) + shift(), scale_tril=1.3 * ROOT))

    return mixed_model, wide_guide


CENTRES = torch.tensor([[-0.4, 0.0], [0.5, 0.3]])


def _mixture() -> Any:
    weights = dist.Categorical(torch.tensor([0.3, 0.7]))
    return dist.MixtureSameFamily(weights, dist.Normal(CENTRES, 0.9).to_event(1))


def evidence_of_mixture(x: Tensor) -> Tensor:
    """A mixture of two normals, [B]."""
    covariance = 0.81 * LOADING @ LOADING.T + SCALE**2 * torch.eye(3)
    logs = [dist.MultivariateNormal(LOADING @ centre, covariance).log_prob(x) for centre in CENTRES]
    found: Tensor = (torch.stack(logs) + torch.tensor([0.3, 0.7]).log()[:, None]).logsumexp(0)
    return found


def _transformed_latent() -> Any:
    """exp of a normal, as a TransformedDistribution written by hand."""

    def lognormal_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0)
            z = pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]).to_event(1))
            observe(z.log(), x)

    def lognormal_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = dist.LogNormal(posterior_mean(x) + shift(), 0.6).to_event(1)
            pyro.sample("z", q)

    return lognormal_model, lognormal_guide


def _discrete() -> Any:
    def switch_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * y - 1, SCALE), obs=x[:, 0])

    def switch_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=4 * x[:, 0] / SCALE**2 * 0.5))

    return switch_model, switch_guide


def evidence_of_switch(x: Tensor) -> Tensor:
    """The sum over both values, [B]."""
    logs = [dist.Normal(c, SCALE).log_prob(x[:, 0]) for c in (-1.0, 1.0)]
    found: Tensor = (torch.stack(logs) + torch.tensor([0.7, 0.3]).log()[:, None]).logsumexp(0)
    return found


def _deterministic() -> Any:
    def named(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
            mean = pyro.deterministic("mean", z @ LOADING.T, event_dim=1)
            pyro.sample("x", dist.Normal(mean, SCALE).to_event(1), obs=x)

    return named, guide


def _unsized() -> Any:
    def unsized_model(x: Tensor) -> None:
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            observe(z, x)

    def unsized_guide(x: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", posterior(x))

    return unsized_model, unsized_guide


def _at_minus_two(name: str = "data") -> Any:
    def tall_model(x: Tensor) -> None:
        with pyro.plate(name, len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal((z @ LOADING.T).squeeze(-2), SCALE), obs=x)

    def tall_guide(x: Tensor) -> None:
        with pyro.plate(name, len(x), dim=-2):
            pyro.sample("z", dist.MultivariateNormal(posterior_mean(x)[:, None] + shift(), scale_tril=ROOT))

    return tall_model, tall_guide


def _four_by_four() -> Any:
    """Four columns of four data: the last one is given."""

    def square_model(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 4, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, SCALE), obs=torch.cat([x, x[:, :1]], 1))

    def square_guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("z", dist.Normal(torch.cat([x, x[:, :1]], 1) / (1 + SCALE**2) + shift(), 0.6))

    return square_model, square_guide


def evidence_of_four(x: Tensor) -> Tensor:
    """Of independent columns, [B]."""
    found: Tensor = dist.Normal(0.0, (1 + SCALE**2) ** 0.5).log_prob(torch.cat([x, x[:, :1]], 1)).sum(-1)
    return found


OFFSET = torch.tensor([0.3, -0.2, 0.1])


def _crossed() -> Any:
    """An offset for each column is shared by all data; each datum has its own z."""

    def crossed_model(x: Tensor) -> None:
        rows, columns = pyro.plate("data", len(x), dim=-2), pyro.plate("columns", 3, dim=-1)
        with columns:
            offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with rows, columns:
            pyro.sample("x", dist.Normal((z @ LOADING.T).squeeze(-2) + offset, SCALE), obs=x)

    def crossed_guide(x: Tensor) -> None:
        with pyro.plate("columns", 3, dim=-1):
            offset = pyro.sample("offset", dist.Normal(OFFSET + shift(), 0.5))
        with pyro.plate("data", len(x), dim=-2):
            loc = (x - offset) @ LOADING @ COVARIANCE / SCALE**2
            pyro.sample("z", dist.MultivariateNormal(loc.unsqueeze(-2), scale_tril=ROOT))

    return crossed_model, crossed_guide


def _outside_the_plate() -> Any:
    def outside(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(2), obs=x)

    def outside_guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(posterior_mean(x), 0.6).to_event(2))

    return outside, outside_guide


def _factor_outside() -> Any:
    def summed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
        pyro.factor("x", dist.Normal(z @ LOADING.T, SCALE).log_prob(x).sum((-1, -2)))

    return summed, guide


def _sequential() -> Any:
    def one_by_one(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(f"x{i}", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x[i])

    def guide_one_by_one(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.MultivariateNormal(posterior_mean(x[i]) + shift(), scale_tril=ROOT))

    return one_by_one, guide_one_by_one


def _random_minibatch() -> Any:
    def subsampling(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=1) as rows:
            observe(latent(), x[rows])

    def subsampling_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=1) as rows:
            pyro.sample("z", posterior(x[rows]))

    return subsampling, subsampling_guide


def _parameters_by_place() -> Any:
    """A table of parameters, of which a batch takes the first rows, whichever data it holds."""

    def by_place(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(6, 2))[: len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=ROOT))

    return model, by_place


def _parameters_for_a_datum() -> Any:
    def own_parameters(x: Tensor) -> None:
        loc = pyro.param("loc", posterior_mean(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=ROOT))

    return model, own_parameters


def _reparam() -> Any:
    """The latent decentred by a handler: z = 1 * z_decentered + 0."""
    from pyro.infer.reparam import LocScaleReparam

    decentred = poutine.reparam(model, {"z": LocScaleReparam(0.0)})

    def guide_of_noise(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", posterior(x))

    return decentred, guide_of_noise


def _improper() -> Any:
    def flat_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (2,)))
            observe(z, x)

    return flat_model, guide


def _noise() -> Any:
    def jittered(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            observe(latent() + 0.1 * torch.randn(2), x)

    return jittered, guide


def _two_plates() -> Any:
    def split_model(x: Tensor) -> None:
        with pyro.plate("latents", len(x)):
            z = latent()
        with pyro.plate("observations", len(x)):
            observe(z, x)

    def split_guide(x: Tensor) -> None:
        with pyro.plate("latents", len(x)):
            pyro.sample("z", posterior(x))

    return split_model, split_guide


def _obs_mask() -> Any:
    def gaps(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
            pyro.sample("x", dist.Normal(z @ LOADING.T, SCALE).to_event(1), obs=x, obs_mask=x[:, 2] > 0)

    return gaps, guide


def _whole_scaled() -> Any:
    """Both programs divided by N, as is done to keep gradients small."""
    return poutine.scale(model, 0.25), poutine.scale(guide, 0.25)


def _outside_support() -> Any:
    def positive(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Exponential(torch.ones(2)).to_event(1))
            observe(z, x)

    return positive, guide


def _straight_through() -> Any:
    def coins(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), torch.full((2,), 0.3)).to_event(1)
            )
            observe(z, x)

    def rounded_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = posterior_mean(x) + shift()
            pyro.sample("z", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=logits).to_event(1))

    return coins, rounded_guide


def before(x: Tensor) -> Tensor:
    """What stands one place before, zero at first."""
    return torch.nn.functional.pad(x[..., :-1], (1, 0))


def _autoregressive() -> Any:
    def ordered(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            mean = latent() @ LOADING.T + 0.5 * before(x)
            pyro.sample("x", dist.Normal(mean, SCALE).to_event(1), obs=x)

    def ordered_guide(x: Tensor) -> None:
        guide(x - 0.5 * before(x))

    return ordered, ordered_guide


def _own_value() -> Any:
    def peeking(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            mean = latent() @ LOADING.T + 0.5 * x
            pyro.sample("x", dist.Normal(mean, SCALE).to_event(1), obs=x)

    return peeking, guide


def _prior_of_data() -> Any:
    def informed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
            observe(z, x)

    return informed, guide


def _observed_twice() -> Any:
    def two_losses(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = latent()
            observe(z, x)
            pyro.sample("again", dist.Laplace(z @ LOADING.T, SCALE).to_event(1), obs=x)

    return two_losses, guide


JOINT = "auxiliary site '.*' is global[\\s\\S]*joint over the data"
ALONE = "of a datum is .* by itself"
POINT = "guide site 'z' is a point \\(Delta\\)"
GIVEN = {"ais": "needs log q\\(z \\| x\\) at any z"}
JOINT_VERDICTS = {"importance": JOINT, **GIVEN}

IDIOMS: dict[str, Idiom] = {
    "plain": Idiom("model and guide as they should be", lambda: (model, guide)),
    "scale-both": Idiom(
        "`poutine.scale` around the latents of both programs (KL annealing)",
        lambda: _scaled("both"),
        note="densities are without it, and a log line says so; `fit` ascends the weighted objective",
    ),
    "scale-likelihood": Idiom("`poutine.scale` around the likelihood", lambda: _scaled("likelihood")),
    "scale-model": Idiom("`poutine.scale` in the model alone", lambda: _scaled("model")),
    "scale-guide": Idiom("`poutine.scale` in the guide alone", lambda: _scaled("guide")),
    "scale-tensor": Idiom("`poutine.scale` by a tensor", lambda: _scaled("both", torch.tensor(0.2))),
    "delta": Idiom("a Delta guide", _delta, everywhere(POINT)),
    "factor-guide": Idiom("`pyro.factor` in the guide", _factor_in_guide, everywhere("guide site 'push' is a factor")),
    "factor-model": Idiom("the likelihood as `pyro.factor` inside the plate", _factor_in_model),
    "auto-normal": Idiom(
        "`AutoNormal`", _auto("AutoNormal", init_scale=0.6), {"ais": JOINT_VERDICTS["ais"]}, whole=True
    ),
    "auto-guide-list": Idiom("`AutoGuideList`", _guide_list, GIVEN, whole=True),
    "auto-diagonal": Idiom(
        "`AutoDiagonalNormal`", _auto("AutoDiagonalNormal", init_scale=0.6), JOINT_VERDICTS, whole=True
    ),
    "auto-mvn": Idiom(
        "`AutoMultivariateNormal`", _auto("AutoMultivariateNormal", init_scale=0.6), JOINT_VERDICTS, whole=True
    ),
    "auto-low-rank": Idiom(
        "`AutoLowRankMultivariateNormal`",
        _auto("AutoLowRankMultivariateNormal", init_scale=0.6),
        JOINT_VERDICTS,
        whole=True,
    ),
    "auto-iaf": Idiom("`AutoIAFNormal`", _auto("AutoIAFNormal", hidden_dim=[16]), JOINT_VERDICTS, whole=True),
    "auto-structured": Idiom("`AutoStructured`", _auto("AutoStructured", init_scale=0.6), JOINT_VERDICTS, whole=True),
    "auto-delta": Idiom("`AutoDelta`", _auto("AutoDelta"), everywhere(POINT), whole=True),
    "auto-laplace": Idiom(
        "`AutoLaplaceApproximation`", _auto("AutoLaplaceApproximation"), everywhere(POINT), whole=True
    ),
    "parameter-per-datum": Idiom(
        "`pyro.param` of a row for every datum", _parameters_for_a_datum, whole=True, note="all data at every step"
    ),
    "parameter-by-place": Idiom(
        "parameters looked up by the place in the batch", _parameters_by_place, everywhere(ALONE)
    ),
    "inner-subsample": Idiom(
        "an inner plate with `subsample_size`", _inner_subsample, everywhere("plate 'columns' shows a part")
    ),
    "random-minibatch": Idiom(
        "the data plate with `subsample_size`",
        _random_minibatch,
        everywhere("plate 'data'"),
        note="`fit` draws minibatches",
    ),
    "mask": Idiom(
        "`poutine.mask` around latents and observations (padding)", _chain, evidence=evidence_of_chain, mean=None
    ),
    "mask-entries": Idiom(
        "`.mask(...)` of some entries of a latent", _masked_event, evidence=evidence_of_masked_event, mean=None
    ),
    "mask-model": Idiom(
        "latents masked in the model alone",
        lambda: _chain(mask_guide=False),
        everywhere("masked out in other entries in the model than in the guide"),
    ),
    "mask-latents": Idiom(
        "latents masked, what depends on them not",
        lambda: _chain(mask_observed=False),
        everywhere("the rest of the model depends on what is masked"),
    ),
    "guide-particles": Idiom(
        "a guide that does not broadcast over particles",
        _not_broadcasting_guide,
        evidence=evidence_of_two,
        mean=None,
        note="particles run one by one",
    ),
    "batch-statistics": Idiom("statistics over the batch inside a program", _batch_statistics, everywhere(ALONE)),
    "summed": Idiom(
        "a log density summed over the batch", _sum_in_likelihood, everywhere("of a datum is .* by itself")
    ),
    "bounded-by-global": Idiom(
        "a support that a global latent bounds, held",
        _bounded_by_global,
        evidence=evidence_below_one,
        mean=None,
        options={"global_sites": {"tau": torch.tensor(1.0)}},
    ),
    "bounded-by-local": Idiom(
        "a support that another latent bounds",
        _bounded_by_local,
        without_gradient("whose bounds another latent sets"),
        evidence=evidence_of_nested,
        mean=None,
    ),
    "mixture-prior": Idiom("a mixture as prior", _mixture_prior, evidence=evidence_of_mixture, mean=None),
    "transformed": Idiom("a TransformedDistribution as prior", _transformed_latent, mean=None),
    "discrete": Idiom(
        "a discrete latent",
        _discrete,
        {**without_gradient("is discrete"), "fit": "differentiates through the draws"},
        evidence=evidence_of_switch,
        mean=None,
        note="ScoreFunctionELBO, VIMCO and wake-sleep train it",
    ),
    "outside-support": Idiom(
        "a guide that draws what the prior does not have (a Normal for an Exponential)",
        _outside_support,
        everywhere("draws values outside the support of the prior"),
        note="log p is finite there, and no density",
    ),
    "straight-through": Idiom(
        "straight-through distributions",
        _straight_through,
        everywhere("density of what it was before it was rounded"),
        note="relaxed without rounding, or discrete under ScoreFunctionELBO, VIMCO and wake-sleep",
    ),
    "deterministic": Idiom("`pyro.deterministic`", _deterministic),
    "scale-whole": Idiom("both programs inside `poutine.scale`", _whole_scaled),
    "reparam": Idiom("`poutine.reparam`", _reparam, mean=None),
    "improper": Idiom("an improper prior", _improper, everywhere("improper prior")),
    "noise": Idiom("noise that is no sample site", _noise, everywhere("at the same values")),
    "autoregressive": Idiom(
        "a likelihood that reads what was observed before",
        _autoregressive,
        evidence=lambda x: evidence_of(x - 0.5 * before(x)),
        mean=lambda x: posterior_mean(x - 0.5 * before(x)),
    ),
    "own-value": Idiom(
        "a likelihood that reads what it observes (no shift)",
        _own_value,
        everywhere("depends on what is observed there"),
    ),
    "prior-of-data": Idiom(
        "a prior in the model that reads the data", _prior_of_data, everywhere("depends on what it observes")
    ),
    "observed-twice": Idiom(
        "the same data observed by two sites (two losses)", _observed_twice, everywhere("observe the same entries")
    ),
    "two-plates": Idiom(
        "latents and observations in two plates", _two_plates, everywhere("'z' stands outside the plate over data")
    ),
    "obs-mask": Idiom(
        "`obs_mask` without the latent in the guide", _obs_mask, everywhere("'x_unobserved' of the model")
    ),
    "unsized": Idiom("a plate without a size", _unsized),
    "dim-2": Idiom("the data plate at dim -2", _at_minus_two),
    "rows": Idiom("the data plate under another name, around an inner plate", lambda: _at_minus_two("rows")),
    "same-size": Idiom(
        "two plates of the length of the batch around all observations",
        _four_by_four,
        evidence=evidence_of_four,
        mean=lambda x: torch.cat([x, x[:, :1]], 1) / (1 + SCALE**2),
        note="the one over data is that whose entries follow the rows of x, or `from_callables(..., data_plate=...)`",
    ),
    "crossed": Idiom(
        "crossed plates: a latent for each column beside one for each datum",
        _crossed,
        evidence=lambda x: evidence_of(x - OFFSET),
        mean=lambda x: posterior_mean(x - OFFSET),
        options={"global_sites": {"offset": OFFSET}},
    ),
    "outside": Idiom(
        "observations outside every plate",
        _outside_the_plate,
        everywhere("outside the plate over data"),
        note="`as_one_datum(pair)` gives the evidence of the whole data set",
    ),
    "factor-outside": Idiom(
        "the likelihood as `pyro.factor` outside the plate",
        _factor_outside,
        everywhere("'x' is a factor that stands outside the plate over data"),
        note="as above",
    ),
    "sequential": Idiom(
        "a sequential plate, `for i in pyro.plate(...)`",
        _sequential,
        everywhere("'z0' stands in a sequential plate"),
        note="as above",
    ),
}
