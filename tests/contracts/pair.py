"""The tests that every model/guide pair inherits: a new model gets them for a four-line subclass.

A batch is a tensor, or a mapping of tensors that share axis 0.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ppvae.core import (
    Data,
    ModelGuidePair,
    batch_size,
    check_pair,
    draw,
    draw_all_values,
    log_joint,
    parameter_roles,
    site_terms,
    structure,
)
from ppvae.core.compile import bind, capture, state_of
from ppvae.core.parts import rows_of
from ppvae.inference import elbo


def cast(x: Data, dtype: torch.dtype) -> Data:
    """The data in this precision; in a mapping, whole numbers and truth values stay what they are."""
    if isinstance(x, Mapping):
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in x.items()}
    return x.to(dtype)


def part(x: Data, start: int, stop: int) -> Data:
    """The data from one row to another."""
    return rows_of(x, torch.arange(start, stop))


class PairContract(ABC):
    """Subclass it, and say how to make the pair and six data: a tensor, or a mapping of tensors."""

    compiles: ClassVar[bool] = True

    @abstractmethod
    def make_pair(self) -> ModelGuidePair: ...

    @abstractmethod
    def make_data(self) -> Data: ...

    @pytest.fixture
    def pair(self, float64: torch.dtype) -> ModelGuidePair:
        return self.make_pair().to(float64)

    @pytest.fixture
    def x(self, float64: torch.dtype) -> Data:
        return cast(self.make_data(), float64)

    def test_the_contract_of_a_pair_holds(self, pair: ModelGuidePair, x: Data) -> None:
        shape = check_pair(pair, x, num_data=10 * batch_size(x))
        assert {i.name for i in shape.model_latents} == {i.name for i in shape.guide_latents}
        assert shape.batch == batch_size(x)

    def test_shapes(self, pair: ModelGuidePair, x: Data) -> None:
        drawn = draw(pair, x, 3)
        joint = log_joint(pair, x, drawn.latents)
        assert drawn.log_q.shape == (3, batch_size(x)) and joint.local.shape == (3, batch_size(x))
        assert drawn.global_log_q.shape == joint.global_.shape == (3,)
        for info in structure(pair, x).model_latents:
            lead = (3, batch_size(x)) if info.scope == "local" else (3,)
            assert drawn.latents[info.name].shape == (*lead, *info.shape)

    def test_batch_equals_loop(self, pair: ModelGuidePair, x: Data) -> None:
        drawn = draw(pair, x, 2)
        together = log_joint(pair, x, drawn.latents)
        for b in range(batch_size(x)):
            latents = {
                info.name: drawn.latents[info.name][:, b : b + 1] if info.scope == "local" else drawn.latents[info.name]
                for info in structure(pair, x).model_latents
            }
            alone = log_joint(pair, part(x, b, b + 1), latents)
            torch.testing.assert_close(alone.local[:, 0], together.local[:, b])
            torch.testing.assert_close(alone.global_, together.global_)

    def test_sample_axes_equal_loop(self, pair: ModelGuidePair, x: Data) -> None:
        drawn = draw(pair, x, 6)
        folded = {name: value.reshape(2, 3, *value.shape[1:]) for name, value in drawn.latents.items()}
        together = log_joint(pair, x, folded)
        assert together.local.shape == (2, 3, batch_size(x))
        for k in range(6):
            alone = log_joint(pair, x, {name: value[k] for name, value in drawn.latents.items()})
            torch.testing.assert_close(alone.local, together.local[k // 3, k % 3])
            torch.testing.assert_close(alone.observed, together.observed[k // 3, k % 3])
            torch.testing.assert_close(alone.global_, together.global_[k // 3, k % 3])

    def test_log_q_equals_the_site_terms(self, pair: ModelGuidePair, x: Data) -> None:
        torch.manual_seed(3)
        drawn = draw_all_values(pair, x, 2)
        joint = log_joint(pair, x, drawn.latents)
        torch.manual_seed(3)
        terms = site_terms(pair, x, 2, analytic=False).values()
        local = sum(
            (t.log_p if t.log_p is not None else 0) - (t.log_q if t.log_q is not None else 0)
            for t in terms
            if t.scope == "local"
        )
        share = 1.0 if drawn.log_share is None else drawn.log_share.exp()  # all values, each with its probability
        torch.testing.assert_close(local, share * (joint.local - drawn.log_q))

    def test_minibatch_scaling_is_unbiased(self, pair: ModelGuidePair, x: Data) -> None:
        """At fixed latents the mean of the minibatch estimates over a partition is the full bound."""
        drawn, size = draw(pair, x, 1), batch_size(x)
        full = log_joint(pair, x, drawn.latents).total(size)
        parts = []
        for start in range(0, size, 2):
            latents = {
                info.name: drawn.latents[info.name][:, start : start + 2]
                if info.scope == "local"
                else drawn.latents[info.name]
                for info in structure(pair, x).model_latents
            }
            parts.append(log_joint(pair, part(x, start, start + 2), latents, size).total(size))
        torch.testing.assert_close(torch.stack(parts).mean(0), full)

    def test_gradient_reaches_every_parameter(self, pair: ModelGuidePair, x: Data) -> None:
        terms = elbo.TraceELBO().terms(pair, x)
        terms.objective().backward()
        trained = {name: parameter for name, parameter in pair.named_parameters() if parameter.requires_grad}
        idle = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert idle == []
        assert all(roles for roles in parameter_roles(pair, x).values())

    def test_state_round_trip(self, pair: ModelGuidePair, x: Data) -> None:
        drawn = draw(pair, x, 1)

        def fingerprint(pair: ModelGuidePair) -> Tensor:
            torch.manual_seed(2)
            return log_joint(pair, x, drawn.latents).local + draw(pair, x, 1).log_q

        expected = fingerprint(pair)
        other = copy.deepcopy(pair)
        with torch.no_grad():
            for parameter in pair.parameters():
                parameter.add_(0.3)
        assert not torch.equal(fingerprint(pair), expected)
        torch.testing.assert_close(fingerprint(other), expected)
        pair.load_state_dict(other.state_dict())
        torch.testing.assert_close(fingerprint(pair), expected)

    def test_float32_agrees(self, pair: ModelGuidePair, x: Data) -> None:
        drawn = draw(pair, x, 1)
        expected = log_joint(pair, x, drawn.latents).local
        latents = {name: value.float() for name, value in drawn.latents.items()}
        found = log_joint(pair.float(), cast(x, torch.float32), latents).local
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("mode", ["graph", pytest.param("compiled", marks=pytest.mark.slow)])
    def test_captured_equals_eager(self, pair: ModelGuidePair, x: Data, mode: str) -> None:
        def bound(pair: ModelGuidePair, x: Data) -> Tensor:
            return elbo.TraceELBO(num_particles=2).terms(pair, x).local

        structure(pair, x)
        pure = bind(pair, bound)
        results = []
        for how in ("eager", mode):
            captured = capture(pure, mode=how)  # type: ignore[arg-type]
            torch.manual_seed(5)
            results.append(captured(state_of(pair), x))
            assert captured.fallback == ""
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)

    def test_seeded_means_repeatable(self, pair: ModelGuidePair, x: Data) -> None:
        values = []
        for _ in range(2):
            torch.manual_seed(1)
            values.append(draw(pair, x, 2).log_q)
        assert torch.equal(values[0], values[1])
