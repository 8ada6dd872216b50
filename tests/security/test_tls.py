"""A server shows a certificate for its own name, by somebody we trust, or hears nothing from us."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from apicas.clients.couch import CouchClient
from apicas.configuration import configure
from apicas.exceptions import ConfigError
from tests.cli.program import Program
from tests.integration.scripted import Script, playing

Certificates = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Makes a certificate that signs itself, for a name such as `IP:127.0.0.1`, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")

    def make(name: str, *more: str) -> tuple[Path, Path]:
        directory = tmp_path_factory.mktemp("tls")
        certificate, key = directory / "cert.pem", directory / "key.pem"
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={name}"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        return certificate, key

    return make


def serving(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def pool(script: Script, **options: object) -> CouchClient:
    return CouchClient(script.url, "pool", "me", "s3cr3t", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("auth", ["basic", "cookie"])
async def test_a_stranger_s_certificate_is_refused_before_anything_is_sent(
    certificates: Certificates, auth: str
) -> None:
    async with playing(serving(certificates("IP:127.0.0.1"))) as script:
        with pytest.raises(ConfigError, match="no trusted connection"):
            await pool(script, auth=auth).open()
    assert not script.seen


async def test_the_right_ca_file_lets_in(certificates: Certificates) -> None:
    certificate = certificates("IP:127.0.0.1")
    async with playing(serving(certificate)) as script, pool(script, ca_file=certificate[0]) as client:
        assert not client.replicated
    assert script.seen


@pytest.mark.parametrize("name", ["IP:127.0.0.2", "DNS:couch.example", "DNS:127.0.0.1.couch.example"])
async def test_a_trusted_certificate_for_another_name_is_refused(certificates: Certificates, name: str) -> None:
    certificate = certificates(name)
    async with playing(serving(certificate)) as script:
        with pytest.raises(ConfigError, match="no trusted connection"):
            await pool(script, ca_file=certificate[0]).open()
    assert not script.seen


async def test_the_wrong_ca_file_does_not_let_in(certificates: Certificates) -> None:
    """It is trusted instead of the system's, and not beside what the server says of itself."""
    async with playing(serving(certificates("IP:127.0.0.1"))) as script:
        with pytest.raises(ConfigError, match="no trusted connection"):
            await pool(script, ca_file=certificates("IP:127.0.0.1")[0]).open()
    assert not script.seen


async def test_the_configuration_s_ca_file_is_the_one_that_counts(certificates: Certificates, tmp_path: Path) -> None:
    certificate = certificates("IP:127.0.0.1")
    (tmp_path / "apicas.toml").write_text(f'ca_file = "{certificate[0]}"')
    async with playing(serving(certificate)) as script:
        environ = {"APICAS_POOL": f"{script.url}/pool", "APICAS_USERNAME": "me", "APICAS_PASSWORD": "s3cr3t"}
        for directory, is_trusted in ((tmp_path, True), (tmp_path / "elsewhere", False)):
            client = configure(environ=environ, directory=directory, user_directory=tmp_path / "user").connect()
            if is_trusted:
                async with client:
                    script.seen.pop()
            else:
                with pytest.raises(ConfigError, match="no trusted connection"):
                    await client.open()
    assert not script.seen


async def test_what_is_not_verified_is_said_aloud(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    async with playing(serving(certificates("IP:127.0.0.1"))) as script, pool(script, verify=False):
        assert script.seen
    (record, *_) = [record for record in caplog.records if record.name.startswith("apicas.")]
    assert record.levelno == logging.WARNING
    assert "certificate is not checked" in record.message


@pytest.mark.parametrize("line", ["verify = false", "insecure = true", "ca_file = false"])
def test_no_file_and_no_option_turns_verification_off(apicas: Program, line: str) -> None:
    apicas.write("apicas.toml", line)
    assert apicas("status").code == 2
    (apicas.directory / "apicas.toml").unlink()
    assert apicas("status", "--no-verify").code == 2
    assert apicas("status", "--insecure").code == 2


@pytest.mark.parametrize("environment", ["PYTHONHTTPSVERIFY", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_nothing_in_the_environment_turns_verification_off(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setenv(environment, "0")
    async with playing(serving(certificates("IP:127.0.0.1"))) as script:
        with pytest.raises(ConfigError, match="no trusted connection"):
            await pool(script).open()


async def test_a_server_without_tls_gets_nothing_from_an_https_address() -> None:
    """Nor does the client try it in the open then."""
    async with playing() as script:
        script.url = script.url.replace("http:", "https:")
        with pytest.raises(ConfigError, match="no trusted connection"):
            await pool(script).open()
    assert not script.seen
