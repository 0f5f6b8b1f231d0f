"""A job of our own as Kubernetes' objects: a headless Service, its Secrets, a pod for each member.

Names are made of the allocation and the rank, so that making them twice makes them once (409:
there already). The user's environment and the token for the code snapshot are in Secrets, not in
the pods; only the init container sees the token. The pods name our scheduler and no node: the
engine binds them. Whoever makes them has all the rest hang on the Service (`hung_on`), so that it
goes with it: the Service alone has a name that can be worked out without the Launch.

The token is a pass that opens one snapshot to a pod that has not ended: the pods carry its SHA-256
(`engine.may_fetch`). So it needs no common key and no expiry, and survives a change of leader. Each
process makes other passes, and so other names of their Secrets: a pod that was made before a crash
keeps its own.

What a member finds is what it finds in every engine (`local/environment.py`), with a port and a
name for rank 0 that all members can reach. Its GPUs come from the device plugin, or from a claim of
its own (`dra.py`) whose devices the engine names.

Sources: Kubernetes 1.36 "Headless Services", "Pod hostname and subdomain", "Define Dependent
Environment Variables" ($$ stands for $), "Pod Security Standards" (restricted).
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.core.model import WHOLE_GPU_MILLI, Allocation, Need, Toleration
from madang.engines.base import EngineError, Launch
from madang.engines.kubernetes.podspec import NODE_NAME
from madang.engines.kubernetes.values import GPU, SCHEDULER, Needs

Object = dict[str, Any]

JOB = "madang.io/job"
ALLOCATION = "madang.io/allocation"
RANK = "madang.io/rank"
PROJECT = "madang.io/project"
WARNING = "madang.io/warning"  # what a Tell says; the kubelet puts it into a file
CODE_OF = "madang.io/code"
CODE_PASS = "madang.io/code-pass"  # SHA-256 of the pass with which the pod fetches it
MANAGED_BY = "app.kubernetes.io/managed-by"

TOP = "/madang"  # in the member; code, SDK and checkpoints are below
CODE = f"{TOP}/code"
SDK = f"{TOP}/sdk"
CHECKPOINTS = f"{TOP}/checkpoints"
STORE = "/madang-store"  # the whole checkpoint volume, in the init container only
TOLD = "/madang-told"
PORTS = range(20_000, 32_000)  # below those that kernels give to outgoing connections
NAME_CHARS_MAX = 50  # leaves room for the rank: a hostname has 63
CLAIM = "gpus"

_UNFIT = re.compile(r"[^a-z0-9-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOWS = {
    "in": "In",
    "not_in": "NotIn",
    "exists": "Exists",
    "absent": "DoesNotExist",
    "gt": "Gt",
    "lt": "Lt",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How this cluster wants our pods. `image` runs the init container, and members that name none;
    `url` is where pods reach the daemon; `code_token` makes the token with which one snapshot may
    be fetched. `checkpoints` is a PersistentVolumeClaim that all pods may mount ("": checkpoints
    last as long as the pod). `run_as` is the user of members (-1: the image's own, root included).
    `volumes` and `mounts` are added to every member as they are; `device_class` not "" asks for
    GPUs by claims of this class instead of by the device plugin."""

    image: str
    url: str
    code_token: Callable[[Launch], str]
    namespace_of: Callable[[str], str]
    scheduler: str = SCHEDULER
    checkpoints: str = ""
    run_as: int = 1000
    shm_mib: int = 1024
    host_network: bool = False
    pull_secrets: tuple[str, ...] = ()
    priority_class: str = ""
    volumes: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    device_class: str = ""


@dataclass(frozen=True, slots=True)
class Placing:
    """What the job says of nodes and of its end, repeated in the pod for all who look at it there:
    the kubelet checks required affinity, and taints evict who does not tolerate them."""

    needs: Needs = ()
    tolerates: tuple[Toleration, ...] = ()
    grace_s: int = 30


ANYHOW = Placing()


def objects_of(launch: Launch, settings: Settings, placing: Placing = ANYHOW) -> tuple[Object, ...]:
    """All objects of an allocation, in the order in which they are to be made.

    Raises:
        EngineError: Kubernetes cannot give what the job asks for.
    """
    shape = launch.allocation.shape
    if shape.gpu_milli != WHOLE_GPU_MILLI:
        raise EngineError(
            f"the job asks for {shape.gpu_milli / WHOLE_GPU_MILLI:g} of a GPU, and Kubernetes "
            "gives whole ones; ask for --gpus 1, or use nodes with MIG"
        )
    if not launch.image and not settings.image:
        raise EngineError("the job names no image, and no default is set; submit it with --image")
    namespace = settings.namespace_of(launch.allocation.project)
    code_pass = settings.code_token(launch) if launch.code else ""
    making = _Making(launch, namespace, settings, placing, code_pass)
    found = [_service(launch, namespace), *_secrets(making)]
    for rank in range(len(launch.allocation.seats)):
        if settings.device_class and shape.gpus:
            found.append(_claim(launch, rank, namespace, settings))
        found.append(_pod(making, rank))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Making:
    """What all pods of an allocation are made of."""

    launch: Launch
    namespace: str
    settings: Settings
    placing: Placing
    code_pass: str

    @property
    def pass_digest(self) -> str:
        return hashlib.sha256(self.code_pass.encode()).hexdigest()

    @property
    def pass_secret(self) -> str:
        return pass_secret(base_name(self.launch.allocation), self.pass_digest)


def passes() -> Callable[[Launch], str]:
    """Makes a pass for an allocation, the same one again in this process; told from a token by how
    it begins."""
    key = secrets.token_bytes(32)

    def made(launch: Launch) -> str:
        drawn = hmac.digest(key, launch.allocation.id.encode(), "sha256")
        return f"pass-{base64.urlsafe_b64encode(drawn).decode().rstrip('=')}"

    return made


def pass_secret(base: str, pass_digest: str) -> str:
    """The name of the Secret that holds a pass."""
    return f"{base}-code-{pass_digest[:10]}"


def hung_on(body: Object, service: Object) -> Object:
    """The same, removed by Kubernetes itself when the Service is."""
    owner = {"apiVersion": "v1", "kind": "Service"}
    owner |= {name: service["metadata"][name] for name in ("name", "uid")}
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [owner]}}


def collection_of(body: Object) -> str:
    """Where an object is POSTed to."""
    version = body["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{body['metadata']['namespace']}/{body['kind'].lower()}s"


def base_name(allocation: Allocation) -> str:
    """What all names of an allocation begin with: a DNS label that begins with a letter. It is also
    its Service's."""
    plain = f"{allocation.job}-a{allocation.attempt}"
    name = _UNFIT.sub("-", plain.lower()).strip("-")
    if name == plain and name[:1].isalpha() and len(name) <= NAME_CHARS_MAX:
        return name
    digest = hashlib.sha256(allocation.id.encode()).hexdigest()[:10]
    return f"m-{name[: NAME_CHARS_MAX - 13].strip('-')}-{digest}"


def pod_name(launch: Launch, rank: int) -> str:
    """The pod's, and its hostname."""
    return f"{base_name(launch.allocation)}-{rank}"


def master_port(allocation: str) -> int:
    """Rank 0 listens there; the same for all members, seldom the same for two allocations."""
    digest = hashlib.sha256(allocation.encode()).digest()
    return PORTS[int.from_bytes(digest[:4]) % len(PORTS)]


def _labels(launch: Launch) -> dict[str, str]:
    allocation = launch.allocation
    return {
        MANAGED_BY: "madang",
        JOB: allocation.job,
        ALLOCATION: allocation.id,
        PROJECT: allocation.project,
    }


def _metadata(launch: Launch, name: str, namespace: str) -> Object:
    return {"name": name, "namespace": namespace, "labels": _labels(launch)}


def _service(launch: Launch, namespace: str) -> Object:
    """Gives each member a name in DNS, also before it is ready: they look for each other then."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(launch, base_name(launch.allocation), namespace),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {ALLOCATION: launch.allocation.id},
            "ports": [{"name": "master", "port": master_port(launch.allocation.id)}],
        },
    }


def _secrets(making: _Making) -> list[Object]:
    launch, namespace = making.launch, making.namespace
    wrong = [name for name, _ in launch.env if not _ENV_NAME.fullmatch(name)]
    if wrong:
        raise EngineError(f"{wrong[0]!r} is no variable name")
    base, found = base_name(launch.allocation), []
    if launch.env:
        found.append(_secret(launch, f"{base}-env", dict(launch.env), namespace))
    if making.code_pass:
        token = {"token": making.code_pass}
        found.append(_secret(launch, making.pass_secret, token, namespace))
    return found


def _secret(launch: Launch, name: str, values: Mapping[str, str], namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(launch, name, namespace),
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in values.items()},
    }


def _claim(launch: Launch, rank: int, namespace: str, settings: Settings) -> Object:
    """Asks for as many devices as the seat has; the engine names them (`dra.allocation`)."""
    exactly = {
        "deviceClassName": settings.device_class,
        "allocationMode": "ExactCount",
        "count": launch.allocation.shape.gpus,
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": _metadata(launch, pod_name(launch, rank), namespace),
        "spec": {"devices": {"requests": [{"name": CLAIM, "exactly": exactly}]}},
    }


def _pod(making: _Making, rank: int) -> Object:
    launch, settings, placing = making.launch, making.settings, making.placing
    allocation = launch.allocation
    metadata = _metadata(launch, pod_name(launch, rank), making.namespace)
    metadata["labels"] |= {RANK: str(rank)}
    metadata["annotations"] = {
        JOB: allocation.job,
        ALLOCATION: allocation.id,
        RANK: str(rank),
    }
    if making.code_pass:
        metadata["annotations"] |= {CODE_OF: launch.code, CODE_PASS: making.pass_digest}
    spec: Object = {
        "schedulerName": settings.scheduler,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": max(placing.grace_s, 1),
        "hostname": pod_name(launch, rank),
        "subdomain": base_name(launch.allocation),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(settings.run_as),
        "initContainers": [_code_container(making)],
        "containers": [_member(launch, rank, making.namespace, settings)],
        "volumes": _volumes(settings),
        "affinity": _affinity(placing.needs),
        "tolerations": [_toleration(one) for one in placing.tolerates],
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "priorityClassName": settings.priority_class,
    }
    if settings.host_network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if settings.device_class and allocation.shape.gpus:
        spec["resourceClaims"] = [{"name": CLAIM, "resourceClaimName": metadata["name"]}]
    # Empty fields are left out: the API server would write them down for each of many pods.
    spec = {key: value for key, value in spec.items() if value not in ("", [], {}, None)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _pod_security(run_as: int) -> Object:
    found: Object = {"seccompProfile": {"type": "RuntimeDefault"}}
    if run_as >= 0:
        found |= {"runAsUser": run_as, "runAsGroup": run_as, "fsGroup": run_as}
        found["runAsNonRoot"] = run_as > 0
    return found


def _container_security() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _code_container(making: _Making) -> Object:
    """Brings the code snapshot, the SDK, and the directory for checkpoints."""
    launch, settings = making.launch, making.settings
    env: list[Object] = [{"name": "MADANG_TOP", "value": TOP}]
    if launch.code:
        env += [
            {"name": "MADANG_URL", "value": escaped(settings.url)},
            {"name": "MADANG_CODE", "value": launch.code},
        ]
    if making.code_pass:
        secret = {"name": making.pass_secret, "key": "token"}
        env.append({"name": "MADANG_CODE_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    mounts = [{"name": "work", "mountPath": TOP}]
    if settings.checkpoints:
        env.append({"name": "MADANG_STORE", "value": f"{STORE}/{_store_path(launch)}"})
        mounts.append({"name": "checkpoints", "mountPath": STORE})
    return {
        "name": "code",
        "image": settings.image or launch.image,
        "command": ["python", "-m", "madang.engines.kubernetes.fetch"],
        "env": env,
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "securityContext": _container_security(),
    }


def _store_path(launch: Launch) -> str:
    """Where in the checkpoint volume; only what a directory's name may be."""
    key = launch.checkpoint_key or launch.allocation.job
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", key):
        raise EngineError(f"{key!r} cannot name a directory of checkpoints")
    return key


def _member(launch: Launch, rank: int, namespace: str, settings: Settings) -> Object:
    shape = launch.allocation.shape
    requests = {"cpu": f"{shape.cpu_milli}m", "memory": f"{shape.memory_mib}Mi"}
    resources: Object = {"requests": requests}
    if shape.gpus and settings.device_class:
        resources["claims"] = [{"name": CLAIM}]
    elif shape.gpus:
        resources["limits"] = {GPU: str(shape.gpus)}
        requests[GPU] = str(shape.gpus)
    mounts: list[Object] = [
        {"name": "work", "mountPath": TOP},
        {"name": "told", "mountPath": TOLD, "readOnly": True},
    ]
    if settings.shm_mib:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if settings.checkpoints:
        path = _store_path(launch)
        mounts.append({"name": "checkpoints", "mountPath": CHECKPOINTS, "subPath": path})
    member: Object = {
        "name": "member",
        "image": launch.image or settings.image,
        "command": [escaped(word) for word in launch.command],
        "workingDir": CODE,
        "env": _env(launch, rank, namespace, settings),
        "resources": resources,
        "volumeMounts": [*mounts, *(dict(one) for one in settings.mounts)],
        "securityContext": _container_security(),
    }
    if launch.env:
        member["envFrom"] = [{"secretRef": {"name": f"{base_name(launch.allocation)}-env"}}]
    return member


def _env(launch: Launch, rank: int, namespace: str, settings: Settings) -> list[Object]:
    """What only the engine can know: it goes before the user's own, which comes from the Secret.

    What the user may set himself is left out where he did.
    """
    allocation = launch.allocation
    seat, said = allocation.seats[rank], dict(launch.env)
    nodes = list(dict.fromkeys(other.node for other in allocation.seats))
    beside = [r for r, other in enumerate(allocation.seats) if other.node == seat.node]
    base = base_name(launch.allocation)
    behind = said.get("PYTHONPATH", "")
    fixed = {
        "WORLD_SIZE": str(len(allocation.seats)),
        "RANK": str(rank),
        "LOCAL_RANK": str(beside.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(beside)),
        "NODE_RANK": str(nodes.index(seat.node)),
        "GROUP_RANK": str(nodes.index(seat.node)),
        "MASTER_ADDR": f"{pod_name(launch, 0)}.{base}.{namespace}.svc",
        "MASTER_PORT": str(master_port(allocation.id)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONPATH": f"{SDK}:{behind}" if behind else SDK,
        "MADANG_JOB": allocation.job,
        "MADANG_NAME": launch.name,
        "MADANG_ALLOCATION": allocation.id,
        "MADANG_ATTEMPT": str(allocation.attempt),
        "MADANG_PROJECT": allocation.project,
        "MADANG_RANK": str(rank),
        "MADANG_GPUS": ",".join(map(str, seat.gpus)),
        "MADANG_CHECKPOINT_DIR": CHECKPOINTS,
        "MADANG_WARNING_FILE": f"{TOLD}/warning",
        "MADANG_REPORT_FILE": "/dev/stdout",
        "MADANG_URL": settings.url,
    }
    if not allocation.shape.gpus:
        fixed["NVIDIA_VISIBLE_DEVICES"] = "void"  # else an image made for GPUs would see them all
    usual = {
        "OMP_NUM_THREADS": str(max(1, allocation.shape.cpu_milli // 1000)),
        "PYTHONUNBUFFERED": "1",
    }
    fixed |= {name: text for name, text in usual.items() if name not in said}
    return [{"name": name, "value": escaped(text)} for name, text in fixed.items()]


def escaped(text: str) -> str:
    """The text, so that the kubelet's expansion of `$(NAME)` and `$$` gives it back."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def _volumes(settings: Settings) -> list[Object]:
    warning = {
        "path": "warning",
        "fieldRef": {"fieldPath": f"metadata.annotations['{WARNING}']"},
    }
    found: list[Object] = [
        {"name": "work", "emptyDir": {}},
        {"name": "told", "downwardAPI": {"items": [warning]}},
    ]
    if settings.shm_mib:
        shm = {"medium": "Memory", "sizeLimit": f"{settings.shm_mib}Mi"}
        found.append({"name": "shm", "emptyDir": shm})
    if settings.checkpoints:
        claim = {"claimName": settings.checkpoints}
        found.append({"name": "checkpoints", "persistentVolumeClaim": claim})
    return [*found, *(dict(one) for one in settings.volumes)]


def _affinity(needs: Needs) -> Object:
    terms = [term for term in map(_term, needs) if term]
    if not terms:
        return {}
    required = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _term(all_of: Sequence[Need]) -> Object:
    term: Object = {}
    for need in all_of:
        field = "matchFields" if need.key == NODE_NAME else "matchExpressions"
        one: Object = {"key": need.key, "operator": _HOWS[need.how]}
        if need.values:
            one["values"] = list(need.values)
        term.setdefault(field, []).append(one)
    return term


def _toleration(one: Toleration) -> Object:
    found: Object = {"operator": one.how.capitalize()}
    if one.key:
        found["key"] = one.key
    if one.value and one.how != "exists":
        found["value"] = one.value
    if one.effect:
        found["effect"] = one.effect
    return found
