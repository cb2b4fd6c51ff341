"""Monte Carlo EM, the second baseline of AEVB: posterior draws by HMC, then steps on the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import Distribution

from .ascent import Ascent, Step, names_of_model
from .changes import Changes
from .loop import Loop
from .objective import bad_tensor
from .options import DEFAULT_BATCH_SIZE, MakeOptimizer, make_optimizer, rows_per_step
from .state import AnyCallback, Fit, OnInterrupt, Row, TrainingState
from ..elbo.evaluation import BoundEstimate
from ..execution.arguments import require_integer, require_literal, require_pair
from ..execution.placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..execution.processes import number_of_processes
from ..execution.readiness import check_training
from ..hmc.integrator import leapfrog
from ..hmc.kernel import HMCParameters, draw_noise, hmc_kernel, initial_state
from ..hmc.target import posterior_target, start_positions
from ...core import (
    Data,
    FitError,
    ModelGuidePair,
    PpvaeError,
    Unconstrained,
    log_joint,
    structure,
    unconstrained,
)
from ...core import (
    batch_size as rows_of_batch,
)
from ...core.compile import Captured, Mode, capture
from ...core.errors import try_one_of
from ...core.modes import evaluation_mode
from ...data import Minibatches, as_dataset

JITTER = 0.2  # of the step size of a transition
_GAIN = 0.5  # of the logarithm of the step size, for each unit of acceptance


def fit_mcem(
    pair: ModelGuidePair,
    data: Any,
    *,
    optimizer: str | MakeOptimizer | PyroOptim = "adagrad",
    learning_rate: float = 0.02,
    num_epochs: int = 100,
    batch_size: int | None = DEFAULT_BATCH_SIZE,
    num_leapfrog: int = 10,
    num_updates: int = 5,
    target_acceptance: float = 0.9,
    weight_prior: Distribution | None = None,
    seed: int = 0,
    device: str = "auto",
    compile: Compile = "auto",
    callbacks: Iterable[AnyCallback] = (),
    progress: bool = True,
    resume: Mapping[str, Any] | None = None,
    on_interrupt: OnInterrupt = "raise",
) -> Fit:
    r"""Train the model of a pair by Monte Carlo EM (Kingma & Welling 2013, arXiv 1312.6114, appendix E).

    $$z_b \leftarrow \text{one HMC transition for } p_\theta(z \mid x_b),\qquad
      \theta \leftarrow \theta + \text{steps on } \frac{1}{M} \sum_b \nabla_\theta \log p_\theta(x_b, z_b)$$

    The guide is not used: latents of every datum persist from one visit to the next. The step size of HMC adapts to the
    acceptance during training. Not an online method: a datum's chain moves once an epoch. A step of the
    :class:`TrainingState` is a minibatch: one transition of its chains, then ``num_updates`` steps on the weights.

    Args:
        pair: the pair; its model's parameters are trained in place.
        data: N training data.
        optimizer: as for :func:`ppvae.inference.fit`; the paper's is Adagrad.
        learning_rate: step size of a named optimiser.
        num_epochs: epochs.
        batch_size: M, or None for all data; the default takes all of fewer than 100.
        num_leapfrog: of one transition; the paper's is 10. All are one recorded function: hundreds take long to record.
        num_updates: steps on the weights after each transition; the paper's is 5.
        target_acceptance: the paper's is 0.9.
        weight_prior: a distribution over single weights, for MAP estimation.
        seed: of minibatches and noise.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.inference.fit`.
        callbacks: see :func:`ppvae.inference.fit`; the place for a bound on held-out data, which needs a guide.
        progress: show a bar on a terminal, and elsewhere a line now and then.
        resume: a state from ``TrainingState.state_dict()`` to resume from, the chains among it.
        on_interrupt: see :func:`ppvae.inference.fit`.

    Returns:
        a :class:`Fit`; log_joint_train in its history is the mean of log p(x, z) at the draws, in nats per datum.

    Raises:
        PairError: discrete latents, or global ones.
        FitError: a value or gradient is not finite; parameters are as they were before that update.
        FitInterrupt: Ctrl-C, after the current step.
        PpvaeError: more than one process.
    """
    require_pair(pair, "fit_mcem")
    if (count := number_of_processes()) > 1:
        raise PpvaeError(
            f"fit_mcem: expected one process, found {count}: the chains of all data stand in one"
            + try_one_of("one process", "fit, which several processes share")
        )
    require_literal("on_interrupt", on_interrupt, OnInterrupt)
    require_integer("num_epochs", num_epochs, 0)
    require_integer("num_leapfrog", num_leapfrog, 1)
    require_integer("num_updates", num_updates, 1)
    require_integer("seed", seed, 0)
    if batch_size is not None:
        require_integer("batch_size", batch_size, 1)
    if not 0 < target_acceptance < 1:
        raise PpvaeError(f"target_acceptance: expected a number between 0 and 1, found {target_acceptance}")
    where = choose_device(device)
    pair.to(where)
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(where)
    batches = Minibatches(dataset, rows_per_step(batch_size, len(dataset)), seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mode = choose_mode(compile, num_epochs * len(batches) * (num_leapfrog + num_updates))
        with evaluation_mode(pair):
            rows = torch.arange(batches.batch_size or len(dataset), device=where)
            example = like_pair(dataset.batch(rows, dtype=dtype), dtype)
            check_training(pair, example, dataset, None, explicit=False)
            for info in structure(pair, example).global_latents:
                raise PpvaeError(f"Monte Carlo EM draws local latents only; {info.name!r} is global")
            coordinates = unconstrained(pair, example)
            names = names_of_model(pair, example)
            chains = Chains(pair, example, coordinates, len(dataset), num_leapfrog, target_acceptance, mode)
        complete = CompleteData(pair, coordinates, names, weight_prior, len(dataset), mode)
        torch_optimizer = make_optimizer(optimizer, learning_rate, complete.trainable.values())
        state = TrainingState(pair, torch_optimizer, None, batches, estimator=chains)
        state.sums = torch.zeros(3, dtype=torch.float64)  # log p(x, z), acceptance, norm of the gradient
        if resume is not None:
            state.load_state_dict(resume)
        changes = Changes(complete, torch_optimizer, (example, chains.u[rows]), [chains.captured])
        loop = _Run(state, chains, complete, changes, num_updates, num_epochs, dtype)
        return loop(callbacks, progress, on_interrupt)


class Chains(nn.Module):
    """The E-step: a persistent HMC chain for every datum, and their common step size.

    Args:
        pair: the pair, in evaluation mode: one density, without dropout's noise.
        example: a batch of the shape of every step.
        coordinates: of its latents.
        num_data: N, chains; each starts at a draw from the prior, which does not depend on the datum.
        num_leapfrog: of a transition.
        target_acceptance: what the step size adapts to.
        mode: of capture.

    Attributes:
        u: where the chains are, [N, d].
        log_step_size: of the next transition, float64.
    """

    u: Tensor
    log_step_size: Tensor

    def __init__(
        self,
        pair: ModelGuidePair,
        example: Data,
        coordinates: Unconstrained,
        num_data: int,
        num_leapfrog: int,
        target_acceptance: float,
        mode: Mode,
    ) -> None:
        super().__init__()
        starts = [
            start_positions(pair, example, coordinates, 1, "prior")[0]
            for _ in range(0, num_data, rows_of_batch(example))
        ]
        self.register_buffer("u", torch.cat(starts)[:num_data].clone())
        self.register_buffer("log_step_size", torch.tensor(0.1, dtype=torch.float64, device=self.u.device).log())
        target = posterior_target(pair, coordinates)
        kernel = hmc_kernel(leapfrog(target), num_leapfrog, jitter=JITTER, inner=leapfrog(target, value=False))

        def transition(state: dict[str, Tensor], x: Data, u: Tensor, log_step_size: Tensor) -> tuple[Tensor, ...]:
            state = {name: value.detach() for name, value in state.items()}
            u = u.unsqueeze(0)
            scales = HMCParameters(log_step_size.exp().to(u.dtype).expand(u.shape[:-1]), torch.ones_like(u))
            with evaluation_mode(pair):
                new, info = kernel(initial_state(target, u, state, x), draw_noise(u), scales, state, x)
            acceptance = info.acceptance.mean().to(log_step_size)
            return new.u[0], acceptance, log_step_size + _GAIN * (acceptance - target_acceptance)

        self.captured: Captured = capture(transition, mode=mode, name="the transition of the chains")

    def move(self, state: Mapping[str, Tensor], x: Data, index: Tensor) -> tuple[Tensor, Tensor]:
        """One transition of the chains of these data: the new positions, [M, d], and the mean acceptance."""
        u, acceptance, log_step_size = self.captured(state, x, self.u[index], self.log_step_size)
        self.u[index] = u
        self.log_step_size.copy_(log_step_size)
        return u, acceptance


class CompleteData(Ascent):
    r"""The M-step: $\frac{1}{M} \sum_b \log p_\theta(x_b, z_b)$ and its gradient in the model's parameters.

    Args:
        pair: the pair.
        coordinates: of its latents.
        names: of the model's parameters.
        weight_prior: a distribution over single weights, or None.
        num_data: N.
        mode: of capture.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        coordinates: Unconstrained,
        names: frozenset[str],
        weight_prior: Distribution | None,
        num_data: int,
        mode: Mode,
    ) -> None:
        self.coordinates = coordinates
        super().__init__(
            pair,
            pair,
            without=frozenset(name for name, _ in pair.named_parameters()) - names,
            num_data=num_data,
            weight_prior=weight_prior,
            prior_names=names,
            clip_norm=None,
            mode=mode,
            name="the M-step",
        )

    def _bound(self, module: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x, u = inputs
        latents, _ = self.coordinates.constrain(u)
        value = log_joint(self.pair, x, latents).local.mean()
        return value, value[None], {}


class _Run(Loop):
    """One call of :func:`fit_mcem`: the loop."""

    metric = "log p(x, z)"

    def __init__(
        self,
        state: TrainingState,
        chains: Chains,
        complete: CompleteData,
        changes: Changes,
        num_updates: int,
        num_epochs: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(state, changes, num_epochs, dtype)
        self.chains, self.complete, self.num_updates = chains, complete, num_updates

    def _step(self, x: Data, index: Tensor) -> Tensor:
        u, acceptance = self.chains.move(self.complete.inputs, x, index)
        for update in range(self.num_updates):
            step = self.complete(x, u)
            if not math.isfinite(float(step.check)):
                self._refuse(step, update, index)
            self.complete.apply(step, self.state.optimizer)
        return torch.stack((step.metrics[0].double(), acceptance, step.gradient_norm.double()))

    def _row(self, means: list[float], held_out: BoundEstimate | None) -> Row:
        step_size = float(self.chains.log_step_size.exp())
        return {"log_joint_train": means[0], "acceptance": means[1], "step_size": step_size}

    def _refuse(self, step: Step, update: int, index: Tensor) -> None:
        parameter = bad_tensor(self.complete.trainable.items()) or bad_tensor(step.gradients.items())
        state, rows = self.state, ", ".join(map(str, index[:8].tolist()))
        raise FitError(
            f"Monte Carlo EM stopped in update {update + 1} of step {state.step + 1} (epoch {state.epoch + 1}), which "
            f"changed no parameter: log p(x, z) or its gradient is not finite"
            f"{f', that of {parameter!r} for instance' if parameter else ''}; the batch holds rows {rows}"
            f"{', ...' if len(index) > 8 else ''}"
            + try_one_of("a smaller learning_rate", "data on the scale that the likelihood expects"),
            parameter=parameter,
            step=state.step + 1,
            indices=tuple(index.tolist()),
        )
