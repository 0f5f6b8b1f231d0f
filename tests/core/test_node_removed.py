"""A node that never comes back leaves the yard, unless it may still run something."""

from madang.core import events as ev
from madang.core.check import check
from madang.core.controller import Controller
from madang.core.model import Job, Node, NodeState, Project, Shape

NODE = Node("n1", 8, 64_000, 64_000, "H100")


def yard(*, busy: bool) -> Controller:
    """One node out of sight, that ran a job if `busy`."""
    controller = Controller()
    controller.step([ev.ProjectSet(Project("default")), ev.NodeSeen(NODE)], 1)
    if busy:
        controller.step([ev.JobSubmitted(Job("a-1", 1, "default", Shape(8)))], 2)
    controller.step([ev.NodeLost("n1")], 3)
    return controller


def test_a_lost_node_that_holds_nothing_leaves_with_its_devices():
    controller = yard(busy=False)

    assert ev.NodeRemoved("n1") in controller.step([ev.NodeRemoved("n1")], 4).events
    assert controller.state.nodes["n1"].state is NodeState.REMOVED
    assert int(controller.state.pool.gpu_count.sum()) == 0
    check(controller.state)


def test_a_lost_node_that_may_still_run_something_stays():
    controller = yard(busy=True)

    assert ev.NodeRemoved("n1") not in controller.step([ev.NodeRemoved("n1")], 4).events
    assert controller.state.nodes["n1"].state is NodeState.LOST
    check(controller.state)


def test_a_removed_node_that_reports_again_is_back():
    controller = yard(busy=False)
    controller.step([ev.NodeRemoved("n1")], 4)

    controller.step([ev.NodeSeen(NODE)], 5)

    assert controller.state.nodes["n1"].state is NodeState.READY
    assert int(controller.state.pool.whole_free.sum()) == 8
    check(controller.state)


def test_a_node_in_sight_cannot_be_removed():
    controller = Controller()
    controller.step([ev.NodeSeen(NODE)], 1)

    assert controller.step([ev.NodeRemoved("n1")], 2).events == ()
