"""Signing in to Microsoft: every way, every refusal in words, the secret to nobody else, the cache never broken."""

import base64
import json
import logging
import multiprocessing
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from connector.auth.aadsts import KNOWN
from connector.auth.microsoft import CLOUDS, Certificate, Federation, HostIdentity, MicrosoftSignIn, Person, Secret, claims_of
from connector.auth.tokens import SecretFile
from connector.errors import AuthError, ConfigError, TransientError
from connector.http import Network, Session
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, microsoft365
from connector.sandbox.microsoft365.identity import REFUSALS
from connector.sandbox.server import Service, serve

GRAPH = CLOUDS["global"].graph


class Desk:
    def __init__(self, cloud, running, folder):
        self.cloud, self.running, self.folder = cloud, running, folder

    def session(self, *, keep=True):
        clock = self.cloud.clock
        return Session(
            Network(ca_bundle=str(self.cloud.authority)),
            folder=self.folder / "state" if keep else None,
            sleep=clock.sleep,
            now=clock.now,
            jitter=lambda: 0.0,
        )

    def sign_in(self, proof=None, *, tenant=TENANT, client_id=CLIENT_ID, authority=None, keep=True):
        return MicrosoftSignIn(
            self.session(keep=keep),
            Secret(CLIENT_SECRET) if proof is None else proof,
            tenant=tenant,
            client_id=client_id,
            authority=authority or self.running.url("identity"),
            resource=GRAPH,
        )

    def asked(self):
        return len(self.running.asked("POST .*/token"))


@pytest.fixture
def desk(tmp_path):
    with microsoft365(tmp_path / "cloud") as (cloud, running):
        yield Desk(cloud, running, tmp_path)
        assert running.violations == []


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certified(key, *, days=30, issuer=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "connector")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .sign(issuer or key, hashes.SHA256())
    )


def pem(key, *certificates, password=None):
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return b"".join([*(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates), private])


# ── the ways ──────────────────────────────────────────────────────────────────────────────────────


def test_an_app_signs_in_with_its_secret(desk):
    sign_in = desk.sign_in()
    claims = claims_of(sign_in.token())
    assert (claims["appid"], claims["tid"], claims["roles"], claims["aud"]) == (CLIENT_ID, TENANT, ["Files.ReadWrite.All"], GRAPH)
    assert sign_in.app_only
    sent = desk.running.asked("POST .*/token")[0]
    assert sent.body.count(b"scope=https%3A%2F%2Fgraph.microsoft.com%2F.default") == 1


@pytest.mark.parametrize("form", ["pem", "pem with password", "pfx", "wrong order"])
def test_an_app_signs_in_with_a_certificate(desk, key, form):
    certificate = certified(key)
    desk.cloud.app.certificates.append(certificate)
    file, password = desk.folder / "app.pem", None
    if form == "pfx":
        file, password = desk.folder / "app.pfx", "pass word"
        file.write_bytes(
            pkcs12.serialize_key_and_certificates(b"app", key, certificate, None, serialization.BestAvailableEncryption(b"pass word"))
        )
    elif form == "pem with password":
        password = "pass word"
        file.write_bytes(pem(key, certificate, password=b"pass word"))
    else:
        other = certified(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        file.write_bytes(pem(key, *([other] if form == "wrong order" else []), certificate))
    assert claims_of(desk.sign_in(Certificate(file, password)).token())["appid"] == CLIENT_ID
    assert b"client_secret" not in desk.running.asked("POST .*/token")[0].body


def test_certificates_that_cannot_work_are_explained(desk, key):
    file = desk.folder / "app.pem"
    with pytest.raises(ConfigError, match="cannot be read"):
        desk.sign_in(Certificate(file)).token()
    file.write_bytes(pem(key, certified(key), password=b"x"))
    with pytest.raises(ConfigError, match="certificate_password"):
        desk.sign_in(Certificate(file, "y")).token()
    file.write_bytes(pem(key))
    with pytest.raises(ConfigError, match="cannot be opened"):
        desk.sign_in(Certificate(file)).token()
    file.write_bytes(pem(key, certified(rsa.generate_private_key(public_exponent=65537, key_size=2048))))
    with pytest.raises(ConfigError, match="no certificate of its private key"):
        desk.sign_in(Certificate(file)).token()
    file.write_bytes(pem(key, certified(key, days=-1)))
    with pytest.raises(AuthError, match="expired on"):
        desk.sign_in(Certificate(file)).token()
    file.write_bytes(pem(key, certified(key)))
    with pytest.raises(AuthError, match="not one the app registration knows"):
        desk.sign_in(Certificate(file)).token()


def test_a_federated_assertion_is_read_anew_for_every_request(desk, key):
    import jwt

    desk.cloud.app.certificates.append(certified(key))
    file = desk.folder / "assertion"
    now = int(desk.cloud.clock.now().timestamp())
    claims = {"aud": f"{desk.running.url('identity')}/{TENANT}/oauth2/v2.0/token", "iss": CLIENT_ID, "sub": CLIENT_ID, "exp": now + 600}
    file.write_text(jwt.encode({**claims, "jti": "1"}, key, "RS256") + "\n")
    sign_in = desk.sign_in(Federation(file))
    sign_in.token()
    file.write_text(jwt.encode({**claims, "jti": "2"}, key, "RS256"))
    sign_in.renew()
    bodies = [entry.body for entry in desk.running.asked("POST .*/token")]
    assert bodies[0] != bodies[1]
    file.unlink()
    with pytest.raises(ConfigError, match="federated_token"):
        sign_in.renew()


@pytest.mark.parametrize("where", ["virtual machine", "app service"])
def test_a_managed_identity(desk, monkeypatch, where):
    url = desk.running.url("managed-identity")
    desk.cloud.identity.host_identity = desk.cloud.app
    if where == "app service":
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", desk.cloud.managed_identity.secret)
    else:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
    sign_in = desk.sign_in(HostIdentity())
    first = sign_in.token()
    assert claims_of(first)["appid"] == CLIENT_ID
    assert sign_in.renew() != first
    with pytest.raises(AuthError):
        desk.sign_in(HostIdentity("another-one"), keep=False).token()


def test_a_person_enters_a_device_code_once(desk):
    person = desk.sign_in(Person(("Files.ReadWrite",)), tenant="organizations")
    with pytest.raises(AuthError, match="nobody has signed in") as refused:
        person.token()
    assert refused.value.remedy == "run `connector login`"
    shown = []

    def prompt(message):
        shown.append(message)
        code = re.search("code ([0-9A-F]+)", message)[1]
        requests.get(
            desk.running.url("identity") + f"/device?code={code}&user={USER}", verify=str(desk.cloud.authority), timeout=5
        ).raise_for_status()

    assert person.login(prompt) == USER
    assert len(shown) == 1
    assert claims_of(person.token())["scp"] == "Files.ReadWrite"
    later = desk.sign_in(Person(("Files.ReadWrite",)), tenant="organizations")
    assert claims_of(later.token())["upn"] == USER
    assert not later.app_only
    first = desk.running.asked("POST .*/devicecode")[0].body
    assert b"offline_access" in first


def test_a_device_code_is_waited_for_and_runs_out(desk):
    person = desk.sign_in(Person(), tenant="organizations")
    with pytest.raises(AuthError, match="not entered in time"):
        person.login(lambda _: None)
    assert desk.asked() > 100  # every five seconds for a quarter of an hour


def test_rotated_refresh_tokens_are_kept(desk):
    person = desk.sign_in(Person(), tenant="organizations")
    person.login(lambda message: desk.cloud.identity.approve(re.search("code ([0-9A-F]+)", message)[1], USER))
    for _ in range(3):  # each run uses the token the last one got; an old one would be refused
        assert claims_of(desk.sign_in(Person(), tenant="organizations").renew())["upn"] == USER
    desk.cloud.identity.revoke_refresh_tokens()
    with pytest.raises(AuthError, match="has run out") as refused:
        desk.sign_in(Person(), tenant="organizations").renew()
    assert "login" in refused.value.remedy


def test_a_sign_in_that_is_about_to_run_out_says_so(desk, caplog):
    person = desk.sign_in(Person(), tenant="organizations")
    person.login(lambda message: desk.cloud.identity.approve(re.search("code ([0-9A-F]+)", message)[1], USER))
    desk.cloud.clock.sleep(70 * 86400)
    later = desk.sign_in(Person(), tenant="organizations")
    with caplog.at_level(logging.WARNING, "connector.auth"):
        later.token()
    assert "70 days ago" in caplog.text


# ── economy ───────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_kept_between_runs_and_renewed_in_time(desk):
    desk.sign_in().token()
    again = desk.sign_in()
    again.token()
    assert (desk.asked(), again.kept) == (1, True)
    (file,) = (desk.folder / "state").glob("microsoft-*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    fresh = again.renew()
    assert (desk.asked(), again.kept) == (2, False)
    assert again.token() == fresh
    desk.sign_in(keep=False).token()
    assert desk.asked() == 3


def test_a_damaged_cache_is_made_anew(desk, caplog):
    desk.sign_in().token()
    (file,) = (desk.folder / "state").glob("microsoft-*.json")
    file.write_text('{"AccessToken": {"')
    assert desk.sign_in().token()
    assert "damaged" in caplog.text
    json.loads(file.read_text())


def _hammer(file, number):
    kept = SecretFile(file)
    for _ in range(20):
        with kept.locked():
            count = json.loads(kept.read() or '{"n": 0}')["n"]
            kept.write(json.dumps({"n": count + 1, "filler": "x" * 5000 * (number + 1)}))


def test_processes_that_share_a_cache_never_break_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_hammer, args=(tmp_path / "cache.json", number)) for number in range(3)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        json.loads(SecretFile(tmp_path / "cache.json").read() or "{}")  # never half of anything
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert json.loads((tmp_path / "cache.json").read_text())["n"] == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.json", "cache.json.lock"]


def test_a_lock_that_never_comes_free_is_a_matter_for_later(tmp_path):
    held = SecretFile(tmp_path / "cache.json")
    late = SecretFile(tmp_path / "cache.json", wait=1, sleep=lambda _: None)
    with held.locked(), pytest.raises(TransientError, match="in use by another process"), late.locked():
        pass


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    kept = SecretFile(tmp_path / "cache.json")
    kept.write("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        kept.write("new")
    assert (kept.read(), len(list(tmp_path.iterdir()))) == ("old", 1)


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────

LOGIN = {50076, 50079, 50158, 53000, 53003, 530003, 700082, 70043, 70008, 50173, 54005, 70016, 70020, 70018, 70019, 50126}
CONFIG = {90002, 900021, 900023, 50194, 1002012, 70011}
LATER = {90033, 90055, 50196}


@pytest.mark.parametrize("code", sorted(KNOWN))
def test_every_refusal_has_a_remedy_in_words(desk, code):
    desk.cloud.identity.refuse_next(code)
    with pytest.raises((AuthError, ConfigError, TransientError)) as refused:
        desk.sign_in().token()
    error = refused.value
    assert f"(AADSTS{code})" in str(error)
    assert TENANT in str(error)
    assert len(error.remedy.split()) >= 4
    assert error.exit_code == (2 if code in CONFIG else 75 if code in LATER else 3)
    assert ("login" in error.remedy) == (code in LOGIN)
    assert CLIENT_SECRET not in repr(error) + str(error) + str(error.remedy)


def test_the_list_of_refusals_is_the_sandboxs():
    assert not KNOWN - set(REFUSALS)


def test_what_the_service_finds_wrong_by_itself(desk):
    with pytest.raises(AuthError, match="secret is wrong") as refused:
        desk.sign_in(Secret("the secret's id"), keep=False).token()
    assert "Value (not its Secret ID)" in refused.value.remedy
    with pytest.raises(AuthError, match="does not know the app"):
        desk.sign_in(client_id="00000000-0000-0000-0000-000000000000", keep=False).token()
    with pytest.raises(ConfigError, match="no such tenant"):
        desk.sign_in(tenant="nowhere.example", keep=False).token()
    desk.cloud.app.secret_expired = True
    with pytest.raises(AuthError, match="expired"):
        desk.sign_in(keep=False).token()


def test_unknown_refusals_are_named_by_number(desk):
    new = {"error": "invalid_request", "error_description": "AADSTS999999: something new", "error_codes": [999999]}
    desk.running.faults.add("POST .*/token", status=400, body=json.dumps(new).encode())
    with pytest.raises(AuthError, match="AADSTS999999") as refused:
        desk.sign_in().token()
    assert "error?code=999999" in refused.value.remedy


@pytest.mark.parametrize("how", [{"status": 503}, {"status": 500}, {"drop": True}, {"drop": True, "after": True}])
def test_a_passing_trouble_is_sat_out(desk, how):
    desk.running.faults.add("POST .*/token", times=2, **how)
    assert desk.sign_in().token()


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"status": 503}, TransientError, "sign-in failed"),
        ({"status": 500}, TransientError, "sign-in failed"),
        ({"drop": True}, TransientError, "no answer"),
        ({"status": 404, "body": b"<html>"}, ConfigError, "not a sign-in service"),
    ],
)
def test_a_lasting_one_is_not(desk, how, error, words):
    desk.running.faults.add("POST .*/token", times=None, **how)
    with pytest.raises(error, match=words) as refused:
        desk.sign_in().token()
    assert CLIENT_SECRET not in str(refused.value)


def test_a_foreign_certificate_authority(desk):
    session = Session(sleep=lambda _: None, attempts=1)
    sign_in = MicrosoftSignIn(
        session, Secret("s"), tenant=TENANT, client_id=CLIENT_ID, authority=desk.running.url("identity"), resource=GRAPH
    )
    with pytest.raises(ConfigError, match="not trusted") as refused:
        sign_in.token()
    assert "ca_bundle" in refused.value.remedy


# ── the secret goes nowhere else ──────────────────────────────────────────────────────────────────


class Elsewhere(Service):
    name = "elsewhere"

    def __init__(self, tls):
        self.tls = tls

    def routes(self):
        yield "POST", "/.*", lambda request: request.violate("was sent something")


def test_a_token_endpoint_on_another_host_gets_nothing(desk):
    with serve(Elsewhere(desk.cloud.identity.tls)) as other:
        metadata = {
            "issuer": f"{desk.running.url('identity')}/{TENANT}/v2.0",
            "authorization_endpoint": f"{other.url('elsewhere')}/{TENANT}/authorize",
            "token_endpoint": f"{other.url('elsewhere')}/{TENANT}/token",
        }
        desk.running.faults.add("openid-configuration", status=200, body=json.dumps(metadata).encode())
        with pytest.raises(ConfigError, match="nothing was sent there"):
            desk.sign_in().token()
        assert other.requests == []


def test_redirects_are_not_followed_with_the_secret(desk):
    with serve(Elsewhere(desk.cloud.identity.tls)) as other:
        desk.running.faults.add("POST .*/token", status=307, headers={"Location": other.url("elsewhere") + "/token"}, body=b"")
        with pytest.raises(ConfigError):
            desk.sign_in().token()
        assert other.requests == []


def test_nothing_secret_shows_in_representations(desk):
    token = desk.sign_in().token()
    assert token not in repr(Secret(token)) + repr(Certificate(Path("x"), token))
    assert claims_of("opaque") == claims_of("a.b.c") == {}
    assert claims_of("a." + base64.urlsafe_b64encode(b"[1]").decode() + ".c") == {}
