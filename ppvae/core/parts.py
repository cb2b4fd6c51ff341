"""Whether a pair has parameters for every datum, so that it works on all of its data together or not at all."""

from __future__ import annotations

import torch
from pyro.infer.autoguide import AutoGuide
from torch import nn

from .density import structure
from .modes import in_evaluation_mode
from .pair import Data, ModelGuidePair, batch_size, rows_of


@in_evaluation_mode
def size_conflict(pair: ModelGuidePair, x: Data) -> str:
    """Why a pair cannot be run on another number of data than that of a batch it has been run on; "" where it can.

    The programs are run on one datum less. What an automatic guide, or ``pyro.param("loc", torch.zeros(len(x)))``,
    made for every datum of the first batch does not fit another. No random number is used up.

    Args:
        pair: the pair, which has been run on a batch of this size.
        x: the batch, [B, *event], of two data at least: what was made for one is broadcast over any number.
    """
    size = batch_size(x)
    rows = size - 1 if size > 2 else size + 1
    index = torch.arange(rows) % size
    adopted = frozenset(pair.adopted_names())
    try:
        shape = structure(pair, rows_of(x, index))
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    finally:
        pair.disown(frozenset(pair.adopted_names()) - adopted)
    if shape.data_plate is None or shape.batch < 0:
        return ""  # no plate, or one without a size: check_pair says so
    if shape.batch != rows:
        return f"plate {shape.data_plate!r} has {shape.batch} data for a batch of {rows}"
    for info in (*shape.model, *shape.guide):
        if info.num_data not in (None, 1, rows):
            return f"site {info.name!r} has {info.num_data} data for a batch of {rows}"
    return ""


def parameter_for_each(pair: ModelGuidePair, *sizes: int) -> str:
    """A parameter with an axis of one of these lengths, layers of networks aside, by name; "" where there is none."""
    for prefix, part in pair.named_modules():
        if type(part).__module__.startswith("torch.nn.modules.") and not isinstance(part, nn.ParameterDict):
            continue
        for name, value in part.named_parameters(recurse=False):
            if set(sizes) & set(value.shape):
                return f"{prefix}.{name}" if prefix else name
    return ""


def waits_for_data(pair: ModelGuidePair) -> bool:
    """Whether an automatic guide of the pair makes its parameters when it is first run, for the data of that run."""
    return any(isinstance(part, AutoGuide) and part.prototype_trace is None for part in pair.modules())
