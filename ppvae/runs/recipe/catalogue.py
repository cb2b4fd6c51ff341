"""What a recipe can name: models, estimators, evidence methods, schedules."""

from __future__ import annotations

import inspect
import math
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .signatures import Entry, choose, complete_options, entries_of
from ... import inference, models
from ...core import ModelGuidePair
from ...core.bounds import in_words, memory_limit, memory_remedy
from ...core.errors import PpvaeError, RunError, try_one_of
from ...data import Dataset
from ...inference import elbo
from ...inference import evidence as evidence_methods
from ...models import initializers, likelihoods, posteriors, priors

FROM_DATA = ("event_shape", "data_dim", "image_shape", "num_classes")
"""Arguments of a model that come from the data."""

_MAY_LACK = {
    "image_shape": ("images", ("data.image_shape=[28, 28]", "data that are images, such as digits")),
    "num_classes": ("labels, one for each datum", ("data with labels, such as digits", "a column called label")),
}
"""Those that not all data have: what that is, and what to do."""


@cache
def model_entries() -> dict[str, Entry]:
    """Models by name: those of ``ppvae.models.__all__`` that can be built from numbers, words and the data."""
    entries = entries_of(models, external=FROM_DATA)
    return {n: e for n, e in entries.items() if _takes(e, FROM_DATA) and _makes_a_pair(e.build)}


@cache
def part_entries() -> dict[str, dict[str, Entry]]:
    """What the arguments "prior", "posterior", "likelihood" and "init" of a model can be, by name."""
    return {
        "init": entries_of(initializers),
        "prior": entries_of(priors),
        "posterior": entries_of(posteriors),
        "likelihood": entries_of(likelihoods),
    }


@cache
def elbo_entries() -> dict[str, Entry]:
    """Estimators of the bound by name."""
    return entries_of(elbo, of=elbo.ELBO, suffix="ELBO")


@cache
def evidence_entries() -> dict[str, Entry]:
    """Evidence methods by name."""
    return entries_of(evidence_methods, of=evidence_methods.EvidenceMethod)


def exponential(gamma: float) -> Callable[[Optimizer], LRScheduler]:
    """Multiply the learning rate by gamma at every epoch."""
    return lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)


def step(step_size: int, gamma: float = 0.1) -> Callable[[Optimizer], LRScheduler]:
    """Multiply the learning rate by gamma every step_size epochs."""
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)


def multi_step(milestones: list[int], gamma: float = 0.1) -> Callable[[Optimizer], LRScheduler]:
    """Multiply the learning rate by gamma after each of these epochs."""
    return lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


def cosine(num_epochs: int, minimum: float = 0.0) -> Callable[[Optimizer], LRScheduler]:
    """Anneal the learning rate to a minimum along half a cosine."""
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs, minimum)


SCHEDULES = {
    entry.name: entry
    for entry in (
        Entry("exponential", exponential),
        Entry("step", step),
        Entry("multi-step", multi_step),
        Entry("cosine", cosine),
    )
}


@cache
def value_schedules() -> dict[str, Entry]:
    """What a number that changes during training can follow, by name."""
    return entries_of(inference, of=inference.Schedule)


def complete_values(value: Any, key: str) -> Any:
    """A number, a schedule, or tables of such by dotted names, checked and complete; a text is one of a command line.

    >>> complete_values({"posterior": {"temperature": "exponential:start=1,end=0.5,over=20"}}, "training.schedules")
    {'posterior.temperature': {'name': 'exponential', 'start': 1.0, 'end': 0.5, 'over': 20.0, 'unit': 'epochs'}}

    Raises:
        RunError: as :func:`complete_table`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        return parse_table(value_schedules(), value, key, "schedule")
    if not isinstance(value, Mapping) or isinstance(value.get("name"), str):
        return complete_table(value_schedules(), value, key, "schedule")
    result: dict[str, Any] = {}
    for name, part in value.items():
        inner = complete_values(part, f"{key}.{name}")
        nested = isinstance(inner, Mapping) and "name" not in inner
        result |= {f"{name}.{rest}": leaf for rest, leaf in inner.items()} if nested else {name: inner}
    return result


def build_values(value: Any) -> Any:
    """The number, the schedule or the mapping of such that :func:`complete_values` made."""
    if not isinstance(value, Mapping):
        return value
    if isinstance(value.get("name"), str):
        return build(value_schedules(), value)
    return {name: build_values(part) for name, part in value.items()}


def complete_table(entries: Mapping[str, Entry], table: Any, key: str, what: str) -> dict[str, Any]:
    """A table ``{name, **options}``, checked and complete; a bare word is a name without options.

    Raises:
        RunError: no name, an unknown one, or options that it does not take.
    """
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping):
        raise RunError(f"{key}: expected a name or a table with a name, found {table!r} ({type(table).__name__})")
    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RunError(f"{key}.name: expected one of {', '.join(sorted(entries))}, found {name!r}")
    entry = choose(entries, name, what)
    return {"name": name, **complete_options(entry, options, key)}


def parse_table(entries: Mapping[str, Entry], text: str, key: str, what: str) -> dict[str, Any]:
    """A table from one word of a command line: "ais", or "ais:num_chains=16,num_temperatures=100".

    Raises:
        RunError: an unknown name or option, or a value of a wrong type.
    """
    name, _, rest = text.partition(":")
    table: dict[str, Any] = {"name": name.strip()}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        option, equals, value = part.partition("=")
        if not equals:
            raise RunError(f"{key} {text}: expected option=value, found {part!r}")
        try:
            table[option.strip()] = tomllib.loads(f"value = {value.strip()}")["value"]
        except ValueError:  # no TOML, or a number of thousands of digits
            table[option.strip()] = value.strip()
    return complete_table(entries, table, key, what)


def build(entries: Mapping[str, Entry], table: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the entry that a checked table names."""
    options = dict(table)
    entry = entries[options.pop("name")]
    return entry.build(**options, **arguments)


COPIES = 4
"""Of all parameters while Adam trains: values, gradients, two running averages. A checkpoint is read in as many."""


def complete_model(table: Any) -> dict[str, Any]:
    """A table of a model by name, checked and complete, with the tables of its parts.

    Raises:
        RunError: as :func:`complete_table`.
    """
    parts = {}
    name = table.get("name") if isinstance(table, Mapping) else None
    if isinstance(name, str) and (entry := model_entries().get(name)) is not None:
        parts = {
            part: complete_table(entries, table[part], f"model.{part}", part)
            for part, entries in part_entries().items()
            if part in table and _takes(entry, (part,))
        }
        table = {key: value for key, value in table.items() if key not in parts}
    return {**complete_table(model_entries(), table, "model", "model"), **parts}


def _construct(table: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    made = {part: build(entries, table[part]) for part, entries in part_entries().items() if part in table}
    return build(model_entries(), {**table, **made}, **arguments)


def build_model(table: Mapping[str, Any], data: Dataset) -> Any:
    """Construct the model that a checked table names, for data of this shape.

    Raises:
        RunError: memory cannot hold it, and nothing was allocated; or an option that the model refuses, by its key.
        PpvaeError: what else the model refuses.
    """
    entry = model_entries()[table["name"]]
    arguments = {key: value for key, value in from_data(data).items() if _takes(entry, (key,))}
    for key, (what, remedy) in _MAY_LACK.items():
        if key in arguments and arguments[key] is None:
            raise RunError(f"{entry.name}: needs {what}, which {data.name} lacks" + try_one_of(*remedy))
    _require_memory(table, arguments)
    try:
        return _construct(table, arguments)
    except PpvaeError as error:
        if str(error).partition(":")[0] in table:  # "hidden: ...", which the recipe calls model.hidden
            raise RunError(f"model.{error}") from error
        raise


def _require_memory(table: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    limit = memory_limit()
    sizes = {
        key: value for key, value in table.items() if isinstance(value, int | list) and not isinstance(value, bool)
    }
    remedies = [f"a smaller model.{key}" for key in sizes]
    try:
        count, size = count_parameters(table, arguments)
        if COPIES * size <= limit:
            return
        number = f"{count:,} parameters, {in_words(size)}"
        remedies.append(memory_remedy(COPIES * size))
    except OverflowError:
        number = "more parameters than 64 bits can count"
    options = ", ".join(f"model.{key}={value}" for key, value in (sizes or {"name": table["name"]}).items())
    raise RunError(
        f"{options}: such a {table['name']} has {number}; with gradients and the averages of Adam, {COPIES} times as "
        f"much, that is more than the memory limit of {in_words(limit)}" + try_one_of(*remedies)
    )


def count_parameters(table: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[int, int]:
    """How many numbers the parameters and buffers of a model are, and their bytes; none is allocated.

    Both are 0 for a model that cannot be built without values.

    Raises:
        OverflowError: they cannot be counted in 64 bits.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            model = _construct(table, arguments)
        except Exception as error:
            if "overflow" in str(error).lower():
                raise OverflowError(str(error)) from None
            return 0, 0  # to build it in earnest says what is wrong, if anything is
    tensors = [*model.parameters(), *model.buffers()]
    return sum(x.numel() for x in tensors), sum(x.numel() * x.element_size() for x in tensors)


def from_data(data: Dataset) -> dict[str, Any]:
    """A model's arguments that come from the data."""
    shape = data.event_shape
    return {
        "event_shape": shape[0] if len(shape) == 1 else shape,
        "data_dim": shape[-1] if len(shape) == 2 else math.prod(shape),  # of a sequence [T, D]: of one step
        "image_shape": data.image_shape,
        "num_classes": _classes_of(data),
    }


def _classes_of(data: Dataset) -> int | None:
    """How many classes the labels have; or the member "label", of numbers or of rows of 0 and 1."""
    labels, rows = data.labels, data.members.get("label")
    if labels is None and rows is not None:
        return rows.shape[1] if rows.dim() == 2 else int(rows.max()) + 1
    return None if labels is None or labels.dim() != 1 else int(labels.max()) + 1


def _makes_a_pair(build: Callable[..., Any]) -> bool:
    return not inspect.isclass(build) or issubclass(build, ModelGuidePair)


def _takes(entry: Entry, names: tuple[str, ...]) -> bool:
    return any(name in inspect.signature(entry.build).parameters for name in names)
