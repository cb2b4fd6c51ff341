"""Checks of arguments' types, whose errors name the argument."""

from __future__ import annotations

import inspect
import operator
from typing import Any, get_args

from ...core import ModelGuidePair, PairError, PpvaeError
from ...core.errors import did_you_mean, try_one_of


def require_pair(pair: Any, verb: str) -> None:
    """Raise a PpvaeError where the argument is not an initialised pair."""
    if inspect.isclass(pair) and issubclass(pair, ModelGuidePair):
        raise PpvaeError(f"{verb}: expected a pair, found its class {pair.__name__}" + try_one_of(f"{pair.__name__}()"))
    if not isinstance(pair, ModelGuidePair):
        raise PpvaeError(
            f"{verb}: expected a ModelGuidePair, found {type(pair).__name__}"
            + try_one_of("ModelGuidePair.from_callables(model, guide)")
        )
    if "_parameters" not in vars(pair):
        raise PpvaeError(f"{verb}: {type(pair).__name__}.__init__ does not call super().__init__()")


def require_estimator(elbo: Any) -> None:
    """Raise a PpvaeError where the argument is the name or the class of an estimator."""
    if isinstance(elbo, str) or inspect.isclass(elbo):
        value = repr(elbo) if isinstance(elbo, str) else f"the class {elbo.__name__}"
        name = "TraceELBO" if isinstance(elbo, str) else elbo.__name__
        raise PpvaeError(f"elbo: expected an estimator with its options, found {value}" + try_one_of(f"elbo.{name}()"))


LARGEST_INTEGER = 2**64 - 1
"""The largest seed of PyTorch; no size is as large."""


def require_integer(name: str, value: Any, at_least: int) -> None:
    """Raise a PpvaeError where a value is not a whole number, too small, or of more than 64 bits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise PpvaeError(f"{name}: expected a whole number, found {value!r}") from None
    if number < at_least:
        raise PpvaeError(f"{name}: expected at least {at_least}, found {value}")
    if number > LARGEST_INTEGER:
        raise PpvaeError(f"{name}: expected at most {LARGEST_INTEGER} (64 bits), found {value}")


def require_literal(name: str, value: Any, literal: Any) -> None:
    """Raise a PpvaeError where a value is not one of a Literal's."""
    if value not in get_args(literal):
        raise PpvaeError(f"unknown {name} {value!r}: {did_you_mean(str(value), get_args(literal))}")


def choose_name(names: list[str], site: str | None, what: str) -> str:
    """The name ``site`` if it is among the names; for None, the only name.

    Raises:
        PairError: no such name; or None, and not exactly one name.
    """
    if site is not None and site not in names:
        raise PairError(f"no {what} {site!r}: {did_you_mean(site, names)}")
    if site is None and len(names) != 1:
        raise PairError(
            f"the pair has {len(names)} {what}s" + (try_one_of(*(f"site={name!r}" for name in names)) if names else "")
        )
    return site if site is not None else names[0]
