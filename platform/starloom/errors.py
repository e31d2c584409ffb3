"""The one exception tree. The command line prints any of these as a single line and exits with its code."""


class StarloomError(Exception):
    """Base of every error that a user is meant to read; its message is one line."""

    exit_code = 1


class RunError(StarloomError):
    """The input was right, the work failed: exit code 1."""


class UserError(StarloomError):
    """The user's input is wrong; the message names the field, the value and the remedy: exit code 2."""

    exit_code = 2
