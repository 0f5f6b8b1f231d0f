"""Kernels are compiled beside the turns: meanwhile, and afterwards, the same is decided."""

import json
import subprocess
import sys

import pytest

from madang.core.scoring import HAVE_NUMBA

# In a process of its own: kernels, once compiled, stay so.
SCRIPT = """
import json, sys
from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.model import Job, Node, Project, Shape
from madang.core.policies import MADANG
from madang.core.scoring import _accelerate, compiles, defer
from madang.daemon.compiling import Compiling

NODES = 300
SHAPES = [(1, 1000, 1), (2, 1000, 1), (1, 300, 1), (8, 1000, 2)]


def decided():
    controller = Controller()
    facts = [ev.PolicySet(MADANG), ev.ProjectSet(Project("p"))]
    facts += [ev.NodeSeen(Node(f"n-{n}", 8, 64_000, 524_288, "any")) for n in range(NODES)]
    controller.step(facts, 1)
    found = []
    for n in range(1, 101):
        gpus, milli, members = SHAPES[n % len(SHAPES)]
        shape = Shape(gpus, milli, 1_000, 1_024)
        job = Job(id=f"j-{n}", seq=n, project="p", shape=shape, members=members, submitted_ms=n)
        step = controller.step([ev.JobSubmitted(job)], n)
        found += [str(one) for one in step.decisions]
    return found


def signatures():
    return {
        one.kernel.__name__: len(one.compiled.signatures)
        for one in _accelerate._kernels
        if one.compiled is not None
    }


compiling = Compiling()
compiling.begin()
small = compiles(_accelerate.NODES_COMPILED - 1), compiling._thread
defer(lambda: False)
by_twins = decided()
compiling.begin()
first = compiles(NODES)
compiling._thread.join()
there = signatures()
by_kernels = decided()
print(json.dumps({
    "small": small == (False, None),
    "first": first,
    "after": compiles(NODES),
    "same": by_twins == by_kernels and len(by_twins) >= 100,
    "compiled": sum(there.values()),
    "later": signatures() == there,
}))
"""


@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is not installed")
def test_nobody_waits_for_kernels_and_nothing_is_decided_otherwise():
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)

    assert found.pop("compiled") > 0
    assert found == {"small": True, "first": False, "after": True, "same": True, "later": True}
