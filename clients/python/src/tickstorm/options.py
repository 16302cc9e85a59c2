"""The options of a client: where to connect, as whom, and what to receive."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Tuple, Union

from ._frames import CLIENT_PAYLOAD_MAX
from ._messages import COOKIE_LEN_MAX, Auth
from ._version import VERSION
from .errors import CredentialsError
from .events import Mode

DEFAULT_PORT = 8080
_CLIENT_VERSION = f"tickstorm-python/{VERSION}"
_OWN_FIELDS_MAX = 64 + len(_CLIENT_VERSION) + 16
"""The bytes of AUTH besides the credentials and the cookie, at most: the version, the first 64
characters of an ASCII client id, and the fields' headers."""

AnyPath = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class TLS:
    """How to reach an edge over TLS 1.3. The default trusts the certificate authorities of the
    system, expects the host of the edge's address, and presents no certificate. Files are read
    again for each connection, so that renewed certificates are used."""

    ca_file: Optional[AnyPath] = None
    """A PEM file of authorities to trust instead of those of the system."""
    server_name: Optional[str] = None
    """The name, or IP address, to expect in the edge's certificate."""
    cert_file: Optional[AnyPath] = None
    """A PEM file with the certificate to present."""
    key_file: Optional[AnyPath] = None
    """A PEM file with the key of ``cert_file``. It must not be encrypted."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("tls: cert_file and key_file must be given together")

    def context(self) -> ssl.SSLContext:
        """Returns a context for one connection.

        Raises:
            OSError: a file can't be read, or is no PEM file of the kind that it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca_file is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(os.fspath(self.ca_file))
        if self.cert_file is not None and self.key_file is not None:
            # Without a password, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(
                os.fspath(self.cert_file), os.fspath(self.key_file), password=lambda: b""
            )
        return context


@dataclass(frozen=True)
class Address:
    """An edge's address."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parses ``host``, ``host:port`` or ``[IPv6]:port``."""
        host, colon, port = text.strip(), "", ""
        if host.startswith("["):
            host, bracket, rest = host[1:].partition("]")
            colon, port = rest[:1], rest[1:]
            if not bracket or (rest and colon != ":"):
                host = ""
        else:
            host, colon, port = host.partition(":")
        number = int(port) if port.isascii() and port.isdigit() else 0
        if not host or any(c.isspace() for c in host) or (colon and not 1 <= number <= 65_535):
            raise ValueError(
                f"address {text!r}: expected host, host:port or [IPv6 address]:port, with a port "
                "from 1 to 65535"
            )
        return cls(host, number if colon else DEFAULT_PORT)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """A user and a password, or a token. A file is read again before each AUTH."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    password_file: Optional[AnyPath] = None
    token_file: Optional[AnyPath] = None

    def load(self) -> Credentials:
        """Returns the credentials as they are now.

        Raises:
            CredentialsError: a file can't be read, or its content can't be used.
        """
        if self.password_file is not None:
            return Credentials(self.user, password=_read_secret("password", self.password_file))
        if self.token_file is not None:
            return Credentials(token=_read_secret("token", self.token_file))
        return self

    def auth(self, client_id: str, cookie: Optional[bytes]) -> Auth:
        """Returns AUTH with these credentials."""
        return Auth(
            username=self.user,
            password=self.password,
            client_id=client_id,
            client_version=_CLIENT_VERSION,
            token=self.token,
            cookie=cookie or b"",
        )

    def check_length(self) -> None:
        """Raises ValueError if AUTH would be longer than an edge accepts."""
        length = len(Auth(username=self.user, password=self.password, token=self.token).encode())
        most = CLIENT_PAYLOAD_MAX - COOKIE_LEN_MAX - _OWN_FIELDS_MAX
        if length > most:
            raise ValueError(f"the credentials have {length} bytes; at most {most} are allowed")


@dataclass(frozen=True)
class Options:
    """The checked options of a client."""

    addresses: Tuple[Address, ...]
    credentials: Credentials
    mode: Mode = Mode.SECOND
    resume_after_ms: Optional[int] = None
    ahead: bool = False
    exact_time: bool = False
    reconnect: bool = True
    moves: bool = True
    client_id: str = ""
    tls: Optional[TLS] = None


def make_options(
    addresses: Union[str, Sequence[str]],
    user: Optional[str],
    password: Optional[str],
    password_file: Optional[AnyPath],
    token: Optional[str],
    token_file: Optional[AnyPath],
    mode: Union[Mode, str],
    resume_after_ms: Optional[int],
    tls: Union[bool, TLS, None],
    client_id: str,
    **flags: bool,
) -> Options:
    """Checks the options of a client.

    Raises:
        ValueError: an option makes no sense. The message names what is allowed.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name}={flag!r}: expected True or False")
    if not isinstance(client_id, str) or not client_id.isascii() or len(client_id) > 64:
        raise ValueError(f"client_id={client_id!r}: expected at most 64 ASCII characters")
    return Options(
        addresses=_addresses(addresses),
        credentials=_credentials(user, password, password_file, token, token_file),
        mode=parse_mode(mode),
        resume_after_ms=check_epoch_ms("resume_after_ms", resume_after_ms),
        client_id=client_id,
        tls=_tls(tls),
        **flags,
    )


def parse_mode(mode: Union[Mode, str]) -> Mode:
    """Returns a mode that is given as such or by its name."""
    if isinstance(mode, Mode):
        return mode
    if isinstance(mode, str) and mode.upper() in Mode.__members__:
        return Mode[mode.upper()]
    raise ValueError(f'mode={mode!r}: expected Mode.SECOND, Mode.MINUTE, "second" or "minute"')


def check_epoch_ms(name: str, epoch_ms: Optional[int]) -> Optional[int]:
    """Returns a Unix time in milliseconds if it is one."""
    is_int = isinstance(epoch_ms, int) and not isinstance(epoch_ms, bool)
    if epoch_ms is not None and not (is_int and -(1 << 63) <= epoch_ms < 1 << 63):
        raise ValueError(
            f"{name}={epoch_ms!r}: expected a Unix time in milliseconds as an int, or None"
        )
    return epoch_ms


def _addresses(addresses: Union[str, Sequence[str]]) -> Tuple[Address, ...]:
    listed: List[str] = []
    if isinstance(addresses, str):
        listed = addresses.split(",")
    else:
        for each in addresses:
            if not isinstance(each, str):
                raise ValueError(f"address {each!r}: expected a string such as 'edge:8080'")
            listed.append(each)
    if not listed:
        raise ValueError("addresses: expected at least one address, such as 'edge:8080'")
    return tuple(Address.parse(each) for each in listed)


def _credentials(
    user: Optional[str],
    password: Optional[str],
    password_file: Optional[AnyPath],
    token: Optional[str],
    token_file: Optional[AnyPath],
) -> Credentials:
    secrets = {
        "password": password,
        "password_file": password_file,
        "token": token,
        "token_file": token_file,
    }
    given: List[str] = [name for name, value in secrets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            "expected exactly one of password, password_file, token and token_file, but got "
            + (" and ".join(given) or "none")
        )
    is_token = given[0].startswith("token")
    if is_token == (user is not None):
        raise ValueError(
            f"{given[0]} is used without user"
            if is_token
            else f"{given[0]} needs user, the name that belongs to it"
        )
    for name, text in (("user", user), ("password", password), ("token", token)):
        if text is not None and (not isinstance(text, str) or not text):
            raise ValueError(f"{name}: expected a string that is not empty")
    credentials = Credentials(user or "", password or "", token or "", password_file, token_file)
    credentials.check_length()
    return credentials


def _tls(tls: Any) -> Optional[TLS]:
    if tls is None or tls is False:
        return None
    if tls is True:
        tls = TLS()
    if not isinstance(tls, TLS):
        raise ValueError(f"tls={tls!r}: expected True, False or a tickstorm.TLS")
    try:
        tls.context()
    except OSError as error:
        raise ValueError(f"tls: can't use these files: {error}") from error
    return tls


def _read_secret(what: str, path: AnyPath) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise CredentialsError(f"can't read the {what} file {os.fspath(path)}: {error}") from error
    if not secret:
        raise CredentialsError(f"the {what} file {os.fspath(path)} is empty")
    return secret
