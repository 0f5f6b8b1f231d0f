"""Which pod was given which GPUs: kubelet's PodResources API (v1, gRPC on a socket of the node).

Under a device plugin the scheduler counts GPUs and kubelet picks them. This reader says what was
picked, as a set of the node's GPU numbers for every container that has some: the metric
`member_gpu_mask`, key `NAMESPACE.POD/CONTAINER` (a namespace has no dots; containers are numbered
as kubelet lists them). It is state and not news: every frame says it whole, and none is missed.

The messages are described here, field by field as published (k8s.io/kubelet, podresources/v1),
instead of shipping generated code that would tie us to one version of protobuf; what is not
described is skipped. Only `List` is asked: it is there since Kubernetes 1.20.

Understood are devices named by UUID (NVIDIA's plugin; `UUID::n` for a share of one), MIG devices,
which count as the GPU they are part of, and `nvidiaN…` (GKE's). Devices given by DRA are not told
here: the scheduler itself names those.
"""

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from madang.agent._base import Reading, Row, columns_of
from madang.telemetry.frames import KEY_CHARS_MAX, Subject

_log = logging.getLogger(__name__)

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
METHOD = "/v1.PodResourcesLister/List"
METRIC = "member_gpu_mask"
TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 16 << 20  # kubelet's own bound on what it sends
GPUS_MAX = 24  # a float32 holds so many bits exactly
STRANGE_READS = 3
RESOURCE = re.compile(r"nvidia\.com/|amd\.com/gpu|gpu\.intel\.com/")
_NUMBERED = re.compile(r"nvidia(\d{1,3})(/.*)?")

# message → (field, its number, its type: "text", or the message that it is), all read as lists
# where `many` says so.
MESSAGES: Mapping[str, tuple[tuple[str, int, str, bool], ...]] = {
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources", True),),
    "PodResources": (
        ("name", 1, "text", False),
        ("namespace", 2, "text", False),
        ("containers", 3, "ContainerResources", True),
    ),
    "ContainerResources": (
        ("name", 1, "text", False),
        ("devices", 2, "ContainerDevices", True),
    ),
    "ContainerDevices": (
        ("resource_name", 1, "text", False),
        ("device_ids", 2, "text", True),
    ),
}


class PodResourcesError(Exception):
    """It cannot be read here; the text says what to do."""


class PodResources:
    """`gpu_of`: the number of a GPU by its UUID, or of that which a MIG device is part of.

    Raises:
        PodResourcesError: the libraries that it takes are not installed.
    """

    name = "pod resources"

    def __init__(self, socket: Path, gpu_of: Callable[[str], int | None]) -> None:
        try:
            self._grpc = importlib.import_module("grpc")
            _answer_class()
        except ImportError as error:
            raise PodResourcesError(
                f"{error.name} is not installed; pip install 'madang[kubernetes]'"
            ) from None
        self._socket, self._gpu_of = socket, gpu_of
        self._channel: Any = None
        self._is_down = False
        self._strange: dict[str, int] = {}  # device → how often nobody knew it

    def read(self, now_ms: int) -> Reading:
        try:
            answer = self._listed()
        except (self._grpc.RpcError, ValueError) as error:
            self._tell_down(error)
            return Reading()
        if self._is_down:
            _log.info("kubelet tells again which pods have which devices")
            self._is_down = False
        return Reading(columns_of(Subject.MEMBER, self.rows(answer.pod_resources)))

    def rows(self, pods: Iterable[Any]) -> dict[str, Row]:
        """Container → its GPUs, of those that have some that we know."""
        rows: dict[str, Row] = {}
        for pod in pods:
            for index, container in enumerate(pod.containers):
                ids = [
                    device
                    for given in container.devices
                    if RESOURCE.match(given.resource_name)
                    for device in given.device_ids
                ]
                key = f"{pod.namespace}.{pod.name}/{index}"
                mask = self._mask(ids)
                if mask and len(key) <= KEY_CHARS_MAX:
                    rows[key] = {METRIC: float(mask)}
        return rows

    def _mask(self, ids: Iterable[str]) -> int:
        mask = 0
        for id in ids:
            gpu = self._number(id)
            if gpu is not None and gpu < GPUS_MAX:
                mask |= 1 << gpu
            else:
                self._note_strange(id)
        return mask

    def _note_strange(self, id: str) -> None:
        """Told once, and not at once: who reads the GPUs may need longer than kubelet."""
        if id in self._strange or len(self._strange) < GPUS_MAX:
            self._strange[id] = seen = self._strange.get(id, 0) + 1
            if seen == STRANGE_READS:
                _log.warning("kubelet gave the device %s, which is no GPU that is read here", id)

    def _number(self, id: str) -> int | None:
        numbered = _NUMBERED.fullmatch(id)
        if numbered:
            return int(numbered[1])
        return self._gpu_of(id.partition("::")[0])

    def _listed(self) -> Any:
        if self._channel is None:
            self._channel = self._grpc.insecure_channel(
                f"unix:{self._socket}",
                options=[
                    # Go's server takes no authority that is a path.
                    ("grpc.default_authority", "localhost"),
                    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
                    ("grpc.enable_http_proxy", 0),
                    # kubelet was away, and is back: seconds, not minutes, until we know.
                    ("grpc.max_reconnect_backoff_ms", 5_000),
                ],
            )
        ask = self._channel.unary_unary(
            METHOD,
            request_serializer=lambda request: request,
            response_deserializer=_answer_class().FromString,
        )
        return ask(b"", timeout=TIMEOUT_S, wait_for_ready=False)

    def _tell_down(self, error: Exception) -> None:
        if not self._is_down:
            details = getattr(error, "details", None)
            reason = details() if callable(details) else str(error)
            _log.warning("kubelet's %s does not answer: %s", self._socket, reason)
        self._is_down = True

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


@cache
def _answer_class() -> Any:
    """ListPodResourcesResponse, as protobuf makes it of MESSAGES, in a pool of its own."""
    descriptor_pb2 = importlib.import_module("google.protobuf.descriptor_pb2")
    descriptor_pool = importlib.import_module("google.protobuf.descriptor_pool")
    message_factory = importlib.import_module("google.protobuf.message_factory")
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="madang/podresources.proto", package="v1", syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, many in fields:
            message.field.add(
                name=field,
                number=number,
                label=field_type.LABEL_REPEATED if many else field_type.LABEL_OPTIONAL,
                type=field_type.TYPE_STRING if kind == "text" else field_type.TYPE_MESSAGE,
                type_name=None if kind == "text" else f".v1.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("v1.ListPodResourcesResponse")
    return message_factory.GetMessageClass(found)
