"""The words about time: why a reservation cannot be, and when a job is expected to start."""

from madang.core.admission import Rejected
from madang.core.estimates import HISTORY, LIMIT, SAID, Ending, Expected
from madang.core.model import WHOLE_GPU_MILLI, Job

RESERVATION_CODES = ("unknown_reservation", "reservation_of_other", "reservation_too_small")
ENDINGS_SHOWN_MAX = 3
_LIST = "see what there is: madang reserve ls"


def inside_guide(job: Job, rejected: Rejected, asked: str) -> tuple[str, tuple[str, ...]]:
    """Why a job cannot run inside the reservation it names."""
    n = dict(rejected.numbers)
    match rejected.code:
        case "unknown_reservation":
            text = (
                f"there is no reservation {n['asked']} that is still to come or under way; "
                f"project {job.project} has: {n['known']}"
            )
            return text, (_LIST, "leave --reservation out to wait in the queue")
        case "reservation_of_other":
            return (
                f"reservation {n['asked']} is kept for project {n['project']}, not {job.project}",
                (f"--project {n['project']}", _LIST),
            )
        case _:
            return (
                f"{asked} asked, but reservation {n['asked']} keeps {_gpus(n['held_milli'])} GPUs",
                ("ask for less, or leave --reservation out", _LIST),
            )


def refusal_guide(rejected: Rejected) -> tuple[str, tuple[str, ...]]:
    """Why a reservation cannot be made, and what would work."""
    n = dict(rejected.numbers)
    smaller = (f"--members {n['members_max']}",) if n.get("members_max") else ()
    match rejected.code:
        case "too_many_reservations":
            return f"there are {n['most']} reservations already", ("madang reserve rm NAME",)
        case "unknown_project":
            text = f"project {n['asked']} does not exist; there are: {n['known']}"
            return text, ("choose one with --project",)
        case "reservation_window":
            return (
                "a reservation begins before it ends, ends after now, and within a year",
                ("--begin +1h --for 6h",),
            )
        case "reservation_over_quota":
            text = (
                f"{_gpus(n['asked_milli'])} GPUs asked, but the project may hold "
                f"{_gpus(n['quota_milli'])} at most"
            )
            return text, ("ask for less, or raise its quota",)
        case "reservation_clash":
            text = f"of {n['members']} members {n['members_max']} fit in that window"
            if n["with"] != "none":
                text += f" beside what is reserved there: {n['with']}"
            else:
                text += ", even if the yard were empty"
            later = (f"--begin {n['begin_ms']} (ms): then all of it fits",) if n["begin_ms"] else ()
            return text, (*later, *smaller, _LIST)
        case _:
            text = (
                f"of {n['members']} members {n['members_max']} fit by then: jobs that may not be "
                f"stopped, and are not expected to have ended, hold the rest ({n['by']})"
            )
            return text, (*smaller, "a later --begin")


def expected_words(expected: Expected) -> str:
    """What an expected start rests on: which jobs must end, and how one knows when they will."""
    if not expected.is_known:
        return "what runs is not known to end: neither limits nor past runs say when"
    if not expected.after:
        return f"there is room for it then{_middle_words(expected)}"
    shown = [_ending_words(one) for one in expected.after[:ENDINGS_SHOWN_MAX]]
    more = len(expected.after) - ENDINGS_SHOWN_MAX
    beyond = f" and {more} more" if more > 0 else ""
    return f"after {'; '.join(shown)}{beyond}{_middle_words(expected)}"


def _middle_words(expected: Expected) -> str:
    if expected.futures == 1:
        return ""
    return f"; of {expected.futures} futures run ahead, as many say sooner as say later"


def _ending_words(ending: Ending) -> str:
    if ending.is_moved:
        return f"{ending.job} is moved aside, whose turn is after its"
    estimate = ending.estimate
    match estimate.source:
        case source if source == LIMIT:
            return f"{ending.job} at its time limit"
        case source if source == SAID:
            return f"{ending.job} as long as was said of it"
        case source if source == HISTORY:
            share = estimate.permille / 10
            return f"{ending.job} as {share:g} % of {estimate.runs} such runs had ended by then"
        case _:
            return f"{ending.job} ends"


def _gpus(milli: int | str) -> str:
    return f"{int(milli) / WHOLE_GPU_MILLI:g}"
