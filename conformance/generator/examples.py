"""The frames in the worked example of docs/protocol.md."""

from .samples import CONNECTION_ID, COOKIE, EPOCH_MS
from .wire import message


def add(cases):
    """Adds them to the cases of frames.json."""

    def example(name, sentence, data, extra=()):
        cases.good(f"example-{name}", [sentence, *extra], data, canonical=True)

    user = {"username": "stream_user", "password": "stream_pass"}
    welcome = {
        "acked_type": 1,
        "heartbeat_interval_ms": 15_000,
        "heartbeat_timeout_ms": 20_000,
        "edge_id": "edge-0",
        "protocol_minor": 1,
        "connection_id": CONNECTION_ID,
        "frame_rate_limit": 10,
    }
    common = {key: welcome[key] for key in ("heartbeat_interval_ms", "heartbeat_timeout_ms")}
    common.update(edge_id="edge-0", protocol_minor=1)
    auth_extra = ("frames-02", "frames-04", "frames-06", "frames-07", "messages-05")
    example("auth", "example-04", message("AUTH", **user), auth_extra)
    token = message("AUTH", token="s3cret", client_id="till-7", client_version="demo/1.0")
    example("auth-token", "example-05", token, ("messages-05",))
    example("auth-cookie", "example-08", message("AUTH", cookie=COOKIE, **user))
    ack_extra = ("example-06", "frames-12", "messages-11")
    example("ack-auth", "example-07", message("ACK", **welcome), ack_extra)
    example("ack-cookie", "example-08", message("ACK", cookie=COOKIE, **welcome))
    subscribe_extra = ("frames-03", "frames-08", "messages-01")
    example("subscribe-empty", "example-09", message("SUBSCRIBE"), subscribe_extra)
    subscribe = message("SUBSCRIBE", mode="MINUTE", resume_after_epoch_ms=EPOCH_MS, ahead=True)
    example("subscribe", "example-09", subscribe, ("messages-06",))
    ack = message("ACK", acked_type=2, start_epoch_ms=EPOCH_MS, **common)
    example("ack-subscribe", "example-10", ack, ("example-11", "messages-11"))
    example("heartbeat-empty", "example-13", message("HEARTBEAT"), ("frames-09",))
    heartbeat = message("HEARTBEAT", client_time_us=1_500_000)
    example("heartbeat", "example-13", heartbeat, ("messages-07",))
    _edge_examples(example)


def _edge_examples(example):
    tick = {"epoch_ms": EPOCH_MS + 1_000}
    sent = (EPOCH_MS + 1_000) * 1_000 + 42
    batch = message("DATA_BATCH", schema_version=1, ticks=[tick], sent_unix_us=sent)
    example("batch", "example-12", batch, ("frames-10", "messages-10", "messages-09"))
    ticks = [
        {"mode": "MINUTE", "epoch_ms": EPOCH_MS + 60_000, "quality": "REPLAY"},
        {"mode": "MINUTE", "epoch_ms": EPOCH_MS + 120_000, "quality": "HOLDOVER"},
    ]
    sent = (EPOCH_MS + 150_000) * 1_000
    batch = message("DATA_BATCH", schema_version=1, ticks=ticks, sent_unix_us=sent)
    example("batch-minutes", "example-12", batch, ("messages-09",))
    pong = message(
        "PONG",
        client_time_us=1_500_000,
        received_unix_us=EPOCH_MS * 1_000 + 250_000,
        sent_unix_us=EPOCH_MS * 1_000 + 250_017,
        error_bound_us=180,
        clock_error_us=2_500,
    )
    example("pong", "example-14", pong, ("frames-13", "messages-08"))
    unknown = message("PONG", client_time_us=1_500_000, error_bound_us=2**32 - 1)
    example("pong-without-time", "example-14", unknown, ("messages-08",))
    reason = "this edge is being shut down"
    away = message("GOING_AWAY", deadline_ms=12_000, reason=reason)
    example("going-away", "example-15", away, ("frames-14", "messages-13"))
    text = "frame version 2 is not supported; only version 1 is"
    code = {"code": "UNSUPPORTED_VERSION", "supported_versions": [1]}
    version = message("ERROR", message=text, connection_id=CONNECTION_ID, **code)
    example("error-version", "example-16", version, ("messages-12", "compat-07"))
    draining = message(
        "ERROR",
        code="SERVER_DRAINING",
        message="this edge is being shut down; resume on another",
        retry_after_ms=250,
        connection_id=CONNECTION_ID,
    )
    example("error-draining", "example-16", draining, ("frames-11", "messages-12"))
