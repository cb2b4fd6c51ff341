"""The faults that `make faults` puts in: each is one change of what computes, and its lists name what exists."""

from __future__ import annotations

import tomllib
from pathlib import Path

from faults.mutations import mutations, sample

HERE = Path(__file__).parent
SOURCE = '''"""Not 1 + 1."""
def bound(log_w, weight=0.5):
    """Nor this: 2 * 3."""
    if log_w.dim() < 1:
        raise ValueError(f"expected {1 + 1}")
    return weight * log_w.detach().logsumexp(0) - 1
'''


def test_faults_are_single_changes_of_what_computes() -> None:
    found = mutations(SOURCE)
    after = [m.after.removeprefix("return ") for m in found if m.line == 6]
    assert {
        "weight / log_w.detach().logsumexp(0) - 1",
        "weight * log_w.detach().logsumexp(0) + 1",
        "(weight * log_w.detach().logsumexp(0))",
        "(log_w.detach().logsumexp(0)) - 1",
        "weight * (log_w).logsumexp(0) - 1",
        "weight * log_w.detach().sum(0) - 1",
        "weight * log_w.detach().logsumexp(1) - 1",
        "weight * log_w.detach().logsumexp(0) - 2",
    } <= set(after)
    assert {m.line for m in found} == {2, 4, 6}
    for m in found:
        mutant = m.applied(SOURCE)
        assert sum(a != b for a, b in zip(mutant.splitlines(), SOURCE.splitlines(), strict=True)) == 1
        compile(mutant, "mutant", "exec")


def test_a_sample_does_not_move_with_other_lines() -> None:
    chosen = [m.after for m in sample(SOURCE, 3, "0")]
    assert chosen == [m.after for m in sample("import math\n\n" + SOURCE, 3, "0")]
    assert chosen == [m.after for m in sample(SOURCE, 5, "0")][:3]


def test_targets_and_equivalents_exist() -> None:
    root = HERE.parents[1]
    targets = tomllib.loads((HERE / "targets.toml").read_text())["targets"]
    for file, tests in targets.items():
        assert (root / file).exists()
        for test in tests:
            path, *names = test.split("::")
            assert all(name in (root / path).read_text() for name in names)
    for entry in tomllib.loads((HERE / "equivalent.toml").read_text()).get("equivalent", []):
        assert entry["before"] in {m.before for m in mutations((root / entry["file"]).read_text())}
        assert entry["reason"]
