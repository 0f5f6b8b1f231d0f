"""The reader of kubelet's PodResources, against a real gRPC server that speaks protobuf's own code.

The server's messages are compiled from podresources.proto by protoc; the reader has its table.
"""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from madang.agent.loop import AgentError, Settings, readers_of
from madang.agent.nvml import Nvml
from madang.agent.podresources import METHOD, METRIC, PodResources
from madang.telemetry.frames import Frame, decode, encode
from madang.telemetry.metrics import METRICS
from tests.agent.doubles import values
from tests.agent.fake_nvml import FakeNvml, h100

grpc = pytest.importorskip("grpc", reason="pip install 'madang[kubernetes]'")
protoc = pytest.importorskip("grpc_tools.protoc", reason="pip install grpcio-tools")

UUIDS = {f"GPU-{n}": n for n in range(8)}


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """The messages, as protoc makes them."""
    folder = tmp_path_factory.mktemp("proto")
    here = Path(__file__).parent
    words = ["protoc", f"-I{here}", f"--python_out={folder}", str(here / "podresources.proto")]
    assert protoc.main(words) == 0
    spec = importlib.util.spec_from_file_location(
        "podresources_pb2", folder / "podresources_pb2.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("podresources_pb2", None)


class Kubelet:
    """A real gRPC server on a socket; `answer` is what List gives, or an exception's status."""

    def __init__(self, socket, v1):
        self.socket, self.v1 = socket, v1
        self.answer = v1.ListPodResourcesResponse()
        self.authorities = []
        self.server = None

    def start(self):
        v1 = self.v1
        method = grpc.unary_unary_rpc_method_handler(
            self._list,
            request_deserializer=v1.ListPodResourcesRequest.FromString,
            response_serializer=v1.ListPodResourcesResponse.SerializeToString,
        )
        service, _, name = METHOD.lstrip("/").partition("/")
        self.server = grpc.server(ThreadPoolExecutor(1))
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {name: method})]
        )
        self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()

    def stop(self):
        if self.server is not None:
            self.server.stop(None).wait()
            self.server = None

    def _list(self, request, context):
        if isinstance(self.answer, grpc.StatusCode):
            context.abort(self.answer, "not now")
        return self.answer

    def gives(self, *pods):
        """Each (namespace, name, [(resource, ids), …] a container …)."""
        self.answer = self.v1.ListPodResourcesResponse(
            pod_resources=[
                self.v1.PodResources(
                    namespace=namespace,
                    name=name,
                    containers=[
                        self.v1.ContainerResources(
                            name=f"c{index}",
                            cpu_ids=[1, 2],
                            devices=[
                                self.v1.ContainerDevices(
                                    resource_name=resource,
                                    device_ids=ids,
                                    topology={"nodes": [{"ID": 1}]},
                                )
                                for resource, ids in devices
                            ],
                            memory=[{"memory_type": "memory", "size": 1 << 40}],
                            dynamic_resources=[{"claim_name": "c", "claim_namespace": "n"}],
                        )
                        for index, devices in enumerate(containers)
                    ],
                )
                for namespace, name, *containers in pods
            ]
        )


@pytest.fixture
def kubelet(tmp_path, v1):
    it = Kubelet(tmp_path / "kubelet.sock", v1)
    it.start()
    yield it
    it.stop()


@pytest.fixture
def reader(kubelet):
    it = PodResources(kubelet.socket, UUIDS.get)
    yield it
    it.close()


@pytest.mark.parametrize(
    ("devices", "mask"),
    [
        ([("nvidia.com/gpu", ["GPU-0"])], 0b1),
        ([("nvidia.com/gpu", ["GPU-7", "GPU-2", "GPU-0"])], 0b10000101),
        ([("nvidia.com/gpu", [f"GPU-{n}" for n in range(8)])], 255),
        # one UUID a NUMA node, as kubelet splits them
        ([("nvidia.com/gpu", ["GPU-1"]), ("nvidia.com/gpu", ["GPU-4"])], 0b10010),
        ([("nvidia.com/gpu.shared", ["GPU-3::0"])], 0b1000),
        ([("nvidia.com/gpu", ["nvidia5"])], 0b100000),
        ([("nvidia.com/gpu", ["nvidia5/gi1"])], 0b100000),
        ([("nvidia.com/gpu", ["GPU-1", "GPU-unknown"])], 0b10),
        ([("rdma/hca", ["GPU-1"])], None),
        ([("nvidia.com/gpu", [])], None),
        ([], None),
    ],
)
def test_what_kubelet_gave_is_a_set_of_the_nodes_gpus(kubelet, reader, devices, mask):
    kubelet.gives(("team-a", "train-0.x", devices))

    assert values(reader.read(0)).get(METRIC, {}) == ({"team-a.train-0.x/0": mask} if mask else {})


def test_containers_and_pods_are_told_apart_and_those_without_gpus_left_out(kubelet, reader):
    one = [("nvidia.com/gpu", ["GPU-0"])]
    two = [("nvidia.com/gpu", ["GPU-1"])]
    kubelet.gives(("a", "p", one, [], two), ("b", "p", one), ("kube-system", "dns", []))

    assert values(reader.read(0)) == {METRIC: {"a.p/0": 1, "a.p/2": 2, "b.p/0": 1}}


def test_a_mig_device_is_the_gpu_it_is_part_of(kubelet):
    parts: list[dict[str, Any]] = [
        {"uuid": f"MIG-{one}", "instance": one, "gpm": {}} for one in (1, 2)
    ]
    nvml = Nvml(nvml=FakeNvml([h100(uuid="GPU-a"), h100(uuid="GPU-b", parts=parts)]))
    reader = PodResources(kubelet.socket, nvml.gpu_of)
    kubelet.gives(
        ("a", "p", [("nvidia.com/mig-1g.10gb", ["MIG-2"])], [("nvidia.com/gpu", ["GPU-a"])])
    )

    before = values(reader.read(0))
    nvml.read(0)

    assert before == {}
    assert values(reader.read(1)) == {METRIC: {"a.p/0": 2, "a.p/1": 1}}
    reader.close()


def test_a_frame_holds_it_and_the_table_has_a_row_for_it(kubelet, reader):
    kubelet.gives(("a", "p", [("nvidia.com/gpu", [f"nvidia{n}" for n in range(24)])]))
    read = reader.read(0)
    frame = decode(encode(Frame("n", 1, 1, 0, 10_000, read.columns)))

    [column] = frame.columns
    assert METRICS[column.metric].form == "bits"
    assert column.values.tolist() == [(1 << 24) - 1] == [METRICS[METRIC].range[1]]


def test_no_kubelet_is_no_value_and_a_new_one_is_found(kubelet, reader, caplog):
    caplog.set_level("INFO", "madang.agent.podresources")
    kubelet.gives(("a", "p", [("nvidia.com/gpu", ["GPU-0"])]))
    assert values(reader.read(0))

    kubelet.stop()
    assert values(reader.read(1)) == {}
    assert values(reader.read(2)) == {}
    kubelet.start()
    found: dict[str, dict[str, float]] = {}
    while not found:  # the library waits a moment before it connects anew
        found = values(reader.read(3))

    assert found == {METRIC: {"a.p/0": 1}}
    said = [record.message for record in caplog.records]
    assert len([one for one in said if "does not answer" in one]) == 1
    assert len([one for one in said if "tells again" in one]) == 1


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"])
def test_a_kubelet_that_refuses_costs_the_column_and_nothing_else(kubelet, reader, status):
    kubelet.answer = grpc.StatusCode[status]

    assert values(reader.read(0)) == {}
    kubelet.gives(("a", "p", [("nvidia.com/gpu", ["GPU-0"])]))
    assert values(reader.read(1)) == {METRIC: {"a.p/0": 1}}


def test_a_device_that_nobody_knows_is_told_once(kubelet, reader, caplog):
    kubelet.gives(("a", "p", [("nvidia.com/gpu", ["GPU-unknown"])]))

    for now_ms in range(10):
        reader.read(now_ms)

    said = [one.message for one in caplog.records if "GPU-unknown" in one.message]
    assert len(said) == 1


def test_the_agent_reads_it_where_it_is_told_the_socket(kubelet):
    names = [one.name for one in readers_of(Settings(pod_resources=kubelet.socket))]
    without = [one.name for one in readers_of(Settings())]

    assert set(names) - set(without) == {"pod resources"}


def test_without_the_library_the_agent_says_what_to_install(kubelet, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(
        AgentError, match=r"grpc is not installed; pip install 'madang\[kubernetes\]'"
    ):
        readers_of(Settings(pod_resources=kubelet.socket))
