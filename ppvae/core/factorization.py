"""Does a model explain every entry of its data once, and without having read it?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .axes import to_canonical, to_pyro
from .density import observing_run
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair, batch_size, rows_of
from .parameters import local_parameters
from .rewriting import as_tree, entries_in_batch
from .site import SiteInfo
from .structure import Structure
from .terms import Sites
from .tracing import Latents, run_model
from .wrappers import entries_present, unwrap

_ENTRIES = 256  # of a tensor that are changed one by one, a row each
_RUNS = 32  # of the model, at most, for that
# Of programs whose shapes depend on numbers, such as lengths, or which assert something of them.
_FAILURES = (RuntimeError, ValueError, LookupError, AssertionError)
Node = tuple[str, int]  # a site, and which of its factors


def require_factorization(pair: ModelGuidePair, few: Data, latents: Latents, shape: Structure) -> None:
    r"""Every entry is observed once, given what stands before it: $p(x, z) = \prod_i p(v_i \mid v_{<i})$.

    The data and the latents of one datum are changed entry by entry, where the distribution of anything depends on the
    data at all; which site's entry depends on which then has to be free of cycles. Covariates, which no site observes,
    may be read by all; so may what was observed earlier, as in an autoregressive likelihood.

    Args:
        pair: the pair.
        few: some data, [B, *event].
        latents: two draws of all latents, [2, B, *event].
        shape: of the pair at these data.

    Raises:
        PairError: names two sites that observe the same entries, or an entry that is read by its own distribution, or
            by what that depends on.
    """
    with local_parameters(pair):
        _require_single_use(few, shape, observing_run(pair, few, shape))
    programs = _programs_at(pair, pair.completed(few), latents, shape)
    if programs is None:
        return
    leaves = [place for place in range(len(programs.leaves)) if programs.is_read_and_observed(place)]
    if not leaves:
        return
    edges = list(programs.edges([entry for place in leaves for entry in programs.entries_of(place)]))
    drawn = {info.name for info in (*shape.local_latents, *shape.enumerated)}
    if any(reader[0] in drawn for _, readers in edges for reader in readers):
        edges += programs.edges(programs.latent_entries())
    graph: dict[Node, dict[Node, None]] = {}  # in an order, so that a message is the same every time
    for owner, readers in edges:
        for reader in sorted(readers):
            graph.setdefault(reader, {})[owner] = None
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise _cycle_error(error.args[1], shape) from None


def _require_single_use(x: Data, shape: Structure, sites: Sites) -> None:
    r"""No entry of the data is observed by two sites: $\prod_i p_i(x \mid z)$ is no density of x."""
    seen = entries_in_batch(x, shape, sites)
    owners = {its.place.leaf: torch.full((its.length,), -1) for its in seen.values()}
    names = list(seen)
    for number, (name, its) in enumerate(seen.items()):
        leaf, entries = its.place.leaf, its.entries[its.present].cpu()
        before = owners[leaf][entries].amax() if len(entries) else -1
        if before >= 0:
            raise PairError(
                f"sites {names[int(before)]!r} and {name!r} observe the same entries of the data: the product of their "
                "densities integrates to something else than 1 over these data, so that there is no log p(x)"
                + try_one_of(
                    "one site, whose distribution is a mixture of both",
                    "poutine.mask, where some data belong to one site and the rest to the other",
                    "another member of the batch for a second measurement",
                )
            )
        owners[leaf][entries] = number


def _cycle_error(cycle: Sequence[Node], shape: Structure) -> PairError:
    names = list(dict.fromkeys(name for name, _ in cycle))
    observed = [info.name for info in shape.observed if info.name in names]
    if len(set(cycle)) == 1:
        what = f"site {names[0]!r}: the distribution of entry {cycle[0][1]} depends on what is observed there"
    else:
        way = " on ".join(f"entry {number} of {name!r}" for name, number in cycle[:4])
        so_on = " and so on" if len(cycle) > 4 else ""
        what = f"site {observed[0]!r}: its distribution depends on what it observes ({way}{so_on})"
    return PairError(
        f"{what}: such a product is no density of the data, so that there is no log p(x)"
        + try_one_of(
            "an input that ends one step before: the model reads x[:, :-1] where it observes x[:, 1:]",
            "x in the guide alone",
            "what is given, such as a total, as a member of its own in the batch",
        )
    )


class _Factors(NamedTuple):
    """Of one site: its values, and their log densities at the values of the first run, [B, entries]."""

    value: Tensor
    log_prob: Tensor
    present: Tensor


class _Entry(NamedTuple):
    """One number of the data, or of a latent of them, and what to write in its place."""

    source: int | str  # a leaf of the batch, or a latent
    place: int
    other: Tensor


def _programs_at(pair: ModelGuidePair, few: Data, latents: Latents, shape: Structure) -> _Programs | None:
    """At the first datum that has all sites by itself: a sequence may have fewer of them than a longer one."""
    for row in range(batch_size(few)):
        with contextlib.suppress(*_FAILURES):
            return _Programs(pair, few, latents, shape, row)
    return None


class _Programs:
    """The model at one datum, in all rows, and with a number changed in each row.

    Whatever does not concern the order of factors stays as it was: parameters, global latents, masks.
    """

    def __init__(self, pair: ModelGuidePair, few: Data, latents: Latents, shape: Structure, row: int) -> None:
        self.pair, self.shape = pair, shape
        self.size = batch_size(few)
        self.most = min(_ENTRIES, _RUNS * self.size)
        self.infos = {info.name: info for info in shape.model if info.scope == "local" and 0 not in info.event_shape}
        same = torch.full((self.size,), row)
        self.leaves, self.spec = pytree.tree_flatten(as_tree(rows_of(few, same)))
        self.others = pytree.tree_leaves(as_tree(few))
        local = {info.name for info in shape.local_latents}
        self.values = {n: v[:1, same] if n in local else v[:1] for n, v in latents.items()}
        self.alternatives = {
            n: _other(v[0, row].flatten(), v.reshape(2 * self.size, -1)) for n, v in latents.items() if n in local
        }
        drawn = self._run(self.leaves, self.values)
        for info in shape.enumerated:
            value = to_canonical(drawn[info.name]["value"], info, shape.nesting, 1)
            self.values[info.name] = value[:, same] if info.scope == "local" else value
            if info.scope == "local":
                mine, is_one_hot = value[0, 0].flatten(), info.is_a(dist.OneHotCategorical)
                self.alternatives[info.name] = 1 - mine if is_one_hot else (mine + 1) % info.num_values
        sites = self._run(self.leaves, self.values)
        self.at = {name: _defined_value(sites[name]) for name in self.infos}
        self.before = self._factors(sites)

    def _run(self, leaves: Sequence[Any], values: Latents) -> Sites:
        infos = {info.name: info for info in self.shape.model}
        given = {name: to_pyro(value, infos[name], self.shape.nesting) for name, value in values.items()}
        x: Data = pytree.tree_unflatten(list(leaves), self.spec)
        with local_parameters(self.pair), pyro.validation_enabled(False):
            return run_model(self.pair, x, self.shape, given, 1, enumerate=False)

    def _factors(self, sites: Sites) -> dict[str, _Factors]:
        found = {}
        with pyro.validation_enabled(False):
            for name, info in self.infos.items():
                value, present = sites[name]["value"], entries_present(sites[name])
                everywhere = torch.ones_like(value, dtype=torch.bool)
                present = everywhere if present is None else everywhere & present
                parts = (value, _entrywise(sites[name]["fn"], self.at[name]), present)
                found[name] = _Factors(*(self._by_row(part, info) for part in parts))
        return found

    def _by_row(self, value: Tensor, info: SiteInfo) -> Tensor:
        return to_canonical(value, info, self.shape.nesting, 1)[0].reshape(self.size, -1)

    def is_read_and_observed(self, place: int) -> bool:
        """Whether some site observes a tensor of the batch, and the distribution of some site depends on it."""
        leaf = self.leaves[place]
        if not isinstance(leaf, Tensor) or torch.equal(leaf, self._changed(place)):
            return False
        leaves = [*self.leaves[:place], self._changed(place), *self.leaves[place + 1 :]]
        try:
            after = self._factors(self._run(leaves, self.values))
        except _FAILURES:
            return False
        pairs = [(self.before[name], factors) for name, factors in after.items()]
        if any(one.value.shape != other.value.shape for one, other in pairs):
            return False
        observed = any(bool(_differs(one.value, other.value).any()) for one, other in pairs)
        return observed and any(bool(_moved(one.log_prob, other.log_prob).any()) for one, other in pairs)

    def _changed(self, place: int) -> Tensor:
        """The tensor of the datum with every number changed for one of another datum, or else for its neighbour."""
        leaf, rows = self.leaves[place], self.others[place].reshape(self.size, -1)
        changed = _other(leaf.reshape(self.size, -1)[0], rows)
        whole: Tensor = changed.expand(self.size, -1).reshape(leaf.shape)
        return whole

    def entries_of(self, place: int) -> list[_Entry]:
        """The numbers of a tensor of the batch that can be changed, or some of them."""
        mine, changed = (v.reshape(self.size, -1)[0] for v in (self.leaves[place], self._changed(place)))
        return [_Entry(place, int(j), changed[j]) for j in _some(_differs(mine, changed).nonzero()[:, 0], self.most)]

    def latent_entries(self) -> list[_Entry]:
        """The same of the latents of a datum."""
        found = []
        for name, other in self.alternatives.items():
            mine = self.values[name][0, 0].flatten()
            found += [_Entry(name, int(k), other[k]) for k in _some(_differs(mine, other).nonzero()[:, 0], self.most)]
        return found

    def edges(self, entries: Sequence[_Entry]) -> Iterator[tuple[Node, set[Node]]]:
        """Factors whose value an entry is, each with those whose distribution depends on it."""
        for start in range(0, len(entries), self.size):
            chunk = entries[start : start + self.size]
            with contextlib.suppress(*_FAILURES):  # one number changed may be no datum of the program
                yield from self._edges_of(chunk, self._factors(self._run(*self._written(chunk))))

    def _edges_of(self, chunk: Sequence[_Entry], after: Mapping[str, _Factors]) -> Iterator[tuple[Node, set[Node]]]:
        rows = range(len(chunk))
        owners: list[set[Node]] = [set() for _ in rows]
        readers: list[set[Node]] = [set() for _ in rows]
        left_out = torch.zeros(self.size, dtype=torch.bool)
        for name, info in self.infos.items():
            before, now = self.before[name], after[name]
            left_out |= (before.present != now.present).any(1).cpu()  # such an entry tells where the gaps are
            values = _nodes(name, _differs(before.value, now.value), _joint(info))
            read = _nodes(name, _moved(before.log_prob, now.log_prob), _joint(info))
            for row, entry in enumerate(chunk):
                readers[row] |= read[row]
                if entry.source == name or not isinstance(entry.source, str):
                    owners[row] |= values[row]
                else:  # what is observed less a latent, obs=x - z, depends on the latent too
                    readers[row] |= values[row]
                # A value that is computed of several entries, of which each may be another factor's own.
                left_out[row] |= not isinstance(entry.source, str) and len(values[row]) > 1
        for row in rows:
            if not left_out[row]:
                yield from ((owner, readers[row]) for owner in sorted(owners[row]))

    def _written(self, chunk: Sequence[_Entry]) -> tuple[list[Any], dict[str, Tensor]]:
        leaves, values = list(self.leaves), dict(self.values)
        for source in {entry.source for entry in chunk}:
            if isinstance(source, str):
                values[source] = values[source].clone()
            else:
                leaves[source] = leaves[source].clone(memory_format=torch.contiguous_format)
        for row, (source, place, other) in enumerate(chunk):
            tensor = values[source][0] if isinstance(source, str) else leaves[source]
            tensor.view(self.size, -1)[row, place] = other
        return leaves, values


def _nodes(name: str, moved: Tensor, group: int) -> list[set[Node]]:
    """The factors of each row in which something has moved."""
    found: list[set[Node]] = [set() for _ in moved]
    for row, entry in moved.nonzero().tolist():
        found[row].add((name, entry // group))
    return found


def _joint(info: SiteInfo) -> int:
    """How many entries one factor has."""
    event = info.event_shape[len(info.event_shape) - info.joint_axes :]
    return max(1, int(torch.Size(event).numel()))


def _defined_value(site: Mapping[str, Any]) -> Tensor:
    """The value of a site, with drawn ones in its gaps, where anything may stand."""
    value: Tensor = site["value"]
    present = entries_present(site)
    return value if present is None else torch.where(present, value, site["fn"].sample())


def _entrywise(fn: Any, value: Tensor) -> Tensor:
    """The log density of each entry of a value, or of each event that has one together."""
    fn = unwrap(fn)
    log_prob: Tensor = fn.log_prob(value)
    log_prob = log_prob.reshape((*log_prob.shape, *(1,) * len(fn.event_shape)))
    return log_prob.reshape(log_prob.shape[max(0, log_prob.dim() - value.dim()) :]).expand(value.shape)


def _some(places: Tensor, most: int) -> list[int]:
    """Some of many: half of them side by side in the middle, the others all over."""
    if len(places) > most:
        half = most // 2
        middle, spread = (len(places) - half) // 2, torch.linspace(0, len(places) - 1, half).long()
        places = places[torch.cat([spread, torch.arange(middle, middle + half)]).unique()]
    some: list[int] = places.tolist()
    return some


def _other(mine: Tensor, rows: Tensor) -> Tensor:
    """Every number changed for one of another row, or else for its neighbour; where all are equal it stays."""
    changed = mine.clone()
    for row in (*rows, mine.roll(1)):
        usable = (changed == mine) & _is_finite(mine) & _is_finite(row)
        changed = torch.where(usable, row, changed)
    return changed


def _differs(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & ~((a != a) & (b != b))


def _moved(a: Tensor, b: Tensor) -> Tensor:
    return ~torch.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def _is_finite(value: Tensor) -> Tensor:
    return torch.isfinite(value) if value.is_floating_point() else torch.ones_like(value, dtype=torch.bool)
