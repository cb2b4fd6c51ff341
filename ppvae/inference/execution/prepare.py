"""What stands before any method: data made ready, the pair checked, global sites held, memory measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .placement import Compile, choose_device, choose_mode, dtype_of
from .readiness import check_all
from .run import Run, model_ready, take, to
from ...core import Data, ModelGuidePair
from ...core.conditioning import held


def prepare(
    pair: ModelGuidePair,
    data: Any,
    seed: int,
    device: str | torch.device,
    compile: Compile,
    memory_budget: int,
    global_sites: Mapping[str, Tensor] | str | None,
) -> tuple[Run, Data]:
    """The run, and all data as the model sees them; arguments as for :func:`~.log_evidence.log_evidence`."""
    choose_mode(compile, 1)
    target, dtype = choose_device(device), dtype_of(pair)
    x = model_ready(data, dtype, seed)
    home = next((parameter.device for parameter in pair.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        here = to(x, home)
        whole = check_all(pair, here)
        few = here if whole else take(here, 4)
        fixed = held(pair, few, global_sites)
    run = Run(pair, fixed, device=target, dtype=dtype, compile=compile, memory_budget=memory_budget)
    run.whole = whole
    run.measure(few)
    return run, x
