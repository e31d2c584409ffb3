"""The one exception tree, and how a command shows it: one line on stderr and an exit code."""

import errno
import os
import select
import sys
import traceback
from collections.abc import Callable

INTERRUPTED = 130
CLOSED_PIPE = 141  # as of a program that SIGPIPE ends


class StarloomError(Exception):
    """Base of every error that a user is meant to read; its message is one line."""

    exit_code = 1


class RunError(StarloomError):
    """The input was right, the work failed: exit code 1."""


class StorageError(RunError):
    """The machine or the network did not give what is there, and was asked several times: no fault of the data."""


class UserError(StarloomError):
    """The user's input is wrong; the message names the field, the value and the remedy: exit code 2."""

    exit_code = 2


class NotFoundError(UserError):
    """What is asked for by name does not exist."""


def one_line(error: object, limit: int = 300) -> str:
    """A message, or an exception's, without line breaks and at most `limit` characters long."""
    return " ".join(str(error).split())[:limit]


def disk_error(error: OSError, location: str) -> Exception:
    """A full disk or a refused write as a one-line `RunError`; any other error as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{location}: the disk is full; free some space and run again, what is finished stays")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return RunError(f"{location}: not writable ({error.strerror}); choose another root or mend its permissions")
    return error


def guarded(work: Callable[[], int]) -> int:
    """Run a command; errors that a user is meant to read become one line on stderr and the exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; what is finished stays, run again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError as error:
        if not _nobody_reads():
            return _told(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
        return CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost frame: everything is shown, nothing swallowed
        return _told(error)


def _told(error: Exception) -> int:
    known = readable(error)
    if known is None:
        traceback.print_exc()
        print(f"error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"error: {known}", file=sys.stderr, flush=True)
    return known.exit_code


def _nobody_reads() -> bool:
    """Whether what is printed goes into a pipe that was closed, as by ``| head``."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in pipe.poll(0))


def readable(error: BaseException) -> StarloomError | None:
    """The error for the user inside what Ray, a worker or a library wrapped around it, if there is one."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, StarloomError):
            return current
        if isinstance(current, OSError) and current.errno is not None:
            translated = disk_error(current, str(current.filename or "writing"))
            if isinstance(translated, StarloomError):
                return translated
        cause = getattr(current, "cause", None)
        queue += [cause if isinstance(cause, BaseException) else None, current.__cause__, current.__context__]
    return None
