"""as_dataset: what is converted, what is said, what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import Dataset, as_dataset


def tensor_of(data: object) -> Tensor:
    found = as_dataset(data).tensor()
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(
    ("values", "space"),
    [
        (torch.tensor([[0.0, 1.0]]), "binary"),
        (torch.tensor([[0.0, 0.5]]), "unit"),
        (torch.tensor([[0.0, 1.5]]), "real"),
        (torch.tensor([[-0.1, 0.5]]), "real"),
        (torch.tensor([[0, 200]], dtype=torch.uint8), "byte"),
        (torch.tensor([[0, 1]], dtype=torch.uint8), "binary"),
        (torch.tensor([[0, 1]]), "binary"),
        (torch.tensor([[0, 7]]), "count"),
        (torch.tensor([[-1, 7]]), "real"),
        (torch.tensor([[True, False]]), "binary"),
        (np.array([[0.25]], dtype=np.float32), "unit"),
        (np.array([[3]], dtype=np.uint16), "count"),
        (np.array([[0.25]], dtype=">f4"), "unit"),
    ],
)
def test_the_space_is_found_and_the_values_are_kept(values: Tensor | np.ndarray, space: str) -> None:
    data = as_dataset(values)
    assert data.value_space == space
    expected = np.asarray(values, dtype=np.float64) / (255 if space == "byte" else 1)
    np.testing.assert_allclose(tensor_of(values).numpy(), expected, rtol=1e-6)


def test_a_dataset_passes_through() -> None:
    data = Dataset(torch.zeros(1, 1))
    assert as_dataset(data) is data


def test_float32_shares_memory_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.rand(3, 2)
    with caplog.at_level(logging.INFO, "ppvae.data"):
        assert tensor_of(x).data_ptr() == x.data_ptr()
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.random.RandomState(0).randn(4, 3), "torch.float64 to torch.float32"),
        (torch.randn(4, 3, dtype=torch.float64), "torch.float64 to torch.float32"),
        (torch.tensor([[0, 9]], dtype=torch.uint8), "divided by 255"),
        (torch.tensor([[0, 9]]), "read as count data"),
        ({"x": torch.tensor([[0, 9]], dtype=torch.uint8), "label": torch.tensor([3])}, "divided by 255"),
    ],
)
def test_a_conversion_is_said_in_one_line(values: object, said: str, caplog: pytest.LogCaptureFixture) -> None:
    ready = as_dataset(values).tensor()
    assert (ready["x"] if isinstance(ready, dict) else ready).dtype == torch.float32
    assert [said in record.getMessage() for record in caplog.records] == [True]


def test_rounding_that_moves_the_data_is_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    fine = torch.randn(50, 2, dtype=torch.float64)
    as_dataset(fine)
    assert "values move" not in caplog.text
    fine[:, 1] = 1e5 + 0.01 * fine[:, 1]
    as_dataset(fine)
    assert "torch.float32 values move by up to 0.0039 where their standard deviation is 0.0" in caplog.text


def test_float64_stays_where_it_is_the_default(float64: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(2, 2, dtype=torch.float64)
    assert torch.equal(tensor_of(x), x)
    assert not caplog.records


def test_arrays_that_torch_cannot_share_are_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    array.flags.writeable = False
    np.testing.assert_array_equal(tensor_of(array).numpy(), array)
    np.testing.assert_array_equal(tensor_of(array[::-1]).numpy(), array[::-1])


def test_a_mapping_becomes_one_dataset() -> None:
    data = as_dataset({"x": np.ones((3, 2)), "mask": torch.tensor([True, False, True])})
    assert data.value_space == "binary"
    assert data.members["x"].dtype == torch.float32
    assert data.members["mask"].dtype == torch.bool


def test_the_shape_of_a_picture_is_kept() -> None:
    assert as_dataset(torch.zeros(2, 4, 5)).image_shape == (4, 5)
    assert as_dataset(torch.zeros(2, 1, 4, 5)).image_shape == (4, 5)
    assert as_dataset(torch.zeros(2, 20)).image_shape is None


def test_nan_and_infinity_are_counted_and_placed() -> None:
    x = torch.zeros(10, 4)
    x[3, 2], x[7, 0], x[7, 1] = float("nan"), float("inf"), -float("inf")
    message = r"3 of 40 values are not finite \(1 NaN, 2 infinite\); the first is nan at \[3, 2\]"
    with pytest.raises(DataError, match=message):
        as_dataset(x)
    with pytest.raises(DataError, match=r"data\['mask'\]: 1 of 2"):
        as_dataset({"x": torch.zeros(2, 1), "mask": torch.tensor([1.0, float("nan")])})


def test_rows_that_a_mask_of_their_name_says_are_missing_are_no_error() -> None:
    x = torch.tensor([[1.0, 2.0], [float("nan"), 3.0], [4.0, 5.0]])
    there = torch.tensor([True, False, True])
    found = as_dataset({"y": torch.ones(3, 2), "x": x, "has_x": there}).members["x"]
    assert torch.equal(found, x.nan_to_num(0.0))
    for other in ({"mask": there}, {"has_x": ~there}):
        with pytest.raises(DataError, match=r"data\['x'\]: 1 of 6 values are not finite"):
            as_dataset({"y": torch.ones(3, 2), "x": x, **other})


def test_values_beyond_float32_are_not_turned_into_infinity() -> None:
    with pytest.raises(DataError, match=r"beyond the range of torch.float32.*inf at \[0, 1\]"):
        as_dataset(np.array([[1.0, 1e300]]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(5), r"1-D vector of shape \(5,\)[\s\S]*x\[None\][\s\S]*x\[:, None\]"),
        (np.zeros(5), r"1-D vector"),
        (torch.tensor(1.0), "a single number"),
        (torch.zeros(0, 4), r"empty data, shape \(0, 4\)"),
        (torch.zeros(4, 0), r"empty data, shape \(4, 0\)"),
        ({}, "an empty mapping"),
        ({"x": torch.zeros(3, 1), "y": torch.zeros(4, 1)}, r"'x': 3, 'y': 4"),
        (np.array([[1, None]], dtype=object), "dtype object"),
        (np.array([["a"]]), "dtype <U1"),
        (np.array([[1j]]), "complex"),
        (torch.tensor([[1j]]), "complex"),
        (object(), r"found builtins.object[\s\S]*torch.as_tensor"),
        ("digits", r"found builtins.str[\s\S]*ppvae.data.load"),
        (None, "NoneType"),
        (torch.eye(2).to_sparse(), r"sparse[\s\S]*to_dense"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "beyond the range of int64"),
    ],
)
def test_what_is_refused(bad: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_dataset(bad)
