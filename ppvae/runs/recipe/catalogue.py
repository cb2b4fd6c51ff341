"""What a recipe can name: models, estimators, evidence methods, schedules."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .signatures import Entry, choose, complete_options, entries_of
from ... import models
from ...core.errors import RunError
from ...data import Dataset
from ...inference import elbo
from ...inference import evidence as evidence_methods

FROM_DATA = ("event_shape", "data_dim", "image_shape")
"""Arguments of a model that come from the data."""


@cache
def model_entries() -> dict[str, Entry]:
    """Models by name: those of ``ppvae.models.__all__`` that can be built from numbers, words and the data."""
    entries = entries_of(models, external=FROM_DATA)
    return {name: entry for name, entry in entries.items() if _takes(entry, FROM_DATA)}


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
        except tomllib.TOMLDecodeError:
            table[option.strip()] = value.strip()
    return complete_table(entries, table, key, what)


def build(entries: Mapping[str, Entry], table: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the entry that a checked table names."""
    options = dict(table)
    entry = entries[options.pop("name")]
    return entry.build(**options, **arguments)


def build_model(table: Mapping[str, Any], data: Dataset) -> Any:
    """Construct the model that a checked table names, for data of this shape."""
    entry = model_entries()[table["name"]]
    arguments = {key: value for key, value in from_data(data).items() if _takes(entry, (key,))}
    return build(model_entries(), table, **arguments)


def from_data(data: Dataset) -> dict[str, Any]:
    """A model's arguments that come from the data."""
    shape = data.event_shape
    size = 1
    for extent in shape:
        size *= extent
    return {
        "event_shape": shape[0] if len(shape) == 1 else shape,
        "data_dim": size,
        "image_shape": data.image_shape,
    }


def _takes(entry: Entry, names: tuple[str, ...]) -> bool:
    return any(name in inspect.signature(entry.build).parameters for name in names)
