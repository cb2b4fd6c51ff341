"""Evaluation mode for as long as a pair is evaluated: batch norm and dropout as they are after training."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Inside, a module and all its submodules are in evaluation mode; afterwards each has its own flag back.

    Args:
        module: a pair for instance; running statistics then stand still, and a seed alone decides what is drawn.
    """
    flags = [(part, part.training) for part in module.modules()]
    try:
        for part, training in flags:
            if training:
                part.training = False
        yield
    finally:
        for part, training in flags:
            if training:
                part.training = True


def in_evaluation_mode(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function with an argument ``pair``: while it runs, the pair is in evaluation mode."""
    place = list(inspect.signature(verb).parameters).index("pair")

    @functools.wraps(verb)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        pair: Any = args[place] if len(args) > place else kwargs.get("pair")
        if not isinstance(pair, nn.Module) or "_modules" not in vars(pair):  # the verb says what is wrong with it
            return verb(*args, **kwargs)
        with evaluation_mode(pair):
            return verb(*args, **kwargs)

    return wrapper
