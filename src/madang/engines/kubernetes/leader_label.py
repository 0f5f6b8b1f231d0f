"""The label by which the Service finds the leader: `madang.io/role: leader`, on one pod alone.

Both replicas are ready, for rollouts and disruption budgets count ready pods; so the Service cannot
tell them apart by readiness. Promises: `lead` may be called again and again, at every renewal of
the Lease: it asks once and writes only what is not so yet. The label routes requests and decides
nothing: who may write is the Lease's to say.
"""

from madang.engines.kubernetes.client import Client, Missing

ROLE = "madang.io/role"
LEADER = "leader"


async def lead(client: Client, namespace: str, pod: str) -> None:
    """This pod has the label, and no other pod of the namespace.

    The others first: for a moment nobody is reached rather than one who was deposed.

    Raises:
        ApiError: the server did not take it; call it again at the next renewal.
    """
    found = await client.get(_pods(namespace), labelSelector=f"{ROLE}={LEADER}")
    labelled = [str(one["metadata"]["name"]) for one in found["items"]]
    for other in labelled:
        if other != pod:
            await _set(client, namespace, other, None)
    if pod not in labelled:
        await _set(client, namespace, pod, LEADER)


async def step_down(client: Client, namespace: str, pod: str) -> None:
    """This pod has the label no more; nothing is wrong if it, or the pod, is gone.

    Raises:
        ApiError: the server did not take it.
    """
    await _set(client, namespace, pod, None)


async def _set(client: Client, namespace: str, pod: str, role: str | None) -> None:
    try:
        await client.patch(f"{_pods(namespace)}/{pod}", {"metadata": {"labels": {ROLE: role}}})
    except Missing:
        if role is not None:
            raise


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"
