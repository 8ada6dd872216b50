"""What people and batch systems write, and what a token asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._node.detection import parse_given
from apicas._node.requests import Refused, Request, RequestFields, amounts_of, parse_fields
from apicas._node.units import amount, bytes_of, counts_per_node, cpu_list, seconds_of
from apicas.exceptions import ConfigError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=3,
)
M, G = 2**20, 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500M", 500 * M), ("4G", 4 * G), ("4g", 4 * G), ("4 GB", 4 * G), ("4GiB", 4 * G), ("1.5T", 1536 * G),
        ("2048K", 2 * M), ("1P", 1024 * 1024 * G), (4 * G, 4 * G), (str(4 * G), 4 * G), (float(G), G), (0, 0), ("0", 0),
    ],
)  # fmt: skip
def test_sizes_are_written_as_in_slurm(text: Any, size: int) -> None:
    assert bytes_of(text) == size


def test_a_size_without_a_unit_that_would_be_a_few_bytes_is_no_silent_promise() -> None:
    """Slurm would take 4000 for megabytes."""
    for value in (4000, "4000", "4000B"):
        with pytest.raises(ValueError, match="write a unit"):
            bytes_of(value)


@pytest.mark.parametrize("value", ["", "G", "-1G", "4X", "4GG", "1e9", "٤G", "9" * 400, "9" * 5000, -1, 0.5, True, None,
    [], 1e300, math.inf, math.nan])  # fmt: skip
def test_what_is_no_size_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r" is (no|too|negative)"):
        bytes_of(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("1d", 86400),
        ("10:30", 630), ("01:30:00", 5400), ("100:00:00", 360000), ("2-12", 216000), ("2-12:30", 217800),
        ("1-02:03:04", 93784), ("UNLIMITED", math.inf), ("infinite", math.inf), (0, 0), (" 5 ", 5),
    ],
)  # fmt: skip
def test_times_are_seconds_or_written_as_in_slurm(text: Any, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("value", ["", "soon", "-5", "1:2:3:4", "1-", "1-2-3", ":30", "1y", "9" * 30,
    -1, math.nan, math.inf, True, None, {}])  # fmt: skip
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r" is (no|more)"):
        seconds_of(value)


def understood(parse: Callable[[Any], Any], value: Any) -> Any:
    """What is understood, or the reason why it is not: nothing else may come out."""
    try:
        return parse(value)
    except ValueError as error:
        return str(error)


@given(ANYTHING)
def test_whatever_is_written_is_understood_or_refused(value: Any) -> None:
    for parse in (amount, bytes_of, seconds_of):
        result = understood(parse, value)
        assert len(result) < 150 if isinstance(result, str) else result >= 0


@given(st.text("0123456789-,x() ", max_size=12))
def test_lists_are_understood_or_refused(text: str) -> None:
    for parse in (cpu_list, counts_per_node):
        assert isinstance(understood(parse, text), (str, tuple, list))


def test_lists_of_cpus_and_counts() -> None:
    assert cpu_list("0-3,8") == (0, 1, 2, 3, 8)
    assert cpu_list("") == ()
    assert cpu_list("5,4-5") == (4, 5)
    assert counts_per_node("72(x2),36") == [(72, 2), (36, 1)]
    for text in ("3-1", "0-99999999999", "a", "1;2"):
        with pytest.raises(ValueError, match="no list of CPUs"):
            cpu_list(text)
    with pytest.raises(ValueError, match="no list of counts"):
        counts_per_node("72x2")


# Requests. ------------------------------------------------------------------------------------------------------------


def request(**numbers: int) -> Request:
    return Request(amounts=amounts_of(numbers))


def test_a_token_that_asks_nothing_asks_a_core() -> None:
    assert RequestFields().read({"input": 1}) == request(cores=1)
    assert RequestFields().read({"cores": None, "memory": "", "resources": None, "time_request": ""}) == request(
        cores=1
    )


def test_a_token_asks_in_its_fields() -> None:
    document = {"cores": 4, "memory": "2G", "gpus": "1", "scratch": "10G", "resources": {"license": 2}}
    assert RequestFields().read(document) == request(cores=4, memory=2 * G, gpus=1, scratch=10 * G, license=2)


def test_equal_requests_are_equal_whatever_their_order_and_zeros() -> None:
    one = RequestFields().read({"cores": 2, "gpus": 0, "resources": {"b": 1, "a": 1}})
    assert one == RequestFields().read({"resources": {"a": 1, "b": 1, "c": 0}, "cores": "2"})


def test_fields_have_the_names_that_the_user_says() -> None:
    fields = RequestFields(
        fields={"cores": "input.ncpus", "license": "seats", "gpus": ""}, time="input.hours", kind="step"
    )
    read = fields.read({"input": {"ncpus": 3, "hours": "2h"}, "seats": 2, "gpus": 4, "cores": 9, "step": "image"})
    assert read == Request(amounts=amounts_of({"cores": 3, "license": 2}), seconds=7200.0, kind="image")


def test_a_field_of_its_own_counts_before_resources_and_both_before_the_defaults() -> None:
    fields = RequestFields(defaults={"cores": 2, "memory": G, "license": 1}, default_time=60.0)
    assert fields.read({}) == Request(amounts=amounts_of({"cores": 2, "memory": G, "license": 1}), seconds=60.0)
    read = fields.read({"cores": 3, "resources": {"cores": 5, "memory": "2G", "license": 0}, "time_request": 5})
    assert read == Request(amounts=amounts_of({"cores": 3, "memory": 2 * G}), seconds=5.0)


def test_a_token_without_a_kind_is_of_the_runs() -> None:
    fields = RequestFields(kind="step", default_kind="./image.sh")
    kinds = [fields.read(document) for document in ({"step": "flag"}, {"step": 7}, {"step": ""}, {})]
    assert [read.kind for read in kinds if isinstance(read, Request)] == ["flag", "7", "./image.sh", "./image.sh"]


def test_an_unlimited_time_is_none_that_is_known() -> None:
    read = RequestFields().read({"time_request": "UNLIMITED"})
    assert isinstance(read, Request)
    assert read.seconds is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"cores": "many"}, "cores: 'many' is no whole number"),
        ({"cores": 1.5}, "cores: 1.5 is no whole number"),
        ({"cores": -1}, "cores: -1 is negative, or more than there is of anything"),
        ({"memory": "4 elephants"}, "memory: '4 elephants' is no size such as 500M or 4G"),
        ({"time_request": "soon"}, "time_request: 'soon' is no time such as 3600, 1:30:00 or 2-12:00:00"),
        ({"resources": {"memory": 5}}, "resources.memory: 5 is less than a megabyte: write a unit, as in 500M or 4G"),
        ({"resources": [1]}, "resources is no mapping of names to numbers: [1]"),
        ({"resources": {"a b": 1}}, "resources is no mapping of names to numbers: {'a b': 1}"),
    ],
)
def test_a_bad_value_is_a_reason_and_no_exception(document: dict[str, Any], reason: str) -> None:
    assert RequestFields().read(document) == Refused(reason)


@given(
    st.dictionaries(
        st.sampled_from(["cores", "memory", "gpus", "scratch", "time_request", "resources", "kind"]), ANYTHING
    )
)
def test_whatever_a_token_holds_is_a_request_or_a_reason(document: dict[str, Any]) -> None:
    read = RequestFields(kind="kind").read(document)
    if isinstance(read, Refused):
        assert 0 < len(read.reason) < 300
    else:
        assert all(number > 0 for _, number in read.amounts)
        assert read.seconds is None or 0 <= read.seconds < math.inf
        hash(read)


# What the user gives. -------------------------------------------------------------------------------------------------


def test_resources_and_fields_are_given_as_name_and_value() -> None:
    assert parse_given(["license=4", "memory=64G", "cores=8"]) == {"license": 4, "memory": 64 * G, "cores": 8}
    assert parse_fields(["cores=ncpus", "license=input.seats"]) == {"cores": "ncpus", "license": "input.seats"}


@pytest.mark.parametrize("text", ["license", "=4", "li cense=4", "license=", "license=x", "memory=5", "a" * 65 + "=1"])
def test_what_cannot_be_given_is_an_error_of_the_options(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_given([text])


def test_fields_that_cannot_be_are_errors_of_the_options() -> None:
    for text in ("cores", "cores=", "1x=a"):
        with pytest.raises(ConfigError):
            parse_fields([text])
    with pytest.raises(ConfigError, match="no name of a resource"):
        RequestFields(defaults={"a b": 1})
