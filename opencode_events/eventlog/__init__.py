"""The event log: the one total order, behind a small protocol (`base`), and its implementations."""
