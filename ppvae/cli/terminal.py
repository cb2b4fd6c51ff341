"""Terminals that cannot show all that is printed: output never fails by its encoding."""

from __future__ import annotations

import codecs
import sys
import unicodedata

SIGNS = {"±": "+-", "×": "x", "·": ".", "—": "-", "–": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">=", "∞": "inf"}
"""The signs that the verbs print, in ASCII."""

_HANDLER = "ppvae-signs"


def spell(error: UnicodeError) -> tuple[str, int]:
    """What is printed instead of signs that an encoding does not have; an error handler of :mod:`codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(sign: str) -> str:
    """é is e, … is ..., and what has no such form is its number, \\u03b8."""
    plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return SIGNS.get(sign) or plain or sign.encode("ascii", "backslashreplace").decode()


def prepare_output() -> None:
    """Let standard output and standard error spell what they cannot show."""
    codecs.register_error(_HANDLER, spell)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent where a program put something else there
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def shows_everything() -> bool:
    """Whether standard output takes every sign."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")
