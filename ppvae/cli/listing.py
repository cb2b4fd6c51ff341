"""Lists of what has a name: a line about each, and a line with its options."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from .common import emit

_NARROW = 60  # below so many columns nothing is broken into pieces


def list_entries(entries: Mapping[str, Any], as_json: bool) -> None:
    """The entries of a catalogue on standard output: what each is, and its options with their defaults."""
    if as_json:
        emit({name: {"summary": one.summary, "options": options_of(one)} for name, one in entries.items()})
        return
    print_list((name, one.summary, ", ".join(map(_option, *_fields(one)))) for name, one in sorted(entries.items()))


def print_list(rows: Iterable[tuple[str, str, str]]) -> None:
    """Rows of a name, what it is, and details below; as wide as the terminal, in a pipe a line each."""
    rows = list(rows)
    indent = max(len(name) for name, _, _ in rows) + 2
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 0
    for name, summary, details in rows:
        for start, text in ((name.ljust(indent), summary), (" " * indent, details)):
            if text and width < _NARROW:
                print(start + text)
            elif text:
                wrapper = textwrap.TextWrapper(width, start, " " * indent)
                wrapper.break_long_words = wrapper.break_on_hyphens = False
                print(wrapper.fill(text))


def options_of(entry: Any) -> dict[str, Any]:
    """The options of an entry, and their defaults; None for one that has to be given."""
    return {name: None if field.is_required() else field.default for name, field in entry.options.model_fields.items()}


def _fields(entry: Any) -> tuple[Iterable[str], Iterable[Any]]:
    return entry.options.model_fields.keys(), entry.options.model_fields.values()


def _option(name: str, field: Any) -> str:
    """An option as it is written after the colon."""
    if field.is_required():
        return f"{name} (required)"
    if field.default is None:
        return f"{name} (none)"
    value = field.default if isinstance(field.default, str) else json.dumps(field.default).replace(" ", "")
    return f"{name}={value}"
