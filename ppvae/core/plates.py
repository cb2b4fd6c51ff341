"""Which plate of a program is that over the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .errors import ONE_DATUM, PairError, try_one_of
from .pair import DATA_PLATE

Sites = Mapping[str, Mapping[str, Any]]


def plates_of(*programs: Sites) -> dict[str, Any]:
    """The plates of some programs' sites, by name; of one that stands at several dims, one of these."""
    return {str(frame.name): frame for sites in programs for s in sites.values() for frame in s["cond_indep_stack"]}


def data_plate_of(
    model: Sites,
    guide: Sites,
    known: tuple[str | None, str | None],
    batch: int | None,
    rolled: Callable[[], Sites],
) -> str | None:
    """The plate over data: the one that was named; else "data"; else that around all data whose entries are the rows.

    Args:
        model: the model's sites.
        guide: the guide's sites.
        known: the name that the caller said, and that found on another batch; None for none.
        batch: B, the length of the batch; None where it is not known.
        rolled: runs the model on the batch with its rows rolled by one.

    Returns:
        None where no plate is around all observed sites, or none has the name that the caller said.

    Raises:
        PairError: several such plates, which cannot be told apart, or none.
    """
    plates = plates_of(model, guide)
    named, before = known
    if named is not None or (before not in plates and DATA_PLATE in plates):
        named = named or DATA_PLATE
        return named if named in plates else None
    latent = {name for name, site in guide.items() if not site["is_observed"]}
    observed = [site for name, site in model.items() if site["is_observed"] and name not in latent]
    around = [{str(frame.name) for frame in site["cond_indep_stack"]} for site in observed]
    sizes = {name: plates[name].size for name in sorted(set.intersection(*around) if around else ())}
    candidates = [str(before)] if before in plates else [name for name, n in sizes.items() if batch in (None, n)]
    found = ", ".join(f"{name!r} of {'no size' if size < 0 else size}" for name, size in sizes.items())
    if sizes and not candidates:
        raise _unknown_plate(f"no plate around all data has the length of the batch, {batch}: found {found}")
    if candidates and batch is not None:
        after = rolled()
        rows = [name for name in candidates if _has_rows(model, after, name)]
        if not rows:
            raise _unknown_plate(f"{candidates[0]!r} is as long as the batch, but its entries are not the rows")
        candidates = rows
    if len(candidates) > 1:
        raise _unknown_plate(f"{len(candidates)} plates of the length of the batch are around all data: {found}")
    return candidates[0] if candidates else None


def _unknown_plate(reason: str) -> PairError:
    """The error where the plate over data cannot be told."""
    return PairError(
        f"it is not known which plate is that over the data: {reason}"
        + try_one_of(
            'from_callables(model, guide, data_plate="rows"), with the name of that plate',
            'call that plate "data": pyro.plate("data", len(x))',
            ONE_DATUM,
        )
    )


def _has_rows(before: Sites, after: Sites, plate: str) -> bool:
    """Whether a plate's entries are the rows of the batch: observed values move in it where the rows move.

    Args:
        before: the model's sites on a batch.
        after: on the batch with its rows rolled by one.
        plate: the name of the plate.
    """
    dims = {name: f.dim for name, site in before.items() for f in site["cond_indep_stack"] if f.name == plate}
    if None in dims.values():
        return True  # a sequential plate is refused as such
    moves = []
    for name, dim in dims.items():
        value, axis = before[name]["value"], dim - before[name]["fn"].event_dim
        if before[name]["is_observed"] and after[name]["is_observed"] and value.numel() and value.dim() >= -axis:
            moves.append(torch.equal(value.roll(1, axis), after[name]["value"]))
    return bool(moves) and all(moves)
