"""The instrument that compares ELBO estimators on a user's own pair: bias, variance, gradient noise, cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, Literal

import pyro.infer.elbo
import torch
from torch import Tensor

from .gradient_noise import GradientNoise
from .result import BlockRow, Comparison, EstimatorRow
from .statistics import mean_and_error, seconds_of, variance_and_error
from ..elbo import ELBO, PairWithEstimator
from ..evidence import EvidenceMethod, ImportanceSampling, log_evidence
from ..execution.arguments import require_estimator
from ..execution.memory import peak_memory
from ..execution.placement import Compile, choose_mode, dtype_of, home_of
from ..execution.progress import progress_bar
from ..training.objective import Objective
from ...core import Data, ModelGuidePair, PpvaeError, batch_size, check_pair, parameter_roles, structure
from ...core.compile import Mode
from ...core.errors import did_you_mean, try_one_of
from ...core.modes import in_evaluation_mode
from ...data import as_dataset

Estimators = Mapping[str, pyro.infer.elbo.ELBO] | Sequence[pyro.infer.elbo.ELBO]
Reference = Literal["auto", "exact"] | EvidenceMethod | Tensor | None

WARM_UP = 30  # steps that fill a baseline's running average
TURNS = 15  # timed steps


@in_evaluation_mode
def compare_elbos(
    pair: ModelGuidePair,
    data: Any,
    estimators: Estimators,
    *,
    num_repeats: int = 100,
    reference: Reference = "auto",
    blocks: Mapping[str, Sequence[str]] | None = None,
    num_data: int | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
) -> Comparison:
    r"""Compare ELBO estimators at a fixed state of the parameters, with common random numbers.

    Every estimator gives R times the bound of one batch and the gradient of its objective, as in training. Repeat r
    has the same seed for every estimator. The pair and the estimators are not changed; a running average that serves
    as a baseline is filled by a few steps first, and is then constant.

    Args:
        pair: the pair.
        data: one batch: a Dataset, tensor, array or mapping of such, [B, *event].
        estimators: estimators of :mod:`ppvae.inference.elbo` or Pyro's own, in a list, or by name.
        num_repeats: R, at least 4.
        reference: the log p(x) for the bias: "exact" (the pair's own ``log_evidence``), an evidence method, values
            [B], None for no bias; "auto" is "exact" where the pair has it, None where it has global latents (whose
            evidence is joint over the data), and else ``ImportanceSampling(5000)``.
        blocks: name to parameter names or prefixes of such (``{"encoder": ["posterior"]}``), for the gradient's noise;
            None for "guide", "model" and, for parameters of both, "shared".
        num_data: N, the size of the data set that the batch represents; None for B.
        seed: of all noise.
        compile: mode of the timed steps: "auto", "eager", "graph" or "compiled".
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        PairError: an estimator or the reference does not serve this pair.
        PpvaeError: too few repeats, an unknown block, no estimator.

    >>> from ppvae.models import FactorAnalysis
    >>> from ppvae.inference import elbo
    >>> model = FactorAnalysis(3, 1)
    >>> comparison = compare_elbos(model, torch.randn(8, 3), [elbo.TraceELBO()], num_repeats=4)
    >>> abs(comparison.row("TraceELBO(num_particles=1)").bias) < 1e-5  # the guide is exact
    True
    """
    setup = _Setup(pair, data, estimators, num_repeats, blocks, num_data, seed, compile)
    return _measure(setup, {"": None}, reference, progress)


@in_evaluation_mode
def compare_along_run(
    pair: ModelGuidePair,
    checkpoints: Mapping[Any, Mapping[str, Tensor]],
    data: Any,
    estimators: Estimators,
    *,
    num_repeats: int = 100,
    reference: Reference = "auto",
    blocks: Mapping[str, Sequence[str]] | None = None,
    num_data: int | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
) -> Comparison:
    """:func:`compare_elbos` at several states of the parameters, those of a training run for instance.

    Args:
        pair: the pair; it is not changed.
        checkpoints: label (an epoch, say) to ``state_dict()`` of the pair.
        data, estimators, num_repeats, reference, blocks, num_data, seed, compile, progress: as for
            :func:`compare_elbos`; every step is captured once for all checkpoints.

    Raises:
        PairError, PpvaeError: as :func:`compare_elbos`; or there is no checkpoint.
    """
    if not checkpoints:
        raise PpvaeError("compare_along_run: expected at least one checkpoint, found none")
    setup = _Setup(copy.deepcopy(pair), data, estimators, num_repeats, blocks, num_data, seed, compile)
    return _measure(setup, {str(label): state for label, state in checkpoints.items()}, reference, progress)


class _Setup:
    """The checked arguments of a comparison."""

    def __init__(
        self,
        pair: ModelGuidePair,
        x: Any,
        estimators: Estimators,
        num_repeats: int,
        blocks: Mapping[str, Sequence[str]] | None,
        num_data: int | None,
        seed: int,
        compile: Compile,
    ) -> None:
        if num_repeats < 4:
            raise PpvaeError(f"num_repeats: a variance needs at least 4, found {num_repeats}")
        self.pair, self.num_repeats, self.seed = pair, num_repeats, seed
        self.device = home_of(pair)
        self.x: Data = _one_batch(x, dtype_of(pair), self.device, seed)
        self.devices = [self.device] if self.device.type == "cuda" else []
        self.size = batch_size(self.x)
        self.num_data = self.size if num_data is None else num_data
        self.mode = choose_mode(compile, num_repeats)
        with torch.random.fork_rng(devices=self.devices):
            torch.manual_seed(seed)
            check_pair(pair, self.x, num_data=self.num_data)
        self.has_global = bool(structure(pair, self.x).global_latents)
        self.estimators = {name: _copy_of(elbo) for name, elbo in _by_name(estimators).items()}
        for elbo in self.estimators.values():
            if isinstance(elbo, ELBO):
                elbo.check(pair, self.x)
        self.blocks = _blocks(pair, self.x, blocks)


def _measure(
    setup: _Setup, states: Mapping[str, Mapping[str, Tensor] | None], reference: Reference, progress: bool
) -> Comparison:
    rows: list[EstimatorRow] = []
    block_rows: list[BlockRow] = []
    values: dict[tuple[str, str], Tensor] = {}
    about = ""
    objectives = {name: _objective(setup, name, setup.mode) for name in setup.estimators}
    for objective in objectives.values():
        objective.check(setup.x)
    seconds = _seconds(setup, objectives)
    total = len(states) * len(objectives) * setup.num_repeats
    with progress_bar(total=total, desc="compare", show=progress) as bar:
        for label, state in states.items():
            if state is not None:
                setup.pair.load_state_dict(dict(state))
            truth, about = _truth(setup, reference)
            for name, objective in objectives.items():
                bounds, noise, memory = _repeat(setup, name, objective, bar)
                pyros = not isinstance(setup.estimators[name], ELBO)
                mode = "eager" if pyros or objective.fallback.startswith("eager") else setup.mode
                rows.append(_estimator_row((name, label), bounds, truth, seconds[name], memory, mode))
                block_rows += _block_rows((name, label), noise, seconds[name])
                values[label, name] = bounds
    return Comparison(tuple(rows), tuple(block_rows), values, about, setup.num_repeats, setup.size, setup.seed)


def _objective(setup: _Setup, name: str, mode: Mode) -> Objective:
    return Objective(
        setup.pair,
        setup.estimators[name],
        num_data=setup.num_data,
        weight_prior=None,
        prior_names=frozenset(),
        clip_norm=None,
        mode=mode,
    )


def _repeat(setup: _Setup, name: str, objective: Objective, bar: Any) -> tuple[Tensor, GradientNoise, int]:
    """The bounds of all repeats, [R], their gradients' noise, and the peak memory of one eager step, in bytes."""
    weight = torch.ones((), dtype=dtype_of(setup.pair), device=setup.device)
    prefix = "pair." if isinstance(objective.module, PairWithEstimator) else ""
    noise = GradientNoise(setup.blocks, setup.num_repeats)
    bounds = []
    with torch.random.fork_rng(devices=setup.devices):
        _fill_baseline(setup, setup.estimators[name])
        for repeat in range(setup.num_repeats):
            torch.manual_seed(_seed(setup.seed, repeat))
            step = objective(setup.x, weight)
            bounds.append(float(step.metrics[0]))
            noise.add({name.removeprefix(prefix): gradient for name, gradient in step.gradients.items()})
            bar.update(1)
        eager = _objective(setup, name, "eager")
        memory = peak_memory(lambda: eager(setup.x, weight), setup.device)
    return torch.tensor(bounds, dtype=torch.float64), noise, memory


def _estimator_row(
    at: tuple[str, str], bounds: Tensor, truth: tuple[float, float], seconds: float, memory: int, mode: str
) -> EstimatorRow:
    bound, bound_error = mean_and_error(bounds)
    variance, variance_error = variance_and_error(bounds)
    return EstimatorRow(
        *at,
        bound=bound,
        bound_error=bound_error,
        variance=variance,
        variance_error=variance_error,
        bias=bound - truth[0],
        bias_error=math.hypot(bound_error, truth[1]),
        seconds=seconds,
        peak_memory=memory,
        cost_adjusted_variance=variance * seconds,
        mode=mode,
    )


def _block_rows(at: tuple[str, str], noise: GradientNoise, seconds: float) -> list[BlockRow]:
    return [
        BlockRow(*at, block, cost_adjusted_variance=statistics.variance * seconds, **asdict(statistics))
        for block, statistics in noise.statistics().items()
    ]


def _seconds(setup: _Setup, objectives: Mapping[str, Objective]) -> dict[str, float]:
    """Median time of one step of each."""
    weight = torch.ones((), dtype=dtype_of(setup.pair), device=setup.device)
    steps = {name: partial(objective, setup.x, weight) for name, objective in objectives.items()}
    with torch.random.fork_rng(devices=setup.devices):
        torch.manual_seed(setup.seed)
        seconds = seconds_of(steps, TURNS, device=setup.device)
    return {name: median(times) for name, times in seconds.items()}


def _truth(setup: _Setup, reference: Reference) -> tuple[tuple[float, float], str]:
    """Mean of log p(x) over the batch, its standard error, and its description."""
    exact = getattr(setup.pair, "log_evidence", None)
    if isinstance(reference, str):
        if reference not in ("auto", "exact"):
            raise PpvaeError(f"reference: expected 'auto', 'exact', a method, values or None, found {reference!r}")
        if reference == "exact" and not callable(exact):
            raise PpvaeError(
                f"reference='exact': {type(setup.pair).__name__} has no log_evidence(x)"
                + try_one_of("reference=evidence.ImportanceSampling(5000)", "reference=None, for no bias")
            )
        if callable(exact):
            with torch.no_grad():
                return (float(exact(setup.x).double().mean()), 0.0), "the exact log p(x)"
        if setup.has_global:
            return (math.nan, math.nan), ""
        reference = ImportanceSampling(5000)
    if reference is None:
        return (math.nan, math.nan), ""
    if isinstance(reference, Tensor):
        if reference.shape != (setup.size,):
            raise PpvaeError(f"reference: expected log p(x) of shape [{setup.size}], found {list(reference.shape)}")
        return (float(reference.double().mean()), 0.0), "given values of log p(x)"
    result = log_evidence(setup.pair, setup.x, method=reference, seed=setup.seed, progress=False)
    # Over all data, as the bounds are; the note counts the data whose estimate cannot be trusted.
    trusted = int(result.trusted.sum())
    note = "" if trusted == len(result) else f" (to be trusted on {trusted} of {len(result)} data)"
    return (result.mean_of_all, result.mean_of_all_standard_error), f"{reference!r}{note}"


def _fill_baseline(setup: _Setup, elbo: pyro.infer.elbo.ELBO) -> None:
    module = getattr(elbo, "module", None)
    if not isinstance(elbo, ELBO) or module is None or not list(module.buffers()):
        return
    with torch.no_grad():
        for step in range(WARM_UP):
            torch.manual_seed(_seed(setup.seed, -10 - step))
            elbo.advance(elbo.terms(setup.pair, setup.x, setup.num_data))


def _by_name(estimators: Estimators) -> dict[str, pyro.infer.elbo.ELBO]:
    if isinstance(estimators, str | pyro.infer.elbo.ELBO):
        estimators = [estimators]
    if not estimators:
        raise PpvaeError("estimators: expected at least one, found none")
    for elbo in estimators.values() if isinstance(estimators, Mapping) else estimators:
        require_estimator(elbo)
    if isinstance(estimators, Mapping):
        return dict(estimators)
    by_name: dict[str, pyro.infer.elbo.ELBO] = {}
    for elbo in estimators:
        name = repr(elbo) if isinstance(elbo, ELBO) else f"pyro {type(elbo).__name__}({elbo.num_particles})"
        if name in by_name:
            raise PpvaeError(f"two estimators are called {name}" + try_one_of("a mapping from names to estimators"))
        by_name[name] = elbo
    return by_name


def _copy_of(elbo: pyro.infer.elbo.ELBO) -> pyro.infer.elbo.ELBO:
    """A copy of the estimator with its own state, so that the caller's is not changed."""
    clone = copy.copy(elbo)
    if isinstance(clone, ELBO) and clone.module is not None:
        clone.module = copy.deepcopy(clone.module)
    return clone


def _blocks(pair: ModelGuidePair, x: Data, blocks: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    trainable = [name for name, parameter in pair.named_parameters() if parameter.requires_grad]
    parameters: dict[str, list[str]] = {}
    if blocks is None:
        roles = parameter_roles(pair, x)
        for name in trainable:
            if roles[name]:
                parameters.setdefault("shared" if len(roles[name]) > 1 else min(roles[name]), []).append(name)
        return dict(sorted(parameters.items()))
    for block, prefixes in blocks.items():
        parameters[block] = []
        for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
            names = [name for name in trainable if name == prefix or name.startswith(f"{prefix}.")]
            if not names:
                raise PpvaeError(f"block {block!r}: no parameter {prefix!r}: {did_you_mean(prefix, trainable)}")
            parameters[block] += names
    return parameters


def _seed(seed: int, repeat: int) -> int:
    return (seed * 1_000_003 + repeat * 7919 + 104_729) % 2**63


def _one_batch(x: Any, dtype: torch.dtype, device: torch.device, seed: int) -> Data:
    dataset = as_dataset(x, dtype=dtype).to(device)
    generator = torch.Generator(device=dataset.device).manual_seed(seed)  # of a dynamic binarisation
    return dataset.tensor(generator, dtype=dtype)
