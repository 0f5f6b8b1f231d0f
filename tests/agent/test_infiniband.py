"""Ports by sysfs: words of four bytes, resets, counters that are missing or at their end."""

from pathlib import Path

import pytest

from madang.agent.infiniband import END_32, InfiniBand
from tests.agent.doubles import values, write_tree

COUNTERS = {
    "port_rcv_data": 1_000, "port_xmit_data": 2_000, "port_rcv_packets": 10,
    "port_xmit_packets": 20, "symbol_error": 0, "link_downed": 1, "port_rcv_errors": 0,
    "port_xmit_discards": 0, "port_xmit_wait": 7,
}  # fmt: skip
HARDWARE = {
    "out_of_sequence": 5, "packet_seq_err": 1, "local_ack_timeout_err": 2, "roce_adp_retrans": 3,
    "np_cnp_sent": 4, "rp_cnp_handled": 5, "np_ecn_marked_roce_packets": 6,
}  # fmt: skip


def device(root: Path, name: str = "mlx5_0", **changed: int | str) -> None:
    """A device with one port; what is changed to "" is not there."""
    state = changed.pop("state", "4: ACTIVE")
    counters = {**COUNTERS, **{k: v for k, v in changed.items() if k not in HARDWARE}}
    hardware = {**HARDWARE, **{k: v for k, v in changed.items() if k in HARDWARE}}
    port = f"{name}/ports/1"
    for old in (root / port).rglob("*"):
        if old.is_file():
            old.unlink()
    write_tree(root, {f"{port}/state": f"{state}\n"})
    write_tree(root, {f"{port}/counters/{k}": f"{v}\n" for k, v in counters.items() if v != ""})
    write_tree(root, {f"{port}/hw_counters/{k}": f"{v}\n" for k, v in hardware.items() if v != ""})


def test_counters_are_increases_and_data_is_in_bytes(tmp_path):
    device(tmp_path)
    ports = InfiniBand(tmp_path)
    assert set(values(ports.read(0))) == {"port_link_up"}
    device(tmp_path, port_rcv_data=1_500, port_xmit_data=2_001, port_rcv_packets=15, link_downed=2,
           packet_seq_err=3, local_ack_timeout_err=2, np_cnp_sent=9)  # fmt: skip

    found = {metric: told["mlx5_0/1"] for metric, told in values(ports.read(0)).items()}
    assert found == {
        "port_rx_bytes": 2_000,
        "port_tx_bytes": 4,
        "port_rx_packets": 5,
        "port_tx_packets": 0,
        "port_symbol_errors": 0,
        "port_link_downed": 1,
        "port_rcv_errors": 0,
        "port_xmit_discards": 0,
        "port_xmit_wait": 0,
        "port_out_of_sequence": 0,
        "port_retransmits": 2,
        "port_congestion": 5,
        "port_link_up": 1,
    }


def test_a_counter_that_was_reset_counts_from_there(tmp_path):
    ports = InfiniBand(tmp_path)
    grown = []
    for words in (1_000, 1_100, 30, 40):
        device(tmp_path, port_rcv_data=words)
        grown.append(values(ports.read(0)).get("port_rx_bytes", {}).get("mlx5_0/1"))

    assert grown == [None, 400, 120, 40]


def test_a_counter_at_its_end_says_nothing(tmp_path):
    ports = InfiniBand(tmp_path)
    device(tmp_path, port_xmit_wait=END_32 - 5)
    ports.read(0)
    device(tmp_path, port_xmit_wait=END_32)
    assert "port_xmit_wait" not in values(ports.read(0))
    device(tmp_path, port_xmit_wait=3)  # somebody reset it

    assert values(ports.read(0))["port_xmit_wait"] == {"mlx5_0/1": 3}


def test_counters_of_64_bits_go_on_beyond_32(tmp_path):
    ports = InfiniBand(tmp_path)
    device(tmp_path, port_rcv_data=END_32 - 1)
    ports.read(0)
    device(tmp_path, port_rcv_data=END_32 + 99)

    assert values(ports.read(0))["port_rx_bytes"] == {"mlx5_0/1": 400}


@pytest.mark.parametrize("broken", ["", "N/A (no PMA)", "-1", "0x12"])
def test_what_a_port_does_not_have_is_missing_and_not_zero(tmp_path, broken):
    ports = InfiniBand(tmp_path)
    for _ in range(2):
        device(tmp_path, symbol_error=broken, packet_seq_err=broken)
        found = values(ports.read(0))

    assert "port_symbol_errors" not in found
    assert found["port_retransmits"] == {"mlx5_0/1": 0}  # the others of the sum are there
    assert "port_rx_bytes" in found


@pytest.mark.parametrize(("state", "up"), [("4: ACTIVE", 1), ("1: DOWN", 0), ("2: INIT", 0)])
def test_a_link_is_up_or_not(tmp_path, state, up):
    device(tmp_path, state=state)

    assert values(InfiniBand(tmp_path).read(0))["port_link_up"] == {"mlx5_0/1": up}


def test_every_port_of_every_device_is_there_and_may_come_and_go(tmp_path):
    ports = InfiniBand(tmp_path)
    device(tmp_path, "mlx5_0")
    ports.read(0)
    device(tmp_path, "mlx5_1")
    device(tmp_path, "mlx5_0", port_rcv_data=1_001)

    found = values(ports.read(0))
    assert set(found["port_link_up"]) == {"mlx5_0/1", "mlx5_1/1"}
    assert found["port_rx_bytes"] == {"mlx5_0/1": 4}  # of the new one nothing is known yet


def test_a_node_without_infiniband_says_nothing(tmp_path):
    assert InfiniBand(tmp_path / "absent").read(0).columns == ()


def test_a_pci_address_leads_to_its_port(tmp_path):
    root = tmp_path / "class"
    device(root, "mlx5_3")
    (tmp_path / "devices/pci0000:5d/0000:5e:00.0").mkdir(parents=True)
    (root / "mlx5_3/device").symlink_to(tmp_path / "devices/pci0000:5d/0000:5e:00.0")
    ports = InfiniBand(root)

    assert ports.port_at("0000:5e:00.0") == "mlx5_3/1"
    assert ports.port_at("0000:5e:00.1") is None
