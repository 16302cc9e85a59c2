"""Options that make no sense are refused with an explanation, and secrets are not shown."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import tickstorm
from tickstorm._messages import Ack, Auth
from tickstorm.errors import CredentialsError, Refused
from tickstorm.options import Address, Credentials

GOOD = {"user": "ada", "password": "open sesame"}


class License(unittest.TestCase):
    def test_the_license_in_the_wheel_is_that_of_the_repository(self) -> None:
        own = Path(__file__).parents[1]
        text = (own / "LICENSE").read_text(encoding="utf-8")
        self.assertEqual(text, (own.parents[1] / "LICENSE").read_text(encoding="utf-8"))
        self.assertIn('license-files = ["LICENSE"]', (own / "pyproject.toml").read_text("utf-8"))


class Options(unittest.TestCase):
    def test_what_makes_no_sense_is_refused_and_the_message_says_what_is_allowed(self) -> None:
        for addresses, options, message in (
            ([], GOOD, "at least one address"),
            ("edge:0", GOOD, "1 to 65535"),
            ("edge:65536", GOOD, "1 to 65535"),
            ("::1", GOOD, r"\[IPv6 address\]:port"),
            ("[::1", GOOD, r"\[IPv6 address\]:port"),
            ("a:1,,b:2", GOOD, "host:port"),
            (["a:1", 7], GOOD, "string"),
            ("edge", {}, "exactly one of password, password_file, token and token_file"),
            ("edge", {**GOOD, "token": "x"}, "password and token"),
            ("edge", {"password": "x"}, "needs user"),
            ("edge", {"token": "x", "user": "ada"}, "without user"),
            ("edge", {"user": "ada", "password": ""}, "not empty"),
            ("edge", {"user": "a" * 4_096, "password": "x"}, "at most"),
            ("edge", {**GOOD, "mode": "hour"}, '"second" or "minute"'),
            ("edge", {**GOOD, "mode": 1.5}, "Mode.SECOND"),
            ("edge", {**GOOD, "resume_after_ms": "now"}, "Unix time in milliseconds"),
            ("edge", {**GOOD, "resume_after_ms": 1 << 63}, "Unix time in milliseconds"),
            ("edge", {**GOOD, "ahead": "yes"}, "True or False"),
            ("edge", {**GOOD, "client_id": "x" * 65}, "64 ASCII characters"),
            ("edge", {**GOOD, "tls": "yes"}, "tickstorm.TLS"),
            ("edge", {**GOOD, "tls": tickstorm.TLS(ca_file="/nowhere")}, "can't use"),
        ):
            given: Any = addresses
            more: Any = options
            with self.subTest(message, addresses=addresses), self.assertRaisesRegex(
                ValueError, message
            ) as caught:
                tickstorm.Client(given, **more)
            with self.subTest(message, addresses=addresses):
                self.assertNotIn("sesame", str(caught.exception))
        with self.assertRaisesRegex(ValueError, "together"):
            tickstorm.TLS(cert_file="x")

    def test_a_path_that_no_file_can_have_is_an_error_of_the_credentials(self) -> None:
        for credentials in (
            Credentials("ada", password_file="/x\0y"),
            Credentials(token_file="/x\0y"),
        ):
            with self.assertRaisesRegex(CredentialsError, "null"):
                credentials.load()

    def test_addresses(self) -> None:
        for text, expected in (
            ("edge", ("edge", 8080)),
            ("edge:1", ("edge", 1)),
            (" 10.0.0.1:90 ", ("10.0.0.1", 90)),
            ("[::1]", ("::1", 8080)),
            ("[::1]:90", ("::1", 90)),
        ):
            address = Address.parse(text)
            self.assertEqual((address.host, address.port), expected)
        self.assertEqual(str(Address("::1", 90)), "[::1]:90")

    def test_secrets_are_not_shown(self) -> None:
        shown = [
            repr(Credentials("ada", "sesame")),
            repr(Credentials(token="sesame")),
            repr(Auth("ada", "sesame", token="sesame", cookie=b"sesame")),
            repr(Ack(cookie=b"sesame")),
            repr(tickstorm.Client("edge", user="ada", password="sesame")),
        ]
        for text in shown:
            self.assertNotIn("sesame", text)

    def test_text_of_an_edge_cannot_control_a_terminal(self) -> None:
        error = Refused("CODE\x1b[2J", "bell\x07")
        self.assertTrue(str(error).isprintable())
        self.assertEqual(error.code, "CODE\x1b[2J")


if __name__ == "__main__":
    unittest.main()
