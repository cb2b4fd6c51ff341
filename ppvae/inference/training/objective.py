"""One training step as one captured function: the bound of a batch and the gradient of its objective."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import pyro.infer.elbo
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..elbo import ELBO, PairWithEstimator
from ...core import Data, ModelGuidePair, PairError, PpvaeError, local_parameters, members_of, site_terms, structure
from ...core.compile import Captured, Mode, bind, capture, preserve
from ...core.errors import try_one_of
from ...core.fingerprint import differences, fingerprint
from ...core.lengths import bucket_of, no_longer_than

_log = logging.getLogger("ppvae.fit")

METRICS = ("elbo", "reconstruction", "kl", "global")


class Step(NamedTuple):
    """The result of one step.

    Attributes:
        metrics: elbo, reconstruction, KL and global part, in nats per datum, [4]; NaN where not known.
        gradients: of the loss per datum, after clipping, by parameter name.
        gradient_norm: Euclidean norm over all gradients before clipping.
        check: a sum of everything above that is finite only if all of it is.
        buffers: next values of the estimator's own buffers; empty for most.
    """

    metrics: Tensor
    gradients: dict[str, Tensor]
    gradient_norm: Tensor
    check: Tensor
    buffers: dict[str, Tensor]


class Objective:
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

    Attributes:
        module: the pair, or the pair and the estimator's own module.
        trainable: the parameters that a step has gradients for, by name.
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
    ) -> None:
        self.pair, self.elbo, self.num_data = pair, elbo, num_data
        self.weight_prior, self.prior_names, self.clip_norm = copy.copy(weight_prior), prior_names, clip_norm
        if self.weight_prior is not None:
            self.weight_prior._validate_args = False  # validation reads values back, which nothing captured may do
        self.ours = isinstance(elbo, ELBO)
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
        self.module: nn.Module = pair
        if isinstance(elbo, ELBO) and elbo.module is not None:
            self.module = PairWithEstimator(pair, elbo)
        self.collect()
        self._pure = bind(self.module, self._bound)
        self._step = capture(self._gradient, mode=mode, name="the training step")

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

    def collect(self) -> None:
        """Find the tensors that a step takes: once, because walking the modules takes as long as a small network."""
        parameters = dict(self.module.named_parameters())
        self.trainable = {name: value for name, value in parameters.items() if value.requires_grad}
        self._constants: dict[str, Tensor] = {
            name: value for name, value in parameters.items() if not value.requires_grad
        }
        self._constants.update(self.module.named_buffers())

    def reads(self) -> dict[str, Any]:
        """The non-tensor inputs of a step: the fingerprint of the pair, and the estimator's options."""
        options = {f"elbo.{name}": value for name, value in vars(self.elbo).items() if isinstance(value, int | float)}
        return {**fingerprint(self.pair), **options}

    def side_effects(self, x: Data) -> list[str]:
        """Names of the attributes that the programs change when they run, which a graph of them would miss."""
        before = fingerprint(self.pair)
        with torch.no_grad(), torch.random.fork_rng(), preserve(self.module.buffers()):
            self._bound(self.module, x, torch.ones((), dtype=next(iter(self.module.parameters())).dtype))
        return differences(before, fingerprint(self.pair))

    @property
    def captured(self) -> Captured:
        """The step as a captured function."""
        return self._step

    @property
    def fallback(self) -> str:
        """Why the step runs in another mode than the requested one; empty where it does not."""
        return self._step.fallback

    def __call__(self, x: Data, kl_weight: Tensor | dict[str, Tensor]) -> Step:
        """The metrics and gradients of one batch, under a weight of the KL or one for each site."""
        # An eager step sees the lengths itself, and to compile one for each number of steps would take too long.
        steps = bucket_of(self.pair.sequence_lengths(x)) if self._step.mode == "graph" else None
        step: Step = self._step(self.trainable, self._constants, x, kl_weight, steps)
        return step

    def remember(self, step: Step) -> None:
        """Write the estimator's new buffers back into it."""
        if step.buffers:
            buffers = dict(self.module.named_buffers())
            for name, value in step.buffers.items():
                buffers[f"module.{name}"].copy_(value)

    def _bound(
        self, module: nn.Module, x: Data, kl_weight: Tensor | dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Objective and metrics, per datum, and the estimator's new buffers."""
        pair = module.pair if isinstance(module, PairWithEstimator) else cast(ModelGuidePair, module)
        if isinstance(self.elbo, ELBO):
            weight: Any = kl_weight  # a mapping only where the estimator serves one
            terms = self.elbo.terms(pair, x, self.num_data, kl_weight=weight)
            global_ = terms.global_ / self.num_data
            metrics = (terms.local.mean() + global_, terms.reconstruction.mean(), terms.kl.mean(), global_)
            return terms.objective(self.num_data) / self.num_data, torch.stack(metrics), terms.buffers or {}
        with local_parameters(pair):
            arguments = (x, self.num_data) if pair.accepts_num_data else (x,)
            loss: Any = cast(Any, self.elbo).differentiable_loss(pair.model, pair.guide, *arguments)
        bound = -loss / self._plate_size(x)
        return bound, torch.stack((bound.detach(), *(bound.new_tensor(math.nan) for _ in range(3)))), {}

    def _gradient(
        self,
        trainable: Mapping[str, Tensor],
        constants: dict[str, Tensor],
        x: Data,
        kl_weight: Tensor | dict[str, Tensor],
        steps: int | None,
    ) -> Step:
        with torch.enable_grad(), no_longer_than(steps, self.pair.sequence_lengths(x)):
            leaves = {name: value.detach().requires_grad_() for name, value in trainable.items()}
            objective, metrics, buffers = self._pure({**leaves, **constants}, x, kl_weight)
            if self.weight_prior is not None:
                prefix = "" if self.module is self.pair else "pair."
                for name in sorted(self.prior_names):
                    objective = objective + self.weight_prior.log_prob(leaves[prefix + name]).sum() / self.num_data
            gradients = torch.autograd.grad(
                -objective, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        buffers = {name: value.detach() for name, value in buffers.items()}
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        if self.clip_norm is not None:
            factor = (self.clip_norm / (norm + 1e-12)).clamp(max=1.0)
            gradients = tuple(gradient * factor for gradient in gradients)
        metrics = metrics.detach()
        return Step(metrics, dict(zip(leaves, gradients, strict=True)), norm, metrics[0] + norm, buffers)


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
        site = _first_bad_site(pair, x)
    parameter = _first_bad_tensor(pair.named_parameters())
    gradient = _first_bad_tensor(gradients.items())
    if parameter is not None:
        message = f"parameter {parameter!r} has a value that is not finite"
    elif site is not None:
        message = f"site {site!r} has a log density that is not finite"
    elif gradient is not None:
        message = f"the gradient of parameter {gradient!r} is not finite"
    else:
        message = "the norm of the gradient overflows"
    return Diagnosis(message, site, parameter or gradient)


def _first_bad_site(pair: ModelGuidePair, x: Data) -> str | None:
    with torch.no_grad():
        for term in site_terms(pair, x).values():
            for value in (term.log_q, term.log_p):
                if value is not None and not bool(torch.isfinite(value).all()):
                    return term.name
    return None


def _first_bad_tensor(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    for name, value in tensors:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return str(name)
    return None


def _tensors(x: Data) -> list[Tensor]:
    return list(members_of(x).values())
