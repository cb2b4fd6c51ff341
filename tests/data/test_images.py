"""Folders of images: their pixels, their classes and parts, and what is refused by the name of a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core.bounds import MEMORY_VARIABLE
from ppvae.core.errors import DataError
from ppvae.data import load
from ppvae.data.images import is_folder_of_images

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 4, 5), np.uint8)
COLOURS = np.random.RandomState(1).randint(0, 256, (6, 4, 5, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_grey_images_in_order(tmp_path: Path) -> None:
    for number, pixels in enumerate(PIXELS):
        save(tmp_path / "faces" / f"{number}.png", pixels)
    (tmp_path / "faces" / "README.txt").write_text("not an image")
    (tmp_path / "faces" / ".hidden.png").write_text("nor this")
    data = load(tmp_path / "faces")
    assert (data.name, data.value_space, data.image_shape, data.labels) == ("faces", "unit", (4, 5), None)
    np.testing.assert_allclose(data.members["x"].numpy(), PIXELS.reshape(6, 20) / 255, rtol=1e-6)
    assert load(tmp_path / "faces", flatten=False).event_shape == (1, 4, 5)
    kept = load(f"{tmp_path}/faces/", dtype=torch.uint8)
    assert (kept.name, kept.value_space) == ("faces", "byte")
    np.testing.assert_array_equal(kept.members["x"].numpy(), PIXELS.reshape(6, 20))
    halves = load(tmp_path / "faces", validation=2)
    assert (len(halves), len(halves.parts["validation"])) == (4, 2)


def test_colours_and_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, pixels in enumerate(COLOURS):
        save(tmp_path / ("dog" if number % 2 else "cat") / "more" / f"{number}.png", pixels)
    with caplog.at_level(logging.INFO, "ppvae.data"):
        data = load(tmp_path, flatten=False)
    assert (data.event_shape, data.image_shape) == ((3, 4, 5), (3, 4, 5))
    assert data.labels is not None and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.moveaxis(COLOURS[[0, 2, 4, 1, 3, 5]], 3, 1) / 255
    np.testing.assert_allclose(data.members["x"].numpy(), expected, rtol=1e-6)
    assert any("labels: 0 cat, 1 dog" in record.getMessage() for record in caplog.records)


def test_parts(tmp_path: Path) -> None:
    for number, part in enumerate(["train", "train", "train", "val", "test", "test"]):
        save(tmp_path / part / "a" / f"{number}.png", PIXELS[number])
    data = load(tmp_path)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 3, "validation": 1, "test": 2}
    with pytest.raises(DataError, match="holds its own test rows"):
        load(tmp_path, test=1)
    save(tmp_path / "valid" / "x.png", PIXELS[0])
    with pytest.raises(DataError, match="several folders of validation images: test, train, val, valid"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp", ".gif", ".tiff", ".webp", ".pgm", ".JPEG"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    save(tmp_path / f"a{suffix}", np.full((4, 5), 128, np.uint8))
    values = load(tmp_path).members["x"]
    torch.testing.assert_close(values, torch.full_like(values, 128 / 255), atol=0.02, rtol=0)


def test_kinds_of_pixels(tmp_path: Path) -> None:
    """A palette is colours; an opaque alpha channel holds nothing."""
    image = Image.fromarray(COLOURS[0])
    opaque = image.copy()
    opaque.putalpha(255)
    for name, one in {"a": image, "b": opaque, "c": image.convert("P")}.items():
        one.save(tmp_path / f"{name}.png")
    x = load(tmp_path, flatten=False).members["x"]
    torch.testing.assert_close(x[0], x[1])
    assert x.shape == (3, 3, 4, 5)


def transparent(path: Path) -> None:
    image = Image.fromarray(PIXELS[0])
    image.putalpha(100)
    image.save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: save(folder / "c.png", PIXELS[0].T), "c.png: 5 x 4 grey, where {folder}/a.png is 4 x 5 grey"),
        (lambda folder: save(folder / "c.png", COLOURS[0]), "c.png: 4 x 5 RGB, where {folder}/a.png is 4 x 5 grey"),
        (lambda folder: (folder / "c.png").write_bytes(b"no image"), "c.png: not readable as an image (Unidentified"),
        (lambda folder: (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:60]), "c.png: not readable as"),
        (lambda folder: os.mkfifo(folder / "c.png"), "c.png: a FIFO, not a file"),
        (lambda folder: transparent(folder / "c.png"), "c.png: partly transparent"),
        (lambda folder: save(folder / "c.png", PIXELS[0].astype(np.uint16)), "c.png: an image of the kind 'I;16'"),
        (lambda folder: save(folder / "in" / "c.png", PIXELS[0]), "some images stand in folders, whose names would be"),
        (lambda folder: (folder / "recipe.toml").touch(), "a folder, not a file, and not one of images"),
    ],
)
def test_what_is_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        save(tmp_path / f"{name}.png", PIXELS[number])
    spoil(tmp_path)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message.format(folder=tmp_path) in str(error.value)


def test_the_memory_is_asked_before_an_image_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png", np.zeros((2000, 2000), np.uint8))
    monkeypatch.setenv(MEMORY_VARIABLE, "10MB")
    monkeypatch.setattr("ppvae.data.images._pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"declares an array of 2 x 2000 x 2000 uint8, 8.0 MB: the limit is 2.5 MB"):
        load(tmp_path)


def test_fit_takes_a_folder(tmp_path: Path) -> None:
    """And a run folder, which has figures in it, is still its recipe."""
    for number in range(40):
        save(tmp_path / "faces" / f"{number:02}.png", np.roll(PIXELS[0], number))
    words = ["--epochs", "1", "--set", "model.hidden=[4]", "--set", "training.compile=eager", "--batch-size", "10"]
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["fit", f"{tmp_path}/faces/", *words, "--out", str(run)])
    assert result.exit_code == 0, result.output
    assert f'source = "{tmp_path}/faces"' in (run / "recipe.toml").read_text()
    save(run / "figures" / "page.png", PIXELS[0])
    assert not is_folder_of_images(run)
    result = CliRunner().invoke(app, ["fit", str(run), "--seed", "1", "--out", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert f'source = "{tmp_path}/faces"' in (tmp_path / "again" / "recipe.toml").read_text()
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["fit", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "third")])
    assert "empty: a folder, not a file, and not one of images" in result.stderr
