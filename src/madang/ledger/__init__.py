"""The ledger: the only room that speaks SQL. Rows and journal, one transaction a turn."""

from madang.ledger.errors import (
    CommitFailed,
    CommitRefused,
    CommitUnknown,
    LedgerError,
    LostLead,
    SchemaTooNew,
)
from madang.ledger.ledger import Ledger, open_ledger
from madang.ledger.values import (
    EventRecord,
    JobRecord,
    JobWrite,
    Loaded,
    NewJob,
    NodeWrite,
    Token,
    Turn,
    turn_of,
)

__all__ = [
    "CommitFailed",
    "CommitRefused",
    "CommitUnknown",
    "EventRecord",
    "JobRecord",
    "JobWrite",
    "Ledger",
    "LedgerError",
    "Loaded",
    "LostLead",
    "NewJob",
    "NodeWrite",
    "SchemaTooNew",
    "Token",
    "Turn",
    "open_ledger",
    "turn_of",
]
