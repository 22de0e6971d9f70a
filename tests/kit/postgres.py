"""A PostgreSQL of the tests' own: Debian's binaries, a folder that goes away, loopback and a socket only."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

PASSWORD = "owner's s3cret/#%"


class MissingError(Exception):
    """There is no PostgreSQL to start."""


class Server:
    """The superuser `postgres` signs in with PASSWORD over loopback, and without one through the socket in `folder`."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.made = 0
        self._sessions = {}

    def url(self, user="postgres", password=None, database="postgres", **options):
        """For a URL that needs the socket give no password."""
        from urllib.parse import quote, urlencode

        if password is None:
            return f"postgresql://{user}@/{database}?{urlencode({'host': self.folder, 'port': self.port, **options})}"
        end = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}{end}"

    def schema(self):
        """The name of a schema that nobody has used."""
        self.made += 1
        return f"test_{self.made}"

    @contextmanager
    def session(self, user="postgres", database="postgres", autocommit=True):
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.url(user, database=database), autocommit=autocommit) as connection, connection.cursor() as cursor:
            yield cursor

    def _cursor(self, user, database):
        """A lasting session: the driver takes longer to connect than most tests do."""
        from adbc_driver_postgresql import dbapi

        if (user, database) not in self._sessions:
            self._sessions[user, database] = dbapi.connect(self.url(user, database=database), autocommit=True)
        return self._sessions[user, database].cursor()

    def run(self, *statements, user="postgres", database="postgres"):
        with self._cursor(user, database) as cursor:
            for statement in statements:
                cursor.execute(statement)

    def arrow(self, sql, user="postgres", database="postgres"):
        with self._cursor(user, database) as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

    def rows(self, sql, user="postgres", database="postgres"):
        return [tuple(row.values()) for row in self.arrow(sql, user, database).to_pylist()]

    def close(self):
        for session in self._sessions.values():
            session.close()


def _programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise MissingError("there is no /usr/lib/postgresql/*/bin/initdb; Debian's package postgresql has it")
    if find_spec("adbc_driver_postgresql") is None:
        raise MissingError("adbc-driver-postgresql is not installed")
    return found[-1].parent


@contextmanager
def cluster():
    """A running server. Raises MissingError with the reason where there cannot be one."""
    programs = _programs()
    folder = tempfile.mkdtemp(prefix="connector-pg-")  # short, for the socket's path; readable for the server's user
    who = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")
    secret = Path(folder, "password")
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = f"{folder}/data"
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
    initdb += ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
    settings = [
        "listen_addresses=127.0.0.1",
        f"unix_socket_directories={folder}",
        "fsync=off",
        "full_page_writes=off",
        "shared_buffers=64MB",
    ]
    serve = [programs / "postgres", "-D", data, "-p", str(port), *(part for setting in settings for part in ("-c", setting))]
    process = None
    try:
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **who)
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(serve, stdout=log, stderr=log, cwd=folder, **who)
        until = time.monotonic() + 30
        while subprocess.run([programs / "pg_isready", "-q", "-h", folder, "-p", str(port)], check=False).returncode:
            if process.poll() is not None or time.monotonic() > until:
                raise MissingError(f"PostgreSQL does not start: {Path(folder, 'log').read_text()[-300:]}")
            time.sleep(0.05)
        with closing(Server(folder, port)) as server:
            yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
