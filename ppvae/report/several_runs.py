"""The data of a comparison of runs: all that its figures and tables need, computed once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .common_data import SharedPart, compare_runs
from .findings import ReportData, evaluations_of
from ..core import PpvaeError
from ..core.measure import MEASURED_ROWS, Measure, measure_of
from ..data import Dataset
from ..inference.execution.placement import dtype_of, like_pair
from ..inference.prediction import generate, reconstruct
from ..runs import Run

NUM_SAMPLES = 24
NUM_RECONSTRUCTED = 12
_NOT_LEARNT = ("seed", "device", "ppvae", "training.compile")
"""Keys of a recipe that do not tell what is to be learnt."""


@dataclass(frozen=True)
class Group:
    """Runs whose recipes differ in the seed alone.

    Attributes:
        name: what sets them apart from the other groups, or the name of a run that stands alone.
        members: one run for each seed, by number.
        copies: further runs of a seed that a member has, which are no further evidence.
    """

    name: str
    members: list[int]
    copies: list[int]

    @property
    def title(self) -> str:
        """Its name, with the number of seeds where there are several."""
        return f"{self.name}, {len(self.members)} seeds" if len(self.members) > 1 else self.name


@dataclass(frozen=True)
class Curve:
    """The history of a run: the bound on training and validation data, against two clocks.

    Attributes:
        samples: data seen in training at the end of every epoch, repeats counted.
        seconds: the time then, validation included.
        train: the training bound, nats per datum.
        validation: that on validation data; None without any.
    """

    samples: list[float]
    seconds: list[float]
    train: list[float]
    validation: list[float] | None


@dataclass(frozen=True, eq=False)
class Examples:
    """What a run makes of data, all of one held-out part.

    Attributes:
        data: the first of it.
        x: the same as the model sees them, [N, *event].
        reconstructed: [N, *event]; None where the pair cannot reconstruct.
        samples: means of p(x | z) for z from the prior, [S, *event]; None where it cannot generate.
    """

    data: Dataset
    x: Tensor
    reconstructed: Tensor | None
    samples: Tensor | None


@dataclass(frozen=True, eq=False)
class SeveralRuns:
    """The data of a comparison.

    Attributes:
        runs: the runs.
        names: of each, all different.
        reports: of each the run and its evaluations: of its parameters, and stale ones.
        parts: the estimates over common data.
        groups: of runs that differ in the seed alone; every run is in one.
        curves: of each run; None for one without a history.
        examples: of each run.
        problems: evaluations that cannot be read, and quantities that could not be computed.
        measures: of each run's model; empty where it is the same of all.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    reports: tuple[ReportData, ...]
    parts: tuple[SharedPart, ...]
    groups: tuple[Group, ...]
    curves: tuple[Curve | None, ...]
    examples: tuple[Examples, ...]
    problems: tuple[str, ...]
    measures: tuple[Measure, ...] = ()

    def judged_on(self, number: int) -> tuple[str, ...]:
        """Equal for runs whose learning curves compare: on the same data, of one measure."""
        run, measure = self.runs[number], repr(self.measures[number]) if self.measures else ""
        digests = run.info.get("data", {})
        part = "validation" if "validation" in run.data.parts else "train"
        return run.data.name, run.recipe.data.binarize, part, str(digests.get(part)), measure

    @property
    def has_seeds(self) -> bool:
        """Whether some runs differ in the seed alone."""
        return any(len(group.members) > 1 for group in self.groups)


def find_several(runs: Sequence[Run], *, seed: int = 0, device: str = "auto") -> SeveralRuns:
    """Compute all that a comparison shows of runs; samples and reconstructions from ``seed`` on ``device``."""
    names, problems = _names(runs), list[str]()
    reports, examples = [], []
    for run, name in zip(runs, names, strict=True):
        examples.append(_examples(run, name, seed, device, problems))
        reports.append(
            ReportData(run, run.held_out, examples[-1].data, examples[-1].x, **evaluations_of(run, problems))
        )
    groups, measures = groups_of(runs, names), tuple(_measure_of(run) for run in runs)
    own = [[one for one in (r.evaluation, *r.more_evaluations) if one is not None] for r in reports]
    return SeveralRuns(
        runs=tuple(runs),
        names=tuple(names),
        reports=tuple(reports),
        parts=tuple(compare_runs(own, [group.members for group in groups], measures)),
        groups=tuple(groups),
        curves=tuple(curve_of(run) for run in runs),
        examples=tuple(examples),
        problems=tuple(problems),
        measures=measures,
    )


def _measure_of(run: Run) -> Measure:
    data = run.part(run.held_out)
    few = data.take(min(MEASURED_ROWS, len(data))).binarize(0)
    return measure_of(run.pair, like_pair(few.batch(torch.arange(len(few))), dtype_of(run.pair)))


def _names(runs: Sequence[Run]) -> list[str]:
    short = [run.folder.path.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder.path) for run in runs]


def groups_of(runs: Sequence[Run], names: Sequence[str]) -> list[Group]:
    """The runs, those together that differ in the seed alone.

    They have the same recipe apart from the seed, where it was computed and the version, the same bytes as training
    data, the same changes on the way, and came to their end. Of several with one seed the first counts.
    """
    found: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        found.setdefault(_identity(run, number), []).append(number)
    groups = []
    for numbers in found.values():
        first = {runs[number].recipe.seed: number for number in reversed(numbers)}
        members = sorted(first.values())
        groups.append((members, [number for number in numbers if number not in members]))
    keys = [key for key, _ in differing([runs[members[0]] for members, _ in groups]) if key not in _NOT_LEARNT]
    return [Group(_group_name(runs, names, members, keys), members, copies) for members, copies in groups]


def _identity(run: Run, number: int) -> str:
    """The same text for runs of one recipe, whatever the seed."""
    if run.info.get("outcome") not in ("completed", "early stopping"):
        return f"run {number}, which has not come to its end"
    recipe = {key: value for key, value in run.recipe.flat().items() if key not in _NOT_LEARNT}
    digests = run.info.get("data", {})
    return json.dumps([recipe, digests, len(run.info.get("segments", [])) and number], sort_keys=True, default=str)


def _group_name(runs: Sequence[Run], names: Sequence[str], members: Sequence[int], keys: Sequence[str]) -> str:
    if len(members) == 1:
        return names[members[0]]
    flat = runs[members[0]].recipe.flat()
    told = [_words(key, flat[key]) for key in keys[:2] if key in flat]
    return ", ".join(told or [names[number] for number in members])


def _words(key: str, value: Any) -> str:
    """``latent_dim = 20``, or a name alone."""
    last = key.rpartition(".")[2]
    return str(value) if last == "name" else f"{last} = {value}"


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The keys in which the recipes differ, each with the value of every run, a dash where it has none."""
    return [(key, values) for key, values in _table(runs) if len(set(values)) > 1]


def agreeing(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The keys in which they do not, and their value."""
    return [(key, values[0]) for key, values in _table(runs) if len(set(values)) == 1]


def _table(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    flat: list[Mapping[str, Any]] = [run.recipe.flat() for run in runs]
    for key in dict.fromkeys(key for values in flat for key in values):
        yield key, [str(values.get(key, "–")) for values in flat]


def curve_of(run: Run) -> Curve | None:
    """The history of a run; None where there is none."""
    history, size = run.history, run.recipe.training.batch_size
    if not history:
        return None
    rows = len(run.data) if size == "all" else min(size, len(run.data))
    validation = "elbo_validation" in history[-1]
    nan = float("nan")
    return Curve(
        samples=[row["step"] * rows for row in history],
        seconds=[row.get("seconds", nan) for row in history],
        train=[row["elbo_train"] for row in history],
        validation=[row.get("elbo_validation", nan) for row in history] if validation else None,
    )


def _examples(run: Run, name: str, seed: int, device: str, problems: list[str]) -> Examples:
    data = run.part(run.held_out)
    data = data.take(min(NUM_RECONSTRUCTED, len(data))).binarize(seed)
    whole = data.tensor()
    made: list[Tensor | None] = []
    for what in ("reconstructions", "samples"):
        try:
            made.append(
                reconstruct(run.pair, data, seed=seed, device=device)
                if what == "reconstructions"
                else generate(run.pair, NUM_SAMPLES, like=data, seed=seed, device=device)
            )
        except (PpvaeError, NotImplementedError) as error:
            problems.append(f"{name}: no {what}: {(str(error) or type(error).__name__).splitlines()[0]}")
            made.append(None)
    return Examples(data, data.main_of(whole), made[0], made[1])


def same_data(one: Examples, other: Examples) -> bool:
    """Whether both are of the same data, to the byte."""
    return one.x.shape == other.x.shape and bool(torch.equal(one.x, other.x))
