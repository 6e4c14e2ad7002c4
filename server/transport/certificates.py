"""TLS files: read, and checked here, since gRPC says nothing of what is wrong with them."""

import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from gatestream.files.reading import read
from gatestream.server.errors import ConfigError

_LARGEST: Final = 2**24  # bytes; all authorities of a system are less than 2**18
# OpenSSL would refuse keys that gRPC takes.
_CIPHERS: Final = "DEFAULT:@SECLEVEL=0"
# X509_V_FLAG_NO_CHECK_TIME, which Python has no name for.
_ANY_TIME: Final = 0x200000
_SOON: Final = timedelta(days=30)
_READABLE_FORM: Final = "%b %d %H:%M:%S %Y %Z"


class Pair(NamedTuple):
    """A certificate chain and its private key, as their files have them: PEM."""

    chain: bytes
    key: bytes


def read_pair(chain: Path, key: Path, names: tuple[str, str] = ("tls_cert", "tls_key")) -> Pair:
    """Read a certificate chain and its key.

    Args:
        chain: file of the one,
        key: and of the other.
        names: of the settings that name them.

    Raises:
        ConfigError: it names the file and what is wrong: it cannot be read, is not PEM, the key is not the
            certificate's, or has a passphrase.
    """
    chain_bytes = _read(chain, names[0])
    key_bytes = _read(key, names[1])
    _certificates(chain_bytes, chain, names[0])
    if b"PRIVATE KEY-----" not in key_bytes:
        raise ConfigError(f"{names[1]}: {key} holds no private key in PEM")
    if b"ENCRYPTED" in key_bytes:
        raise ConfigError(f"{names[1]}: {key} has a passphrase; expected a key without one")
    try:
        _context(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{names[1]}: {key} is not the key of the certificate in {chain}") from error
        raise ConfigError(f"{names[0]}, {names[1]}: {chain} and {key} are of no use for TLS: {error}") from error
    if (chain_bytes, key_bytes) != (_read(chain, names[0]), _read(key, names[1])):
        raise ConfigError(f"{names[0]}, {names[1]}: {chain} or {key} changed while it was read")
    return Pair(chain_bytes, key_bytes)


def read_authorities(path: Path, name: str) -> bytes:
    """Read the certificates of those whom to trust.

    Args:
        path: of a PEM file.
        name: of the setting that names it.

    Raises:
        ConfigError: it names the file and what is wrong: it cannot be read, or holds no certificate in PEM.
    """
    found = _read(path, name)
    _certificates(found, path, name)
    return found


def concern(chain: Path, key: Path, now: datetime) -> str:
    """Why clients refuse a certificate, or soon will; empty: they have no reason to.

    Args:
        chain: file of the certificate,
        key: and of its key, as `read_pair` takes them.
        now: the time, in UTC.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    try:
        shown = _shown(context, _ascii(chain.read_bytes()))
    except ssl.SSLError as error:
        return f"clients will refuse it: {getattr(error, 'verify_message', error)}"
    begins, ends = (
        datetime.strptime(str(shown[name]), _READABLE_FORM).replace(tzinfo=UTC) for name in ("notBefore", "notAfter")
    )
    if now < begins:
        return f"it is not valid before {begins:%Y-%m-%d %H:%M} UTC"
    if ends < now:
        return f"it expired on {ends:%Y-%m-%d %H:%M} UTC"
    return f"it expires on {ends:%Y-%m-%d %H:%M} UTC" if ends - now < _SOON else ""


def _shown(context: ssl.SSLContext, chain: str) -> dict[str, Any]:
    """A server's certificate as a client that trusts it, and no clock, is shown it in a handshake."""
    trusting = _context(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _ANY_TIME
    trusting.load_verify_locations(cadata=chain)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = client.getpeercert()
    assert shown is not None, "the handshake is over"
    return shown


def _read(path: Path, name: str) -> bytes:
    try:
        return read(path, _LARGEST)
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read: {error.strerror}") from error


def _certificates(found: bytes, path: Path, name: str) -> None:
    try:
        _context(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_ascii(found))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{name}: {path} holds no certificate in PEM") from error


def _ascii(found: bytes) -> str:
    # Around the certificates may stand whose they are, in any words.
    return found.decode("ascii", "ignore")


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.set_ciphers(_CIPHERS)
    return context
