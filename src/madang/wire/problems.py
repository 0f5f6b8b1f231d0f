"""What goes wrong, as RFC 9457 problems: `application/problem+json`.

Every problem says what was given, what is allowed and what to do, as far as each applies.
`code` is for programs and never changes; `detail` and `try` are for people.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

MEDIA_TYPE = "application/problem+json"
GIVEN_CHARS_MAX = 200


class FieldError(BaseModel):
    """One place of a request that is wrong."""

    where: str = Field(description="The place: `gpus`, `jobs.3.env`, `query.limit`.")
    given: Any = Field(None, description="What stood there, shortened.")
    problem: str = Field(description="What is wrong with it, and what is allowed.")


class ProblemView(BaseModel):
    """An error."""

    model_config = ConfigDict(populate_by_name=True, title="Problem")

    type: str = Field(description="Where the code is explained.")
    title: str = Field(description="The code in words; the same for every such problem.")
    status: int
    code: str = Field(description="For programs: one word that stays.")
    detail: str = Field(description="What happened this time.")
    given: Any = Field(None, description="What was given.")
    allowed: Any = Field(None, description="What is allowed.")
    tries: list[str] = Field(
        default_factory=list, alias="try", description="What to do, most useful first."
    )
    errors: list[FieldError] = Field(
        default_factory=list, description="Each place of the request that is wrong."
    )
    reason: str = Field("", description="Of a rejected job: which rule says so.")
    numbers: dict[str, int | str] = Field(
        default_factory=dict, description="Of a rejected job: what the rule was reckoned from."
    )
    id: str = Field("", description="Of a failure of ours: the id that the daemon's log has.")

    @model_serializer(mode="wrap")
    def _what_applies(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only the keys that say something."""
        return {key: value for key, value in write(self).items() if value not in (None, "", [], {})}


def shortened(given: Any) -> Any:
    """The given value, small enough to be repeated in an answer and free of what JSON can't say."""
    if isinstance(given, bool | None):
        return given
    if isinstance(given, int):
        return given if given.bit_length() <= 53 else _short(hex(given))
    if isinstance(given, float):
        return given if abs(given) < float("inf") else str(given)
    if isinstance(given, bytes):
        given = given[:GIVEN_CHARS_MAX].decode("utf-8", "replace")
    if isinstance(given, str):
        return _short(given.encode("utf-8", "replace").decode())
    kind = "an object" if isinstance(given, dict) else "a list"
    return f"{kind} of {len(given)}" if hasattr(given, "__len__") else "…"


def _short(text: str) -> str:
    return text if len(text) <= GIVEN_CHARS_MAX else text[: GIVEN_CHARS_MAX - 1] + "…"
