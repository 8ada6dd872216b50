"""`apicas config`: what is configured, and where each value comes from."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from apicas._documents import decode
from apicas.configuration import KEYS, VARIABLES, configure
from apicas.configuration.editing import set_key
from apicas.exceptions import ConfigError
from tests.cli.program import Program

SECRET = "s3cr3t"


def user_file(apicas: Program) -> Path:
    return apicas.directory / "config" / "apicas" / "config.toml"


def shown(apicas: Program, *arguments: str) -> dict[str, Any]:
    result = apicas("config", "show", "--json", *arguments)
    assert result.code == 0, result.err
    found: dict[str, Any] = decode(result.out)
    return found


def test_each_value_comes_with_its_place_and_no_password(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    apicas.write("apicas.toml", 'pool = "https://h:1/db"\nlock_timeout = 30\n')
    user_file(apicas).parent.mkdir(parents=True)
    user_file(apicas).write_text('lock_timeout = 60\nforeign_lock_timeout = 5\nusername = "me"\n')
    monkeypatch.setenv("APICAS_USERNAME", "me")
    monkeypatch.setenv("APICAS_PASSWORD", SECRET)
    monkeypatch.setenv("APICAS_AUTH", "cookie")
    found = shown(apicas)
    assert found["pool"] == {"value": "https://h:1/db", "source": "apicas.toml"}
    assert found["lock_timeout"] == {"value": 30, "source": "apicas.toml"}
    assert found["foreign_lock_timeout"] == {"value": 5, "source": str(user_file(apicas))}
    assert found["auth"] == {"value": "cookie", "source": "the environment"}
    assert found["password"] == {"value": "(hidden)", "source": "the environment"}
    assert found["outbox"] == {"value": None, "source": "not set"}
    assert list(found) == list(KEYS)
    result = apicas("config", "show")
    assert SECRET not in result.out + result.err
    assert "lock_timeout         30" in result.out


def test_the_command_line_comes_first(apicas: Program) -> None:
    apicas.write("apicas.toml", 'pool = "sqlite:///other.db"\n')
    assert shown(apicas, "--pool", "sqlite:///x.db")["pool"] == {"value": "sqlite:///x.db", "source": "--pool"}
    assert shown(apicas)["pool"]["source"] == "apicas.toml"


def test_every_key_has_a_variable(tmp_path: Path) -> None:
    values = {
        "pool": "https://h/db",
        "username": "me",
        "password": SECRET,
        "lock_timeout": "12.5",
        "log_format": "json",
    }
    environ = {name: values.get(key, "60") for name, key in VARIABLES.items()}
    configuration = configure(environ=environ, directory=tmp_path, user_directory=tmp_path)
    assert set(configuration.origins.values()) == {"the environment"}
    assert set(configuration.origins) == set(KEYS)
    assert (configuration.lock_timeout, configuration.foreign_lock_timeout, configuration.outbox) == (12.5, 60, "60")


def test_a_word_that_is_none_of_the_choices_is_refused_wherever_it_stands(
    apicas: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "log_format must be text or json" in apicas("config", "set", "log_format", "xml").error
    apicas.write("apicas.toml", 'log_format = "xml"\n')
    assert "log_format must be text or json, and is 'xml'" in apicas("config", "show").error
    apicas.write("apicas.toml", 'log_format = "json"\n')
    assert shown(apicas)["log_format"] == {"value": "json", "source": "apicas.toml"}
    monkeypatch.setenv("APICAS_LOG_FORMAT", "xml")
    assert "$APICAS_LOG_FORMAT must be text or json" in apicas("config", "show").error


def test_keys_that_are_set_at_the_same_time_are_all_set(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    values = {"pool": "sqlite:///x.db", "username": "me", "auth": "basic", "lock_timeout": "30", "log_format": "json"}
    for _ in range(5):
        with ThreadPoolExecutor(5) as threads:
            list(threads.map(lambda key: set_key(path, key, values[key]), values))
        assert set(tomllib.loads(path.read_text())) == set(values)
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_log_format_of_a_file_holds_unless_an_option_says_another(apicas: Program) -> None:
    apicas.write("inputs.txt", "x\n")
    apicas.write("apicas.toml", 'log_format = "json"\n')
    assert apicas("push", "inputs.txt").code == 0
    asked = apicas("run", "-vv", "--", "true")
    assert '"logger":' in asked.err
    assert apicas("reset", "done").code == 0
    plain = apicas("run", "-vv", "--log-format", "text", "--", "true")
    assert " DEBUG " in plain.err
    assert '"logger":' not in plain.err


def test_variables_that_are_no_keys_are_shown_where_they_are_set(
    apicas: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APICAS_ZIPAPP_DIR", "/scratch")
    assert shown(apicas)["$APICAS_ZIPAPP_DIR"] == {"value": "/scratch", "source": "the environment"}


def test_a_variable_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$APICAS_LOCK_TIMEOUT must be a number of seconds, and is 'soon'"):
        configure(environ={"APICAS_LOCK_TIMEOUT": "soon"}, directory=tmp_path, user_directory=tmp_path)


def test_what_could_not_be_read_is_said(apicas: Program) -> None:
    apicas.write(
        "picasconfig.py",
        'PICAS_HOST_URL="https://h"\nPICAS_DATABASE="db"\nPICAS_USERNAME="me"\nPICAS_PASSWORD=input()\n',
    )
    result = apicas("config", "show")
    assert "PICAS_PASSWORD in line 4 is worked out by code, which apicas does not run" in result.error
    assert result.code == 0
    refused = apicas("status")
    assert (refused.code, "PICAS_PASSWORD in line 4" in refused.err, "no password for 'me'" in refused.err) == (
        2,
        True,
        True,
    )


def test_a_pool_that_only_picas_names_is_said(apicas: Program) -> None:
    """It may be one that others work on, and `apicas push` without a word fills it."""
    apicas.write("picasconfig.py", 'PICAS_HOST_URL="http://127.0.0.1:9"\nPICAS_DATABASE="db"\nPICAS_USERNAME="me"\n')
    told = "apicas: the pool is http://127.0.0.1:9/db, as picasconfig.py says"
    assert apicas("push", stdin="x\n").err.splitlines()[0] == told
    assert apicas("config", "set", "pool", "http://me@127.0.0.1:9/db").code == 0
    assert told not in apicas("push", stdin="x\n").err


def test_set_makes_a_file_for_its_owner_alone(apicas: Program) -> None:
    result = apicas("config", "set", "pool", "https://me@couch.example:6984/survey")
    assert (result.code, result.out) == (0, f"pool is set in {user_file(apicas)}\n"), result.err
    assert user_file(apicas).stat().st_mode & 0o777 == 0o600
    assert shown(apicas)["username"] == {"value": "me", "source": str(user_file(apicas))}


def test_set_changes_one_line_and_unset_takes_it_out(apicas: Program) -> None:
    text = '# mine\npool = "sqlite:///x.db"  # here\n\nlock_timeout = 30\n'
    path = apicas.write("apicas.toml", text)
    path.chmod(0o640)
    assert apicas("config", "set", "lock_timeout", "45", "--here").code == 0
    assert path.read_text() == text.replace("30", "45")
    assert path.stat().st_mode & 0o777 == 0o640
    assert apicas("config", "set", "auth", "cookie", "--here").code == 0
    assert path.read_text() == text.replace("30", "45") + 'auth = "cookie"\n'
    assert apicas("config", "unset", "lock_timeout", "--here").out == f"lock_timeout is no longer set in {path}\n"
    assert apicas("config", "unset", "lock_timeout", "--here").out == f"lock_timeout was not set in {path}\n"
    assert tomllib.loads(path.read_text()) == {"pool": "sqlite:///x.db", "auth": "cookie"}
    assert path.read_text().startswith("# mine\n")


@pytest.mark.parametrize("value", ['a"b', "a\\b", "ä€😀", "a'b # c", "tab\there"])
def test_any_text_is_written_as_it_is(apicas: Program, value: str) -> None:
    assert apicas("config", "set", "username", value).code == 0
    assert tomllib.loads(user_file(apicas).read_text()) == {"username": value}


def test_paths_are_those_of_where_they_were_typed(apicas: Program) -> None:
    assert apicas("config", "set", "outbox", "results").code == 0
    assert shown(apicas)["outbox"]["value"] == str(apicas.directory / "results")


def test_what_another_place_decides_is_said(apicas: Program) -> None:
    apicas.write("apicas.toml", "lock_timeout = 30\n")
    assert apicas("config", "set", "lock_timeout", "60").error == "apicas: lock_timeout of apicas.toml comes before it"
    assert apicas("config", "set", "lock_timeout", "60", "--here").err == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("set", "pol", "x"), "there is no key 'pol'"),
        (("set", "password", "x"), "`apicas passwd` asks for it"),
        (("set", "lock_timeout", "soon"), "must be a number"),
        (("set", "lock_timeout", "0"), "more than 0"),
        (("set", "lock_timeout", "nan"), "more than 0"),
        (("set", "auth", "magic"), "there are basic and cookie"),
        (("set", "pool", "here"), "no pool's address"),
        (("set", "pool", f"https://me:{SECRET}@h/db"), "can be read by everybody"),
        (("unset", "password"), "passwd"),
    ],
)
def test_what_makes_no_sense_is_refused(apicas: Program, arguments: tuple[str, ...], reason: str) -> None:
    result = apicas("config", *arguments)
    assert (result.code, reason in result.error) == (2, True), result.err
    assert SECRET not in result.err
    assert not user_file(apicas).exists()


@pytest.mark.parametrize("text", ["lock_timeout = \\\n", 'pool = """\nlock_timeout = 1\n"""\n', f"x = {SECRET}\n"])
def test_a_file_that_a_line_cannot_change_stays(apicas: Program, text: str) -> None:
    path = apicas.write("apicas.toml", text)
    result = apicas("config", "set", "lock_timeout", "60", "--here")
    assert (result.code, "edit it yourself" in result.error) == (2, True)
    assert SECRET not in result.err
    assert path.read_text() == text
    assert [each.name for each in apicas.directory.iterdir()] == ["apicas.toml"]


def test_a_link_is_followed_and_stays(apicas: Program) -> None:
    target = apicas.write("elsewhere.toml", "")
    (apicas.directory / "apicas.toml").symlink_to(target)
    assert apicas("config", "set", "lock_timeout", "60", "--here").code == 0
    assert (apicas.directory / "apicas.toml").is_symlink()
    assert target.read_text() == "lock_timeout = 60\n"


def test_path_says_where_files_are(apicas: Program) -> None:
    assert apicas("config", "path").out == f"{user_file(apicas)}\n"
    apicas.write("picasconfig.py", "")
    lines = apicas("config", "path", "--all").out.splitlines()
    assert f"there    {apicas.directory / 'picasconfig.py'}" in lines
    assert f"missing  {apicas.directory / '.config/picas/conf.yml'}" in lines


def test_config_alone_shows_its_commands(apicas: Program) -> None:
    result = apicas("config")
    assert (result.code, "Commands:" in result.err) == (2, True)
