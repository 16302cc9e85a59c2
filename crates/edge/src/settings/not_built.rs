//! Settings of features that are not built yet. They are listed so that they can be refused, rather
//! than silently ignored: only the default is accepted. When a feature is built, its settings move
//! to another section.

use tickstorm_service::env::{Setting, Text};

const CIDRS: Text = Text::new(
    "networks such as 10.0.0.0/8 or fd00::/8, separated by commas",
    |text| text.contains('/'),
);

tickstorm_service::settings! {
    /// Settings that have no effect yet.
    NOT_BUILT;
    /// The most connections per address. 0 means no limit.
    MAX_CONNECTIONS_PER_IP: u32 = Setting::new(
        0..=1_000_000,
        "0",
        "A load balancer or a NAT brings thousands of clients from one address",
    )
    .not_built();
    /// The new connections that are allowed per second and address. 0 means no limit.
    MAX_CONNECT_RATE_PER_IP: u32 = Setting::new(
        0..=1_000_000,
        "0",
        "A load balancer or a NAT brings thousands of clients from one address",
    )
    .not_built();
    /// Whether load balancers pass on the client's address with PROXY protocol version 2.
    PROXY_PROTOCOL: String = Setting::new(
        Text::new("off or on", |text| matches!(text, "off" | "on")),
        "off",
        "Without a load balancer in front, anyone could claim any address",
    )
    .not_built();
    /// The networks of the load balancers that may, and then must, use the PROXY protocol.
    PROXY_TRUSTED: Option<String> =
        Setting::unset(CIDRS, "No sender is trusted unless it is listed").not_built();
    /// The networks that clients may connect from.
    IP_ALLOWLIST: Option<String> =
        Setting::unset(CIDRS, "Clients may connect from anywhere").not_built();
    /// The networks that clients may not connect from. It takes precedence over IP_ALLOWLIST.
    IP_BLOCKLIST: Option<String> =
        Setting::unset(CIDRS, "Clients may connect from anywhere").not_built();
}
