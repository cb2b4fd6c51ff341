"""The data of an observed site, and which of its entries are there."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..execution.over_data import OverData
from ...core import Data, PairError, structure
from ...core.axes import to_canonical
from ...core.data_support import support_error
from ...core.density import observed_support


class ObservedValues(NamedTuple):
    """The data of an observed site.

    Attributes:
        support: where its values lie, in torch's words.
        values: the data, [N, *event].
        present: which of these are not masked out, [N, *event]; None where none are.
    """

    support: str
    values: Tensor
    present: Tensor | None


def observed_values(work: OverData, name: str) -> ObservedValues:
    """The data of an observed site as its model sees them.

    Raises:
        PairError: its distribution does not say its support, or values are outside it.
    """
    support = ""

    def values(x: Data) -> dict[str, Tensor]:
        nonlocal support
        shape = structure(work.original, x)
        result = observed_support(work.original, x)
        if name not in result:
            raise PairError(f"observed site {name!r}: its distribution does not say where its values lie")
        found = result[name]
        if not bool(found.inside.all()):
            raise support_error(name, found.inside, found.support, found.value)
        support = str(found.support)
        parts = {"x": found.value} if found.present is None else {"x": found.value, "present": found.present}
        return {k: to_canonical(value, shape.site(name), shape.nesting, 1)[0] for k, value in parts.items()}

    result = work.run(values)
    return ObservedValues(support, result["x"], result.get("present"))
