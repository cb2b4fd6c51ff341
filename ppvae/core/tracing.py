"""Running a program of a pair and reading its trace: with ``models/bayesian.py``, the only file that knows poutine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import pyro
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from .enumeration import PARTICLES
from .pair import Data, ModelGuidePair
from .structure import Structure
from .terms import Sites

Latents = Mapping[str, Tensor]


def run_program(
    pair: ModelGuidePair,
    role: Literal["model", "guide"],
    x: Data,
    num_data: int | None,
    particles: int = 1,
    nesting: int = 0,
    substitute: Latents | None = None,
    free: Collection[str] = (),
    enumerate: bool = False,
) -> Sites:
    """Run one program and return its sample sites, the free ones drawn; particles are one more plate on the left.

    Sites marked for it are enumerated on request, each value on an axis to the left of the particles.
    """
    program: Callable[..., Any] = getattr(pair, role)
    if free:
        program = _Uncondition(free)(program)
    if substitute is not None:
        program = poutine.condition(program, data=dict(substitute))
    # One particle needs no axis, so that a program that does not broadcast still runs.
    with contextlib.ExitStack() as contexts:
        if enumerate:  # outermost, so that it sees the distributions as the plates have expanded them
            contexts.enter_context(EnumMessenger(first_available_dim=-nesting - 1 - (particles > 1)))
        if particles > 1:
            contexts.enter_context(pyro.plate(PARTICLES, particles, dim=-nesting - 1))
        trace = poutine.trace(program).get_trace(x, num_data)
    if enumerate:
        trace.symbolize_dims()
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not isinstance(site["fn"], _Subsample)
        and not site["infer"].get("_deterministic")
    }


def run_enumerated(
    pair: ModelGuidePair,
    x: Data,
    shape: Structure,
    values: Latents,
    particles: int,
    num_data: int | None = None,
    free: Collection[str] = (),
) -> Sites:
    """The model at given values, in Pyro's order of axes, with what is summed out enumerated."""
    enumerate = bool(shape.enumerated)
    return run_program(pair, "model", x, num_data, particles, shape.nesting, values, free, enumerate)


def run_plain(
    pair: ModelGuidePair,
    x: Data,
    shape: Structure,
    values: Latents,
    particles: int,
    num_data: int | None = None,
    free: Collection[str] = (),
) -> Sites:
    """The model at given values, with what is summed out drawn where it has none."""
    return run_program(pair, "model", x, num_data, particles, shape.nesting, values, free)


def untold(program: Callable[..., Any], names: Collection[str]) -> Callable[..., Any]:
    """The program with these sites drawn as they stand and told to no one: a part of it, for the waist."""
    return _Untold(names)(program) if names else program


class _Uncondition(Messenger):
    """Draws these observed sites; ``poutine.uncondition`` would also draw the sites that a pair holds at values."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self.names:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


class _Untold(Messenger):
    """Draws these sites as they stand, but tells no one: the waist takes them for a part of the program."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["infer"]["_deterministic"] = True


def width_of(group: slice) -> int:
    """How many particles a group has."""
    return int(group.stop - group.start)
