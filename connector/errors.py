"""Our errors, grouped by what the operator does next; the exit code sits on the class.

* ConnectorError                                                                 exit 1
  - ConfigError       fix the YAML, the environment or the command line          exit 2
  - AuthError         renew a credential or grant a permission                   exit 3
  - SourceError       the source answered, but not with data we can use          exit 4
  - TargetError       the data is fine; the target cannot take it as it is       exit 5
    + GateError       the publish gate kept yesterday's file                     exit 5
  - TransientError    nothing is wrong; run again later                          exit 75
    + BusyError       another run of this flow holds the lease                   exit 75
    + LockedError     somebody has the target open                               exit 75
    + ConflictError   the target changed between read and write                  exit 75

A message says where, what, and what would have been right. It never holds a secret
and never the body of an answer.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ConnectorError(Exception):
    """The root. `remedy` is the next step, in words; it is printed under the message."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class ConfigError(ConnectorError):
    exit_code = 2


class AuthError(ConnectorError):
    exit_code = 3


class SourceError(ConnectorError):
    exit_code = 4


class TargetError(ConnectorError):
    exit_code = 5


class GateError(TargetError):
    pass


class TransientError(ConnectorError):
    exit_code = 75


class BusyError(TransientError):
    pass


class LockedError(TransientError):
    pass


class ConflictError(TransientError):
    pass


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'region'? there is: amount, owner, region` — the end of an unknown-name message."""
    names = [str(name) for name in known]
    by_fold = {name.casefold(): name for name in names}
    close = get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    hint = f"did you mean {by_fold[close[0]]!r}? " if close else ""
    return f"{hint}there is: {', '.join(names)}" if names else "there is none"
