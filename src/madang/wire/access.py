"""Who may do what, as it goes over the wire: roles, tokens, login links."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

USER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"


class Role(StrEnum):
    """What a caller may do. `agent` stands aside: it sends telemetry and sees nothing."""

    OWNER = "owner"  # everything
    MEMBER = "member"  # sees all, submits, acts on own jobs
    VIEWER = "viewer"  # sees all
    AGENT = "agent"  # sends telemetry frames

    def covers(self, least: "Role") -> bool:
        """True iff this role may do what at least that one may."""
        return least in _COVERED[self]

    @property
    def said(self) -> str:
        """`an owner`, `a member`."""
        return f"an {self}" if self[0] in "aeiou" else f"a {self}"


_COVERED = {
    Role.OWNER: frozenset(Role),
    Role.MEMBER: frozenset({Role.MEMBER, Role.VIEWER}),
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.AGENT: frozenset({Role.AGENT}),
}

ROLE_WORDS = (
    "`viewer` sees all; `member` also submits and acts on its own jobs; `owner` may do everything"
)


class TokenRequest(BaseModel):
    """A new token."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=USER_PATTERN,
        description="Whose it is or what for; jobs submitted with it have this owner.",
        examples=["ci"],
    )
    role: Role = Field(
        Role.MEMBER, description=f"{ROLE_WORDS}; `agent` only sends telemetry frames."
    )


class TokenView(BaseModel):
    """The token itself, shown this once."""

    name: str
    role: Role
    token: str


class TokenEntryView(BaseModel):
    """A token without its secret. `kind` is `token`, or `browser` for a logged-in browser."""

    name: str
    user: str
    role: Role
    kind: Literal["token", "browser"]
    made_ms: int
    expires_ms: int = Field(description="Of a browser; 0: it does not expire.")


class TokenListView(BaseModel):
    """Every token that opens this API."""

    tokens: list[TokenEntryView]


class MeView(BaseModel):
    """Who asks. Jobs that are submitted so have `user` as their owner."""

    user: str
    role: Role
    via: Literal["token", "cookie"]


class LoginLinkRequest(BaseModel):
    """Whom a link logs in, and as what. Only owners make links for others."""

    model_config = ConfigDict(extra="forbid")

    user: str = Field(
        "",
        pattern=rf"^$|{USER_PATTERN}",
        description="Jobs submitted on the page have this owner; default: who asks.",
        examples=["alice"],
    )
    role: Literal["", "owner", "member", "viewer"] = Field(
        "", description=f"{ROLE_WORDS}. Default: one's own; for somebody else `member`."
    )


class LoginLinkView(BaseModel):
    """A link that logs one browser in, once."""

    url: str
    user: str
    role: Role
    expires_ms: int
