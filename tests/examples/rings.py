"""A keyring for programs that a test starts: a file that they all see."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Keeps passwords in the file that $APICAS_TEST_RING names."""

    priority = 1

    def _kept(self) -> dict[str, str]:
        path = Path(os.environ["APICAS_TEST_RING"])
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _keep(self, passwords: dict[str, str]) -> None:
        Path(os.environ["APICAS_TEST_RING"]).write_text(json.dumps(passwords))

    def get_password(self, service: str, username: str) -> str | None:
        return self._kept().get(f"{username}@{service}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._keep({**self._kept(), f"{username}@{service}": password})

    def delete_password(self, service: str, username: str) -> None:
        kept = self._kept()
        if kept.pop(f"{username}@{service}", None) is None:
            raise PasswordDeleteError
        self._keep(kept)
