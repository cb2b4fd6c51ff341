"""Running a program of a pair and reading its trace: with ``models/bayesian.py``, the only file that knows poutine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from .enumeration import PARTICLES
from .errors import PairError, located, try_one_of
from .pair import DATA_PLATE, Data, ModelGuidePair, batch_size
from .structure import Structure
from .terms import Sites
from .wrappers import is_deterministic

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
    program: Callable[..., Any] = _OpenPlates((DATA_PLATE, pair.plate_name), length_of(pair, x))(getattr(pair, role))
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
        try:
            trace = poutine.trace(program).get_trace(x, num_data)
        except PairError as error:
            raise located(error) from None
    if enumerate:
        trace.symbolize_dims()
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not isinstance(site["fn"], _Subsample) and not is_deterministic(site)
    }


def length_of(pair: ModelGuidePair, x: Data) -> int | None:
    """B; None for what stock ``pyro.infer.SVI`` was called with, which may be anything."""
    return batch_size(x) if pair.parameter_store != "pyro" else None


def run_model(
    pair: ModelGuidePair,
    x: Data,
    shape: Structure,
    values: Latents,
    particles: int,
    num_data: int | None = None,
    *,
    free: Collection[str] = (),
    enumerate: bool = True,
) -> Sites:
    """The model at given values, in Pyro's order of axes; what is summed out is enumerated, or else drawn."""
    enumerate = enumerate and bool(shape.enumerated)
    return run_program(pair, "model", x, num_data, particles, shape.nesting, values, free, enumerate)


def untold(program: Callable[..., Any], names: Collection[str]) -> Callable[..., Any]:
    """The program with these sites drawn as they stand and told to no one: a part of it, for the waist."""
    return _Untold(names)(program) if names else program


def redistributed(program: Callable[..., Any], name: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """The program with another distribution at a site, made of its own."""
    return _Redistributed(name, change)(program)


class _Redistributed(Messenger):
    """Changes the distribution of a site, before plates of the waist expand it."""

    def __init__(self, name: str, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.name, self.change = name, change

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.name:
            msg["fn"] = self.change(msg["fn"])


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


class _OpenPlates(Messenger):
    """Fills in what a program leaves open: the size of the plate over data, and the rows of a random subsample.

    A plate without a size (``pyro.plate("data")``) has the length of the batch. One that would draw its rows at random
    (``subsample_size=...``) has the first ones: rows of a batch are chosen by who makes the batch, and once.

    Args:
        names: of the plate over data.
        batch: B; None where the batch is what stock ``pyro.infer.SVI`` was called with.
    """

    def __init__(self, names: Collection[str | None], batch: int | None) -> None:
        super().__init__()
        self.names, self.batch = names, batch

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if isinstance(fn, _Subsample):
            if msg["value"] is None and fn.subsample_size is not None and 0 < fn.subsample_size < fn.size:
                if self.batch is None:
                    raise PairError(
                        f"the plate {msg['name']!r} draws {fn.subsample_size} of {fn.size} rows at random: other rows "
                        "in the model than in the guide" + try_one_of("pyro.plate(..., subsample=rows) in both")
                    )
                msg["value"] = torch.arange(fn.subsample_size, device=fn.device)
            return
        frames = msg["cond_indep_stack"]
        if self.batch is None or not any(frame.size == -1 and frame.name in self.names for frame in frames):
            return
        for frame in frames:
            if frame.size == -1 and frame.name in self.names and not msg["is_observed"]:
                self._require_axis(msg, frame)
        msg["cond_indep_stack"] = tuple(
            frame._replace(size=self.batch, full_size=self.batch)
            if frame.size == -1 and frame.name in self.names
            else frame
            for frame in frames
        )
        BroadcastMessenger._pyro_sample(msg)

    def _require_axis(self, msg: Any, frame: Any) -> None:
        """A latent has a value for every datum: the plate does not say how many it would have to draw."""
        shape = tuple(msg["fn"].batch_shape)
        if shape[frame.dim :][:1] != (self.batch,):
            raise PairError(
                f"site {msg['name']!r} stands in the plate {frame.name!r}, which has no size, and its distribution "
                f"has the batch shape {shape}: expected {self.batch} values at dim {frame.dim}, one for each datum"
                + try_one_of(f"pyro.plate({frame.name!r}, len(x))", "self.data_plate(x, num_data)")
            )


def width_of(group: slice) -> int:
    """How many particles a group has."""
    return int(group.stop - group.start)
