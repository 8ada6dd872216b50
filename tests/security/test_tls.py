"""A server shows a certificate for its own name, by somebody we trust, or hears nothing from us."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import signature
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from apicas.clients.couch import CouchClient
from apicas.clients.couch.failures import translated
from apicas.configuration import configure
from apicas.exceptions import ConfigError, PoolUnavailableError
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


def issued(
    directory: Path, *, name: str = "127.0.0.1", days: tuple[int, int] = (-1, 1), can_sign: bool = True
) -> tuple[Path, Path, Path]:
    """An authority's certificate, and a server's by it with its key.

    Args:
        directory: where the files go.
        name: the address that the server's is for.
        days: from when until when it is valid, counted from now.
        can_sign: whether the authority's says what its key is for, without which newer versions of Python refuse it.
    """
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority, server = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("Survey CA", name))
    usage = dict.fromkeys(signature(x509.KeyUsage).parameters, False)
    own = x509.CertificateBuilder().subject_name(authority).issuer_name(authority).public_key(keys[0].public_key())
    own = own.serial_number(1).not_valid_before(now - timedelta(days=9)).not_valid_after(now + timedelta(days=9))
    own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if can_sign:
        own = own.add_extension(x509.KeyUsage(**{**usage, "key_cert_sign": True}), critical=True)
    own = own.add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key()), critical=False)
    theirs = x509.CertificateBuilder().subject_name(server).issuer_name(authority).public_key(keys[1].public_key())
    begin, end = (now + timedelta(days=number) for number in days)
    theirs = theirs.serial_number(2).not_valid_before(begin).not_valid_after(end)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))])
    theirs = theirs.add_extension(names, critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    theirs = theirs.add_extension(identifier, critical=False)
    paths = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
    for path, made in zip(paths, (own, theirs), strict=False):
        path.write_bytes(made.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    paths[2].write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


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


async def test_an_authority_of_one_s_own_lets_in(tmp_path: Path) -> None:
    authority, *certificate = issued(tmp_path)
    async with playing(serving((certificate[0], certificate[1]))) as script, pool(script, ca_file=authority):
        assert script.seen


@pytest.mark.parametrize(
    ("days", "name", "said"),
    [
        ((-2, -1), "127.0.0.1", "certificate has expired; who runs the server has to renew it"),
        ((1, 2), "127.0.0.1", "not valid yet: is the clock of this machine right"),
        ((-1, 1), "127.0.0.2", "the address has to have a name that the certificate is for"),
    ],
)
async def test_why_a_certificate_is_not_believed_is_said(
    tmp_path: Path, days: tuple[int, int], name: str, said: str
) -> None:
    """In one line, and without naming a setting that would not help."""
    authority, *certificate = issued(tmp_path, days=days, name=name)
    async with playing(serving((certificate[0], certificate[1]))) as script:
        with pytest.raises(ConfigError, match=said) as refused:
            await pool(script, ca_file=authority).open()
    assert not script.seen
    assert "ca_file" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_whose_certificates_to_trust_is_said_to_be_set(apicas: Program, tmp_path: Path) -> None:
    _, *certificate = issued(tmp_path)
    async with playing(serving((certificate[0], certificate[1]))) as script:
        told = await asyncio.to_thread(apicas, "doctor", "--pool", f"{script.url}/pool")
    assert not script.seen
    assert told.code == 2
    assert "`apicas config set ca_file FILE` names whose to trust" in told.out
    assert "unable to get local issuer certificate" in told.out


async def test_an_authority_that_does_not_say_that_it_signs_is_named_as_the_reason(tmp_path: Path) -> None:
    """Python 3.13 and later ask for it, with the context that everybody uses; the ones before do not."""
    authority, *certificate = issued(tmp_path, can_sign=False)
    async with playing(serving((certificate[0], certificate[1]))) as script:
        if ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT:
            with pytest.raises(ConfigError, match="key usage"):
                await pool(script, ca_file=authority).open()
        else:
            async with pool(script, ca_file=authority):
                assert script.seen


async def test_an_http_address_at_a_port_for_https_is_told_at_once(certificates: Certificates) -> None:
    """What a server of TLS answers to a request in the open is an alert, which is no reason to try again."""

    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"\x15\x03\x01\x00\x02\x02\x0a")
        writer.close()

    requests: list[bytes] = []
    server = await asyncio.start_server(alert, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match="speaks https on that port, write https://"):
            await CouchClient(f"http://127.0.0.1:{port}", "pool", "me", "s3cr3t").open()
    assert len(requests) == 1


def test_a_port_that_hears_tls_and_says_nothing_may_speak_http() -> None:
    """CouchDB's own does so, and nobody connects within the time for it."""
    for address, hint in (("https://couch.example/pool", True), ("http://couch.example/pool", False)):
        with pytest.raises(PoolUnavailableError, match="timed out") as error, translated(address, ConfigError):
            raise aiohttp.ConnectionTimeoutError
        assert ("speaks http only" in str(error.value)) is hint
