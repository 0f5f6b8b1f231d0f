"""One kind of object, mirrored: a list, then a watch, for ever.

Promises: `told` hears of every object that is there and of every one that is gone, in the order of
their versions, and of no older state after a newer one; a watch that is cut goes on where it was; a
version that the server forgot (410) makes a new list, and what vanished meanwhile is told as gone.
Objects are trimmed as they arrive: what is not needed is never kept.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import orjson

from madang.engines.kubernetes.client import (
    ApiError,
    Away,
    Client,
    Gone,
    Object,
    TooMany,
    error_of,
)

log = logging.getLogger("madang.kubernetes")

PAUSE_S = (0.2, 10.0)
EVENTS_BEFORE_OTHERS = 64  # decoded in one go before the loop's other tasks get their turn

T = TypeVar("T")
Trim = Callable[[Object], T | None]
Told = Callable[[str, T | None], None]
# Reads an event from its line, given what is known: (key, version, what it is now); None: it cannot
Glance = Callable[[bytes, Mapping[str, T]], tuple[str, str, T] | None]


class Mirror(Generic[T]):
    """`objects` by `namespace/name` (`name` where there is no namespace). Run `run` as a task.

    `glance` may tell what an event makes of an object from its line alone, exactly as `trim` would.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        trim: Trim[T],
        told: Told[T] = lambda key, now: None,
        glance: Glance[T] | None = None,
        **selectors: str,
    ) -> None:
        self.objects: dict[str, T] = {}
        self.synced = asyncio.Event()
        self.lists = 0  # how often everything was listed
        self.resumed = 0  # how often a cut watch went on where it was
        self._client = client
        self._path = path
        self._trim = trim
        self._told = told
        self._glance = glance
        self._selectors = selectors
        self._version = ""
        self._versions: dict[str, str] = {}  # of each object: the same one says nothing new
        self._listing = asyncio.Lock()
        self._generation = 0  # of lists; a watch from before one has nothing more to say

    async def run(self) -> None:
        """Mirror until cancelled. Never raises for what a server can do."""
        pause_s, most_s = PAUSE_S
        while True:
            before = self._version
            try:
                async with self._listing:
                    if not self._version:
                        await self._list()
                await self._watch()
                pause_s = PAUSE_S[0]
            except Gone:
                log.info("%s: version %s was forgotten, listing anew", self._path, self._version)
                self._version = ""
            except ApiError as failure:
                log.warning("%s cannot be watched: %s", self._path, failure)
                if self._version != before:  # it told something before it was cut
                    pause_s = PAUSE_S[0]
                wait_s = failure.retry_after_s if isinstance(failure, TooMany) else pause_s
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, most_s)
                if not isinstance(failure, Away):
                    self._version = ""
            except Exception:
                # An object that cannot be read is ours to mend; until then the rest stays true.
                log.exception("%s: an event could not be taken in, listing anew", self._path)
                self._version = ""
                await asyncio.sleep(most_s)

    async def relist(self) -> None:
        """Everything as it is now, by a consistent read: before the first write of a new leader.

        Raises:
            ApiError: it cannot be listed.
        """
        self._generation += 1
        async with self._listing:
            await self._list()

    async def _list(self) -> None:
        seen: dict[str, Object] = {}
        version = ""
        async for page in self._client.pages(self._path, **self._selectors):
            version = str(page["metadata"]["resourceVersion"])
            for item in page.get("items") or []:
                self._put(item)
                seen[key_of(item)] = {}
            await asyncio.sleep(0)
        for key in [key for key in self.objects if key not in seen]:
            self._drop(key)
        self._version = version
        self.lists += 1
        self.synced.set()

    async def _watch(self) -> None:
        taken, generation = 0, self._generation
        async for line in self._client.watch(self._path, self._version, **self._selectors):
            if generation != self._generation:
                return  # it was listed anew meanwhile: this is older
            self._version = self._take_line(line)
            taken += 1
            if taken % EVENTS_BEFORE_OTHERS == 0:
                await asyncio.sleep(0)
        self.resumed += 1

    def _take_line(self, line: bytes) -> str:
        """Take an event in; its version. Raises: ApiError, if it is an error."""
        seen = self._glance(line, self.objects) if self._glance is not None else None
        if seen is not None:
            key, version, now = seen
            if self._versions.get(key) != version:
                self._keep(key, version, now)
            return version
        event = orjson.loads(line)
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise error_of(item)
        if kind == "DELETED":
            self._drop(key_of(item))
        elif kind != "BOOKMARK":
            self._put(item)
        return str(item["metadata"]["resourceVersion"])

    def _put(self, item: Object) -> None:
        key, version = key_of(item), str(item["metadata"].get("resourceVersion") or "")
        if version and self._versions.get(key) == version:
            return
        now = self._trim(item)
        if now is None:
            self._drop(key)
        else:
            self._keep(key, version, now)

    def _keep(self, key: str, version: str, now: T) -> None:
        self._versions[key] = version
        if self.objects.get(key) != now:  # a heartbeat that says nothing new is no news
            self.objects[key] = now
            self._told(key, now)

    def _drop(self, key: str) -> None:
        self._versions.pop(key, None)
        if self.objects.pop(key, None) is not None:
            self._told(key, None)


def key_of(item: Any) -> str:
    """`namespace/name`, or `name`."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
