"""Each row of Microsoft's tables of refusals: the error, its message and exit code, and no secret in any of them."""

import json
import logging

import pytest

from connector.errors import AuthError, ConfigError, ConflictError, ConnectorError, LockedError, TargetError, TransientError
from connector.sandbox.microsoft365 import CLIENT_SECRET
from sinks.drives.graph_errors import ROWS, Answer, holder_of, translated

LOCK = "-2147018894, Microsoft.SharePoint.SPFileLockException"

#: status, codes (outer first), Microsoft's words → our error, a part of our message
FILES = [
    (400, ["invalidRequest", "pathIsTooLong"], "", ConfigError, "path that is too long"),
    (400, ["invalidRequest", "invalidPath"], "", ConfigError, "address the service cannot read"),
    (400, ["invalidRequest", "invalidParameterFormat"], "", ConfigError, "address the service cannot read"),
    (400, ["invalidRequest", "malformedEntityTag"], "", ConnectorError, "a way it does not know"),
    (400, ["BadRequest"], "", ConnectorError, "a way it does not know"),
    (400, ["BadRequest"], "/me request is only valid with delegated authentication flow.", AuthError, "nobody is signed in"),
    (400, ["BadRequest"], "Tenant does not have a SPO license.", TargetError, "without SharePoint"),
    (401, ["InvalidAuthenticationToken"], "Access token has expired.", AuthError, "refused the sign-in"),
    (401, ["unauthenticated"], "Unable to initialize RPS", AuthError, "refused the sign-in"),
    (403, ["accessDenied"], "", AuthError, "may not be accessed"),
    (403, ["accessRestricted"], "", AuthError, "closed to this machine"),
    (403, ["Authorization_RequestDenied"], "", AuthError, "may not be accessed"),
    (403, ["accessDenied", "malwareDetected"], "", TargetError, "malware"),
    (404, ["itemNotFound"], "", TargetError, "does not exist"),
    (404, ["ResourceNotFound"], "User's mysite not found.", TargetError, "does not exist yet"),
    (404, ["-1, Microsoft.SharePoint.Client.ResourceNotFoundException"], "", TargetError, "does not exist"),
    (405, ["methodNotAllowed"], "", ConnectorError, "a way it does not know"),
    (406, [], "", ConnectorError, "a way it does not know"),
    (411, [], "Length Required", ConnectorError, "a way it does not know"),
    (415, [], "", ConnectorError, "a way it does not know"),
    (422, [], "", ConnectorError, "a way it does not know"),
    (409, ["nameAlreadyExists"], "", ConflictError, "already exists"),
    (409, ["resourceModified"], "", ConflictError, "changed by somebody"),
    (409, ["conflict"], "", ConflictError, "changed by somebody"),
    (409, ["conflict"], "An upload session already exists for this file", LockedError, "open in Excel"),
    (410, ["resyncRequired"], "", TransientError, "moved on"),
    (412, ["resourceModified", "entityTagDoesNotMatch"], "", ConflictError, "changed by somebody"),
    (412, ["notAllowed"], "ETag does not match current item's value", ConflictError, "changed by somebody"),
    (413, ["maxFileSizeExceeded"], "", TargetError, "too large"),
    (416, ["invalidRange", "fragmentOverlap"], "", TransientError, "could not be uploaded in order"),
    (416, ["invalidRange", "fragmentOutOfOrder"], "", TransientError, "could not be uploaded in order"),
    (416, ["invalidRange", "fragmentLengthMismatch"], "", TransientError, "could not be uploaded in order"),
    (423, ["notAllowed", "resourceLocked"], "The resource you are attempting to access is locked", LockedError, "open in Excel"),
    (423, ["resourceLocked"], "", LockedError, "open in Excel"),
    (423, ["lockMismatch"], "", LockedError, "open in Excel"),
    (423, [LOCK], "The file x is locked for shared use by ann@contoso.com [membership].", LockedError, "open in Excel by ann@contoso.com"),
    (423, [], "", LockedError, "is locked"),
    (429, ["activityLimitReached"], "", TransientError, "asks for patience"),
    (429, ["tooManyRequests"], "", TransientError, "asks for patience"),
    (500, ["generalException"], "", TransientError, "has trouble"),
    (502, ["UnknownError"], "", TransientError, "has trouble"),
    (503, ["serviceNotAvailable"], "", TransientError, "has trouble"),
    (504, ["UnknownError"], "", TransientError, "has trouble"),
    (507, ["quotaLimitReached"], "", TargetError, "quota is used up"),
    (509, [], "", TransientError, "bandwidth"),
    (418, [], "", ConnectorError, "unexpected answer"),
]
WORKBOOK = [
    (429, ["tooManyRequests", "tooManyRequestsUncategorized"], TransientError),
    (503, ["serviceUnavailable", "serviceUnavailableUncategorized"], TransientError),
    (503, ["serviceUnavailable", "transientFailure"], TransientError),
    (504, ["gatewayTimeout", "gatewayTimeoutUncategorized"], TransientError),
    (404, ["resourceNotFound", "invalidSessionReCreatable"], TransientError),
    (409, ["conflict", "invalidSessionAccessConflict"], TransientError),
    (401, ["unauthenticated", "invalidSessionAuthentication"], TransientError),
    (404, ["resourceNotFound", "invalidSessionNotFound"], TransientError),
    (403, ["accessDenied", "invalidSessionRestricted"], TransientError),
    (500, ["internalServerError", "invalidSessionUnexpected"], TransientError),
    (400, ["invalidRequest", "invalidSessionUnsupportedWorkbook"], TargetError),
    (500, ["internalServerError", "internalServerErrorUncategorized"], TransientError),
    (400, ["invalidRequest", "rangeExceedsLimit"], TargetError),
    (413, ["requestSizeExceeded", "payloadTooLargeUncategorized"], TargetError),
    (503, ["serviceUnavailable", "requestAborted"], TransientError),
    (409, ["conflict", "accessConflict"], LockedError),
    (409, ["conflict", "conflictUncategorized"], LockedError),
    (409, ["conflict", "filteredRangeConflict"], TargetError),
    (409, ["conflict", "insertDeleteConflict"], TargetError),
    (409, ["conflict", "nonBlankCellOffSheet"], TargetError),
    (404, ["resourceNotFound", "itemNotFound"], TargetError),
    (403, ["accessDenied", "forbiddenUncategorized"], AuthError),
    (405, ["methodNotAllowed", "methodNotAllowedUncategorized"], ConnectorError),
    (501, ["notImplemented", "notImplementedUncategorized"], ConnectorError),
    (400, ["invalidRequest", "invalidArgument"], ConnectorError),
    (400, ["invalidRequest", "badRequestUncategorized"], ConnectorError),
    (400, ["invalidRequest", "unsupportedWorkbook"], TargetError),
    (409, ["conflict", "x", "EditModeCannotAcquireLock"], LockedError),
    (429, ["tooManyRequests", "x", "EditModeCannotAcquireLockTooManyRequests"], TransientError),
    (403, ["accessDenied", "x", "EditModeAccessDenied"], AuthError),
    (500, ["internalServerError", "x", "GenericFileOpenError"], TargetError),
    (401, ["unauthenticated", "x", "FileOpenUserUnauthorized"], AuthError),
    (403, ["accessDenied", "x", "OpenWorkbookAccessDenied"], TargetError),
    (404, ["resourceNotFound", "x", "DeploymentInvalidEditSession"], TransientError),
    (504, ["gatewayTimeout", "x", "MaxRequestDurationExceeded"], TransientError),
    (413, ["requestSizeExceeded", "x", "RequestPayloadSizeLimitExceeded"], TargetError),
    (504, ["UnknownError"], TransientError),
]


def answer(status, codes, words="", key="innerError"):
    error: dict = {}
    for code in reversed(codes or [None]):
        error = {**({"code": code} if code else {}), **({key: error} if error else {})}
    return Answer(status, {"error": {**error, "message": words}}, {"request-id": "4711"})


@pytest.mark.parametrize(("status", "codes", "words", "error", "message"), FILES)
def test_refusals_of_the_file_endpoints(status, codes, words, error, message):
    given = translated(answer(status, codes, words), "Pipeline.xlsx")
    assert type(given) is error
    assert str(given).startswith("Pipeline.xlsx")
    assert message in str(given)
    assert "request id 4711" in str(given)
    assert given.remedy
    assert words == "" or words not in str(given)


@pytest.mark.parametrize(("status", "codes", "error"), WORKBOOK)
@pytest.mark.parametrize("key", ["innerError", "innererror"])
def test_refusals_of_the_workbook_api(status, codes, error, key):
    given = translated(answer(status, [code.upper() for code in codes], key=key), "Pipeline.xlsx")
    assert type(given) is error
    assert given.remedy


@pytest.mark.parametrize(
    ("codes", "words", "error", "message"),
    [
        (["accessDenied"], "Could not obtain a WAC access token.", TargetError, "cannot be opened by Excel for the web"),
        (["accessDenied"], "The worksheet is protected.", TargetError, "protected sheet"),
        (["EditModeCannotAcquireLock"], "Ann@acme.com is editing this workbook.", LockedError, "held by somebody's Excel by Ann@acme.com"),
        (["EditModeCannotAcquireLock"], "SiteReadOnly", TargetError, "read-only"),
        (["EditModeCannotAcquireLock"], "Database Is Read Only", TargetError, "read-only"),
    ],
)
def test_refusals_that_only_their_words_tell_apart(codes, words, error, message):
    given = translated(answer(409, codes, words), "Pipeline.xlsx")
    assert type(given) is error
    assert message in str(given)


def test_every_row_of_ours_is_reached():
    seen = {next(row for row in ROWS if row.fits(answer(status, codes, words))) for status, codes, words, *_ in FILES[:-1]}
    seen |= {next(row for row in ROWS if row.fits(answer(status, codes))) for status, codes, _ in WORKBOOK}
    for codes, words in [
        (["accessDenied"], "WAC access token"),
        (["accessDenied"], "protected"),
        (["x"], "SiteReadOnly"),
        (["notAllowed"], "checked out by a@b.c"),
    ]:
        seen.add(next(row for row in ROWS if row.fits(answer(409, codes, words))))
    assert [row.meaning for row in ROWS if row not in seen] == []


def test_holders_are_named_where_the_answer_names_them():
    assert holder_of(answer(423, [LOCK], "locked for exclusive use by ann@contoso.com.")) == "ann@contoso.com"
    assert holder_of(answer(423, ["notAllowed"], "is checked out to bob@contoso.com, since yesterday")) == "bob@contoso.com"
    assert holder_of(answer(423, ["notAllowed"], "is locked")) is None


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ({"status": 403}, AuthError, 3),
        ({"status": 404, "body": b"not json"}, TargetError, 5),
        ({"status": 423}, LockedError, 75),
        ({"status": 507}, TargetError, 5),
        ({"status": 415}, ConnectorError, 1),
        ({"status": 500, "times": None}, TransientError, 75),
        ({"drop": True, "times": None}, TransientError, 75),
    ],
)
def test_the_drive_says_so_over_the_wire(world, fault, error, code):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    world.running.faults.add(r"PUT .*/content", **fault)
    with pytest.raises(error) as refused:
        world.drive().store(world.local(b"new"), item.ctag)
    assert refused.value.exit_code == code
    assert "Sales/Pipeline.xlsx" in str(refused.value)


@pytest.mark.parametrize(
    "fault", [{"status": 200, "body": b"<html>Welcome to our network"}, {"status": 301, "headers": {"Location": "/x"}}]
)
def test_pages_and_redirects_of_others_are_not_taken_for_answers(world, fault):
    world.running.faults.add("GET /v1.0/users", **fault)
    with pytest.raises(ConfigError, match="no answer of Microsoft Graph's") as refused:
        world.drive().version()
    assert "base_url" in refused.value.remedy


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────


def test_no_secret_in_any_log_error_or_representation(world, caplog):
    """Everything that goes wrong goes wrong, with every log of ours at its most talkative."""
    for name in ("connector", "connector.drives", "connector.auth"):
        caplog.set_level(logging.DEBUG, name)
    said = []
    small, large = b"x" * 1000, b"x" * (11 << 20)
    for match in ("POST .*/token", "GET .*/content", "download.aspx", "createUploadSession", "/_api", r"PUT .*/content", "items/"):
        content = large if match in ("createUploadSession", "/_api") else small
        for fault in ({"drop": True}, {"status": 500}, {"status": 403}, {"truncate": 5}, {"status": 401}):
            world.put("Sales/Pipeline.xlsx", b"old")
            with_fault = world.running.faults.add(match, times=None, **fault)
            drive = world.drive(session=world.session(folder=False))
            for act in (lambda d=drive: d.fetch(world.folder / "x"), lambda d=drive, c=content: d.store(world.local(c), d.version())):
                try:
                    act()
                except ConnectorError as error:
                    said += [
                        str(error),
                        repr(error),
                        str(error.remedy),
                        repr(error.__cause__),
                        repr(error.__context__) * bool(error.__cause__),
                    ]
            said += [repr(drive), repr(drive.client), repr(drive.client.sign_in), repr(drive.config), str(drive.__dict__)]
            with_fault.times = 0
    text = "\n".join([*said, *(record.getMessage() for record in caplog.records if record.name.startswith("connector"))])
    tokens = {entry.headers["authorization"].split()[1] for entry in world.running.requests if "authorization" in entry.headers}
    assert len(said) > 80
    assert tokens
    for secret in (CLIENT_SECRET, "tempauth", *tokens, *world.cloud.graph.downloads.tokens, *world.cloud.uploads.open):
        assert secret not in text
    kept = json.dumps([path.name for path in world.folder.rglob("*.json")])
    assert "tempauth" not in kept
