"""Several processes that work as one: the only file that knows ``torch.distributed``.

Without a process group, or with a group of one, there is one process, and everything here is the identity.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial, reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core import Data, PpvaeError, ProcessError, batch_size, rows_of
from ...core.errors import try_one_of

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others between two steps before it says that they hang."""
PATIENCE = timedelta(days=30)
"""The same where processes do work of different lengths; the end of another one is noticed at once."""
_LAST_WORDS = 2.0  # seconds that the message of a process that failed may take
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process


class Processes:
    """The processes that work as one, seen from one of them; alone where no arguments are given.

    Args:
        rank: of this process, from 0.
        count: K, how many there are.
        group: of these processes alone.
        store: what they can all read while one has failed.

    Attributes:
        stop_requested: whether some process was asked to stop, as all know since the last :meth:`mean`.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None, store: Any = None) -> None:
        self.rank, self.count, self._group, self._store = rank, count, group, store
        self._asked = self.stop_requested = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def request_stop(self) -> None:
        """Have all processes stop after the same step."""
        self._asked = True
        if self.count == 1:
            self.stop_requested = True

    def takes(self, number: int) -> bool:
        """Whether this process does this piece of work, numbered from 0."""
        return number % self.count == self.rank

    def share(self, x: Data, rank: int | None = None) -> Data:
        """The rows of a batch that a process works on, this one where ``rank`` is None: M / K of them."""
        if self.count == 1:
            return x
        size, rank = batch_size(x) // self.count, self.rank if rank is None else rank
        return rows_of(x, torch.arange(rank * size, (rank + 1) * size))

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over the processes, in one communication; the same bits in all of them."""
        if self.count == 1:
            return list(tensors)
        # Whole numbers, counters of an estimator, are exact in float64.
        dtypes = (tensor.dtype if tensor.is_floating_point() else torch.float64 for tensor in tensors)
        dtype = reduce(torch.promote_types, dtypes)
        asked = torch.full((1,), float(self._asked), dtype=dtype, device=tensors[0].device)
        flat = torch.cat([*(tensor.reshape(-1).to(dtype) for tensor in tensors), asked])
        self._together(lambda: dist.all_reduce(flat, group=self._group))
        self.stop_requested = bool(flat[-1] > 0)
        parts = (flat[:-1] / self.count).split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes of a tensor on the CPU."""
        total = tensor.clone()
        if self.count > 1:
            self._together(lambda: dist.all_reduce(total, group=self._group))
        return total

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                content = tensor.detach().reshape(-1).contiguous().view(torch.uint8).clone()
                self._together(partial(dist.broadcast, content, 0, group=self._group))
                tensor.copy_(content.view(tensor.dtype).view(tensor.shape))

    def texts(self, text: str) -> list[str]:
        """The text of every process, by rank."""
        if self.count == 1:
            return [text]
        own = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        self._together(lambda: dist.all_gather(lengths, torch.tensor([len(own)]), group=self._group))
        longest = int(max(lengths)) or 1
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        padded = torch.cat([own, own.new_zeros(longest - len(own))])
        self._together(lambda: dist.all_gather(parts, padded, group=self._group))
        return [bytes(p[: int(n)].tolist()).decode() for p, n in zip(parts, lengths, strict=True)]

    def of_first(self, value: Any) -> Any:
        """A plain value as the first process has it: what it decides, all do."""
        return value if self.count == 1 else json.loads(self.texts(json.dumps(value) if self.is_first else "")[0])

    def wait(self) -> None:
        """Wait until all processes are here, however long their work takes."""
        if self.count == 1:
            return
        options = dist.AllreduceOptions()
        options.timeout = PATIENCE
        self._together(lambda: self._group.allreduce([torch.zeros(1)], options).wait())

    def say_end(self, message: str) -> None:
        """Tell the others why this process ends; the first such message counts."""
        try:
            self._store.compare_set("end", "", json.dumps([self.rank, message]))
        except RuntimeError:  # the process that keeps the store has ended
            return

    def _together(self, communicate: Callable[[], Any]) -> None:
        try:
            communicate()
        except RuntimeError as error:
            raise self._end_of_another(error) from error

    def _end_of_another(self, error: RuntimeError) -> ProcessError:
        here = f"process {self.rank} of {self.count}"
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            message = f"{here}: another process has not answered in time: it hangs, or waits for what never comes"
            self.say_end(message)
            return ProcessError(
                message
                + try_one_of("what the other processes said last", "the same work in all processes, in the same order")
            )
        deadline = time.monotonic() + _LAST_WORDS
        while time.monotonic() < deadline:
            try:
                if self._store.check(["end"]):
                    rank, message = json.loads(self._store.get("end"))
                    return ProcessError(f"process {rank} of {self.count} ended: {message}")
            except RuntimeError:
                break
            time.sleep(0.05)
        return ProcessError(
            f"{here}: another process ended without a word: it was killed (out of memory, for instance), or its "
            "machine went away"
            + try_one_of("ppvae fit --resume RUN, or the same ppvae evaluate: both go on from what is saved")
        )


_open: ContextVar[Processes | None] = ContextVar("processes", default=None)
_opened = 0


def number_of_processes() -> int:
    """K, the processes of the initialised group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def together(timeout: timedelta | None = None) -> Iterator[Processes]:
    """Inside, the processes of the initialised group work as one: an error in one of them ends all, with its message.

    They communicate in a group of their own, which ends with the context: so a failure is noticed at once, and does not
    disturb what a program itself does with its group. Inside another such context, it is that one.

    Args:
        timeout: how long to wait for the others at a step; None for :data:`TIMEOUT`.

    Raises:
        ProcessError: another process failed, ended, or does not answer.
    """
    global _opened
    outer = _open.get()
    count = number_of_processes()
    if outer is not None or count == 1:
        alone = outer or Processes()
        token = _open.set(alone)
        try:
            yield alone
        finally:
            _open.reset(token)
        return
    _opened += 1
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = dist.distributed_c10d.PrefixStore(f"ppvae/{_opened}", dist.distributed_c10d._get_default_store())
    processes = Processes(dist.get_rank(), count, None, store)
    try:
        processes._group = dist.new_group(timeout=timeout or TIMEOUT, backend=backend)
    except RuntimeError as error:
        raise processes._end_of_another(error) from error
    token = _open.set(processes)
    try:
        yield processes
        processes.wait()
    except ProcessError:
        raise
    except BaseException as error:
        processes.say_end(str(error) or type(error).__name__)
        raise
    finally:
        _open.reset(token)
        dist.destroy_process_group(processes._group)


def join_group() -> Processes:
    """Make the processes that torchrun started a group, each on a GPU of its own where there are GPUs.

    Raises:
        PpvaeError: fewer GPUs than processes on this machine.
        ProcessError: the others did not come.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or any(name not in os.environ for name in _LAUNCHED):
        return Processes()
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise PpvaeError(
                f"process {local} of this machine has no GPU of its own: PyTorch sees {gpus}"
                + try_one_of(f"torchrun --nproc-per-node {gpus}", "CUDA_VISIBLE_DEVICES= for processes on CPUs")
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        raise ProcessError(
            f"the processes did not find each other: {error}"
            + try_one_of("torchrun with the same --rdzv-endpoint and --rdzv-id on every machine")
        ) from error
    return Processes(dist.get_rank(), dist.get_world_size())


def leave_group() -> None:
    """End the group, where there is one: the first process, which keeps what was said, leaves after the others."""
    if (count := number_of_processes()) > 1:
        with suppress(RuntimeError, ValueError):  # the first has died
            store, end = dist.distributed_c10d._get_default_store(), time.monotonic() + _LAST_WORDS
            left = store.add("ppvae/left", 1)
            while dist.get_rank() == 0 and left < count and time.monotonic() < end:
                time.sleep(0.01)
                left = store.add("ppvae/left", 0)
        dist.destroy_process_group()


def says_first(text: str) -> bool:
    """Whether no other process of the group has said this, so that a message of all of them is said once."""
    try:
        store = dist.distributed_c10d._get_default_store()
        mine = str(dist.get_rank())
        return bool(store.compare_set(f"ppvae/said/{text}", "", mine) == mine.encode())
    except (RuntimeError, ValueError):
        return True
