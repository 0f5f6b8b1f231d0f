"""When a rule is broken and kept: little histories, and the judge against plain numpy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.rules import SHIPPED, Rule
from madang.telemetry.frames import Subject
from madang.telemetry.rules.judge import Judge, Run, is_for, scopes
from madang.telemetry.rules.measures import Measure, Measurer
from madang.telemetry.rules.preview import flags
from madang.telemetry.stays import Held
from madang.telemetry.store import Store
from tests.telemetry.making import BEGIN_MS, TICK_MS, column, frame

NAN = float("nan")
MINUTE_MS = 60_000


def run(id="train-1.1", **more):
    job = id.rpartition(".")[0]
    known = {"project": "vision", "category": "training", "group": "", "owner": "ada"}
    return Run(id, job, **{**known, "idle_ok": False, **more})


def held(id="train-1.1", devices=(("n1", 0),), since_ms=BEGIN_MS):
    return Held(id, id.rpartition(".")[0], "vision", "training", "", tuple(devices), since_ms)


def rule(how="max", window_s=0, below=None, above=None, **more):
    return Rule(
        "r",
        more.pop("metric", "gpu_util_percent"),
        how,
        window_s * 1000,
        is_above=above is not None,
        threshold=str(below if above is None else above),
        **more,
    )


class History:
    """A store that lives tick by tick, and a judge who looks at each."""

    def __init__(self, path, helds=None):
        self.store = Store(path)
        self.store.open(BEGIN_MS)
        self.judge = Judge(self.store)
        self.broken = set()
        self.tick = 0
        self.store.hold([held()] if helds is None else list(helds))

    def live(self, values, runs=None, rules=()):
        """One tick: the values of n1's devices (None: no frame). (what, value) of what turned."""
        if values is not None:
            seq = self.tick
            columns = (column("gpu_util_percent", values),)
            self.store.take([frame(seq, columns=columns)], BEGIN_MS + seq * TICK_MS)
        self.store.advance(BEGIN_MS + self.tick * TICK_MS + 7_000)
        self.tick += 1
        turned = self.judge.look(list(rules), [run()] if runs is None else runs, self.broken)
        for one in turned:
            pair = (one.rule.id, one.allocation)
            self.broken = self.broken | {pair} if one.is_broken else self.broken - {pair}
        return [(one.is_broken, one.value) for one in turned]


# The rule; one device's percent at each tick (N: missing); what is told at each: + broken, - kept.
WINDOW = rule("mean", 20, below=10)
CASES = {
    "at once": (WINDOW, "50 50 0 0 0", ". . . + ."),
    "kept again": (WINDOW, "0 0 0 50 50", ". + . - ."),
    "after its time": (rule("max", 10, below=5, hold_ms=20_000), "0 0 0 0 0", ". . + . ."),
    "a busy tick begins it anew": (
        rule("max", 10, below=5, hold_ms=20_000),
        "0 0 9 0 0 0 0",
        ". . . . . + .",
    ),
    "hysteresis both ways": (
        rule("max", 10, below=5, hold_ms=10_000),
        "0 0 9 0 9 9 9",
        ". + . . . - .",
    ),
    "missing never fires": (rule("max", 10, below=5), "N N N N", ". . . ."),
    "missing begins it anew": (
        rule("max", 10, below=5, hold_ms=20_000),
        "0 0 N 0 0 0 0",
        ". . . . . + .",
    ),
    "missing keeps nothing": (rule("max", 10, below=5), "0 N N 0", "+ . . ."),
    "half of a window is enough": (rule("mean", 40, below=5), "0 N N 0", ". . . +"),
    "less is not": (rule("mean", 40, below=5), "0 N N N", ". . . ."),
    "a young run is left alone": (
        rule("max", 10, below=5, after_ms=40_000),
        "0 0 0 0 0",
        ". . . + .",
    ),
    "a window that is not full says nothing": (rule("mean", 40, below=5), "0 0 0 0", ". . . +"),
    "one value proves a maximum": (rule("max", 40, above=90), "0 95 0 0", ". + . ."),
    "a quantile since the start": (rule("p25", below=20), "50 50 50 10 50 50", ". . . + - ."),
    "the limit itself is kept": (rule("max", 10, below=5), "5 5 5", ". . ."),
    "rules that are off": (rule("max", 10, below=5, is_on=False), "0 0", ". ."),
}


@pytest.mark.parametrize(("one", "values", "told"), CASES.values(), ids=CASES)
def test_a_little_history_turns_the_rule(tmp_path, one, values, told):
    history = History(tmp_path)
    said = []
    for word in values.split():
        turned = history.live(None if word == "N" else [float(word)], rules=[one])
        said.append("." if not turned else "+" if turned[0][0] else "-")

    assert " ".join(said) == told


def test_what_was_told_before_a_restart_is_not_told_again(tmp_path):
    history = History(tmp_path)
    idle = rule("max", 10, below=5)
    assert [history.live([0.0], rules=[idle]) for _ in range(2)] == [[(True, 0.0)], []]

    history.judge = Judge(history.store)  # a restart: the rows say what is broken

    assert [history.live([0.0], rules=[idle]) for _ in range(3)] == [[], [], []]
    assert history.live([50.0], rules=[idle]) == [(False, 50.0)]


def test_a_run_of_another_job_on_the_same_device_begins_with_nothing(tmp_path):
    history = History(tmp_path)
    idle = rule("sum", 60, above=100, metric="gpu_util_percent")
    for _ in range(3):
        history.live([90.0], rules=[])
    second = held("next-2.1", since_ms=BEGIN_MS + 3 * TICK_MS)
    history.store.hold([second])

    assert history.live([90.0], [run("next-2.1")], [idle]) == []
    assert history.live([90.0], [run("next-2.1")], [idle]) == [(True, 180.0)]


def test_an_ended_run_is_not_looked_at(tmp_path):
    history = History(tmp_path)
    history.store.hold([])

    assert history.live([0.0], rules=[rule("max", 10, below=5)]) == []


def test_nobody_looked_for_long_so_the_time_begins_anew(tmp_path):
    history = History(tmp_path)
    idle = rule("max", 10, below=5, hold_ms=60_000)
    for _ in range(3):
        assert history.live([0.0], rules=[idle]) == []
    history.tick += 20

    told = [history.live([0.0], rules=[idle]) for _ in range(7)]
    assert told == [[]] * 6 + [[(True, 0.0)]]


# -- the numbers, against numpy -------------------------------------------------------------------

percents = st.one_of(st.none(), st.integers(0, 100))


@settings(max_examples=40, deadline=None)
@given(
    ticks=st.lists(st.lists(percents, min_size=3, max_size=3), min_size=2, max_size=40),
    how=st.sampled_from(["p5", "p25", "p50", "p95", "p99", "mean", "min", "max", "sum"]),
    window=st.integers(0, 12),
    fold_at=st.integers(0, 40),
)
def test_what_is_measured_is_what_numpy_says(tmp_path_factory, ticks, how, window, fold_at):
    if not how.startswith("p") and not window:
        window = 1
    path = tmp_path_factory.mktemp("store")
    stays = (held("a-1.1", [("n1", 0), ("n1", 2)]), held("b-2.1", [("n1", 1)]))
    history = History(path, stays)
    for at, values in enumerate(ticks):
        history.live([NAN if one is None else float(one) for one in values])
        if at == fold_at:
            history.store.quantiles("a-1.1", "gpu_util_percent")  # folds one, not the other
    measure = (Measure("gpu_util_percent", how, window), False)
    found = Measurer(history.store, ["a-1.1", "b-2.1"]).values({measure: np.array([True, True])})

    table = np.array([[NAN if one is None else one for one in row] for row in ticks], float)
    for value, devices in zip(found[measure], ([0, 2], [1]), strict=True):
        assert_same(value, expected(table[-window:, devices], how, window, len(ticks)))


def assert_same(value, wanted):
    assert (np.isnan(value) and np.isnan(wanted)) or value == pytest.approx(wanted, rel=1e-6)


def expected(values, how, window, age):
    known = values[~np.isnan(values)]
    places = max(window, 0) * values.shape[1] if window else values.size
    is_proof = how == "min"
    if not len(known) or (not is_proof and (2 * len(known) < places or age < window)):
        return NAN
    if how.startswith("p"):
        return np.quantile(known, int(how[1:]) / 100, method="inverted_cdf")
    return getattr(np, how)(known)


# -- hysteresis -----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    course=st.lists(st.sampled_from(["known", "wrong", "missing"]), max_size=80),
    hold=st.integers(0, 9),
)
def test_a_rule_never_turns_twice_within_its_time(course, hold):
    told = flags([one != "missing" for one in course], [one == "wrong" for one in course], hold)

    turns = np.flatnonzero(np.diff(told.astype(int), prepend=0))
    assert all(later - before > hold for before, later in itertools.pairwise(turns))
    for turn in turns:  # and each has seen nothing else for as long
        seen = course[turn - hold : turn + 1]
        assert seen == ["wrong" if told[turn] else "known"] * (hold + 1)


@settings(max_examples=25, deadline=None)
@given(
    course=st.lists(st.sampled_from([0, 50, None]), min_size=1, max_size=30),
    hold=st.integers(0, 5),
)
def test_the_judge_and_the_preview_turn_alike(tmp_path_factory, course, hold):
    history = History(tmp_path_factory.mktemp("store"))
    idle = rule("max", 10, below=5, hold_ms=hold * TICK_MS)
    told = []
    for value in course:
        history.live(None if value is None else [value], rules=[idle])
        told.append(bool(history.broken))

    known, wrong = [one is not None for one in course], [one == 0 for one in course]
    assert told == list(flags(known, wrong, hold))


# -- scopes ---------------------------------------------------------------------------------------

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(tuple)


@settings(max_examples=100, deadline=None)
@given(
    rules=st.lists(
        st.builds(
            lambda c, p, j, g, o, s: rule(
                "max", 10, below=5, categories=c, projects=p, jobs=j, groups=g, owner=o,
                spares_idle_ok=s,
            ),
            words, words, words, words, st.sampled_from(["", "a", "b"]), st.booleans(),
        ),
        min_size=1, max_size=4,
    ),
    runs=st.lists(
        st.builds(
            lambda j, c, p, g, o, i: Run(f"{j}.1", j, p, c, g, o, i),
            st.sampled_from(["a", "b-1", "a-2"]), st.sampled_from("abc"),
            st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from("abc"), st.booleans(),
        ),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
def test_scopes_at_once_are_scopes_one_by_one(rules, runs):
    made = scopes(rules, runs)

    assert made.tolist() == [[is_for(one, each) for each in runs] for one in rules]


# -- what is shipped, and other subjects ----------------------------------------------------------


def test_shipped_rules_flag_the_idle_run_and_not_the_steady_one(tmp_path):
    stays = (held("idle-1.1", [("n1", 0)]), held("steady-2.1", [("n1", 1)]))
    history = History(tmp_path, stays)
    runs = [run("idle-1.1"), run("steady-2.1")]
    for tick in range(430):
        steady = 90.0 if tick % 10 else 10.0  # it saves now and then
        history.live([1.0, steady], runs, SHIPPED.values())

    assert history.broken == {(name, "idle-1.1") for name in SHIPPED}


def test_reports_and_nodes_are_measured_too(tmp_path):
    history = History(tmp_path)
    slow = rule("mean", 20, below=900, metric="report_tokens_per_s")
    hot = rule("max", 10, above=90, metric="node_cpu_percent")
    columns = (
        column("report_tokens_per_s", [500.0], Subject.MEMBER, ["train-1.1/0"]),
        column("node_cpu_percent", [99.0], Subject.NODE, [""]),
    )
    for seq in range(2):
        history.store.take([frame(seq, columns=columns)], BEGIN_MS + seq * TICK_MS)
        history.store.advance(BEGIN_MS + seq * TICK_MS + 7_000)
    turned = history.judge.look([slow, hot], [run()], set())

    assert [(one.rule.metric, one.value) for one in turned] == [
        ("report_tokens_per_s", 500.0),
        ("node_cpu_percent", 99.0),
    ]
