"""Dataset: from stored values to what a model sees."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import Dataset, random_rows

BYTES = torch.tensor([[0, 51], [102, 255], [204, 153]], dtype=torch.uint8)


def test_bytes_become_unit_values_when_a_batch_is_gathered() -> None:
    data = Dataset(BYTES, value_space="byte")
    batch = data.batch(torch.tensor([2, 0]))
    assert isinstance(batch, Tensor)
    assert batch.dtype == torch.get_default_dtype()
    torch.testing.assert_close(batch, torch.tensor([[0.8, 0.6], [0.0, 0.2]]))
    assert data.value_space == "byte"
    assert data.batch_space == "unit"


def test_the_default_dtype_at_the_time_of_the_batch_counts(float64: torch.dtype) -> None:
    data = Dataset(torch.tensor([[0.25]], dtype=torch.float32), value_space="unit")
    batch, everything = data.batch(torch.tensor([0])), data.tensor()
    assert isinstance(batch, Tensor)
    assert isinstance(everything, Tensor)
    assert batch.dtype == everything.dtype == float64


def test_dynamic_binarisation_draws_anew_with_the_grey_value_as_probability() -> None:
    probability = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0])
    data = Dataset(probability.expand(4000, 5), value_space="unit", binarization="dynamic")
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(4000)
    first, second = data.batch(index, generator), data.batch(index, generator)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert data.batch_space == "binary"
    assert not torch.equal(first, second)
    standard_error = (probability * (1 - probability) / 4000).sqrt()
    assert ((first.mean(0) - probability).abs() <= 4.5 * standard_error).all()
    # two draws of one row are independent: P(both 1) = p^2, not p
    both, p2 = (first * second).mean(0), probability**2
    assert ((both - p2).abs() <= 4.5 * (p2 * (1 - p2) / 4000).sqrt()).all()


def test_dynamic_binarisation_is_repeatable_from_its_generator() -> None:
    data = Dataset(torch.rand(50, 7), value_space="unit", binarization="dynamic")
    index = torch.arange(50)
    draws = [data.batch(index, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert isinstance(draws[0], Tensor)
    assert torch.equal(draws[0], draws[1])  # type: ignore[arg-type]
    assert not torch.equal(draws[0], draws[2])  # type: ignore[arg-type]


def test_a_mapping_is_gathered_member_by_member_and_covariates_keep_their_integers() -> None:
    data = Dataset(
        {"x": BYTES, "label": torch.tensor([4, 5, 6]), "weight": torch.ones(3, dtype=torch.float64)},
        value_space="byte",
    )
    batch = data.batch(torch.tensor([1]))
    assert isinstance(batch, dict)
    torch.testing.assert_close(batch["x"], torch.tensor([[0.4, 1.0]]))
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [5]
    assert batch["weight"].dtype == torch.get_default_dtype()
    assert data.event_shape == (2,)
    assert len(data) == 3


def test_it_is_its_training_part_and_take_keeps_the_held_out_parts() -> None:
    validation = Dataset(torch.zeros(5, 2), name="v")
    data = Dataset(torch.arange(20.0).reshape(10, 2), labels=torch.arange(10), validation=validation)
    assert data.train is data
    assert data.test is None
    assert list(data.parts) == ["train", "validation"]
    few = data.take(3)
    assert len(few) == 3
    assert few.labels is not None
    assert few.labels.tolist() == [0, 1, 2]
    assert few.validation is validation
    with pytest.raises(DataError, match=r"cannot take 11 rows of 10"):
        data.take(11)
    with pytest.raises(FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]


def test_an_index_takes_rows_with_all_that_belongs_to_them() -> None:
    test = Dataset(torch.zeros(3, 1))
    data = Dataset({"x": torch.arange(10.0), "z": torch.arange(10)}, labels=torch.arange(10) % 2, test=test)
    few = data.take(torch.tensor([7, 2]))
    assert few.members["x"].tolist() == [7.0, 2.0] and few.members["z"].tolist() == [7, 2]
    assert few.labels is not None and few.labels.tolist() == [1, 0] and few.test is test
    for wrong in ([], [10], [-1]):
        with pytest.raises(DataError, match=r"expected an index of rows 0 to 9, found \["):
            data.take(torch.tensor(wrong, dtype=torch.int64))


def test_random_rows_stand_for_all_where_the_first_do_not() -> None:
    values = torch.arange(10_000.0)  # sorted, as files by class are
    index = random_rows(len(values), 1000)
    assert abs(float(values[index].mean() - values.mean())) < 4 * float(values.std()) / 1000**0.5
    assert len(set(index.tolist())) == 1000 and index.tolist() == sorted(index.tolist())
    assert set(random_rows(10_000, 100).tolist()) < set(index.tolist())
    assert set(random_rows(10_000, 1000, seed=1).tolist()) != set(index.tolist())
    assert random_rows(5, 7).tolist() == [0, 1, 2, 3, 4]


def test_feature_names_go_with_the_data() -> None:
    data = Dataset(torch.rand(5, 2), value_space="unit", binarization="dynamic", feature_names=("a", "b"))
    for other in (data, data.take(2), data.to("cpu"), data.binarize(0)):
        assert other.feature_names == ("a", "b")
    assert data.fingerprint() == replace(data, feature_names=None).fingerprint()
    assert Dataset({"x": torch.zeros(4, 3, 2), "lengths": torch.zeros(4)}, feature_names=("a", "b")).main == "x"


def test_to_moves_every_part() -> None:
    data = Dataset(
        {"x": torch.zeros(2, 1), "m": torch.zeros(2)},
        labels=torch.zeros(2),
        validation=Dataset(torch.zeros(1, 1)),
        test=Dataset(torch.zeros(1, 1)),
    ).to("meta")
    assert data.labels is not None
    assert {str(part.device) for part in data.parts.values()} == {"meta"}
    assert {str(member.device) for member in [*data.members.values(), data.labels]} == {"meta"}


def test_the_fingerprint_sees_content_dtype_shape_labels_and_space() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    changed = x.clone()
    changed[2, 1] += 1e-6
    variants = [
        Dataset(x),
        Dataset(changed),
        Dataset(x.double()),
        Dataset(x.reshape(3, 1, 2)),
        Dataset(x, labels=torch.arange(3)),
        Dataset(x, value_space="count"),
        Dataset({"y": x}),
        Dataset(x.bfloat16()),
    ]
    prints = [variant.fingerprint() for variant in variants]
    assert len(set(prints)) == len(prints)
    assert all(len(found) == 64 for found in prints)
    # not in it: the name, the memory layout, the held-out parts
    transposed = x.t().contiguous().t()
    same = Dataset(transposed, name="other", validation=Dataset(x))
    assert same.fingerprint() == prints[0]


def test_the_line_that_describes_it() -> None:
    data = Dataset(
        torch.rand(3, 4),
        name="three",
        value_space="unit",
        binarization="dynamic",
        test=Dataset(torch.rand(2, 4)),
    )
    assert repr(data) == "Dataset('three', 3 x (4,) unit, dynamic binarisation, test=2)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(0, 3)}, r"empty data.*\(0, 3\)"),
        ({"x": torch.zeros(3, 0)}, r"empty data.*\(3, 0\)"),
        ({"x": {}}, "an empty mapping"),
        ({"x": {"x": torch.zeros(3, 1), "mask": torch.zeros(2, 1)}}, r"share axis 0.*'x': 3, 'mask': 2"),
        ({"x": torch.zeros(3, 1), "labels": torch.zeros(2)}, r"share axis 0.*'labels': 2"),
        ({"x": torch.zeros(3, 1), "feature_names": ("a", "b")}, r"2 feature_names for data of event shape \(1,\)"),
        ({"x": torch.zeros(3, 1), "value_space": "bytes"}, "did you mean 'byte'"),
        ({"x": torch.zeros(3, 1), "binarization": "dinamic"}, "did you mean 'dynamic'"),
        ({"x": torch.zeros(3, 1), "binarization": "dynamic"}, r"found real values"),
    ],
)
def test_what_cannot_be_a_dataset(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(**arguments)  # type: ignore[arg-type]


def test_power_of_the_binarisation_check() -> None:
    """The tolerance above would notice a threshold in place of a draw."""
    probability = torch.tensor([0.1, 0.5, 0.8])
    thresholded = (probability > 0.5).float()
    assert ((thresholded - probability).abs() > 4.5 * math.sqrt(0.25 / 4000)).any()
