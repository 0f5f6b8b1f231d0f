"""What can go wrong with a ledger, by what the caller must do about it."""


class LedgerError(Exception):
    """The ledger cannot be opened, read or written; the message says what to do."""


class SchemaTooNew(LedgerError):
    """A newer Madang has been here: its rows are not ours to read."""


class CommitFailed(LedgerError):
    """The world's fault (disk full, connection lost). Nothing was written; try again later."""


class CommitUnknown(LedgerError):
    """The connection broke during COMMIT and stayed away: the turn may or may not be there.

    The caller stops and starts again from the rows.
    """


class CommitRefused(LedgerError):
    """The database would not have it: a device twice, a key twice, a row that is not there.

    Always a bug of ours. Nothing was written; the caller stops and starts again from the rows.
    """


class LostLead(LedgerError):
    """Another daemon has taken the lead. Nothing was written; the caller stops."""
