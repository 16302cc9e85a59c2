#!/bin/sh
# Tests the dissector with tshark, which must be installed.
set -eu
cd "$(dirname "$0")"
python3 make_capture.py --check
python3 test.py
