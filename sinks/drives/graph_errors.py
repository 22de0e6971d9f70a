"""What Microsoft Graph refuses with, as our errors: a message and the next step instead of a status and a code.

The codes are those of the file endpoints and of the workbook API; they come nested, in any casing, and the most telling is not always
the innermost, so the first row of the table that fits decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from connector.errors import AuthError, ConfigError, ConflictError, ConnectorError, LockedError, TargetError, TransientError

_AGAIN: Final = "nothing is wrong here; the next run tries again"
_REPORT: Final = "this is a fault of ours: please report it with the request id"
_OPEN: Final = "close the file in Excel, or set on_locked to workbook or copy"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Graph said. `codes` are its error codes, outermost first, lower case; `body` is empty when it was not JSON."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return 0 < self.status < 400

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(str(layer["code"]).casefold() for layer in self._layers() if layer.get("code"))

    @property
    def code(self) -> str:
        """The innermost code, as Microsoft spells it."""
        return next((str(layer["code"]) for layer in reversed(self._layers()) if layer.get("code")), "")

    @property
    def message(self) -> str:
        """Microsoft's words, for recognising cases; never shown."""
        return " ".join(str(layer["message"]) for layer in self._layers() if layer.get("message"))

    def _layers(self) -> list[Mapping[str, Any]]:
        layers: list[Mapping[str, Any]] = []
        layer: Any = self.body.get("error")
        while isinstance(layer, dict):
            layers.append(layer)
            layer = next((value for name, value in layer.items() if name.casefold() == "innererror"), None)
        return layers

    def says(self, *codes: str) -> bool:
        return not {code.casefold() for code in codes}.isdisjoint(self.codes)


@dataclass(frozen=True, slots=True)
class Row:
    """One case: the statuses and codes it fits (empty: any), and what it means. `words` must be found in the message."""

    error: type[ConnectorError]
    meaning: str
    remedy: str
    statuses: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    words: str = ""

    def fits(self, answer: Answer) -> bool:
        return (
            (not self.statuses or answer.status in self.statuses)
            and (not self.codes or answer.says(*self.codes))
            and (not self.words or re.search(self.words, answer.message, re.IGNORECASE) is not None)
        )


_DENIED: Final = "grant the permission the setup guide names (Sites.Selected with a grant, or Files.ReadWrite.All) and consent to it; new grants take some minutes"

ROWS: Final[tuple[Row, ...]] = (
    # somebody is in the file
    Row(
        LockedError,
        "is checked out by somebody",
        "have it checked in",
        codes=("resourceLocked", "notAllowed", "resourceCheckedOut"),
        words="checked out (for editing )?(by|to)",
    ),
    Row(LockedError, "is open in Excel", _OPEN, codes=("resourceLocked", "lockMismatch")),
    Row(LockedError, "is open in Excel", _OPEN, words="SPFileLockException|is locked for|upload session already exists"),
    Row(
        TargetError,
        "is in a site that is read-only",
        "ask IT: the site is locked or over its quota",
        words="SiteReadOnly|Database Is Read Only",
    ),
    Row(LockedError, "is held by somebody's Excel", _OPEN, codes=("EditModeCannotAcquireLock",)),
    Row(TransientError, "is busy with other workbook calls", _AGAIN, codes=("EditModeCannotAcquireLockTooManyRequests",)),
    Row(LockedError, "is being edited in a way that does not mix with ours", _OPEN, codes=("accessConflict", "conflictUncategorized")),
    # the workbook API says no
    Row(
        AuthError,
        "does not let an app edit it live",
        "use device_code sign-in for on_locked: workbook, or another on_locked",
        codes=("EditModeAccessDenied",),
    ),
    Row(
        TargetError,
        "is protected by a sensitivity label; apps may not open it",
        "remove the encryption from the file, or keep the refreshed data in another one",
        codes=("OpenWorkbookAccessDenied",),
    ),
    Row(
        AuthError,
        "cannot be opened by Excel for the web for this account",
        "open the file once in the browser as this account; personal accounts have no live editing",
        codes=("FileOpenUserUnauthorized",),
    ),
    Row(TargetError, "cannot be opened by Excel for the web", "make sure that it is an .xlsx file", words="WAC access token"),
    Row(
        TargetError,
        "cannot be opened by Excel for the web",
        "open it in the browser: what Excel for the web cannot open, live editing cannot either",
        codes=("GenericFileOpenError", "unsupportedWorkbook", "invalidSessionUnsupportedWorkbook"),
    ),
    Row(
        TransientError,
        "lost its editing session",
        _AGAIN,
        codes=(
            "invalidSessionReCreatable",
            "invalidSessionAccessConflict",
            "invalidSessionAuthentication",
            "invalidSessionNotFound",
            "invalidSessionRestricted",
            "invalidSessionUnexpected",
            "InvalidSession",
            "DeploymentInvalidEditSession",
        ),
    ),
    Row(
        TargetError,
        "has a filter on the table that is in the way",
        "clear the filter; ours would destroy the view of whoever set it",
        codes=("filteredRangeConflict",),
    ),
    Row(
        TargetError,
        "has something below the table that the rows would run into",
        "move what stands below the table",
        codes=("insertDeleteConflict", "nonBlankCellOffSheet"),
    ),
    Row(
        TargetError,
        "is too large for live editing",
        "use on_locked: wait or copy",
        codes=("rangeExceedsLimit", "payloadTooLargeUncategorized", "RequestPayloadSizeLimitExceeded", "ResponsePayloadSizeLimitExceeded"),
    ),
    Row(
        TransientError,
        "takes Excel for the web too long",
        _AGAIN,
        codes=("MaxRequestDurationExceeded", "requestAborted", "gatewayTimeoutUncategorized"),
    ),
    Row(
        TransientError,
        "cannot be edited just now",
        _AGAIN,
        codes=("transientFailure", "serviceUnavailableUncategorized", "tooManyRequestsUncategorized", "internalServerErrorUncategorized"),
    ),
    Row(TargetError, "has a protected sheet", "unprotect the sheet the table is on", codes=("accessDenied",), words="protected"),
    # files
    Row(
        TargetError,
        "was flagged as malware by Microsoft",
        "have IT look at it; it cannot be downloaded until it is released",
        codes=("malwareDetected",),
    ),
    Row(
        AuthError,
        "is closed to this machine by a policy",
        "ask IT to allow unmanaged devices or this network for the app",
        codes=("accessRestricted",),
    ),
    Row(TargetError, "is in a tenant without SharePoint", "assign a Microsoft 365 licence", words="does not have a SPO license"),
    Row(
        TargetError,
        "is in a OneDrive that does not exist yet",
        "the user opens OneDrive once in a browser; check the user's name and licence",
        statuses=(404,),
        words="mysite not found",
    ),
    Row(
        AuthError,
        "names a person's drive, but nobody is signed in",
        "name user, drive_id or share_url",
        statuses=(400,),
        words="/me request",
    ),
    Row(ConfigError, "has a path that is too long", "use shorter or fewer folder names", codes=("pathIsTooLong",)),
    Row(
        ConfigError,
        "has an address the service cannot read",
        "check the path, the ids and the link",
        statuses=(400,),
        codes=("invalidPath", "invalidParameterFormat"),
    ),
    Row(AuthError, "refused the sign-in", "run `connector check`; the token may be for another cloud or tenant", statuses=(401,)),
    Row(AuthError, "may not be accessed by this app", _DENIED, statuses=(403,)),
    Row(TargetError, "does not exist", "check user, site, library, drive_id and path", statuses=(404,)),
    Row(ConflictError, "already exists", _AGAIN, statuses=(409,), codes=("nameAlreadyExists",)),
    Row(ConflictError, "was changed by somebody at the same time", _AGAIN, statuses=(409, 412)),
    Row(TransientError, "has moved on since the listing", _AGAIN, statuses=(410,)),
    Row(TargetError, "is too large", "OneDrive takes files up to 250 GB", statuses=(413,)),
    Row(TransientError, "could not be uploaded in order", _AGAIN, statuses=(416,)),
    Row(LockedError, "is locked", _OPEN, statuses=(423,)),
    Row(
        TransientError,
        "is busy: Microsoft asks for patience",
        "run less often, or raise max_wait; the next run tries again",
        statuses=(429,),
    ),
    Row(
        TargetError,
        "does not fit: the storage quota is used up",
        "free some space, or have the quota raised; old versions count as well",
        statuses=(507,),
    ),
    Row(TransientError, "has used up its bandwidth", _AGAIN, statuses=(509,)),
    Row(ConnectorError, "was asked for in a way it does not know", _REPORT, statuses=(400, 405, 406, 411, 415, 422, 501)),
    Row(TransientError, "cannot be reached: Microsoft Graph has trouble", _AGAIN, statuses=(408, *range(500, 600))),
)


def translated(answer: Answer, what: str) -> ConnectorError:
    """The error a user sees when `what` was refused."""
    row = next((row for row in ROWS if row.fits(answer)), None)
    request = answer.headers.get("request-id")
    tail = f" ({answer.status}{' ' + answer.code if answer.code else ''}{', request id ' + request if request else ''})"
    if row is None:
        return ConnectorError(f"{what}: unexpected answer{tail}", remedy=_REPORT)
    holder = f" by {who}" if row.error is LockedError and (who := holder_of(answer)) else ""
    return row.error(f"{what} {row.meaning}{holder}{tail}", remedy=row.remedy)


def holder_of(answer: Answer) -> str | None:
    """Who holds the file, where the answer says."""
    person = r"([^\s,;\[\]]+@[^\s,;\[\]]*[^\s,;.\[\]])"
    found = re.search(
        rf"(?:locked for (?:exclusive|shared) use by|checked out (?:for editing )?(?:by|to)) {person}", answer.message, re.IGNORECASE
    )
    found = found or re.search(rf"{person} is editing", answer.message)
    return found[1] if found else None
