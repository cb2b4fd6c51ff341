"""Full variational Bayes: a posterior over the weights of any pair (AEVB appendix F)."""

from __future__ import annotations

import copy as copying
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast, get_args

import pyro
import torch
from pyro.infer.autoguide import AutoGuide, init_to_value
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from .lifting import RandomParameter, find_parameters, refuse_closures
from .weight_noise import CONVOLUTIONS, SCHEMES, RandomLayers, WeightNoise, has_per_datum_noise
from ..core.compile import bind
from ..core.errors import PairError, did_you_mean, try_one_of
from ..core.pair import ModelGuidePair, batch_size
from ..distributions.weight_posteriors import (
    DiagonalPosterior,
    GaussianWeight,
    LogNormalScale,
    LowRankPosterior,
    WeightPosterior,
    is_posterior_draw,
)
from ..distributions.weight_priors import NormalPrior, TensorPrior, WeightPrior, as_weight_prior

_log = logging.getLogger("ppvae.bayesian")

Prior: TypeAlias = Distribution | WeightPrior
PosteriorName = Literal["diagonal", "low-rank"]
Posterior: TypeAlias = PosteriorName | DiagonalPosterior | LowRankPosterior | Callable[..., AutoGuide]

STANDARD_NORMAL = NormalPrior(1.0)


class BayesianPair(ModelGuidePair):
    r"""A pair some of whose weights are global latents with a prior and a posterior; made by :func:`bayesianise`.

    $$w \sim p(w),\quad z_b \sim p(z_b \mid w),\quad x_b \sim p(x_b \mid z_b, w);\qquad
      q(z, w \mid x) = q(w) \prod_b q(z_b \mid x_b)$$

    Every tensor of weights is one global latent site, named as the parameter was: ``likelihood.head.layers.0.weight``.
    Local sites and plates are those of the pair within.

    Attributes:
        pair: the pair within; the parameters with a posterior are no parameters of it any more.
        weight_prior: priors, by site (with "/" for ".").
        weight_posterior: posteriors likewise; empty where an autoguide holds them.
        weight_names: the sites of the weights.
        weight_noise: how their noise enters the model's layers, see :func:`bayesianise`.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        parameters: tuple[RandomParameter, ...],
        priors: Mapping[str, WeightPrior],
        posterior: DiagonalPosterior | LowRankPosterior | Callable[..., AutoGuide],
        weight_noise: WeightNoise,
    ) -> None:
        super().__init__()
        self.weight_noise = weight_noise
        self.noise_per_datum = weight_noise != "shared"
        self._mean_sites: frozenset[str] = frozenset()
        self._draw_names: frozenset[str] = frozenset()
        self.weight_names = tuple(item.name for item in parameters)
        self.shapes = {item.name: item.value.shape for item in parameters}
        values = {item.name: item.value for item in parameters}
        self.accepts_num_data, self.plate_name = pair.accepts_num_data, pair.plate_name
        # The layers that RandomLayers computes broadcast over particles; other modules may not.
        self.vectorizes = pair.vectorizes and all(has_per_datum_noise(item.owner) for item in parameters)
        for item in parameters:
            item.lift()
        self.pair = pair
        self.weight_prior = nn.ModuleDict({_key(n): priors[n].build(v) for n, v in values.items()})
        self.scale_names = {n: tuple(self._prior(n).scale_shapes) for n in values}
        with torch.random.fork_rng():
            torch.manual_seed(0)  # a low-rank factor starts at random
            if isinstance(posterior, DiagonalPosterior | LowRankPosterior):
                self.weight_posterior = nn.ModuleDict({_key(n): posterior.build(v) for n, v in values.items()})
                self.scale_posterior = nn.ModuleDict(
                    {
                        _key(f"{n}.{s}"): _scale_posterior(v, self._prior(n), s)
                        for n, v in values.items()
                        for s in self.scale_names[n]
                    }
                )
            else:
                self.weight_posterior, self.scale_posterior = nn.ModuleDict(), nn.ModuleDict()
                self.vectorizes = False
                self._make_autoguide(posterior, values)

    def model(self, x: Any, num_data: int | None = None) -> Any:
        """p(w), then the model of the pair within, at these weights."""
        self._require_num_data(num_data)
        weights = self._sample_prior()
        per_datum = self.noise_per_datum and any(is_posterior_draw(value) for value in weights.values())
        return self._run("model", weights, x, num_data, self.weight_noise if per_datum else "shared")

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        """q(w), then the guide of the pair within, at these weights where it uses them."""
        self._require_num_data(num_data)
        if self.weight_posterior:
            weights = {}
            for name in self.weight_names:
                for scale in self.scale_names[name]:
                    pyro.sample(f"{name}.{scale}", self.scale_posterior[_key(f"{name}.{scale}")]())
                posterior = self.weight_posterior[_key(name)](sample=name not in self._mean_sites)
                weights[name] = pyro.sample(name, posterior)
        else:
            sample = self.autoguide()
            weights = {name: sample[name] for name in self.weight_names}
        return self._run("guide", weights, x, num_data, "shared")

    def completed(self, x: Any) -> Any:
        """As the pair within completes it."""
        return self._inner.completed(x)

    def gaps(self, x: Any) -> dict[str, Tensor]:
        """Those of the pair within."""
        return self._inner.gaps(x)

    def sequence_lengths(self, x: Any) -> tuple[Tensor, ...]:
        """Those of the pair within."""
        return self._inner.sequence_lengths(x)

    def gaussian_weights(self) -> dict[str, GaussianWeight]:
        """The posterior of every tensor of weights as mean and scales; empty where an autoguide holds it."""
        return {name: self._posterior(name).gaussian() for name in self.weight_names} if self.weight_posterior else {}

    @contextmanager
    def mean_sites(self, draw: Iterable[str] = ()) -> Iterator[frozenset[str]]:
        """The weights, under noise per datum, where a closed-form KL needs no draw of them: see the base class."""
        self._draw_names |= set(draw)
        per_datum = self.noise_per_datum and bool(self.weight_posterior)
        self._mean_sites = frozenset(self.weight_names) - self._draw_names if per_datum else frozenset()
        try:
            yield self._mean_sites
        finally:
            self._mean_sites = frozenset()

    def adopt(self, name: str, value: Tensor, constraint: Constraint) -> None:
        """The pair within adopts it."""
        self._inner.adopt(name, value, constraint)

    def adopted_value(self, name: str) -> Tensor | None:
        """The value that the pair within adopted."""
        return self._inner.adopted_value(name)

    # --- below: what the two programs share ---

    @property
    def _inner(self) -> ModelGuidePair:
        # Through the registry: reading the attribute would itself be a Pyro statement.
        return cast(ModelGuidePair, self._modules["pair"])

    def _prior(self, name: str) -> TensorPrior:
        return cast(TensorPrior, self.weight_prior[_key(name)])

    def _posterior(self, name: str) -> WeightPosterior:
        return cast(WeightPosterior, self.weight_posterior[_key(name)])

    def _sample_prior(self) -> dict[str, Tensor]:
        weights = {}
        for name in self.weight_names:
            prior = self._prior(name)
            scales = {s: pyro.sample(f"{name}.{s}", prior.scale_distribution(s)) for s in self.scale_names[name]}
            weights[name] = pyro.sample(name, prior(scales))
        return weights

    def _run(
        self,
        role: Literal["model", "guide"],
        weights: Mapping[str, Tensor],
        x: Any,
        num_data: int | None,
        scheme: WeightNoise,
    ) -> Any:
        state = dict(weights)
        program = bind(self._inner, lambda pair, x, num_data: getattr(pair, role)(x, num_data))
        particles = any(value.dim() > len(self.shapes[name]) for name, value in state.items())
        if not particles and scheme == "shared":
            return program(state, x, num_data)
        posteriors = self.gaussian_weights() if scheme != "shared" else None
        with RandomLayers(state, self.shapes, batch_size(x), scheme, posteriors):
            return program(state, x, num_data)

    def _require_num_data(self, num_data: int | None) -> None:
        # The waist runs the programs unscaled, under local parameters, and applies N / B itself.
        if num_data is None and self.accepts_num_data and not pyro.settings.get("module_local_params"):
            raise PairError(
                "num_data is missing: the KL of the weights stands once beside all N data, so without N the bound of a "
                "minibatch weights it wrongly (N / B times too much)"
                + try_one_of(
                    "svi.step(x, num_data=N)",
                    "num_data=len(x) where the batch is all the data",
                    "ppvae.inference.fit, which states it by itself",
                )
            )

    def _make_autoguide(self, make: Callable[..., AutoGuide], values: Mapping[str, Tensor]) -> None:
        with pyro.settings.context(module_local_params=True), torch.no_grad():
            autoguide = make(self._sample_prior, init_loc_fn=init_to_value(values=dict(values)))
            if not isinstance(autoguide, AutoGuide):
                raise PairError(f"posterior: expected a Pyro AutoGuide, found {type(autoguide).__name__}" + _POSTERIORS)
            self.autoguide = autoguide
            self.autoguide()  # its first run makes its parameters


_POSTERIORS = try_one_of(
    'posterior="diagonal" or DiagonalPosterior(scale=...)',
    'posterior="low-rank" or LowRankPosterior(rank=...)',
    "a Pyro autoguide class: posterior=AutoNormal, or functools.partial(AutoNormal, init_scale=...)",
)


def bayesianise(
    pair: ModelGuidePair,
    *,
    modules: Iterable[str] = ("likelihood",),
    prior: Prior | Mapping[str, Prior] = STANDARD_NORMAL,
    posterior: Posterior = "diagonal",
    weight_noise: WeightNoise = "shared",
    copy: bool = True,
) -> BayesianPair:
    r"""Give the weights of a pair's modules a prior and a posterior: full variational Bayes (AEVB, appendix F).

    $$\mathcal{L} = \frac{N}{M} \sum_{b=1}^{M} \mathrm{E}_q\!\left[\log p(x_b \mid z_b, w)
      - \mathrm{KL}(q(z_b \mid x_b) \| p(z_b))\right] - \mathrm{KL}(q(w) \| p(w))$$

    (Kingma & Welling 2013, arXiv 1312.6114, eq. 21-24.) The result is a pair like any other: ``TraceELBO`` on it is the
    generic estimator (eq. 21-22), ``TraceMeanFieldELBO`` the one with the KLs in closed form (eq. 24). N is stated
    once, by ``fit`` or as ``num_data``, so that the KL of the weights is counted once for all data.

    With ``weight_noise`` other than "shared", the model's layers draw noise of their own for every datum, and the
    estimator must be ``TraceMeanFieldELBO``: an estimator that needs log q at the weights used has none to evaluate.
    Only draws of this pair's guide are replaced so; at given weights (evidence, sampling) the density is unchanged.
    Noise on the activations of a convolution ("local-reparameterization") is drawn for every position by itself: exact
    for a last layer under a likelihood that factorises, an approximation before it (logged); "flipout" has no such
    restriction.

    Args:
        pair: the pair; it is copied and not changed.
        modules: names of modules, or of single parameters, as in ``pair.named_modules()``. A module of the guide is
            possible: the bound then has its weights as auxiliary variables.
        prior: over single weights: a distribution, :class:`NormalPrior`, :class:`ScaleMixturePrior`,
            :class:`HorseshoePrior`; or a mapping from module names to such, the longest name that fits a weight wins.
        posterior: "diagonal" (:class:`DiagonalPosterior`), "low-rank" (:class:`LowRankPosterior`), or a Pyro autoguide
            class (or a function of a model and ``init_loc_fn``), whose KL is then sampled.
        weight_noise: "shared" (one draw for the batch), "per-datum" (one for every datum, slow),
            "local-reparameterization" (Kingma et al. 2015) or "flipout" (Wen et al. 2018).
        copy: False to take over the pair itself, for one whose functions hold their modules in a closure.

    Returns:
        The Bayesian pair; the means of the posterior start at the pair's weights.

    Raises:
        PairError: an unknown module, one without parameters, shared parameters, running statistics (batch-norm) inside
            a lifted module, a layer that the weight noise does not know, or a prior for what is not lifted.

    >>> from ppvae.models import bernoulli_vae
    >>> pair = bayesianise(bernoulli_vae(8, latent_dim=2, hidden=(3,)), weight_noise="local-reparameterization")
    >>> pair.weight_names[0], tuple(pair.shapes[pair.weight_names[0]])
    ('likelihood.head.trunk.layers.0.weight', (3, 2))
    """
    if not isinstance(pair, ModelGuidePair):
        raise PairError(
            f"bayesianise: expected a ModelGuidePair, found {type(pair).__name__}"
            + try_one_of("ModelGuidePair.from_callables(model, guide)")
        )
    if weight_noise not in SCHEMES:
        raise PairError(f"unknown weight_noise {weight_noise!r}: {did_you_mean(str(weight_noise), SCHEMES)}")
    names = (modules,) if isinstance(modules, str) else tuple(modules)
    inner = copying.deepcopy(pair) if copy else pair
    if copy:
        refuse_closures(pair, inner)
    parameters = find_parameters(inner, names)
    weight_posterior = _posterior(posterior)
    if weight_noise != "shared":
        _check_scheme(parameters, weight_noise, weight_posterior)
    return BayesianPair(inner, parameters, _priors(prior, parameters), weight_posterior, weight_noise)


def _posterior(posterior: Posterior) -> DiagonalPosterior | LowRankPosterior | Callable[..., AutoGuide]:
    if posterior == "diagonal":
        return DiagonalPosterior()
    if posterior == "low-rank":
        return LowRankPosterior()
    if isinstance(posterior, str):
        raise PairError(f"unknown posterior {posterior!r}: {did_you_mean(posterior, get_args(PosteriorName))}")
    if isinstance(posterior, DiagonalPosterior | LowRankPosterior) or callable(posterior):
        return posterior
    raise PairError(f"posterior: expected a posterior, found {type(posterior).__name__}" + _POSTERIORS)


def _priors(prior: Prior | Mapping[str, Prior], parameters: tuple[RandomParameter, ...]) -> dict[str, WeightPrior]:
    if not isinstance(prior, Mapping):
        one = as_weight_prior(prior)
        return {item.name: one for item in parameters}
    priors: dict[str, WeightPrior] = {}
    matches = set()
    for item in parameters:
        keys = [key for key in prior if item.name == key or item.name.startswith(f"{key}.")]
        if not keys:
            raise PairError(
                f"prior: none is given for {item.name!r}; given are {sorted(prior)}"
                + try_one_of(f"a prior for {item.name.rpartition('.')[0]!r} or for a module around it")
            )
        matches.update(keys)
        priors[item.name] = as_weight_prior(prior[max(keys, key=len)])
    for key in prior.keys() - matches:
        parts = [item.name.split(".") for item in parameters]
        names = {".".join(p[:k]) for p in parts for k in range(1, len(p) + 1)}
        raise PairError(f"prior: {key!r} is no lifted module: {did_you_mean(key, names)}")
    return priors


def _check_scheme(parameters: tuple[RandomParameter, ...], scheme: WeightNoise, posterior: Any) -> None:
    if not isinstance(posterior, DiagonalPosterior | LowRankPosterior):
        raise PairError(
            f"weight_noise={scheme!r} needs the mean and scale of every weight, which an autoguide does not tell"
            + try_one_of('weight_noise="shared"', 'posterior="diagonal"')
        )
    for item in parameters:
        if not has_per_datum_noise(item.owner):
            where = item.name.rpartition(".")[0] or "the pair itself"
            raise PairError(
                f"weight_noise={scheme!r} does not know the layer {where!r} ({type(item.owner).__name__}), "
                f"whose parameter is {item.name!r}: it knows linear, convolutional and transposed convolutional layers"
                + try_one_of('weight_noise="shared", which serves any layer', "name only the layers in modules=...")
            )
    convolutions = sorted({i.name.rpartition(".")[0] for i in parameters if isinstance(i.owner, CONVOLUTIONS)})
    if scheme == "local-reparameterization" and convolutions:
        _log.warning(
            "local reparameterisation draws the noise of every position of a convolution's output by itself (%s): "
            "exact for a last layer only, an approximation before it; weight_noise='flipout' is exact",
            ", ".join(convolutions),
        )


def _scale_posterior(value: Tensor, prior: TensorPrior, name: str) -> LogNormalScale:
    shape = prior.scale_shapes[name]
    magnitude = value.detach().square().mean().sqrt().clamp_min(1e-2)
    return LogNormalScale(magnitude.clone() if not shape else torch.ones_like(value))


def _key(name: str) -> str:
    return name.replace(".", "/")  # nn.ModuleDict refuses dots


__all__ = ["BayesianPair", "bayesianise"]
