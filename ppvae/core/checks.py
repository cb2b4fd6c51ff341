"""``check_pair``: everything about a pair and its data that can be checked before work begins."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from .audit import audit, check_guide
from .data_support import check_data
from .density import structure
from .errors import ONE_DATUM, PairError, did_you_mean, place_of, try_one_of
from .modes import in_evaluation_mode
from .pair import Data, ModelGuidePair, batch_size, members_of
from .reach import check_reach
from .site import PYRO_DISTRIBUTIONS, SiteInfo
from .structure import Structure

_log = logging.getLogger("ppvae.check")


@in_evaluation_mode
def check_pair(pair: ModelGuidePair, x: Data, *, num_data: int | None = None) -> Structure:
    """Check the contract of a pair on a batch, once, before any work.

    Model and guide have the same latent sites with the same event shapes; observed and local sites stand inside the
    plate over data, which is as long as the batch and states N; parameters and data are finite; the data lie in
    the support of the likelihood, and the guide's draws in that of the prior. Programs that state no density are
    refused (:mod:`ppvae.core.audit`). Whether the programs broadcast over one more plate on the left is tested too:
    where they do not, ``pair.vectorizes`` becomes False (logged) and particles run one by one.

    Args:
        pair: the pair.
        x: a batch, [B, *event], or a mapping or a tuple of such.
        num_data: N, to check that the plate scales by N / B.

    Returns:
        the pair's :class:`Structure`.

    Raises:
        PairError: names the site, what was expected, what was found, and what to try.
    """
    if not isinstance(pair, ModelGuidePair):
        raise PairError(
            f"expected a ModelGuidePair, found {type(pair).__name__}"
            + try_one_of("ModelGuidePair.from_callables(model, guide)", "subclass ModelGuidePair")
        )
    _check_batch(pair, x)
    return _check_programs(pair, x, num_data, data=True)


@in_evaluation_mode
def check_programs(pair: ModelGuidePair, x: Data) -> Structure:
    """As :func:`check_pair`, for verbs to which the data are an example of a shape: their values are not looked at.

    Args:
        pair: the pair.
        x: a batch, [B, *event].

    Returns:
        the pair's :class:`Structure`.

    Raises:
        PairError: as :func:`check_pair`.
    """
    return _check_programs(pair, x, None, data=False)


def _check_programs(pair: ModelGuidePair, x: Data, num_data: int | None, *, data: bool) -> Structure:
    _check_parameters(pair)
    _check_borrowed(pair)
    try:
        shape = structure(pair, x)
    except PairError:
        raise
    except Exception as error:
        said = f"{type(pair).__name__} fails on a batch of shape {_shapes(x)}"
        if other := _other_shapes(pair, x):
            raise PairError(f"{said}: expected {other[0]}" + try_one_of(*other[1:])) from error
        raise PairError(f"{said}: {type(error).__name__}: {error}" + place_of(error) + _remedies_of(error)) from error
    check_guide(shape)
    _check_sites(pair, shape)
    _check_plate(pair, x, shape, num_data)
    if data:
        check_data(pair, x, shape)
    audit(pair, x, shape)
    check_reach(pair, x, shape)
    return shape


def _other_shapes(pair: ModelGuidePair, x: Data) -> tuple[str, ...]:
    """Of a member that has another shape than the pair says: what is expected, and remedies; nothing where none has."""
    members, expected = members_of(x), pair.event_shapes()
    for name, value in members.items():
        key = name if name in expected else next(iter(expected)) if len(expected) == len(members) == 1 else ""
        if key in expected and tuple(value.shape[1:]) != expected[key]:
            shape = expected[key]
            found = f"{f'member {name!r} of ' if len(members) > 1 else ''}[{', '.join(map(str, ('B', *shape)))}]"
            same = value.shape[1:].numel() == math.prod(shape)
            rows = f"x.reshape(len(x), {', '.join(map(str, shape))}): as many entries, in another shape"
            model = f"a model of data of shape {list(value.shape[1:])}"
            return (found, *([rows, "load(..., flatten=True)"] if same else []), model)
    return ()


def _remedies_of(error: Exception) -> str:
    if "object is not callable" in str(error):
        return PYRO_DISTRIBUTIONS
    if re.search("used as indices|dtype int|Long", str(error)):
        return _IDS
    return _ARGUMENTS if isinstance(error, TypeError) and "argument" in str(error) else ""


_IDS = try_one_of(
    "x.long() inside the programs: whole numbers, too, arrive in a float dtype",
    "a mapping whose first member is of floats, or called x: the others keep whole numbers",
)
_ARGUMENTS = try_one_of(
    "data that are a tuple (x, y), for programs called as model(x, y)",
    "from_callables(..., unpack=True) and data that are a mapping, for programs called as model(x=..., y=...)",
    "functools.partial(model, flag=...) for arguments that are no data",
    "def model(self, x, num_data=None), and the guide alike, in a class of your own",
)


def _check_batch(pair: ModelGuidePair, x: Data) -> None:
    if isinstance(x, PackedSequence):
        raise PairError(
            "the batch is a PackedSequence, whose rows are not the data"
            + try_one_of("ppvae.data.as_dataset(packed).tensor(), a mapping of the padded data and their lengths")
        )
    members: Mapping[str, Any] = members_of(x) if isinstance(x, Mapping | tuple | list) else {"x": x}
    for name, value in members.items():
        if not isinstance(value, Tensor):
            packed = ["the padded tensor and its lengths; pack_padded_sequence inside the program"]
            raise PairError(
                f"batch member {name!r}: expected a tensor, found {type(value).__name__}"
                + try_one_of(
                    *(packed if isinstance(value, PackedSequence) else ()),
                    "functools.partial(model, flag=...) for arguments that are no data",
                )
            )
        if value.dim() == 0 or value.shape[0] == 0:
            raise PairError(
                f"batch member {name!r}: expected at least one datum on axis 0, found {list(value.shape)}"
                + try_one_of(
                    "functools.partial(model, flag=...) for arguments that are no data", "x[None] for one datum"
                )
            )
        bad = ~torch.isfinite(value)
        if bool(bad.any()) and name in (gaps := pair.gaps(x)):
            bad &= gaps[name]
        if bool(bad.any()):
            place = torch.nonzero(bad)[0].tolist()
            raise PairError(
                f"batch member {name!r}: value at {place} is not finite"
                + try_one_of(
                    "leave such data out", "torch.nan_to_num(x), and where there were none a mask in the batch"
                )
            )
    if len({value.shape[0] for value in members.values()}) > 1:
        raise PairError(
            f"batch members differ in length: {_shapes(x)}"
            + try_one_of(
                "members with one row for each datum on axis 0",
                "functools.partial(model, flag=...) for arguments that are no data",
            )
        )


def _check_borrowed(pair: ModelGuidePair) -> None:
    """What a module reads without holding it is held by the pair: else nothing would train it or save it."""
    held = {id(module) for module in pair.modules()}
    for name, module in pair.named_modules():
        for other in getattr(module, "borrowed", ()):
            if id(other) not in held:
                raise PairError(
                    f"{name} reads a {type(other).__name__} that is no module of the pair"
                    + try_one_of("give it the pair's own posterior", "make that module an attribute of the pair")
                )


def _check_parameters(pair: ModelGuidePair) -> None:
    for name, parameter in pair.named_parameters():
        if is_lazy(parameter):
            raise PairError(
                f"parameter {name!r} has no shape yet, as of a lazy module that has seen no data"
                + try_one_of("modules of given sizes", "each such module called once, as in pair.encoder(x)")
            )
        if not bool(torch.isfinite(parameter).all()):
            raise PairError(f"parameter {name!r} has a value that is not finite")


def _check_sites(pair: ModelGuidePair, shape: Structure) -> None:
    model = {info.name: info for info in shape.model_latents}
    guide = {info.name: info for info in shape.guide_latents}
    observed = {info.name for info in shape.observed}
    if not observed:
        raise PairError("the model has no observed site" + try_one_of("pass obs=... to one pyro.sample statement"))
    for name in guide.keys() - model.keys():
        if name in observed:
            raise PairError(f"guide site {name!r} is observed in the model: expected latent sites only")
        raise PairError(
            f"guide site {name!r} is not in the model: {did_you_mean(name, model)}"
            + try_one_of("correct the spelling", "mark it infer={'is_auxiliary': True} if the model lacks it by design")
        )
    for name, info in model.items():
        if name in guide:
            continue
        raise PairError(
            f"latent site {name!r} of the model is not in the guide: {did_you_mean(name, guide)}. "
            "It would be drawn from the prior"
            + try_one_of(
                "add a pyro.sample statement of this name to the guide",
                "correct the spelling",
                *(['infer={"enumerate": "parallel"} at the site, to sum it out'] if info.is_discrete else []),
            )
        )
    served = {info.name for info in shape.guide_summed} & {info.name for info in shape.enumerated}
    for name in sorted(pair.summed_out - served):
        known = {info.name for info in (*shape.guide_enumerated, *shape.guide_summed)}
        raise PairError(
            f"sum_out: {name!r} is no site that both programs mark to be enumerated: {did_you_mean(name, known)}"
            + try_one_of('pyro.sample(..., infer={"enumerate": "parallel"}) in the model and in the guide')
        )
    for info in shape.enumerated:
        if info.scope == "global":
            raise PairError(
                f"latent site {info.name!r} is to be summed out and stands outside the plate over data: the sum would "
                "be over all data at once, so that no datum has an evidence of its own"
                + try_one_of(
                    "the site inside the plate over data, where every datum has its own",
                    "a site for the guide to draw, instead of a sum",
                )
            )
    for name, info in model.items():
        other = guide[name]
        if info.scope != other.scope:
            raise PairError(
                f"site {name!r} is {info.scope} in the model and {other.scope} in the guide: expected it inside "
                "the plate over data on both sides, or outside it on both"
                + try_one_of("with self.data_plate(x, num_data): ... around the statement that lacks it")
            )
        if info.event_shape != other.event_shape or info.batch_shape != other.batch_shape:
            raise PairError(
                f"site {name!r}: expected batch shape {info.batch_shape} and event shape {info.event_shape} as in the "
                f"model, found {other.batch_shape} and {other.event_shape} in the guide"
                + try_one_of(".to_event(1) on both sides", "the same number of latent dimensions on both sides")
            )


def _check_plate(pair: ModelGuidePair, x: Data, shape: Structure, num_data: int | None) -> None:
    if shape.one_datum:
        return
    size = batch_size(x)
    if pair.plate_name is not None and shape.data_plate is None:
        plates = {name for info in (*shape.model, *shape.guide) for name in info.plates}
        raise PairError(f"data_plate: no plate {pair.plate_name!r}: {did_you_mean(pair.plate_name, plates)}")
    for info in (*shape.model, *shape.guide):
        if info.scope == "local" and info.data_plate_dim is None:
            raise PairError(
                f"site {info.name!r} stands in a sequential plate (for i in pyro.plate({shape.data_plate!r}, ...)): "
                "expected one site for all data"
                + try_one_of(f"with pyro.plate({shape.data_plate!r}, len(x)): ...", ONE_DATUM)
            )
    for info in shape.observed:
        if info.scope == "global":
            what = "is a factor that" if 0 in info.event_shape else ""
            raise PairError(
                f"observed site {info.name!r} {what} stands outside the plate over data: expected it inside, found "
                f"plates {list(info.plates)}".replace("  ", " ")
                + try_one_of(
                    "with self.data_plate(x, num_data): ...", 'with pyro.plate("data", len(x)): ...', ONE_DATUM
                )
            )
    if shape.batch != size:
        raise PairError(
            f"plate {shape.data_plate!r}: expected {size} data, the length of the batch, found {shape.batch}"
            + try_one_of(
                "self.data_plate(x, num_data)",
                f"pyro.plate({shape.data_plate!r}, len(x)), and leave minibatches to `fit`",
                f"pyro.plate({shape.data_plate!r}, num_data or len(x), subsample=torch.arange(len(x)))",
            )
        )
    _check_automatic_plates(pair, shape)
    if num_data is not None and num_data != size and pair.accepts_num_data:
        sizes = {info.name: info.data_plate_size for info in plate_sizes(pair, x, num_data) if info.scope == "local"}
        for name, plate_size in sizes.items():
            if plate_size != num_data:
                raise PairError(
                    f"site {name!r}: expected the data plate to state num_data = {num_data}, found {plate_size}: the "
                    "bound of a minibatch would not be an estimate of the bound of the data"
                    + try_one_of("hand num_data on: self.data_plate(x, num_data)")
                )


def _check_automatic_plates(pair: ModelGuidePair, shape: Structure) -> None:
    """An automatic guide makes the plates anew and lets them pick rows: never those of the model's subsample."""
    makers = [part for part in pair.modules() if isinstance(part, AutoGuide) and part.master is None]
    sizes = {info.data_plate_size for info in shape.guide if info.data_plate_dim is not None} - {shape.batch}
    if sizes and any(part.create_plates is None for part in makers):
        raise PairError(
            f"the plate {shape.data_plate!r} shows {shape.batch} of {sizes.pop()} data, and the automatic guide "
            f"{type(makers[0]).__name__} makes this plate anew: its parameters would be those of other rows"
            + try_one_of(
                f"pyro.plate({shape.data_plate!r}, len(x)) in the model, and fit(..., batch_size=None)",
                f"{type(makers[0]).__name__}(model, create_plates=lambda x, rows: pyro.plate({shape.data_plate!r}, N, "
                "subsample=rows)), with the rows in the data, (x, rows), and in the model's plate",
            )
        )


def plate_sizes(pair: ModelGuidePair, x: Data, num_data: int) -> tuple[SiteInfo, ...]:
    """Every site of the programs when they are run with N."""
    shape = structure(pair, x, num_data)
    return (*shape.model, *shape.guide)


def _shapes(x: Data) -> str:
    shapes = {name: list(value.shape) for name, value in members_of(x).items()}
    return str(shapes["x"] if isinstance(x, Tensor) else shapes)
