"""The kernel log's parser: every published form, what is none of them, and much noise."""

import csv
import os
import random
from pathlib import Path

import pytest

from madang.agent.kernel_log import Mlx5, NvLink5, Spoken, Stamp, read_line, short_address, spoken

KMSG = b"4,4471,3023054882,-;"

# line, code, pci, pid, name, MIG instance. Published by: NVIDIA "Xid Errors" (a, b), "GPU Memory
# Error Management" (c), NVIDIA/open-gpu-kernel-modules, leptonai/gpud, DataDog's agent (d).
FORMS = [
    ("NVRM: Xid (0000:03:00): 14, Channel 00000001", 14, "0000:03:00", 0, "", -1),
    ("NVRM: Xid (0000:01:00): 16, \tHead 00000000 Count 00006e2e", 16, "0000:01:00", 0, "", -1),
    ("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", 79, "0000:01:00", 0, "", -1),
    ("NVRM: Xid (PCI:0000:01:00): 79, ", 79, "0000:01:00", 0, "", -1),
    ("NVRM: Xid (PCI:0000:97:00): 31", 31, "0000:97:00", 0, "", -1),
    (
        "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off.",
        79, "0000:05:00", 0, "", -1,
    ),
    (
        "NVRM: Xid (PCI:0000:3b:00): 31, pid=3634001, name=vectorAdd, Ch 0000000a, intr 00000000.",
        31, "0000:3b:00", 3634001, "vectorAdd", -1,
    ),
    (
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). "
        "RST: No, D-RST: No"),
        94, "0000:01:00", 7194, "", 5,
    ),
    (
        "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception",
        13, "0000:3b:00", 9, "a", 1,
    ),
    (
        "NVRM: Xid (PCI:0000:00:1e): 154, GPU recovery action changed from 0x0 (None) to 0x1",
        154, "0000:00:1e", 0, "", -1,
    ),
    ("NVRM: Xid (PCI:0000:C1:00.0): 43, channel 0x1", 43, "0000:c1:00", 0, "", -1),
    (
        ("NVRM: Xid (PCI:0018:01:00): 145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal "
        "XC0 i0 Link 13 (0x0409a0c2 0x00000008 0x00000001 0x00000000 0x00100000 0x00000004)"),
        145, "0018:01:00", 876767, "ray::WorkerDict", -1,
    ),
]  # fmt: skip

# what stands before the message, in the logs that there are
HEADS = {
    "kmsg": "4,4471,3023054882,-;",
    "kmsg with caller": "4,4471,3023054882,-,caller=T12;",
    "dmesg": "[ 3023.054882] ",
    "dmesg -T": "[Fri Aug 30 11:43:09 2024] ",
    "syslog": "May 10 22:25:01 jambi kernel: [ 3023.054882] ",
    "journalctl": "2024-08-30T11:43:09.250000+02:00 node-17 kernel: ",
    "bare": "",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("line", "code", "pci", "pid", "name", "instance"), FORMS)
def test_every_published_form_is_read_behind_every_head(head, line, code, pci, pid, name, instance):
    found = read_line((HEADS[head] + line).encode())

    assert found is not None
    assert (found.kind, found.code, found.pci) == ("xid", code, pci)
    assert (found.pid, found.name, found.instance) == (pid, name, instance)
    assert found.text.startswith("NVRM: Xid (")


NVLINK5 = [
    (
        "149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 (0x00086226 0x00000001 0x00000000)",
        NvLink5("NETIR_BER_EVENT", False, 0, 3, 0x00086226, 1), 0,
    ),
    (
        "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000)",
        NvLink5("NETIR_LINK_EVT", True, 0, 8, 0x004505C6, 0), 4,
    ),
    (
        "149, NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x00000000)",
        NvLink5("NETIR", True, 0, -1, 0x000FE406, 0), 0,
    ),
    (
        "145, pid=4, name=<unknown>, RLW_SRC_TRACK Fatal XC1 i1 Link 00 (0x00000001 0x00000002)",
        NvLink5("RLW_SRC_TRACK", True, 1, 0, 1, 2), 0,
    ),
    (
        "149, NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]",  # before driver 575
        NvLink5("NETIR_LINK_EVT", True, 1, 1, 10, 0), 0,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rest", "expected", "subcode"), NVLINK5)
def test_an_nvlink5_xid_tells_its_unit_its_link_and_its_sub_code(rest, expected, subcode):
    found = read_line(f"NVRM: Xid (PCI:0018:01:00): {rest}".encode())

    assert found is not None
    assert found.nvlink == expected
    assert expected.subcode == subcode


def test_an_nvlink5_xid_that_breaks_off_is_an_xid_all_the_same():
    found = read_line(b"NVRM: Xid (PCI:0018:01:00): 149, NETIR Fatal XC0 i0 Link -1 (0x000fe4")

    assert found is not None
    assert (found.code, found.nvlink) == (149, None)


@pytest.mark.data
def test_every_xid_of_the_catalogue_is_read_in_every_form():
    if not os.environ.get("MADANG_DATA"):
        pytest.skip("MADANG_DATA names no folder with diag/xid_catalog.csv")
    path = Path(os.environ["MADANG_DATA"], "diag", "xid_catalog.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 172
    for row in rows:
        words = row["description"] or row["mnemonic"]
        for form in (
            "NVRM: Xid (0000:3b:00): {}, {}",
            "NVRM: Xid (PCI:0000:3b:00): {}, {}",
            "NVRM: Xid (PCI:0000:3b:00): {}, pid=77, name=python, {}",
            "NVRM: Xid (PCI:0000:3b:00): {}, SAW_MVB Fatal XC0 i0 Link 02 (0x00000021 0x0000) {}",
        ):
            found = read_line(form.format(row["xid"], words).encode())
            assert found is not None, (row, form)
            assert found.code == int(row["xid"])


MLX5 = [
    ("mlx5_core 0000:5e:00.0 ibp94s0: Link down", Mlx5.LINK_DOWN),
    ("mlx5_core 0000:5e:00.0 ens1f0np0: Link up", Mlx5.LINK_UP),
    (
        (
            "mlx5_core 0000:0d:00.0: poll_health:801:(pid 0): device's health compromised - "
            "reached miss count"
        ),
        Mlx5.HEALTH,
    ),
    (
        (
            "mlx5_core 0000:0d:00.0: print_health_info:431:(pid 0): Health issue observed, "
            "firmware internal error, severity(3) ERROR:"
        ),
        Mlx5.FIRMWARE_FATAL,
    ),
    (
        (
            "mlx5_core 0000:00:00.1: mlx5_health_try_recover:338:(pid 5553): health recovery flow "
            "aborted, PCI reads still not working"
        ),
        Mlx5.HEALTH,
    ),
    (
        "mlx5_core 0000:0d:00.0: poll_health:775:(pid 0): Fatal error 1 detected",
        Mlx5.FIRMWARE_FATAL,
    ),
    ("mlx5_core 0000:81:00.0: AER: aer_status: 0x00004000, aer_mask: 0x00000000", Mlx5.AER),
    ("mlx5_core 0000:81:00.0: PCIe Bus Error: severity=Uncorrected (Fatal)", Mlx5.AER),
    (
        (
            "mlx5_core 0000:06:00.0: wait_func:1195:(pid 1967): ACCESS_REG(0x805) timeout. "
            "Will cause a leak of a command resource"
        ),
        Mlx5.COMMAND_TIMEOUT,
    ),
    (
        (
            "mlx5_core 0000:5c:00.0: mlx5_pcie_event:299:(pid 268269): Detected insufficient power "
            "on the PCIe slot (27W)."
        ),
        Mlx5.POWER,
    ),
    ("mlx5_core 0000:5c:00.0: temp_warn:85:(pid 0): High temperature on sensors", Mlx5.TEMPERATURE),
    (
        "mlx5_core 0000:5c:00.0: Port module event[error]: module 0, Cable error, Bad",
        Mlx5.MODULE,
    ),
    ("mlx5_core 0000:5c:00.0: Port module event: module 0, Cable unplugged", Mlx5.MODULE),
    (
        "NETDEV WATCHDOG: ens1 (mlx5_core): transmit queue 3 timed out",
        Mlx5.TX_TIMEOUT,
    ),
    ("mlx5_core 0000:5c:00.0 ens1: TX timeout detected", Mlx5.TX_TIMEOUT),
]


@pytest.mark.parametrize(("line", "code"), MLX5)
def test_what_a_network_card_complains_of_is_told_with_its_address(line, code):
    found = read_line(b"3,12,99000001,-;" + line.encode())

    assert found is not None
    assert (found.kind, found.code) == ("mlx5", code)
    assert found.pci == (line.split()[1].rstrip(":") if line.startswith("mlx5") else "")
    assert found.text == line


@pytest.mark.parametrize(
    "line",
    [
        "mlx5_core 0000:5e:00.0: firmware version: 28.39.1002",
        "mlx5_core 0000:5e:00.0: Port module event: module 0, Cable plugged",
        "mlx5_core 0000:01:00.1: E-Switch: Enable: mode(LEGACY), nvfs(1)",
        "NVRM: Xid (PCI:0000:65:00): invalid",
        "NVRM: Xid (PCI:0000:65:00)",
        "NVRM: Xid: 31",
        "NVRM: Xid (PCI:0000:65:00): 99999999999, what",
        "NVRM: GPU at PCI:0000:01:00: GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
        "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context",
        "",
    ],
)
def test_what_is_no_complaint_says_nothing(line):
    assert list(spoken(line.encode())) == []


def test_a_switch_speaks_in_its_own_kind():
    line = b"nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore"
    (found,) = spoken(line)

    assert (found.kind, found.code, found.pci) == ("sxid", 28006, "0000:c1:00")


@pytest.mark.parametrize(
    ("head", "stamp"),
    [
        (HEADS["kmsg"], Stamp(boot_us=3_023_054_882, seq=4471)),
        (HEADS["kmsg with caller"], Stamp(boot_us=3_023_054_882, seq=4471)),
        (HEADS["dmesg"], Stamp(boot_us=3_023_054_882)),
        (HEADS["syslog"], Stamp(boot_us=3_023_054_882)),
        (HEADS["journalctl"], Stamp(wall_ms=1_725_010_989_250)),
        ("2024-08-30 09:43:09Z node kernel: ", Stamp(wall_ms=1_725_010_989_000)),
        ("2024-99-30T11:43:09+02:00 node kernel: ", Stamp()),
        (HEADS["dmesg -T"], Stamp()),
        (HEADS["bare"], Stamp()),
    ],
)
def test_a_line_tells_when_it_was_written(head, stamp):
    found = read_line(f"{head}NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off.".encode())

    assert found is not None
    assert found.stamp == stamp


def test_lines_come_in_their_order_each_once():
    block = b"\n".join(
        [
            b"6,1,10,-;usb 1-1: new device",
            b"4,2,20,-;NVRM: Xid (PCI:0000:01:00): 79, mlx5_core Xid (PCI:0000:02:00): 48, both",
            b"6,3,30,-;mlx5_core 0000:5e:00.0 ib0: Link down",
            b"4,4,40,-;NVRM: Xid (PCI:0000:01:00): 63, Row Remapper",
            b" SUBSYSTEM=pci",
        ]
    )
    assert [(one.kind, one.code) for one in spoken(block)] == [
        ("xid", 79),
        ("mlx5", Mlx5.LINK_DOWN),
        ("xid", 63),
    ]


def test_what_cannot_be_printed_does_not_reach_the_text():
    (found,) = spoken(b"NVRM: Xid (PCI:0000:01:00): 79, a\x00b\x1b[31m\xff\xfe\tc" + b"x" * 9_000)

    assert found.text.isprintable()
    assert len(found.text) <= 500


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("00000000:3B:00.0", "0000:3b:00"),
        ("0000:3b:00", "0000:3b:00"),
        ("0018:01:00.7", "0018:01:00"),
    ],
)
def test_an_address_of_nvml_is_that_of_the_driver(long, short):
    assert short_address(long) == short


# -- noise -----------------------------------------------------------------------------------------

SEEDS = (
    [line for line, *_ in FORMS]
    + [line for line, _ in MLX5]
    + [f"NVRM: Xid (PCI:0:{r}" for r, *_ in NVLINK5]
)
PIECES = [
    *(b"Xid (", b"(PCI:", b"): ", b"mlx5_core ", b"0000:3b:00", b"\xff", b"\x00", b"pid='", b"-1"),
    *(b";", b"0x", b"GPU-I:", b"99999999999999999999", b"[ 1.000000]", b"\r", b"{", b"\xe2\x80"),
    b"2024-08-30T11:43:09+99:99 ",
]


def fuzzed(seed: int, lines: int) -> bytes:
    """Real lines that were cut, turned round, spliced and sprinkled with what confuses parsers."""
    chance = random.Random(seed)
    seeds = [KMSG + line.encode() for line in SEEDS]
    made = []
    for _ in range(lines):
        line = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(line) + 1)
            match chance.randrange(5):
                case 0:
                    line[at:at] = chance.choice(PIECES)
                case 1:
                    del line[at : at + chance.randrange(12)]
                case 2:
                    line[at : at + 1] = chance.randbytes(1)
                case 3:
                    line[at:] = chance.choice(seeds)[chance.randrange(20) :]
                case 4:
                    line[at:at] = line[:at]
        made.append(bytes(line))
    return b"\n".join(made)


def all_well(found: list[Spoken]) -> bool:
    return all(
        one.text.isprintable()
        and len(one.text) <= 500
        and 0 <= one.code < 1_000_000
        and one.kind in ("xid", "sxid", "mlx5")
        for one in found
    )


def test_fuzzed_lines_raise_nothing():
    found = list(spoken(fuzzed(1, 20_000)))

    assert len(found) > 5_000  # most are still readable: the noise reaches the inner parts
    assert all_well(found)


@pytest.mark.slow
def test_a_million_fuzzed_lines_raise_nothing():
    for seed in range(20):
        assert all_well(list(spoken(fuzzed(seed, 50_000))))
