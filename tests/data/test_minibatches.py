"""Minibatches: seeded permutations, one shape, resumed bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import Dataset, Minibatches, chunks

ROWS = Dataset(torch.arange(10.0)[:, None], name="rows")


def test_an_epoch_draws_without_replacement_in_batches_of_one_shape() -> None:
    batches = Minibatches(ROWS, 3, seed=2)
    assert len(batches) == 3
    for epoch in range(5):
        assert batches.epoch == epoch
        index = list(batches.indices())
        assert [tuple(i.shape) for i in index] == [(3,)] * 3
        assert len(set(torch.cat(index).tolist())) == 9


def test_every_row_is_left_out_equally_often() -> None:
    batches, epochs = Minibatches(ROWS, 4), 3000
    seen = torch.zeros(10)
    for _ in range(epochs):
        seen[torch.cat(list(batches.indices()))] += 1
    expected = 8 / 10
    standard_error = (expected * (1 - expected) / epochs) ** 0.5
    assert ((seen / epochs - expected).abs() < 4.5 * standard_error).all()


@given(calls=st.lists(st.sampled_from(["rows", "index", "state", "resume"]), max_size=30), dynamic=st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_is_read_ahead_is_what_would_be_read(calls: list[str], dynamic: bool) -> None:
    space, kind = ("unit", "dynamic") if dynamic else ("real", "none")
    data = Dataset(torch.rand(10, 3), value_space=space, binarization=kind)  # type: ignore[arg-type]
    plain, ahead = (Minibatches(one, 4, seed=7) for one in (data, replace(data, memory_mapped=True)))
    for call in calls:
        if call == "rows":
            (index, batch), (found, rows) = plain.next_rows(), ahead.next_rows()
            assert torch.equal(found, index) and torch.equal(rows, batch)  # type: ignore[arg-type]
        elif call == "index":
            assert torch.equal(ahead.next_index(), plain.next_index())
        elif call == "state":
            one, other = plain.state_dict(), ahead.state_dict()
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)
        else:
            resumed = Minibatches(ahead.data, 4, seed=0)
            resumed.load_state_dict(ahead.state_dict())
            ahead = resumed


def test_a_batch_of_all_rows_has_them_in_order() -> None:
    """Row i of a parameter for every datum belongs to datum i."""
    batches = Minibatches(ROWS, 10, seed=2)
    assert [index.tolist() for _ in range(3) for index in batches.indices()] == [list(range(10))] * 3


def test_groups_have_batches_of_their_own_spread_over_the_epoch() -> None:
    data, groups = Dataset(torch.arange(24.0)[:, None]), torch.tensor([7] * 5 + [3] * 19)
    batches = Minibatches(data, 2, seed=4, groups=groups)
    left_out = torch.zeros(24)
    for _ in range(40):
        index = list(batches.indices())
        assert len(index) == len(batches) == 2 + 9
        of_batches = [groups[i].unique().tolist() for i in index]
        assert [at for at, several in enumerate(of_batches) if several == [7]] == [2, 8]  # of 11
        assert all(len(several) == 1 for several in of_batches)
        rows = torch.cat(index)
        assert len(set(rows.tolist())) == 22
        left_out += 1 - torch.zeros(24).index_add(0, rows, torch.ones(22))
    assert bool((left_out > 0).float().mean() > 0.6)  # another row each epoch
    resumed = Minibatches(data, 2, seed=0, groups=groups)
    batches.next_index()
    resumed.load_state_dict(batches.state_dict())
    assert torch.equal(resumed.next_index(), batches.next_index())


@pytest.mark.parametrize(
    ("groups", "batch_size", "message"),
    [
        (torch.zeros(9), 2, r"groups: expected a number for each of 10 rows, found torch.Size\(\[9\]\)"),
        (torch.arange(10) % 3, 4, r"group 1 has 3 rows, fewer than batch_size 4"),
        (torch.arange(10) % 2, None, r"group 0 has 5 rows, fewer than all data at every step"),
    ],
)
def test_groups_that_do_not_fit(groups: Tensor, batch_size: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Minibatches(ROWS, batch_size, groups=groups)


def test_the_order_depends_on_the_seed_only() -> None:
    def order(seed: int) -> list[int]:
        return torch.cat(list(Minibatches(ROWS, 5, seed=seed).indices())).tolist()

    torch.manual_seed(7)
    first = order(1)
    torch.rand(3)
    before = torch.get_rng_state()
    assert order(1) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert order(2) != first
    batches = Minibatches(ROWS, 5, seed=1)
    epochs = [torch.cat(list(batches.indices())).tolist() for _ in range(2)]
    assert epochs[0] == first
    assert epochs[0] != epochs[1]


def test_the_full_batch_keeps_the_natural_order() -> None:
    batches = Minibatches(ROWS)
    assert len(batches) == 1
    for _ in range(2):
        (batch,) = list(batches)
        assert isinstance(batch, Tensor)
        assert torch.equal(batch, ROWS.x)  # type: ignore[arg-type]
    assert batches.epoch == 2


def test_iterating_goes_on_within_an_epoch_that_was_begun() -> None:
    batches = Minibatches(ROWS, 2, seed=0)
    begun = [batches.next_index() for _ in range(2)]
    rest = list(batches.indices())
    assert sorted(torch.cat(begun + rest).tolist()) == list(range(10))


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, 13), batch_size=st.sampled_from([None, 1, 3, 4, 10]), dynamic=st.booleans())
def test_a_resumed_run_sees_the_batches_of_the_uninterrupted_one(
    step: int, batch_size: int | None, dynamic: bool
) -> None:
    data = Dataset(
        torch.linspace(0.05, 0.95, 10)[:, None].expand(10, 6),
        value_space="unit",
        binarization="dynamic" if dynamic else "none",
    )
    uninterrupted = Minibatches(data, batch_size, seed=5)
    for _ in range(step):
        uninterrupted.next_batch()
    state = uninterrupted.state_dict()
    numbers = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
    stored = json.loads(json.dumps(numbers)) | {k: v.clone() for k, v in state.items() if isinstance(v, Tensor)}
    expected = [uninterrupted.next_batch() for _ in range(12)]
    resumed = Minibatches(data, batch_size, seed=99)
    resumed.next_batch()
    resumed.load_state_dict(stored)
    assert (resumed.epoch, resumed.position) == (state["epoch"], state["position"])
    for batch in expected:
        assert torch.equal(resumed.next_batch(), batch)  # type: ignore[arg-type]
    assert resumed.epoch == uninterrupted.epoch


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    batches = Minibatches(ROWS, 4, seed=1)
    batches.next_index()
    good = batches.state_dict()
    cases: list[tuple[dict[str, Tensor | int], str]] = [
        (good | {"num_data": 11}, r"saved minibatches have 11 rows, these 10"),
        (good | {"batch_size": 5}, r"have 5 rows per batch"),
        (good | {"position": 2}, "position 2 of 2"),
        (good | {"order": torch.arange(3)}, "order of 3 rows"),
        (good | {"generator": torch.zeros(3, dtype=torch.uint8)}, "generator does not fit the device cpu"),
        ({k: v for k, v in good.items() if k != "order"}, "lacks order"),
    ]
    for state, message in cases:
        with pytest.raises(DataError, match=message):
            batches.load_state_dict(state)
    after = batches.state_dict()
    assert all(torch.equal(torch.as_tensor(after[k]), torch.as_tensor(good[k])) for k in good)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (11, r"rows: batch_size 11 is larger than the data, which has 10 rows"),
        (0, "found 0"),
        (-1, "at least 1"),
    ],
)
def test_batch_sizes_that_do_not_fit(size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Minibatches(ROWS, size)


@given(n=st.integers(1, 300), limit=st.integers(1, 310))
def test_chunks_cover_all_rows_once_in_order_with_one_shape(n: int, limit: int) -> None:
    found = list(chunks(n, limit))
    assert torch.cat([index[:valid] for index, valid in found]).tolist() == list(range(n))
    assert len({len(index) for index, _ in found}) == 1
    assert len(found[0][0]) <= limit
    assert len(found) == -(-n // limit)
    assert sum(len(index) for index, _ in found) - n < len(found)
    assert (found[-1][0][found[-1][1] :] == n - 1).all()


def test_chunks_of_nothing() -> None:
    with pytest.raises(DataError, match="0 rows"):
        list(chunks(0, 3))
