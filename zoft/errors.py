"""Errors a user can act on: each says what was asked, what came and what to do."""


class UsageError(ValueError):
    """Bad input found before any work was lost. On the command line: one message, exit code 2."""


class UnsupportedModuleError(UsageError):
    """A module reads its weights in a way that a read-only perturbation cannot reach; the message names it."""
