"""One leader at a time, on a real API server; whoever was stopped or cut off finds out first."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.lease import Lease
from tests.kubernetes.conftest import access_to, play
from tests.kubernetes.faults import CALM, ROUGH, FaultyDoor

pytestmark = pytest.mark.kubernetes

SHORT_S = 2.0
CHANGE_S_MAX = 5.0  # what operators are promised after a crash with leases of two seconds


class Candidate(Lease):
    """A lease that remembers what it told, and can end as a killed process does."""

    def __init__(self, client, namespace, name, duration_s):
        self.told: list[bool] = []
        super().__init__(
            client, namespace, "madang", name, duration_s=duration_s, told=self.told.append
        )
        self.seeking = asyncio.create_task(self.run())

    def crash(self):
        """Nothing is given up."""
        self.seeking.cancel()


@asynccontextmanager
async def holder(client, namespace, name, duration_s=SHORT_S):
    """A lease that is sought; leaving is a crash."""
    lease = Candidate(client, namespace, name, duration_s)
    try:
        yield lease
    finally:
        lease.crash()
        with suppress(asyncio.CancelledError):
            await lease.seeking


async def until(holds):
    while not holds():  # noqa: ASYNC110 - what another program does sets no event
        await asyncio.sleep(0.01)


def record(shared, namespace):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/madang"
    return shared.ask("GET", path)["spec"]


def test_the_first_holds_it_and_the_second_stands_by(shared, namespace):
    async def story():
        async with (
            Client(access_to(shared)) as client,
            holder(client, namespace, "a") as a,
        ):
            await a.acquired()
            async with holder(client, namespace, "b") as b:
                await until(lambda: b.leader == "a")
                before = record(shared, namespace)["renewTime"]
                await until(lambda: record(shared, namespace)["renewTime"] != before)
                return a.held(), b.held(), a.epoch, a.told, b.told

    assert play(story()) == (True, False, 1, [True], [])
    assert record(shared, namespace)["holderIdentity"] == "a"


def test_after_a_crash_the_standby_leads_within_seconds(shared, namespace):
    async def story():
        async with (
            Client(access_to(shared)) as client,
            holder(client, namespace, "a") as a,
            holder(client, namespace, "b") as b,
        ):
            await until(lambda: a.held() or b.held())
            first, second = (a, b) if a.held() else (b, a)
            first.crash()
            began_s = time.monotonic()
            await second.acquired()
            return time.monotonic() - began_s, first.held(), (first.epoch, second.epoch)

    took_s, both, epochs = play(story())
    assert took_s < CHANGE_S_MAX
    assert not both
    assert epochs == (1, 2)


def test_who_gives_it_up_is_followed_without_waiting(shared, namespace):
    async def story():
        async with (
            Client(access_to(shared)) as client,
            holder(client, namespace, "a", 20) as a,
        ):
            await a.acquired()
            async with holder(client, namespace, "b", 20) as b:
                await until(lambda: b.leader == "a")
                a.crash()
                await a.release()
                assert not a.held()
                assert a.told == [True, False]
                await b.acquired()
                return b.epoch

    assert play(story(), 15) == 2  # the lease lasts for longer than the story may


def test_it_is_lost_when_nobody_answers_before_another_may_take_it(shared, namespace):
    """The door before one holder closes; it knows before the other holds it."""

    async def story():
        away = replace(CALM, broken=1.0)
        async with Client(access_to(shared)) as client:
            with FaultyDoor(shared, 1, CALM) as door:
                async with (
                    Client(door.access) as shaky,
                    holder(shaky, namespace, "a") as a,
                ):
                    await a.acquired()
                    async with holder(client, namespace, "b") as b:
                        await until(lambda: b.leader == "a")
                        door.faults = away
                        await until(lambda: not a.held())
                        early = b.held()
                        await b.acquired()
                        door.faults = CALM
                        await until(lambda: a.leader == "b")
                        return early, a.held(), a.told

    assert play(story()) == (False, False, [True, False])


@pytest.mark.parametrize("seed", range(3))
def test_two_never_hold_it_whatever_goes_wrong(shared, namespace, seed):
    """Both see faults; each time somebody holds it, the holder is cut off for one change."""
    both = []

    async def story():
        with (
            FaultyDoor(shared, seed, ROUGH) as door,
            FaultyDoor(shared, seed + 100, ROUGH) as other,
        ):
            async with (
                Client(door.access) as one,
                Client(other.access) as two,
                holder(one, namespace, "a") as a,
                holder(two, namespace, "b") as b,
            ):

                async def look():
                    while True:
                        if a.held() and b.held():
                            both.append((a.epoch, b.epoch))
                        await asyncio.sleep(0.001)

                looking = asyncio.create_task(look())
                for _ in range(2):
                    await until(lambda: a.held() or b.held())
                    cut, left = (door, b) if a.held() else (other, a)
                    cut.faults = replace(CALM, broken=1.0)
                    await left.acquired()
                    cut.faults = ROUGH
                looking.cancel()
                return max(a.epoch, b.epoch), door.counts + other.counts

    epoch, counts = play(story())
    assert both == []
    assert epoch >= 3
    assert counts["500"] > 0


STOPPED = """
import asyncio, sys
from pathlib import Path
from madang.engines.kubernetes.binder import BindAsk, Binder
from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.config import from_kubeconfig
from madang.engines.kubernetes.lease import Lease

async def main(kubeconfig, namespace, pod, uid):
    async with Client(from_kubeconfig(Path(kubeconfig))) as client:
        lease = Lease(client, namespace, "madang", "stopped", duration_s=float(sys.argv.pop()))
        task = asyncio.create_task(lease.run())
        await lease.acquired()
        print("held", flush=True)
        sys.stdin.readline()  # it is stopped in here, with the loop
        said = await Binder(client, lease.held).bind([BindAsk(namespace, pod, uid, "n-old")], 5)
        print(getattr(said[0], "why", "bound"), flush=True)
        task.cancel()

asyncio.run(main(*sys.argv[1:5]))
"""


@pytest.mark.parametrize("stopped", [True, False])
def test_a_leader_that_was_stopped_past_its_lease_writes_nothing(shared, namespace, stopped):
    """In the middle of its turn; the other case shows that the same program would have written."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    container = {"name": "main", "image": "none"}
    spec = {"schedulerName": "madang", "containers": [container]}
    made = shared.ask("POST", pods, {"metadata": {"name": "p"}, "spec": spec})
    lasts_s = "2" if stopped else "60"
    words = [str(shared.kubeconfig()), namespace, "p", made["metadata"]["uid"], lasts_s]
    old = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    async def other_leads():
        async with (
            Client(access_to(shared)) as client,
            holder(client, namespace, "other") as other,
        ):
            await other.acquired()

    with old:
        assert old.stdout is not None
        assert old.stdout.readline() == "held\n"
        if stopped:
            old.send_signal(signal.SIGSTOP)
            play(other_leads())
            old.send_signal(signal.SIGCONT)
        said = old.communicate("go on\n", 30)[0]

    node = shared.ask("GET", f"{pods}/p")["spec"].get("nodeName")
    assert (said, node) == (("deposed\n", None) if stopped else ("bound\n", "n-old"))


def test_a_process_that_stood_still_says_so(shared, namespace, caplog):
    """Else whoever asks why the lease was lost would look at the API server."""

    async def story():
        async with (
            Client(access_to(shared)) as client,
            holder(client, namespace, "a") as a,
        ):
            await a.acquired()
            while "stood still for 0." not in caplog.text:
                await asyncio.sleep(0.05)  # it waits for its next renewal now, or nearly always
                time.sleep(0.6)  # noqa: ASYNC251 - the loop, and all of the process

    play(story())


def test_a_leader_goes_on_after_the_api_server_was_away_for_a_moment(own):
    async def story():
        async with (
            Client(access_to(own)) as client,
            holder(client, "default", "a", 15) as a,
        ):
            await a.acquired()
            await asyncio.to_thread(own.restart_api_server)
            before = own.ask(
                "GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/madang"
            )["spec"]["renewTime"]

            def renewed():
                path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/madang"
                return own.ask("GET", path)["spec"]["renewTime"] != before

            await until(renewed)
            return a.held(), a.epoch, a.told

    assert play(story()) == (True, 1, [True])
