"""Values that leave PyTorch while a graph is recorded: what comes back from them would be a constant of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_EXITS = frozenset(
    [Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.apply_, Tensor.map_, Tensor.__format__]
)
_FACTORIES = frozenset([torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor])
"""They read the tensors of a list number by number."""


class ValueLeft(RuntimeError):
    """A value was taken out of PyTorch."""


class NoExit(TorchFunctionMode):
    """Raises ValueLeft where a tensor's value leaves PyTorch by a way at which recording does not stop by itself."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's result."""
        kwargs = kwargs or {}
        if func in _EXITS or (func in _FACTORIES and any(map(_lists_tensors, (*args, *kwargs.values())))):
            raise ValueLeft(getattr(func, "__name__", "a function"))
        return func(*args, **kwargs)


def _lists_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, Tensor) or _lists_tensors(v) for v in value)
