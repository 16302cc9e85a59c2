//! The variables of the earlier Go server that have no counterpart. Those that have one are former
//! names of settings. docs/migration.md lists both, and a test compares the two.

use tickstorm_service::env::GoneName;

const LIMITS_OF_THE_SYSTEM: &str = "\
    set the limit where the edge is started: LimitNOFILE= and others of systemd, ulimits of \
    Docker, or resources of Kubernetes";
const LIMITS_OF_ADDRESSES: &str =
    "MAX_CONNECTIONS_PER_IP, AUTH_RATE_LIMIT and FRAME_RATE_LIMIT limit what a client may do";
const KEEPALIVE: &str =
    "TCP probes a silent client after 60 s, and HEARTBEAT_TIMEOUT says when it is closed";
const MEMORY: &str = "MAX_CONNECTIONS and MAX_BUFFERED_BYTES bound the edge's memory";
const CLIENTS_RETRY: &str = "it is the clients that come back; docs/protocol.md says when";
const OUTSIDE: &str =
    "scale from outside, as k8s/ does by tickstorm_active_connections; /metrics is at ADMIN_ADDR";

/// The variables, in the order of docs/migration.md.
pub(super) const GONE: [GoneName; 39] = [
    GoneName::refused(
        "MAX_BATCH_SIZE",
        "a frame carries up to 1,000 ticks; MAX_MSG_SIZE bounds its bytes, and BATCH_WINDOW_MS how \
         long ticks are gathered",
    ),
    GoneName::refused_unless(
        "1m",
        "AUTH_RATE_LIMIT_WINDOW",
        "AUTH_RATE_LIMIT counts failures per minute",
    ),
    GoneName::refused_unless(
        "false",
        "TLS_OCSP_ENABLED",
        "name a list of revoked client certificates in TLS_CRL_FILE",
    ),
    GoneName::refused_unless(
        "false",
        "TLS_INSECURE_SKIP_VERIFY",
        "TLS_CLIENT_AUTH is none or require_verify, and what is required is verified",
    ),
    GoneName::refused_unless(
        "true",
        "TLS_CERT_WATCH_ENABLED",
        "TLS files are always read again when they change",
    ),
    GoneName::refused(
        "TLS_CERT_CHECK_INTERVAL",
        "TLS files are looked at once per second",
    ),
    GoneName::refused("ULIMIT_MAX_OPEN_FILES", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_OPEN_FILES_SOFT", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_MEMORY_SIZE", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_DATA_SIZE", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_STACK_SIZE", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_PROCESSES", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_CORE_SIZE", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_CPU_TIME", LIMITS_OF_THE_SYSTEM),
    GoneName::refused("ULIMIT_MAX_LOCKED_MEMORY", LIMITS_OF_THE_SYSTEM),
    GoneName::refused_unless("false", "AUTOSCALING_ENABLED", OUTSIDE),
    GoneName::refused("AUTOSCALING_METRICS_PORT", OUTSIDE),
    GoneName::refused("AUTOSCALING_SCALE_UP_THRESHOLD", OUTSIDE),
    GoneName::refused("AUTOSCALING_SCALE_DOWN_THRESHOLD", OUTSIDE),
    GoneName::refused("AUTOSCALING_CONNECTIONS_PER_INSTANCE", OUTSIDE),
    GoneName::refused("AUTOSCALING_CPU_TARGET", OUTSIDE),
    GoneName::refused("AUTOSCALING_MEMORY_TARGET", OUTSIDE),
    GoneName::warned_of("MONITOR_MAX_CONN_PER_SEC", LIMITS_OF_ADDRESSES),
    GoneName::warned_of("MONITOR_MAX_FAILURE_RATE", LIMITS_OF_ADDRESSES),
    GoneName::warned_of("MONITOR_MAX_PORT_SCANS_PER_MIN", LIMITS_OF_ADDRESSES),
    GoneName::warned_of("CONNECTION_TIMEOUT", KEEPALIVE),
    GoneName::warned_of("KEEPALIVE_INTERVAL", KEEPALIVE),
    GoneName::warned_of("TCP_KEEPALIVE_TIME", KEEPALIVE),
    GoneName::warned_of("TCP_KEEPALIVE_INTVL", KEEPALIVE),
    GoneName::warned_of("TCP_KEEPALIVE_PROBES", KEEPALIVE),
    GoneName::warned_of("CONNECTION_POOL_SIZE", MEMORY),
    GoneName::warned_of("BUFFER_POOL_SIZE", MEMORY),
    GoneName::warned_of("MAX_BUFFER_SIZE", MEMORY),
    GoneName::warned_of("PROTOCOL_DEBUG", "set LOG_LEVEL"),
    GoneName::warned_of("MAX_RETRIES", CLIENTS_RETRY),
    GoneName::warned_of("RETRY_BACKOFF", CLIENTS_RETRY),
    GoneName::warned_of("CIRCUIT_BREAKER_THRESHOLD", CLIENTS_RETRY),
    GoneName::warned_of("GOGC", "the edge has no garbage collector"),
    GoneName::warned_of(
        "GOMEMLIMIT",
        "the edge has no garbage collector; MAX_CONNECTIONS and MAX_BUFFERED_BYTES bound its \
         memory",
    ),
];
