"""The hidden Markov model, with or without continuous latents, where everything is exact."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from .components import (
    Categories,
    FactorAnalysers,
    StateLikelihood,
    Values,
    as_floats,
    check_axes,
    check_event_shape,
    check_lengths,
    log_probabilities,
    unpack_sequences,
)
from .likelihoods import LikelihoodMaker
from ..core.errors import PairError, try_one_of
from ..core.lengths import present
from ..core.pair import ModelGuidePair
from ..distributions.conditional import ConditionalDistribution
from ..networks import MLP


class HiddenMarkovModel(ModelGuidePair):
    r"""A hidden Markov model: the tuning fork for a chain of discrete latents that is summed out.

    $$y_1 \sim \mathrm{Categorical}(\pi),\qquad y_t \mid y_{t-1} \sim \mathrm{Categorical}(A_{y_{t-1}}),\qquad
      x_t \mid y_t \sim \mathrm{Categorical}(\rho_{y_t})\ \text{ or }\
      \mathcal{N}(\mu_{y_t}, \mathrm{diag}\,\sigma_{y_t}^2)$$

    or any other likelihood of a step given its state; or, with a continuous latent for every time step, a chain of
    factor analysers:

    $$z_t \sim \mathcal{N}(0, I_Z),\qquad x_t \mid y_t, z_t \sim
      \mathcal{N}(\mu_{y_t} + W_{y_t} z_t, \mathrm{diag}\,\sigma_{y_t}^2)$$

    Given y the steps are independent and z is integrated out step by step; the sum over y is the backward algorithm:

    $$\log p(x) = \log \sum_k \pi_k\, p(x_1 \mid y_1 = k)\, \beta_1(k),\qquad
      \beta_{t-1}(k) = \sum_l A_{kl}\, p(x_t \mid y_t = l)\, \beta_t(l),\qquad \beta_T = 1$$
    $$p(y \mid x) = p(y_1 \mid x) \prod_{t > 1} p(y_t \mid y_{t-1}, x),\qquad
      p(z \mid x) = \sum_y p(y \mid x) \prod_t p(z_t \mid y_t, x_t)$$

    Bishop 2006, section 13.2; Rabiner 1989.

    ====================  =======================================  ==========================================
    symbol                meaning                                  name in code
    ====================  =======================================  ==========================================
    $y_t$                 state at one time step                   sites ``"y_0"``, ``"y_1"``, ..., model only
    $z$, [T, Z]           continuous latents of one sequence       site ``"z"``
    $x_t$, [D] or []      one time step                            sites ``"x_0"``, ``"x_1"``, ...
    $\pi$, [K]            probabilities of the first state         ``initial_probs``
    $A$, [K, K]           probabilities of the next, given a row   ``transition_probs``
    $\rho$, [K, C]        probabilities of the categories          ``emission.probs``
    $\mu$, [K, D]         means                                    ``emission.loc``
    $W$, [K, D, Z]        loadings                                 ``emission.loading``
    $\sigma$, [K, D]      noise standard deviations                ``emission.scale``
    ====================  =======================================  ==========================================

    A batch is [B, T, D], or [B, T] of whole numbers 0, ..., C - 1; or a mapping of such an ``"x"`` and of
    ``"lengths"``, [B], for sequences of different lengths: steps from ``lengths`` on are padding, whose x has no
    density and whose latents are as in the prior. The guide draws no state: their sites are marked
    ``infer={"enumerate": "parallel"}``, and summed out. Without a continuous latent it is empty.

    Limitations: the exact posterior, which is the guide unless one is given, has no reparameterised draws: estimators
    of the bound that need them refuse it. The model program has a statement for every time step, so that long sequences
    are slow to run (the closed forms are not). A state keeps no record of how long it has lasted; states are determined
    up to their order.

    Args:
        num_states: K.
        data_dim: D, for real data; None for categories.
        num_categories: C, for categories; None for real data.
        latent_dim: Z; 0 for no continuous latent.
        likelihood: of a step of data_dim entries given its state, one of :mod:`ppvae.models.likelihoods`, without a
            continuous latent; None for the normals.
        posterior: a guide with parameters of its own over z, of event shape (T, Z), whose context is x; None for the
            exact posterior.

    Raises:
        PairError: a number below 1, not one of data_dim and num_categories, a latent of categories or of another
            likelihood, or a posterior of another event shape.

    >>> import torch
    >>> from ppvae.models import HiddenMarkovModel
    >>> pair = HiddenMarkovModel.from_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.7, 0.3], [0.1, 0.9]]
    ... )
    >>> x = torch.tensor([[0, 0, 1], [1, 1, 1]])
    >>> [round(p, 4) for p in pair.log_evidence(x).exp().tolist()]
    [0.0878, 0.2876]
    >>> pair.discrete_posterior(x).shape
    torch.Size([2, 3, 2])
    """

    emission: FactorAnalysers | Categories | StateLikelihood

    def __init__(
        self,
        num_states: int,
        *,
        data_dim: int | None = None,
        num_categories: int | None = None,
        latent_dim: int = 0,
        likelihood: LikelihoodMaker | None = None,
        posterior: ConditionalDistribution | None = None,
    ) -> None:
        super().__init__()
        if (data_dim is None) == (num_categories is None):
            raise PairError(
                f"expected one of data_dim and num_categories, found {data_dim} and {num_categories}"
                + try_one_of("data_dim=D for real data [B, T, D]", "num_categories=C for categories [B, T]")
            )
        sizes = {"num_states": num_states, "data_dim": data_dim, "num_categories": num_categories}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise PairError(f"expected {name} of at least 1, found {size}")
        if latent_dim < 0 or (latent_dim and data_dim is None) or (posterior is not None and not latent_dim):
            raise PairError(
                f"expected latent_dim of at least 0, 0 for categories and above 0 for a posterior, found {latent_dim}"
            )
        if likelihood is not None and (latent_dim or data_dim is None):
            raise PairError(
                f"expected a likelihood of real data without a continuous latent, found latent_dim = {latent_dim} and "
                f"data_dim = {data_dim}" + try_one_of("latent_dim=0", "no likelihood")
            )
        self.num_states, self.data_dim, self.num_categories = num_states, data_dim, num_categories
        self.latent_dim, self.factorised = latent_dim, False
        self.initial_logits = nn.Parameter(torch.zeros(num_states))
        self.transition_logits = nn.Parameter(torch.zeros(num_states, num_states))
        if data_dim is not None and likelihood is not None:
            self.emission = StateLikelihood(num_states, likelihood(MLP(num_states, []), data_dim))
        elif data_dim is not None:
            self.emission = FactorAnalysers(num_states, data_dim, latent_dim)
        elif num_categories is not None:
            self.emission = Categories(num_states, num_categories)
        if posterior is not None:
            check_event_shape(posterior, (*posterior.event_shape[:1], latent_dim))
        self.encoder = posterior

    @staticmethod
    def from_parameters(
        initial: Values,
        transition: Values,
        *,
        probs: Values | None = None,
        loc: Values | None = None,
        scale: Values | None = None,
        loading: Values | None = None,
    ) -> HiddenMarkovModel:
        """A hidden Markov model with given parameters: of categories by probs, else by loc and scale.

        Args:
            initial: pi, probabilities of the first state, [K]; positive.
            transition: A, probabilities of the next state, a row for every state, [K, K]; positive.
            probs: probabilities of the categories, [K, C]; positive.
            loc: means, [K, D].
            scale: noise standard deviations, [K, D]; positive.
            loading: W, [K, D, Z]; None for no continuous latent.

        Raises:
            PairError: shapes that do not fit, no probabilities, a scale that is not positive, or neither of the two.
        """
        normal = {"loc": loc, "scale": scale, "loading": loading}
        missing = (loc is None or scale is None) if probs is None else any(v is not None for v in normal.values())
        if missing:
            found = [name for name, value in {"probs": probs, **normal}.items() if value is not None]
            raise PairError(f"expected probs alone, or loc and scale with or without loading, found {found}")
        given = {"initial": initial, "transition": transition, "probs": probs, **normal}
        names = [name for name, value in given.items() if value is not None]
        values = dict(zip(names, as_floats(*(given[name] for name in names)), strict=True))  # type: ignore[arg-type]
        emission: FactorAnalysers | Categories
        if probs is None:
            emission = FactorAnalysers.from_parameters(values["loc"], values.get("loading"), values["scale"])
            states, *event = values["loc"].shape
            pair = HiddenMarkovModel(states, data_dim=event[0], latent_dim=emission.latent_dim)
        else:
            emission = Categories.from_parameters(values["probs"])
            states, categories = values["probs"].shape
            pair = HiddenMarkovModel(states, num_categories=categories)
        for name, shape in (("initial", [states]), ("transition", [states, states])):
            if list(values[name].shape) != shape:
                raise PairError(f"{name}: expected {shape} as in the emissions, found {list(values[name].shape)}")
            getattr(pair, f"{name}_logits").data = log_probabilities(name, values[name])
        pair.emission = emission
        return pair

    @property
    def initial_probs(self) -> Tensor:
        """Probabilities of the first state, [K]."""
        return self.initial_logits.softmax(-1)

    @property
    def transition_probs(self) -> Tensor:
        """Probabilities of the next state, a row for every state, [K, K]."""
        return self.transition_logits.softmax(-1)

    def log_evidence(self, x: Any) -> Tensor:
        """log p(x) of every sequence, [B], in nats, at x [B, T, D] or [B, T], or a mapping with "lengths".

        Raises:
            DataError: another shape, a category outside, or a length that is not 1, ..., T.
        """
        sequences, lengths = unpack_sequences(x)
        check_lengths(sequences, lengths)
        return self._log_normaliser(self._potentials(x))

    def log_joint(self, x: Any, z: Tensor) -> Tensor:
        """log p(x, z) with all y summed out, [*S, B], in nats, at z [*S, B, T, Z]."""
        prior: Tensor = dist.Normal(torch.zeros_like(z), 1).log_prob(z).sum((-1, -2))
        return prior + self._log_normaliser(self._potentials(x, z))

    def marginal(self, num_steps: int) -> dist.DiscreteHMM:
        """p(x) of sequences of this many steps, of event shape [T, D] or [T]."""
        transitions = self.transition_logits.expand(num_steps - 1, -1, -1)
        return _chain(self.initial_logits, transitions, self.emission.marginal())

    def posterior(self, x: Any) -> dist.DiscreteHMM:
        """The exact p(z | x), of batch shape [B] and event shape [T, Z]: a chain of states, and normals given them.

        Raises:
            PairError: there is no continuous latent.
        """
        components = self._latent_components(x)
        return _chain(*self._posterior_chain(self._potentials(x)), components)

    def marginal_posterior(self, x: Any) -> dist.MixtureSameFamily:
        """The exact p(z_t | x) of each time step, a mixture of normals, of batch shape [B, T] and event shape [Z].

        Raises:
            PairError: there is no continuous latent.
        """
        components = self._latent_components(x)
        return dist.MixtureSameFamily(dist.Categorical(probs=self.discrete_posterior(x)), components)

    def discrete_posterior(self, x: Any) -> Tensor:
        """Smoothing probabilities p(y_t | x), [B, T, K]."""
        return self._marginals(self._potentials(x))

    def discrete_conditional(self, x: Any, z: Tensor) -> Tensor:
        """p(y_t | x, z), [*S, B, T, K], at z [*S, B, T, Z]."""
        return self._marginals(self._potentials(x, z))

    def with_posterior(self, posterior: ConditionalDistribution | None) -> HiddenMarkovModel:
        """This model (the same parameters, shared) with another guide; None for the exact posterior."""
        other = HiddenMarkovModel(
            self.num_states,
            data_dim=self.data_dim,
            num_categories=self.num_categories,
            latent_dim=self.latent_dim,
            posterior=posterior,
        )
        other.initial_logits, other.transition_logits = self.initial_logits, self.transition_logits
        other.emission = self.emission
        return other

    def with_marginal_guide(self) -> HiddenMarkovModel:
        r"""This model with the guide $\prod_t p(z_t \mid x)$: right at every step, and independent between them."""
        other = self.with_posterior(None)
        other.factorised = True
        return other

    def model(self, x: Any, num_data: int | None = None) -> None:
        """p(y) p(z) p(x | y, z) of a batch x."""
        x, lengths = unpack_sequences(x)
        check_axes(x, "[B, T, D]" if self.emission.event_shape else "[B, T]", self.emission.event_shape)
        steps = x.shape[1]
        with self.data_plate(x, num_data):
            z, y = None, None
            if self.latent_dim:
                zero = self.initial_logits.new_zeros(steps, self.latent_dim)
                z = pyro.sample("z", dist.Normal(zero, 1).to_event(2))
            for t in pyro.markov(range(steps)):
                # Under enumeration y is [K, 1, ..., 1], on one of two axes on the left by turns.
                logits = self.initial_logits if y is None else Vindex(self.transition_logits)[..., y, :]
                y = pyro.sample(f"y_{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                emission = self.emission.given(y, None if z is None else z[..., t, :])
                if lengths is not None:
                    emission = emission.mask(t < lengths)
                pyro.sample(f"x_{t}", emission, obs=x[:, t])

    def guide(self, x: Any, num_data: int | None = None) -> None:
        """q(z | x) of a batch x; nothing where there is no continuous latent."""
        if not self.latent_dim:
            return
        with self.data_plate(x, num_data):
            if self.encoder is not None:
                pyro.sample("z", self.encoder(unpack_sequences(x)[0]))
            elif self.factorised:
                pyro.sample("z", self.marginal_posterior(x).to_event(1))
            else:
                pyro.sample("z", self.posterior(x))

    def _potentials(self, x: Any, z: Tensor | None = None) -> Tensor:
        """log p(x_t | y_t), or log p(x_t | y_t, z_t), of every state, zero where padded: [*S, B, T, K]."""
        x, lengths = unpack_sequences(x)
        self.emission.check(x, "[B, T, D]" if self.emission.event_shape else "[B, T]")
        potentials = self.emission.log_marginal(x) if z is None else self.emission.log_given(x, z)
        return potentials if lengths is None else potentials.where(present(lengths, x.shape[1])[..., None], 0.0)

    def _latent_components(self, x: Any) -> dist.TorchDistribution:
        """p(z_t | y_t, x_t) of every state, the prior where padded: batch shape [B, T, K], event shape [Z]."""
        if not isinstance(self.emission, FactorAnalysers) or not self.latent_dim:
            raise PairError(
                f"{type(self).__name__} without a continuous latent has no posterior of it"
                + try_one_of("discrete_posterior(x), for the states", "latent_dim above 0")
            )
        x, lengths = unpack_sequences(x)
        self.emission.check(x, "[B, T, D]")
        components = self.emission.posterior(x)
        if lengths is None:
            return components
        inside = present(lengths, x.shape[1])[..., None, None]
        eye = torch.eye(self.latent_dim, dtype=components.loc.dtype, device=components.loc.device)
        loc, scale_tril = components.loc, components.scale_tril
        return dist.MultivariateNormal(loc.where(inside, 0.0), scale_tril=scale_tril.where(inside[..., None], eye))

    def _backward(self, potentials: Tensor) -> Tensor:
        """log beta, [*S, B, T, K]: what comes after a time step, given its state."""
        transitions = self.transition_logits.log_softmax(-1)
        messages = [torch.zeros_like(potentials[..., 0, :])]
        for t in range(potentials.shape[-2] - 1, 0, -1):
            after = potentials[..., t, :] + messages[-1]
            messages.append((transitions + after[..., None, :]).logsumexp(-1))
        return torch.stack(messages[::-1], -2)

    def _log_normaliser(self, potentials: Tensor) -> Tensor:
        """log of the sum over all paths of states, [*S, B]."""
        first = self.initial_logits.log_softmax(-1) + potentials[..., 0, :]
        return (first + self._backward(potentials)[..., 0, :]).logsumexp(-1)

    def _posterior_chain(self, potentials: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y_1 | x), [*S, B, K], and log p(y_t | y_{t-1}, x) for t > 1, [*S, B, T - 1, K, K]."""
        after = potentials + self._backward(potentials)
        first = self.initial_logits + after[..., 0, :]
        transitions = self.transition_logits + after[..., 1:, None, :]
        return first.log_softmax(-1), transitions.log_softmax(-1)

    def _marginals(self, potentials: Tensor) -> Tensor:
        """p(y_t | x) of the posterior chain, [*S, B, T, K]."""
        first, transitions = self._posterior_chain(potentials)
        marginals = [first.exp()]
        for step in transitions.exp().unbind(-3):
            marginals.append((marginals[-1][..., None, :] @ step)[..., 0, :])
        return torch.stack(marginals, -2)


def _chain(first: Tensor, transitions: Tensor, steps: dist.TorchDistribution) -> dist.DiscreteHMM:
    """A chain of states, first [*S, K] and transitions [*S, T - 1, K, K] in logits, and what it puts out [*S, T, K]."""
    # The distribution's own initial state stands before its first transition: whatever it is, here the same follows.
    rows = first[..., None, None, :].expand(*first.shape[:-1], 1, *transitions.shape[-2:])
    logits = torch.cat([rows, transitions], -3)
    return dist.DiscreteHMM(torch.zeros_like(first), logits, steps, duration=logits.shape[-3])
