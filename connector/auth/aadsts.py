"""What Microsoft's sign-in refuses with, in words an admin can act on.

The numbers (AADSTS…) are listed at https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from connector.errors import AuthError, ConfigError, ConnectorError, TransientError

_LOGIN: Final = "run `connector login` again"
_WAIT: Final = "nothing is wrong; the next run tries again"
_POLICY: Final = f"{_LOGIN} from where the policy allows it, or ask IT to exclude this app from the policy"
_IDS: Final = "check `tenant` and `client_id` on the Overview page of the app registration"

#: codes → error class, what happened, what to do
_REFUSALS: Final[Mapping[tuple[int, ...], tuple[type[ConnectorError], str, str]]] = {
    (7000215,): (
        AuthError,
        "the client secret is wrong",
        "copy the secret's Value (not its Secret ID) from Certificates & secrets; the value is shown only once, so make a new one if it is lost",
    ),
    (7000222,): (AuthError, "the client secret has expired", "make a new secret under Certificates & secrets and put its Value here"),
    (700027,): (
        AuthError,
        "the certificate is not one the app registration knows",
        "upload its public part (.cer) under Certificates & secrets; in a PEM file the leaf certificate comes first",
    ),
    (700024,): (AuthError, "the signed assertion is outside its time", "set this machine's clock: it is minutes off"),
    (700016,): (AuthError, "the tenant does not know the app", _IDS),
    (90002,): (ConfigError, "there is no such tenant", "`tenant` is the Directory (tenant) ID or a domain of the tenant"),
    (900021, 900023): (ConfigError, "the tenant is not well-formed", "`tenant` is the Directory (tenant) ID or a domain of the tenant"),
    (50194,): (ConfigError, "the app belongs to one tenant only", "set `tenant` to that tenant's ID instead of common or organizations"),
    (1002012, 70011): (ConfigError, "the permission that was asked for does not exist there", "check `cloud`: it must be the tenant's own"),
    (7000216, 7000218): (
        AuthError,
        "the app did not prove who it is",
        "give client_secret, certificate or federated_token; for device_code turn on Allow public client flows under Authentication",
    ),
    (65001,): (AuthError, "nobody has consented to the app's permissions", "an admin grants consent under API permissions"),
    (65005, 500011): (
        AuthError,
        "the tenant has no Microsoft Graph for this app",
        "check `cloud` and `tenant`: the tenant must be a managed one, with Microsoft 365",
    ),
    (50076, 50079, 50158): (AuthError, "multi-factor authentication is demanded", _POLICY),
    (53000, 53003, 530003): (AuthError, "a Conditional Access policy blocks the sign-in", _POLICY),
    (700082,): (AuthError, "the sign-in was not used for 90 days and has run out", _LOGIN),
    (70043,): (AuthError, "the tenant's sign-in frequency policy has ended the sign-in", _LOGIN),
    (70008,): (AuthError, "the sign-in has run out", _LOGIN),
    (50173,): (AuthError, "the password was changed since the sign-in", _LOGIN),
    (54005,): (AuthError, "the sign-in code was already used", _LOGIN),
    (70016, 70020): (AuthError, "the device code was not entered in time", _LOGIN),
    (70018, 70019): (AuthError, "the device code is not a valid one", _LOGIN),
    (50034,): (AuthError, "there is no such user in the tenant", "check `tenant`, and sign in with an account of it"),
    (50126,): (AuthError, "the user name or password is wrong", _LOGIN),
    (50057,): (AuthError, "the user's account is disabled", "sign in with another account, or have this one enabled"),
    (90033, 90055): (TransientError, "Microsoft's sign-in is busy", _WAIT),
    (50196,): (TransientError, "Microsoft's sign-in saw too many requests of this app", "run less often; the next run tries again"),
}
_BY_CODE: Final = {code: entry for codes, entry in _REFUSALS.items() for code in codes}
KNOWN: Final = frozenset(_BY_CODE)
#: refusals that name no number
_BY_WORD: Final[Mapping[str, int]] = {"authorization_pending": 70016, "expired_token": 70020, "code_expired": 70019}


def refused(answer: Mapping[str, Any], place: str) -> ConnectorError:
    """The error for a refusal of the token endpoint; `place` says who signed in where."""
    return explained(codes(answer), str(answer.get("error", "")), place)


def explained(found: Sequence[int], word: str, place: str) -> ConnectorError:
    for code in found:
        if code in _BY_CODE:
            error, what, remedy = _BY_CODE[code]
            return error(f"{place}: {what} (AADSTS{code})", remedy=remedy)
    if found:
        return AuthError(
            f"{place}: refused (AADSTS{found[0]})", remedy=f"https://login.microsoftonline.com/error?code={found[0]} explains the code"
        )
    if word == "temporarily_unavailable":
        return TransientError(f"{place}: Microsoft's sign-in is busy", remedy=_WAIT)
    return AuthError(f"{place}: refused ({word or 'no reason given'})", remedy=_IDS)


def codes(answer: Mapping[str, Any]) -> list[int]:
    """The AADSTS numbers of an answer, the most telling first."""
    listed = [int(code) for code in answer.get("error_codes") or () if str(code).isdigit()]
    word = str(answer.get("error", ""))
    return [*listed, *in_text(str(answer.get("error_description", ""))), *([_BY_WORD[word]] if word in _BY_WORD else [])]


def in_text(text: str) -> list[int]:
    return [int(code) for code in re.findall(r"AADSTS(\d+)", text)]
