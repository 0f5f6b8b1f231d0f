"""What a job file says of nodes: `needs` of their labels, and taints that it `tolerates`.

A need is written as Kubernetes' label selectors are: `rack=r1`, `rack!=r1`, `rack in (r1,r2)`,
`rack notin (r1)`, `rack`, `!rack`, and for numbers `generation>3`, `generation<3`. A toleration is
`key`, `key=value`, `key:NoSchedule`, `key=value:NoExecute`; `*` tolerates everything.
"""

import re

_KEY = r"(?P<key>[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?)"
_ONE = r"[A-Za-z0-9._-]{0,63}"
_NEEDS = (
    re.compile(rf"{_KEY}\s+(?P<how>in|notin)\s+\((?P<values>{_ONE}(?:,\s*{_ONE})*)\)"),
    re.compile(rf"{_KEY}\s*(?P<how>==?|!=)\s*(?P<values>{_ONE})"),
    re.compile(rf"{_KEY}\s*(?P<how>[<>])\s*(?P<values>-?[0-9]{{1,18}})"),
    re.compile(rf"(?P<how>!?)\s*{_KEY}(?P<values>)"),
)
_HOWS = {
    "=": "in",
    "==": "in",
    "in": "in",
    "!=": "not_in",
    "notin": "not_in",
    "<": "lt",
    ">": "gt",
    "": "exists",
    "!": "absent",
}
_TOLERATION = re.compile(
    rf"(?:\*|{_KEY})(?:=(?P<value>{_ONE}))?(?::(?P<effect>NoSchedule|NoExecute))?"
)

Need = tuple[str, str, tuple[str, ...]]  # label, how, values
Toleration = tuple[str, str, str, str]  # key, how, value, effect


def need_of(text: str) -> Need:
    """One need.

    Raises:
        ValueError: it is none; says how they are written.
    """
    for form in _NEEDS:
        if found := form.fullmatch(text.strip()):
            how = _HOWS[found["how"]]
            bare = how in ("exists", "absent")
            values = () if bare else tuple(one.strip() for one in found["values"].split(","))
            return found["key"], how, values
    raise ValueError(
        f"{text[:80]!r} is no need; they look like rack=r1, rack!=r1, 'rack in (r1,r2)', "
        "'rack notin (r1)', rack, !rack, 'generation>3'"
    )


def toleration_of(text: str) -> Toleration:
    """One toleration.

    Raises:
        ValueError: it is none; says how they are written.
    """
    found = _TOLERATION.fullmatch(text.strip())
    if found is None or (found["key"] is None and found["value"] is not None):
        raise ValueError(
            f"{text[:80]!r} is no toleration; they look like key, key=value, key:NoSchedule, "
            "key=value:NoExecute, or * for all"
        )
    how = "exists" if found["value"] is None else "equal"
    return found["key"] or "", how, found["value"] or "", found["effect"] or ""


def taint_of(text: str) -> tuple[str, str, str]:
    """(key, value, effect) of `key=value:NoSchedule`, value and effect left out or not.

    Raises:
        ValueError: it is none.
    """
    key, _, value, effect = toleration_of(text)
    if not key:
        raise ValueError("a taint has a key: key, key=value, key=value:NoSchedule")
    return key, value, effect or "NoSchedule"
