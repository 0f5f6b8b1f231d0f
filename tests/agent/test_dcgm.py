"""GPUs by the page of a dcgm-exporter: units, both spellings, blanks, resets, and its Xids."""

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from madang.agent.dcgm import Dcgm
from madang.agent.exposition import samples
from madang.agent.http import HttpError
from madang.telemetry.metrics import METRICS
from tests.agent.doubles import serving, values

NOW_MS = 1_800_000_000_000


def page(
    fields: dict[str, float], host: str = 'Hostname="n1"', gpu: str = "0", more: str = ""
) -> str:
    """A page with these fields of one GPU."""
    labels = f'gpu="{gpu}",UUID="GPU-1",pci_bus_id="00000000:3B:00.0",device="nvidia0",{host}{more}'
    return "".join(
        f"# HELP {name} Help, of \\\\ it.\n# TYPE {name} gauge\n{name}{{{labels}}} {value}\n"
        for name, value in fields.items()
    )


def told(*pages: str, every_ms: int = 10_000, node: str = "n1") -> dict[str, dict[str, float]]:
    """What the last of these pages tells."""
    dcgm = Dcgm("http://127.0.0.1:9400/metrics", node)
    for at, one in enumerate(pages):
        reading = dcgm.understood(one, NOW_MS + at * every_ms)
    return values(reading)


@pytest.mark.parametrize(
    ("field", "value", "metric", "expected"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", 97, "gpu_util_percent", 97),
        ("DCGM_FI_PROF_SM_ACTIVE", 0.815, "gpu_sm_active_percent", 81.5),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.5, "gpu_tensor_active_percent", 50),
        ("DCGM_FI_PROF_DRAM_ACTIVE", 1.0, "gpu_dram_active_percent", 100),
        ("DCGM_FI_DEV_FB_USED", 61_440, "gpu_memory_used_mib", 61_440),
        ("DCGM_FI_DEV_FB_USED_PERCENT", 0.754, "gpu_memory_used_percent", 75),
        ("DCGM_FI_DEV_POWER_USAGE", 651.25, "gpu_power_w", 651.25),
        ("DCGM_FI_DEV_GPU_TEMP", 61, "gpu_temperature_c", 61),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 4, "gpu_throttle_bits", 4),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 4, "gpu_throttle_bits", 4),
    ],
)
def test_a_field_has_its_canonical_name_and_unit(field, value, metric, expected):
    assert told(page({field: value})) == {metric: {"0": pytest.approx(expected)}}


@pytest.mark.parametrize(
    ("field", "first", "second", "metric", "grown"),
    [
        ("DCGM_FI_PROF_PCIE_TX_BYTES", 5e9, 3e9, "gpu_pcie_tx_bytes", 3e10),  # a rate
        ("DCGM_FI_PROF_NVLINK_RX_BYTES", 0, 9e9, "gpu_nvlink_rx_bytes", 9e10),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 5, 8, "gpu_pcie_replays", 3),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 5, 2, "gpu_ecc_uncorrected", 2),  # was reset
        ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 3e9, 3e9 + 7, "gpu_ecc_corrected", 7),
    ],
)
def test_what_counts_is_the_increase_since_the_last_page(field, first, second, metric, grown):
    assert told(page({field: first})) == {}
    assert told(page({field: first}), page({field: second})) == {
        metric: {"0": pytest.approx(grown, rel=1e-6)}
    }


def test_kinds_of_errors_and_of_rows_are_added_up():
    links = METRICS["gpu_nvlink_errors"].dcgm
    rows = METRICS["gpu_remapped_rows"].dcgm
    first = page({**dict.fromkeys(links, 10), **dict.fromkeys(rows, 3)})
    second = page({**{name: 10 + at for at, name in enumerate(links)}, **dict.fromkeys(rows, 3)})

    assert told(first, second) == {
        "gpu_nvlink_errors": {"0": sum(range(len(links)))},
        "gpu_remapped_rows": {"0": 3 * len(rows)},
    }


@pytest.mark.parametrize(
    ("pending", "failed", "expected"), [(0, 0, 0), (1, 0, 1), (0, 1, 2), (1, 1, 2)]
)
def test_rows_that_wait_or_failed_are_one_flag(pending, failed, expected):
    fields = {"DCGM_FI_DEV_ROW_REMAP_PENDING": pending, "DCGM_FI_DEV_ROW_REMAP_FAILURE": failed}

    assert told(page(fields)) == {"gpu_remap_pending": {"0": expected}}


@pytest.mark.parametrize(
    "host", ['Hostname="n1"', 'hostname="n1"', 'Hostname="pod-17-xyz"', 'x="y"']
)
def test_the_host_has_two_spellings_and_one_host_is_ours_whatever_its_name(host):
    assert told(page({"DCGM_FI_DEV_GPU_UTIL": 5}, host)) == {"gpu_util_percent": {"0": 5}}


@pytest.mark.parametrize("node", ["n1", "n1.example.org"])
@pytest.mark.parametrize("host", ["n1", "n1.example.org"])
def test_of_several_hosts_only_this_nodes_lines_count(node, host):
    both = page({"DCGM_FI_DEV_GPU_UTIL": 5}, f'Hostname="{host}"')
    both += page({"DCGM_FI_DEV_GPU_UTIL": 99}, 'hostname="n2"', "1")

    assert told(both, node=node) == {"gpu_util_percent": {"0": 5}}


def test_parts_of_a_gpu_and_many_gpus_have_keys_in_order():
    text = "".join(page({"DCGM_FI_DEV_FB_USED": at}, gpu=str(at)) for at in (10, 2, 0))
    text += page({"DCGM_FI_DEV_FB_USED": 7}, more=',GPU_I_ID="1",GPU_I_PROFILE="1g.10gb"')

    assert told(text)["gpu_memory_used_mib"] == {"0": 0, "0/1": 7, "2": 2, "10": 10}


@pytest.mark.parametrize(
    "blank", [9223372036854775794, 2147483632, 140737488355328e6, np.nan, np.inf]
)
def test_what_dcgm_has_not_is_missing_and_not_a_number(blank):
    assert told(page({"DCGM_FI_DEV_POWER_USAGE": blank, "DCGM_FI_DEV_GPU_TEMP": 50})) == {
        "gpu_temperature_c": {"0": 50}
    }


def test_memory_in_percent_is_worked_out_where_it_is_not_told():
    found = told(page({"DCGM_FI_DEV_FB_USED": 60, "DCGM_FI_DEV_FB_FREE": 20}))

    assert found == {"gpu_memory_used_mib": {"0": 60}, "gpu_memory_used_percent": {"0": 75}}


def test_an_xid_is_a_signal_when_it_changes_and_never_a_sticky_value():
    dcgm = Dcgm("http://x/metrics", "n1")
    codes = [79, 79, 79, 48, 48, 0, 48]
    pages = [page({"DCGM_FI_DEV_XID_ERRORS": code}) for code in codes]
    signals = [dcgm.understood(one, NOW_MS + at).signals for at, one in enumerate(pages)]

    # what the first page says may be of last year
    assert [[one.code for one in some] for some in signals] == [[], [], [], [48], [], [], [48]]
    assert signals[3][0].key == "0"
    assert not dcgm.understood(pages[0], NOW_MS).columns


def test_who_reads_the_kernels_log_is_not_told_xids_twice():
    dcgm = Dcgm("http://x/metrics", "n1", lambda: False)
    for code in (0, 79):
        found = dcgm.understood(page({"DCGM_FI_DEV_XID_ERRORS": code}), NOW_MS)

    assert found.signals == ()


@pytest.mark.parametrize("pci", ["00000000:3B:00.0", "0000:3b:00.0"])
def test_the_page_tells_which_gpu_an_xid_of_the_kernels_log_is_of(pci):
    dcgm = Dcgm("http://x/metrics", "n1")
    text = page({"DCGM_FI_DEV_GPU_UTIL": 5}, gpu="6").replace("00000000:3B:00.0", pci)
    text += page({"DCGM_FI_DEV_FB_USED": 5}, gpu="7").replace("00000000:3B:00.0", "what")
    dcgm.understood(text, NOW_MS)

    assert dcgm.gpu_at("0000:3b:00") == "6"
    assert dcgm.gpu_at("0000:99:00") is None


def test_an_exporter_that_is_away_is_missing_until_it_is_back(caplog):
    good = page({"DCGM_FI_DEV_GPU_UTIL": 5}).encode()
    with serving((500, {}, b"no"), (500, {}, b"no"), (200, {}, good)) as served:
        dcgm = Dcgm(f"{served.url}/metrics", "n1")
        found = [values(dcgm.read(NOW_MS + at)) for at in range(3)]

    assert found == [{}, {}, {"gpu_util_percent": {"0": 5}}]
    assert caplog.text.count("no dcgm-exporter") == 1
    assert [path for path, _, _ in served.requests] == ["/metrics"] * 3


@pytest.mark.parametrize(
    "url", ["ftp://x/", "x:9400", "http://", "http://u:p@x/", "http://x:99999/"]
)
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(HttpError):
        Dcgm(url, "n1")


# -- the text format -------------------------------------------------------------------------------


def test_the_small_reader_reads_what_the_library_reads():
    text = page({"DCGM_FI_DEV_GPU_UTIL": 5, "DCGM_FI_PROF_SM_ACTIVE": 0.25, "OTHER": 1e-9})
    text += 'WITH{a="x\\"y\\\\z\\n",b=""} +Inf 1700000000000\nBARE 7\nODD{c="}, d=\\"1"} NaN\n'
    ours = [(one.name, dict(one.labels), one.value) for one in samples(text)]
    theirs = [
        (one.name, one.labels, one.value)
        for family in text_string_to_metric_families(text)
        for one in family.samples
    ]

    assert len(ours) == 6
    np.testing.assert_equal(sorted(ours, key=str), sorted(theirs, key=str))


@pytest.mark.parametrize(
    "line", ["", "#", "A", "A{", 'A{b="c" 5', "A{b=c} 5", "A five", 'A{"b"} 5', "{} 1", "A 5 6 7"]
)
def test_a_line_that_is_no_sample_costs_only_itself(line):
    text = f"{line}\nGOOD 1\n"

    assert [(one.name, one.value) for one in samples(text)] == [("GOOD", 1.0)]
