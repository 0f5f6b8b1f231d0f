"""The client's verbs about the yard: machines, what operators set, reports, access.

What operators set is one family: `GET /v1/NOUNS` lists, `PUT` makes or changes one whole, `DELETE`
takes one away; all answer with the API's own documents.
"""

from __future__ import annotations

from madang.client.writing import encoded, quoted, with_query

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from madang.client.transport import Response

    Document = dict[str, Any]


class YardVerbs:
    """The part of `Client` that needs no job; see there for what every method raises."""

    # -- machines ----------------------------------------------------------------------------------

    def nodes(self) -> list[Document]:
        """Machines and who holds their GPUs."""
        return self._all("nodes")

    def cordon(self, node: str) -> Document:
        """Let a node keep what it has and take no more."""
        return self._document("POST", f"/v1/nodes/{quoted(node)}/cordon", b"{}")

    def uncordon(self, node: str) -> Document:
        """Let a node take work again."""
        return self._document("POST", f"/v1/nodes/{quoted(node)}/uncordon", b"{}")

    def remove_node(self, node: str) -> Document:
        """A lost node that holds nothing leaves the yard; if it is seen again, it is back."""
        return self._drop("nodes", node)

    def top(self) -> Document:
        """What machines and members use now."""
        return self._document("GET", "/v1/top")

    def profiles(self) -> list[Document]:
        """Machine profiles, what comes with a GPU of each, and what is free."""
        return self._all("profiles")

    def overview(self) -> Document:
        """The whole cluster in a few numbers."""
        return self._document("GET", "/v1/overview")

    def health(self) -> Document:
        """{"status", "version", "role"}; needs no token."""
        return self._document("GET", "/v1/health")

    # -- what operators set ------------------------------------------------------------------------

    def holes(self) -> list[Document]:
        """Room that is kept for jobs to come."""
        return self._all("holes")

    def make_room(self, **asked: Any) -> Document:
        """Move jobs so that there is room; `dry_run=True` only says who would. See HoleRequest."""
        return self._document("POST", "/v1/holes", encoded(asked))

    def drop_hole(self, hole: str) -> Document:
        """Give a hole up."""
        return self._drop("holes", hole)

    def projects(self) -> list[Document]:
        """Projects with quota and use."""
        return self._all("projects")

    def set_project(self, project: str, quota_gpus: float | None, workspace: str = "") -> Document:
        """Make a project or change its quota (None: no limit) and its workspace ("": as it is)."""
        asked: Document = {"quota_gpus": quota_gpus}
        if workspace:
            asked["workspace"] = workspace
        return self._put("projects", asked, project)

    def rules(self) -> list[Document]:
        """Violation rules, and how many jobs break each."""
        return self._all("rules")

    def set_rule(self, rule: str, body: Document) -> Document:
        """Make or change a rule; see the body of `PUT /v1/rules/{id}`."""
        return self._put("rules", body, rule)

    def drop_rule(self, rule: str) -> Document:
        """Take a rule away; one that is shipped is as it was shipped again."""
        return self._drop("rules", rule)

    def preview_rule(self, rule: Document, since: str = "7d") -> Document:
        """What a rule would have done to past runs; nothing is set."""
        return self._document("POST", "/v1/rules:preview", encoded({"rule": rule, "since": since}))

    def violations(self) -> Document:
        """{"violations": who breaks which rule now, gravest first, "count"}."""
        return self._document("GET", "/v1/violations")

    def workspaces(self) -> list[Document]:
        """Workspaces, their projects and what these hold together."""
        return self._all("workspaces")

    def set_workspace(self, workspace: str) -> Document:
        """Make a workspace."""
        return self._put("workspaces", {}, workspace)

    def quotas(self) -> list[Document]:
        """What owners may hold, what they can always have back, and what they hold."""
        return self._all("quotas")

    def set_quota(self, quota: Document) -> Document:
        """Make or change a quota; see the body of `PUT /v1/quotas`."""
        return self._put("quotas", quota)

    def drop_quota(self, owner: str, group: str = "*", provisioning: str = "*") -> Document:
        """Take a quota away."""
        where = f"owner={quoted(owner)}&group={quoted(group)}&provisioning={quoted(provisioning)}"
        return self._document("DELETE", f"/v1/quotas?{where}")

    def zones(self) -> list[Document]:
        """Zones, whom and what they take, and what is free in them."""
        return self._all("zones")

    def set_zone(self, zone: str, rules: Document) -> Document:
        """Make or change a zone; see the body of `PUT /v1/zones/{id}`."""
        return self._put("zones", rules, zone)

    def drop_zone(self, zone: str) -> Document:
        """Take a zone's rules away."""
        return self._drop("zones", zone)

    def reservations(self) -> list[Document]:
        """Calendar reservations, by when they begin."""
        return self._all("reservations")

    def set_reservation(self, reservation: Document) -> Document:
        """Make or change a reservation; see the body of `PUT /v1/reservations`."""
        return self._put("reservations", reservation)

    def drop_reservation(self, id: str) -> Document:
        """Take a reservation away; jobs inside it go on as ordinary ones."""
        return self._drop("reservations", id)

    def budgets(self) -> list[Document]:
        """Disruption budgets, and how many of their members are down."""
        return self._all("budgets")

    def set_budget(self, budget: str, down_max: int, project: str = "default") -> Document:
        """Make or change a budget: so many members of the project's jobs may be down at once."""
        return self._put("budgets", {"project": project, "down_max": down_max}, budget)

    def drop_budget(self, budget: str) -> Document:
        """Take a budget away."""
        return self._drop("budgets", budget)

    # -- the rules of the yard ---------------------------------------------------------------------

    def policy(self) -> Document:
        """The policy in force: whole, as TOML, and what it says of each class."""
        return self._document("GET", "/v1/policy")

    def set_policy(self, policy: Document) -> Document:
        """Put a policy in force; what is left out is as in its `base`."""
        return self._document("PUT", "/v1/policy", encoded(policy))

    def topology(self) -> Document:
        """The network tree in force: levels, domains, what of each is free."""
        return self._document("GET", "/v1/topology")

    def set_topology(self, topology: Document) -> Document:
        """Declare a network tree; see the body of `PUT /v1/topology`."""
        return self._document("PUT", "/v1/topology", encoded(topology))

    def check_topology(self, topology: Document) -> Document:
        """What would be wrong or odd with it here; changes nothing."""
        return self._document("POST", "/v1/topology/check", encoded(topology))

    def drop_topology(self) -> Document:
        """Forget the declared tree: nodes lie where they say themselves."""
        return self._document("DELETE", "/v1/topology")

    # -- reports -----------------------------------------------------------------------------------

    def usage_report(self, since: str = "", until: str = "", by: str = "") -> Document:
        """GPU·hours, waits and preemptions of a window, grouped by e.g. `project,size`.

        `since`, `until`: `30d` before now, a date or time (UTC), or ms since 1970.
        """
        query = {"since": since, "until": until, "by": by}
        return self._document("GET", with_query("/v1/reports/usage", query))

    def idle_report(self, since: str = "", until: str = "") -> Document:
        """Per project: GPU·hours asked, held, used and idle; who was warned, what was taken."""
        query = {"since": since, "until": until}
        return self._document("GET", with_query("/v1/reports/idle", query))

    def pool_advice(self, since: str = "", wait: str = "", share: int | None = None) -> Document:
        """What pooling private zones would free, by the demand since then."""
        query = {"since": since, "wait": wait, "share": share}
        return self._document("GET", with_query("/v1/reports/pool", query))

    def journal(self, after: int = 0, limit: int | None = None) -> Document:
        """A page of the journal as it was committed, {"first_seq", "last_seq", "lines"}: each line
        is [seq, at_ms, text].
        """
        return self._document("GET", with_query("/v1/journal", {"after": after, "limit": limit}))

    def job_schema(self) -> Document:
        """JSON Schema of a JobRequest."""
        return self._document("GET", "/v1/schema/job")

    # -- who may come in ---------------------------------------------------------------------------

    def me(self) -> Document:
        """Who asks: {"user", "role", "via"}."""
        return self._document("GET", "/v1/me")

    def login_link(self, user: str = "", role: str = "") -> Document:
        """A link that opens the web page once: {"url", "user", "role", "expires_ms"}.

        For oneself; owners make it for any `user` and `role` (owner, member, viewer).
        """
        asked = {key: word for key, word in (("user", user), ("role", role)) if word}
        return self._document("POST", "/v1/login-links", encoded(asked))

    def tokens(self) -> Document:
        """Tokens by name, without their secrets."""
        return self._document("GET", "/v1/tokens")

    def new_token(self, name: str, role: str = "member") -> Document:
        """A new token; its secret is in this answer and never again.

        `role`: owner, member, viewer or agent.
        """
        body = encoded({"name": name, "role": role})
        return self._document("POST", "/v1/tokens", body, retry=False)

    def drop_token(self, name: str) -> None:
        """Revoke a user's token, browsers and login links."""
        self.exchange("DELETE", f"/v1/tokens/{quoted(name)}")

    # -- how it is asked -------------------------------------------------------------

    def _all(self, noun: str) -> list[Document]:
        return list(self._document("GET", f"/v1/{noun}")[noun])

    def _put(self, noun: str, asked: Mapping[str, Any], id: str = "") -> Document:
        path = f"/v1/{noun}/{quoted(id)}" if id else f"/v1/{noun}"
        return self._document("PUT", path, encoded(asked))

    def _drop(self, noun: str, id: str) -> Document:
        return self._document("DELETE", f"/v1/{noun}/{quoted(id)}")

    if TYPE_CHECKING:

        def _document(
            self,
            method: str,
            path: str,
            body: bytes = b"",
            headers: Mapping[str, str] | None = None,
            *,
            retry: bool = True,
        ) -> Document: ...

        def exchange(self, method: str, path: str) -> Response: ...
