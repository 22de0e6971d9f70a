"""The sandbox's Microsoft Entra ID: what msal and other OAuth clients need to sign in, and the refusals they must cope with.

Client secret, certificate assertion (its signature is checked), device code, rotating refresh tokens; managed identities in
the shapes of a virtual machine and of App Service. Access tokens are signed JWTs, so that Graph can authorise by their claims.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import jwt
from cryptography import x509

from connector.sandbox.server import Clock, Refusal, Request, Response, Route, Service, reply

ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
LIFETIME: Final = 3600
FAMILY: Final = frozenset({"common", "organizations", "consumers"})

#: AADSTS number → (OAuth error, what the service says); the sandbox refuses with these, on its own account or when told to
REFUSALS: Final[Mapping[int, tuple[str, str]]] = {
    50034: ("invalid_grant", "The user account does not exist in the directory."),
    50057: ("invalid_grant", "The user account is disabled."),
    50076: ("interaction_required", "Multi-factor authentication is required."),
    50079: ("interaction_required", "The user must enroll in multi-factor authentication."),
    50126: ("invalid_grant", "Error validating credentials due to invalid username or password."),
    50158: ("interaction_required", "External security challenge was not satisfied."),
    50173: ("invalid_grant", "The provided grant has been revoked: the password changed."),
    50194: ("invalid_request", "The application is not configured as a multi-tenant application."),
    50196: ("invalid_grant", "The server terminated an operation because it met a client request loop."),
    53000: ("interaction_required", "The device is not compliant."),
    53003: ("interaction_required", "Access has been blocked by Conditional Access policies."),
    530003: ("interaction_required", "The device is required to be managed to access this resource."),
    54005: ("invalid_grant", "The authorization code was already redeemed."),
    65001: ("invalid_grant", "The user or administrator has not consented to use the application."),
    65005: ("invalid_resource", "The application asked for a resource that is not available in the tenant."),
    70008: ("invalid_grant", "The refresh token has expired."),
    70011: ("invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
    70016: ("authorization_pending", "The user has not yet entered the code."),
    70018: ("invalid_grant", "The verification code is invalid."),
    70019: ("code_expired", "The verification code has expired."),
    70020: ("expired_token", "The device code has expired."),
    70043: ("invalid_grant", "The refresh token has expired or is invalid due to sign-in frequency checks."),
    90002: ("invalid_request", "Tenant not found. Check that you have the correct tenant id."),
    90023: ("invalid_request", "The request is not valid."),
    90033: ("temporarily_unavailable", "A transient error has occurred. Please try again."),
    90055: ("temporarily_unavailable", "The request was throttled."),
    500011: ("invalid_resource", "The resource principal was not found in the tenant."),
    700016: ("unauthorized_client", "The application was not found in the directory."),
    700024: ("invalid_client", "The client assertion is not within its valid time range."),
    700027: ("invalid_client", "The client assertion failed signature validation."),
    700082: ("invalid_grant", "The refresh token has expired due to inactivity."),
    900021: ("invalid_request", "The requested tenant identifier is not valid."),
    900023: ("invalid_request", "The specified tenant identifier is neither a valid DNS name nor a valid external domain."),
    1002012: ("invalid_scope", "The scope must be the application id URI of the resource with /.default after it."),
    7000215: ("invalid_client", "Invalid client secret provided."),
    7000216: ("invalid_client", "'client_assertion', 'client_secret' or 'request' is required for this grant."),
    7000218: ("invalid_client", "The request body must contain 'client_assertion' or 'client_secret'."),
    7000222: ("invalid_client", "The provided client secret keys are expired."),
}


@dataclass(slots=True)
class User:
    upn: str
    name: str
    id: str = field(default_factory=lambda: str(uuid4()))


@dataclass(slots=True)
class App:
    """An app registration. `roles` are application permissions, `scopes` what users may consent to."""

    client_id: str
    name: str = "connector"
    secret: str | None = None
    secret_expired: bool = False
    certificates: list[x509.Certificate] = field(default_factory=list)
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    public: bool = False  # "Allow public client flows"


@dataclass(slots=True)
class _Device:
    app: App
    scopes: str
    until: datetime
    user: User | None = None


class Identity(Service):
    """`tenant` is the directory's id; `domain` names it as well. `refuse_next(code)` makes the next token request fail that way."""

    name = "identity"

    def __init__(self, tenant: str, domain: str, clock: Clock) -> None:
        self.tenant = tenant
        self.domain = domain
        self.clock = clock
        self.apps: dict[str, App] = {}
        self.users: dict[str, User] = {}
        self.host_identity: App | None = None  # who a managed identity is
        self.device_interval = 5
        self._key = secrets.token_bytes(32)
        self._devices: dict[str, _Device] = {}
        self._refresh: dict[str, tuple[App, User, str]] = {}
        self._refusals: list[int] = []
        self._lock = threading.Lock()

    # ── what a test or a person does ──────────────────────────────────────────────────────────────

    def refuse_next(self, *codes: int) -> None:
        self._refusals.extend(codes)

    def approve(self, user_code: str, upn: str) -> None:
        """A person enters the device code and signs in."""
        with self._lock:
            next(device for code, device in self._devices.items() if _user_code(code) == user_code).user = self.users[upn]

    def revoke_access_tokens(self) -> None:
        """Every token issued so far stops working at Graph."""
        self._key = secrets.token_bytes(32)

    def revoke_refresh_tokens(self) -> None:
        with self._lock:
            self._refresh.clear()

    # ── for Graph ─────────────────────────────────────────────────────────────────────────────────

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """Who is asking; None for a token that is not ours, or whose time is over."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False},  # by our clock, below
            )
        except jwt.InvalidTokenError:
            return None
        now = self.clock.now().timestamp()
        return claims if claims["nbf"] <= now + 300 and now < claims["exp"] else None

    # ── the wire ──────────────────────────────────────────────────────────────────────────────────

    def routes(self) -> Iterable[Route]:
        tenant = r"/(?P<tenant>[^/]+)"
        yield "GET", tenant + r"/v2\.0/\.well-known/openid-configuration", self.metadata
        yield "GET", r"/common/discovery/instance", self.instance
        yield "GET", tenant + r"/discovery/v2\.0/keys", lambda _: reply({"keys": []})
        yield "POST", tenant + r"/oauth2/v2\.0/token", self.token
        yield "POST", tenant + r"/oauth2/v2\.0/devicecode", self.devicecode
        yield "GET", r"/device", self.device_page

    def refuse(self, status: int, message: str) -> Response:
        return reply({"error": "server_error" if status >= 500 else "invalid_request", "error_description": message}, status)

    def metadata(self, request: Request) -> Response:
        tenant = self._tenant(request.args["tenant"])
        base = f"{request.base}/{tenant}"
        return reply(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "tenant_region_scope": "EU",
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    def instance(self, request: Request) -> Response:
        endpoint = request.query.get("authorization_endpoint", f"{request.base}/common/oauth2/v2.0/authorize")
        host = request.base.partition("://")[2]
        return reply(
            {
                "tenant_discovery_endpoint": endpoint.replace("/oauth2/v2.0/authorize", "/v2.0/.well-known/openid-configuration"),
                "api-version": "1.1",
                "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
            }
        )

    def token(self, request: Request) -> Response:
        form = request.form()
        tenant = self._tenant(request.args["tenant"])
        with self._lock:
            if self._refusals:
                raise _refusal(self._refusals.pop(0))
            app = self.apps.get(form.get("client_id", ""))
            if app is None:
                raise _refusal(700016, status=400)
            grant = form.get("grant_type")
            if grant == "client_credentials":
                if tenant in FAMILY:
                    raise _refusal(50194)
                self._authenticate(app, form, request)
                if not form.get("scope", "").endswith("/.default"):
                    raise _refusal(1002012)
                return reply(self._answer(app, None, form["scope"], refresh=False))
            if grant == DEVICE:
                return self._device_token(app, form, request)
            if grant == "refresh_token":
                return self._refreshed(app, form, request)
        return reply({"error": "unsupported_grant_type", "error_description": "AADSTS70003: unsupported grant type"}, 400)

    def devicecode(self, request: Request) -> Response:
        form = request.form()
        self._tenant(request.args["tenant"])
        with self._lock:
            app = self.apps.get(form.get("client_id", ""))
            if app is None:
                raise _refusal(700016, status=400)
            code = secrets.token_urlsafe(24)
            self._devices[code] = _Device(app, form.get("scope", ""), self.clock.now() + timedelta(minutes=15))
        page = f"{request.base}/device"
        return reply(
            {
                "user_code": _user_code(code),
                "device_code": code,
                "verification_uri": page,
                "expires_in": 900,
                "interval": self.device_interval,
                "message": f"To sign in, open {page} and enter the code {_user_code(code)}.",
            }
        )

    def device_page(self, request: Request) -> Response:
        """`/device?code=…&user=…`: what a person would do in a browser."""
        try:
            self.approve(request.query["code"], request.query.get("user") or next(iter(self.users)))
        except (KeyError, StopIteration):
            return reply({"error": "give ?code=…&user=…, both known here"}, 400)
        return reply({"signed_in": True})

    def _tenant(self, name: str) -> str:
        if name.casefold() in FAMILY:
            return name.casefold()
        if name.casefold() in (self.tenant.casefold(), self.domain.casefold()):
            return self.tenant
        raise _refusal(90002)

    def _authenticate(self, app: App, form: Mapping[str, str], request: Request) -> None:
        if form.get("client_assertion_type") == ASSERTION:
            self._verify(app, form.get("client_assertion", ""), request)
        elif not form.get("client_secret"):
            raise _refusal(7000216)
        elif form["client_secret"] != app.secret:
            raise _refusal(7000215, status=401)
        elif app.secret_expired:
            raise _refusal(7000222, status=401)

    def _verify(self, app: App, assertion: str, request: Request) -> None:
        for certificate in app.certificates:
            try:
                jwt.decode(
                    assertion,
                    certificate.public_key(),  # type: ignore[arg-type]
                    algorithms=["PS256", "RS256"],
                    audience=request.target,
                    issuer=app.client_id,
                    options={"require": ["exp", "aud", "iss", "sub", "jti"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
                raise _refusal(700024, status=401) from None
            except jwt.InvalidTokenError:
                raise _refusal(700027, status=401) from None
            return
        raise _refusal(700027, status=401)

    def _device_token(self, app: App, form: Mapping[str, str], request: Request) -> Response:
        if not app.public:
            raise _refusal(7000218, status=401)
        device = self._devices.get(form.get("device_code", ""))
        if device is None or device.app is not app:
            raise _refusal(70018)
        if self.clock.now() >= device.until:
            raise _refusal(70020)
        if device.user is None:
            raise _refusal(70016)
        del self._devices[form["device_code"]]
        return reply(self._answer(app, device.user, device.scopes, refresh=True))

    def _refreshed(self, app: App, form: Mapping[str, str], request: Request) -> Response:
        known = self._refresh.pop(form.get("refresh_token", ""), None)
        if known is None or known[0] is not app:
            raise _refusal(70008)
        if not app.public:
            self._authenticate(app, form, request)
        return reply(self._answer(app, known[1], form.get("scope") or known[2], refresh=True))

    def _answer(self, app: App, user: User | None, scope: str, *, refresh: bool) -> dict[str, Any]:
        granted = [name.rpartition("/")[2] for name in scope.split() if "/" in name or name in app.scopes]
        granted = [name for name in granted if name in app.scopes] or list(app.scopes)
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "expires_in": LIFETIME,
            "ext_expires_in": LIFETIME,
            "access_token": self.issue(app, user, granted, scope),
        }
        if user:
            resource = next((name.rpartition("/")[0] + "/" for name in scope.split() if "/" in name), "")
            answer |= {
                "scope": " ".join([*(resource + name for name in granted), "openid", "profile"]),
                "client_info": _b64({"uid": user.id, "utid": self.tenant}),
                "id_token": jwt.encode(
                    {
                        "aud": app.client_id,
                        "iss": f"https://login/{self.tenant}/v2.0",
                        "iat": int(self.clock.now().timestamp()),
                        "exp": int(self.clock.now().timestamp()) + LIFETIME,
                        "tid": self.tenant,
                        "oid": user.id,
                        "sub": user.id,
                        "preferred_username": user.upn,
                        "name": user.name,
                    },
                    self._key,
                ),
            }
        if refresh and user:
            token = "0.A" + secrets.token_urlsafe(60)
            self._refresh[token] = (app, user, scope)
            answer["refresh_token"] = token
        return answer

    def issue(self, app: App, user: User | None, scopes: Iterable[str], scope: str = "https://graph.microsoft.com/.default") -> str:
        """An access token."""
        now = int(self.clock.now().timestamp())
        claims: dict[str, Any] = {
            "aud": scope.split(maxsplit=1)[0].rpartition("/")[0] if "/" in scope else "https://graph.microsoft.com",
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME,
            "appid": app.client_id,
            "app_displayname": app.name,
            "tid": self.tenant,
            "uti": secrets.token_urlsafe(9),
        }
        if user:
            claims |= {"idtyp": "user", "oid": user.id, "upn": user.upn, "name": user.name, "scp": " ".join(scopes)}
        else:
            claims |= {"idtyp": "app", "oid": str(uuid4()), "roles": list(app.roles)}
        return jwt.encode(claims, self._key)


class ManagedIdentity(Service):
    """Token endpoints inside Azure: the virtual machine's (IMDS) and App Service's."""

    name = "managed-identity"

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.secret = secrets.token_hex(16)  # IDENTITY_HEADER

    def routes(self) -> Iterable[Route]:
        yield "GET", r"/metadata/identity/oauth2/token", self.machine
        yield "GET", r"/msi/token", self.app_service

    def machine(self, request: Request) -> Response:
        if request.headers.get("Metadata", "").lower() != "true":
            return reply({"error": "invalid_request", "error_description": "Required metadata header not specified"}, 400)
        return self._token(request, {"expires_in": str(LIFETIME)})

    def app_service(self, request: Request) -> Response:
        if request.headers.get("X-IDENTITY-HEADER") != self.secret:
            return reply({"statusCode": 401, "message": "Unauthorized"}, 401)
        return self._token(request, {"expires_on": str(int(self.identity.clock.now().timestamp()) + LIFETIME)})

    def _token(self, request: Request, lifetime: Mapping[str, str]) -> Response:
        app = self.identity.host_identity
        wanted = request.query.get("client_id")
        if app is None or (wanted and wanted != app.client_id):
            return reply({"error": "invalid_request", "error_description": "Identity not found"}, 400)
        resource = request.query.get("resource", "")
        return reply(
            {
                "access_token": self.identity.issue(app, None, (), f"{resource}/.default"),
                "resource": resource,
                "token_type": "Bearer",
                **lifetime,
            }
        )


def _refusal(code: int, *, status: int = 400) -> Refusal:
    error, words = REFUSALS[code]
    return Refusal(
        reply(
            {
                "error": error,
                "error_description": f"AADSTS{code}: {words} Trace ID: {uuid4()} Correlation ID: {uuid4()}",
                "error_codes": [code],
                "trace_id": str(uuid4()),
                "correlation_id": str(uuid4()),
                "error_uri": f"https://login.microsoftonline.com/error?code={code}",
            },
            status,
        )
    )


def _user_code(device_code: str) -> str:
    return hashlib.sha256(device_code.encode()).hexdigest()[:9].upper()


def _b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
