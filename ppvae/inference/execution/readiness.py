"""Checks before a training run: the pair on a batch, all values, whether minibatches are possible."""

from __future__ import annotations

import logging
from typing import Any

import torch

from .placement import dtype_of, like_pair
from ...core import Data, ModelGuidePair, PairError, batch_size, check_pair, draw, log_joint, rows_of, structure
from ...core.compile import preserve
from ...core.data_support import ConstantSupports
from ...core.errors import try_one_of
from ...core.fingerprint import fingerprint
from ...core.parts import parameter_for_each, size_conflict, waits_for_data
from ...data import Dataset

VALIDATION_CHUNK = 1000

_log = logging.getLogger("ppvae.fit")


def check_training(
    pair: ModelGuidePair, example: Any, dataset: Dataset, held_out: Dataset | None, *, explicit: bool
) -> Dataset | None:
    """Check pair and data before training.

    Args:
        pair: the pair, in evaluation mode.
        example: a batch of the shape of every step.
        dataset: the training data.
        held_out: the validation data, or None.
        explicit: whether they are the caller's argument, and not a part of the data set.

    Returns:
        the validation data; None also where they are a part of the data set and the pair has parameters for each
        training datum.

    Raises:
        PairError: the pair breaks its contract or does not fit the data; or it has parameters for every datum, with
            minibatches or explicit validation data.
    """
    dtype = dtype_of(pair)
    _check_parts(pair, example, dataset)
    check_pair(pair, example, num_data=len(dataset))
    _check_held(pair, example)
    if batch_size(example) < len(dataset):
        _check_values(pair, example, dataset)
    if held_out is None:
        return None
    if batch_size(example) == len(dataset) and (reason := size_conflict(pair, example)):
        if explicit:
            raise PairError(
                f"validation: the pair has parameters for every datum of the training data ({reason}), and none for "
                "those of the validation data"
                + try_one_of("no validation data", "a guide whose parameters do not depend on the number of data")
            )
        _log.warning("%s: not validated on: the pair has parameters for every training datum", held_out.name)
        return None
    rows = torch.arange(min(VALIDATION_CHUNK, len(held_out)), device=held_out.device)
    check_pair(pair, like_pair(held_out.batch(rows, dtype=dtype), dtype))
    _check_values(pair, example, held_out)
    return held_out


def check_all(pair: ModelGuidePair, x: Data) -> bool:
    """Check a pair on all data, and whether it needs them all together.

    Args:
        pair: the pair, in evaluation mode.
        x: all data, [N, *event].

    Returns:
        whether the pair cannot be run on another number of data: it has parameters for every datum, as an automatic
        guide has; or all the data are one datum; or there is one, of which this cannot be said.

    Raises:
        PairError: the pair breaks its contract, or does not fit the data.
    """
    size = batch_size(x)
    if size <= VALIDATION_CHUNK or waits_for_data(pair):
        # Parameters made for one datum broadcast over any number.
        return check_pair(pair, x).one_datum or size == 1 or bool(size_conflict(pair, x))
    parts = torch.arange(size).split(VALIDATION_CHUNK)
    try:
        structure(pair, rows_of(x, parts[0]))
    except Exception:  # check_pair says what is wrong, if it is that
        check_pair(pair, x)
        return True
    for rows in parts:
        check_pair(pair, rows_of(x, rows))
    return False


def _check_parts(pair: ModelGuidePair, example: Any, dataset: Dataset) -> None:
    """Reject minibatches for a pair with parameters for every datum: each batch would train those of the first."""
    if batch_size(example) == len(dataset):
        return

    def run_on(num: int) -> None:
        rows = torch.arange(num, device=dataset.device)
        structure(pair, like_pair(dataset.batch(rows, dtype=dtype_of(pair)), dtype_of(pair)))

    names_before = frozenset(pair.adopted_names())
    try:
        if waits_for_data(pair):  # the guide creates its parameters for the data of its first run: all
            run_on(len(dataset))
        if batch_size(example) == 1:  # parameters for one datum would broadcast over any number
            run_on(2)
        structure(pair, example)
        reason = size_conflict(pair, example)
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        pair.disown(frozenset(pair.adopted_names()) - names_before)
        try:
            run_on(len(dataset))
        except Exception:
            return  # nor does it run on all data: check_pair says why
    if reason:
        # The name first: afterwards the parameters are released, so that the pair can be trained on all data.
        name = parameter_for_each(pair, batch_size(example), len(dataset))
        pair.disown(frozenset(pair.adopted_names()) - names_before)
        raise PairError(
            f"the pair has parameters for every datum{f', {name!r} for instance' if name else ''}: on a part of a "
            f"batch it cannot be run ({reason}), and minibatches of {batch_size(example)} out of {len(dataset)} data "
            f"would all train the same ones"
            + try_one_of(
                "batch_size=None, all data at every step",
                "a guide that computes its parameters from x by a network (an encoder)",
                "parameters for every datum in a table, looked up by a member of the batch that holds row numbers",
            )
        )


def _check_held(pair: ModelGuidePair, example: Any) -> None:
    """Whatever log p(x, z) and log q(z | x) have a gradient in is a parameter of the pair: else it is not trained."""
    with torch.enable_grad(), torch.random.fork_rng(), preserve(pair.buffers()):
        one = draw(pair, example, 1)
        joint = log_joint(pair, example, one.latents, num_draws=None if one.latents else 1)
        total = sum(part.sum() for part in (one.log_q, one.global_log_q, joint.local, joint.global_))
    own = {id(parameter) for parameter in pair.parameters()}
    for leaf in _leaves(total):
        if id(leaf) not in own:
            name = next((name for name, value in fingerprint(pair).items() if value is leaf), None)
            raise PairError(
                f"the programs read {name or 'a tensor'!r} of shape {list(leaf.shape)}, which requires a gradient and "
                "is no parameter of the pair: it would not be trained"
                + try_one_of(
                    "ModelGuidePair.from_callables(model, guide, modules=[...]), with the network that holds it",
                    "torch.nn.ModuleList or ModuleDict in the place of a list or dict of networks",
                    "requires_grad_(False), where it is to stay as it is",
                )
            )


def _leaves(value: Any) -> list[torch.Tensor]:
    """The tensors that a value's gradient ends in."""
    found, seen, open_ = [], set(), [getattr(value, "grad_fn", None)]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        open_ += [child for child, _ in node.next_functions]
    return found


def _check_values(pair: ModelGuidePair, example: Any, dataset: Dataset) -> None:
    """Check all data against the likelihood's support; check_pair checks one batch only."""
    supports = ConstantSupports(pair, example)
    if not supports or dataset.binarization == "dynamic":  # drawn zeros and ones
        return
    for rows in torch.arange(len(dataset), device=dataset.device).split(VALIDATION_CHUNK):
        supports.check(like_pair(dataset.batch(rows, dtype=dtype_of(pair)), dtype_of(pair)), int(rows[0]))
