#!/usr/bin/env python3
"""Prints the tables in docs/security.md: what anyone can see of an edge's TLS.

    python3 docs/security-table.py target/release/tickstorm-edge

It needs Python 3.10 and the program openssl, 3.0 or later. It makes its own certificates, starts
edges on free ports of 127.0.0.1, and tries to connect to them in every way that the tables list.
"""

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The names of alerts in RFC 8446.
ALERTS = {
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    116: "certificate_required",
    120: "no_application_protocol",
}

# The time limit for everything that should take milliseconds.
PATIENCE_S = 60

# Allows OpenSSL to offer old versions of TLS, which its default security level forbids.
OLD = ["-cipher", "DEFAULT:@SECLEVEL=0"]

SUITES = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
]

GROUPS = ["X25519", "P-256", "P-384", "P-521", "X448", "ffdhe2048", "ffdhe3072"]

SIGNATURES = [
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ed25519",
    "rsa_pss_rsae_sha256",
]


def openssl(*arguments, cwd=None, stdin=b""):
    """Runs openssl and returns its exit code and everything that it printed."""
    ran = subprocess.run(
        ["openssl", *arguments],
        cwd=cwd,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
    )
    return ran.returncode, ran.stdout.decode(errors="replace")


def make(directory, *arguments):
    """Runs openssl, which must succeed."""
    code, printed = openssl(*arguments, cwd=directory)
    if code != 0:
        sys.exit(f"openssl {' '.join(arguments)} failed:\n{printed}")


class Authority:
    """A certificate authority in a directory, made with `openssl ca`."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        (directory / "index").touch()
        (directory / "crlnumber").write_text("01\n")
        (directory / "config").write_text(
            "[ca]\ndefault_ca = ours\n[ours]\ndatabase = index\nnew_certs_dir = .\n"
            "crlnumber = crlnumber\n"
            "certificate = ca.pem\nprivate_key = ca.key\nrand_serial = yes\ndefault_md = sha256\n"
            "policy = anything\nunique_subject = no\n[anything]\ncommonName = supplied\n"
            "[edge]\nsubjectAltName = DNS:edge.example\nbasicConstraints = CA:FALSE\n"
            "extendedKeyUsage = serverAuth\n"
            "[client]\nextendedKeyUsage = clientAuth\nbasicConstraints = CA:FALSE\n"
        )
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self.key = ec
        subject = ["-subj", f"/CN={directory.name}"]
        make(directory, "req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", *subject)

    def path(self, name):
        return str(self.directory / name)

    def issue(self, name, kind, *validity):
        """Issues NAME.crt with its key NAME.key."""
        files = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
        make(self.directory, "req", *self.key, *files, "-subj", f"/CN={name}")
        names = ["-in", f"{name}.csr", "-out", f"{name}.crt", "-extensions", kind]
        validity = validity or ("-days", "30")
        make(self.directory, "ca", "-config", "config", "-batch", "-notext", *names, *validity)

    def revoke(self, name):
        make(self.directory, "ca", "-config", "config", "-revoke", f"{name}.crt")

    def write_list(self, name, *validity):
        make(self.directory, "ca", "-config", "config", "-gencrl", "-out", name, *validity)


class Edge:
    """A running edge, and the authority that clients must trust."""

    def __init__(self, program, authority, **settings):
        self.authority = authority
        files = {"CERT_FILE": "edge.crt", "KEY_FILE": "edge.key"}
        files = {name: authority.path(file) for name, file in files.items()}
        environment = {
            "ADMIN_ADDR": "127.0.0.1:0",
            "LISTEN_ADDR": "127.0.0.1:0",
            "LOG_LEVEL": "error",
            # Nothing listens there: a handshake needs no NATS.
            "NATS_URL": "nats://127.0.0.1:1",
            "STREAM_USER": "ada",
            "STREAM_PASS": "secret",
            "TLS_ENABLED": "true",
            **{f"TLS_{name}": file for name, file in files.items()},
            **{f"ADMIN_TLS_{name}": file for name, file in files.items()},
            "DRAIN_DELAY": "0s",
            "DRAIN_TIMEOUT": "0s",
            **settings,
        }
        self.process = subprocess.Popen(
            [program], env=environment, stdout=subprocess.PIPE, text=True
        )
        self.ports = {}
        while len(self.ports) < 2:
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"{program} ended instead of listening")
            name, address = line.split()
            self.ports[name] = re.search(r"127\.0\.0\.1:\d+", address)[0]

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def connect(self, port, *options, stdin=b""):
        """Connects with `openssl s_client`."""
        trusted = ["-CAfile", self.authority.path("ca.pem"), "-verify_return_error"]
        # The name is that of the certificate, as for a client that looked it up.
        name = ["-servername", "edge.example", "-verify_hostname", "edge.example"]
        target = ["-connect", self.ports[port], *name]
        return openssl("s_client", *target, *trusted, *options, stdin=stdin)

    def outcome(self, port, *options, stdin=b""):
        """Says whether a handshake with these options is accepted."""
        code, printed = self.connect(port, *options, stdin=stdin)
        alert = re.search(r"SSL alert number (\d+)", printed)
        if alert:
            return refusal(int(alert[1]))
        if code == 0 and "Verify return code: 0 (ok)" in printed:
            return "accepted"
        sys.exit(f"openssl s_client {' '.join(options)} failed without an alert:\n{printed}")

    def dialogue(self, port, *options):
        """Sends a request that ends the connection, and returns all that openssl printed. Whatever
        the server sends by itself after the handshake arrives before its answer."""
        request = b"GET /health HTTP/1.0\r\n\r\n".ljust(64, b"\n")
        return self.connect(port, "-tls1_3", "-ign_eof", *options, stdin=request)[1]


def refusal(number):
    return f"refused: alert {number}, {ALERTS[number]}"


def fact(text, **answers):
    """Returns the answer whose pattern occurs in the text; exactly one must."""
    found = [answer for answer, pattern in answers.items() if re.search(pattern, text)]
    if len(found) != 1:
        sys.exit(f"expected one of {answers}, found {found} in:\n{text}")
    return found[0].replace("_", " ")


def first_suite(edge, port, suites):
    printed = edge.dialogue(port, "-ciphersuites", ":".join(suites))
    return re.search(r"Cipher is (TLS_\w+)", printed)[1]


def order(edge, port):
    two = SUITES[:2]
    chosen = [first_suite(edge, port, suites) for suites in (two, two[::-1])]
    if chosen == [two[0], two[1]]:
        return "the one that the client lists first"
    return " or ".join(f"`{suite}`" for suite in dict.fromkeys(chosen))


def plain_text(edge, port):
    """Sends an HTTP request without TLS."""
    host, number = edge.ports[port].split(":")
    with socket.create_connection((host, int(number)), timeout=PATIENCE_S) as stream:
        stream.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := stream.recv(4_096):
            answer += chunk
    if answer[:1] == b"\x15":
        return refusal(answer[6])
    status = answer.split(b"\r\n", 1)[0].decode()
    return f"refused: `{status}`"


def early_data(edge, port, session):
    """Offers to resume a session of another server, and sends early data."""
    data = session.with_name("early")
    data.write_bytes(b"early")
    options = ["-sess_in", str(session), "-early_data", str(data)]
    printed = edge.dialogue(port, *options)
    resumed = fact(printed, not_resumed=r"New, TLSv1\.3", resumed=r"Reused, TLSv1\.3")
    early = fact(printed, rejected="Early data was rejected", accepted="Early data was accepted")
    return f"{resumed}, early data {early}"


def foreign_session(authority):
    """Returns a session, with permission for early data, of a server of openssl's own."""
    session = authority.directory / "session"
    files = ["-cert", authority.path("edge.crt"), "-key", authority.path("edge.key")]
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-rev", *files]
        + ["-max_early_data", "16384"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in server.stdout:
            found = re.match(r"ACCEPT .*:(\d+)", line)
            if found:
                break
        else:
            sys.exit("openssl s_server does not listen")
        client = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{found[1]}", "-tls1_3"]
            + ["-servername", "edge.example", "-sess_out", str(session)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while not (session.exists() and session.stat().st_size):
            if time.monotonic() > deadline:
                sys.exit("openssl s_server sent no session ticket")
            time.sleep(0.05)
        client.kill()
        client.wait()
    finally:
        server.kill()
        server.wait()
    return session


def table(head, rows):
    """Prints a table in Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_handshakes(edge, session):
    """Prints what a client sees that has no certificate."""
    tries = [
        ("No TLS: an HTTP request", lambda port: plain_text(edge, port)),
        ("TLS 1.0", lambda port: edge.outcome(port, "-tls1", *OLD)),
        ("TLS 1.1", lambda port: edge.outcome(port, "-tls1_1", *OLD)),
        ("TLS 1.2", lambda port: edge.outcome(port, "-tls1_2")),
        ("TLS 1.3", lambda port: edge.outcome(port, "-tls1_3")),
    ]

    def add(label, *options):
        tries.append((label, lambda port: edge.outcome(port, "-tls1_3", *options)))

    for suite in SUITES:
        add(f"Suite `{suite}`", "-ciphersuites", suite)
    tries.append(("Both suites: chosen", lambda port: order(edge, port)))
    for group in GROUPS:
        add(f"Group {group}", "-groups", group)
    for signature in SIGNATURES:
        add(f"Signature `{signature}`", "-sigalgs", signature)

    def see(label, *options, **answers):
        tries.append((label, lambda port: fact(edge.dialogue(port, *options), **answers)))

    see("Session tickets", none=r"\A(?!(?s:.*)Ticket arrived)", sent="Ticket arrived")
    tries.append(("A session of another server", lambda port: early_data(edge, port, session)))
    see(
        "ALPN `h2`, `http/1.1`", "-alpn", "h2,http/1.1",
        none_is_chosen="No ALPN negotiated", one_is_chosen="ALPN protocol: ",
    )
    see("Compression", none="Compression: NONE", used="Compression: (?!NONE)")
    see(
        "Renegotiation",
        not_supported="Secure Renegotiation IS NOT supported",
        supported="Secure Renegotiation IS supported",
    )
    see(
        "OCSP response", "-status",
        none="OCSP response: no response sent", stapled="OCSP Response Status",
    )
    see(
        "Client certificate",
        not_requested="No client certificate CA names sent",
        requested="Acceptable client certificate",
    )
    ports = ["clients", "admin"]
    head = ["tried", "port for clients", "admin port"]
    table(head, ([label, *(answer(port) for port in ports)] for label, answer in tries))


def print_client_certificates(program, authority, other):
    """Prints what clients see if they must present a certificate."""
    for name in ["valid", "revoked"]:
        authority.issue(name, "client")
    for name, year in [("expired", 2020), ("future", 2090)]:
        month = ["-startdate", f"{year}0101000000Z", "-enddate", f"{year}0201000000Z"]
        authority.issue(name, "client", *month)
    authority.revoke("revoked")
    authority.write_list("current.crl", "-crldays", "30")
    past = ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"]
    authority.write_list("outdated.crl", *past)
    other.issue("stranger", "client")

    def start(revocation_list):
        return Edge(
            program,
            authority,
            TLS_CLIENT_AUTH="require_verify",
            TLS_CA_FILE=authority.path("ca.pem"),
            TLS_CRL_FILE=authority.path(revocation_list),
        )

    def row(label, edge, issuer=None, name=None):
        options = ["-tls1_3", "-ign_eof"]
        if name:
            options += ["-cert", issuer.path(f"{name}.crt"), "-key", issuer.path(f"{name}.key")]
        # Bytes that no client sends, so that the edge ends the connection by itself.
        return [label, edge.outcome("clients", *options, stdin=b"\n" * 64)]

    current, outdated = start("current.crl"), start("outdated.crl")
    table(
        ["certificate of the client", "port for clients"],
        [
            row("valid", current, authority, "valid"),
            row("none", current),
            row("of another authority", current, other, "stranger"),
            row("expired", current, authority, "expired"),
            row("not valid yet", current, authority, "future"),
            row("for servers only", current, authority, "edge"),
            row("revoked", current, authority, "revoked"),
            row("valid, but the list is past its `nextUpdate`", outdated, authority, "valid"),
        ],
    )
    current.stop()
    outdated.stop()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as directory:
        authority, other = (Authority(Path(directory) / name) for name in ["ours", "other"])
        authority.issue("edge", "edge")
        edge = Edge(program, authority)
        print_handshakes(edge, foreign_session(authority))
        edge.stop()
        print()
        print_client_certificates(program, authority, other)


if __name__ == "__main__":
    main()
