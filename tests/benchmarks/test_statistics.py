"""Medians, spreads, ratios and percentiles."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._bench.latencies import Latencies
from apicas._bench.statistics import paired_ratios, quantile, summarize

rates = st.floats(min_value=0.001, max_value=1e9)
many_rates = st.lists(rates, min_size=1, max_size=60)
seconds = st.floats(min_value=2e-6, max_value=1e5)


@given(many_rates)
def test_a_summary_has_its_figures_in_order_and_the_median_that_everybody_knows(values: list[float]) -> None:
    summary = summarize(values)
    assert summary is not None
    assert summary.low <= summary.lower_quartile <= summary.median <= summary.upper_quartile <= summary.high
    assert (summary.low, summary.high, summary.number) == (min(values), max(values), len(values))
    assert summary.median == pytest.approx(statistics.median(values))


@given(many_rates)
def test_the_order_of_repeats_means_nothing(values: list[float]) -> None:
    assert summarize(values) == summarize(values[::-1])


def test_of_nothing_there_is_no_summary() -> None:
    assert summarize([]) is None


@given(st.lists(rates, min_size=2, max_size=30))
def test_quartiles_are_those_of_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=4, method="inclusive")
    assert [quantile(sorted(values), share) for share in (0.25, 0.5, 0.75)] == pytest.approx(expected)


@given(st.lists(st.tuples(rates, rates), min_size=1, max_size=20), rates)
def test_a_ratio_of_pairs_does_not_see_how_fast_the_machine_was(pairs: list[tuple[float, float]], speed: float) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    slowed = [value * speed for value in ours], [value * speed for value in theirs]
    assert paired_ratios(*slowed) == pytest.approx(paired_ratios(ours, theirs))


def test_pairs_that_lack_one_are_left_out() -> None:
    assert paired_ratios([10.0, None, 30.0, 5.0], [5.0, 1.0, None, 0.0]) == [2.0]


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_right_to_two_percent(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert latencies.percentile(share) == pytest.approx(exact, rel=0.02)


@given(st.lists(seconds, min_size=1), st.lists(seconds))
def test_pilots_counted_apart_are_as_if_counted_together(first: list[float], second: list[float]) -> None:
    together, one, other = Latencies(), Latencies(), Latencies()
    for latencies, values in ((together, first + second), (one, first), (other, second)):
        for value in values:
            latencies.add(value)
    one.merge(other.counts)
    assert one.counts == together.counts


def test_no_latency_has_no_percentiles() -> None:
    assert Latencies().spread() is None
    with pytest.raises(ValueError, match="no latency"):
        Latencies().percentile(0.5)
