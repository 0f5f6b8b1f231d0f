"""Requests are counted as the kubelet counts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.engines.kubernetes.arithmetic import QuantityError, pod_requests, quantity

GI = 1 << 30


@pytest.mark.parametrize(
    ("text", "scale", "whole"),
    [
        ("0", 1, 0),
        ("2", 1000, 2000),
        ("0.5", 1000, 500),
        ("100m", 1000, 100),
        ("1u", 1000, 1),  # rounded up, as MilliValue does
        ("1n", 1000, 1),
        (".5", 1000, 500),
        ("5.", 1, 5),
        ("64Gi", 1, 64 * GI),
        ("1.5Gi", 1, 3 * GI // 2),
        ("1k", 1, 1000),
        ("128M", 1, 128_000_000),
        ("1e3", 1, 1000),
        ("1E3", 1, 1000),
        ("1E", 1, 10**18),
        ("12e-1", 1, 2),
        ("100m", 1, 1),
        ("8Ei", 1, 1 << 63),
    ],
)
def test_a_quantity_is_exact_and_rounded_up(text, scale, whole):
    assert quantity(text, scale) == whole


@pytest.mark.parametrize(
    "text", ["", "1 Gi", "Gi", "1gb", "0x10", "1e999", "1" * 100, "--1", "nan"]
)
def test_what_is_no_quantity_is_refused_with_what_one_looks_like(text):
    with pytest.raises(QuantityError, match="they look like"):
        quantity(text)


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text):
    try:
        assert isinstance(quantity(text), int)
    except QuantityError:
        pass


def asks(cpu="", memory="", gpus=0, always=False, **limits):
    requests = {}
    if cpu:
        requests["cpu"] = cpu
    if memory:
        requests["memory"] = memory
    resources = {"requests": requests, "limits": dict(limits)}
    if gpus:
        resources["limits"]["nvidia.com/gpu"] = str(gpus)
    return {"resources": resources, **({"restartPolicy": "Always"} if always else {})}


@pytest.mark.parametrize(
    ("what", "spec", "asked"),
    [
        ("nothing", {"containers": [{}]}, {}),
        (
            "containers add up",
            {"containers": [asks("1", "1Gi", 2), asks("500m", "1Gi")]},
            {"cpu": 1500, "memory": 2 * GI, "nvidia.com/gpu": 2},
        ),
        (
            "a limit is a request where none is stated",
            {
                "containers": [
                    {
                        "resources": {
                            "requests": {"cpu": "1"},
                            "limits": {"memory": "2Gi", "cpu": "4"},
                        }
                    }
                ]
            },
            {"cpu": 1000, "memory": 2 * GI},
        ),
        (
            "the largest init container counts if it is larger than what runs",
            {"containers": [asks("1", "1Gi")], "initContainers": [asks("3"), asks("2", "4Gi")]},
            {"cpu": 3000, "memory": 4 * GI},
        ),
        (
            "a sidecar runs beside the containers",
            {"containers": [asks("1")], "initContainers": [asks("2", always=True)]},
            {"cpu": 3000},
        ),
        (
            "and beside the init containers that come after it, not before",
            {
                "containers": [asks("1")],
                "initContainers": [asks("5"), asks("2", always=True), asks("4")],
            },
            {"cpu": 6000},
        ),
        (
            "the overhead of the runtime comes on top",
            {"containers": [asks("1")], "overhead": {"cpu": "250m", "memory": "120Mi"}},
            {"cpu": 1250, "memory": 120 << 20},
        ),
        (
            "what the pod states as a whole stands instead",
            {
                "containers": [asks("1", "1Gi", 1)],
                "resources": {"requests": {"cpu": "4", "nvidia.com/gpu": "9"}},
            },
            {"cpu": 4000, "memory": GI, "nvidia.com/gpu": 1},
        ),
        (
            "a limit of the pod is what it asks for if nobody in it asks",
            {"containers": [{}], "resources": {"limits": {"memory": "3Gi"}}},
            {"memory": 3 * GI},
        ),
    ],
)
def test_a_pod_asks_for(what, spec, asked):
    assert pod_requests(spec) == asked
