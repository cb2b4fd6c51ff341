"""Results as ArviZ's groups: their numbers, axes and attributes, and NetCDF from one line of ArviZ to the other."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor

import ppvae
from ppvae.core import DataError, PpvaeError, draw, log_joint
from ppvae.data import Dataset
from ppvae.inference import evidence, log_evidence, sample_posterior
from ppvae.inference_data import read_netcdf, to_arviz, write_netcdf
from ppvae.models import FactorAnalysis, bernoulli_vae
from ppvae.report.arviz.groups import evidence_groups, export_arviz, guide_groups, prior_groups

EXPORT = Path(str(ppvae.__file__)).parent / "inference_data.py"
OTHER = "PPVAE_ARVIZ1_PYTHON"


def names_of(tree: Any) -> set[str]:
    """Group names, of either line."""
    groups = tree.groups() if callable(tree.groups) else tree.groups
    return {name.strip("/") for name in groups} - {""}


@pytest.fixture
def pair(float64: torch.dtype) -> FactorAnalysis:
    return FactorAnalysis.from_parameters(
        torch.tensor([0.5, -1.0, 2.0]),
        torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.2]]),
        torch.tensor([0.5, 0.8, 1.1]),
    )


@pytest.fixture
def x(pair: FactorAnalysis) -> Tensor:
    return pair.marginal().sample((6,))


# --- the guide ---


def test_weights_of_the_exact_guide_are_the_evidence(pair: FactorAnalysis, x: Tensor) -> None:
    tree = export_arviz(guide_groups(pair, x, num_draws=40))
    stats = tree["sample_stats"]
    assert stats["log_weight"].dims == ("chain", "draw", "datum") and stats["log_weight"].shape == (1, 40, 6)
    expected = pair.log_evidence(x).detach().numpy()
    np.testing.assert_allclose(stats["log_weight"].values[0], np.broadcast_to(expected, (40, 6)), atol=1e-9)
    wrong = export_arviz(guide_groups(pair.with_wrong_guide(), x, num_draws=40))["sample_stats"]["log_weight"].values
    assert np.abs(wrong - expected).max() > 0.1


def test_draws_of_the_guide_are_those_of_the_waist(pair: FactorAnalysis, x: Tensor) -> None:
    found = guide_groups(pair, x, num_draws=9, posterior_predictive=True, seed=3)
    torch.manual_seed(3)
    drawn = draw(pair, x, 9)
    np.testing.assert_array_equal(found.groups["posterior"]["z"][0], drawn.latents["z"].detach().numpy())
    joint = log_joint(pair, x, drawn.latents)
    np.testing.assert_array_equal(found.groups["log_likelihood"]["x"][0], joint.observed.detach().numpy())
    assert found.groups["posterior_predictive"]["x"].shape == (1, 9, 6, 3)
    assert found.attrs["posterior_from"] == "guide" and found.attrs["model"] == "FactorAnalysis"


def test_blocks_draw_from_the_same_posterior(pair: FactorAnalysis, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppvae.report.arviz.groups.BLOCK", 7 * x.numel())
    z = guide_groups(pair, x, num_draws=4000).groups["posterior"]["z"][0]
    assert z.shape == (4000, 6, 2)
    exact = pair.posterior(x)
    error = (z.mean(0) - exact.mean.detach().numpy()) / (exact.stddev.detach().numpy() / math.sqrt(4000))
    assert np.abs(error).max() < 5
    off = (z.mean(0) - exact.mean.detach().numpy()[::-1]) / (exact.stddev.detach().numpy() / math.sqrt(4000))
    assert np.abs(off).max() > 5  # power: the posteriors of other data are told apart


def test_labels_and_covariates(pair: FactorAnalysis, x: Tensor) -> None:
    data = Dataset(x, labels=torch.arange(6))
    found = guide_groups(pair, data, num_draws=2, log_likelihood=False)
    np.testing.assert_array_equal(found.groups["constant_data"]["label"], np.arange(6))
    np.testing.assert_array_equal(found.groups["observed_data"]["x"], x.numpy())
    assert "log_likelihood" not in found.groups


def test_nothing_global_is_changed(pair: FactorAnalysis, x: Tensor) -> None:
    before = torch.get_rng_state()
    guide_groups(pair, x, num_draws=3)
    prior_groups(pair, x, num_draws=3)
    assert torch.equal(torch.get_rng_state(), before)


# --- the prior ---


def test_prior_predictive_has_the_moments_of_the_model(pair: FactorAnalysis, x: Tensor) -> None:
    found = prior_groups(pair, x, num_draws=1500, seed=1)
    z, new = (
        found.groups[group][name][0].reshape(9000, -1) for group, name in (("prior", "z"), ("prior_predictive", "x"))
    )
    assert found.dims["prior_predictive"]["x"] == ["chain", "draw", "datum", "x_dim_0"]
    marginal = pair.marginal()
    spread = marginal.stddev.detach().numpy()
    assert np.abs((new.mean(0) - marginal.mean.detach().numpy()) / (spread / math.sqrt(9000))).max() < 5
    # A normal's sample variance has relative standard error sqrt(2 / n).
    assert np.abs(new.var(0) / spread**2 - 1).max() < 5 * math.sqrt(2 / 9000)
    assert np.abs(z.var(0) - 1).max() < 5 * math.sqrt(2 / 9000)


# --- evidence ---


def test_evidence_is_one_group_with_sides(pair: FactorAnalysis, x: Tensor) -> None:
    exact = log_evidence(pair, x, method=evidence.Exact(), progress=False)
    few = log_evidence(pair.with_wrong_guide(), x, method=evidence.ImportanceSampling(20), progress=False)
    many = log_evidence(pair.with_wrong_guide(), x, method=evidence.ImportanceSampling(90), progress=False)
    tree = export_arviz(exact, {"L_20": few, "L_90": many}, guide_groups(pair, x, num_draws=5))
    group = tree["evidence"]
    assert group["estimate"].values.tolist() == ["Exact", "L_20", "L_90"]
    assert group["bound"].values.tolist() == ["exact", "lower", "lower"]
    assert group["log_evidence"].dims == ("estimate", "datum")
    np.testing.assert_array_equal(group["log_evidence"].sel(estimate="L_90").values, many.log_evidence.numpy())
    np.testing.assert_array_equal(group["pareto_k"].sel(estimate="L_20").values, few.pareto_k.numpy())
    assert names_of(tree) == {"evidence", "posterior", "sample_stats", "log_likelihood", "observed_data"}


def test_refusals(pair: FactorAnalysis, x: Tensor) -> None:
    one = log_evidence(pair, x, method=evidence.Exact(), progress=False)
    other = log_evidence(pair, x[:2], method=evidence.Exact(), progress=False)
    with pytest.raises(DataError, match="two estimates are called 'Exact'"):
        export_arviz(one, one)
    with pytest.raises(DataError, match="expected estimates of the same data"):
        evidence_groups({"a": one, "b": other})
    with pytest.raises(DataError, match="found 6 and 2 data"):
        export_arviz(guide_groups(pair, x, num_draws=2), other)
    with pytest.raises(DataError, match=r"give the group .*'posterior'"):
        export_arviz(guide_groups(pair, x, num_draws=2), guide_groups(pair, x, num_draws=2))
    with pytest.raises(PpvaeError, match="nothing to export"):
        export_arviz()
    with pytest.raises(PpvaeError, match="num_draws of at least 1"):
        guide_groups(pair, x, num_draws=0)


# --- ArviZ takes it ---


def test_hmc_prior_and_evidence_together(pair: FactorAnalysis, x: Tensor) -> None:
    draws = sample_posterior(
        pair, x, num_samples=60, num_warmup=60, num_chains=2, num_leapfrog=4, compile="eager", progress=False
    )
    found = log_evidence(pair, x, method=evidence.Exact(), progress=False)
    tree = export_arviz(draws, prior_groups(pair, x, num_draws=200), found)
    assert {"posterior", "prior", "prior_predictive", "evidence", "sample_stats"} <= names_of(tree)
    np.testing.assert_array_equal(tree["posterior"]["z"].values, draws.samples["z"].numpy())
    assert tree["posterior"].sizes["draw"] == 60 and tree["prior"].sizes["draw"] == 200
    assert tree["prior"]["draw"].values[-1] == 199
    assert tree["evidence"].attrs["inference_library"] == "ppvae"
    assert tree["posterior"].attrs["inference_library_version"] == ppvae.__version__


def test_arviz_computes_with_it(pair: FactorAnalysis, x: Tensor) -> None:
    import arviz

    tree = export_arviz(guide_groups(pair, x, num_draws=400))
    independent = arviz.ess(tree)["z"].values
    assert independent.shape == (6, 2) and bool((independent > 200).all())  # draws of a guide are independent


def test_images_and_another_site_name() -> None:
    vae = bernoulli_vae((4, 4), latent_dim=2, hidden=(8,))
    x = torch.rand(3, 4, 4).round()
    tree = export_arviz(guide_groups(vae, x, num_draws=2, posterior_predictive=True))
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "datum", "x_dim_0", "x_dim_1")
    assert set(np.unique(tree["posterior_predictive"]["x"].values)) <= {0.0, 1.0}


# --- files ---


def numbers(seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, str]]:
    """Groups of every kind of value, made of numpy alone."""
    generator = np.random.default_rng(seed)
    groups = {
        "posterior": {"z": generator.normal(size=(2, 5, 3, 2)).astype(np.float32)},
        "sample_stats": {"diverging": generator.random((2, 5, 3)) > 0.5, "n_steps": np.full((2, 5, 3), 4)},
        "prior": {"z": generator.normal(size=(1, 7, 3, 2))},
        "observed_data": {"x": generator.normal(size=(3, 4))},
        "evidence": {
            "log_evidence": np.array([[-1.5, np.nan, -3.0]]),
            "bound": np.array(["lower"]),
        },
    }
    lead = ["chain", "draw", "datum"]
    dims = {
        "posterior": {"z": [*lead, "z_dim_0"]},
        "sample_stats": {"diverging": lead, "n_steps": lead},
        "prior": {"z": [*lead, "z_dim_0"]},
        "observed_data": {"x": ["datum", "x_dim_0"]},
        "evidence": {"log_evidence": ["estimate", "datum"], "bound": ["estimate"]},
    }
    coords = {"draw": np.arange(5), "datum": np.array([10, 11, 12]), "estimate": np.array(["AIS"])}
    return groups, dims, coords, {"inference_library": "ppvae", "seed": str(seed)}


def assert_is(tree: Any, seed: int) -> None:
    groups, dims, coords, attrs = numbers(seed)
    assert names_of(tree) == set(groups)
    for group, variables in groups.items():
        node = tree[group]
        assert {key: node.attrs[key] for key in attrs} == attrs
        for name, value in variables.items():
            found = node[name]
            assert list(found.dims) == dims[group][name]
            np.testing.assert_array_equal(found.values, value)
            if value.dtype.kind != "U":
                assert found.dtype == value.dtype
        for axis, index in coords.items():
            if axis in node.sizes and node.sizes[axis] == len(index):
                assert node[axis].values.tolist() == index.tolist()


def test_file_and_back(tmp_path: Path) -> None:
    path = write_netcdf(to_arviz(*numbers(0)), tmp_path / "draws.nc")
    assert_is(read_netcdf(path), 0)
    with pytest.raises(AssertionError):
        assert_is(read_netcdf(path), 1)  # other numbers are noticed
    write_netcdf(to_arviz(*numbers(1)), path)  # replaces
    assert_is(read_netcdf(path), 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["draws.nc"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_netcdf(to_arviz(*numbers(0)), tmp_path / "draws.nc")

    class Broken:
        def to_netcdf(self, name: str, engine: str) -> None:
            Path(name).write_bytes(b"half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_netcdf(Broken(), path)
    assert_is(read_netcdf(path), 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["draws.nc"]


SCRIPT = """
import importlib.util, json, sys
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
export = load("arviz_export", sys.argv[1])
"""


def run(python: str, script: str, *arguments: str | Path) -> Any:
    """Run a script that has loaded the export by its path, as ``export``; what it printed, read as JSON."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", SCRIPT + script, str(EXPORT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_export_imports_neither_torch_nor_arviz() -> None:
    heavy = run(sys.executable, "print(json.dumps([m for m in ('torch', 'arviz', 'ppvae') if m in sys.modules]))")
    assert heavy == []


@pytest.fixture
def other() -> str:
    """A Python that has ArviZ 1.x."""
    python = os.environ.get(OTHER)
    if not python:
        pytest.skip(f"the environment variable {OTHER}, a Python with ArviZ 1.x and h5netcdf, is unset")
    return python


# The other process has no pytest and no torch: it gets `numbers` and the comparison as source.
def helpers() -> str:
    import inspect

    sources = [inspect.getsource(function) for function in (names_of, numbers, assert_is)]
    return "from typing import Any\nimport numpy as np\n" + "\n".join(sources)


def test_the_other_line_reads_ours(other: str, tmp_path: Path) -> None:
    path = write_netcdf(to_arviz(*numbers(4)), tmp_path / "ours.nc")
    script = (
        "tree = export.read_netcdf(sys.argv[2])\n"
        "assert_is(tree, 4)\n"
        "import arviz\n"
        "assert_is(arviz.from_netcdf(sys.argv[2]), 4)\n"
        "ess = arviz.ess(tree)\n"
        "print(json.dumps([arviz.__version__, type(tree).__name__, 'torch' in sys.modules]))"
    )
    version, kind, torch_there = run(other, helpers() + script, path)
    assert (int(version.partition(".")[0]) >= 1, kind, torch_there) == (True, "DataTree", False)


def test_we_read_what_the_other_line_wrote(other: str, tmp_path: Path) -> None:
    script = "export.write_netcdf(export.to_arviz(*numbers(5)), sys.argv[2])\nprint(json.dumps('done'))"
    assert run(other, helpers() + script, tmp_path / "theirs.nc") == "done"
    assert_is(read_netcdf(tmp_path / "theirs.nc"), 5)


def test_the_other_line_reads_real_results(other: str, pair: FactorAnalysis, x: Tensor, tmp_path: Path) -> None:
    found = log_evidence(pair.with_wrong_guide(), x, method=evidence.ImportanceSampling(50), progress=False)
    parts = guide_groups(pair, x, num_draws=30, posterior_predictive=True), prior_groups(pair, x, num_draws=10), found
    path = write_netcdf(export_arviz(*parts), tmp_path / "real.nc")
    script = (
        "tree = export.read_netcdf(sys.argv[2])\n"
        "e = tree['evidence']\n"
        "print(json.dumps([sorted(g.strip('/') for g in tree.groups), e['log_evidence'].values[0].tolist(),\n"
        "    e['bound'].values.tolist(), tree['posterior']['z'].values.sum(), dict(tree['posterior'].attrs)]))"
    )
    groups, values, bound, total, attrs = run(other, script, path)
    assert {"prior", "prior_predictive", "posterior_predictive", "evidence"} <= set(groups)
    assert values == found.log_evidence.tolist() and bound == ["lower"]
    assert total == pytest.approx(parts[0].groups["posterior"]["z"].sum(), abs=1e-9)
    assert attrs["inference_library"] == "ppvae" and attrs["posterior_from"] == "guide"


# --- ArviZ's own predictive checks ---


@pytest.mark.skipif(not hasattr(az, "plot_bpv"), reason="ArviZ 1.x has other plots")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_arviz_draws_its_predictive_checks(pair: FactorAnalysis, x: Tensor) -> None:
    tree = export_arviz(
        guide_groups(pair, x, num_draws=40, posterior_predictive=True), prior_groups(pair, x, num_draws=20)
    )
    for axes in (
        az.plot_ppc(tree, num_pp_samples=10),
        az.plot_ppc(tree, group="prior", num_pp_samples=10),
        az.plot_bpv(tree, kind="u_value"),
        az.plot_bpv(tree, kind="t_stat", t_stat="mean"),
    ):
        assert np.asarray(axes).flat[0].lines
    pyplot.close("all")
