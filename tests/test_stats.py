"""Intervals and correlations against what is known of them."""

import math

import numpy as np
import pytest
import torch

from flashdiff_cli.stats import mean_interval, ordering_accuracy, ordering_shares, pearson, spearman


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        found = mean_interval(rng.normal(3.0, 1.0, 40), seed=i)
        inside += found["low"] <= 3.0 <= found["high"]
        assert found["low"] < found["mean"] < found["high"] and found["n"] == 40
    assert 0.88 <= inside / 200 <= 0.99


def test_an_interval_has_the_width_of_the_standard_error():
    x = np.random.default_rng(1).normal(0, 2.0, 400)
    found = mean_interval(x)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.1)
    assert mean_interval(x) == found


def test_few_values():
    assert mean_interval([]) == {"n": 0, "mean": None, "low": None, "high": None}
    assert mean_interval([4.0]) == {"n": 1, "mean": 4.0, "low": None, "high": None}
    assert mean_interval([2.0, 2.0]) == {"n": 2, "mean": 2.0, "low": 2.0, "high": 2.0}


def test_an_interval_is_that_of_the_published_tables():
    x = np.random.default_rng(3).normal(25.0, 4.0, 24)
    rows = np.random.default_rng(0).integers(0, 24, (2000, 24))
    low, high = np.percentile(x[rows].mean(1), [2.5, 97.5])
    found = mean_interval(x)
    assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-12)


def test_ordering_accuracy():
    assert ordering_accuracy(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])) == pytest.approx(0.5)
    assert ordering_accuracy([[1.0, 3.0, 2.0]]) == pytest.approx(2 / 3)
    # Equal severities are no mistake.
    assert ordering_shares([[1.0, 1.0, 1.0], [1.0, 3.0, 2.0]]).tolist() == pytest.approx([1.0, 2 / 3])


def test_rank_correlation():
    a = torch.tensor([0.1, 0.5, 0.2, 0.9])
    assert spearman(a, a.exp()) == pytest.approx(1.0) and spearman(a, -a) == pytest.approx(-1.0)
    assert pearson([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]) == pytest.approx(np.corrcoef([1, 2, 3], [2, 4, 7])[0, 1])


def test_equal_values_share_a_rank():
    # Ranks 2, 2, 2, 4 against 1, 2, 3, 4: by hand, Pearson of the ranks.
    assert spearman([1.0, 1.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(0.6))
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 2.0]) == pytest.approx(math.sqrt(0.6))
    assert math.isnan(spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])) and math.isnan(pearson([1.0, 2.0], [3.0, 3.0]))
