"""What can be restored, and what a chain would be wrong about: refused by name, before work begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor

from .guide_mean import observed_site
from .noise import Noise
from .observed_values import observed_values
from ..execution.arguments import choose_name
from ..execution.over_data import OverData
from ...core import Data, DataError, PairError, SiteInfo, batch_size, structure
from ...core.axes import to_canonical
from ...core.density import observed_support
from ...core.errors import try_one_of
from ...core.masked_data import masked_data_error, reads_masked
from ...core.wrappers import with_axes
from ...data import Dataset


def seen_of(data: Any, mask: Any, seed: int) -> tuple[Tensor, Tensor]:
    """The data as one tensor, with some value of theirs where it is hidden, and which entries of it are seen."""
    source = data.binarize(seed).tensor() if isinstance(data, Dataset) else data
    if isinstance(source, Mapping | tuple):
        raise DataError(
            "expected one tensor of data beside a mask, found a mapping"
            + try_one_of(
                "no mask, where the pair declares its gaps: mark these entries in its own member",
                "predict_given, which conditions on some of the members",
            )
        )
    values = torch.as_tensor(source)
    visible = torch.as_tensor(mask).to(values.device)
    if not bool(((visible == 0) | (visible == 1)).all()):
        raise DataError("the mask says which entries are seen: expected True and False, or 1 and 0")
    event = values.shape[1:]
    if visible.shape[-len(event) :] != event and visible.shape[-2:].numel() == event.numel():
        visible = visible.flatten(-2)  # of pictures whose data are rows
    try:
        visible = visible.bool().expand_as(values)
    except RuntimeError as error:
        raise DataError(
            f"the mask {list(visible.shape)} does not broadcast to the data {list(values.shape)}"
            + try_one_of(f"a mask {list(event)}, for all data", f"a mask {list(values.shape)}")
        ) from error
    bad = (visible & ~values.isfinite()).nonzero()
    if len(bad):
        place = ", ".join(map(str, bad[0].tolist()))
        raise DataError(
            f"the value at [{place}] is {float(values[tuple(bad[0])])}, and the mask says that it is seen"
            + try_one_of("mask & x.isfinite()")
        )
    # What is hidden is drawn before it is looked at: some value that the likelihood has.
    some = values[visible].flatten()[:1] if visible.any() else values.new_zeros(1)
    return values.where(visible, some), visible


def declared_gaps(work: OverData, name: str) -> tuple[Tensor, Tensor]:
    """The data of a site, and which entries of them the pair does not mask out."""
    found = observed_values(work, name)
    if found.present is None:
        raise DataError(
            f"nothing says which entries of {name!r} are missing: expected a mask"
            + try_one_of(
                "inpaint(pair, data, mask), True where observed",
                f"a description that declares them: {name}=Observed(..., mask='seen'), seen=Mask()",
            )
        )
    return found.values, found.present


def site_with_gaps(work: OverData, site: str | None) -> SiteInfo:
    """The observed site of this name; for None, the only one."""
    return structure(work.pair, work.example).site(observed_site(work, site))


def only_site(work: OverData, site: str | None) -> SiteInfo:
    """The observed site, which is all of the data, and of this name where one is given."""
    sites = [i for i in structure(work.pair, work.example).observed if i.scope == "local"]
    if len(sites) != 1:
        names = ", ".join(repr(site.name) for site in sites)
        raise PairError(
            f"the pair observes {len(sites)} sites{f' ({names})' if names else ''}: expected one, of which entries are "
            "hidden" + try_one_of("predict_given(pair, {site: values}, like=...), one site given others")
        )
    (info,) = sites
    choose_name([info.name], site, "observed site")
    if not isinstance(work.example, Tensor):
        raise DataError(
            f"the entries of {info.name!r} share a total, which says what is missing: expected independent "
            "ones" + try_one_of("predict_given", "a likelihood of independent entries, such as a Poisson")
        )
    event = tuple(work.data.event_shape)
    if info.shape != event:
        raise PairError(
            f"site {info.name!r} observes values of shape {list(info.shape)}: expected all of the data, {list(event)}"
            + try_one_of("obs=x, all of it")
        )
    return info


def require_independent(info: SiteInfo, visible: Tensor) -> None:
    """An event of a joint distribution is seen as a whole or not at all: x_i given z and the others is not known."""
    if info.joint_axes == 0:
        return
    events = visible.flatten(-info.joint_axes)
    if bool((events.any(-1) != events.all(-1)).any()):
        raise PairError(
            f"site {info.name!r}: the entries of a {info.family_name} of shape {list(info.shape[-info.joint_axes :])} "
            "depend on each other given z: expected all of them seen or all hidden, found some of each"
            + try_one_of(
                "a mask that is the same for all of them",
                "a likelihood of independent entries: Bernoulli, Normal(...).to_event(1)",
            )
        )


def require_unread(work: OverData, name: str) -> None:
    """What stands in a gap is in no density: else another site depends on it, and knows more of it than z does."""

    def moved(x: Data) -> dict[str, Tensor]:
        found = reads_masked(work.pair, x)
        return {"moved": found[name]} if name in found else {"moved": torch.zeros(batch_size(x), dtype=torch.bool)}

    found = work.run(moved)["moved"]
    if bool(found.any()):
        raise masked_data_error(name, int(found.nonzero()[0]))


def require_inside(work: OverData, info: SiteInfo, beside: Mapping[str, Tensor], noise: Noise | None) -> None:
    """What is seen is a value of the likelihood; through noise, of the channel."""
    binary = noise.binary if noise is not None else info.is_a(td.Bernoulli)

    def outside(x: Data, each: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen, values = each["seen"], each["values"]
        if binary:
            return {"outside": seen & (values != 0) & (values != 1)}
        shape = structure(work.pair, x)
        found = observed_support(work.pair, x).get(info.name)
        if found is None or noise is not None:
            return {"outside": torch.zeros_like(seen)}
        inside = with_axes(found.inside, found.value.dim()).expand(found.value.shape)
        return {"outside": seen & ~to_canonical(inside, info, shape.nesting, 1)[0]}

    found = work.run(outside, beside=beside)["outside"]
    if not found.any():
        return
    row = int(found.flatten(1).any(1).nonzero()[0])
    if binary:
        raise DataError(
            f"datum {row} has grey values, and a {info.family_name} draws zeros and ones: a chain that mixes "
            "them is of no model"
            + try_one_of(
                'Dataset(x, binarization="dynamic"), or x = (x > 0.5).float()',
                "a likelihood for grey values: ContinuousBernoulli, Normal",
            )
        )
    raise DataError(
        f"datum {row} has a value that is seen and that a {info.family_name} does not have"
        + try_one_of("a mask that hides it")
    )
