"""Members fetch the code of their job, on a real API server, with a pass that ends with them."""

import base64
import sys
from pathlib import Path

import httpx
import pytest

import madang
from madang.client.code import pack
from madang.core.model import Phase
from madang.engines.kubernetes import manifests
from madang.engines.kubernetes.engine import KubernetesEngine
from tests.api.serving import serving
from tests.kubernetes.pools import POOL, pool_of
from tests.kubernetes.yard import PYTHON, opened, until

pytestmark = pytest.mark.kubernetes


def made_in(namespace, url):
    """Our own jobs' objects; the init container's image is this checkout."""
    settings = manifests.Settings(
        image="madang",
        url=url,
        code_token=manifests.passes(),
        namespace_of=lambda project: namespace,
    )

    def made(launch):
        objects = manifests.objects_of(launch, settings)
        for one in objects:
            for container in one.get("spec", {}).get("initContainers", ()):
                container["command"][0] = sys.executable
                source = str(Path(madang.__file__).parent.parent)
                container["env"].append({"name": "PYTHONPATH", "value": source})
        return objects

    return made


def test_members_fetch_their_code_with_a_pass_that_ends_with_them(shared, namespace, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("import os; print('hello', os.environ['RANK'])\n")
    (tmp_path / "api").mkdir()
    engines: list[KubernetesEngine] = []

    def may_fetch(code, given):
        return any(engine.may_fetch(code, given) for engine in engines)

    with serving(tmp_path / "api", may_fetch=may_fetch) as served:
        with pack(str(tmp_path / "src")) as packed, packed.open() as file:
            path = f"/v1/code/{packed.digest}"
            assert served.client.put(path, content=file.read()).status_code == 201
        with (
            pool_of(shared, {}, gpus=2, processes=True) as (_, pool),
            opened(
                shared, tmp_path, namespace=namespace, made=made_in(namespace, served.url)
            ) as yard,
        ):
            engines.append(yard.engine)
            until(lambda: yard.loop.snapshot().nodes, "a node")
            wait = [PYTHON, "-c", "import train, time; time.sleep(3)"]
            job = yard.run(
                *wait, members=2, needs=[f"{POOL}={pool}"], name="coded", code=packed.digest
            )
            secrets = f"/api/v1/namespaces/{namespace}/secrets?labelSelector=madang.io%2Fjob={job}"
            (secret,) = until(lambda: shared.ask("GET", secrets)["items"], "its secret")
            token = base64.b64decode(secret["data"]["token"]).decode()
            yard.wait_phase(job, Phase.RUNNING)
            with httpx.Client(headers={"authorization": f"Bearer {token}"}) as member:
                while_it_runs = member.get(f"{served.url}{path}").status_code
                elsewhere = member.get(f"{served.url}/v1/jobs").status_code
                yard.wait_phase(job, Phase.SUCCEEDED)
                until(lambda: member.get(f"{served.url}{path}").status_code == 401, "the pass ends")
            newest = yard.newest(job)
            logs = [yard.engine.read_log(newest.id, rank, 0, 1000) for rank in range(2)]
            until(lambda: not shared.ask("GET", secrets)["items"], "its secret goes")

    assert (while_it_runs, elsewhere) == (200, 401)
    assert logs == [b"hello 0\n", b"hello 1\n"]
