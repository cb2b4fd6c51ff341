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
from tqdm import tqdm

from .gradient_noise import GradientNoise
from .result import BlockRow, Comparison, EstimatorRow
from .statistics import mean_and_error, seconds_of, variance_and_error
from ..elbo import ELBO, PairWithEstimator
from ..evidence import EvidenceMethod, ImportanceSampling, log_evidence
from ..execution.memory import peak_memory
from ..execution.placement import Compile, choose_mode, dtype_of, home_of
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
    x: Any,
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

    Every estimator is asked R times for the bound of one batch and the gradient of its objective, as training asks
    for them. Repeat r starts from one seed for every estimator. Nothing of the pair or of the estimators is changed;
    a running average that serves as a baseline is filled by a few steps first, and then held fixed.

    Args:
        pair: the pair.
        x: the batch: a Dataset, tensor, array or mapping of such, [B, *event]; all of it is one batch.
        estimators: estimators of :mod:`ppvae.inference.elbo` or Pyro's own, in a list, or by name.
        num_repeats: R, at least 4.
        reference: what the bias is against: "exact" (the pair's own ``log_evidence``), an evidence method, values of
            log p(x) [B], None for no bias; "auto" takes "exact" where the pair has it, none where it has global
            latents (whose evidence is joint over the data), and else ``ImportanceSampling(5000)``.
        blocks: name to parameter names or prefixes of such (``{"encoder": ["posterior"]}``), for the gradient's noise;
            None for "guide", "model" and, for parameters of both, "shared".
        num_data: N, the size of the data set that the batch stands for; None for B.
        seed: of all noise.
        compile: "auto", "eager", "graph" or "compiled": how the steps run that are timed.
        progress: show a bar on a terminal.

    Raises:
        PairError: an estimator or the reference does not serve this pair.
        PpvaeError: too few repeats, an unknown block, no estimator.

    >>> from ppvae.models import FactorAnalysis
    >>> from ppvae.inference import elbo
    >>> model = FactorAnalysis(3, 1)
    >>> found = compare_elbos(model, torch.randn(8, 3), [elbo.TraceELBO()], num_repeats=4)
    >>> abs(found.row("TraceELBO(num_particles=1)").bias) < 1e-5  # the guide is exact
    True
    """
    chosen = _Chosen(pair, x, estimators, num_repeats, blocks, num_data, seed, compile)
    return _measure(chosen, {"": None}, reference, progress)


@in_evaluation_mode
def compare_along_run(
    pair: ModelGuidePair,
    checkpoints: Mapping[Any, Mapping[str, Tensor]],
    x: Any,
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
        x, estimators, num_repeats, reference, blocks, num_data, seed, compile, progress: as for
            :func:`compare_elbos`; every step is captured once for all checkpoints.

    Raises:
        PairError, PpvaeError: as :func:`compare_elbos`; or there is no checkpoint.
    """
    if not checkpoints:
        raise PpvaeError("compare_along_run: expected at least one checkpoint, found none")
    chosen = _Chosen(copy.deepcopy(pair), x, estimators, num_repeats, blocks, num_data, seed, compile)
    return _measure(chosen, {str(label): state for label, state in checkpoints.items()}, reference, progress)


class _Chosen:
    """What was asked for, checked."""

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
        self.forked = [self.device] if self.device.type == "cuda" else []
        self.size = batch_size(self.x)
        self.num_data = self.size if num_data is None else num_data
        self.mode = choose_mode(compile, num_repeats)
        with torch.random.fork_rng(devices=self.forked):
            torch.manual_seed(seed)
            check_pair(pair, self.x, num_data=self.num_data)
        self.has_global = bool(structure(pair, self.x).global_latents)
        self.estimators = {name: _own(elbo) for name, elbo in _named(estimators).items()}
        for elbo in self.estimators.values():
            if isinstance(elbo, ELBO):
                elbo.check(pair, self.x)
        self.blocks = _blocks(pair, self.x, blocks)


def _measure(
    chosen: _Chosen, states: Mapping[str, Mapping[str, Tensor] | None], reference: Reference, progress: bool
) -> Comparison:
    rows: list[EstimatorRow] = []
    block_rows: list[BlockRow] = []
    values: dict[tuple[str, str], Tensor] = {}
    about = ""
    objectives = {name: _objective(chosen, name, chosen.mode) for name in chosen.estimators}
    for objective in objectives.values():
        objective.check(chosen.x)
    seconds = _seconds(chosen, objectives)
    total = len(states) * len(objectives) * chosen.num_repeats
    with tqdm(total=total, desc="compare", unit="step", disable=None if progress else True) as bar:
        for label, state in states.items():
            if state is not None:
                chosen.pair.load_state_dict(dict(state))
            truth, about = _truth(chosen, reference)
            for name, objective in objectives.items():
                found, noise, memory = _repeated(chosen, name, objective, bar)
                pyros = not isinstance(chosen.estimators[name], ELBO)
                mode = "eager" if pyros or objective.fallback.startswith("eager") else chosen.mode
                rows.append(_estimator_row((name, label), found, truth, seconds[name], memory, mode))
                block_rows += _block_rows((name, label), noise, seconds[name])
                values[label, name] = found
    return Comparison(tuple(rows), tuple(block_rows), values, about, chosen.num_repeats, chosen.size, chosen.seed)


def _objective(chosen: _Chosen, name: str, mode: Mode) -> Objective:
    return Objective(
        chosen.pair,
        chosen.estimators[name],
        num_data=chosen.num_data,
        weight_prior=None,
        prior_names=frozenset(),
        clip_norm=None,
        mode=mode,
    )


def _repeated(chosen: _Chosen, name: str, objective: Objective, bar: Any) -> tuple[Tensor, GradientNoise, int]:
    """The bounds of all repeats, [R], their gradients' noise, and the most bytes that one eager step holds."""
    weight = torch.ones((), dtype=dtype_of(chosen.pair), device=chosen.device)
    prefix = "pair." if isinstance(objective.trained, PairWithEstimator) else ""
    noise = GradientNoise(chosen.blocks, chosen.num_repeats)
    bounds = []
    with torch.random.fork_rng(devices=chosen.forked):
        _fill_baseline(chosen, chosen.estimators[name])
        for repeat in range(chosen.num_repeats):
            torch.manual_seed(_seed(chosen.seed, repeat))
            step = objective(chosen.x, weight)
            bounds.append(float(step.metrics[0]))
            noise.add({name.removeprefix(prefix): gradient for name, gradient in step.gradients.items()})
            bar.update(1)
        eager = _objective(chosen, name, "eager")
        memory = peak_memory(lambda: eager(chosen.x, weight), chosen.device)
    return torch.tensor(bounds, dtype=torch.float64), noise, memory


def _estimator_row(
    at: tuple[str, str], found: Tensor, truth: tuple[float, float], seconds: float, memory: int, mode: str
) -> EstimatorRow:
    bound, bound_error = mean_and_error(found)
    variance, variance_error = variance_and_error(found)
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
        BlockRow(*at, block, cost_adjusted_variance=found.variance * seconds, **asdict(found))
        for block, found in noise.statistics().items()
    ]


def _seconds(chosen: _Chosen, objectives: Mapping[str, Objective]) -> dict[str, float]:
    """Median time of one step of each."""
    weight = torch.ones((), dtype=dtype_of(chosen.pair), device=chosen.device)
    steps = {name: partial(objective, chosen.x, weight) for name, objective in objectives.items()}
    with torch.random.fork_rng(devices=chosen.forked):
        torch.manual_seed(chosen.seed)
        taken = seconds_of(steps, TURNS, device=chosen.device)
    return {name: median(times) for name, times in taken.items()}


def _truth(chosen: _Chosen, reference: Reference) -> tuple[tuple[float, float], str]:
    """Mean of log p(x) over the batch, its standard error, and what it is in words."""
    exact = getattr(chosen.pair, "log_evidence", None)
    if isinstance(reference, str):
        if reference not in ("auto", "exact"):
            raise PpvaeError(f"reference: expected 'auto', 'exact', a method, values or None, found {reference!r}")
        if reference == "exact" and not callable(exact):
            raise PpvaeError(
                f"reference='exact': {type(chosen.pair).__name__} has no log_evidence(x)"
                + try_one_of("reference=evidence.ImportanceSampling(5000)", "reference=None, for no bias")
            )
        if callable(exact):
            with torch.no_grad():
                return (float(exact(chosen.x).double().mean()), 0.0), "the exact log p(x)"
        if chosen.has_global:
            return (math.nan, math.nan), ""
        reference = ImportanceSampling(5000)
    if reference is None:
        return (math.nan, math.nan), ""
    if isinstance(reference, Tensor):
        if reference.shape != (chosen.size,):
            raise PpvaeError(f"reference: expected log p(x) of shape [{chosen.size}], found {list(reference.shape)}")
        return (float(reference.double().mean()), 0.0), "given values of log p(x)"
    found = log_evidence(chosen.pair, chosen.x, method=reference, seed=chosen.seed, progress=False)
    # Over all data, as the bounds that are held against it: of those that cannot be trusted it is said how many.
    trusted = int(found.trusted.sum())
    told = "" if trusted == len(found) else f" (to be trusted on {trusted} of {len(found)} data)"
    return (found.mean_of_all, found.mean_of_all_standard_error), f"{reference!r}{told}"


def _fill_baseline(chosen: _Chosen, elbo: pyro.infer.elbo.ELBO) -> None:
    module = getattr(elbo, "module", None)
    if not isinstance(elbo, ELBO) or module is None or not list(module.buffers()):
        return
    with torch.no_grad():
        for step in range(WARM_UP):
            torch.manual_seed(_seed(chosen.seed, -10 - step))
            elbo.advance(elbo.terms(chosen.pair, chosen.x, chosen.num_data))


def _named(estimators: Estimators) -> dict[str, pyro.infer.elbo.ELBO]:
    if isinstance(estimators, pyro.infer.elbo.ELBO):
        estimators = [estimators]
    if not estimators:
        raise PpvaeError("estimators: expected at least one, found none")
    if isinstance(estimators, Mapping):
        return dict(estimators)
    named: dict[str, pyro.infer.elbo.ELBO] = {}
    for elbo in estimators:
        name = repr(elbo) if isinstance(elbo, ELBO) else f"pyro {type(elbo).__name__}({elbo.num_particles})"
        if name in named:
            raise PpvaeError(f"two estimators are called {name}" + try_one_of("a mapping from names to estimators"))
        named[name] = elbo
    return named


def _own(elbo: pyro.infer.elbo.ELBO) -> pyro.infer.elbo.ELBO:
    """The estimator with a state of its own, so that the caller's is not changed."""
    own = copy.copy(elbo)
    if isinstance(own, ELBO) and own.module is not None:
        own.module = copy.deepcopy(own.module)
    return own


def _blocks(pair: ModelGuidePair, x: Data, blocks: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    trainable = [name for name, parameter in pair.named_parameters() if parameter.requires_grad]
    found: dict[str, list[str]] = {}
    if blocks is None:
        roles = parameter_roles(pair, x)
        for name in trainable:
            if roles[name]:
                found.setdefault("shared" if len(roles[name]) > 1 else min(roles[name]), []).append(name)
        return dict(sorted(found.items()))
    for block, wanted in blocks.items():
        found[block] = []
        for prefix in [wanted] if isinstance(wanted, str) else wanted:
            names = [name for name in trainable if name == prefix or name.startswith(f"{prefix}.")]
            if not names:
                raise PpvaeError(f"block {block!r}: no parameter {prefix!r}: {did_you_mean(prefix, trainable)}")
            found[block] += names
    return found


def _seed(seed: int, repeat: int) -> int:
    return (seed * 1_000_003 + repeat * 7919 + 104_729) % 2**63


def _one_batch(x: Any, dtype: torch.dtype, device: torch.device, seed: int) -> Data:
    dataset = as_dataset(x, dtype=dtype).to(device)
    generator = torch.Generator(device=dataset.device).manual_seed(seed)  # of a dynamic binarisation
    return dataset.tensor(generator, dtype=dtype)
