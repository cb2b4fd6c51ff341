"""The base of all ELBO estimators: the terms of a bound, with declared properties."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.infer.elbo
import torch
from torch import Tensor, nn

from ...core import Data, ModelGuidePair, PairError, PpvaeError, Structure, scaled_total, structure
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


class BoundTerms(NamedTuple):
    r"""An estimate of the bound of a batch, in nats, unscaled by N / B.

    $$\mathcal{L} = \frac{N}{B} \sum_b \text{local}_b + \text{global}$$

    Attributes:
        local: the bound's local part for every datum, [B], which is reported.
        global_: its global part, a scalar; zero where the pair has no global latents.
        reconstruction: $\mathrm{E}_q \log p(x \mid z)$ for every datum, [B].
        kl: $\mathrm{KL}(q(z \mid x) \| p(z))$ for every datum, [B]; reconstruction - kl = local where the bound
            has this decomposition.
        objective_local: local part of the objective to ascend, [B]: its gradient is the estimator's, its value need
            not be the bound.
        objective_global: likewise, a scalar.
        buffers: the next values of the buffers of :attr:`ELBO.module`, by name; None where the estimator has no state.
    """

    local: Tensor
    global_: Tensor
    reconstruction: Tensor
    kl: Tensor
    objective_local: Tensor
    objective_global: Tensor
    buffers: dict[str, Tensor] | None = None

    def bound(self, num_data: int | None = None) -> Tensor:
        """The bound in nats, a scalar: for the whole data set of N, or for the batch where N is None."""
        return scaled_total(self.local, self.global_, num_data)

    def objective(self, num_data: int | None = None) -> Tensor:
        """The objective in nats, a scalar, scaled as :meth:`bound`."""
        return scaled_total(self.objective_local, self.objective_global, num_data)


class ELBO(pyro.infer.elbo.ELBO):
    """Base of the estimators: one method, :meth:`terms`, and properties that the contract test verifies.

    An estimator works in :func:`ppvae.inference.fit`, where it is captured, and in stock ``pyro.infer.SVI``, whose
    convention it then follows (``loss`` is the negative bound of the whole data set, in nats).

    Args:
        num_particles: K, draws per datum.

    Attributes:
        is_lower_bound: the expected value is at most log p(x).
        needs_rsample: the gradient goes through the draws, so the guide must be reparameterised.
        tight_when_guide_exact: the expected value is log p(x) where q(z | x) = p(z | x).
        zero_variance_when_guide_exact: there, every single estimate is log p(x).
        unbiased_gradient: the expected gradient of the objective is the gradient of the expected bound, for every
            parameter of model and guide.
        supports_global_latents: it accepts latents outside the data plate; an estimator with one weight per datum does
            not, because the weight would be joint over the batch.
        serves_noise_per_datum: it accepts weights with noise for every datum: it does not evaluate log q at one value
            of the weights, which does not exist there (see :func:`ppvae.models.bayesianise`).
        serves_scaled_sites: the programs' own scales of local sites (``poutine.scale``) enter the objective, as in
            Pyro's own estimators; the reported bound is without them.
        serves_all_values: it takes all values of discrete sites that the guide marks ``infer={"enumerate":
            "parallel"}``, each with its probability, so that these sites need no gradient through a draw.
        sums_over_data: the objective of a batch is a sum over its data, beside its global part: it is the mean of
            those of its parts, so that several processes can share a batch.
        serves_kl_per_site: :meth:`terms` takes a mapping from latent sites to weights as ``kl_weight`` too.
        module: parameters and buffers of the estimator itself, None for most. A trainer ascends the objective in its
            parameters beside the pair's (see :class:`PairWithEstimator`), and passes ``BoundTerms.buffers`` to the
            next step.
    """

    is_lower_bound: bool
    needs_rsample: bool
    tight_when_guide_exact: bool
    zero_variance_when_guide_exact: bool
    unbiased_gradient: bool = True
    supports_global_latents: bool = True
    serves_noise_per_datum: bool = False
    serves_scaled_sites: bool = False
    serves_all_values: bool = False
    serves_kl_per_site: bool = False
    sums_over_data: bool = True
    module: nn.Module | None = None

    def __init__(self, *, num_particles: int = 1) -> None:
        if num_particles < 1:
            raise PpvaeError(f"{type(self).__name__}: expected num_particles of at least 1, found {num_particles}")
        super().__init__(num_particles=num_particles)  # type: ignore[no-untyped-call]
        self._stock_pairs: dict[Any, _StockPair] = {}

    @abstractmethod
    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """Estimate the bound of a batch.

        Args:
            pair: the pair.
            x: the batch, [B, *event].
            num_data: N, an argument of the programs; the terms are unscaled.
            kl_weight: factor on the KL in the objective; the reported bound is without it.
        """

    @in_evaluation_mode
    def check(self, pair: ModelGuidePair, x: Data, *, trains: bool = True) -> None:
        """Raise an error for a pair that this estimator does not support.

        Args:
            pair: the pair.
            x: a batch.
            trains: whether it is to be differentiated; its value alone needs no pathwise gradient.

        Raises:
            PairError: a guide that is not reparameterised, global latents under weights per datum, noise per datum
                under an estimator that needs log q(w), a KL without a closed form in strict mode, an auxiliary site
                where log q is needed at given draws; names the site and alternatives.
        """
        if pair.noise_per_datum and not self.serves_noise_per_datum:
            raise PairError(
                f"{type(self).__name__} needs log q(w) at the weights that the likelihood used, but here every datum "
                "has noise of its own and no such weight is ever drawn"
                + try_one_of(
                    "elbo.TraceMeanFieldELBO(), whose KL of the weights is global and needs no draw",
                    'bayesianise(..., weight_noise="shared")',
                )
            )
        if self.needs_rsample and trains:
            shape = structure(pair, x)
            # These need log q at given draws where some site has pathwise gradients, which an auxiliary site rules out.
            auxiliary = any(info.kind == "auxiliary" for info in shape.guide)
            auxiliary = auxiliary and any(info.has_rsample for info in shape.guide_latents)
            shape.require_reparameterized(
                type(self).__name__,
                "a guide of distributions with rsample, or one without auxiliary sites for elbo.ScoreFunctionELBO"
                if auxiliary
                else "elbo.ScoreFunctionELBO, elbo.VIMCO or elbo.ReweightedWakeSleep, which need no rsample",
                enumerates=self.serves_all_values,
            )
        if not self.supports_global_latents:
            structure(pair, x).require_weights_per_datum(
                type(self).__name__,
                "elbo.TraceELBO, elbo.TraceMeanFieldELBO, elbo.StickingTheLandingELBO or elbo.ScoreFunctionELBO",
                "move the site into the plate over data: with self.data_plate(x, num_data)",
            )
        self._check_scales(structure(pair, x))
        with torch.no_grad(), torch.random.fork_rng():
            self.terms(pair, x)  # any other error occurs here, and not in the middle of a captured step

    def _check_scales(self, shape: Structure) -> None:
        for info in shape.scaled:
            if info.scope == "global":
                raise PairError(
                    f"global site {info.name!r} is weighted by the program (poutine.scale): no part of a density"
                    + try_one_of(
                        "leave poutine.scale out: the objective is per datum, and N / B is applied by the estimator",
                        "fit(kl_warmup=KLWarmup(...)), which weights the KL of all latents",
                    )
                )
            if not self.serves_scaled_sites:
                raise PairError(
                    f"site {info.name!r} is weighted by the program (poutine.scale), which {type(self).__name__} does "
                    f"not serve: the weight of its particles would be that of another density"
                    + try_one_of(
                        "elbo.TraceELBO, elbo.TraceMeanFieldELBO or elbo.ImportanceWeightedELBO",
                        "fit(kl_warmup=KLWarmup(...)) instead of poutine.scale",
                    )
                )

    def advance(self, terms: BoundTerms) -> None:
        """Update the estimator's state after one estimate: write ``terms.buffers`` into :attr:`module`."""
        if self.module is None or terms.buffers is None:
            return
        buffers = dict(self.module.named_buffers())
        with torch.no_grad():
            for name, value in terms.buffers.items():
                buffers[name].copy_(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"

    # --- the interface of pyro.infer.SVI ---

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative objective of the whole data set, in nats: its gradient is the estimator's."""
        terms, num_data = self._stock_terms(model, guide, args, kwargs)
        return -terms.objective(num_data)

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The negative bound of the whole data set, in nats."""
        terms, num_data = self._stock_terms(model, guide, args, kwargs)
        return -terms.bound(num_data).item()

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """As :meth:`loss`; adds the gradient of the negative objective to every parameter."""
        terms, num_data = self._stock_terms(model, guide, args, kwargs)
        objective = -terms.objective(num_data)
        if objective.requires_grad:
            objective.backward()
        return -terms.bound(num_data).item()

    def _stock_terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[BoundTerms, int | None]:
        pair = self._stock_pairs.get((model, guide))
        if pair is None:
            pair = _StockPair(model, guide)
            self.check(pair, (args, kwargs))
            self._stock_pairs[(model, guide)] = pair
        x: Any = (args, kwargs)
        shape = structure(pair, x)
        sizes = [i.data_plate_size for i in (*shape.model, *shape.guide) if i.data_plate_size is not None]
        if self.module is not None:
            pyro.module(f"{type(self).__name__}_{id(self)}", self.module)  # SVI optimises the parameters here
        terms = self.terms(pair, x)
        self.advance(terms)
        return terms, (sizes[0] if sizes else None)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise PpvaeError(f"{type(self).__name__} does not walk traces itself: use terms()")


class _StockPair(ModelGuidePair):
    """Model and guide from ``pyro.infer.SVI``; their parameters stay in Pyro's store."""

    parameter_store = "pyro"

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        super().__init__()
        self.__dict__["programs"] = (model, guide)
        owner = getattr(model, "__self__", None)
        self.noise_per_datum = isinstance(owner, ModelGuidePair) and owner.noise_per_datum

    def model(self, x: Any, num_data: int | None = None) -> Any:
        args, kwargs = x
        return self.__dict__["programs"][0](*args, **kwargs)

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        args, kwargs = x
        return self.__dict__["programs"][1](*args, **kwargs)


class PairWithEstimator(nn.Module):
    """A pair and an estimator's own parameters and buffers, which are captured and optimised together.

    Args:
        pair: the pair.
        elbo: the estimator; its :attr:`ELBO.module` becomes the submodule ``module`` where there is one.
    """

    def __init__(self, pair: ModelGuidePair, elbo: ELBO) -> None:
        super().__init__()
        self.pair = pair
        if elbo.module is not None:
            self.module = elbo.module
