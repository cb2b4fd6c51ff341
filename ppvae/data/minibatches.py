"""Minibatches as index gathers on the training device: seeded, resumable, always of one shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from .dataset import Batch, Dataset
from ..core.errors import DataError, try_one_of


class Minibatches:
    """Endless minibatches of one data set; an epoch is one seeded permutation of its rows.

    The permutation is drawn on the device of the data from a generator of its own, so neither the model's
    noise nor a global seed changes the order. Every batch has exactly ``batch_size`` rows, because a step is
    captured once for one shape: the last ``N mod batch_size`` rows of an epoch's permutation are left out of
    that epoch; each epoch has another permutation. The dynamic binarisation of the data draws from the same
    generator.

    Args:
        data: the rows; ``data.device`` is where indices and batches stand.
        batch_size: M, rows per batch; None takes all rows in natural order at each step.
        seed: of the generator.
        groups: of every row the number of its group, [N]; a batch has rows of one group alone, and those of a group are
            spread evenly over the epoch. None for one group.

    Raises:
        DataError: ``batch_size`` below 1 or above ``len(data)``, or above the number of rows of a group.

    >>> import torch
    >>> data = Dataset(torch.arange(10.0)[:, None])
    >>> batches = Minibatches(data, 4, seed=1)
    >>> len(batches), [tuple(batch.shape) for batch in batches]
    (2, [(4, 1), (4, 1)])
    """

    def __init__(
        self, data: Dataset, batch_size: int | None = None, *, seed: int = 0, groups: Tensor | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise DataError(f"{data.name}: batch_size must be at least 1, found {batch_size}.")
        if batch_size is not None and batch_size > len(data):
            raise DataError(
                f"{data.name}: batch_size {batch_size} is larger than the data, which has {len(data)} rows."
                + try_one_of(f"batch_size={len(data)} or smaller", "batch_size=None for the full batch")
            )
        self.data = data
        self.batch_size = batch_size
        self.groups = None if groups is None else _checked(groups, data, batch_size)
        self.generator = torch.Generator(device=data.device).manual_seed(seed)
        self.epoch = 0
        self.position = 0
        self._ahead: Future[tuple[Tensor, Batch]] | None = None  # the next batch, which is being read
        self._before_ahead: dict[str, Tensor | int] = {}  # the state that it is drawn from
        self._order = self._no_order() if batch_size else torch.arange(len(data), device=data.device)

    def __len__(self) -> int:
        """Steps per epoch."""
        if self.batch_size is None:
            return 1
        sizes = [len(self.data)] if self.groups is None else self.groups.bincount().tolist()
        return sum(size // self.batch_size for size in sizes)

    def __iter__(self) -> Iterator[Batch]:
        """The remaining batches of the current epoch (all of them at its beginning), model ready."""
        for index in self.indices():
            yield self.data.batch(index, self.generator)

    def indices(self) -> Iterator[Tensor]:
        """As iterating, but the indices ``[M]`` instead of the gathered rows."""
        epoch = self.epoch
        while self.epoch == epoch:
            yield self.next_index()

    def next_rows(self, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Batch]:
        """The indices ``[M]`` of the next batch, and the batch; of a memory map the one after it is read meanwhile."""
        if not self.data.memory_mapped:
            index = self.next_index()
            return index, self.data.batch(index, self.generator, dtype=dtype)
        found = (self._ahead or self._read_ahead(dtype)).result()
        self._read_ahead(dtype)
        return found

    def _read_ahead(self, dtype: torch.dtype | None) -> Future[tuple[Tensor, Batch]]:
        self._ahead = None
        self._before_ahead = self.state_dict()
        index = self.next_index()
        self._ahead = _reader().submit(lambda: (index, self.data.batch(index, self.generator, dtype=dtype)))
        return self._ahead

    def _forget_ahead(self) -> None:
        """Stand again before the batch that is being read."""
        if self._ahead is not None:
            self._ahead.exception()  # until it is read: it may draw from the generator
            self._ahead = None
            self.load_state_dict(self._before_ahead)

    def next_index(self) -> Tensor:
        """The indices ``[M]`` of the next batch; runs on from epoch to epoch."""
        self._forget_ahead()
        if self.batch_size is None:
            self.epoch += 1
            return self._order
        if self.position == 0:
            self._order = self._draw_order(self.batch_size)
        index = self._order[self.position * self.batch_size : (self.position + 1) * self.batch_size]
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        return index

    def _draw_order(self, batch_size: int) -> Tensor:
        """A permutation of all rows; what no batch of this epoch takes stands at its end.

        A batch of all rows has them in their own order, which a pair with parameters for every datum counts on.
        """
        if batch_size == len(self.data):
            return torch.arange(batch_size, device=self.data.device)
        order = torch.randperm(len(self.data), generator=self.generator, device=self.data.device)
        if self.groups is None:
            return order
        batches, places, rest = [], [], []
        for group in range(int(self.groups.max()) + 1):
            rows = order[self.groups[order] == group]
            whole = len(rows) // batch_size
            batches.append(rows[: whole * batch_size].reshape(whole, batch_size))
            places.append((torch.arange(whole, device=order.device) + 0.5) / max(whole, 1))
            rest.append(rows[whole * batch_size :])
        return torch.cat((torch.cat(batches)[torch.cat(places).argsort(stable=True)].flatten(), *rest))

    def next_batch(self) -> Batch:
        """The next batch, model ready; runs on from epoch to epoch."""
        return self.data.batch(self.next_index(), self.generator)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The state that the next batch depends on: tensors and whole numbers, for safetensors and JSON."""
        if self._ahead is not None:
            return dict(self._before_ahead)
        return {
            "generator": self.generator.get_state(),
            "order": self._order.clone() if self.batch_size and self.position else self._no_order(),
            "epoch": self.epoch,
            "position": self.position,
            "batch_size": self.batch_size or 0,
            "num_data": len(self.data),
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Goes on exactly where :meth:`state_dict` was taken.

        Raises:
            DataError: the state is of other data, of another batch size, or of another kind of device.
        """
        if self._ahead is not None:
            self._ahead.exception()
            self._ahead = None
        here = self.state_dict()
        missing = sorted(here.keys() - state.keys())
        if missing:
            raise DataError(f"{self.data.name}: the state of the minibatches lacks {', '.join(missing)}.")
        for key, meaning in (("num_data", "rows"), ("batch_size", "rows per batch (0: all)")):
            if int(state[key]) != here[key]:
                raise DataError(
                    f"{self.data.name}: the saved minibatches have {int(state[key])} {meaning}, "
                    f"these {here[key]}."
                    + try_one_of("resume with the data and batch_size of the saved run", "start a new run")
                )
        order, position = torch.as_tensor(state["order"]), int(state["position"])
        if not 0 <= position < len(self) or order.numel() != (len(self.data) if position else 0):
            raise DataError(
                f"{self.data.name}: the saved minibatches do not fit together: position {position} of "
                f"{len(self)} with an order of {order.numel()} rows."
            )
        try:
            self.generator.set_state(torch.as_tensor(state["generator"]).cpu())
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"{self.data.name}: the saved generator does not fit the device {self.data.device}: {error}"
                + try_one_of("resume on the kind of device that the run was started on")
            ) from error
        self.epoch, self.position = int(state["epoch"]), position
        if self.batch_size:
            self._order = order.to(self.data.device, torch.int64)

    def _no_order(self) -> Tensor:
        """The order between two epochs, which is not drawn yet."""
        return torch.empty(0, dtype=torch.int64, device=self.data.device)


@cache
def _reader() -> ThreadPoolExecutor:
    """The thread that reads from disks."""
    return ThreadPoolExecutor(1, thread_name_prefix="ppvae-reader")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reader.cache_clear)  # a process that was forked has no other threads


def _checked(groups: Tensor, data: Dataset, batch_size: int | None) -> Tensor:
    """The groups' numbers as 0, 1, ..., on the device of the data."""
    if groups.shape != (len(data),):
        raise DataError(f"{data.name}: groups: expected a number for each of {len(data)} rows, found {groups.shape}.")
    numbers, groups, sizes = groups.unique(return_inverse=True, return_counts=True)
    if batch_size is None or batch_size > int(sizes.min()):
        asked = "all data at every step" if batch_size is None else f"batch_size {batch_size}"
        least, name = int(sizes.min()), numbers[sizes.argmin()].item()
        raise DataError(
            f"{data.name}: batches of one group each: group {name} has {least} rows, fewer than {asked}."
            + try_one_of(f"batch_size={least} or smaller", "no groups")
        )
    return groups.to(data.device)


def chunks(n: int, limit: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, int]]:
    """Splits 0..n-1 into the fewest chunks of at most ``limit``, all of one length.

    The last one is padded by repeating its last index, so that an evaluation is captured once.

    Yields:
        ``(index [M], valid)``: of the results for ``index``, the first ``valid`` count.

    >>> [(index.tolist(), valid) for index, valid in chunks(5, 3)]
    [([0, 1, 2], 3), ([3, 4, 4], 2)]
    """
    if n < 1 or limit < 1:
        raise DataError(f"cannot split {n} rows into chunks of at most {limit}: both must be at least 1.")
    size = -(-n // -(-n // limit))
    for start in range(0, n, size):
        index = torch.arange(start, start + size, device=device)
        yield index.clamp(max=n - 1), min(size, n - start)
