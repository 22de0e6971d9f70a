"""The sandbox's Microsoft 365 answers as the service is known to answer, and complains about clients that misbehave."""

import base64
import threading
import time

import openpyxl
import pytest
import requests

from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, microsoft365
from connector.sandbox.microsoft365.cells import absolute, relative, typed

KB = 1024
FRAGMENT = 320 * KB


class Client:
    """Nothing but requests."""

    def __init__(self, cloud, running, folder):
        self.cloud, self.running, self.folder = cloud, running, folder
        self.drive = f"/drives/{cloud.user_drive.id}"
        self.agent = "ISV|Test|Client/1.0"
        self.token = self.sign_in()

    def sign_in(self, **form):
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "https://graph.microsoft.com/.default",
            **form,
        }
        url = f"{self.running.url('identity')}/{TENANT}/oauth2/v2.0/token"
        return requests.post(url, data=form, verify=str(self.cloud.authority), timeout=5).json()["access_token"]

    def ask(self, method, path, *, headers=None, **kwargs):
        signed = {"Authorization": f"Bearer {self.token}", "User-Agent": self.agent, **(headers or {})}
        url = path if path.startswith("http") else f"{self.running.url('graph')}/v1.0{path}"
        return requests.request(method, url, headers=signed, timeout=10, allow_redirects=False, **kwargs)

    def put(self, path, content, **kwargs):
        return self.ask("PUT", f"{self.drive}/root:/{path}:/content", data=content, **kwargs)

    def upload(self, path, body=None, **kwargs):
        return self.ask("POST", f"{self.drive}/root:/{path}:/createUploadSession", json=body or {}, **kwargs)

    def fragment(self, url, content, first, total):
        return requests.put(url, data=content, headers={"Content-Range": f"bytes {first}-{first + len(content) - 1}/{total}"}, timeout=10)

    def person(self):
        """A token of the user instead of the app."""
        app, user = self.cloud.app, self.cloud.identity.users[USER]
        self.token = self.cloud.identity.issue(app, user, ["Files.ReadWrite"])
        return self


@pytest.fixture
def client(tmp_path):
    with microsoft365(tmp_path / "cloud", strict=True) as (cloud, running):
        yield Client(cloud, running, tmp_path)


@pytest.fixture
def polite(client):
    """A client that must not have done anything wrong in the end."""
    yield client
    assert client.running.violations == []


def code(response):
    """The codes of an error, outermost first."""
    layer, codes = response.json()["error"], []
    while layer:
        codes += [layer["code"]] if "code" in layer else []
        layer = layer.get("innerError")
    return codes


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def test_files_lie_in_a_folder_and_people_may_work_there(polite):
    polite.put("Sales/a.txt", b"one")
    file = polite.cloud.user_drive.folder / "Sales" / "a.txt"
    assert file.read_bytes() == b"one"
    before = polite.ask("GET", f"{polite.drive}/root:/Sales/a.txt").json()
    file.write_bytes(b"by hand")
    (file.parent / "b.txt").write_bytes(b"new")
    after = polite.ask("GET", f"{polite.drive}/root:/sales/A.TXT").json()
    assert (after["id"], after["size"]) == (before["id"], 7)
    assert after["cTag"] != before["cTag"]
    names = [child["name"] for child in polite.ask("GET", f"{polite.drive}/root:/Sales:/children").json()["value"]]
    assert names == ["a.txt", "b.txt"]
    file.unlink()
    assert polite.ask("GET", f"{polite.drive}/items/{before['id']}").status_code == 404


def test_etag_counts_every_change_and_ctag_changes_of_content(polite):
    first = polite.put("a.txt", b"one").json()
    renamed = polite.ask("PATCH", f"{polite.drive}/items/{first['id']}", json={"name": "b.txt"}).json()
    assert (renamed["eTag"] != first["eTag"], renamed["cTag"] == first["cTag"], renamed["id"] == first["id"]) == (True, True, True)
    replaced = polite.ask("PUT", f"{polite.drive}/items/{first['id']}/content", data=b"two").json()
    assert (replaced["eTag"] != renamed["eTag"], replaced["cTag"] != renamed["cTag"]) == (True, True)
    assert first["eTag"].startswith('"{')
    assert first["cTag"].startswith('"c:{')


@pytest.mark.parametrize(("condition", "status"), [("eTag", 200), ("cTag", 200), ("*", 200), ('"{0},9"', 412)])
def test_conditional_writes(polite, condition, status):
    item = polite.put("a.txt", b"one").json()
    answer = polite.put("a.txt", b"two", headers={"If-Match": item.get(condition, condition)})
    assert answer.status_code == status
    if status == 412:
        assert code(answer) == ["resourceModified", "entityTagDoesNotMatch"]


def test_what_happens_when_the_name_is_taken(polite):
    polite.put("a.txt", b"one")
    taken = polite.put("a.txt", b"two", params={"@microsoft.graph.conflictBehavior": "fail"})
    assert (taken.status_code, code(taken)) == (409, ["nameAlreadyExists"])
    renamed = polite.put("a.txt", b"two", params={"@microsoft.graph.conflictBehavior": "rename"})
    assert (renamed.status_code, renamed.json()["name"]) == (201, "a 1.txt")
    assert polite.put("a.txt", b"three").status_code == 200


def test_downloads_are_redirected_to_an_address_that_carries_its_own_permission(polite):
    polite.put("a.txt", bytes(range(100)))
    redirected = polite.ask("GET", f"{polite.drive}/root:/a.txt:/content")
    assert (redirected.status_code, redirected.content) == (302, b"")
    address = redirected.headers["Location"]
    assert not address.startswith(polite.running.url("graph"))
    assert requests.get(address, timeout=5).content == bytes(range(100))
    part = requests.get(address, headers={"Range": "bytes=90-"}, timeout=5)
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, bytes(range(90, 100)), "bytes 90-99/100")
    polite.cloud.clock.sleep(3700)
    assert requests.get(address, timeout=5).status_code == 401


def test_versions_are_kept_and_restored_as_new_ones(polite):
    for text in (b"one", b"two", b"three"):
        item = polite.put("a.txt", text).json()
    path = f"{polite.drive}/items/{item['id']}/versions"
    assert [version["id"] for version in polite.ask("GET", path).json()["value"]] == ["3.0", "2.0", "1.0"]
    old = polite.ask("GET", f"{path}/1.0/content").headers["Location"]
    assert requests.get(old, timeout=5).content == b"one"
    assert polite.ask("POST", f"{path}/1.0/restoreVersion").status_code == 204
    assert (polite.cloud.user_drive.folder / "a.txt").read_bytes() == b"one"
    assert polite.ask("GET", path).json()["value"][0]["id"] == "4.0"
    assert polite.ask("POST", f"{path}/4.0/restoreVersion").status_code == 400


@pytest.mark.parametrize(
    ("name", "inner"), [("a%3Cb.txt", "invalidPath"), ("CON", "invalidPath"), ("x/" * 201 + "y", "pathIsTooLong"), ("~$a", "invalidPath")]
)
def test_names_the_service_refuses(polite, name, inner):
    answer = polite.put(name, b"x")
    assert (answer.status_code, code(answer)[-1]) == (400, inner)


def test_long_listings_come_in_pages(polite):
    for number in range(7):
        polite.put(f"{number}.txt", b"")
    seen, url = [], f"{polite.drive}/root/children?$top=3&$select=name"
    while url:
        page = polite.ask("GET", url).json()
        seen += [child["name"] for child in page["value"]]
        url = page.get("@odata.nextLink")
    assert seen == [f"{number}.txt" for number in range(7)]
    assert set(page["value"][0]) == {"name", "id"}


def test_a_full_drive_and_too_large_a_file(polite):
    polite.cloud.user_drive.behaviour.quota = 10
    assert polite.put("a.txt", b"x" * 11).status_code == 507
    assert polite.upload("b.txt", {"item": {"fileSize": 11}}).status_code == 507


def test_links_lead_back_to_the_file(polite):
    item = polite.put("a.txt", b"one").json()
    link = polite.ask("POST", f"{polite.drive}/items/{item['id']}/createLink", json={"type": "view", "scope": "organization"})
    url = link.json()["link"]["webUrl"]
    token = "u!" + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    assert polite.ask("GET", f"/shares/{token}/driveItem").json()["id"] == item["id"]
    assert polite.ask("POST", f"{polite.drive}/items/{item['id']}/createLink", json={"type": "view"}).status_code == 200


# ── upload sessions ───────────────────────────────────────────────────────────────────────────────


def test_fragments_arrive_in_order(polite):
    url = polite.upload("a.bin").json()["uploadUrl"]
    total = 2 * FRAGMENT + 5
    assert polite.fragment(url, bytes(FRAGMENT), 0, total).json()["nextExpectedRanges"] == [f"{FRAGMENT}-"]
    for first, inner in ((0, "fragmentOverlap"), (2 * FRAGMENT, "fragmentOutOfOrder")):
        wrong = polite.fragment(url, bytes(FRAGMENT) if not first else bytes(5), first, total)
        assert (wrong.status_code, code(wrong)) == (416, ["invalidRange", inner])
    short = requests.put(url, data=b"x", headers={"Content-Range": f"bytes {FRAGMENT}-{FRAGMENT + 7}/{total}"}, timeout=5)
    assert code(short) == ["invalidRange", "fragmentLengthMismatch"]
    assert requests.get(url, timeout=5).json()["nextExpectedRanges"] == [f"{FRAGMENT}-"]
    assert polite.fragment(url, bytes(FRAGMENT), FRAGMENT, total).status_code == 202
    done = polite.fragment(url, bytes(5), 2 * FRAGMENT, total)
    assert (done.status_code, done.json()["size"]) == (201, total)
    assert requests.get(url, timeout=5).status_code == 404


def test_fragments_of_a_wrong_size_are_found_out_at_the_end(polite):
    url = polite.upload("a.bin").json()["uploadUrl"]
    assert polite.fragment(url, bytes(1000), 0, 2000).status_code == 202
    assert polite.fragment(url, bytes(1000), 1000, 2000).status_code == 400


def test_sessions_end_by_themselves_or_when_told(polite):
    url = polite.upload("a.bin").json()["uploadUrl"]
    assert requests.delete(url, timeout=5).status_code == 204
    assert requests.get(url, timeout=5).status_code == 404
    url = polite.upload("a.bin").json()["uploadUrl"]
    polite.cloud.clock.sleep(16 * 60)
    assert polite.fragment(url, b"x", 0, 1).status_code == 404


def test_a_name_taken_meanwhile_is_a_late_conflict_with_a_way_out(polite):
    url = polite.upload("a.bin", {"item": {"@microsoft.graph.conflictBehavior": "fail"}}).json()["uploadUrl"]
    polite.put("a.bin", b"theirs")
    assert polite.fragment(url, b"ours", 0, 4).status_code == 409
    body = {"name": "b.bin", "@microsoft.graph.conflictBehavior": "rename", "@microsoft.graph.sourceUrl": url}
    assert polite.ask("PUT", f"{polite.drive}/root:/b.bin", json=body).status_code == 201
    assert polite.cloud.user_drive.find("b.bin").path.read_bytes() == b"ours"


def test_a_deferred_commit(polite):
    url = polite.upload("a.bin", {"deferCommit": True}).json()["uploadUrl"]
    assert polite.fragment(url, b"ours", 0, 4).status_code == 202
    assert polite.cloud.user_drive.find("a.bin") is None
    assert requests.post(url, timeout=5).status_code == 201


def test_personal_drives_move_the_etag_when_a_session_begins(polite):
    personal = polite.cloud.add_user("me@outlook.com", "Me", "personal")
    polite.drive = f"/drives/{personal.id}"
    item = polite.put("a.bin", b"one").json()
    assert '"' not in item["eTag"]
    url = polite.upload("a.bin", headers={"If-Match": item["eTag"]}).json()["uploadUrl"]
    assert polite.fragment(url, b"two", 0, 3).status_code == 412
    assert polite.fragment(url, b"two", 0, 3).status_code == 416


def test_the_annotation_must_come_first_and_the_name_must_fit(polite):
    wrong = {"item": {"name": "a.bin", "@microsoft.graph.conflictBehavior": "replace"}}
    assert polite.upload("a.bin", wrong).status_code == 400
    assert polite.upload("a.bin", {"item": {"name": "b.bin"}}).status_code == 400


# ── locks and check-out ───────────────────────────────────────────────────────────────────────────


def test_open_files_are_locked(polite):
    item = polite.put("a.xlsx", b"one").json()
    drive = polite.cloud.user_drive
    drive.open_in_excel(drive.items[item["id"]], "ann@acme.com", "view")
    assert polite.put("a.xlsx", b"two").status_code == 200
    drive.open_in_excel(drive.items[item["id"]], "ann@acme.com")
    for refused in (polite.put("a.xlsx", b"3"), polite.upload("a.xlsx"), polite.ask("DELETE", f"{polite.drive}/items/{item['id']}")):
        assert (refused.status_code, code(refused)) == (423, ["notAllowed", "resourceLocked"])
    bypass = {"Prefer": "bypass-shared-lock"}
    assert polite.put("a.xlsx", b"3", headers=bypass).status_code == 423
    assert polite.ask("DELETE", f"{polite.drive}/items/{item['id']}", headers=bypass).status_code == 204


def test_check_out(polite):
    polite.drive = f"/drives/{polite.cloud.library.id}"
    polite.cloud.library.behaviour.checkout = True
    item = polite.put("a.xlsx", b"one").json()
    path = f"{polite.drive}/items/{item['id']}"
    assert item["publication"]["level"] == "checkout"
    assert polite.ask("POST", f"{path}/checkin", json={"comment": "", "checkInAs": "published"}).status_code == 204
    assert polite.put("a.xlsx", b"two").status_code == 423
    assert polite.ask("POST", f"{path}/checkout").status_code == 204
    assert polite.put("a.xlsx", b"two").status_code == 200
    assert polite.ask("POST", f"{path}/discardCheckout").status_code == 204
    assert polite.cloud.library.find("a.xlsx").path.read_bytes() == b"one"
    assert polite.ask("POST", f"{path}/checkin", json={}).status_code == 400


# ── permissions ───────────────────────────────────────────────────────────────────────────────────


def test_tokens(polite):
    assert polite.ask("GET", "/me").status_code == 400
    polite.token = "nonsense"
    assert code(polite.ask("GET", "/me")) == ["InvalidAuthenticationToken"]
    polite.token = polite.sign_in(scope="https://vault.azure.net/.default")
    assert polite.ask("GET", f"{polite.drive}/root").status_code == 401
    polite.token = polite.sign_in()
    polite.cloud.clock.sleep(3700)
    assert "expired" in polite.ask("GET", f"{polite.drive}/root").headers["WWW-Authenticate"]


def test_people_reach_their_own_drive(polite):
    polite.person()
    assert polite.ask("GET", "/me").json()["userPrincipalName"] == USER
    assert polite.ask("GET", "/me/drive").json()["id"] == polite.cloud.user_drive.id
    assert polite.put("a.txt", b"mine").json()["lastModifiedBy"]["user"]["email"] == USER
    assert polite.ask("GET", f"/drives/{polite.cloud.library.id}/root").status_code == 403


def test_a_grant_on_a_site_is_made_by_an_administrator(polite):
    grant = {"roles": ["write"], "grantedToIdentities": [{"application": {"id": CLIENT_ID, "displayName": "connector"}}]}
    site = polite.cloud.site.id
    assert polite.ask("POST", f"/sites/{site}/permissions", json=grant).status_code == 403
    polite.cloud.app.roles = ("Sites.FullControl.All",)
    polite.token = polite.sign_in()
    assert polite.ask("POST", f"/sites/{site}/permissions", json=grant).status_code == 201
    polite.cloud.app.roles = ("Sites.Selected",)
    polite.token = polite.sign_in()
    assert polite.ask("GET", f"/sites/{site}/drive").status_code == 200
    assert polite.ask("GET", f"{polite.drive}/root").status_code == 403


def test_too_many_requests_are_refused_and_announced(polite):
    answers = []
    for _ in range(430):
        answers.append(polite.ask("GET", f"{polite.drive}/root/children"))
        if answers[-1].status_code == 429:
            break
        for _ in range(2):
            polite.cloud.graph._spent.append((polite.cloud.clock.now().timestamp(), CLIENT_ID, 10))
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert "RateLimit-Remaining" in answers[-2].headers
    assert "RateLimit-Remaining" not in answers[0].headers
    polite.cloud.clock.sleep(61)
    assert polite.ask("GET", f"{polite.drive}/root").status_code == 200


# ── the workbook ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def book(polite):
    """A session in a workbook with a table of three rows; asks below /workbook."""
    book = openpyxl.Workbook()
    for row in (["id", "amount"], ["1", 1], ["2", 2], ["3", 3]):
        book.active.append(row)
    table = openpyxl.worksheet.table.Table(displayName="T", ref="A1:B4")
    book.active.add_table(table)
    book.active["A6"] = "below"
    polite.cloud.user_drive.folder.mkdir(exist_ok=True)
    book.save(polite.cloud.user_drive.folder / "b.xlsx")
    item = polite.ask("GET", f"{polite.drive}/root:/b.xlsx").json()["id"]
    base = f"{polite.drive}/items/{item}/workbook"
    made = polite.ask("POST", f"{base}/createSession", json={"persistChanges": True})
    assert made.status_code == 201
    session = {"workbook-session-id": made.json()["id"]}

    def ask(method, path, **kwargs):
        return polite.ask(method, base + path, headers=session, **kwargs)

    ask.item, ask.base, ask.session = polite.cloud.user_drive.items[item], base, session
    return ask


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("29.96", 29.96, "n"), ("00123", 123, "n"), ("1E5", 100000, "n"), ("50%", 0.5, "n"), ("1,234", 1234, "n"), ("TRUE", True, "b"),
        ("=1+1", "=1+1", "f"), ("'=1+1", "=1+1", "s"), ("'00123", "00123", "s"), ("plain", "plain", "s"), ("2026-01-01", 46023.0, "n"),
        ("15-Feb", 46068.0, "n"), ("-", "-", "s"), ("e5", "e5", "s"), (".", ".", "s"),
    ],
)  # fmt: skip
def test_text_is_read_as_if_typed(text, value, kind):
    assert typed(text) == (value, kind)


@pytest.mark.parametrize("text", ["=C2*2", "=$C2*C$2+$C$2", "=SUM(A1:B9)", "=[@Amount]*2", "=LOG10(C2)"])
def test_formulas_in_r1c1_and_back(text):
    assert absolute(relative(text, 2, 6), 2, 6) == text
    assert absolute(relative("=C2*2", 2, 6), 9, 6) == "=C9*2"


def test_ranges_are_read_and_written(book):
    path = "/worksheets/Sheet/range(address='A2:B3')"
    written = book("PATCH", path, json={"values": [["'007", None], ["", True]]})
    assert written.json()["values"] == [["007", 1], ["", True]]
    assert written.json()["valueTypes"] == [["String", "Integer"], ["Empty", "Boolean"]]
    assert book("PATCH", path, json={"values": [[9]]}, params={"$select": "values"}).json() == {"values": [[9, 9], [9, 9]]}
    ragged = book("PATCH", path, json={"values": [[1, 2], [3]]})
    assert (ragged.status_code, code(ragged)[-1]) == (400, "invalidArgument")
    assert book("GET", "/worksheets/Sheet/range(address='nowhere')").status_code == 400


def test_tables_grow_and_shrink_and_push_what_is_below(book):
    assert book("POST", "/tables/T/rows/add", json={"index": None, "values": [["'4", 4], ["'5", 5]]}).json()["index"] == 3
    assert book("GET", "/tables/T/dataBodyRange", params={"$select": "address"}).json() == {"address": "Sheet!A2:B6"}
    assert book("GET", "/worksheets/Sheet/range(address='A8')").json()["values"] == [["below"]]
    assert book("POST", "/worksheets/Sheet/range(address='A3:B4')/delete", json={"shift": "Up"}).status_code == 204
    assert book("GET", "/tables/T/dataBodyRange()").json()["values"] == [["1", 1], ["4", 4], ["5", 5]]
    assert book("GET", "/worksheets/Sheet/range(address='A6')").json()["values"] == [["below"]]
    for area in ("A2:A3", "A2:B4", "A1:B2"):  # part of a row, all rows, the header
        refused = book("POST", f"/worksheets/Sheet/range(address='{area}')/delete", json={"shift": "Up"})
        assert code(refused)[-1] == "insertDeleteConflict"
    assert book("DELETE", "/tables/T/rows/itemAt(index=0)").status_code == 204
    assert book("GET", "/tables/T/rows/$count").json() == {"value": 2}


def test_changes_are_saved_when_the_last_session_ends(book):
    book("PATCH", "/worksheets/Sheet/range(address='B2')", json={"values": [[42]]})
    assert len(book.item.versions) == 1
    assert book("POST", "/closeSession", json={}).status_code == 204
    assert len(book.item.versions) == 2
    assert openpyxl.load_workbook(book.item.path).active["B2"].value == 42


def test_a_session_that_does_not_persist_is_a_scratch_copy(polite, book):
    scratch = polite.ask("POST", f"{book.base}/createSession", json={"persistChanges": False}).json()["id"]
    headers = {"workbook-session-id": scratch}
    path = f"{book.base}/worksheets/Sheet/range(address='B2')"
    polite.ask("PATCH", path, headers=headers, json={"values": [[42]]})
    assert polite.ask("GET", path, headers=headers).json()["values"] == [[42]]
    assert book("GET", "/worksheets/Sheet/range(address='B2')").json()["values"] == [[1]]


def test_sessions_run_out(polite, book):
    polite.cloud.clock.sleep(290)
    assert book("POST", "/refreshSession", json={}).status_code == 204
    polite.cloud.clock.sleep(301)
    gone = book("GET", "/tables")
    assert (gone.status_code, code(gone)[-1]) == (404, "invalidSessionReCreatable")


def test_five_megabytes_are_the_limit(book):
    refused = book("PATCH", "/worksheets/Sheet/range(address='D1')", json={"values": [["x" * (5 * KB * KB)]]})
    assert (refused.status_code, code(refused)[-1]) == (413, "RequestPayloadSizeLimitExceeded")


# ── strict mode ───────────────────────────────────────────────────────────────────────────────────


def test_misbehaviour_is_noted(client):
    client.agent = "python-requests"
    client.put("a.xlsx", b"x")
    client.agent = "ISV|Test|Client/1.0"
    url = client.upload("a.bin").json()["uploadUrl"]
    assert requests.get(url, headers={"Authorization": "Bearer x"}, timeout=5).status_code == 401
    client.running.faults.add("root$", status=429, headers={"Retry-After": "30"})
    client.ask("GET", f"{client.drive}/root")
    client.ask("GET", f"{client.drive}/root")
    openpyxl.Workbook().save(client.cloud.user_drive.folder / "b.xlsx")
    item = client.ask("GET", f"{client.drive}/root:/b.xlsx").json()["id"]
    client.ask("GET", f"{client.drive}/items/{item}/workbook/worksheets")
    assert client.ask("PUT", f"{client.drive}/items/{item}/content", data=b"x").status_code == 423
    noted = "\n".join(client.running.violations)
    for words in (
        "not decorated",
        "bearer token was sent",
        "came back 30 s before",
        "no workbook-session-id",
        "right after workbook calls",
    ):
        assert words in noted
    assert len(client.running.violations) == 5


def test_workbook_requests_in_parallel_are_noted(client):
    openpyxl.Workbook().save(client.cloud.user_drive.folder / "b.xlsx")
    item = client.ask("GET", f"{client.drive}/root:/b.xlsx").json()["id"]
    base = f"{client.drive}/items/{item}/workbook"
    session = {"workbook-session-id": client.ask("POST", f"{base}/createSession", json={}).json()["id"]}
    with client.cloud.graph.lock:  # the first request is held up, the second comes in meanwhile
        threads = [threading.Thread(target=client.ask, args=("GET", f"{base}/worksheets"), kwargs={"headers": session}) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert any("in parallel" in words for words in client.running.violations)
