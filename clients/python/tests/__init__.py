"""The tests of the client. What it logs is not shown, nor that a busy machine made asyncio slow."""

import logging

logging.getLogger("tickstorm").addHandler(logging.NullHandler())
logging.getLogger("asyncio").setLevel(logging.ERROR)
