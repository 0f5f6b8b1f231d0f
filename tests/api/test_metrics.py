"""/metrics over HTTP: forms, and who may come in."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser

from madang.api.identity import digest_of
from madang.api.scraping import ScrapeDoor
from madang.wire.access import Role
from tests.api.serving import Served, serving

OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("metrics")) as one:
        yield one


def values(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{key}={sample.labels[key]}" for key in sorted(sample.labels)): (
            sample.value
        )
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_daemons_own_figures_are_what_the_yard_holds(served: Served) -> None:
    running = str(served.submit(name="busy", gpus=2, members=2)["id"])
    waiting = str(served.submit(name="patient", gpus=4, members=2, project="default")["id"])
    served.wait_until(running, "running")
    served.wait_until(waiting, "waiting")

    found = values(served.client.get("/metrics", headers={"accept": OPEN}).text)

    jobs = "madang_jobs|phase={}|project=default|provisioning=on_demand"
    assert found[jobs.format("running")] == 1
    assert found[jobs.format("waiting")] == 1
    assert found["madang_quota_gpus|group=*|kind=limit|owner=project:small|provisioning=*"] == 2
    held = [name for name in found if name.startswith("madang_gpu_held") and running in name]
    assert len(held) == 4
    assert found["madang_turn_duration_seconds_count"] > 0
    assert found["madang_journal_events_total"] == served.loop.last_seq
    assert found["madang_inbox_requests"] == 0
    assert found["process_resident_memory_bytes"] > 1e6
    waits = "madang_queue_oldest_wait_seconds|project=default|provisioning=on_demand"
    assert found[waits] >= 0


def test_the_form_and_the_packing_are_as_asked_for(served: Served) -> None:
    classic = served.client.get("/metrics", headers={"accept-encoding": "identity"})
    with served.client.stream("GET", "/metrics", headers={"accept": OPEN}) as answer:
        packed = b"".join(answer.iter_raw())
        headers = answer.headers

    assert classic.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# EOF" not in classic.text
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed).endswith(b"# EOF\n")


def test_without_a_token_nobody_reads_it_and_no_other_verb_does_anything(served: Served) -> None:
    with served.stranger() as stranger:
        assert stranger.get("/metrics").status_code == 401
        assert stranger.get("/metrics", headers={"x-forwarded-for": "::1"}).status_code == 401
    assert served.client.post("/metrics").status_code == 405


def test_viewers_may_read_it_and_agents_may_not(served: Served) -> None:
    for role in (Role.VIEWER, Role.AGENT):
        served.yard.ledger.add_token(role.value, digest_of(f"of-{role.value}"), 1, role)
    with (
        served.stranger(authorization="Bearer of-viewer") as viewer,
        served.stranger(authorization="Bearer of-agent") as agent,
    ):
        assert viewer.get("/metrics").status_code == 200
        refused = agent.get("/metrics")

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_a_secret_of_scrapes_opens_metrics_and_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "scrape.token"
    secret.write_text("a-secret-of-scrapes\n")
    (tmp_path / "yard").mkdir()
    with (
        serving(tmp_path / "yard", metrics_token_file=secret) as served,
        served.stranger(authorization="Bearer a-secret-of-scrapes") as prometheus,
        served.stranger(authorization="Bearer another") as other,
    ):
        assert prometheus.get("/metrics").status_code == 200
        assert prometheus.get("/v1/overview").status_code == 401
        assert other.get("/metrics").status_code == 401
        secret.write_text("the-secret-is-renewed")
        assert prometheus.get("/metrics").status_code == 401
        secret.unlink()
        assert prometheus.get("/metrics").status_code == 401


def test_programs_of_this_machine_come_in_where_the_operator_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, metrics_on_loopback=True) as served, served.stranger() as near:
        assert near.get("/metrics").status_code == 200
        assert near.get("/v1/overview").status_code == 401
        for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via"):
            assert near.get("/metrics", headers={header: "a"}).status_code == 401


@pytest.mark.parametrize(
    ("address", "opens"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False),
     ("::ffff:10.0.0.1", False), ("localhost", False), ("", False)],
)  # fmt: skip
def test_only_addresses_of_this_machine_are_of_this_machine(address: str, opens: bool) -> None:
    assert ScrapeDoor(True, None).opens_to_neighbour((address, 1), ()) is opens
    assert not ScrapeDoor(False, None).opens_to_neighbour((address, 1), ())


@pytest.mark.parametrize("content", ["", "\n\n", "short", "fifteen-letters"])
def test_an_empty_or_a_short_secret_opens_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)

    assert not ScrapeDoor(False, tmp_path / "secret").opens_to(content.strip())
    assert not ScrapeDoor(False, tmp_path / "absent").opens_to("")
