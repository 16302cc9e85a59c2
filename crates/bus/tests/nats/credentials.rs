use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use tickstorm_bus::{Bus, EdgeEvent, NatsBus, NatsOptions};
use tickstorm_testkit::{Nats, TempDir};

use crate::{options, soon};

/// Starts a server with an operator and an account. Returns it with a directory that contains the
/// credentials file of one of the account's users.
fn server() -> (Nats, TempDir) {
    let (operator, account, user) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    );
    let limits = r#""subs":-1,"data":-1,"payload":-1"#;
    let account_limits =
        format!(r#"{limits},"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1"#);
    let operator_jwt = jwt(&operator, &operator, r#""type":"operator""#);
    let account_jwt = jwt(
        &operator,
        &account,
        &format!(r#""type":"account","limits":{{{account_limits}}}"#),
    );
    let user_jwt = jwt(&account, &user, &format!(r#""type":"user",{limits}"#));

    let files = TempDir::new("credentials");
    let config = format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n",
        account.public_key()
    );
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().expect("a new key has a seed")
    );
    files.write("user.creds", credentials);
    let nats = Nats::create(&["--config", "/server.conf"]).with_file("/server.conf", config);
    nats.start();
    (nats, files)
}

/// Creates a JWT with `issuer`'s claims about `subject`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &str) -> String {
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let identity = format!(r#""iss":"{issuer_key}","sub":"{subject_key}","name":"n""#);
    let claims =
        format!(r#"{{"jti":"1","iat":1700000000,{identity},"nats":{{"version":2,{nats}}}}}"#);
    let [header, claims] = [header, &claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).expect("a new key can sign");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[tokio::test]
async fn a_credentials_file_logs_in_to_a_server_with_its_operator() {
    let (nats, files) = server();
    let bus = NatsBus::start(NatsOptions {
        credentials_file: Some(files.path().join("user.creds")),
        ..options(&nats)
    })
    .unwrap();
    let mut events = bus.edge_events(&[]);
    assert_eq!(soon(events.next()).await, EdgeEvent::Connected);
}
