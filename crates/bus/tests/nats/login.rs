use std::sync::Arc;

use tickstorm_bus::{Bus, Credential, EdgeEvent, NatsBus, NatsError, NatsOptions};
use tickstorm_testkit::{Nats, TempDir, poll_until_async};
use tracing::dispatcher::set_default;

use crate::log::BusLog;
use crate::{PATIENCE, options, soon};

const PASSWORD: &str = "opensesame@1";
const URL_PASSWORD: &str = "opensesame%401";

#[tokio::test]
async fn a_user_and_password_may_come_from_the_options_or_from_the_url() {
    let nats = Nats::run(&["--user", "clock", "--pass", PASSWORD]);
    let by_options = NatsOptions {
        user: "clock".into(),
        password: PASSWORD.into(),
        ..options(&nats)
    };
    let by_url = NatsOptions {
        urls: format!("nats://clock:{URL_PASSWORD}@{}", nats.address()),
        user: "nobody".into(),
        password: "nothing".into(),
        ..options(&nats)
    };
    assert_connects(by_options).await;
    assert_connects(by_url).await;
}

#[tokio::test]
async fn a_token_may_come_from_the_options_or_from_the_url() {
    let nats = Nats::run(&["--auth", PASSWORD]);
    let by_options = NatsOptions {
        token: PASSWORD.into(),
        ..options(&nats)
    };
    let by_url = NatsOptions {
        urls: format!("nats://{URL_PASSWORD}@{}", nats.address()),
        ..options(&nats)
    };
    assert_connects(by_options).await;
    assert_connects(by_url).await;
}

#[tokio::test]
async fn a_wrong_password_is_retried_and_logged_once_without_the_secret() {
    let nats = Nats::run(&["--user", "clock", "--pass", PASSWORD]);
    let log = BusLog::default();
    let bus = {
        let _guard = set_default(&log.subscriber());
        NatsBus::start(NatsOptions {
            urls: format!("nats://clock:wr0ngone@{}", nats.address()),
            ..options(&nats)
        })
        .unwrap()
    };
    let mut events = bus.edge_events(&[]);
    poll_until_async("the refusal is logged", PATIENCE, || {
        log.text().contains("authorization violation")
    })
    .await;
    // Without a backoff there would be time for ten attempts.
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(1), events.next()).await;
    assert!(outcome.is_err(), "{outcome:?}");
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("wr0ngone"), "{text}");
    assert!(text.contains(&nats.address()), "{text}");
}

#[tokio::test]
async fn a_login_in_files_is_replaced_for_the_next_connection_and_kept_if_it_is_bad() {
    let nats = Nats::run(&["--user", "clock", "--pass", PASSWORD]);
    let files = TempDir::new("login");
    let file = |name: &str, content: &str| {
        Credential::from_file(files.write(name, content), |path| {
            let content = std::fs::read_to_string(path)?;
            if content == "invalid" {
                return Err("the file is invalid".into());
            }
            Ok((!content.is_empty()).then(|| content.into()))
        })
    };
    let log = BusLog::default();
    let options = Arc::new(NatsOptions {
        user: file("user", "former"),
        password: file("password", "s3cret"),
        ..options(&nats)
    });
    let bus = {
        let _guard = set_default(&log.subscriber());
        NatsBus::start(Arc::clone(&options)).unwrap()
    };
    let mut events = bus.edge_events(&[]);
    poll_until_async("the refusal is logged", PATIENCE, || {
        log.text().contains("authorization violation")
    })
    .await;
    for (content, expected) in [
        ("", "a user and a password must be given together"),
        ("invalid", "user: the file is invalid"),
    ] {
        files.write("user", content);
        let error = options.secrets().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    files.write("user", "clock");
    files.write("password", PASSWORD);
    bus.use_secrets(options.secrets().unwrap());
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    // The files are not read when the server comes back.
    files.write("user", "");
    files.write("password", "");
    nats.kill();
    assert_eq!(soon(events.next()).await, EdgeEvent::Disconnected);
    nats.start();
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
    assert!(!log.text().contains("s3cret"), "{}", log.text());
}

#[test]
fn options_that_can_never_connect_are_refused_at_start_without_showing_secrets() {
    let directory = TempDir::new("nats");
    let nonsense = directory.write("nonsense", "s3cret");
    let refused = |change: fn(&mut NatsOptions, std::path::PathBuf)| {
        let mut options = NatsOptions {
            urls: "nats://127.0.0.1:4222".into(),
            ..NatsOptions::default()
        };
        change(&mut options, nonsense.clone());
        let error: NatsError =
            NatsBus::start(options).expect_err("these options can never connect");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        error
    };
    let url = refused(|options, _| options.urls = "nats://a:4222,http://u:s3cret@b".into());
    assert!(matches!(url, NatsError::Url { number: 2 }), "{url}");
    let login = refused(|options, _| options.password = "s3cret".into());
    assert!(matches!(login, NatsError::HalfLogin), "{login}");
    let unusable = refused(|options, path| {
        options.user = Credential::from_file(path, |_| Err("the file is too long".into()));
    });
    assert!(
        matches!(unusable, NatsError::Credential { .. }),
        "{unusable}"
    );
    let key = refused(|options, path| options.key_file = Some(path));
    assert!(matches!(key, NatsError::HalfCertificate), "{key}");
    let ca = refused(|options, path| options.ca_file = Some(path));
    assert!(matches!(ca, NatsError::Content { .. }), "{ca}");
    let credentials = refused(|options, path| options.credentials_file = Some(path));
    assert!(
        matches!(credentials, NatsError::Content { .. }),
        "{credentials}"
    );
    let absent = refused(|options, path| options.ca_file = Some(path.join("absent")));
    assert!(matches!(absent, NatsError::Unreadable { .. }), "{absent}");
}

#[test]
fn options_show_no_secret() {
    let options = NatsOptions {
        urls: "nats://u:s3cret@a".into(),
        password: "s3cret".into(),
        token: "s3cret".into(),
        ..NatsOptions::default()
    };
    assert!(!format!("{options:?}").contains("s3cret"));
}

async fn assert_connects(options: NatsOptions) {
    let bus = NatsBus::start(options).expect("valid options");
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
}
