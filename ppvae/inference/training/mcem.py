"""Monte Carlo EM, the second baseline of AEVB: posterior draws by HMC, then steps on the weights."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import Distribution

from .options import DEFAULT_BATCH_SIZE, MakeOptimizer, make_optimizer, rows_per_step
from .state import FitInterrupt, FitOutcome, OnInterrupt, Row
from ..execution.arguments import require_literal
from ..execution.placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..execution.progress import progress_bar
from ..hmc.integrator import leapfrog, value_and_gradient
from ..hmc.kernel import HMCParameters, HMCState, draw_noise, hmc_kernel
from ..hmc.target import posterior_target, start_positions
from ...core import (
    Data,
    FitError,
    ModelGuidePair,
    PpvaeError,
    batch_size,
    check_pair,
    log_joint,
    parameter_roles,
    unconstrained,
)
from ...core.compile import Mode, bind, capture, state_of
from ...core.modes import evaluation_mode
from ...data import Minibatches, as_dataset

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
    progress: bool = True,
    on_interrupt: OnInterrupt = "raise",
) -> tuple[list[Row], FitOutcome]:
    r"""Train the model of a pair by Monte Carlo EM (Kingma & Welling 2013, arXiv 1312.6114, appendix E).

    $$z_b \leftarrow \text{one HMC transition for } p_\theta(z \mid x_b),\qquad
      \theta \leftarrow \theta + \text{steps on } \frac{1}{M} \sum_b \nabla_\theta \log p_\theta(x_b, z_b)$$

    The guide is not used: latents of every datum persist from one visit to the next. The step size of HMC adapts to the
    acceptance during training. Not an online method: a datum's chain moves once an epoch.

    Args:
        pair: the pair; its model's parameters are trained in place.
        data: N training data.
        optimizer: as for :func:`ppvae.inference.fit`; the paper's is Adagrad.
        learning_rate: step size of a named optimiser.
        num_epochs: epochs.
        batch_size: M, or None for all data; the default takes all of fewer than 100.
        num_leapfrog: of one transition; the paper's is 10.
        num_updates: steps on the weights after each transition; the paper's is 5.
        target_acceptance: the paper's is 0.9.
        weight_prior: a distribution over single weights, for MAP estimation.
        seed: of minibatches and noise.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.inference.fit`.
        progress: show a bar on a terminal, and elsewhere a line now and then.
        on_interrupt: see :func:`ppvae.inference.fit`.

    Returns:
        one row per epoch (log_joint_train in nats per datum, acceptance, step_size, seconds), and the outcome.

    Raises:
        PairError: discrete latents, or global ones.
        FitError: a gradient is not finite.
        FitInterrupt: Ctrl-C.
    """
    require_literal("on_interrupt", on_interrupt, OnInterrupt)
    if num_leapfrog < 1 or num_updates < 1:
        raise PpvaeError(f"expected num_leapfrog and num_updates of at least 1, found {num_leapfrog}, {num_updates}")
    where = choose_device(device)
    pair.to(where)
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(where)
    batches = Minibatches(dataset, rows_per_step(batch_size, len(dataset)), seed=seed)
    size = batches.batch_size or len(dataset)
    rows: list[Row] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        example = like_pair(dataset.batch(torch.arange(size, device=where), dtype=dtype), dtype)
        shape = check_pair(pair, example, num_data=len(dataset))
        if shape.global_latents:
            raise PpvaeError(f"Monte Carlo EM draws local latents only; {shape.global_latents[0].name!r} is global")
        coordinates = unconstrained(pair, example)
        mode = choose_mode(compile, num_epochs * len(batches) * num_leapfrog)
        chains = _Chains(pair, coordinates, num_leapfrog, target_acceptance, mode)
        update = _Update(pair, coordinates, weight_prior, len(dataset), mode, example)
        torch_optimizer = make_optimizer(optimizer, learning_rate, update.parameters.values())
        chains.start(example, len(dataset))
        bar = progress_bar(range(num_epochs), unit="epoch", show=progress)
        start = time.perf_counter()
        try:
            for epoch in bar:
                sums = torch.zeros(2, dtype=torch.float64)
                for _ in range(len(batches)):
                    index = batches.next_index()
                    x = like_pair(dataset.batch(index, batches.generator, dtype=dtype), dtype)
                    u, acceptance = chains.move(x, index)
                    for _ in range(num_updates):
                        value = update(x, u, torch_optimizer)
                    sums += torch.tensor([value, acceptance], dtype=torch.float64)
                mean = (sums / len(batches)).tolist()
                rows.append(
                    {
                        "epoch": epoch + 1,
                        "log_joint_train": mean[0],
                        "acceptance": mean[1],
                        "step_size": chains.step_size,
                        "seconds": time.perf_counter() - start,
                    }
                )
                bar.set_postfix_str(f"log p(x, z) {mean[0]:.2f} nats/datum, acceptance {mean[1]:.2f}")
        except KeyboardInterrupt:
            outcome = FitOutcome("interrupted", f"interrupted in epoch {len(rows) + 1}")
            if on_interrupt == "raise":
                raise FitInterrupt(outcome, rows) from None
            return rows, outcome
    return rows, FitOutcome("completed", f"completed {num_epochs} epochs")


class _Chains:
    """The E-step: a persistent HMC chain for every datum, and their common step size."""

    def __init__(
        self, pair: ModelGuidePair, coordinates: Any, num_leapfrog: int, target_acceptance: float, mode: Mode
    ) -> None:
        target = posterior_target(pair, coordinates)
        self._evaluate = capture(value_and_gradient(target), mode=mode, name="the posterior's density")
        step = capture(leapfrog(target), mode=mode, name="the leapfrog step")
        self._kernel = hmc_kernel(step, num_leapfrog, jitter=0.2)
        self.pair, self.coordinates, self.target_acceptance = pair, coordinates, target_acceptance
        self.log_step = math.log(0.1)

    def start(self, example: Data, num_data: int) -> None:
        """Every chain at a draw from the prior, which does not depend on the datum."""
        size = batch_size(example)
        with evaluation_mode(self.pair):
            starts = [
                start_positions(self.pair, example, self.coordinates, 1, "prior")[0] for _ in range(0, num_data, size)
            ]
        self.u = torch.cat(starts)[:num_data].clone()

    def move(self, x: Data, index: Tensor) -> tuple[Tensor, float]:
        """One transition of the chains of these data: the new positions, [M, d], and the mean acceptance."""
        context: tuple[Any, ...] = (state_of(self.pair), x)
        u = self.u[index].unsqueeze(0).contiguous()
        scales = HMCParameters(u.new_full(u.shape[:-1], self.step_size), torch.ones_like(u[0]))
        with evaluation_mode(self.pair):  # one density, without dropout's noise
            state, info = self._kernel(HMCState(u, *self._evaluate(u, *context)), draw_noise(u), scales, *context)
        acceptance = float(info.acceptance.mean())
        self.log_step += _GAIN * (acceptance - self.target_acceptance)
        self.u[index] = state.u[0]
        return state.u[0], acceptance

    @property
    def step_size(self) -> float:
        """That of the next transition."""
        return math.exp(self.log_step)


class _Update:
    """The M-step: a gradient of log p(x, z) in the model's parameters, captured, and the optimiser's step."""

    def __init__(
        self, pair: ModelGuidePair, coordinates: Any, prior: Distribution | None, num_data: int, mode: Any, x: Data
    ) -> None:
        of_model = {name for name, roles in parameter_roles(pair, x).items() if "model" in roles}
        self.parameters = {name: value for name, value in pair.named_parameters() if name in of_model}
        self._constants = {name: value for name, value in state_of(pair).items() if name not in of_model}
        prior = copy.copy(prior)
        if prior is not None:
            prior._validate_args = False  # validation reads values back, which nothing captured may do

        def joint(pair: ModelGuidePair, x: Data, u: Tensor) -> Tensor:
            latents, _ = coordinates.constrain(u)
            return log_joint(pair, x, latents).local.mean()

        pure = bind(pair, joint)

        def gradient(trainable: dict[str, Tensor], constants: dict[str, Tensor], x: Data, u: Tensor) -> tuple[Any, ...]:
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in trainable.items()}
                value = pure({**constants, **leaves}, x, u)
                total = value
                if prior is not None:
                    total = total + sum(prior.log_prob(leaf).sum() for leaf in leaves.values()) / num_data
                gradients = torch.autograd.grad(-total, list(leaves.values()))
            return value.detach(), list(gradients), value.detach() + sum(g.square().sum() for g in gradients)

        self._gradient = capture(gradient, mode=mode, name="the M-step")

    def __call__(self, x: Data, u: Tensor, optimizer: torch.optim.Optimizer) -> float:
        value, gradients, check = self._gradient(self.parameters, self._constants, x, u)
        if not math.isfinite(float(check)):
            raise FitError(
                "Monte Carlo EM stopped before a parameter changed: log p(x, z) or its gradient is not finite"
            )
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return float(value)
