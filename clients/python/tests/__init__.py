"""The tests of the client. What it logs is not shown."""

import logging

logging.getLogger("tickstorm").addHandler(logging.NullHandler())
