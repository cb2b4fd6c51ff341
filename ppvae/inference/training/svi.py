"""AEVB training: stochastic gradient ascent on an estimator of the bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyro.infer.elbo
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import Distribution

from .ascent import names_of_model
from .block import make_block
from .changes import Changes
from .data_parallel import require_equal_shares, require_same, require_sum_over_data, shapes
from .objective import Objective
from .options import (
    DEFAULT_BATCH_SIZE,
    EarlyStopping,
    MakeOptimizer,
    MakeSchedule,
    make_optimizer,
    rows_per_step,
)
from .scheduled import KLWeight, Scheduled
from .schedules import KLWarmup, Schedule
from .state import AnyCallback, Fit, OnInterrupt, TrainingState
from .svi_run import SVIRun
from ..elbo import ELBO, TraceMeanFieldELBO
from ..elbo.evaluation import BoundEvaluator
from ..execution.arguments import require_estimator, require_integer, require_literal, require_pair
from ..execution.placement import WORTH_RECORDING, Compile, choose_device, choose_mode, dtype_of, like_pair
from ..execution.processes import Processes, together
from ..execution.readiness import VALIDATION_CHUNK, check_training
from ...core import FitError, ModelGuidePair
from ...core.modes import evaluation_mode
from ...data import Dataset, Minibatches, as_dataset


def fit(
    pair: ModelGuidePair,
    data: Any,
    *,
    elbo: pyro.infer.elbo.ELBO | None = None,
    optimizer: str | MakeOptimizer | PyroOptim = "adam",
    learning_rate: float = 1e-3,
    num_epochs: int = 100,
    batch_size: int | None = DEFAULT_BATCH_SIZE,
    groups: Tensor | None = None,
    validation: Any = None,
    schedule: MakeSchedule | None = None,
    clip_norm: float | None = None,
    weight_prior: Distribution | None = None,
    kl_weight: KLWeight = 1.0,
    kl_warmup: KLWarmup | None = None,
    schedules: Mapping[str, float | Schedule] | None = None,
    early_stopping: EarlyStopping | None = None,
    seed: int = 0,
    device: str = "auto",
    compile: Compile = "auto",
    callbacks: Iterable[AnyCallback] = (),
    progress: bool = True,
    resume: Mapping[str, Any] | None = None,
    on_interrupt: OnInterrupt = "raise",
    steps_per_call: int | None = None,
) -> Fit:
    r"""Train a pair by auto-encoding variational Bayes (Kingma & Welling 2013, arXiv 1312.6114, algorithm 1).

    $$\theta, \phi \leftarrow \text{ascent on } \frac{N}{M} \sum_{b=1}^{M} \widetilde{\mathcal{L}}(\theta, \phi; x_b)$$

    The pair is trained in place, without Pyro's global parameter store. The value and the gradient of a step are
    captured once (:mod:`ppvae.core.compile`). The reported number is always the bound itself, in nats per datum, higher
    is better; weights of the KL, free bits, priors and surrogates do not enter it.

    Inside an initialised process group of PyTorch the processes train together: each works on its share of every
    minibatch, with noise of its own, and all move by the mean of their gradients.

    Args:
        pair: the pair.
        data: N training data: a Dataset, or what :func:`ppvae.data.as_dataset` reads (a tensor, an array, a mapping of
            such, a data frame, a data set of PyTorch and others).
        elbo: an estimator from :mod:`ppvae.inference.elbo`, or Pyro's Trace_ELBO or TraceMeanField_ELBO (which run
            eagerly); None for ``TraceMeanFieldELBO(on_missing_kl="sample")``.
        optimizer: "adam", "adamw", "adagrad", "sgd", a function from the parameters to a torch optimiser, or one of
            Pyro's with one set of options, ``pyro.optim.Adam({"lr": 1e-3})``.
        learning_rate: step size of a named optimiser.
        num_epochs: epochs.
        batch_size: M, or None for all data at every step; the default takes all of fewer than 100. A pair that has
            parameters for every datum needs None. Of several processes it is what they do together, a multiple of their
            number.
        groups: of every datum the number of its group, [N]: minibatches are of one group alone, spread evenly over an
            epoch, so that a rare group has steps of its own (under Adam such a step moves the parameters as far as
            any other). None mixes all.
        validation: held-out data; None for ``data.validation`` where the data set has it.
        schedule: a function from the optimiser to a torch schedule, stepped once an epoch.
        clip_norm: largest Euclidean norm of the gradient per datum.
        weight_prior: a distribution over single weights of the model, for MAP estimation; the paper's is Normal(0, 1).
        kl_weight: the KL's weight in the objective: a number, a :class:`Schedule` (:class:`Linear`, :class:`Cyclic`,
            ...), or a mapping of latent sites to such, one for those it does not name
            (:class:`ppvae.inference.elbo.TraceMeanFieldELBO` alone takes a mapping).
        kl_warmup: raises the KL's weight in the objective to one, in place of ``kl_weight``.
        schedules: by name, numbers that the programs read: ``{"posterior.temperature": Exponential(1.0, 0.5, 20)}``
            sets this 0-dimensional buffer of the pair before every step. The history has a column for each.
        early_stopping: stop when the validation bound no longer rises; needs validation data.
        seed: of minibatches and noise; the same seed, machine and thread count give the same numbers.
        device: "auto", "cpu", "cuda".
        compile: "auto" (compiled where the number of steps pays for it), "eager", "graph" or "compiled".
        callbacks: :class:`Callback` objects, or functions of the :class:`TrainingState`, called after each epoch. They
            may change what the programs read: buffers at no cost, attributes at the cost of recording the step anew.
        progress: show a bar on a terminal, and elsewhere a line now and then.
        resume: a state from ``TrainingState.state_dict()`` to resume from.
        on_interrupt: "raise" to raise :class:`FitInterrupt` after Ctrl-C, which ends a script; "return" to return what
            there is, with the ``outcome`` "interrupted", as suits a notebook.
        steps_per_call: k, how many steps are made in one call, on a GPU as one CUDA graph, with the numbers of steps
            one by one; Ctrl-C waits for the end of the k-th. A callback with ``on_step``, several processes, data on a
            disk, or an estimator of Pyro's own have them one by one. None for 10 on a GPU and 1 elsewhere.

    Returns:
        a :class:`Fit`.

    Raises:
        FitInterrupt: Ctrl-C. Training ends after the current step and nothing is lost: ``error.fit`` is what would
            have been returned. A second Ctrl-C does not wait for the step.
        PairError, DataError: the pair or the data break their contract.
        FitError: a value or gradient is not finite; parameters are as they were before that step. Or a callback
            replaced a parameter.
        ProcessError: another process failed, was killed, or does not answer.
    """
    require_literal("on_interrupt", on_interrupt, OnInterrupt)
    with together() as processes, torch.random.fork_rng():
        run = prepare(
            pair,
            data,
            elbo=elbo,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_epochs=num_epochs,
            batch_size=batch_size,
            groups=groups,
            validation=validation,
            schedule=schedule,
            clip_norm=clip_norm,
            weight_prior=weight_prior,
            kl_weight=kl_weight,
            kl_warmup=kl_warmup,
            schedules=schedules,
            early_stopping=early_stopping,
            seed=seed,
            device=device,
            compile=compile,
            resume=resume,
            processes=processes,
            steps_per_call=steps_per_call,
        )
        return run(callbacks, progress, on_interrupt)


def prepare(
    pair: ModelGuidePair,
    data: Any,
    *,
    elbo: pyro.infer.elbo.ELBO | None,
    optimizer: str | MakeOptimizer | PyroOptim,
    learning_rate: float,
    num_epochs: int,
    batch_size: int | None,
    groups: Tensor | None,
    validation: Any,
    schedule: MakeSchedule | None,
    clip_norm: float | None,
    weight_prior: Distribution | None,
    kl_weight: KLWeight,
    kl_warmup: KLWarmup | None,
    schedules: Mapping[str, float | Schedule] | None,
    early_stopping: EarlyStopping | None,
    seed: int,
    device: str,
    compile: Compile,
    resume: Mapping[str, Any] | None,
    processes: Processes | None = None,
    steps_per_call: int | None = None,
) -> SVIRun:
    """Check pair, data and options, and make the run that :func:`fit` starts; PyTorch's generator is seeded for it.

    The arguments, and what is raised before the first step, are those of :func:`fit`; ``processes`` are those that
    train together, None for this one alone.
    """
    processes = processes or Processes()
    require_pair(pair, "fit")
    require_estimator(elbo)
    require_integer("num_epochs", num_epochs, 0)
    require_integer("seed", seed, 0)
    if steps_per_call is not None:
        require_integer("steps_per_call", steps_per_call, 1)
    if batch_size is not None:
        require_integer("batch_size", batch_size, 1)
    where = choose_device(device)
    pair.to(where)
    dataset = as_dataset(data, dtype=dtype_of(pair)).to(where)
    held_out = dataset.validation if validation is None else as_dataset(validation, dtype=dtype_of(pair))
    held_out = held_out.to(where) if held_out is not None else None
    if early_stopping is not None and held_out is None:
        raise FitError("early_stopping needs validation data: pass validation=..., or data with a validation part")
    estimator = elbo if elbo is not None else TraceMeanFieldELBO(on_missing_kl="sample")
    scheduled = Scheduled(pair, kl_weight, kl_warmup, schedules)
    batch_size = rows_per_step(batch_size, len(dataset))
    batches = Minibatches(dataset, batch_size, seed=seed, groups=groups)
    torch.manual_seed(seed)
    require_equal_shares(batch_size, len(dataset), processes)
    dtype = dtype_of(pair)
    size = (batch_size or len(dataset)) // processes.count
    mode = choose_mode(compile, max(WORTH_RECORDING, num_epochs * len(batches)))
    with evaluation_mode(pair):
        example = like_pair(dataset.batch(torch.arange(size, device=where), dtype=dtype), dtype)
        held_out = check_training(pair, example, dataset, held_out, explicit=validation is not None)
        if isinstance(estimator, ELBO):
            estimator.check(pair, example)
        scheduled.check(estimator, example)
        names = names_of_model(pair, example) if weight_prior is not None else frozenset[str]()
        objective = Objective(
            pair,
            estimator,
            num_data=len(dataset),
            weight_prior=weight_prior,
            prior_names=names,
            clip_norm=clip_norm,
            mode=mode,
            processes=processes,
        )
        objective.check(example)
    torch_optimizer = make_optimizer(optimizer, learning_rate, objective.trainable.values())
    state = TrainingState(
        pair,
        torch_optimizer,
        schedule(torch_optimizer) if schedule is not None else None,
        batches,
        processes=processes,
    )
    state.estimator = estimator.module if isinstance(estimator, ELBO) else None
    validator = _validator(pair, estimator, held_out, mode, processes) if held_out is not None else None
    if resume is not None:
        state.load_state_dict(resume)
    inputs = example, torch.ones((), dtype=dtype, device=where)
    if processes.count > 1:
        require_sum_over_data(estimator, objective, inputs, processes)
        parts = {"data": dataset, "validation data": held_out}
        require_same(
            processes,
            {
                **{name: part and part.fingerprint() for name, part in parts.items()},
                **{"device": where.type, "elbo": type(estimator).__name__, "optimizer": type(torch_optimizer)},
                **{"batch_size": batch_size, "steps of an epoch": len(batches), "num_epochs": num_epochs},
                **{"seed": seed, "clip_norm": clip_norm},
                **{"model or guide": shapes(objective.module), "state to resume from": state.step},
            },
        )
        processes.copy_from_first([*objective.module.parameters(), *objective.module.buffers()])
    changes = Changes(objective, torch_optimizer, inputs, [] if validator is None else [validator.terms.captured])
    block = None
    if processes.count == 1:
        block = make_block(objective, state, scheduled, changes, steps_per_call)
    return SVIRun(
        state, objective, changes, validator, held_out, scheduled, early_stopping, num_epochs, seed, dtype, block
    )


def _validator(pair: ModelGuidePair, elbo: Any, data: Dataset, mode: Any, processes: Processes) -> BoundEvaluator:
    # Pyro's estimators give no per-datum terms; the bound they estimate is the same.
    ours = elbo if isinstance(elbo, ELBO) else TraceMeanFieldELBO(on_missing_kl="sample")
    # One evaluation per epoch does not pay for compilation.
    mode = "graph" if mode == "compiled" else mode
    size = min(VALIDATION_CHUNK, len(data))
    return BoundEvaluator(pair, ours, calls=1, chunk_size=size, compile=mode, processes=processes)
