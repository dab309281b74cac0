"""Cheap scores of untrained networks, and evolution behind a sieve of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.models.create import create_model
from ppcls_lite.search.evolution import Fast, Found, Sieve, evolve
from ppcls_lite.search.pplcnet_space import PPLCNetSpace
from ppcls_lite.search.space import Candidate, digest
from ppcls_lite.search.zero_cost import PRICES, patterns, synflow

IMAGES = paddle.to_tensor(np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32))


def test_synaptic_flow_by_hand() -> None:
    """Two layers: the sum over all paths of the product of their weights' sizes, once a layer."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 2, bias_attr=False), nn.Linear(2, 1, bias_attr=False)
    )
    model[1].weight.set_value(paddle.to_tensor([[1.0, -2.0], [3.0, 4.0]]))
    model[2].weight.set_value(paddle.to_tensor([[-5.0], [6.0]]))
    paths = 1 * 5 + 2 * 6 + 3 * 5 + 4 * 6
    assert synflow(model, paddle.zeros([1, 2])) == pytest.approx(math.log(2 * paths))


def test_patterns_tell_images_apart() -> None:
    """Images that are alike have equal rows in the kernel, which then has no determinant."""
    paddle.seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU())
    apart = paddle.randn([4, 3, 2, 2])
    alike = paddle.concat([apart[:3], apart[:1]])
    assert patterns(model, apart) > patterns(model, alike) == -math.inf
    kernel = 64 * np.ones((2, 2))
    assert np.linalg.slogdet(kernel)[0] == 0  # what two images alike give


@pytest.mark.parametrize("name", PRICES)
def test_a_wider_network_has_more(name: str) -> None:
    scores = []
    for scale in ("x0_25", "x1_0"):
        paddle.seed(1)
        model = create_model(f"PPLCNet_{scale}", class_num=4, stride_list=[1, 2, 2, 2, 2])
        scores.append(PRICES[name](model, IMAGES))
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_a_sieve_keeps_what_it_prefers_and_what_was_given() -> None:
    space = PPLCNetSpace(widths=[[8, 16, 24, 32]] * 5)
    asked: list[Candidate] = []

    def price(candidates: Sequence[Candidate], found: Found) -> list[float]:
        return [float(candidate["width6"]) for candidate in candidates]

    def score(candidates: Sequence[Candidate]) -> list[float]:
        asked.extend(candidates)
        return [0.0] * len(candidates)

    options = {"population": 8, "generations": 1, "seed": 0, "start": [space.smallest()]}
    sieve = Sieve(price, 0.25, lambda c, count: [True] * len(c))
    evolve(space, lambda c, count: [True] * len(c), score, sieve=sieve, **options)
    sifted, asked = asked, []
    evolve(space, lambda c, count: [True] * len(c), score, **options)
    assert len(sifted) == len(asked) == 8
    assert digest(sifted[0]) == digest(asked[0]) == digest(space.smallest())
    means = [np.mean([c["width6"] for c in some[1:]]) for some in (sifted, asked)]
    assert means[0] > means[1]


def test_what_a_sieve_likes_is_measured_until_enough_is_fast() -> None:
    space = PPLCNetSpace(widths=[[8, 16, 24, 32]] * 5)
    asked: list[list[Candidate]] = []

    def price(candidates: Sequence[Candidate], found: Found) -> list[float]:
        return [float(candidate["width6"] + candidate["width5"] / 100) for candidate in candidates]

    def worth(candidates: Sequence[Candidate], count: int) -> list[bool]:
        return [candidate["width2"] > 8 for candidate in candidates]

    def fast(candidates: Sequence[Candidate], count: int) -> list[bool]:
        asked.append([*candidates])
        return [one["width2"] < 32 for one in candidates]

    def evolved(keeps: float, fast: Fast) -> list[Candidate]:
        options = {"population": 8, "generations": 1, "seed": 0}
        score = lambda candidates: [0.0] * len(candidates)  # noqa: E731
        found = evolve(space, fast, score, sieve=Sieve(price, keeps, worth), **options)
        return [*found.candidates.values()]

    found = evolved(0.1, fast)
    (many,) = asked  # all that are worth it, dearest first: the budget stops where it has enough
    prices = price(many, Found())
    assert len(many) == 80 and prices == sorted(prices, reverse=True) and all(worth(many, 8))
    assert found == [one for one in many if one["width2"] < 32][:8]
    few = lambda candidates, count: [one["width6"] == 8 for one in candidates]  # noqa: E731
    found = evolved(0.5, few)  # not enough among sixteen: the rest is drawn without it
    assert len({digest(one) for one in found}) == 8 and all(one["width6"] == 8 for one in found)
