"""Every result as ArviZ's groups: draws of the guide, of HMC and of the prior, predictions, evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...core import (
    Data,
    DataError,
    ModelGuidePair,
    PpvaeError,
    draw,
    log_joint,
    members_of,
    predict,
    simulate,
    structure,
)
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...data import Dataset, as_dataset
from ...inference import Evidence, PosteriorDraws
from ...inference.execution.placement import dtype_of, home_of, like_pair
from ...inference.hmc.draws import Groups
from ...inference_data import to_arviz

BLOCK = 2**24  # draws times numbers of x worked on at once

_LEAD = ["chain", "draw", "datum"]
_ABOUT = {"inference_library": "ppvae", "inference_library_version": __version__}
_COLUMNS = ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome")

Part = Groups | PosteriorDraws | Evidence | Mapping[str, Evidence]


def export_arviz(*parts: Part) -> Any:
    """Results as one object for ArviZ: an ``InferenceData`` (ArviZ 0.x) or an ``xarray.DataTree`` (1.x).

    ============================  ==========================================================================
    part                          groups
    ============================  ==========================================================================
    :func:`guide_groups`          posterior, sample_stats, log_likelihood, posterior_predictive, and the data
    :class:`PosteriorDraws`       the same, of HMC
    :func:`prior_groups`          prior, prior_predictive
    :class:`Evidence`             evidence: axes ``estimate`` and ``datum``; several become one
    ============================  ==========================================================================

    Args:
        parts: the results, all on the same data; ``{label: Evidence}`` tells estimates of one method apart.

    Raises:
        DataError: two parts give the same group, or they differ in the number of data.

    >>> import torch
    >>> from ppvae.models import FactorAnalysis
    >>> from ppvae.inference import evidence, log_evidence
    >>> pair, x = FactorAnalysis(3, 2), torch.randn(4, 3)
    >>> exact = log_evidence(pair, x, method=evidence.Exact(), progress=False)
    >>> tree = export_arviz(guide_groups(pair, x, num_draws=50), prior_groups(pair, x, num_draws=20), exact)
    >>> dict(tree["posterior"]["z"].sizes)
    {'chain': 1, 'draw': 50, 'datum': 4, 'z_dim_0': 2}
    >>> tree["evidence"]["bound"].values.tolist()
    ['exact']
    """
    if not parts:
        raise PpvaeError("export_arviz: nothing to export" + try_one_of("export_arviz(guide_groups(pair, x))"))
    estimates: dict[str, Evidence] = {}
    results: list[Groups] = []
    for part in parts:
        if isinstance(part, PosteriorDraws):
            results.append(part.groups())
        elif isinstance(part, Groups):
            results.append(part)
        else:
            for label, one in {part.method: part}.items() if isinstance(part, Evidence) else part.items():
                if label in estimates:
                    raise DataError(
                        f"export_arviz: two estimates are called {label!r}"
                        + try_one_of('label them: export_arviz(..., {"L_100": first, "L_5000": second})')
                    )
                estimates[label] = one
    if estimates:
        results.append(evidence_groups(estimates))
    whole = _merge(results)
    return to_arviz(whole.groups, whole.dims, whole.coords, whole.attrs)


@in_evaluation_mode
def guide_groups(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_draws: int = 500,
    log_likelihood: bool = True,
    posterior_predictive: bool = False,
    seed: int = 0,
) -> Groups:
    r"""Draws of the guide, $z \sim q(z \mid x_b)$, by ArviZ's group names: one chain of independent draws.

    ``sample_stats`` holds for every draw, in nats, ``lp`` ($\log p(x_b, z)$), ``log_q`` ($\log q(z \mid x_b)$) and
    ``log_weight``, their difference, of which the mean is the ELBO. Global latents have no axis ``datum``; their own
    prior and guide densities are left out of these three.

    Args:
        pair: the pair.
        data: a Dataset, tensor, array or mapping, [N, *event]; labels of a Dataset become ``constant_data["label"]``.
        num_draws: draws of every datum.
        log_likelihood: evaluate $\log p(x_b \mid z)$ at every draw (``az.loo`` needs it).
        posterior_predictive: draw new data at every draw; as many numbers as num_draws copies of the data.
        seed: of the draws.
    """
    dataset, x = _prepare(pair, data, seed)
    shape = structure(pair, x)

    def block(count: int) -> dict[str, dict[str, Tensor]]:
        sample = draw(pair, x, count)
        joint = log_joint(pair, x, sample.latents, num_draws=count)
        stats = {"lp": joint.local, "log_q": sample.log_q, "log_weight": joint.local - sample.log_q}
        variables = {"posterior": sample.latents, "sample_stats": stats}
        if log_likelihood:
            variables["log_likelihood"] = {_label([info.name for info in shape.observed]): joint.observed}
        if posterior_predictive:
            variables["posterior_predictive"] = predict(
                pair, x, sample.latents, kind="sample", given={}, discrete="data", num_draws=count
            )
        return variables

    draws = _in_blocks(block, x, num_draws, seed)
    local = {info.name for info in shape.local_latents}
    groups, dims = _data_groups([info.name for info in shape.observed], x, dataset.labels)
    for group, variables in draws.items():
        groups[group] = {name: value.cpu().numpy() for name, value in variables.items()}
        whole = group != "posterior"
        dims[group] = {
            name: _axes(name, value.dim(), _LEAD if whole or name in local else _LEAD[:2])
            for name, value in variables.items()
        }
    attrs = {**_ABOUT, "model": type(pair).__name__, "posterior_from": "guide", "seed": str(seed)}
    return Groups(groups, dims, _coords(len(dataset), num_draws), attrs)


@in_evaluation_mode
def prior_groups(pair: ModelGuidePair, data: Any, *, num_draws: int = 500, seed: int = 0) -> Groups:
    r"""Draws from the prior and the model, $z \sim p(z),\ x \sim p(x \mid z)$: ``prior``, ``prior_predictive``.

    Args:
        pair: the pair.
        data: for the number of data, their shapes and covariates; observed values are not used.
        num_draws: draws for every datum.
        seed: of the draws.
    """
    dataset, x = _prepare(pair, data, seed)
    local = {info.name for info in structure(pair, x).local_latents}

    def block(count: int) -> dict[str, dict[str, Tensor]]:
        runs = [simulate(pair, x) for _ in range(count)]
        return {
            group: {name: torch.stack([getattr(run, kind)[name] for run in runs]) for name in getattr(runs[0], kind)}
            for group, kind in (("prior", "latents"), ("prior_predictive", "observed"))
        }

    draws = _in_blocks(block, x, num_draws, seed)
    groups = {g: {name: value.cpu().numpy() for name, value in v.items()} for g, v in draws.items()}
    dims = {
        group: {
            name: _axes(name, value.dim(), _LEAD if group != "prior" or name in local else _LEAD[:2])
            for name, value in variables.items()
        }
        for group, variables in draws.items()
    }
    return Groups(groups, dims, _coords(len(dataset), num_draws), {**_ABOUT, "model": type(pair).__name__})


def evidence_groups(results: Mapping[str, Evidence]) -> Groups:
    """Estimates of log p(x_b) as one group ``evidence`` with the axes ``estimate`` and ``datum``.

    Args:
        results: label to estimate, all of the same data. ``bound`` is the side of the truth of each; further numbers
            of a method (divergences, acceptance) are NaN for the others.

    Raises:
        DataError: estimates of different numbers of data.
    """
    lengths = {label: len(one) for label, one in results.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"export_arviz: expected estimates of the same data, found numbers of data {lengths}")
    variables: dict[str, np.ndarray] = {
        name: np.stack([getattr(one, name).cpu().numpy() for one in results.values()]) for name in _COLUMNS
    }
    size = next(iter(lengths.values()))
    further = {
        name
        for one in results.values()
        for name, value in one.info.items()
        if isinstance(value, Tensor) and value.shape == (size,) and name not in variables
    }
    for name in sorted(further):
        rows = [one.info.get(name) for one in results.values()]
        variables[name] = np.stack(
            [np.full(size, np.nan) if row is None else row.cpu().double().numpy() for row in rows]
        )
    dims = {name: ["estimate", "datum"] for name in variables}
    variables["bound"] = np.array([one.bound for one in results.values()])
    variables["seconds"] = np.array([one.seconds for one in results.values()])
    dims["bound"] = dims["seconds"] = ["estimate"]
    coords = {"estimate": np.array(list(results)), "datum": np.arange(size)}
    return Groups({"evidence": variables}, {"evidence": dims}, coords, dict(_ABOUT))


def _prepare(pair: ModelGuidePair, data: Any, seed: int) -> tuple[Dataset, Data]:
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(home_of(pair))
    return dataset, like_pair(dataset.binarize(seed, dtype=dtype).tensor(dtype=dtype), dtype)


def _in_blocks(
    block: Callable[[int], dict[str, dict[str, Tensor]]], x: Data, num_draws: int, seed: int
) -> dict[str, dict[str, Tensor]]:
    """Draws, a few at a time: group to variable to [1, num_draws, ...]."""
    if num_draws < 1:
        raise PpvaeError(f"expected num_draws of at least 1, found {num_draws}")
    numbers = sum(tensor.numel() for tensor in members_of(x).values())
    width = max(1, BLOCK // max(1, numbers))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [block(min(width, num_draws - start)) for start in range(0, num_draws, width)]
    return {
        group: {name: torch.cat([part[group][name] for part in parts])[None] for name in variables}
        for group, variables in parts[0].items()
    }


def _data_groups(
    observed: list[str], x: Data, labels: Tensor | None
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, list[str]]]]:
    """Observed data under the observed sites' names, covariates and labels as constant data."""
    members = {_label(observed) if len(observed) == 1 else "x": x} if isinstance(x, Tensor) else members_of(x)
    observed_names = set(members) if isinstance(x, Tensor) else set(observed) & set(members) or set(members)
    constant = {name: value for name, value in members.items() if name not in observed_names}
    if labels is not None:
        constant["label"] = labels
    groups: dict[str, dict[str, np.ndarray]] = {}
    dims: dict[str, dict[str, list[str]]] = {}
    for group, part in (
        ("observed_data", {k: v for k, v in members.items() if k in observed_names}),
        ("constant_data", constant),
    ):
        if part:
            groups[group] = {name: value.cpu().numpy() for name, value in part.items()}
            dims[group] = {name: _axes(name, value.dim(), _LEAD[2:]) for name, value in part.items()}
    return groups, dims


def _label(observed: list[str]) -> str:
    return observed[0] if len(observed) == 1 else "observed"


def _axes(name: str, count: int, lead: list[str]) -> list[str]:
    return lead + [f"{name}_dim_{i}" for i in range(count - len(lead))]


def _coords(num_data: int, num_draws: int) -> dict[str, np.ndarray]:
    return {"chain": np.arange(1), "draw": np.arange(num_draws), "datum": np.arange(num_data)}


def _merge(parts: Iterable[Groups]) -> Groups:
    groups: dict[str, dict[str, np.ndarray]] = {}
    dims: dict[str, dict[str, list[str]]] = {}
    coords: dict[str, np.ndarray] = {}
    attrs: dict[str, str] = {}
    for part in parts:
        twice = sorted(set(groups) & set(part.groups))
        if twice:
            raise DataError(
                f"export_arviz: two parts give the group {', '.join(map(repr, twice))}"
                + try_one_of("one export for the guide and one for HMC, side by side")
            )
        for axis in ("datum", "chain", "draw"):
            have, new = coords.get(axis), part.coords.get(axis)
            if axis == "datum" and have is not None and new is not None and len(have) != len(new):
                raise DataError(f"export_arviz: expected parts on the same data, found {len(have)} and {len(new)} data")
            if new is not None and (have is None or len(new) > len(have)):
                coords[axis] = new
        coords |= {axis: value for axis, value in part.coords.items() if axis not in coords}
        groups |= part.groups
        dims |= part.dims
        attrs |= part.attrs
    return Groups(groups, dims, coords, attrs)
