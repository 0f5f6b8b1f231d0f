"""A job of our own is a Service, its Secrets, and a pod for each member."""

import base64
import hashlib
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.api.gate import PASS_PREFIX
from madang.client.code import pack
from madang.core.model import Allocation, AllocationState, Need, Seat, Shape, Toleration
from madang.engines.base import EngineError, Launch
from madang.engines.kubernetes import fetch, trim
from madang.engines.kubernetes.manifests import (
    Placing,
    Settings,
    base_name,
    escaped,
    master_port,
    objects_of,
    passes,
    pod_name,
)
from madang.engines.kubernetes.values import Asks

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
SETTINGS = Settings(
    image="madang:1",
    url="http://madang.gpu.svc:7070",
    code_token=lambda launch: f"pass-for-{launch.code[:4]}",
    namespace_of=lambda project: f"team-{project}",
)
CODE = "ab" * 32
PASS_DIGEST = hashlib.sha256(b"pass-for-abab").hexdigest()


def launch_of(job="train-12", attempt=2, seats=None, shape=None, **rest):
    seats = seats or (Seat("n1", (0, 1)), Seat("n1", (2, 3)), Seat("n2", (0, 1)))
    allocation = Allocation(
        id=f"{job}.{attempt}",
        job=job,
        project="vision",
        attempt=attempt,
        shape=shape or Shape(gpus=2, cpu_milli=8000, memory_mib=65536),
        seats=seats,
        state=AllocationState.BOUND,
        bound_ms=1,
    )
    said = {"command": ("python", "train.py"), "code": CODE, "checkpoint_key": job, **rest}
    return Launch(allocation=allocation, name="train", owner="kim", **said)


def made(launch=None, settings=SETTINGS, placing=None):
    found = objects_of(launch or launch_of(), settings, placing or Placing())
    return [(one["kind"], one) for one in found]


def pods(*args, **rest):
    return [one for kind, one in made(*args, **rest) if kind == "Pod"]


def env_of(pod, container="containers"):
    return {one["name"]: one.get("value") for one in pod["spec"][container][0]["env"]}


def test_an_allocation_is_a_service_its_secrets_and_a_pod_for_each_member():
    found = made(launch_of(env=(("HF_TOKEN", "hf_x"),)))

    assert [kind for kind, _ in found] == ["Service", "Secret", "Secret", "Pod", "Pod", "Pod"]
    assert {one["metadata"]["namespace"] for _, one in found} == {"team-vision"}
    assert all(
        one["metadata"]["labels"]["madang.io/allocation"] == "train-12.2" for _, one in found
    )
    assert [one["metadata"]["name"] for _, one in found] == [
        "train-12-a2",
        "train-12-a2-env",
        f"train-12-a2-code-{PASS_DIGEST[:10]}",
        "train-12-a2-0",
        "train-12-a2-1",
        "train-12-a2-2",
    ]


def test_making_it_twice_makes_the_same():
    assert made() == made()


def test_members_find_each_other_and_their_rank():
    ranks = [env_of(pod) for pod in pods()]
    shared = {(one["MASTER_ADDR"], one["MASTER_PORT"], one["WORLD_SIZE"]) for one in ranks}
    service = made()[0][1]

    assert shared == {
        ("train-12-a2-0.train-12-a2.team-vision.svc", str(master_port("train-12.2")), "3")
    }
    assert [one["RANK"] for one in ranks] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in ranks] == ["0", "1", "0"]
    assert [one["NODE_RANK"] for one in ranks] == ["0", "0", "1"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert {(pod["spec"]["hostname"], pod["spec"]["subdomain"]) for pod in pods()} == {
        (f"train-12-a2-{rank}", service["metadata"]["name"]) for rank in range(3)
    }


def test_secrets_are_in_secrets_and_the_token_only_where_code_is_fetched():
    launch = launch_of(env=(("HF_TOKEN", "hf_secret"),))
    found = {one["metadata"]["name"]: one for kind, one in made(launch) if kind == "Secret"}
    pod = pods(launch)[0]

    assert base64.b64decode(found["train-12-a2-env"]["data"]["HF_TOKEN"]) == b"hf_secret"
    code = found[f"train-12-a2-code-{PASS_DIGEST[:10]}"]["data"]
    assert base64.b64decode(code["token"]) == b"pass-for-abab"
    assert "hf_secret" not in str(pod)
    assert "pass-for" not in str(pod)
    assert pod["metadata"]["annotations"]["madang.io/code"] == CODE
    assert pod["metadata"]["annotations"]["madang.io/code-pass"] == PASS_DIGEST
    assert "-code" not in str(pod["spec"]["containers"])
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "train-12-a2-env"}}]


def test_what_only_the_engine_knows_wins_and_what_is_usual_does_not():
    launch = launch_of(env=(("RANK", "7"), ("OMP_NUM_THREADS", "2"), ("PYTHONPATH", "/mine")))
    env = env_of(pods(launch)[0])

    assert env["RANK"] == "0"
    assert "OMP_NUM_THREADS" not in env
    assert env["PYTHONPATH"] == "/madang/sdk:/mine"


def test_each_process_makes_other_passes_in_other_secrets():
    one, other = (replace(SETTINGS, code_token=passes()) for _ in range(2))
    drawn = {one.code_token(launch_of(attempt=attempt)) for attempt in range(64)}

    assert made(settings=one) == made(settings=one)
    assert (
        made(settings=one)[1][1]["metadata"]["name"]
        != (made(settings=other)[1][1]["metadata"]["name"])
    )
    assert len(drawn) == 64
    assert all(found.startswith(PASS_PREFIX) for found in drawn)


def test_our_pods_are_read_back_as_they_were_meant():
    placing = Placing(
        needs=((Need("zone", "in", ("a",)), Need("metadata.name", "in", ("n1", "n2"))),),
        tolerates=(Toleration("gpu", "exists", "", "NoSchedule"), Toleration("a", "equal", "b")),
        grace_s=90,
    )
    one = pods(placing=placing)[1]
    one["metadata"]["uid"] = "u"
    pod = trim.pod(one)
    assert pod is not None

    assert (pod.refused, pod.scheduler, pod.node, pod.grace_s) == ("", "madang", "", 90)
    assert pod.asks == Asks(8000, 65536, 2)
    assert pod.needs == placing.needs
    assert pod.tolerates == placing.tolerates
    assert (pod.annotation("madang.io/allocation"), pod.annotation("madang.io/rank")) == (
        "train-12.2",
        "1",
    )


def test_members_run_without_rights():
    spec = pods()[0]["spec"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "runAsNonRoot": True,
    }
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_checkpoints_outlive_the_pod_on_a_volume_of_their_own():
    spec = pods(settings=replace(SETTINGS, checkpoints="ckpt"))[0]["spec"]
    mounts = spec["containers"][0]["volumeMounts"]

    assert {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "ckpt"}} in spec[
        "volumes"
    ]
    assert {
        "name": "checkpoints",
        "mountPath": "/madang/checkpoints",
        "subPath": "train-12",
    } in mounts
    assert env_of({"spec": spec}, "initContainers")["MADANG_STORE"] == "/madang-store/train-12"


def test_gpus_may_be_asked_for_by_claim():
    found = made(settings=replace(SETTINGS, device_class="gpu.nvidia.com"))
    claims = [one for kind, one in found if kind == "ResourceClaim"]
    pod = next(one for kind, one in found if kind == "Pod")

    assert [one["metadata"]["name"] for one in claims] == [f"train-12-a2-{r}" for r in range(3)]
    assert claims[0]["spec"]["devices"]["requests"][0]["exactly"]["count"] == 2
    assert pod["spec"]["resourceClaims"] == [{"name": "gpus", "resourceClaimName": "train-12-a2-0"}]
    assert pod["spec"]["containers"][0]["resources"]["claims"] == [{"name": "gpus"}]
    assert "nvidia.com/gpu" not in str(pod)


def test_members_without_gpus_see_none():
    launch = launch_of(shape=Shape(gpus=0, cpu_milli=1000), seats=(Seat("n1", ()),))

    assert env_of(pods(launch)[0])["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.parametrize(
    ("launch", "settings", "says"),
    [
        (
            launch_of(shape=Shape(gpus=1, gpu_milli=250), seats=(Seat("n1", (0,)),)),
            SETTINGS,
            "0.25 of a GPU",
        ),
        (launch_of(), replace(SETTINGS, image=""), "names no image"),
        (launch_of(env=(("A B", "c"),)), SETTINGS, "'A B' is no variable name"),
        (launch_of(checkpoint_key="../x"), replace(SETTINGS, checkpoints="c"), "cannot name"),
    ],
)
def test_what_kubernetes_cannot_give_is_said(launch, settings, says):
    with pytest.raises(EngineError, match=re.escape(says)):
        objects_of(launch, settings)


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?-[0-9]{1,8}", fullmatch=True),
    st.integers(1, 999),
    st.integers(0, 65_535),
)
def test_names_are_dns_labels_whatever_the_job_is_called(job, attempt, rank):
    launch = launch_of(job, attempt)

    assert DNS_LABEL.fullmatch(base_name(launch.allocation))
    assert DNS_LABEL.fullmatch(pod_name(launch, rank))


def expanded(text, env):
    """As Kubernetes' third_party/forked/golang/expansion does."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                out, at = out + "$", at + 2
                continue
            if text[at + 1] == "(" and ")" in text[at:]:
                end = text.index(")", at)
                name = text[at + 2 : end]
                out, at = out + env.get(name, f"$({name})"), end + 1
                continue
        out, at = out + text[at], at + 1
    return out


@given(st.text(alphabet="$()AB x", max_size=20))
def test_what_the_kubelet_expands_comes_out_as_it_was_written(text):
    assert expanded(escaped(text), {"A": "1", "B": "2", "": "3"}) == text


# -- the init container ----------------------------------------------------------------------------


class Daemon(BaseHTTPRequestHandler):
    """Gives out one snapshot, to who has the token, after a few refusals."""

    packed = b""
    statuses: list[int] = []  # noqa: RUF012 - set by each test

    def do_GET(self):
        status = self.statuses.pop(0) if self.statuses else 200
        if self.headers["Authorization"] != "Bearer good":
            status = 401
        self.send_response(status)
        self.end_headers()
        if status == 200:
            self.wfile.write(self.packed)

    def log_message(self, *args):
        pass


@pytest.fixture
def daemon(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("print('hello')\n")
    with pack(str(tmp_path / "src")) as packed, packed.open() as file:
        Daemon.packed = file.read()
        digest = packed.digest
    Daemon.statuses = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Daemon)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", digest
    server.shutdown()
    thread.join()
    server.server_close()


def environ_of(top, url="", digest="", token="good"):
    return {
        "MADANG_TOP": str(top),
        "MADANG_STORE": str(top / "store" / "train-12"),
        "MADANG_URL": url,
        "MADANG_CODE": digest,
        "MADANG_CODE_TOKEN": token,
    }


def test_the_init_container_brings_code_sdk_and_a_place_for_checkpoints(daemon, tmp_path):
    url, digest = daemon
    top = tmp_path / "top"
    fetch.bring(environ_of(top, url, digest))
    said = subprocess.run(
        [sys.executable, "-c", "import madang; print(madang.__file__)"],
        env={"PYTHONPATH": str(top / "sdk")},
        cwd=top,
        capture_output=True,
        check=True,
        text=True,
    )

    assert (top / "code" / "train.py").read_text() == "print('hello')\n"
    assert not (top / "code.tar.zst").exists()
    assert (top / "store" / "train-12").is_dir()
    assert (top / "checkpoints").is_dir()
    assert Path(said.stdout.strip()).is_relative_to(top / "sdk")


def test_a_daemon_that_restarts_is_waited_for(daemon, tmp_path):
    url, digest = daemon
    Daemon.statuses = [503, 500]
    pauses: list[float] = []
    fetch.bring(environ_of(tmp_path / "top", url, digest), sleep=pauses.append)

    assert pauses == [0.5, 1.0]
    assert (tmp_path / "top" / "code" / "train.py").exists()


@pytest.mark.parametrize(
    ("statuses", "token", "says"),
    [
        ([404], "good", "is not there any more; submit the job again"),
        ([], "old", "the token for the code snapshot"),
        ([418], "good", "the daemon answers 418"),
    ],
)
def test_a_refusal_ends_it_with_one_line(daemon, tmp_path, capsys, statuses, token, says):
    url, digest = daemon
    Daemon.statuses = list(statuses)
    status = fetch.main(environ_of(tmp_path / "top", url, digest, token))
    said = capsys.readouterr().err

    assert status == 1
    assert says in said
    assert said.count("\n") == 1


def test_what_is_not_what_was_asked_for_is_never_unpacked(daemon, tmp_path, monkeypatch):
    url, _ = daemon
    monkeypatch.setattr(fetch, "TRY_S", 0.0)
    with pytest.raises(fetch.FetchError, match="has the digest"):
        fetch.bring(environ_of(tmp_path / "top", url, CODE), sleep=lambda _: None)

    assert not (tmp_path / "top" / "code").exists()


def test_a_job_without_code_gets_an_empty_directory(tmp_path):
    fetch.bring(environ_of(tmp_path / "top"))

    assert list((tmp_path / "top" / "code").iterdir()) == []
