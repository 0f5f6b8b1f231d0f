"""With real parts: Prometheus scrapes us, promtool judges us, VictoriaMetrics and Prometheus answer
for the embedded store.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from madang.telemetry.frames import Subject
from madang.telemetry.out.promql import SELECTOR_CHARS_MAX, RemoteHistory, asks
from madang.telemetry.out.settings import Destination, History, OutSettings
from madang.telemetry.out.totals import Totals
from madang.telemetry.out.writer import Writer
from madang.telemetry.queries import BadQuery, HistoryAway, How, Query, Series, stepped
from madang.telemetry.store import Store
from madang.telemetry.taps import Taken
from madang.testing.monitors import Prometheus, VictoriaMetrics, program
from tests.api.serving import serving
from tests.telemetry.out.making import frame

pytestmark = pytest.mark.metrics

SECRET = "a-secret-of-scrapes"
SCRAPING = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: madang
    honor_labels: true
    authorization: {{credentials_file: {secret}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def test_prometheus_scrapes_it_and_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    (tmp_path / "yard").mkdir()
    with serving(tmp_path / "yard", metrics_token_file=secret) as served:
        job = str(served.submit(name="busy", gpus=2)["id"])
        served.wait_until(job, "running")
        config = SCRAPING.format(secret=secret, port=served.port)
        with Prometheus(tmp_path / "prometheus", config) as prometheus:
            until_s = time.monotonic() + 30
            while not (held := prometheus.query("madang_gpu_held")):
                assert time.monotonic() < until_s, prometheus.get("/api/v1/targets")
                time.sleep(0.1)
            (target,) = json.loads(prometheus.get("/api/v1/targets"))["data"]["activeTargets"]
            known = json.loads(prometheus.get("/api/v1/metadata"))["data"]
        text = served.client.get("/metrics").text
    judged = subprocess.run(
        [program("promtool"), "check", "metrics"],
        check=False,
        input=text,
        capture_output=True,
        text=True,
    )

    assert (target["health"], target["lastError"]) == ("up", "")
    assert {one["metric"]["job"] for one in held} == {job}, "our own label, not the scraper's"
    assert known["madang_turn_duration_seconds"][0]["type"] == "histogram"
    assert known["madang_journal_events"][0]["type"] == "counter"
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")


# -- the same question to both stores ------------------------------------------------------------

TICKS = 120
GPUS = tuple((f"n{node}", str(gpu)) for node in range(3) for gpu in range(4))
LABELS = (("cluster", "lab"),)


def sensed(begin_ms: int) -> list[Taken]:
    """Twenty minutes of three nodes; n2 is silent for a while, and one GPU has no power sensor."""
    chance = np.random.default_rng(7)
    found = []
    for tick in range(TICKS):
        for node in range(3):
            values = {
                "gpu_util_percent": chance.integers(0, 101, 4).tolist(),
                "gpu_power_w": [*chance.uniform(80, 700, 3).tolist(), float("nan")],
                "gpu_pcie_rx_bytes": (chance.integers(0, 1000, 4) * 1_000_000).tolist(),
                "gpu_throttle_bits": [4, 0, 0, 8],
                "node_load": [float(chance.uniform(0, 90))],
                "member_cpu_percent": [100.0 * node + tick % 7],
                "port_rx_bytes": [1000.0, 2000.0],
                "report_loss/train": [1 / (1 + tick)],
            }
            keys = {
                "member_cpu_percent": (f"digits-1.1/{node}",),
                "port_rx_bytes": ("mlx5_0/1", "mlx5_1/1"),
                "report_loss/train": (f"digits-1.1/{node}",),
            }
            if node != 2 or not 40 <= tick < 60:
                found.append(frame(f"n{node}", tick, begin_ms + 10_000 * tick, values, keys))
    return found


class Both:
    """The embedded store and a remote one that have been told the same."""

    def __init__(self, folder: Path, url: str, write_url: str) -> None:
        self.begin_ms = (int(time.time() * 1000) - TICKS * 10_000 - 60_000) // 60_000 * 60_000
        self.store = Store(folder / "store")
        self.remote = RemoteHistory(History(url, labels=LABELS))
        destination = Destination("remote", write_url)
        settings = OutSettings(labels=LABELS, destinations=(destination,), figures_every_s=1e9)
        writer = Writer(folder / "out", settings, Totals())
        writer.open()
        self.store.taps.append(writer.take)
        for one in sensed(self.begin_ms):
            assert self.store.take([one.frame], one.at_ms)[0].taken
        until_s = time.monotonic() + 30
        while writer.senders[0].lag_bytes:
            assert time.monotonic() < until_s, writer.senders[0].counts
            time.sleep(0.02)
        assert writer.senders[0].counts.refused == 0
        writer.close()


def asked_of(remote: RemoteHistory, query: Query) -> Series:
    """The series by the remote store alone."""
    return stepped(query, [points for _, points in remote.points(query, query.to_ms)])


@pytest.fixture(scope="module", params=["victoria-metrics", "prometheus"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "prometheus":
        with Prometheus(folder / "remote") as remote:
            told = Both(folder, remote.url, f"{remote.url}/api/v1/write")
            yield told
            told.remote.close()
        return
    with VictoriaMetrics(folder / "remote") as remote:
        told = Both(folder, remote.url, f"{remote.url}/api/v1/write")
        remote.flush()
        yield told
        told.remote.close()


NODES = tuple((f"n{node}", "") for node in range(3))
MEMBERS = tuple((f"n{node}", f"digits-1.1/{node}") for node in range(3))
PORTS = (("n1", "mlx5_1/1"), ("n0", "mlx5_0/1"))

ASKED: list[tuple[str, Subject, tuple[tuple[str, str], ...], How]] = [
    ("gpu_util_percent", Subject.GPU, GPUS, "mean"),
    ("gpu_util_percent", Subject.GPU, GPUS, "max"),
    ("gpu_util_percent", Subject.GPU, GPUS[5:6], "min"),
    ("gpu_util_percent", Subject.GPU, GPUS, "sum"),
    ("gpu_power_w", Subject.GPU, GPUS[::-1], "mean"),
    ("gpu_throttle_bits", Subject.GPU, GPUS, "max"),
    ("gpu_pcie_rx_bytes", Subject.GPU, GPUS[:8], "sum"),
    ("gpu_pcie_rx_bytes", Subject.GPU, GPUS[:8], "mean"),
    ("gpu_pcie_rx_bytes", Subject.GPU, GPUS[:8], "max"),
    ("node_load", Subject.NODE, NODES, "mean"),
    ("member_cpu_percent", Subject.MEMBER, MEMBERS, "max"),
    ("port_rx_bytes", Subject.PORT, PORTS, "sum"),
    ("report_loss/train", Subject.MEMBER, MEMBERS, "min"),
]


@pytest.mark.parametrize("step_ms", [10_000, 60_000, 300_000])
@pytest.mark.parametrize(("metric", "subject", "keys", "how"), ASKED)
def test_both_stores_give_the_same_series(
    both: Both,
    metric: str,
    subject: Subject,
    keys: tuple[tuple[str, str], ...],
    how: How,
    step_ms: int,
) -> None:
    query = Query(
        metric, subject, keys, both.begin_ms, both.begin_ms + TICKS * 10_000, step_ms, how
    )

    embedded = both.store.query(query)
    remote = asked_of(both.remote, query)

    # What was added before the first sample of a total, nobody can tell from it.
    later = slice(1 if metric.endswith("bytes") else 0, None)
    assert remote.times_ms.tolist() == embedded.times_ms.tolist()
    assert np.isfinite(embedded.values[later]).mean() > 0.6
    np.testing.assert_allclose(
        remote.values[later], embedded.values[later], rtol=1e-5, equal_nan=True
    )


def test_what_was_added_while_nobody_looked_is_found_when_one_looks_again(both: Both) -> None:
    key = (("n2", "0"),)
    end_ms = both.begin_ms + TICKS * 10_000
    query = Query("gpu_pcie_rx_bytes", Subject.GPU, key, both.begin_ms, end_ms, 300_000, "sum")

    embedded = np.nansum(both.store.query(query).values)
    remote = np.nansum(asked_of(both.remote, query).values)

    assert 0.5 * embedded < remote <= embedded


@pytest.mark.parametrize("step_ms", [10_000, 60_000, 300_000])
@pytest.mark.parametrize("how", ["mean", "max", "min", "sum"])
def test_a_store_that_began_later_asks_the_remote_one_for_what_was_before(
    both: Both, tmp_path: Path, how: How, step_ms: int
) -> None:
    seam_ms = both.begin_ms + 540_000
    later = Store(tmp_path, remote=both.remote.points)
    later.open(seam_ms)
    for one in sensed(both.begin_ms):
        if one.at_ms >= seam_ms:
            later.take([one.frame], one.at_ms)
    end_ms = both.begin_ms + TICKS * 10_000
    query = Query("gpu_power_w", Subject.GPU, GPUS, both.begin_ms + 30_000, end_ms, step_ms, how)

    whole, joined = both.store.query(query), later.query(query)

    assert joined.notice == ""
    np.testing.assert_allclose(joined.values, whole.values, rtol=1e-4, equal_nan=True)
    later.close()


def test_while_the_remote_store_is_away_what_is_kept_here_answers_and_it_is_said(
    tmp_path: Path,
) -> None:
    remote = RemoteHistory(History("http://127.0.0.1:9", timeout_s=1.0))
    store = Store(tmp_path, remote=remote.points)
    frames = sensed(1_790_000_040_000)
    store.open(frames[0].at_ms)
    for one in frames:
        store.take([one.frame], one.at_ms)
    begin_ms, end_ms = frames[0].at_ms, frames[-1].at_ms

    recent = Query("node_load", Subject.NODE, NODES, begin_ms, end_ms, 60_000)
    longer = Query("node_load", Subject.NODE, NODES, begin_ms - 600_000, end_ms, 60_000)
    old = Query("node_load", Subject.NODE, NODES, begin_ms - 600_000, begin_ms, 60_000)

    assert store.query(recent).notice == ""
    answer = store.query(longer)
    assert "127.0.0.1 is away" in answer.notice
    assert "this is what is kept here" in answer.notice
    assert np.isfinite(answer.values[10:, :2]).all()
    assert np.isnan(answer.values[:10]).all()
    assert "127.0.0.1 is away" in store.query(old).notice
    store.close()


def test_a_question_about_many_nodes_is_put_in_parts_that_any_store_takes(tmp_path: Path) -> None:
    keys = tuple((f"rack-{n // 40}.node-{n}", str(gpu)) for n in range(2_000) for gpu in range(2))
    query = Query("gpu_power_w", Subject.GPU, keys, 0, 60_000, 60_000)

    parts = list(asks(query, (("cluster", 'a "quoted" one'),)))

    assert len(parts) > 5
    assert all(len(one.selector) <= SELECTOR_CHARS_MAX for one in parts)
    assert tuple(key for one in parts for key in one.keys) == keys
    with VictoriaMetrics(tmp_path) as remote:
        history = RemoteHistory(History(remote.url))
        assert not np.isfinite(asked_of(history, query).values).any()
        history.close()


def test_labels_of_other_clusters_are_not_taken_for_ours(both: Both) -> None:
    other = RemoteHistory(History(both.remote._settings.url, labels=(("cluster", "other"),)))
    end_ms = both.begin_ms + 600_000
    query = Query("node_load", Subject.NODE, NODES, both.begin_ms, end_ms, 60_000)

    assert not np.isfinite(asked_of(other, query).values).any()
    other.close()


def test_a_store_that_is_away_or_is_none_says_so(tmp_path: Path) -> None:
    with VictoriaMetrics(tmp_path) as remote:
        away = RemoteHistory(History(remote.url))
        none = RemoteHistory(History(f"{remote.url}/wrong"))
        query = Query("node_load", Subject.NODE, NODES, 0, 600_000, 60_000)
        with pytest.raises(HistoryAway, match=r"is \[history\] url in telemetry-out\.toml right"):
            asked_of(none, query)
        assert not np.isfinite(asked_of(away, query).values).any()
        none.close()
    with pytest.raises(HistoryAway, match=r"127\.0\.0\.1 is away"):
        asked_of(away, query)
    assert "is away" in away.trouble
    with pytest.raises(BadQuery, match="no metric 'nonsense'"):
        asked_of(away, Query("nonsense", Subject.NODE, NODES, 0, 600_000, 60_000))
