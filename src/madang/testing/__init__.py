"""Contract suites that every engine and ledger passes, shipped for those who write another."""
