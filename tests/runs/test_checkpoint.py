"""Checkpoints: the same bits back, and damage found."""

from __future__ import annotations

import logging
import math
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppvae.core import RunError
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.atomic import plain, read_json, write_bytes, write_json

STATE: dict[str, Any] = {
    "pair": {"a.weight": torch.randn(3, 2), "b": torch.tensor(float("nan"))},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "flag": torch.tensor([True])}}, "betas": (0.9, 0.999)},
    "random": torch.arange(7, dtype=torch.uint8),
    "empty": torch.empty(0, dtype=torch.int64),
    "best": -math.inf,
    "nan": math.nan,
    "tenth": 0.1,
    "milestones": Counter({2: 1, 4: 2}),
    "none": None,
    "rows": [{"epoch": 1, "elbo": -1.5}],
    "$odd": {"$tensor": 1, "x": []},
}


def stored(folder: Path, step: int = 12) -> Path:
    checkpoint.save(folder, "last", step, STATE, {"epoch": 1})
    return folder / f"last-{step:08d}.sha256"


def test_the_same_bits_come_back(tmp_path: Path) -> None:
    stored(tmp_path / "deep" / "checkpoints")
    state, about = checkpoint.load(tmp_path / "deep" / "checkpoints")
    nan = state.pop("nan")
    assert math.isnan(nan)
    assert checkpoint.same(state, {key: value for key, value in STATE.items() if key != "nan"})
    assert about == {"epoch": 1}
    assert isinstance(state["milestones"], Counter)
    assert isinstance(state["optimizer"]["betas"], tuple)


def test_same_sees_a_single_bit() -> None:
    a = {"x": torch.tensor([1.0, 0.0])}
    assert checkpoint.same(a, {"x": torch.tensor([1.0, 0.0])})
    assert not checkpoint.same(a, {"x": torch.tensor([1.0, -0.0])})
    assert not checkpoint.same(a, {"x": torch.tensor([1.0, 0.0], dtype=torch.float64)})
    assert not checkpoint.same([1, 2], [1])


def test_two_are_kept_and_the_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        stored(tmp_path, step)
    assert [record.name for record in checkpoint.find_records(tmp_path, "last")] == [
        "last-00000100.sha256",
        "last-00000010.sha256",
    ]
    assert len(list(tmp_path.iterdir())) == 6
    done = subprocess.run(["sha256sum", "-c", "last-00000100.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ending", [".safetensors", ".json", ".sha256"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_found_and_the_one_before_is_used(
    tmp_path: Path, ending: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored(tmp_path, 1)
    path = stored(tmp_path, 2).with_suffix(ending)
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        if harm == "flip":
            content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        state, _ = checkpoint.load(tmp_path)
    assert checkpoint.same(state["pair"], STATE["pair"])
    if (ending, harm) != (".sha256", "remove"):  # without its record it does not count at all
        assert "falling back to last-00000001" in caplog.text
        with pytest.raises(RunError, match=r"damaged|cannot be read"):
            checkpoint.read(tmp_path / "last-00000002.sha256")


def test_all_damaged_or_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no checkpoint of the kind 'last'"):
        checkpoint.load(tmp_path)
    stored(tmp_path).with_suffix(".json").write_text("{}")
    with pytest.raises(RunError, match=r"last-00000012\.json: damaged"):
        checkpoint.load(tmp_path)


def test_a_crash_between_the_files_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path, 1)
    for allowed in range(3):  # the files of checkpoint 2 that are written before the crash
        count = 0

        def crash(path: Path, content: bytes, allowed: int = allowed) -> None:
            nonlocal count
            if count == allowed:
                raise KeyboardInterrupt
            count += 1
            write_bytes(path, content)

        monkeypatch.setattr(checkpoint, "write_bytes", crash)
        with pytest.raises(KeyboardInterrupt):
            stored(tmp_path, 2)
        state, _ = checkpoint.load(tmp_path)
        assert checkpoint.same(state["pair"], STATE["pair"])
        assert checkpoint.find_records(tmp_path, "last")[0].name == "last-00000001.sha256"


def test_a_later_format_and_a_forgery_are_refused(tmp_path: Path) -> None:
    record = stored(tmp_path)
    json_path = record.with_suffix(".json")
    for text, message in (
        (json_path.read_text().replace('"version": 1', '"version": 99'), "later version"),
        ('{"format": "ppvae-checkpoint", "version": 1, "about": {}, "values": [1]}', "no table"),
        ('{"format": "ppvae-checkpoint", "version": 1, "about": {}, "values": {"$tensor": "zz"}}', "not a checkpoint"),
        ("[]", "not a checkpoint"),
    ):
        json_path.write_text(text)
        digest = [
            f"{checkpoint.sha256(p.read_bytes())}  {p.name}\n" for p in (json_path, record.with_suffix(".safetensors"))
        ]
        record.write_text("".join(digest))
        with pytest.raises(RunError, match=message):
            checkpoint.read(record)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_bytes_are_an_error(tmp_path: Path, data: st.DataObject) -> None:
    record = stored(tmp_path)
    path = record.with_suffix(data.draw(st.sampled_from([".safetensors", ".json", ".sha256"])))
    content = path.read_bytes()
    changed = data.draw(st.binary(max_size=300))
    path.write_bytes(changed)
    if changed != content:
        with pytest.raises(RunError):
            checkpoint.read(record)


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds a set at 'a\.b'"):
        checkpoint.save(tmp_path, "last", 1, {"a": {"b": {1}}}, {})


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": math.nan, "b": (1, math.inf), 3: path})
    assert read_json(path) == {"a": None, "b": [1, None], "3": str(path)}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(RunError, match=r"cannot be written: No such file"):
        write_bytes(tmp_path / "no" / "x", b"")
    assert plain([(1,)]) == [[1]]
    path.write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        read_json(path)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    path = tmp_path / "x"
    write_bytes(path, b"before")
    full = os.open("/dev/full", os.O_WRONLY)
    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: real(os.dup2(full, descriptor), mode))
    with pytest.raises(RunError, match="No space left"):
        write_bytes(path, b"after")
    os.close(full)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
