"""Errors a user can act on: each says what was asked, what came and what to do."""


class UsageError(ValueError):
    """Bad input found before any work was lost. On the command line: one message, exit code 2."""


class UnsupportedModuleError(UsageError):
    """A module reads its weights in a way that a read-only perturbation cannot reach; the message names it."""


class ReplicaError(RuntimeError):
    """Processes that train together came apart: one is silent, or holds other weights. On the command line: exit code 1."""

    def __init__(self, message: str, speak: bool = False) -> None:
        """
        Args:
            speak: rank 0, which speaks otherwise, cannot.
        """
        super().__init__(message)
        self.speak = speak
