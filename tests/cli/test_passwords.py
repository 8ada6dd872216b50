"""Passwords that are kept: in a keyring, else in a file that nobody else can read; and `apicas passwd`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from apicas._secrets import Secret
from apicas.cli.exits import ExitCode
from apicas.configuration import Configuration, configure
from apicas.configuration.stored import KEYRING, forget, store, stored_login
from apicas.exceptions import ConfigError
from tests.cli.program import Program
from tests.cli.test_commands import refusing  # noqa: F401 - a fixture
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.couchdb import Server, guarded_server

SECRET = "s3cr3t"
ORIGIN = "https://couch.example"


class MemoryKeyring(KeyringBackend):
    """A keyring as the library defines them, for this process."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's
        self.kept: dict[tuple[str, str], str] = {}
        self.asked = 0

    def get_password(self, service: str, username: str) -> str | None:
        self.asked += 1
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError


class LockedKeyring(MemoryKeyring):
    """One that nobody opens."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked

    def set_password(self, service: str, username: str, password: str) -> None:
        raise KeyringLocked


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    before = keyring.get_keyring()
    ring = MemoryKeyring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def no_ring() -> Iterator[None]:
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]  # the library's
    yield
    keyring.set_keyring(before)


def found(tmp_path: Path, pool: str, **environ: str) -> Configuration:
    environ = {"HOME": str(tmp_path), **environ}
    return configure(pool, environ=environ, directory=tmp_path, user_directory=tmp_path)


def test_a_password_is_kept_in_the_keyring_for_one_server_and_one_name(tmp_path: Path, ring: MemoryKeyring) -> None:
    assert store(tmp_path, ORIGIN, "me", Secret(SECRET)) == KEYRING
    assert list(tmp_path.iterdir()) == []
    configuration = found(tmp_path, "https://me@couch.example/db")
    assert (configuration.password, configuration.origins["password"]) == (Secret(SECRET), KEYRING)
    for other in ("https://you@couch.example/db", "http://me@couch.example/db", "https://me@couch.example:6984/db"):
        assert found(tmp_path, other).password is None


def test_where_there_is_no_keyring_it_is_a_file_that_nobody_else_can_read(tmp_path: Path, no_ring: None) -> None:
    place = store(tmp_path / "new" / "apicas", ORIGIN, "me", Secret(SECRET))
    path = Path(place)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert stored_login(path.parent, ORIGIN, "me") == ("me", Secret(SECRET), place)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_locked_keyring_is_none(tmp_path: Path, ring: MemoryKeyring) -> None:
    keyring.set_keyring(LockedKeyring())
    assert store(tmp_path, ORIGIN, "me", Secret(SECRET)).endswith("passwords.json")
    assert found(tmp_path, "https://me@couch.example/db").password == SECRET


def test_a_keyring_that_forgets_is_none(tmp_path: Path, no_ring: None) -> None:
    from keyring.backends.null import Keyring

    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]  # the library's
    assert store(tmp_path, ORIGIN, "me", Secret(SECRET)).endswith("passwords.json")


def test_without_the_library_it_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "keyring", None)
    assert store(tmp_path, ORIGIN, "me", Secret(SECRET)).endswith("passwords.json")
    assert found(tmp_path, "https://me@couch.example/db").password == SECRET
    assert forget(tmp_path, ORIGIN, "me") == [str(tmp_path / "passwords.json")]


def test_the_newer_of_file_and_keyring_is_the_one_that_is_used(tmp_path: Path, ring: MemoryKeyring) -> None:
    store(tmp_path, ORIGIN, "me", Secret("one"))
    store(tmp_path, ORIGIN, "me", Secret("two"), in_file=True)
    assert found(tmp_path, "https://me@couch.example/db").password == "two"
    store(tmp_path, ORIGIN, "me", Secret("three"))
    assert found(tmp_path, "https://me@couch.example/db").password == "three"
    assert forget(tmp_path, ORIGIN, "me") == [KEYRING]
    assert found(tmp_path, "https://me@couch.example/db").password is None


def test_the_only_name_that_is_kept_for_a_server_need_not_be_said(tmp_path: Path, no_ring: None) -> None:
    store(tmp_path, ORIGIN, "me", Secret(SECRET))
    configuration = found(tmp_path, "https://couch.example/db")
    assert (configuration.username, configuration.password) == ("me", Secret(SECRET))
    store(tmp_path, ORIGIN, "you", Secret("other"))
    assert found(tmp_path, "https://couch.example/db").username is None


def test_a_keyring_is_not_asked_where_no_name_is_known_or_a_password_is(tmp_path: Path, ring: MemoryKeyring) -> None:
    found(tmp_path, "https://couch.example/db")
    found(tmp_path, "sqlite:///x.db")
    found(tmp_path, "https://me@couch.example/db", APICAS_PASSWORD=SECRET)
    assert ring.asked == 0


def test_what_is_nearer_comes_before_what_is_kept(tmp_path: Path, no_ring: None) -> None:
    store(tmp_path, ORIGIN, "me", Secret(SECRET))
    assert found(tmp_path, "https://me@couch.example/db", APICAS_PASSWORD="env").password == "env"
    (tmp_path / ".netrc").write_text("machine couch.example login me password from-netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert found(tmp_path, "https://me@couch.example/db").password == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, no_ring: None, mode: int) -> None:
    Path(store(tmp_path, ORIGIN, "me", Secret(SECRET))).chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        found(tmp_path, "https://me@couch.example/db")
    with pytest.raises(ConfigError, match="chmod 600"):
        store(tmp_path, ORIGIN, "me", Secret(SECRET))


@pytest.mark.parametrize("body", ["", "[]", '{"a": 1}', '{"a": {"b": 1}}', f'{{"{SECRET}'])
def test_a_file_that_means_nothing_is_one_line_and_quotes_nothing(tmp_path: Path, no_ring: None, body: str) -> None:
    path = tmp_path / "passwords.json"
    path.write_text(body)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="delete it") as caught:
        found(tmp_path, "https://me@couch.example/db")
    assert SECRET not in str(caught.value)


def test_others_in_the_file_stay(tmp_path: Path, no_ring: None) -> None:
    for origin, name in ((ORIGIN, "me"), (ORIGIN, "you"), ("http://other", "me")):
        store(tmp_path, origin, name, Secret(f"{origin} {name}"))
    path = tmp_path / "passwords.json"
    forget(tmp_path, ORIGIN, "me")
    assert json.loads(path.read_text()) == {ORIGIN: {"you": f"{ORIGIN} you"}, "http://other": {"me": "http://other me"}}


def test_passwords_that_are_kept_at_the_same_time_are_all_kept(tmp_path: Path, no_ring: None) -> None:
    names = [f"user{number}" for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store(tmp_path, ORIGIN, name, Secret(name)), names))
    assert set(json.loads((tmp_path / "passwords.json").read_text())[ORIGIN]) == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["passwords.json"]


def test_to_forget_what_is_not_kept_makes_nothing(tmp_path: Path, no_ring: None) -> None:
    assert forget(tmp_path / "new", ORIGIN, "me") == []
    assert list(tmp_path.iterdir()) == []


# The command. ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    return guarded_server(request.config)


def pool_of(server: Server, name: str = "admin") -> str:
    return f"{server.url.replace('://', f'://{name}@')}/db"


@pytest.mark.couchdb
def test_passwd_tries_a_password_and_keeps_it(apicas: Program, server: Server) -> None:
    wrong = apicas("passwd", "--stdin", "--pool", pool_of(server), stdin="wrong\n")
    assert (wrong.code, "Name or password is incorrect" in wrong.error) == (2, True)
    assert apicas("config", "show", "--json", "--pool", pool_of(server)).out.count("hidden") == 0
    result = apicas("passwd", "--stdin", "--file", "--pool", pool_of(server), stdin="s3cret\n")
    assert result.code == 0
    assert result.out.startswith(f"the password of admin on {server.url} is kept in {apicas.directory}/config/apicas/")
    assert "s3cret" not in result.out + result.err
    assert apicas("status", "--pool", pool_of(server)).error.endswith("run `apicas init`")
    assert "forgot the password" in apicas("passwd", "--forget", "--pool", pool_of(server)).out
    assert "no password of admin" in apicas("passwd", "--forget", "--pool", pool_of(server)).out


@pytest.mark.couchdb
def test_passwd_says_what_comes_before_it(apicas: Program, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APICAS_PASSWORD", "old")
    result = apicas("passwd", "--stdin", "--file", "--pool", pool_of(server), stdin="s3cret\n")
    assert (result.code, "the password of the environment comes before it" in result.err) == (0, True)


@pytest.mark.couchdb
def test_a_password_is_typed_unseen(terminal: Start, server: Server) -> None:  # noqa: F811
    screen = terminal("passwd", "--file", "--pool", pool_of(server))
    screen.read_until("Password of admin on http://127.0.0.1:")
    screen.type("s3cret\n")
    assert screen.finish() == 0
    assert "is kept in" in screen.seen
    assert "s3cret" not in screen.seen


def test_ctrl_c_at_the_question_keeps_nothing(
    apicas: Program,
    terminal: Start,  # noqa: F811
) -> None:
    screen = terminal("passwd", "--pool", "http://me@127.0.0.1:9/db")
    screen.read_until("Password of me")
    assert screen.interrupt() == ExitCode.INTERRUPTED
    assert not (apicas.directory / "config").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("passwd", "--pool", "sqlite:///x.db"), "takes no password"),
        (("passwd", "--pool", "https://couch.example/db"), "whose password"),
        (("passwd", "--pool", "https://me@couch.example/db"), "no terminal"),
        (("passwd", "--stdin", "--pool", "https://me@couch.example/db"), "is empty"),
        (("passwd", "--forget", "--server"), "--forget goes with none"),
    ],
)
def test_passwd_refuses_what_makes_no_sense(apicas: Program, arguments: tuple[str, ...], reason: str) -> None:
    result = apicas(*arguments)
    assert (result.code, reason in result.error) == (2, True), result.err


def test_a_wrong_password_is_sent_once(apicas: Program, refusing: str) -> None:  # noqa: F811
    from tests.cli.test_commands import _Refusing

    assert apicas("passwd", "--stdin", "--pool", refusing, stdin="wrong\n").code == 2
    assert _Refusing.requests == 1


def test_no_password_is_wanted_for_an_address_that_is_none(apicas: Program) -> None:
    result = apicas("status", "--pool", "http://me@couch.example:5984")
    assert (result.code, "names no database" in result.error) == (2, True)
