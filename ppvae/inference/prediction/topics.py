"""What each latent dimension of a model of counts says, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .predictive import decode
from ..execution.arguments import choose_name, require_integer
from ..execution.over_data import rows_like
from ...core import ModelGuidePair, PairError, structure
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...data import as_dataset


@dataclass(frozen=True, eq=False, repr=False)
class Topics:
    """The words that each latent dimension makes likelier, the most first.

    Attributes:
        words: [K][n], names, or numbers as text where the data have no names.
        index: which columns of the data they are, [K, n], int64.
        log_ratio: by how much the logarithm of their probability rises, [K, n], in nats.
    """

    words: tuple[tuple[str, ...], ...]
    index: Tensor
    log_ratio: Tensor

    def __repr__(self) -> str:
        return "\n".join(f"{number}: {' '.join(row)}" for number, row in enumerate(self.words))


@in_evaluation_mode
def topics(
    pair: ModelGuidePair,
    *,
    like: Any,
    num_words: int = 10,
    words: Sequence[str] | None = None,
    site: str | None = None,
    device: str = "auto",
) -> Topics:
    r"""The words whose probability rises most as a latent dimension goes from 0 to 1, the others at 0.

    $$\log p(v \mid z = e_k) - \log p(v \mid z = 0),\qquad p(v \mid z) = \mathrm{E}[x_v \mid z] / \textstyle\sum_u
      \mathrm{E}[x_u \mid z]$$

    Where the logits are linear in z or in its softmax, as in :func:`ppvae.models.topic_model`, this is the order of the
    decoder's weights, by which the topics of published models are listed; elsewhere it depends on the step of 1.

    Args:
        pair: a pair of one latent site [K] whose data have positive means, such as counts.
        like: data of the right shape; the first row is taken for its total, its exposure and its covariates.
        num_words: n, at most.
        words: a name for each entry of a datum; None for the data's ``feature_names``, or numbers.
        site: an observed site; None where there is one.
        device: "auto", "cpu", "cuda".

    Raises:
        PairError: several latent sites, one of several axes, means that are negative, or names of another number.
        PpvaeError: num_words below 1.
    """
    dataset = as_dataset(like)
    row = rows_like(dataset, 1, pair)
    latents = {info.name: info.shape for info in structure(pair, row.x).local_latents}
    shape = latents[choose_name(list(latents), None, "local latent site")]
    if len(shape) != 1:
        raise PairError(f"topics: expected one latent site [K], found {list(shape)}")
    z = torch.cat([torch.zeros(1, *shape), torch.eye(*shape)])
    # The same data for each, so that totals and covariates cancel.
    mean = decode(pair, z, like=row, site=site, device=device, compile="eager").flatten(1).double()
    if bool((mean < 0).any()) or not bool((mean.sum(1) > 0).all()):
        raise PairError(
            "topics: expected means that are not negative and not all 0, as counts have, found "
            f"{mean.min():g} to {mean.max():g}" + try_one_of("like= data whose first row is not empty")
        )
    size = mean.shape[1]
    require_integer("num_words", num_words, 1)
    names = dataset.feature_names if words is None else tuple(words)
    if names is None:
        names = tuple(str(v) for v in range(size))
    if len(names) != size:
        raise PairError(f"topics: expected {size} words, one for each entry of a datum, found {len(names)}")
    log_share = (mean / mean.sum(1, keepdim=True)).clamp_min(torch.finfo(mean.dtype).tiny).log()
    found = (log_share[1:] - log_share[0]).topk(min(num_words, size))
    told = tuple(tuple(names[v] for v in of_topic) for of_topic in found.indices.tolist())
    return Topics(told, found.indices, found.values)
