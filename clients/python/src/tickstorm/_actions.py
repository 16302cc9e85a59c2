"""What a subscription tells its driver to do."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union


class Dial(NamedTuple):
    """Connect to the address with this index, as the link with this number."""

    number: int
    address: int
    limit: Optional[int]
    """The limit for the lookup of the name and the TCP connection together, or ``None`` for the
    usual limits. An attempt that exceeds it is cut off: ``ConnectError.was_cut_off``."""


class Send(NamedTuple):
    """Send bytes over a link."""

    number: int
    data: bytes


class Close(NamedTuple):
    """Close a link, whether it is connected or not."""

    number: int


class Settle(NamedTuple):
    """Read what has arrived over all links, and then call ``handle_settled``."""


Action = Union[Dial, Send, Close, Settle]
