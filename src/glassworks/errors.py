"""The errors a user can cause, each with a stable exit code.

An error says in one line what is wrong, where, and what to do. It is raised where the fact is known and caught in one place, the command line,
which prints that line and exits with `exit_code`. Anything else that escapes is a fault of ours and keeps its traceback.
"""


class UserError(Exception):
    """Something the user can put right; `str(error)` is the line they read."""

    exit_code = 1


class ConfigError(UserError):
    """A wrong key, type, value or combination in params.yaml or experiments/."""

    exit_code = 2


class DataError(UserError):
    """Input data that cannot be used: a broken image, a row without a caption, a truncated shard."""

    exit_code = 3


class ArtifactError(UserError):
    """An artefact that is missing, incomplete, altered, or made by something else than it says."""

    exit_code = 4


class FetchError(UserError):
    """A download that failed: no network, a wrong digest, a refused address."""

    exit_code = 5


class ResourceError(UserError):
    """The machine ran out of something: disk space, a file-size limit, memory."""

    exit_code = 6


class Stopped(UserError):
    """Stopped by a signal; running the same command again continues. 75 is EX_TEMPFAIL: a workflow retries it."""

    exit_code = 75


class Interrupted(Stopped):
    """Stopped with everything saved, further on than it began."""


class Stalled(UserError):
    """Ended by the watchdog, since nothing moved any more; a workflow retries it."""

    exit_code = 75
