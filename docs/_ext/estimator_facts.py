"""The table of ELBO estimators, read from the code: one column for every fact that their base class declares."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_type_hints

from ppvae.inference import elbo
from ppvae.runs.recipe.catalogue import elbo_entries

HEADS = {
    "is_lower_bound": "lower",
    "needs_rsample": "rsample",
    "tight_when_guide_exact": "tight",
    "zero_variance_when_guide_exact": "noiseless",
    "unbiased_gradient": "unbiased",
    "supports_global_latents": "global",
    "serves_noise_per_datum": "per datum",
    "serves_scaled_sites": "scaled",
    "serves_all_values": "all values",
    "serves_kl_per_site": "per site",
    "sums_over_data": "sum",
}
"""Fact to the head of its column; the page of the estimators says what each means."""


def declared_facts() -> list[str]:
    """The facts of an estimator: what its base class declares as true or false."""
    return [name for name, kind in get_type_hints(elbo.ELBO).items() if kind is bool]


def estimators() -> list[type[elbo.ELBO]]:
    """Every estimator of ``ppvae.inference.elbo``."""
    members = [getattr(elbo, name) for name in elbo.__all__]
    return [m for m in members if inspect.isclass(m) and issubclass(m, elbo.ELBO) and m is not elbo.ELBO]


def estimator_table() -> tuple[list[str], list[list[str]]]:
    """Header and rows: class, name in a recipe, and every declared fact.

    Raises:
        KeyError: a fact without a head.
    """
    names = {entry.build: entry.name for entry in elbo_entries().values()}
    facts = declared_facts()
    rows = [
        [_link(found), names.get(found, ""), *(_yes_or_no(getattr(found, fact, None)) for fact in facts)]
        for found in estimators()
    ]
    return ["estimator", "in a recipe", *(HEADS[fact] for fact in facts)], rows


def _link(found: type) -> str:
    package = re.sub(r"\.[a-z_]+$", "", found.__module__)
    return f":class:`~{package}.{found.__name__}`"


def _yes_or_no(value: Any) -> str:
    return {True: "yes", False: "–"}.get(value, "depends")
