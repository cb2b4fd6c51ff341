"""Pages from templates: self-contained, and all text that is no markup is escaped."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ...runs.evaluation.files import how_many


def fill(template: str, **values: Any) -> Markup:
    """A template of the folder beside this file, with its values; ``sections`` collects the page's headings."""
    return Markup(_TEMPLATES.get_template(template).render(values, sections=[]))


def number(value: float | None, digits: int) -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _subscript(label: str) -> str:
    """``L_8, defensive`` with the 8 set lower; any other label as it is."""
    head, _, tail = label.partition("_")
    digits, _, rest = tail.partition(" ")
    return Markup("{}<sub>{}</sub> {}").format(head, digits, rest).strip() if digits.isdigit() else label


def _settings(values: Mapping[str, Any], without: Container[str]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items() if key not in without)


_TEMPLATES = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
_TEMPLATES.filters |= {
    "how_many": how_many,
    "number": number,
    "settings": _settings,
    "subscript": _subscript,
    "thousands": _thousands,
}
