"""The step of AEVB: the bound of a batch, and the gradient of its objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import pyro.infer.elbo
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from .ascent import Ascent, Step
from ..elbo import ELBO, PairWithEstimator
from ..execution.processes import Processes
from ...core import Data, ModelGuidePair, PairError, PpvaeError, local_parameters, members_of, site_terms, structure
from ...core.compile import Mode
from ...core.errors import try_one_of

_log = logging.getLogger("ppvae.fit")

METRICS = ("elbo", "reconstruction", "kl", "global")


class Objective(Ascent):
    r"""The bound of a minibatch as an estimate for the whole data set, and the gradient of the loss.

    $$\text{loss} = -\frac{1}{N}\left( \frac{N}{M} \sum_{b=1}^{M} \widetilde{\mathcal{L}}_b
      + \mathcal{L}_\text{global} + \log p(\theta) \right)$$

    (Kingma & Welling 2013, arXiv 1312.6114, eq. 8, per datum; the last term with a weight prior only.)

    Args:
        pair: the pair.
        elbo: an estimator of ours, or one of Pyro's own, which then runs eagerly.
        num_data: N.
        weight_prior: a distribution over single weights for MAP estimation, or None.
        prior_names: names of the parameters under the weight prior.
        clip_norm: largest norm of the gradient, or None.
        mode: mode of capture.
        processes: that share a batch, see :class:`Ascent`.

    Attributes:
        module: the pair, or the pair and the estimator's own module.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        elbo: pyro.infer.elbo.ELBO,
        *,
        num_data: int,
        weight_prior: Distribution | None,
        prior_names: frozenset[str],
        clip_norm: float | None,
        mode: Mode,
        processes: Processes | None = None,
    ) -> None:
        self.elbo, self.ours = elbo, isinstance(elbo, ELBO)
        if not self.ours:
            if not hasattr(elbo, "differentiable_loss"):
                raise PpvaeError(
                    f"{type(elbo).__name__} of Pyro has no differentiable_loss; use its namesake in "
                    "ppvae.inference.elbo, which has"
                )
            if mode != "eager":
                _log.info("%s of Pyro reads values back, so it runs eagerly", type(elbo).__name__)
            mode = "eager"
        # The module to train: the pair, with the estimator's own parameters, a baseline for instance.
        with_module = isinstance(elbo, ELBO) and elbo.module is not None
        super().__init__(
            pair,
            PairWithEstimator(pair, cast(ELBO, elbo)) if with_module else pair,
            num_data=num_data,
            weight_prior=weight_prior,
            prior_names=prior_names,
            clip_norm=clip_norm,
            mode=mode,
            name="the training step",
            processes=processes,
        )

    def check(self, x: Data) -> None:
        """Check the weight of the global sites.

        Raises:
            PairError: an estimator of Pyro scales by the programs' plate size, and that is another N.
        """
        shape = structure(self.pair, x, self.num_data if self.pair.accepts_num_data else None)
        if self.ours or not shape.global_latents:
            return
        size = self._plate_size(x)
        if size != self.num_data:
            raise PairError(
                f"{type(self.elbo).__name__} of Pyro scales by what the programs state, which is {size} data and not "
                f"{self.num_data}: the KL of global latent site {shape.global_latents[0].name!r} would be counted "
                f"{self.num_data / size:g} times"
                + try_one_of(
                    f"its namesake in ppvae.inference.elbo, which scales by N = {self.num_data}",
                    "programs that take num_data and hand it to their data plate",
                    "batch_size=None",
                )
            )

    def _plate_size(self, x: Data) -> int:
        """N in the programs' data plate, for an estimator of Pyro."""
        shape = structure(self.pair, x, self.num_data if self.pair.accepts_num_data else None)
        sizes = [info.data_plate_size for info in shape.observed if info.data_plate_size is not None]
        return sizes[0] if sizes else len(next(iter(_tensors(x))))

    def reads(self) -> dict[str, Any]:
        """The non-tensor inputs of a step: the fingerprint of the pair, and the estimator's options."""
        return {**super().reads(), **_options(self.elbo, "elbo")}

    def apply(self, step: Step, optimizer: Optimizer) -> None:
        """Move the parameters by the gradients of a step, and write the estimator's new buffers back into it."""
        super().apply(step, optimizer)
        if step.buffers:
            buffers = dict(self.module.named_buffers())
            for name, value in step.buffers.items():
                buffers[f"module.{name}"].copy_(value)

    def _bound(self, module: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Objective and metrics of a batch under a weight of the KL or one for each site."""
        x, kl_weight = inputs
        pair = module.pair if isinstance(module, PairWithEstimator) else cast(ModelGuidePair, module)
        if isinstance(self.elbo, ELBO):
            # The weight is a mapping only where the estimator serves one.
            terms = self.elbo.terms(pair, x, self.num_data, kl_weight=kl_weight)
            global_ = terms.global_ / self.num_data
            metrics = (terms.local.mean() + global_, terms.reconstruction.mean(), terms.kl.mean(), global_)
            return terms.objective(self.num_data) / self.num_data, torch.stack(metrics), terms.buffers or {}
        with local_parameters(pair):
            arguments = (x, self.num_data) if pair.accepts_num_data else (x,)
            loss: Any = cast(Any, self.elbo).differentiable_loss(pair.model, pair.guide, *arguments)
        bound = -loss / self._plate_size(x)
        return bound, torch.stack((bound.detach(), *(bound.new_tensor(math.nan) for _ in range(3)))), {}


def _options(elbo: pyro.infer.elbo.ELBO, name: str) -> dict[str, Any]:
    """The numbers among an estimator's attributes, and those of the estimator that it adds to."""
    found: dict[str, Any] = {}
    for key, value in vars(elbo).items():
        if isinstance(value, ELBO):
            found |= _options(value, f"{name}.{key}")
        elif isinstance(value, int | float):
            found[f"{name}.{key}"] = value
    return found


class Diagnosis(NamedTuple):
    """The source of a value that is not finite.

    Attributes:
        message: one clause.
        site: the first sample site whose log density is not finite, or None.
        parameter: the first parameter whose value or gradient is not finite, or None.
    """

    message: str
    site: str | None
    parameter: str | None


def diagnose(pair: ModelGuidePair, x: Data, gradients: Mapping[str, Tensor], random_state: Tensor) -> Diagnosis:
    """Find the source of a value that is not finite in a step, by repeating its draws.

    Args:
        pair: the pair, with the parameters that the step started from.
        x: the batch.
        gradients: of the step, by parameter name.
        random_state: of PyTorch's CPU generator, before the step.
    """
    with torch.random.fork_rng():
        torch.set_rng_state(random_state)
        site, what = _first_bad_site(pair, x)
    parameter = bad_tensor(pair.named_parameters())
    gradient = bad_tensor(gradients.items())
    if parameter is not None:
        message = f"parameter {parameter!r} has a value that is not finite"
    elif site is not None:
        message = f"site {site!r} has a {what}"
    elif gradient is not None:
        message = f"the gradient of parameter {gradient!r} is not finite"
    else:
        message = "the norm of the gradient overflows"
    return Diagnosis(message, site, parameter or gradient)


def _first_bad_site(pair: ModelGuidePair, x: Data) -> tuple[str | None, str]:
    """The first site with a density or a KL that is not finite, and what it is."""
    with torch.no_grad():
        for term in site_terms(pair, x, analytic=True).values():
            for value, what, absent in (
                (term.log_q, "log density", math.nan),
                (term.log_p, "log density", -math.inf),
                (term.kl, "KL", math.inf),
            ):
                if value is None or bool(torch.isfinite(value).all()):
                    continue
                outside = term.kl is not None and bool((value == absent).any())
                where = ": the guide reaches where the prior has no density, or next to none" if outside else ""
                return term.name, f"{what} that is not finite{where}"
    return None, ""


def bad_tensor(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that is not finite."""
    for name, value in tensors:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return str(name)
    return None


def _tensors(x: Data) -> list[Tensor]:
    return list(members_of(x).values())
