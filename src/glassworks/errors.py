"""Errors that a user can cause, each with a stable exit code.

The message of an error is one line with the location, the fault and the remedy. Only the command line catches these errors; it prints the message and
exits with `exit_code`. Any other exception is a bug in glassworks and keeps its traceback.
"""


class UserError(Exception):
    """An error that the user can fix. `str(error)` is the message for the user."""

    exit_code = 1


class ConfigError(UserError):
    """An invalid key, type, value or combination in params.yaml or experiments/."""

    exit_code = 2


class DataError(UserError):
    """Unusable input data: a broken image, a row without a caption, a truncated shard."""

    exit_code = 3


class ArtifactError(UserError):
    """An artefact that is missing, incomplete, altered, or inconsistent with its recipe."""

    exit_code = 4


class FetchError(UserError):
    """A failed download: no network, a wrong digest, a refused address."""

    exit_code = 5


class ResourceError(UserError):
    """An exhausted resource: disk space, a file-size limit, memory."""

    exit_code = 6


class Stopped(UserError):
    """Stopped by a signal. The same command resumes. Exit code 75 is EX_TEMPFAIL: a workflow manager retries."""

    exit_code = 75


class Interrupted(Stopped):
    """Stopped by a signal after saving a checkpoint with new progress."""


class Stalled(UserError):
    """Ended by the watchdog for lack of progress. A workflow manager retries."""

    exit_code = 75
