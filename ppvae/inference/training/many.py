"""Several fits that differ in their seed alone: at once where that saves time, with the numbers of each alone."""

from __future__ import annotations

import copy
import inspect
import logging
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch

from .lane import Lane
from .many_result import ManyFits, ManyFitsInterrupt
from .options import EarlyStopping
from .stacked import Together
from .state import AnyCallback, Fit, OnInterrupt, as_callback
from .svi import fit, prepare
from ..execution.arguments import require_integer, require_literal, require_pair
from ..execution.placement import choose_device, dtype_of
from ..execution.progress import progress_bar
from ..execution.seeds import Stream
from ..execution.workers import as_tensors, by_value, cores, in_processes, why_no_processes
from ...core import FitError, ModelGuidePair, PpvaeError
from ...core.errors import did_you_mean, try_one_of
from ...core.stacking import NotStackable
from ...data import as_dataset

_log = logging.getLogger("ppvae.fit")

How: TypeAlias = Literal["auto", "stacked", "processes", "sequence"]

MOST_BYTES = 4e6
"""Of the intermediate results of one run's step: of more, several in one stack take as long as one after another."""
WORTH_A_PROCESS = 2000
"""Steps of a run: of fewer, to start a process takes as long."""

_OWN = ("pair", "data", "seed", "callbacks", "progress", "resume", "on_interrupt")
"""Arguments of ``fit`` that are not options of ``fit_many``."""


def fit_many(
    make_pair: Callable[[], ModelGuidePair],
    data: Any,
    *,
    seeds: Iterable[int] = range(8),
    how: How = "auto",
    callbacks: Callable[[int], Iterable[AnyCallback]] | None = None,
    progress: bool = True,
    resume: Mapping[int, Mapping[str, Any]] | None = None,
    on_interrupt: OnInterrupt = "raise",
    **options: Any,
) -> ManyFits:
    """Fit one recipe under several seeds at once.

    Each fit is that of these two lines, to rounding where the steps are stacked and bit for bit elsewhere::

        torch.manual_seed(seed)
        fit(make_pair(), data, seed=seed, **options)

    Args:
        make_pair: makes a new pair, with no argument: a class, ``functools.partial(bernoulli_vae, 64)``, a function. It
            is called under ``torch.manual_seed(seed)``.
        data: as for :func:`fit`; all fits share them.
        seeds: different whole numbers: of the pair's first parameters, of minibatches and noise.
        how: "stacked": one step for all, over stacked tensors, where the steps are small and alike; "processes", one
            for each core, with one thread each (``make_pair`` and the options must be importable then, and a script
            guarded by ``if __name__ == "__main__":``); "sequence", one after another; "auto": the first of these that
            is possible and, by the size of the work, saves time.
        callbacks: a function of the seed that makes the callbacks of its fit: each needs its own. They run in this
            process, so not with "processes".
        progress: show a bar on a terminal, and elsewhere a line now and then.
        resume: the ``state_dict()`` of fits to go on from; a seed that is not among them begins anew.
        on_interrupt: after Ctrl-C, "raise" or "return".
        options: those of :func:`fit`: elbo, optimizer, learning_rate, num_epochs and so on. An estimator is copied for
            every seed, as it may have parameters of its own.

    Returns:
        the fits. In a stack ``seconds`` is the time of all of them together.

    Raises:
        ManyFitsInterrupt: Ctrl-C; ``error.fits`` is what would have been returned, and nothing is lost.
        PpvaeError: no seeds, one of them twice, an option that ``fit`` does not have, pairs that share parameters; or
            the way asked for is not possible, with the reason.
        PairError, DataError, FitError: from :func:`fit`, before the first step. One fit that stops at a value that is
            not finite does not stop the others: it is among the ``failures``; only where all fail, the first is raised.

    >>> import functools
    >>> from ppvae.models import bernoulli_vae
    >>> x = torch.bernoulli(torch.full((60, 4), 0.3, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    >>> make_pair = functools.partial(bernoulli_vae, 4, latent_dim=1, hidden=(3,))
    >>> fits = fit_many(make_pair, x, seeds=[0, 1, 2], num_epochs=2, how="sequence", progress=False)
    >>> len(fits), [row["num_seeds"] for row in fits.history]
    (3, [3, 3])
    """
    require_literal("how", how, How)
    require_literal("on_interrupt", on_interrupt, OnInterrupt)
    seeds = _checked_seeds(seeds, resume)
    _check_options(options)
    if callbacks is not None and not callable(callbacks):
        raise PpvaeError(
            "callbacks: expected a function of the seed, because each fit needs its own, found "
            f"{type(callbacks).__name__}" + try_one_of("callbacks=lambda seed: [MyCallback()]")
        )
    early = options.get("early_stopping")
    with torch.random.fork_rng():
        lanes = _lanes(make_pair, data, seeds, callbacks, resume or {}, options)
        work = _Work(lanes, make_pair, options, callbacks is not None, progress)
        try:
            work(how)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            for lane in lanes:
                if lane.result is None:
                    lane.stop()
            raise
        for lane in lanes:
            if lane.result is None:
                lane.end(lane.run.interrupted(work.inside))
    results = tuple(lane.result for lane in lanes if lane.result is not None)
    restores = isinstance(early, EarlyStopping) and early.restore_best
    fits = ManyFits(tuple(seeds), results, work.how, work.reason, restores)
    for seed, error in fits.failures.items():
        _log.warning("seed %d failed: %s", seed, str(error).splitlines()[0])
    if interrupted and on_interrupt == "raise":
        raise ManyFitsInterrupt(fits)
    if not fits.fits:
        raise next(iter(fits.failures.values()))
    return fits


class _Work:
    """The runs of one call of :func:`fit_many`, and how they are done.

    Attributes:
        how: the way that was taken.
        reason: why not all in one stack.
        inside: whether an interruption came inside a step.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        make_pair: Callable[[], ModelGuidePair],
        options: Mapping[str, Any],
        called: bool,
        progress: bool,
    ) -> None:
        self.lanes, self.make_pair, self.options = lanes, make_pair, options
        self.called, self.progress = called, progress
        self.how, self.reason, self.inside = "sequence", "", False

    def __call__(self, how: How) -> None:
        """Run all that have not ended.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            PpvaeError: the way that was asked for is not possible.
        """
        left = [lane for lane in self.lanes if lane.result is None]
        if how == "stacked" or (how == "auto" and len(left) > 1):
            try:
                self._stacked(left, None if how == "stacked" else MOST_BYTES)
            except NotStackable as error:
                if how == "stacked":
                    remedy = try_one_of('how="auto"', 'how="processes"', 'how="sequence"')
                    raise PpvaeError(f'how="stacked": not possible here: {error}{remedy}') from None
                self.reason = str(error)
        left = [lane for lane in left if lane.result is None]
        if how == "processes" or (how == "auto" and len(left) > 1 and self.how != "stacked"):
            reason = self._why_no_processes(left, how == "auto")
            if how == "processes" and reason:
                raise PpvaeError(
                    f'how="processes": not possible here: {reason}'
                    + try_one_of(
                        "functools.partial(bernoulli_vae, 64), or another function that can be imported",
                        'how="stacked"',
                        'how="sequence"',
                    )
                )
            if not reason:
                self.how = "processes"
                self._processes(left)
                left = []
            self.reason = "; ".join(filter(None, (self.reason, reason)))
        if self.how == "sequence":
            _log.info("%d fits, one after another%s", len(left), f": {self.reason}" if self.reason else "")
        for lane in progress_bar(left, unit="fit", show=self.progress and self.how == "sequence"):
            lane.finish()
            if isinstance(lane.result, Fit) and lane.result.outcome.code == "interrupted":
                raise KeyboardInterrupt

    def _stacked(self, lanes: Sequence[Lane], most_bytes: float | None) -> None:
        for lane in lanes:
            lane.start()
        together = Together(lanes, most_bytes)
        self.how = "stacked"
        _log.info("%d fits in one stack", len(lanes))
        try:
            together(self.progress)
        except KeyboardInterrupt:
            self.inside = together.interruptions.inside
            raise

    def _why_no_processes(self, lanes: Sequence[Lane], automatic: bool) -> str:
        """Why not in processes of their own; where that is chosen by the size of the work, also if it does not pay."""
        if self.called:
            return "the callbacks belong to this process"
        if automatic and cores() == 1:
            return "there is one core"
        if automatic and any(lane.numbers.device.type != "cpu" for lane in lanes):
            return "one GPU serves one process at a time"
        if automatic:
            run = lanes[0].run
            steps = (run.num_epochs - run.state.epoch) * len(run.state.batches)
            if steps < WORTH_A_PROCESS:
                return f"{steps} steps do not pay for a process"
        return why_no_processes(self.make_pair, dict(self.options))

    def _processes(self, lanes: Sequence[Lane]) -> None:
        jobs = []
        for lane in lanes:
            state = lane.run.state
            with lane.numbers:
                resumed = by_value(state.state_dict()) if state.step else None
            jobs.append((self.make_pair, state.batches.data, lane.run.held_out, lane.seed, resumed, dict(self.options)))
        bar = progress_bar(total=len(jobs), unit="fit", show=self.progress)
        try:
            for done in in_processes(_fit_alone, jobs, min(cores(), len(jobs))):
                bar.update(1)
                lane = lanes[done.number]
                if isinstance(done.error, FitError) and done.error.step is not None:
                    lane.result = done.error
                elif isinstance(done.error, KeyboardInterrupt):
                    continue
                elif done.error is not None:
                    raise done.error
                else:
                    found, outcome, best_epoch = done.value
                    _take(lane, as_tensors(found), outcome, best_epoch)
        finally:
            bar.close()


def _take(lane: Lane, state: Mapping[str, Any], outcome: Any, best_epoch: int | None) -> None:
    """The result of a run that was made elsewhere."""
    run = lane.run.state
    with lane.numbers:
        run.load_state_dict(state)
        run.keep_random_states()
    lane.result = Fit(run.history, outcome, best_epoch, run)


def _fit_alone(
    make_pair: Callable[[], ModelGuidePair],
    data: Any,
    held_out: Any,
    seed: int,
    resume: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], Any, int | None]:
    """In a process of its own: one fit, as plain values and arrays."""
    torch.manual_seed(seed)
    pair = make_pair()
    given = {**options, "validation": held_out if "validation" in options else None}
    result = fit(pair, data, seed=seed, resume=as_tensors(resume), progress=False, on_interrupt="return", **given)
    return by_value(result.state.state_dict()), result.outcome, result.best_epoch


def _lanes(
    make_pair: Callable[[], ModelGuidePair],
    data: Any,
    seeds: Sequence[int],
    callbacks: Callable[[int], Iterable[AnyCallback]] | None,
    resume: Mapping[int, Mapping[str, Any]],
    options: Mapping[str, Any],
) -> list[Lane]:
    """The runs before their first step."""
    if isinstance(make_pair, ModelGuidePair) or not callable(make_pair):
        raise PpvaeError(
            f"fit_many: expected a function that makes a pair, found {type(make_pair).__name__}"
            + try_one_of("functools.partial(bernoulli_vae, 64)", "lambda: MyPair(...)")
        )
    _require_no_argument(make_pair)
    pairs = []
    for seed in seeds:
        torch.manual_seed(seed)
        pairs.append(make_pair())
        require_pair(pairs[-1], "fit_many")
    _require_apart(pairs)
    defaults = {name: value.default for name, value in inspect.signature(fit).parameters.items() if name not in _OWN}
    given = {**defaults, **options}
    where, dtype = choose_device(given["device"]), dtype_of(pairs[0])
    dataset = as_dataset(data, dtype=dtype).to(where)
    if given["validation"] is not None:
        given["validation"] = as_dataset(given["validation"], dtype=dtype).to(where)
    lanes = []
    for seed, pair in zip(seeds, pairs, strict=True):
        if dtype_of(pair) != dtype:
            raise PpvaeError(f"fit_many: the pair of seed {seed} is {dtype_of(pair)}, that of {seeds[0]} {dtype}")
        before = resume.get(seed)
        with Stream(where) as numbers:
            own = {**given, "elbo": copy.deepcopy(given["elbo"])}
            run = prepare(pair, dataset, seed=seed, resume=None if before is None else before["state"], **own)
        lane = Lane(seed, run, [as_callback(one) for one in callbacks(seed)] if callbacks is not None else [], numbers)
        if before is not None and (
            before["outcome"] == "early stopping" or (before["outcome"] == "completed" and run.is_finished)
        ):
            with numbers:
                lane.result = run.end(run.outcome)
        lanes.append(lane)
    return lanes


def _require_no_argument(make_pair: Callable[[], Any]) -> None:
    try:
        inspect.signature(make_pair).bind()
    except ValueError:  # a builtin without a signature
        return
    except TypeError as error:
        name = getattr(make_pair, "__name__", type(make_pair).__name__)
        raise PpvaeError(
            f"fit_many: {name} cannot be called without an argument ({error}); it is called under "
            "torch.manual_seed(seed), and needs none for its seed"
            + try_one_of(f"functools.partial({name}, ...)", f"lambda: {name}(...)")
        ) from None


def _require_apart(pairs: Sequence[ModelGuidePair]) -> None:
    """Refuse pairs with tensors in common that training changes: each fit would go on with those of the other."""
    owner: dict[int, int] = {}
    for place, pair in enumerate(pairs):
        tensors = [(n, p) for n, p in pair.named_parameters() if p.requires_grad] + list(pair.named_buffers())
        for name, tensor in tensors:
            if owner.setdefault(id(tensor), place) != place:
                raise PpvaeError(
                    f"fit_many: make_pair gave two pairs one tensor, {name!r}: each fit would change that of the others"
                    + try_one_of("modules that are made inside make_pair", "copy.deepcopy(module) there")
                )


def _checked_seeds(seeds: Iterable[int], resume: Mapping[int, Any] | None) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise PpvaeError(
            f"seeds: expected several whole numbers, found {seeds!r}" + try_one_of(f"seeds=range({seeds})")
        )
    found = list(seeds)
    for seed in found:
        require_integer("seeds", seed, 0)
    found = [operator.index(seed) for seed in found]
    if not found:
        raise PpvaeError("seeds: expected at least one, found none" + try_one_of("seeds=range(8)"))
    for place, seed in enumerate(found):
        if seed in found[:place]:
            raise PpvaeError(
                f"seeds: {seed} is there twice, and two equal fits would count as two" + try_one_of("different seeds")
            )
    if unknown := [seed for seed in resume or {} if seed not in found]:
        raise PpvaeError(
            f"resume: has a fit of seed {unknown[0]}, which is not among the seeds"
            + try_one_of(f"seeds={sorted({*found, *unknown})}")
        )
    return found


def _check_options(options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(fit).parameters if name not in _OWN]
    for name in options:
        if name == "seed":
            raise PpvaeError("fit_many: takes several seeds" + try_one_of(f"seeds=[{options[name]}]"))
        if name not in known:
            raise PpvaeError(f"fit_many: unknown option {name!r} of fit: {did_you_mean(name, known)}")
