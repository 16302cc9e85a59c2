//! [`Welcome`]: what the first ACK of AUTH says, and what is assumed instead of a field that is
//! missing or invalid, so that a single fault does not keep all other cases from running.

use std::time::Duration;

use tickstorm_protocol::FrameType;
use tickstorm_protocol::message::Ack;

/// The protocol's default of `heartbeat_interval_ms`.
const HEARTBEAT_INTERVAL_MS: u32 = 15_000;
/// The protocol's default of `heartbeat_timeout_ms`.
const HEARTBEAT_TIMEOUT_MS: u32 = 20_000;
/// The protocol's default of `frame_rate_limit`, in frames per second.
const FRAME_RATE_LIMIT: u32 = 10;
/// The longest cookie, in bytes.
const COOKIE_LEN_MAX: usize = 64;
/// The longest name of a connection.
const CONNECTION_ID_LEN_MAX: usize = 40;

/// What the first ACK of AUTH says.
#[derive(Clone, Debug)]
pub(super) struct Welcome {
    pub(super) ack: Ack,
}

impl Welcome {
    /// Returns the interval of the server, or a default that is shorter than its timeout.
    pub(super) fn heartbeat_interval(&self) -> Duration {
        let timeout_ms = self.heartbeat_timeout_ms();
        let interval_ms = match self.ack.heartbeat_interval_ms {
            valid if 0 < valid && valid < timeout_ms => valid,
            _ => HEARTBEAT_INTERVAL_MS.min(timeout_ms - timeout_ms / 4),
        };
        Duration::from_millis(interval_ms.into())
    }

    pub(super) fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(self.heartbeat_timeout_ms().into())
    }

    fn heartbeat_timeout_ms(&self) -> u32 {
        or_default(self.ack.heartbeat_timeout_ms, HEARTBEAT_TIMEOUT_MS)
    }

    /// Returns the frames per second that the server accepts.
    pub(super) fn frame_rate(&self) -> u32 {
        or_default(self.ack.frame_rate_limit, FRAME_RATE_LIMIT)
    }

    /// Returns the cookie to present, which is empty if there is none that a client may present.
    pub(super) fn cookie(&self) -> &[u8] {
        if self.ack.cookie.len() > COOKIE_LEN_MAX {
            return &[];
        }
        &self.ack.cookie
    }

    /// Says what is wrong with each field.
    pub(super) fn faults(&self) -> Vec<String> {
        let ack = &self.ack;
        let mut faults = identity_faults(ack);
        let (interval, timeout) = (ack.heartbeat_interval_ms, ack.heartbeat_timeout_ms);
        if timeout == 0 {
            faults.push(format!(
                "there is no heartbeat_timeout_ms ({HEARTBEAT_TIMEOUT_MS} is assumed)"
            ));
        }
        let assumed_ms = self.heartbeat_interval().as_millis();
        if interval == 0 {
            faults.push(format!(
                "there is no heartbeat_interval_ms ({assumed_ms} is assumed)"
            ));
        } else if timeout != 0 && interval >= timeout {
            faults.push(format!(
                "heartbeat_interval_ms is {interval}, and heartbeat_timeout_ms only {timeout}"
            ));
        }
        if ack.edge_id.is_empty() {
            faults.push("there is no edge_id".into());
        }
        if ack.start_epoch_ms != 0 {
            faults.push(format!(
                "start_epoch_ms is {}, though nothing was subscribed",
                ack.start_epoch_ms
            ));
        }
        if ack.frame_rate_limit == 0 {
            faults.push(format!(
                "there is no frame_rate_limit ({FRAME_RATE_LIMIT} is assumed)"
            ));
        }
        if ack.cookie.len() > COOKIE_LEN_MAX {
            faults.push(format!("the cookie has {} bytes", ack.cookie.len()));
        }
        faults
    }
}

fn or_default(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

/// Says what is wrong with the fields that every ACK of AUTH must have, whatever the first one
/// says.
pub(super) fn identity_faults(ack: &Ack) -> Vec<String> {
    let mut faults = Vec::new();
    if ack.acked_type != u32::from(FrameType::Auth.byte()) {
        faults.push(format!("acked_type is {}", ack.acked_type));
    }
    if !is_valid_connection_id(&ack.connection_id) {
        faults.push(format!("the connection_id is {:?}", ack.connection_id));
    }
    faults
}

/// Returns whether a connection's name has the form that the protocol demands.
pub(super) fn is_valid_connection_id(id: &str) -> bool {
    let is_graphic = id.bytes().all(|byte| byte.is_ascii_graphic());
    is_graphic && (1..=CONNECTION_ID_LEN_MAX).contains(&id.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Ack {
        Ack {
            acked_type: 1,
            heartbeat_interval_ms: 2_000,
            heartbeat_timeout_ms: 3_000,
            edge_id: "edge".into(),
            connection_id: "connection".into(),
            frame_rate_limit: 50,
            ..Ack::default()
        }
    }

    #[test]
    fn a_complete_ack_has_no_faults() {
        let welcome = Welcome { ack: complete() };
        assert_eq!(welcome.faults(), [""; 0]);
        assert_eq!(welcome.frame_rate(), 50);
        assert_eq!(welcome.heartbeat_interval(), Duration::from_secs(2));
    }

    #[test]
    fn each_missing_field_is_one_fault_that_names_it() {
        let faults = |change: fn(&mut Ack)| {
            let mut ack = complete();
            change(&mut ack);
            Welcome { ack }.faults()
        };
        for (field, change) in [
            ("acked_type", (|ack| ack.acked_type = 0) as fn(&mut Ack)),
            ("connection_id", |ack| ack.connection_id.clear()),
            ("heartbeat_interval_ms", |ack| ack.heartbeat_interval_ms = 0),
            ("heartbeat_timeout_ms", |ack| ack.heartbeat_timeout_ms = 0),
            ("edge_id", |ack| ack.edge_id.clear()),
            ("frame_rate_limit", |ack| ack.frame_rate_limit = 0),
            ("start_epoch_ms", |ack| ack.start_epoch_ms = 1_000),
            ("cookie", |ack| ack.cookie = vec![1; 65]),
        ] {
            let faults = faults(change);
            assert_eq!(faults.len(), 1, "{field}: {faults:?}");
            assert!(faults[0].contains(field), "{field}: {faults:?}");
        }
    }

    #[test]
    fn the_defaults_of_the_protocol_replace_what_is_missing() {
        let empty = Welcome {
            ack: Ack::default(),
        };
        assert_eq!(empty.heartbeat_interval(), Duration::from_secs(15));
        assert_eq!(empty.heartbeat_timeout(), Duration::from_secs(20));
        assert_eq!(empty.frame_rate(), 10);
        let ack = Ack {
            heartbeat_interval_ms: 0,
            ..complete()
        };
        let interval = Welcome { ack }.heartbeat_interval();
        assert_eq!(interval, Duration::from_millis(2_250));
    }
}
