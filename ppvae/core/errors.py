"""The errors that ppvae raises when the caller is wrong, and the nearest-name hint they end with."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


class PpvaeError(ValueError):
    """Base of every error that ppvae raises on purpose: the message says what, where, and what to try."""


class PairError(PpvaeError):
    """A model/guide pair breaks its contract: names the site, what was expected, what was found."""


class DataError(PpvaeError):
    """Data that cannot be used as asked: names the file or tensor, the place in it, and the remedy."""


class FitError(PpvaeError):
    """Training stopped because a number was not finite; no parameter was changed by it.

    Attributes:
        site: the first sample site with a value that is not finite, or None.
        parameter: the first parameter whose value or gradient is not finite, or None.
        step: the step, from 1.
        indices: rows of the data set in that batch.
        snapshot: what the step started from, enough to replay it: the state of the pair and of the estimator, the
            batch, the random state, the weight of the KL and the parameters under a weight prior, by name; empty where
            the error is not about a step.
    """

    def __init__(
        self,
        message: str,
        *,
        site: str | None = None,
        parameter: str | None = None,
        step: int | None = None,
        indices: tuple[int, ...] = (),
        snapshot: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.site, self.parameter, self.step, self.indices = site, parameter, step, indices
        self.snapshot: Mapping[str, Any] = snapshot or {}


class ProcessError(PpvaeError):
    """Another of the processes that work as one failed, ended, or does not answer."""


class RunError(PpvaeError):
    """A run folder, recipe or checkpoint that cannot be used: names the file and the key."""


ONE_DATUM = "as_one_datum(pair) and x[None], for the evidence of the whole data set"
"""A remedy for programs whose data cannot be told apart."""

_MANY = 16


_TRY, _ITEM = "Try one of:", "  - "


def try_one_of(*remedies: str) -> str:
    """The closing lines of an error message: a list of remedies, most likely first."""
    return f"\n{_TRY}\n" + "\n".join(f"{_ITEM}{remedy}" for remedy in remedies)


def also_try(error: Exception, *remedies: str) -> str:
    """The message of an error that ends with remedies, and more of them."""
    return "\n".join([str(error), *(_ITEM + remedy for remedy in remedies)])


def prefix_lines(message: str, prefix: str) -> str:
    """A message with every line of it, but not its remedies, after a prefix."""
    head, heading, remedies = message.partition(f"\n{_TRY}\n")
    return "\n".join(prefix + line for line in head.splitlines()) + heading + remedies


def change_remedies(message: str, change: Callable[[str], str | None]) -> str:
    """A message with every remedy changed; one that becomes None is left out, and with the last one the heading."""
    lines: list[str] = []
    for line in message.splitlines():
        if line.startswith(_ITEM):
            remedy = change(line.removeprefix(_ITEM))
            line = "" if remedy is None else _ITEM + remedy
            if not line or line in lines:
                continue
        elif lines and lines[-1] == _TRY:
            lines.pop()
        lines.append(line)
    return "\n".join(lines[:-1] if lines[-1:] == [_TRY] else lines)


def place_of(error: BaseException) -> str:
    """The innermost line outside all libraries that an error came from, for its message; "" where there is none."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if not any(part in f.filename for part in _LIBRARIES)]
    if not own:
        return ""
    return f"\nIn {own[-1].name}, line {own[-1].lineno} of {own[-1].filename}:\n  {own[-1].line}"


def located(error: PairError) -> PairError:
    """The error with the line of the program that it came from before its remedies, where there is one.

    Pyro raises an error that a program raised again, with the shapes of all sites after the message.
    """
    while isinstance(error.__cause__, PairError):
        error = error.__cause__
    head, heading, remedies = str(error).partition(f"\n{_TRY}\n")
    return PairError(head + place_of(error) + heading + remedies)


_LIBRARIES = ("site-packages", "dist-packages", str(Path(__file__).parent.parent), sysconfig.get_path("stdlib"), "<")


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint with the nearest candidate, and the list of all candidates, or of the nearest ones where there are many.

    >>> did_you_mean("mnits", ["mnist", "digits"])
    "did you mean 'mnist'? Known: digits, mnist"
    """
    names = sorted(candidates)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    entries = names
    if len(names) > _MANY:  # the parameters of a network: the nearest will do
        near = difflib.get_close_matches(name, names, n=_MANY // 2, cutoff=0.0)
        entries = [*sorted(near), f"... ({len(names)} in all)"]
    listing = f"Known: {', '.join(entries) or 'none'}"
    return f"did you mean {nearest[0]!r}? {listing}" if nearest else listing
