"""A data set: rows that share axis 0, the space of their values, and its held-out parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..core.errors import DataError, did_you_mean, try_one_of

Batch: TypeAlias = Tensor | dict[str, Tensor] | tuple[Tensor, ...]
"""Rows as a model sees them: of the kind of :attr:`Dataset.x`."""
ValueSpace = Literal["binary", "unit", "byte", "real", "count"]
Binarization = Literal["none", "static", "dynamic"]

_BINARIZATION_ROWS = 4096
"""Rows whose binarisation is drawn at once: they take four bytes a value for a moment."""
_SAMPLED_ROWS = 1024
"""Rows of a memory-mapped array that stand for all where a check would read the whole file."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    r"""Rows ``x [N, *event]``, the space of their values, and their held-out parts.

    A data set *is* its training part: ``.train`` returns it, ``.validation`` and ``.test`` are data sets of
    their own (or None). :meth:`batch` is the one way from stored values to what a model sees:

    .. math:: x_\text{model} = x / 255 \text{ (bytes)}, \quad
              x_\text{model} \sim \mathrm{Bernoulli}(x) \text{ (dynamic binarisation)}, \quad x \text{ (else)}

    in the default float dtype unless told otherwise. The members of a tuple are called "0", "1", ...; of a mapping or
    a tuple, the member ``"x"`` (or the first, where there is
    no ``"x"``) is the *main* member: the value space describes it; the other members are covariates and keep integer
    types.

    Args:
        x: tensor ``[N, *event]``, or a mapping or a tuple of tensors that share axis 0; programs that were wrapped by
            ``from_callables`` are called with a tuple's members as their arguments.
        labels: ``[N]`` or None; never seen by a model, used to colour figures.
        name: how reports call it.
        value_space: "binary" {0, 1}, "unit" [0, 1], "byte" 0..255, "count" 0, 1, 2, ..., "real".
        image_shape: how to draw one flat row as a picture, for instance (28, 28).
        binarization: "none", "static" (``x`` holds the drawn zeros and ones) or "dynamic" (drawn anew by each
            :meth:`batch` with probability ``x``; Burda et al. 2015, arXiv 1509.00519, section 5.1).
        validation: the part for early stopping, or None.
        test: the part for the final numbers alone, or None.
        memory_mapped: ``x`` stands on disk and is paged in as rows are gathered.
        feature_names: of the last axis of the main member (the words of a vocabulary, the columns of a table), or None.

    Raises:
        DataError: no rows, members or labels of different lengths, an unknown space, feature names of another
            number, or binarisation of values that are no probabilities.

    >>> import torch
    >>> data = Dataset(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8), value_space="byte")
    >>> data.batch(torch.tensor([1]))
    tensor([[0.2000, 0.4000]])
    """

    x: Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]
    labels: Tensor | None = None
    name: str = "data"
    value_space: ValueSpace = "real"
    image_shape: tuple[int, ...] | None = None
    binarization: Binarization = "none"
    validation: Dataset | None = None
    test: Dataset | None = None
    memory_mapped: bool = False
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field, value, legal in (
            ("value_space", self.value_space, get_args(ValueSpace)),
            ("binarization", self.binarization, get_args(Binarization)),
        ):
            if value not in legal:
                raise DataError(f"{self.name}: unknown {field} {value!r}: {did_you_mean(str(value), legal)}")
        members = self.members
        if not members:
            raise DataError(f"{self.name}: an empty mapping holds no data.")
        lengths = {key: (member.shape[0] if member.dim() else None) for key, member in members.items()}
        if self.labels is not None:
            lengths["labels"] = self.labels.shape[0] if self.labels.dim() else None
        if len(set(lengths.values())) > 1 or None in lengths.values():
            raise DataError(
                f"{self.name}: all members must share axis 0, found lengths {lengths}."
                + try_one_of("index or tile the shorter members so that row i of each belongs to datum i")
            )
        if 0 in members[self.main].shape:
            raise DataError(f"{self.name}: empty data, {self.main!r} has shape {tuple(members[self.main].shape)}.")
        if self.feature_names is not None and self.event_shape[-1:] != (len(self.feature_names),):
            raise DataError(
                f"{self.name}: {len(self.feature_names)} feature_names for data of event shape {self.event_shape}."
            )
        if self.binarization == "dynamic" and self.value_space not in ("unit", "byte"):
            raise DataError(
                f"{self.name}: dynamic binarisation reads values as probabilities, found {self.value_space} "
                "values." + try_one_of("rescale the values to [0, 1]", 'binarization="none"')
            )

    def __len__(self) -> int:
        return int(self.members[self.main].shape[0])

    def __repr__(self) -> str:
        parts = {"validation": self.validation, "test": self.test}
        held_out = "".join(f", {name}={len(part)}" for name, part in parts.items() if part is not None)
        notes = "" if self.binarization == "none" else f", {self.binarization} binarisation"
        notes += ", memory-mapped" if self.memory_mapped else ""
        notes += "" if self.labels is None else ", labels"
        event = ", ".join(f"{key}: {tuple(member.shape[1:])}" for key, member in self.members.items())
        event = str(self.event_shape) if isinstance(self.x, Tensor) else f"{{{event}}}"
        return f"Dataset({self.name!r}, {len(self)} x {event} {self.value_space}{notes}{held_out})"

    @property
    def members(self) -> dict[str, Tensor]:
        """All tensors by name; a lone tensor is called "x"."""
        if isinstance(self.x, tuple):
            return {str(place): member for place, member in enumerate(self.x)}
        return {"x": self.x} if isinstance(self.x, Tensor) else dict(self.x)

    @property
    def main(self) -> str:
        """The name of the member that the value space describes."""
        return main_of(self.members)

    def main_of(self, batch: Batch) -> Tensor:
        """The main member of a batch of these data."""
        if isinstance(batch, tuple):
            return batch[0]
        return batch if isinstance(batch, Tensor) else batch[self.main]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum (of the main member)."""
        return tuple(self.members[self.main].shape[1:])

    @property
    def batch_space(self) -> ValueSpace:
        """The space of what :meth:`batch` returns: bytes become "unit", a dynamic binarisation "binary"."""
        if self.binarization == "dynamic":
            return "binary"
        return "unit" if self.value_space == "byte" else self.value_space

    @property
    def device(self) -> torch.device:
        """Where the rows stand, and so where the index of :meth:`batch` should stand."""
        return self.members[self.main].device

    @property
    def train(self) -> Dataset:
        """This data set itself."""
        return self

    @property
    def parts(self) -> dict[str, Dataset]:
        """The parts that exist, by name: "train", then "validation" and "test"."""
        parts = {"train": self, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def batch(
        self, index: Tensor, generator: torch.Generator | None = None, *, dtype: torch.dtype | None = None
    ) -> Batch:
        """Gathers the rows ``index [B]``, model ready: ``[B, *event]`` in a float dtype.

        Args:
            index: int64 ``[B]``, on any device.
            generator: source of the dynamic binarisation, on the device of the data; None draws from the
                global one.
            dtype: the float dtype; None for PyTorch's default.
        """
        index = index.to(self.device)
        return self._prepare(lambda member: member.index_select(0, index), generator, dtype)

    def tensor(self, generator: torch.Generator | None = None, *, dtype: torch.dtype | None = None) -> Batch:
        """All rows, model ready; shares memory with ``x`` where nothing has to be converted."""
        return self._prepare(lambda member: member, generator, dtype)

    def _prepare(
        self, rows: Callable[[Tensor], Tensor], generator: torch.Generator | None, dtype: torch.dtype | None
    ) -> Batch:
        floats = dtype or torch.get_default_dtype()

        def prepare(key: str, member: Tensor) -> Tensor:
            value = rows(member)
            if key != self.main:
                return value.to(floats) if value.is_floating_point() else value
            value = value.to(floats)
            value = value / 255 if self.value_space == "byte" else value
            return draw_binary(value, generator) if self.binarization == "dynamic" else value

        return self._as_given({key: prepare(key, member) for key, member in self.members.items()})

    def _as_given(self, members: dict[str, Tensor]) -> Batch:
        """Members as :attr:`x` holds them: as one tensor, by name or by place."""
        if isinstance(self.x, Tensor):
            return members["x"]
        return tuple(members.values()) if isinstance(self.x, tuple) else members

    def binarize(self, seed: int, *, dtype: torch.dtype | None = None) -> Dataset:
        """Itself; where the binarisation is dynamic, its rows with their zeros and ones drawn once.

        They are those of ``tensor(torch.Generator().manual_seed(seed))``, on a CPU.

        Args:
            seed: of the zeros and ones.
            dtype: the float dtype in which they are drawn; None for PyTorch's default.
        """
        if self.binarization != "dynamic":
            return self
        generator = torch.Generator(device=self.device).manual_seed(seed)
        parts = []
        for rows in torch.arange(len(self), device=self.device).split(_BINARIZATION_ROWS):
            parts.append(self.main_of(self.batch(rows, generator, dtype=dtype)).to(torch.uint8))
        x = self._as_given({**self.members, self.main: torch.cat(parts)})
        return replace(self, x=x, value_space="binary", binarization="static", memory_mapped=False)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device, held-out parts too; a memory map leaving the CPU is read whole."""
        device = torch.device(device)
        copy = self._each(lambda member: member.to(device))
        return replace(
            copy,
            validation=None if self.validation is None else self.validation.to(device),
            test=None if self.test is None else self.test.to(device),
            memory_mapped=self.memory_mapped and device.type == "cpu",
        )

    def take(self, rows: int | Tensor) -> Dataset:
        """The first ``rows`` rows, or those of an index, int64 [n]; the held-out parts stay whole.

        The first rows of a file need not be like the others: the first 1000 of binarised MNIST's test data are
        15 nats off. :func:`random_rows` is an index of rows that are.

        Raises:
            DataError: none, or more than there are.

        >>> import torch
        >>> data = Dataset(torch.arange(10.0).unsqueeze(-1))
        >>> data.take(2).x.flatten(), data.take(torch.tensor([7, 9])).x.flatten()
        (tensor([0., 1.]), tensor([7., 9.]))
        """
        if isinstance(rows, int):
            if not 1 <= rows <= len(self):
                raise DataError(f"{self.name}: cannot take {rows} rows of {len(self)}.")
            return self._each(lambda member: member[:rows])
        if not rows.numel() or int(rows.min()) < 0 or int(rows.max()) >= len(self):
            raise DataError(f"{self.name}: expected an index of rows 0 to {len(self) - 1}, found {rows.tolist()[:10]}.")
        return replace(self._each(lambda member: member[rows.to(member.device)]), memory_mapped=False)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Dataset:
        x = self._as_given({key: change(member) for key, member in self.members.items()})
        return replace(self, x=x, labels=None if self.labels is None else change(self.labels))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, dtypes, shapes and bytes of this part's rows and labels, and its space.

        Held-out parts have fingerprints of their own. Of a memory-mapped array, 1024 evenly spaced rows
        stand for all (and the shape for their number), so that the whole file is not read.
        """
        digest = hashlib.sha256(f"{self.value_space}|{self.binarization}".encode())
        members = self.members if self.labels is None else {**self.members, "labels": self.labels}
        for key, member in members.items():
            digest.update(f"|{key}|{member.dtype}|{tuple(member.shape)}|".encode())
            value = sample_rows(member) if self.memory_mapped else member
            buffer: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(buffer)
        return digest.hexdigest()


def main_of(members: Mapping[str, object]) -> str:
    """The name of the main one of some members."""
    return "x" if "x" in members else next(iter(members))


def draw_binary(probability: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Zeros and ones of the same shape and dtype; comparing uniforms is faster than ``torch.bernoulli``."""
    uniform = torch.empty_like(probability).uniform_(generator=generator)
    return torch.lt(uniform, probability, out=uniform)


def random_rows(num_rows: int, count: int, seed: int = 0) -> Tensor:
    """``count`` of ``num_rows`` rows drawn without replacement, in their order, int64; all where there are fewer.

    What is averaged over them stands for all rows, with its standard error, in whatever order a file has its rows.
    With the same seed those of a smaller count are among those of a larger one.

    >>> random_rows(100, 3), random_rows(100, 4), random_rows(3, 10)
    (tensor([19, 44, 93]), tensor([19, 44, 90, 93]), tensor([0, 1, 2]))
    """
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def sample_rows(member: Tensor) -> Tensor:
    """At most 1024 evenly spaced rows, the first and the last among them."""
    count = min(_SAMPLED_ROWS, member.shape[0])
    index = torch.linspace(0, member.shape[0] - 1, count, dtype=torch.float64, device=member.device).long()
    return member.index_select(0, index)
