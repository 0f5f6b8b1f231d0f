"""Makes what a job of our own needs: its Service, its Secrets, its pods.

Promises: everything has a name by allocation and rank, so that making it again after a crash makes
nothing twice; what the API server will never have ends the stay; nothing is made by who is not the
leader.
"""

import asyncio

from madang.engines.base import EngineError, Launch
from madang.engines.kubernetes import trim
from madang.engines.kubernetes.cache import ALLOCATION, RANK
from madang.engines.kubernetes.client import ApiError, Away, Conflict, Object, TooMany
from madang.engines.kubernetes.ending import Ender
from madang.engines.kubernetes.hands import Hands
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.stays import ENGINE_FAILED, Stay, Stays


class Maker:
    """On the engine's loop."""

    def __init__(self, hands: Hands, stays: Stays, ender: Ender) -> None:
        self._hands = hands
        self._stays = stays
        self._ender = ender

    async def launch(self, stay: Stay, launch: Launch) -> bool:
        """Make what is missing; False: it never can be, and the stay was given up.

        Raises:
            ApiError: no answer, or not now.
            Deposed: not the leader any more.
        """
        try:
            objects = await asyncio.to_thread(self._hands.made, launch)
            for one in objects:
                if one["kind"] != "Pod":
                    await self._make(one)
            pods = [one for one in objects if one["kind"] == "Pod"]
            await asyncio.gather(*(self._make_pod(stay, one) for one in pods))
        except (Away, TooMany, Conflict, Deposed):
            raise
        except (ApiError, EngineError) as failure:
            # The API server, or an admission hook, will never have it.
            await self._ender.give_up(stay, f"its pods cannot be made: {failure}", ENGINE_FAILED)
            return False
        return True

    async def _make_pod(self, stay: Stay, body: Object) -> None:
        rank = int(body["metadata"]["annotations"][RANK])
        member = stay.members[rank]
        if member.ended or member.pod is not None:
            return
        async with self._hands.line:
            member.tried = True
            found = trim.pod(await self._make(body))
        if found is None or found.annotation(ALLOCATION) != stay.id:
            raise EngineError(f"a pod named {body['metadata']['name']} is there already")
        self._stays.seen(stay, found)

    async def _make(self, body: Object) -> Object:
        """POST; a pod that is there already by that name is read, the rest is as it was made:
        Secrets may be made and deleted by us, and read by nobody.

        Raises:
            ApiError: refused, or no answer.
        """
        if not self._hands.held():
            raise Deposed("not the leader any more: nothing was made")
        path, name = _path(body), body["metadata"]["name"]
        try:
            return await self._hands.client.post(path, body)
        except Conflict as failure:
            if failure.reason != "AlreadyExists":
                raise
            if body["kind"] != "Pod":
                return body
            return await self._hands.client.get(f"{path}/{name}")


def _path(body: Object) -> str:
    """The collection that an object goes to."""
    version = body["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{body['metadata']['namespace']}/{body['kind'].lower()}s"
