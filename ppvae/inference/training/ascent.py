"""One step of gradient ascent on an objective of a pair, as one captured function."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from ..execution.processes import Processes
from ...core import Data, ModelGuidePair, PpvaeError, parameter_roles
from ...core.compile import Captured, Mode, bind, capture, preserve
from ...core.errors import try_one_of
from ...core.fingerprint import differences, fingerprint
from ...core.lengths import bucket_of, no_longer_than


class Step(NamedTuple):
    """The result of one step.

    Attributes:
        metrics: in nats per datum, the objective's own first; NaN where not known.
        gradients: of the loss per datum, after clipping, by parameter name.
        gradient_norm: Euclidean norm over all gradients before clipping.
        check: a sum of everything above that is finite only if all of it is.
        buffers: next values of the objective's own buffers; empty for most.
    """

    metrics: Tensor
    gradients: dict[str, Tensor]
    gradient_norm: Tensor
    check: Tensor
    buffers: dict[str, Tensor]


class Ascent(ABC):
    """An objective per datum with its gradient: the function that a step of training calls.

    Args:
        pair: the pair.
        module: the pair, or a module that holds it as ``pair``.
        without: names of the module's parameters that are not trained, beside those that require no gradient.
        num_data: N.
        weight_prior: a distribution over single weights for MAP estimation, or None.
        prior_names: names of the pair's parameters under the weight prior.
        clip_norm: largest norm of the gradient, or None.
        mode: mode of capture.
        name: what log lines call the step.
        processes: that share a batch, each with its rows: their gradients are averaged before they are clipped.

    Attributes:
        trainable: the parameters that a step has gradients for, by name.
        constants: the other parameters and the buffers, by name.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        module: nn.Module,
        *,
        without: frozenset[str] = frozenset(),
        num_data: int,
        weight_prior: Distribution | None,
        prior_names: frozenset[str],
        clip_norm: float | None,
        mode: Mode,
        name: str,
        processes: Processes | None = None,
    ) -> None:
        self.pair, self.module, self.without, self.num_data = pair, module, without, num_data
        self.processes = processes or Processes()
        self.weight_prior, self.prior_names, self.clip_norm = copy.copy(weight_prior), prior_names, clip_norm
        if self.weight_prior is not None:
            self.weight_prior._validate_args = False  # validation reads values back, which nothing captured may do
        self.collect()
        self._pure = bind(module, self._bound)
        self._step = capture(self._gradient, mode=mode, name=name)

    @abstractmethod
    def _bound(self, module: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The objective to ascend per datum, the metrics, and new values of buffers, from a batch and what else."""

    def collect(self) -> None:
        """Find the tensors that a step takes: once, because walking the modules takes as long as a small network."""
        parameters = dict(self.module.named_parameters())
        self.trainable = {
            name: value for name, value in parameters.items() if value.requires_grad and name not in self.without
        }
        if not self.trainable:
            raise PpvaeError(
                f"{type(self.module).__name__}: nothing to train: expected a parameter that requires a gradient, found "
                f"{len(parameters)} parameters, none of which does"
                + try_one_of("nn.Parameter or pyro.param for what is to be learnt", "parameter.requires_grad_(True)")
            )
        self.constants: dict[str, Tensor] = {
            name: value for name, value in parameters.items() if name not in self.trainable
        }
        self.constants.update(self.module.named_buffers())

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All parameters and buffers of the module, by name."""
        return {**self.trainable, **self.constants}

    def reads(self) -> dict[str, Any]:
        """The non-tensor inputs of a step."""
        return fingerprint(self.pair)

    def side_effects(self, *inputs: Any) -> list[str]:
        """Names of the attributes that the programs change when they run, which a graph of them would miss."""
        before = fingerprint(self.pair)
        with torch.no_grad(), torch.random.fork_rng(), preserve(self.module.buffers()):
            self._bound(self.module, *inputs)
        return differences(before, fingerprint(self.pair))

    @property
    def captured(self) -> Captured:
        """The step as a captured function."""
        return self._step

    @property
    def fallback(self) -> str:
        """Why the step runs in another mode than the requested one; empty where it does not."""
        return self._step.fallback

    def written_buffers(self, *inputs: Any) -> list[str]:
        """Names of the module's buffers that the programs write, such as the statistics of a batch norm."""
        before = {name: value.clone() for name, value in self.module.named_buffers()}
        with torch.no_grad(), torch.random.fork_rng(), preserve(self.module.buffers()):
            self._bound(self.module, *inputs)
            after = {name: value.clone() for name, value in self.module.named_buffers()}
        return [name for name in before if not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())]

    def __call__(self, x: Data, *inputs: Any) -> Step:
        """The metrics and gradients of one batch, of which this process has its share."""
        step = self.of_share(x, *inputs)
        if self.processes.count == 1:
            return step
        means = iter(self.processes.mean([step.metrics, *step.gradients.values(), *step.buffers.values()]))
        metrics = next(means)
        gradients = {name: next(means) for name in step.gradients}
        return self._clipped(metrics, gradients, {name: next(means) for name in step.buffers})

    def of_share(self, x: Data, *inputs: Any) -> Step:
        """The step of this process alone; where there are several, its gradients are not clipped."""
        # An eager step sees the lengths itself, and to compile one for each number of steps would take too long.
        steps = bucket_of(self.pair.sequence_lengths(x)) if self._step.mode == "graph" else None
        step: Step = self._step(self.trainable, self.constants, steps, x, *inputs)
        return step

    def apply(self, step: Step, optimizer: Optimizer) -> None:
        """Move the parameters by the gradients of a step."""
        for name, parameter in self.trainable.items():
            parameter.grad = step.gradients[name]
        optimizer.step()

    def _gradient(
        self, trainable: Mapping[str, Tensor], constants: dict[str, Tensor], steps: int | None, x: Data, *inputs: Any
    ) -> Step:
        with torch.enable_grad(), no_longer_than(steps, self.pair.sequence_lengths(x)):
            leaves = {name: value.detach().requires_grad_() for name, value in trainable.items()}
            objective, metrics, buffers = self._pure({**leaves, **constants}, x, *inputs)
            if self.weight_prior is not None:
                prefix = "" if self.module is self.pair else "pair."
                for name in sorted(self.prior_names):
                    if prefix + name in leaves:  # that of a frozen weight is constant
                        log_prior = self.weight_prior.log_prob(leaves[prefix + name]).sum()
                        objective = objective + log_prior / self.num_data
            gradients = torch.autograd.grad(
                -objective, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        by_name = dict(zip(leaves, gradients, strict=True))
        buffers = {name: value.detach() for name, value in buffers.items()}
        return self._clipped(metrics.detach(), by_name, buffers, clip=self.processes.count == 1)

    def _clipped(
        self, metrics: Tensor, gradients: dict[str, Tensor], buffers: dict[str, Tensor], *, clip: bool = True
    ) -> Step:
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        if self.clip_norm is not None and clip:
            factor = (self.clip_norm / (norm + 1e-12)).clamp(max=1.0)
            gradients = {name: gradient * factor for name, gradient in gradients.items()}
        return Step(metrics, gradients, norm, metrics[0] + norm, buffers)


def names_of_model(pair: ModelGuidePair, x: Data) -> frozenset[str]:
    """The parameters that the model reads."""
    return frozenset(name for name, roles in parameter_roles(pair, x).items() if "model" in roles)
