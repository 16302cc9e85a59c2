"""What the vectors have in common with the examples in docs/protocol.md."""

EPOCH_MS = 1_800_000_000_000
COOKIE = bytes.fromhex(
    "01b1ce4da0164ba184000102030405060708090a0b0c0d0e0fee6afb666d4e85fea44b31af714d419c"
)
CONNECTION_ID = "4821-k7m2q9xd"
