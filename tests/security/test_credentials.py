"""Where credentials come from: the environment, a file, a netrc or a prompt, and never the arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from apicas.configuration import Configuration, check_arguments, configure
from apicas.exceptions import ConfigError
from tests.cli.program import Program
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.security.owners import give_away

SECRET = "s3cr3t"
URL = "https://couch.example/db"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def found(directory: Path, pool: str | None = None, **environ: str) -> Configuration:
    environ = {"HOME": str(directory), **environ}
    return configure(pool, environ=environ, directory=directory, user_directory=directory / "user")


def login(directory: Path, pool: str | None = None, **environ: str) -> tuple[str | None, object]:
    configuration = found(directory, pool, **environ)
    return configuration.username, configuration.password


# Arguments. -----------------------------------------------------------------------------------------------------------

PUBLIC = [
    f"https://me:{SECRET}@couch.example/db",
    f"HTTP://me:{SECRET}@couch.example/db",
    f"https://:{SECRET}@couch.example/db",
    f"https://me%3A{SECRET}@couch.example/db",
    f"https://me:{SECRET}%40couch.example/db",
    f"https%3A%2F%2Fme%3A{SECRET}%40couch.example/db",
]


@pytest.mark.parametrize("url", PUBLIC)
@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--pool", "URL"],
        ["status", "--pool=URL"],
        ["push", "URL"],
        ["push", "--set", "url=URL"],
        ["run", "work:work", "--view", "URL"],
        ["run", "--workers", "URL", "--", "true"],
        ["delete", "URL"],
        ["status", "--pol=URL"],
        ["URL"],
    ],
    ids=" ".join,
)
def test_a_password_among_the_arguments_is_refused_and_not_repeated(
    apicas: Program, arguments: list[str], url: str
) -> None:
    result = apicas(*[argument.replace("URL", url) for argument in arguments])
    assert (result.code, result.out) == (2, "")
    assert "can be read by everybody" in result.error
    assert SECRET not in result.err


@pytest.mark.parametrize("password", [f"{SECRET}/x", f"{SECRET}#x", f"{SECRET}?x", f"{SECRET}:x", f"{SECRET}@x"])
def test_a_password_with_odd_characters_is_seen_too(apicas: Program, password: str) -> None:
    result = apicas("status", "--pool", f"https://me:{password}@couch.example/db")
    assert (result.code, result.out) == (2, "")
    assert SECRET not in result.error


def test_what_only_looks_like_a_password_is_none() -> None:
    check_arguments(["--pool", "https://me@couch.example:6984/db", "--set", "mail=https://h:80/@me", "me:you@h", "a@b"])


def test_a_command_is_the_users_own(apicas: Program) -> None:
    apicas("push", stdin="x\n")
    assert apicas("run", "--", "echo", f"https://me:{SECRET}@couch.example/").code == 0


def test_the_password_of_the_environment_is_not_among_the_arguments(
    apicas: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor in the title of the process: a pilot shows its own command line from inside."""
    monkeypatch.setenv("APICAS_PASSWORD", SECRET)
    apicas.write(
        "work.py", "def work(token):\n    return open('/proc/self/cmdline').read() + open('/proc/self/comm').read()\n"
    )
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc to look into")
    apicas("push", stdin="x\n")
    result = apicas.finish(apicas.start("run", "work:work"))
    assert result.code == 0, result.err
    assert SECRET.encode() not in (apicas.directory / "apicas.db").read_bytes()
    assert SECRET not in result.out + result.err


# Files. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["apicas.toml", "user/config.toml"])
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602])
def test_a_file_with_a_password_that_others_can_use_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    path = write(tmp_path / name, f'pool = "{URL}"\nusername = "me"\npassword = "{SECRET}"')
    assert login(tmp_path) == ("me", SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"run `chmod 600 {path}`\Z") as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("pool", PUBLIC[:-1])
def test_a_password_in_a_file_s_address_counts_as_one(tmp_path: Path, pool: str) -> None:
    write(tmp_path / "apicas.toml", f'pool = "{pool}"', 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        found(tmp_path)


@pytest.mark.parametrize("name", ["apicas.toml", "user/config.toml"])
@pytest.mark.parametrize(
    "text", [f'pool = "{URL}"', 'username = "you"', f'password = "{SECRET}"', 'ca_file = "theirs.pem"']
)
def test_a_file_of_somebody_else_decides_nothing_about_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """In a directory such as /tmp it could send our password to its owner's server."""
    path = write(tmp_path / name, text)
    found(tmp_path, APICAS_PASSWORD=SECRET)
    give_away(path, monkeypatch)
    with pytest.raises(ConfigError, match=r"others may have written it|somebody else's"):
        found(tmp_path, APICAS_PASSWORD=SECRET)


def test_a_file_that_all_can_write_decides_nothing_either(tmp_path: Path) -> None:
    write(tmp_path / "apicas.toml", f'pool = "{URL}"', 0o646)
    with pytest.raises(ConfigError, match="others may have written it"):
        found(tmp_path)


def test_a_link_of_somebody_else_decides_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "elsewhere.toml", f'pool = "{URL}"')
    (tmp_path / "apicas.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert found(tmp_path).pool == URL
    give_away(tmp_path / "apicas.toml", monkeypatch)
    with pytest.raises(ConfigError, match="others may have written it"):
        found(tmp_path)


def test_a_file_of_somebody_else_may_say_what_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(write(tmp_path / "apicas.toml", 'pool = "sqlite:///x.db"\nlock_timeout = 30', 0o644), monkeypatch)
    assert found(tmp_path).lock_timeout == 30


def test_a_name_inside_an_address_is_not_given_another_s_password(tmp_path: Path) -> None:
    environ = {"APICAS_POOL": "https://me@couch.example/db", "APICAS_USERNAME": "you", "APICAS_PASSWORD": SECRET}
    assert login(tmp_path, **environ) == ("me", None)


@pytest.mark.parametrize("address", [f"{URL}?password={SECRET}", f"{URL}#{SECRET}"])
def test_an_address_has_nothing_behind_the_database(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        found(tmp_path, APICAS_POOL=address)
    assert SECRET not in str(caught.value)


# Netrc. ---------------------------------------------------------------------------------------------------------------

NETRC = f"machine couch.example login me password {SECRET}\nmachine other.example login you password other\n"


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (URL, ("me", SECRET)),
        ("https://me@COUCH.example:6984/db", ("me", SECRET)),
        ("http://couch.example/db", ("me", SECRET)),
        ("https://you@couch.example/db", ("you", None)),
        ("https://me@couch.example.org/db", ("me", None)),
        ("https://sub.couch.example/db", (None, None)),
        ("https://default/db", (None, None)),
        ("sqlite:///couch.example", (None, None)),
    ],
)
def test_a_netrc_gives_the_password_of_its_host_and_name(
    tmp_path: Path, pool: str, expected: tuple[str | None, str | None]
) -> None:
    write(tmp_path / ".netrc", f"{NETRC}default login all password all\n")
    assert login(tmp_path, pool) == expected


def test_what_is_nearer_comes_before_a_netrc(tmp_path: Path) -> None:
    write(tmp_path / ".netrc", NETRC)
    assert login(tmp_path, URL, APICAS_PASSWORD="nearer", APICAS_USERNAME="me") == ("me", "nearer")
    write(tmp_path / "apicas.toml", f'pool = "{URL}"\npassword = "file"\nusername = "me"')
    assert login(tmp_path) == ("me", "file")


def test_the_variable_names_another_netrc(tmp_path: Path) -> None:
    write(tmp_path / ".netrc", "machine couch.example login me password wrong")
    write(tmp_path / "mine", NETRC)
    assert login(tmp_path, URL, NETRC=str(tmp_path / "mine")) == ("me", SECRET)
    assert login(tmp_path, URL, NETRC=os.devnull) == (None, None)
    assert login(tmp_path, URL, NETRC=str(tmp_path / "none")) == (None, None)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604])
def test_a_netrc_that_others_can_use_is_refused_where_it_would_be_used(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / ".netrc", NETRC, mode)
    with pytest.raises(ConfigError, match=rf"run `chmod 600 {path}`\Z") as caught:
        found(tmp_path, URL)
    assert SECRET not in str(caught.value)
    assert login(tmp_path, "https://third.example/db") == (None, None)


def test_a_netrc_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(write(tmp_path / ".netrc", NETRC), monkeypatch)
    with pytest.raises(ConfigError, match="somebody else's"):
        found(tmp_path, URL)


@pytest.mark.parametrize("text", [f"machine couch.example password {SECRET} {SECRET}", "machine \xff"])
def test_a_netrc_that_means_nothing_is_one_line_without_its_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / ".netrc"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    if text.isascii():
        with pytest.raises(ConfigError, match="is no netrc, see line") as caught:
            found(tmp_path, URL)
        assert SECRET not in str(caught.value)
    else:
        with pytest.raises(ConfigError, match="is no netrc"):
            found(tmp_path, URL)


def test_a_shared_file_cannot_have_the_netrc_s_password_sent_in_the_open(tmp_path: Path) -> None:
    """A file in the directory, perhaps cloned from somewhere, may name a host that we have a password for."""
    write(tmp_path / ".netrc", NETRC)
    write(tmp_path / "apicas.toml", 'pool = "http://couch.example:8080/db"')
    assert login(tmp_path) == (None, None)
    assert login(tmp_path, "http://couch.example/db") == ("me", SECRET)
    write(tmp_path / "apicas.toml", f'pool = "{URL}"')
    assert login(tmp_path) == ("me", SECRET)


# Prompt. --------------------------------------------------------------------------------------------------------------


def test_nobody_is_asked_without_a_terminal(apicas: Program) -> None:
    result = apicas("status", "--pool", "http://me@127.0.0.1:9/db")
    assert result.code == 2
    assert "no password for 'me'" in result.error


def test_nobody_is_asked_where_tokens_come_in_by_a_pipe(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of them would be taken for the password, and shown."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda question: pytest.fail("somebody was asked"))
    result = apicas("push", "--pool", "http://me@127.0.0.1:9/db", stdin="a line\n")
    assert result.code == 2
    assert "no password for 'me'" in result.err


def test_a_prompt_shows_no_control_characters(apicas: Program, terminal: Start) -> None:  # noqa: F811
    """The name may come from a file that somebody else wrote, as in a cloned directory."""
    write(
        apicas.directory / "apicas.toml", 'pool = "http://127.0.0.1:9/db"\nusername = "me\\u001b]52;c;x\\u0007\\u202e"'
    )
    screen = terminal("status")
    screen.read_until("Password of ")
    screen.type("\x04")
    assert screen.finish() == 130
    assert "\x1b]52" not in screen.seen
    assert "\u202e" not in screen.seen
    assert "\\x1b]52" in screen.seen
