"""What a pod asks for, counted exactly as the kubelet and kube-scheduler count it.

Quantities are exact: cores in thousandths, memory in bytes, rounded up as Kubernetes does
(`Quantity.MilliValue`, `Value`). The sum over containers follows `PodRequests` of
k8s.io/component-helpers/resource: the larger of what runs together in the end and of what any
moment of initialisation needs, sidecar init containers counted into both, then what the pod as a
whole states instead (cpu, memory and huge pages, since 1.32), then the overhead of its runtime.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE])|[eE]([+-]?\d+))?"
)
_SUFFIX = {
    "n": Decimal(10) ** -9,
    "u": Decimal(10) ** -6,
    "m": Decimal(10) ** -3,
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}
_EXPONENT_MAX = 30
_OF_A_POD = ("cpu", "memory")  # and huge pages: what a pod may state as a whole

Requests = dict[str, int]  # cpu in thousandths of a core, all else in whole units (bytes, devices)


class QuantityError(ValueError):
    """Not a quantity."""


@lru_cache(maxsize=4_096)
def quantity(text: str, scale: int = 1) -> int:
    """`1.5`, `100m`, `64Gi`, `1e3` times `scale`, rounded up to a whole number.

    Raises:
        QuantityError: it is none; says what one looks like.
    """
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or len(text) > 64 or abs(int(found[3] or 0)) > _EXPONENT_MAX:
        raise QuantityError(f"{text[:64]!r} is no quantity; they look like 500m, 2, 1.5, 64Gi, 1e3")
    value = Decimal(found[1])
    if found[2]:
        value *= _SUFFIX[found[2]]
    elif found[3]:
        value = value.scaleb(int(found[3]))
    return int((value * scale).to_integral_value(ROUND_CEILING))


def amounts(stated: Mapping[str, Any] | None) -> Requests:
    """A map of quantities as integers. Raises: QuantityError."""
    return {
        name: quantity(str(value), 1000 if name == "cpu" else 1)
        for name, value in (stated or {}).items()
    }


def pod_requests(spec: Mapping[str, Any]) -> Requests:
    """What a node must have for the pod of this `PodSpec`. Zero amounts are left out.

    A limit without a request is its own request: the API server writes that into pods, but not
    into the templates of those who make pods.

    Raises:
        QuantityError: some amount is no quantity.
    """
    together = _sum(_of_container(one) for one in spec.get("containers") or [])
    sidecars: Requests = {}
    first: Requests = {}
    for one in spec.get("initContainers") or []:
        asked = _of_container(one)
        if one.get("restartPolicy") == "Always":
            together = _sum((together, asked))
            sidecars = _sum((sidecars, asked))
            moment = sidecars
        else:
            moment = _sum((asked, sidecars))
        first = _most(first, moment)
    total = _most(together, first)
    resources = spec.get("resources") or {}
    stated = amounts(resources.get("requests"))
    limits = amounts(resources.get("limits"))
    for name, amount in {**limits, **total, **stated}.items():
        if name in _OF_A_POD or name.startswith("hugepages-"):
            total[name] = amount
    total = _sum((total, amounts(spec.get("overhead"))))
    return {name: amount for name, amount in total.items() if amount}


def _of_container(container: Mapping[str, Any]) -> Requests:
    resources = container.get("resources") or {}
    return {**amounts(resources.get("limits")), **amounts(resources.get("requests"))}


def _sum(parts: Iterable[Requests]) -> Requests:
    total: Requests = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total


def _most(one: Requests, other: Requests) -> Requests:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}
