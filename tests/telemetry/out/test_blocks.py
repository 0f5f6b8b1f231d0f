"""From frames through the queue's records to the bytes of remote write, and what a minute is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.telemetry.frames import Column, Frame, Subject
from madang.telemetry.out.blocks import Block, BrokenRecord, Fact, Packer, Unpacker
from madang.telemetry.out.choose import Chooser, parcels, samples_of
from madang.telemetry.out.minutes import Minutes
from madang.telemetry.out.protobuf import Encoder
from madang.telemetry.out.settings import Selection
from madang.telemetry.out.totals import Totals
from madang.telemetry.taps import Taken
from tests.telemetry.out.making import BEGIN_MS, frame, taken, ticks
from tests.telemetry.out.receiver import decoded

NAN = math.nan


def blocks_of(frames: list[Taken], totals: Totals | None = None) -> list[Block]:
    """The frames after a way through the queue's records."""
    unpacker = Unpacker()
    records = Packer().frames((totals or Totals()).take(frames))
    found = [one for kind, payload, _ in records for one in unpacker.read(kind, payload)]
    return [one for one in found if isinstance(one, Block)]


def written(
    blocks: list[Block], groups: dict[str, str] | None = None
) -> list[tuple[str, int, float]]:
    """`name{label=value,…}`, time and value of each sample as they go out."""
    encoder = Encoder({"cluster": "yard"})
    whose = groups or {}
    found = []
    for share in parcels(blocks, 1, 10_000):
        for parcel in share:
            for labels, at_ms, value in decoded(
                parcel.encoded(encoder, lambda node: whose.get(node, ""))
            ):
                named = dict(labels)
                name = named.pop("__name__")
                text = ",".join(f"{key}={named[key]}" for key in sorted(named))
                found.append((f"{name}{{{text}}}", at_ms, value))
    return found


def test_each_subject_is_written_with_its_own_labels() -> None:
    keys = {
        "member_cpu_percent": ("digits-1.2/3",),
        "port_rx_bytes": ("mlx5_0/1",),
        "report_loss/train": ("digits-1.2/0",),
    }
    values: dict[str, list[float]] = {
        "gpu_throttle_bits": [4, 0],
        "node_load": [1.5],
        "member_cpu_percent": [250],
        "port_rx_bytes": [10],
        "report_loss/train": [0.25],
    }

    found = written(blocks_of([frame("n1", 0, BEGIN_MS, values, keys)]), {"n1": "h100"})

    where, of_member = "cluster=yard", "group=h100,job=digits-1,node=n1"
    assert found == [
        (f"madang_gpu_throttle_mask{{{where},gpu=0,group=h100,node=n1}}", BEGIN_MS, 4.0),
        (f"madang_gpu_throttle_mask{{{where},gpu=1,group=h100,node=n1}}", BEGIN_MS, 0.0),
        (f"madang_node_load{{{where},group=h100,node=n1}}", BEGIN_MS, 1.5),
        (
            f"madang_member_cpu_percent{{allocation=digits-1.2,{where},{of_member},rank=3}}",
            BEGIN_MS,
            250.0,
        ),
        (f"madang_port_rx_bytes_total{{{where},group=h100,node=n1,port=mlx5_0/1}}", BEGIN_MS, 10.0),
        (
            f"madang_report{{allocation=digits-1.2,{where},{of_member},rank=0,report=loss/train}}",
            BEGIN_MS,
            0.25,
        ),
    ]


def test_what_is_not_known_is_not_written_and_counts_become_totals() -> None:
    frames = [
        frame("n1", 0, BEGIN_MS, {"gpu_util_percent": [1, NAN], "gpu_pcie_replays": [5, 7]}),
        frame("n1", 1, BEGIN_MS + 1, {"gpu_util_percent": [NAN, 2], "gpu_pcie_replays": [1, NAN]}),
        frame("n1", 2, BEGIN_MS + 2, {"gpu_pcie_replays": [1, 1]}),
    ]

    rows = [
        (name.partition("gpu=")[2][:1], name.partition("{")[0], at_ms - BEGIN_MS, value)
        for name, at_ms, value in written(blocks_of(frames))
    ]

    replays = "madang_gpu_pcie_replays_total"
    assert sorted(rows) == [
        ("0", replays, 0, 5.0),
        ("0", replays, 1, 6.0),
        ("0", replays, 2, 7.0),
        ("0", "madang_gpu_util_percent", 0, 1.0),
        ("1", replays, 0, 7.0),
        ("1", replays, 2, 8.0),
        ("1", "madang_gpu_util_percent", 1, 2.0),
    ]


def test_a_total_is_exact_where_float32_would_not_be() -> None:
    totals = Totals()
    for seq in range(100):
        found = totals.take(
            [frame("n1", seq, BEGIN_MS + seq, {"gpu_pcie_rx_bytes": [2.0**30 + 128]})]
        )

    assert found[0].values.tolist() == [100 * (2.0**30 + 128)]
    assert totals.counted("n1") == {("gpu_pcie_rx_bytes", "gpu", "0"): 100 * (2.0**30 + 128)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "bb", "node-3"]),
            st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=4),
            st.lists(st.integers(0, 1000), max_size=3),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_no_sample_is_lost_changed_or_put_out_of_order_on_the_way(
    rows: list[tuple[str, list[float], list[int]]],
) -> None:
    frames = []
    expected: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for seq, (node, loads, memory) in enumerate(rows):
        columns = [
            Column(name, Subject.GPU, tuple(map(str, range(len(values)))),
                   np.array(values, np.float32))
            for name, values in (("gpu_power_w", loads), ("gpu_memory_used_mib", memory))
            if len(values)
        ]  # fmt: skip
        frames.append(taken(Frame(node, 1, seq, BEGIN_MS + seq, 1000, tuple(columns))))
        for column in columns:
            for key, value in zip(column.keys, column.values.tolist(), strict=True):
                if not math.isnan(value):
                    name = f"madang_{column.metric}{{cluster=yard,gpu={key},node={node}}}"
                    expected.setdefault((name, node), []).append((BEGIN_MS + seq, value))
    got: dict[str, list[tuple[int, float]]] = {}
    for name, at_ms, value in written(blocks_of(frames)) if expected else []:
        got.setdefault(name, []).append((at_ms, value))

    assert got == {name: samples for (name, _), samples in expected.items()}


def test_what_another_program_wrote_is_refused_and_not_believed() -> None:
    (_, names, _), (kind, payload, _) = Packer().frames(Totals().take(ticks(2, 2, 2)))
    unpacker = Unpacker()

    for wrong in (b"", b"no zstandard", names, payload[: len(payload) // 2]):
        with pytest.raises(BrokenRecord):
            unpacker.read(kind, wrong)
    with pytest.raises(BrokenRecord):
        list(Unpacker().read(kind, payload))  # names that were never told


# -- choosing ------------------------------------------------------------------------------------

FILTERS = [
    (Selection(), 8),
    (Selection(metrics=("gpu_util_*",)), 4),
    (Selection(metrics=("node_*",)), 0),
    (Selection(subjects=("gpu",)), 8),
    (Selection(subjects=("node", "port")), 0),
    (Selection(groups=("a*",)), 4),
    (Selection(metrics=("*_bytes",), groups=("h100",)), 2),
]


@pytest.mark.parametrize(("selection", "count"), FILTERS)
def test_a_destination_gets_what_its_filters_let_through(selection: Selection, count: int) -> None:
    groups = {"n0": "a100", "n1": "h100"}
    chooser = Chooser(selection, lambda node: groups[node])

    chosen = chooser.chosen(blocks_of(ticks(2, 2, 1)))

    assert sum(map(samples_of, chosen)) == count


def test_facts_pass_the_same_filters() -> None:
    facts = (
        Fact("madang_journal_seq", (), BEGIN_MS, 1.0),
        Fact("madang_gpu_held", (("node", "n1"), ("gpu", "0")), BEGIN_MS, 1.0),
    )
    chooser = Chooser(Selection(metrics=("gpu_*",), groups=("h100",)), lambda node: "h100")

    assert chooser.chosen([facts]) == [(facts[1],)]


@pytest.mark.parametrize("senders", [1, 3])
@pytest.mark.parametrize("samples_max", [1, 5, 1000])
def test_parcels_hold_everything_once_and_a_node_has_one_sender(
    senders: int, samples_max: int
) -> None:
    blocks = blocks_of(ticks(5, 2, 4))

    shares = parcels(blocks, senders, samples_max)

    whose: dict[str, set[int]] = {}
    rows = []
    for number, share in enumerate(shares):
        for parcel in share:
            assert parcel.samples <= max(samples_max, 4)
            for piece in parcel.pieces:
                assert isinstance(piece, Block)
                for node, at_ms in zip(piece.nodes, piece.at_ms.tolist(), strict=True):
                    whose.setdefault(node, set()).add(number)
                    rows.append((node, at_ms))
    assert all(len(numbers) == 1 for numbers in whose.values())
    assert sorted(rows) == sorted(set(rows))
    assert len(rows) == 20
    for node in whose:
        times = [at_ms for name, at_ms in rows if name == node]
        assert times == sorted(times)


def test_halving_a_parcel_down_to_single_samples_loses_none() -> None:
    facts = tuple(Fact("madang_x", (), BEGIN_MS + n, float(n)) for n in range(3))
    (share,) = parcels([*blocks_of(ticks(3, 3, 2)), facts], 1, 10_000)
    left, single = list(share), 0
    while left:
        one = left.pop()
        halves = one.split()
        assert sum(half.samples for half in halves) == (one.samples if halves else 0)
        single += not halves
        left += halves

    assert single == 3 * 3 * 2 * 2 + 3


# -- minutes -------------------------------------------------------------------------------------


def test_a_minute_is_the_mean_of_a_gauge_the_last_total_and_all_bits() -> None:
    rows = [
        (0, [10, 0], [1]),
        (20_000, [20, 50], [2]),
        (40_000, [60, 100], [8]),
        (60_000, [0, 0], [0]),
    ]
    frames = [
        frame(
            "n1",
            seq,
            BEGIN_MS + at_ms,
            {"gpu_util_percent": util, "gpu_throttle_bits": bits, "gpu_pcie_rx_bytes": [100]},
        )
        for seq, (at_ms, util, bits) in enumerate(rows)
    ]

    found = written(Minutes().add(blocks_of(frames)))

    values = {name.partition("{")[0] + name.partition("gpu=")[2][:1]: value
              for name, _, value in found}  # fmt: skip
    assert values == {
        "madang_gpu_util_percent0": 30.0,
        "madang_gpu_util_percent1": 50.0,
        "madang_gpu_throttle_mask0": 11.0,
        "madang_gpu_pcie_rx_bytes_total0": 300.0,
    }
    assert {at_ms for _, at_ms, _ in found} == {BEGIN_MS + 60_000}


def test_a_minute_in_which_members_came_and_went_has_each_of_them() -> None:
    def one(seq: int, members: dict[str, float]) -> Taken:
        keys = {"member_cpu_percent": tuple(members)}
        values = {"member_cpu_percent": list(members.values()), "node_load": [float(seq)]}
        return frame("n1", seq, BEGIN_MS + 20_000 * seq, values, keys)

    a, b = "a-1.1/0", "b-2.1/0"
    frames = [one(0, {a: 10}), one(1, {a: 20, b: 40}), one(2, {b: 60}), one(3, {b: 0})]
    (block,) = Minutes().add(blocks_of(frames))

    keys = [(part.metric, key) for part in block.layout.parts for key in part.keys]
    assert dict(zip(keys, block.values[0].tolist(), strict=True)) == {
        ("member_cpu_percent", "a-1.1/0"): 15.0,
        ("member_cpu_percent", "b-2.1/0"): 50.0,
        ("node_load", ""): 1.0,
    }


def test_minutes_taken_up_from_their_state_are_the_same_as_without_a_break() -> None:
    frames = ticks(3, 2, 25)
    whole = written(Minutes().add(blocks_of(frames)))
    for cut in range(0, len(frames), 7):
        totals, first = Totals(), Minutes()
        before = first.add(blocks_of(frames[:cut], totals)) if cut else []
        second = Minutes()
        second.restore(first.state())
        after = second.add(blocks_of(frames[cut:], totals))
        assert sorted(written([*before, *after])) == sorted(whole)


def test_a_node_that_falls_silent_is_not_held_open_for_ever() -> None:
    minutes = Minutes()
    minutes.add(blocks_of([frame("gone", 0, BEGIN_MS, {"node_load": [2.0]})]))

    late = [frame("n1", seq, BEGIN_MS + 60_000 * seq, {"node_load": [0.0]}) for seq in range(13)]
    found = written(minutes.add(blocks_of(late)))

    assert [value for name, _, value in found if "node=gone" in name] == [2.0]
