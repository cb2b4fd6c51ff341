"""A check for several observed sites: whether one has a mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...core import (
    Data,
    ModelGuidePair,
    PairError,
    draw,
    predict,
    structure,
)
from ...core.errors import try_one_of

_REPEATS = 12


def require_mean(pair: ModelGuidePair, few: Data, site: str, given: Mapping[str, Tensor] | None) -> None:
    """Check that the mean of an observed site at given latents is finite and depends on no other draw.

    Args:
        pair: the pair, its global sites at fixed values.
        few: some data.
        site: the observed site.
        given: as for :func:`ppvae.core.predict`.

    Raises:
        PairError: it has none, or it depends on another observed site that is drawn with it.
    """
    shape = structure(pair, few)
    others = {info.name for info in shape.observed if info.scope == "local"} - set(given or {}) - {site}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        latents = draw(pair, few, 1).latents
        z = {info.name: latents[info.name][0] for info in shape.model_latents}
        repeats = _REPEATS if others and given is not None else 1
        means = [predict(pair, few, z, given=given, sites=(site,))[site] for _ in range(repeats)]
    if not bool(torch.isfinite(means[0]).all()):
        raise PairError(
            f"site {site!r}: expected a finite mean, found {shape.site(site).family_name}, whose mean is not"
            + try_one_of('kind="sample", where the verb has a kind: generate, decode', "another likelihood")
        )
    if not all(torch.allclose(mean, means[0], rtol=1e-5, atol=1e-6) for mean in means[1:]):
        names = ", ".join(repr(name) for name in sorted(others))
        raise PairError(
            f"site {site!r} depends on another observed site, of {names}: expected a mean given the latents alone, "
            "found one that changes with what is drawn there"
            + try_one_of(
                'kind="sample": a draw of all observed sites together',
                f"decode(..., given={{{sorted(others)[0]!r}: values}}), its mean given those and the latents",
                f"predict_given(pair, {{{sorted(others)[0]!r}: values}}, like=...), its mean given those alone",
            )
        )
