"""What the environment says: `$APICAS_POOL` and so on, and where other things are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apicas._netrc import netrc_path
from apicas._secrets import Secret
from apicas.configuration.keys import EARLY_VARIABLES, LOGIN_KEYS, VARIABLES, value_of
from apicas.configuration.sources import Source, make_source

NAME: Final = "the environment"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is taken from the environment, before anything can raise: the environment holds secrets.

    Args:
        variables: the values of `$APICAS_*`, by key.
        home: the user's home directory; None where that is not known.
        netrc: the user's netrc; None where there is none to look for.
        lookup: the value of another variable.
    """

    variables: Mapping[str, Secret]
    home: Path | None
    netrc: Path | None
    lookup: Callable[[str], str | None]


def surroundings(environ: Mapping[str, str] | None) -> Surroundings:
    """What is taken from an environment; None for this process's."""
    values = os.environ if environ is None else environ
    home = values.get("HOME")
    return Surroundings(
        variables={key: Secret(values[name]) for name, key in VARIABLES.items() if values.get(name)},
        home=Path(home) if home else None,
        netrc=netrc_path(values),
        # Not the method itself, whose repr shows all of the environment.
        lookup=lambda name: values.get(name),  # noqa: PLW0108
    )


def early() -> dict[str, str]:
    """The variables that are set of those that were read before all else."""
    return {name: os.environ[name] for name in EARLY_VARIABLES if os.environ.get(name)}


def source_of(variables: Mapping[str, Secret]) -> Source:
    """What the variables say.

    Raises:
        ConfigError: one of them cannot be what it should be.
    """
    texts = {key: value for key, value in variables.items() if key in LOGIN_KEYS}
    settings = {
        key: value_of(key, value.reveal(), f"$APICAS_{key.upper()}")
        for key, value in variables.items()
        if key not in LOGIN_KEYS
    }
    return make_source(NAME, texts, settings)
