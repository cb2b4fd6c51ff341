"""``check_pair``: each broken pair or batch is named, with what was expected and what was found."""

from __future__ import annotations

import logging
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from core.pairs import Nested, Regression
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError, audit, check_pair, draw
from ppvae.core.errors import did_you_mean
from ppvae.distributions import Bernoulli, DiagonalNormal, Normal, StandardNormal
from ppvae.inference import fit
from ppvae.models import VAE, bernoulli_vae, gaussian_vae
from ppvae.networks import MLP


def make(model: Any, guide: Any) -> ModelGuidePair:
    """A pair from two functions of (x, num_data)."""
    return ModelGuidePair.from_callables(model, guide)


def good_model(x: Tensor, num_data: int | None = None) -> None:
    with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)


def good_guide(x: Tensor, num_data: int | None = None) -> None:
    with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(x[..., :2], 1.0).to_event(1))


X = torch.linspace(-1, 1, 12).reshape(4, 3)


def test_a_good_pair_passes() -> None:
    shape = check_pair(make(good_model, good_guide), X, num_data=100)
    assert [info.name for info in shape.local_latents] == ["z"]


def test_a_lazy_module_is_told_to_see_data_first() -> None:
    class Lazy(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.LazyLinear(2), nn.LazyLinear(3)

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    pair = Lazy()
    with pytest.raises(PairError, match=r"'encoder.weight' has no shape yet(?s:.*)pair.encoder\(x\)"):
        check_pair(pair, X)
    pair.encoder(X)
    pair.decoder(torch.zeros(len(X), 2))
    assert math.isfinite(fit(pair, X, num_epochs=1, compile="eager", progress=False).history[-1]["elbo_train"])


def test_latent_missing_in_the_guide() -> None:
    def guide(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pass

    with pytest.raises(PairError, match="latent site 'z' of the model is not in the guide"):
        check_pair(make(good_model, guide), X)


def test_latent_missing_in_the_model_is_the_misspelt_site() -> None:
    def guide(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pyro.sample("zz", dist.Normal(x[..., :2], 1.0).to_event(1))

    with pytest.raises(PairError, match=r"guide site 'zz' is not in the model: did you mean 'z'\?"):
        check_pair(make(good_model, guide), X)


def test_event_shapes_that_differ() -> None:
    def guide(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    def model(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(3), 1.0).to_event(1), obs=x)

    with pytest.raises(PairError, match=r"site 'z': expected .* event shape \(2,\) .* found .* \(3,\)"):
        check_pair(make(model, guide), X)


def test_observed_site_outside_the_plate() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(2), obs=x)

    with pytest.raises(PairError, match="observed site 'x' stands outside the plate"):
        check_pair(make(model, good_guide), X)


def test_duplicate_site() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        good_model(x, num_data)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match=r"(?s)fails on a batch.*'z'"):
        check_pair(make(model, good_guide), X)


def test_wrong_plate_size() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(3), 1.0).to_event(1), obs=x[:2])

    def guide(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(x[:2, :2], 1.0).to_event(1))

    with pytest.raises(PairError, match="plate 'data': expected 4 data, the length of the batch, found 2"):
        check_pair(make(model, guide), X)


def test_plate_that_does_not_state_the_size_of_the_data() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        good_model(x, None)

    with pytest.raises(PairError, match="expected the data plate to state num_data = 100, found 4"):
        check_pair(make(model, good_guide), X, num_data=100)


def test_no_observed_site() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    with pytest.raises(PairError, match="no observed site"):
        check_pair(make(model, good_guide), X)


def test_what_is_not_a_pair() -> None:
    with pytest.raises(PairError, match=r"(?s)expected a ModelGuidePair, found Linear.*from_callables"):
        check_pair(torch.nn.Linear(2, 2), X)  # type: ignore[arg-type]


# --- data ---


def test_grey_values_under_a_bernoulli() -> None:
    grey = torch.full((4, 6), 0.25)
    with pytest.raises(PairError, match=r"site 'x': expected data in the support .*Boolean.* 24 values .* 0\.25"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,)), grey)
    check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,), allow_grey=True), grey)
    with pytest.raises(PairError, match=r"Interval|support"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,), allow_grey=True), 7 * grey)


def test_wrong_feature_count() -> None:
    with pytest.raises(PairError, match=r"fails on a batch of shape \[4, 7\]"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,)), torch.zeros(4, 7))


def test_one_dimensional_batch() -> None:
    with pytest.raises(PairError, match=r"site \'x\': expected values of shape \[6, 6\], found \[6\]"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,)), torch.zeros(6))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    x = torch.zeros(4, 6)
    x[2, 5] = bad
    with pytest.raises(PairError, match=r"value at \[2, 5\] is not finite(?s:.*)Try one of"):
        check_pair(gaussian_vae(6, latent_dim=2, hidden=(3,)), x)


def test_empty_and_unequal_batches() -> None:
    with pytest.raises(PairError, match=r"at least one datum(?s:.*)Try one of"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,)), torch.zeros(0, 6))
    with pytest.raises(PairError, match=r"differ in length(?s:.*)Try one of"):
        check_pair(Regression(), {"y": torch.zeros(3), "covariates": torch.zeros(4, 2)})


def test_parameter_that_is_not_finite() -> None:
    pair = bernoulli_vae(6, latent_dim=2, hidden=(3,))
    with torch.no_grad():
        pair.likelihood.head.layers[0].bias[1] = float("nan")
    with pytest.raises(PairError, match=r"parameter 'likelihood\.head\.layers\.0\.bias' has a value"):
        check_pair(pair, torch.zeros(4, 6))


def test_counts_under_a_mean_through_a_sigmoid() -> None:
    """A mean in (0, 1) can never reach counts: refused by fit, with the remedy."""
    counts = torch.arange(24.0).reshape(4, 6).round()
    with pytest.raises(PairError, match=r"mean lies in \(0.0, 1.0\), which values from 0 to 23 leave"):
        check_pair(gaussian_vae(6, latent_dim=2, hidden=(3,)), counts)
    check_pair(gaussian_vae(6, latent_dim=2, hidden=(3,), mean="identity"), counts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: bernoulli_vae(6, latent_dim=0),
        lambda: StandardNormal(0),
        lambda: DiagonalNormal(MLP(6, [3]), 0),
        lambda: Normal(MLP(6, [3]), 4, scale=0.0),
        lambda: Normal(MLP(6, [3]), 4, scale="conditonal"),  # type: ignore[arg-type]
        lambda: MLP(6, [3], activation="thanh"),
        lambda: Bernoulli(torch.nn.Tanh(), 4),
    ],
)
def test_bad_building_blocks(build: Any) -> None:
    with pytest.raises(PpvaeError, match=r"expected|did you mean"):
        build()


# --- broadcasting ---


class Flattening(Nested):
    """A program that only runs without further axes."""

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.slope[:, None] * x.mT, 0.6))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            assert z.shape == (3, len(x))
            pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=x.mT)


def test_a_program_that_does_not_broadcast_is_found_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    pair = Flattening()
    with caplog.at_level(logging.WARNING, logger="ppvae.check"):
        check_pair(pair, torch.randn(4, 3))
    assert not pair.vectorizes and "run one by one" in caplog.text
    assert draw(pair, torch.randn(4, 3), 3).log_q.shape == (3, 4)
    assert check_pair(Nested(), torch.randn(4, 3)) and Nested().vectorizes


def test_the_fit_checks_first() -> None:
    with pytest.raises(PairError, match="support"):
        fit(bernoulli_vae(6, latent_dim=2, hidden=(3,)), torch.full((200, 6), 0.3), num_epochs=1)


def test_composition_by_hand_passes() -> None:
    pair = VAE(StandardNormal(2), Bernoulli(MLP(2, [3]), 6), DiagonalNormal(MLP(6, [3]), 2))
    check_pair(pair, torch.zeros(4, 6), num_data=50)


def test_a_datum_of_zero_density_does_not_hide_that_a_program_broadcasts() -> None:
    class Walled(Nested):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=x.mT)
                pyro.factor("wall", torch.where(x[:, 0] > 9, -torch.inf, 0.0).expand(z.shape))

    pair, x = Walled(), torch.randn(4, 3)
    x[1, 0] = 10.0
    check_pair(pair, x)
    assert pair.vectorizes


def test_the_plate_that_one_side_lacks_is_named() -> None:
    def no_plate(x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    with pytest.raises(
        PairError, match=r"'z' is local in the model and global in the guide(.|\n)*self\.data_plate\(x, num_data\)"
    ):
        check_pair(make(good_model, no_plate), torch.randn(4, 3))


def test_remedies_are_of_the_likelihood_at_hand() -> None:
    class Counts(ModelGuidePair):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Poisson(x.new_ones(3), validate_args=False).to_event(1), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))

    x = torch.ones(4, 3)
    x[2, 1] = 0.5
    with pytest.raises(PairError, match=r"found 1 values outside it, for instance 0\.5(.|\n)*whole numbers") as error:
        check_pair(Counts(), x)
    assert "binar" not in str(error.value)


def test_of_many_names_the_nearest_are_listed() -> None:
    names = [f"decoder.layers.{k}.weight" for k in range(40)]
    hint = did_you_mean("decoder.layers.7.weigth", names)
    assert hint.startswith("did you mean 'decoder.layers.7.weight'?") and "(40 in all)" in hint
    assert hint.count("decoder") < 12
    assert did_you_mean("b", ["a", "c"]) == "Known: a, c"


@pytest.mark.parametrize("role", ["model", "guide"])
def test_a_distribution_that_is_not_pyros_is_named(role: str) -> None:
    """Those of torch.distributions and of zuko: raw, they end in "object is not callable"."""

    class Foreign(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def _latent(self, size: int, here: str) -> Any:
            library = torch.distributions if here == role else dist
            return library.Normal(self.loc.expand(size), 1.0)

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", self._latent(len(x), "model"))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", self._latent(len(x), "guide"))

    with pytest.raises(PairError, match=r"Normal(?s:.*)the distribution of that name in pyro\.distributions"):
        check_pair(Foreign(), torch.randn(4))


def test_whole_numbers_that_arrive_as_floats() -> None:
    """A table that is looked up by the data: the message says what makes them whole numbers again."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = torch.eye(2)[x[:, 0]] + z
            pyro.sample("x", dist.Categorical(logits=logits), obs=x[:, 1])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    pair = ModelGuidePair.from_callables(model, guide)
    check_pair(pair, torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(PairError, match=r"x\.long\(\) inside the programs"):
        check_pair(pair, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))


def test_a_packed_member() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    with pytest.raises(PairError, match=r"'x': expected a tensor, found PackedSequence(?s:.*)the padded tensor"):
        check_pair(bernoulli_vae(6, latent_dim=2, hidden=(3,)), {"x": packed})  # type: ignore[dict-item]


def test_batches_of_other_sizes_are_audited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run again on the same few data; after a change of what the programs read they are audited anew."""
    audited: list[int] = []
    check_noise = audit._check_noise

    def noted(pair: ModelGuidePair, few: Tensor, *rest: Any) -> None:
        audited.append(len(few))
        check_noise(pair, few, *rest)

    monkeypatch.setattr(audit, "_check_noise", noted)
    pair = gaussian_vae(3, latent_dim=2, hidden=(4,))
    for size in (20, 30, 20, 4, 30):
        check_pair(pair, torch.rand(size, 3))
    assert audited == [8, 4]
    pair.likelihood = gaussian_vae(3, latent_dim=2, hidden=(5,)).likelihood
    check_pair(pair, torch.rand(30, 3))
    assert audited == [8, 4, 8]
