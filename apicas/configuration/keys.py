"""What can be configured: the keys of the files, and the variables of the environment that mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from apicas.exceptions import ConfigError

DEFAULT_POOL: Final = "sqlite:///apicas.db"
FILE_NAME: Final = "apicas.toml"
USER_FILE_NAME: Final = "config.toml"

PICAS_CONF: Final = ".config/picas/conf.yml"
"""In the home directory; PiCaS looks nowhere else."""
PICAS_MODULE: Final = "picasconfig.py"

NUMBER: Final = (int, float)
KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "pool": str,
    "username": str,
    "password": str,
    "auth": str,
    "ca_file": str,
    "lock_timeout": NUMBER,
    "foreign_lock_timeout": NUMBER,
    "outbox": str,
    "log_format": str,
}
"""The keys of a file, with the type of each."""
VARIABLES: Final[Mapping[str, str]] = {f"APICAS_{key.upper()}": key for key in KEYS}
"""The variables of the environment, each with the key that it stands for."""
EARLY_VARIABLES: Final[Mapping[str, str]] = {
    "APICAS_ZIPAPP_DIR": "the directory into which the zipapp unpacks itself",
    "APICAS_ZIPAPP_PORTABLE": "the zipapp does not use its compiled parts",
}
"""Variables that are read before there is anything to read a file with, so they are no keys; and what they mean."""
GIVEN_VARIABLES: Final[tuple[str, ...]] = (
    "APICAS_TOKEN_ID",
    "APICAS_ATTEMPT",
    "APICAS_SUBMIT_DIR",
    "APICAS_PROGRESS",
    "APICAS_MARK",
    "APICAS_FIELD_",
    "APICAS_ARGUMENT_",
)
"""Variables that a pilot sets for the commands and processes that it starts; nobody configures them."""
LOGIN_KEYS: Final[tuple[str, ...]] = ("pool", "username", "password")
"""What is read as a secret: an address may hold a password."""
PATH_KEYS: Final[tuple[str, ...]] = ("ca_file", "outbox")
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"log_format": ("text", "json")}
"""The keys that can only be one of a few words."""


def complaint_about(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the keys and values of a file; None for nothing."""
    for name, value in values.items():
        if name not in KEYS:
            return f"there is no key {name!r}; there are {', '.join(KEYS)}"
        if not isinstance(value, KEYS[name]) or isinstance(value, bool):
            return f"{name} must be {'a number' if KEYS[name] is NUMBER else 'a string'}"
        if value not in CHOICES.get(name, (value,)):
            return f"{name} must be {' or '.join(CHOICES[name])}, and is {value!r}"
    return None


def value_of(key: str, text: str, what: str) -> Any:
    """A setting that was written as a text.

    Args:
        key: one of KEYS.
        text: what was written.
        what: where, for the message.

    Raises:
        ConfigError: it must be a number, and is none; or one of a few words, and is another.
    """
    if text not in CHOICES.get(key, (text,)):
        raise ConfigError(f"{what} must be {' or '.join(CHOICES[key])}, and is {text!r}")
    if KEYS[key] is not NUMBER:
        return text
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{what} must be a number of seconds, and is {text!r}") from None
    return int(number) if number.is_integer() else number
