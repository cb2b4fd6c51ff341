"""Arguments that are of the wrong kind, told by name where they come in rather than where they would fail."""

from __future__ import annotations

import inspect
import operator
from typing import Any, get_args

from ...core import ModelGuidePair, PairError, PpvaeError
from ...core.errors import did_you_mean, try_one_of


def require_pair(pair: Any, verb: str) -> None:
    """Raise a PpvaeError where something else than a pair, ready for use, was passed in."""
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
    """Raise a PpvaeError where the name or the class of an estimator was passed in."""
    if isinstance(elbo, str) or inspect.isclass(elbo):
        found = repr(elbo) if isinstance(elbo, str) else f"the class {elbo.__name__}"
        shown = "TraceELBO" if isinstance(elbo, str) else elbo.__name__
        raise PpvaeError(f"elbo: expected an estimator with its options, found {found}" + try_one_of(f"elbo.{shown}()"))


def require_whole(name: str, value: Any, at_least: int) -> None:
    """Raise a PpvaeError where a count is no whole number, or too small."""
    try:
        small = operator.index(value) < at_least
    except TypeError:
        raise PpvaeError(f"{name}: expected a whole number, found {value!r}") from None
    if small:
        raise PpvaeError(f"{name}: expected at least {at_least}, found {value}")


def require_literal(name: str, value: Any, literal: Any) -> None:
    """Raise a PpvaeError where a word is none of those that a Literal allows."""
    if value not in get_args(literal):
        raise PpvaeError(f"unknown {name} {value!r}: {did_you_mean(str(value), get_args(literal))}")


def one_of(names: list[str], asked: str | None, what: str) -> str:
    """The name that was asked for, or the only one there is.

    Raises:
        PairError: there is none of that name, or several and none was named.
    """
    if asked is not None and asked not in names:
        raise PairError(f"no {what} {asked!r}: {did_you_mean(asked, names)}")
    if asked is None and len(names) != 1:
        raise PairError(
            f"the pair has {len(names)} {what}s" + (try_one_of(*(f"site={name!r}" for name in names)) if names else "")
        )
    return asked if asked is not None else names[0]
