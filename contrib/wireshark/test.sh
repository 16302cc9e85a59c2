#!/bin/sh
# Tests the dissector with tshark, and the Kaitai Struct description with PyYAML. Both must be
# installed.
set -eu
cd "$(dirname "$0")"
python3 make_capture.py --check
python3 test.py
python3 ../kaitai/test.py
