//! Which variables are taken for misspelt settings, with all settings of TickStorm.

use super::*;
use crate::credentials;

/// Each program knows only its own settings, but an environment may contain those of all programs.
#[test]
fn no_program_mistakes_a_setting_of_another_one_for_a_misspelling() {
    let clock = [COMMON, TRACES, NATS, CLOCK];
    let edge = [
        &[COMMON, TRACES, NATS][..],
        &tickstorm_edge::settings::SECTIONS,
    ]
    .concat();
    // An edge warns of a client's STREAM_TOKEN_FILE: there it is more likely to be a misspelling.
    let misspelling = ["STREAM_TOKEN_FILE is not a setting; did you mean STREAM_TOKENS_FILE?"];
    for (sections, expected) in [
        (&clock[..], &[][..]),
        (&edge, &misspelling),
        (&credentials::SECTIONS, &[]),
    ] {
        let own = sections.iter().flat_map(Section::rows).map(|row| row.name);
        let own: HashSet<_> = own.collect();
        let others = rows()
            .filter(|row| !own.contains(row.name))
            .flat_map(names_of);
        let login = LOGIN.map(|(name, _)| name.to_owned());
        let vars = others.chain(login).map(|name| (name, "value"));
        let defaults = [("ADMIN_ADDR", "127.0.0.1:0")];
        let settings = Settings::from_vars(vars, sections, &defaults).unwrap();
        assert_eq!(settings.warnings(), expected);
    }
}

/// Variables that shells, containers, service managers, CI and other programs set.
const COMMON_VARIABLES: &str = "\
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_ALL LC_CTYPE LC_TIME TERM TERM_PROGRAM COLORTERM \
    PWD OLDPWD TMPDIR TEMP TMP HOSTNAME HOST HOSTTYPE MACHTYPE OSTYPE MAIL EDITOR VISUAL PAGER \
    LESS LESSOPEN LS_COLORS COLUMNS LINES DISPLAY SSH_TTY SSH_CLIENT SSH_CONNECTION SSH_AUTH_SOCK \
    SHLVL IFS PS1 UID EUID GROUPS RANDOM TZ DEBUG VERBOSE NO_COLOR FORCE_COLOR CLICOLOR CI \
    XDG_RUNTIME_DIR XDG_SESSION_ID XDG_DATA_DIRS DBUS_SESSION_BUS_ADDRESS WAYLAND_DISPLAY \
    INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_PID \
    WATCHDOG_USEC MAINPID SYSTEMD_EXEC_PID RUNTIME_DIRECTORY STATE_DIRECTORY CACHE_DIRECTORY \
    LOGS_DIRECTORY CONFIGURATION_DIRECTORY CREDENTIALS_DIRECTORY MEMORY_PRESSURE_WATCH \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY all_proxy \
    KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT KUBERNETES_SERVICE_PORT_HTTPS \
    KUBERNETES_PORT_443_TCP_ADDR KUBERNETES_PORT_443_TCP_PROTO KUBECONFIG POD_NAME POD_IP \
    POD_NAMESPACE NAMESPACE NODE_NAME NODE_IP SERVICE_ACCOUNT CLUSTER CLUSTER_NAME \
    TICKSTORM_EDGE_SERVICE_HOST TICKSTORM_EDGE_PORT_8080_TCP EDGE_SERVICE_HOST EDGE_SERVICE_PORT \
    EDGE_PORT_8080_TCP_PORT CLOCK_0_SERVICE_HOST NATS_SERVICE_HOST NATS_SERVICE_PORT \
    NATS_PORT_4222_TCP NATS_PORT_4222_TCP_ADDR ADMIN_SERVICE_HOST ADMIN_SERVICE_PORT \
    DOCKER_HOST DOCKER_CONFIG DOCKER_BUILDKIT COMPOSE_PROJECT_NAME COMPOSE_FILE BUILDKIT_PROGRESS \
    PORT HOST_IP BIND_ADDR ADDR URL DATA_URL BASE_URL API_URL DATABASE_URL REDIS_URL NATS_HOST \
    NATS_PORT APP_ENV APP_NAME APP_VERSION ENV ENVIRONMENT STAGE REGION ZONE VERSION REVISION \
    LOG_DIR LOG_FILE LOG_PATH LOGLEVEL_ROOT RUST_LOG RUST_BACKTRACE RUST_MIN_STACK RUSTFLAGS \
    CARGO_HOME CARGO_TARGET_DIR RUSTUP_HOME GOPATH GOROOT GOFLAGS GOPROXY GODEBUG GOTRACEBACK \
    JAVA_HOME JAVA_OPTS PYTHONPATH PYTHONUNBUFFERED VIRTUAL_ENV NODE_ENV NODE_PATH NODE_OPTIONS \
    LD_LIBRARY_PATH LD_PRELOAD MALLOC_ARENA_MAX MALLOC_CONF SSL_CERT_FILE SSL_CERT_DIR \
    SSLKEYLOGFILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE AWS_REGION AWS_PROFILE AWS_ACCESS_KEY_ID \
    AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN \
    GOOGLE_APPLICATION_CREDENTIALS AZURE_CLIENT_ID VAULT_ADDR VAULT_TOKEN CONSUL_HTTP_ADDR \
    GITHUB_ACTIONS GITHUB_SHA GITHUB_TOKEN GITLAB_CI CI_JOB_ID RUNNER_OS BUILD_ID BUILD_NUMBER \
    JENKINS_URL STREAM STREAMS USERS CLIENT_ID SERVER_ID NODE_ID USER_ID GROUP_ID CHARTS \
    CARDS TLS TLS_CERT TLS_KEY TLS_CA CERT_FILE KEY_FILE CA_FILE MAX_CLIENTS MAX_CONN TIMEOUT \
    OTEL_EXPORTER_OTLP_INSECURE OTEL_BLRP_SCHEDULE_DELAY OTEL_BLRP_MAX_QUEUE_SIZE \
    OTEL_BLRP_MAX_EXPORT_BATCH_SIZE OTEL_BLRP_EXPORT_TIMEOUT OTEL_METRIC_EXPORT_INTERVAL \
    OTEL_METRIC_EXPORT_TIMEOUT OTEL_ATTRIBUTE_COUNT_LIMIT OTEL_SPAN_EVENT_COUNT_LIMIT \
    OTEL_LOG_LEVEL OTEL_EXPORTER_ZIPKIN_ENDPOINT OTEL_EXPORTER_PROMETHEUS_PORT \
    OTEL_EXPORTER_OTLP_LOGS_ENDPOINT OTEL_EXPORTER_OTLP_METRICS_ENDPOINT \
    OTEL_EXPORTER_OTLP_CLIENT_KEY OTEL_COLLECTOR_SERVICE_HOST";

#[test]
fn a_common_variable_is_not_taken_for_a_misspelling() {
    for name in COMMON_VARIABLES.split_whitespace() {
        let settings = try_load(&as_in_daemons(), &[&LOGIN[..], &[(name, "1")]].concat()).unwrap();
        assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    }
}

#[test]
fn two_letters_off_any_name_cause_a_warning() {
    for name in rows().flat_map(names_of) {
        let without_two = [&name[..1], &name[3..]].concat();
        let swapped = [&name[..1], &name[2..3], &name[1..2], &name[3..], "S"].concat();
        for typo in [
            without_two,
            swapped,
            name.to_lowercase(),
            format!("{name}XX"),
        ] {
            if rows().flat_map(names_of).any(|name| name == typo) {
                continue;
            }
            let settings = try_load(&as_in_daemons(), &[&LOGIN[..], &[(&typo, "1")]].concat());
            let warnings = settings.unwrap().warnings().to_vec();
            let starts = format!("{typo} is not a setting; did you mean ");
            assert!(
                warnings.len() == 1 && warnings[0].starts_with(&starts),
                "{name}, {typo}: {warnings:?}"
            );
        }
    }
}
