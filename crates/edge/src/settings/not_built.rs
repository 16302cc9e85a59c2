//! Settings of parts of the edge that are not built yet. They stand here so that nobody sets one in vain: anything but the
//! default is refused. A setting moves to its part's section when the part is built.

use std::path::PathBuf;

use tickstorm_service::env::{Setting, Text};

const CIDRS: Text = Text::new(
    "networks such as 10.0.0.0/8 or fd00::/8, separated by commas",
    |text| text.contains('/'),
);

tickstorm_service::settings! {
    /// Settings that nothing obeys yet.
    NOT_BUILT;
    /// The most connections of one address; 0: no limit.
    MAX_CONNECTIONS_PER_IP: u32 =
        Setting::new(0..=1_000_000, "0", "a balancer or a NAT brings thousands from one address").not_built();
    /// The new connections that an address has a second; 0: no limit.
    MAX_CONNECT_RATE_PER_IP: u32 =
        Setting::new(0..=1_000_000, "0", "a balancer or a NAT brings thousands from one address").not_built();
    /// Whether balancers name the client's address by PROXY protocol version 2.
    PROXY_PROTOCOL: String = Setting::new(
        Text::new("off or on", |text| matches!(text, "off" | "on")),
        "off",
        "without a balancer in front, anybody could claim any address",
    )
    .not_built();
    /// The networks of the balancers that may, and then must, send the PROXY protocol.
    PROXY_TRUSTED: Option<String> = Setting::unset(CIDRS, "nobody is trusted unless named").not_built();
    /// The networks that clients may come from.
    IP_ALLOWLIST: Option<String> = Setting::unset(CIDRS, "from everywhere").not_built();
    /// The networks that clients may not come from. It wins over IP_ALLOWLIST.
    IP_BLOCKLIST: Option<String> = Setting::unset(CIDRS, "from everywhere").not_built();
    /// Whether clients connect by TLS 1.3.
    TLS_ENABLED: bool = Setting::new((), "false", "it needs a certificate, which nobody can guess").not_built();
    /// The file with the edge's certificate and those between it and its authority.
    TLS_CERT_FILE: Option<PathBuf> =
        Setting::unset((), "only TLS needs it").formerly("TLS_CERT_PATH").not_built();
    /// The file with the key of TLS_CERT_FILE.
    TLS_KEY_FILE: Option<PathBuf> =
        Setting::unset((), "only TLS needs it").formerly("TLS_KEY_PATH").not_built();
    /// Whether clients must show a certificate.
    TLS_CLIENT_AUTH: String = Setting::new(
        Text::new("none or require_verify", |text| matches!(text, "none" | "require_verify")),
        "none",
        "AUTH says who a client is",
    )
    .not_built();
    /// The file with the authorities that sign clients' certificates.
    TLS_CA_FILE: Option<PathBuf> = Setting::unset((), "only TLS_CLIENT_AUTH needs it").not_built();
    /// The file with the clients' certificates that were revoked.
    TLS_CRL_FILE: Option<PathBuf> = Setting::unset((), "only TLS_CLIENT_AUTH needs it").not_built();
}
