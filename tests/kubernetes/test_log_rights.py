"""Who may not read a log is told what lets him."""

import asyncio

import pytest

from madang.engines.base import EngineError
from madang.engines.kubernetes.client import Client, Refused
from madang.engines.kubernetes.config import Access
from madang.engines.kubernetes.logs import Logs
from madang.engines.kubernetes.values import PodFacts


class Closed(Client):
    """The API server's no to every read."""

    def __init__(self) -> None:
        super().__init__(Access("http://127.0.0.1:9"))

    async def get(self, path, **query):
        raise Refused(403, "Forbidden", 'pods "p" is forbidden: User … cannot get "pods/log"')


def test_a_log_that_may_not_be_read_names_the_setting_that_allows_it(tmp_path):
    pod = PodFacts("lab/p", "lab", "p", "u", node="n1", phase="Running")

    async def read():
        logs = Logs(Closed(), tmp_path / "logs", lambda: 0.0)
        try:
            await logs.spool(pod)
        finally:
            await logs.end()

    with pytest.raises(EngineError, match=r"namespace lab; .*rbac\.logsEverywhere=true"):
        asyncio.run(read())
