"""Where the pool and the password come from, and who gets to see the password."""

from __future__ import annotations

from pathlib import Path

import pytest

from apicas.configuration import Configuration, configure
from apicas.exceptions import ConfigError

SECRET = "s3cr3t"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def found(tmp_path: Path, pool: str | None = None, **environ: str) -> Configuration:
    return configure(pool, environ=environ, directory=tmp_path, user_directory=tmp_path / "user")


def test_the_nearest_place_decides(tmp_path: Path) -> None:
    seen = [found(tmp_path)]
    write(tmp_path / "user" / "config.toml", 'pool = "sqlite:///user.db"\nlock_timeout = 30')
    seen.append(found(tmp_path))
    write(tmp_path / "apicas.toml", 'pool = "sqlite:///directory.db"')
    seen.append(found(tmp_path))
    seen.append(found(tmp_path, APICAS_POOL="sqlite:///environment.db"))
    seen.append(found(tmp_path, "sqlite:///option.db", APICAS_POOL="sqlite:///environment.db"))
    names = ["apicas", "user", "directory", "environment", "option"]
    assert [configuration.pool for configuration in seen] == [f"sqlite:///{name}.db" for name in names]
    assert [configuration.lock_timeout for configuration in seen] == [None, 30, 30, 30, 30]
    assert seen[0].source == "the default"
    assert seen[2].source.endswith("apicas.toml")


@pytest.mark.parametrize(
    ("pool", "environ", "login"),
    [
        ("https://h/db", {}, (None, None)),
        ("https://me@h/db", {}, ("me", None)),
        ("https://me@h/db", {"APICAS_PASSWORD": SECRET}, ("me", SECRET)),
        ("https://h/db", {"APICAS_USERNAME": "me", "APICAS_PASSWORD": SECRET}, ("me", SECRET)),
        ("https://me@h/db", {"APICAS_USERNAME": "other", "APICAS_PASSWORD": SECRET}, ("me", None)),
        (None, {"APICAS_POOL": f"https://me:{SECRET}@h/db"}, ("me", SECRET)),
        (None, {"APICAS_POOL": "https://m%40e:a%2Fb@h/db"}, ("m@e", "a/b")),
        (None, {"APICAS_POOL": "https://me:old@h/db", "APICAS_PASSWORD": SECRET}, ("me", SECRET)),
        ("sqlite:///x.db", {"APICAS_USERNAME": "me", "APICAS_PASSWORD": SECRET}, (None, None)),
    ],
)
def test_name_and_password_from_the_address_and_the_environment(
    tmp_path: Path, pool: str | None, environ: dict[str, str], login: tuple[str | None, str | None]
) -> None:
    configuration = found(tmp_path, pool, **environ)
    assert (configuration.username, configuration.password) == login
    assert "@" not in configuration.pool
    assert SECRET not in repr(configuration)


def test_a_directory_that_cannot_be_looked_into_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    """Such as that of another user, whose $HOME a program was started with."""
    unusable = tmp_path / ("x" * 300)
    with pytest.raises(ConfigError, match=r"config\.toml: .*\$HOME and \$XDG_CONFIG_HOME say where yours is"):
        configure(environ={}, directory=tmp_path, user_directory=unusable)
    with pytest.raises(ConfigError, match=r"conf\.yml: .*\$HOME"):
        configure(environ={"HOME": str(unusable)}, directory=tmp_path, user_directory=tmp_path)


def test_a_file_s_password_goes_to_that_file_s_server_only(tmp_path: Path) -> None:
    write(tmp_path / "user" / "config.toml", f'pool = "https://h:6984/db"\nusername = "me"\npassword = "{SECRET}"')
    assert found(tmp_path).password == SECRET
    assert found(tmp_path, "https://h:6984/another").password == SECRET
    assert found(tmp_path, "https://h:6985/db").password is None
    write(tmp_path / "apicas.toml", 'pool = "https://evil/db"')
    assert found(tmp_path).username is None
    assert found(tmp_path).password is None


def test_a_password_without_a_pool_is_for_the_pool_that_the_user_names(tmp_path: Path) -> None:
    write(tmp_path / "user" / "config.toml", f'username = "me"\npassword = "{SECRET}"')
    assert found(tmp_path, "https://h/db").password == SECRET
    assert found(tmp_path, "https://me@h/db").password == SECRET
    assert found(tmp_path, "https://you@h/db").password is None
    assert found(tmp_path, APICAS_POOL="https://h/db").password == SECRET
    write(tmp_path / "apicas.toml", 'pool = "https://evil/db"')
    assert found(tmp_path).password is None


@pytest.mark.parametrize("text", [f'password = "{SECRET}"', f'pool = "https://me:{SECRET}@h/db"'])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_password_that_others_can_read_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    write(tmp_path / "apicas.toml", text, mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)


def test_a_file_without_a_password_may_be_read_by_all(tmp_path: Path) -> None:
    write(tmp_path / "apicas.toml", 'pool = "https://me@h/db"', 0o644)
    assert found(tmp_path).username == "me"


@pytest.mark.parametrize(
    "pool", [f"https://me:{SECRET}@h/db", f"http://:{SECRET}@h/db", f"HTTPS://me:{SECRET}/#x@h/db"]
)
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, pool: str) -> None:
    with pytest.raises(ConfigError, match="APICAS_PASSWORD") as caught:
        found(tmp_path, pool)
    assert SECRET not in str(caught.value)


def test_an_address_that_cannot_be_read_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="%2F") as caught:
        found(tmp_path, APICAS_POOL=f"https://me:{SECRET}/x@h/db")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('pol = "x"', "there is no key 'pol'"),
        ("pool = 5", "pool must be a string"),
        ('lock_timeout = "5"', "lock_timeout must be a number"),
        ("lock_timeout = true", "lock_timeout must be a number"),
        (f"\npassword = {SECRET}", "is no TOML, see line 2"),
    ],
)
def test_a_file_that_means_nothing_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path / "apicas.toml", text)
    with pytest.raises(ConfigError, match=reason) as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)


def test_a_relative_ca_file_is_beside_its_configuration(tmp_path: Path) -> None:
    write(tmp_path / "user" / "config.toml", 'ca_file = "ca.pem"')
    assert found(tmp_path, "https://h/db").ca_file == str(tmp_path / "user" / "ca.pem")


def test_a_client_gets_all_of_it(tmp_path: Path) -> None:
    configuration = found(tmp_path, "https://me@h:1/db", APICAS_PASSWORD=SECRET)
    client = configuration.connect()
    assert "h:1/db" in client.address
    assert SECRET not in repr(client)
