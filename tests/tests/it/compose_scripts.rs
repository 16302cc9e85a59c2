//! `make-secrets.sh` and `rotate-nats.sh` of `compose/` when something goes wrong, with programs in
//! the place of `docker` and `docker-compose` that imitate a cluster. The tests of the cluster run
//! the same scripts with real containers.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use tickstorm_testkit::TempDir;

/// Prints the containers of services; the id of a container is its name.
const DOCKER_COMPOSE: &str = r#"#!/bin/sh
call="docker-compose $*"
echo "$call" >>"$FAKE/calls"
. "$FAKE/rules"
shift 2
for service; do
    case "$service" in
        edge) echo edge_1; echo edge_2 ;;
        *) echo "$service" ;;
    esac
done
"#;

/// A cluster in which clients use a new login at once. NATS servers count how often they were told
/// to read their files.
const DOCKER: &str = r#"#!/bin/sh
call="docker $*"
echo "$call" >>"$FAKE/calls"
. "$FAKE/rules"
for last; do :; done
case "$call" in
    *State.Running*) echo "/$last" ;;
    *Config.Env*) echo '["NATS_PASSWORD_FILE=/etc/tickstorm/nats-password"]' ;;
    "docker kill -s HUP "*) echo read >>"$FAKE/reads.$last" ;;
    *users.conf) cat "$SECRETS_DIR/nats-logins/users.conf" ;;
    *varz) echo "\"config_load_time\": \"$(cat "$FAKE/reads.$2" 2>/dev/null | wc -l)\"" ;;
    *" nats-0 "*connz*)
        for user in clock-0 clock-1 clock-2 edge edge; do
            echo "\"authorized_user\": \"$(cat "$SECRETS_DIR/$user/nats-user")\""
        done
        ;;
    *connz*) ;;
    *routez) printf '"remote_name": "%s"\n' one another ;;
    *"healthcheck --ready") ;;
    *) echo "unexpected: $call" >&2; exit 99 ;;
esac
"#;

/// Does not wait, so that scripts give up at once.
const FLOCK: &str = "#!/bin/sh\nshift 2\nPATH=${PATH#*:}\nexec flock -n \"$@\"\n";
const SLEEP: &str = "#!/bin/sh\n";

/// The names of the servers, in the order in which scripts tell them.
const SERVERS: [&str; 3] = ["nats-0", "nats-1", "nats-2"];

/// A rule by which the servers' old logins are refused, but a query fails.
const CONNECTIONS_UNKNOWN: &str = r#"
    case "$call" in
        *" nats-2 "*connz*)
            if ! grep -qs '"clock-0"' "$SECRETS_DIR/nats-logins/users.conf"; then
                : >"$FAKE/broken"
                exit 1
            fi
            ;;
    esac
"#;

/// Makes no secrets if a test says so. Serial numbers have 16 bytes.
const OPENSSL: &str = r#"#!/bin/sh
[ ! -e "$FAKE/no-secrets" ] || [ "$1" != rand ] || [ "$3" = 16 ] || exit 1
PATH=${PATH#*:}
exec openssl "$@"
"#;

/// A copy of the scripts, on a machine with an imitated cluster.
struct Machine {
    directory: TempDir,
}

/// What a script printed, and whether it succeeded.
#[derive(Debug)]
struct ScriptEnd {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new() -> Self {
        let directory = TempDir::new("compose_scripts");
        for sub in ["bin", "compose", "fake"] {
            fs::create_dir(directory.path().join(sub)).unwrap();
        }
        for (name, text) in [
            ("docker-compose", DOCKER_COMPOSE),
            ("docker", DOCKER),
            ("flock", FLOCK),
            ("openssl", OPENSSL),
            ("sleep", SLEEP),
        ] {
            let path = directory.write(&format!("bin/{name}"), text);
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose");
        for file in fs::read_dir(scripts).unwrap().map(Result::unwrap) {
            if file.path().extension().is_some_and(|of| of == "sh") {
                let copy = directory.path().join("compose").join(file.file_name());
                fs::copy(file.path(), copy).unwrap();
            }
        }
        let this = Self { directory };
        this.follow("");
        this
    }

    /// Returns a machine on which the secrets have been made.
    fn with_secrets() -> Self {
        let this = Self::new();
        this.make_secrets(&[]).assert_success();
        this
    }

    /// Makes `docker` and `docker-compose` run these lines of shell first; `$call` is the call.
    fn follow(&self, rules: &str) {
        self.directory.write("fake/rules", rules);
        self.directory.write("fake/calls", "");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns a call of a script that finds the secrets at `secrets/`.
    fn script(&self, name: &str) -> Command {
        let mut script = self.script_without_secrets_dir(name);
        script.env("SECRETS_DIR", self.path("secrets"));
        script
    }

    fn script_without_secrets_dir(&self, name: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut script = Command::new(self.path("compose").join(name));
        script
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("FAKE", self.path("fake"))
            .env_remove("COMPOSE")
            .env_remove("SECRETS_DIR");
        script
    }

    fn make_secrets(&self, names: &[&str]) -> ScriptEnd {
        run(self.script("make-secrets.sh").args(names))
    }

    fn rotate_nats(&self) -> ScriptEnd {
        run(&mut self.script("rotate-nats.sh"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Returns the servers that were told to read their files since [`Self::follow`], in order. A
    /// server is in it even if that failed.
    fn told(&self) -> Vec<String> {
        let calls = self.read("fake/calls");
        let told = calls
            .lines()
            .filter_map(|call| call.strip_prefix("docker kill -s HUP "));
        told.map(ToOwned::to_owned).collect()
    }

    /// Asserts that NATS accepts both the old and the new logins again.
    fn assert_old_logins_are_valid(&self) {
        let users = self.read("secrets/nats-logins/users.conf");
        for user in [
            "clock-0",
            "clock-0-b",
            "clock-2",
            "clock-2-b",
            "edge",
            "edge-b",
        ] {
            assert!(users.contains(&format!("\"{user}\"")), "no {user}: {users}");
        }
    }
}

impl ScriptEnd {
    fn assert_success(&self) {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
    }

    fn assert_failure(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(message), "no {message}: {self:?}");
    }
}

fn run(script: &mut Command) -> ScriptEnd {
    let Output {
        status,
        stdout,
        stderr,
    } = script.output().unwrap();
    ScriptEnd {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

#[test]
fn the_first_run_needs_no_cluster_and_a_renewal_tells_every_running_server() {
    let machine = Machine::new();
    machine.follow("echo no engine >&2; exit 1");
    machine.make_secrets(&[]).assert_success();
    assert_eq!(machine.read("fake/calls"), "");

    machine.follow("");
    let before = machine.read("secrets/nats-tls/tls.crt");
    machine.make_secrets(&[]).assert_success();
    assert_eq!(machine.told(), SERVERS);
    assert_ne!(machine.read("secrets/nats-tls/tls.crt"), before);

    machine.follow(r#"case "$call" in *State.Running*nats-1) echo; exit ;; esac"#);
    machine.make_secrets(&[]).assert_success();
    assert_eq!(machine.told(), ["nats-0", "nats-2"]);

    machine.follow(r#"case "$call" in docker-compose*) exit 0 ;; esac"#);
    machine.make_secrets(&[]).assert_success();
    assert_eq!(machine.told(), [""; 0]);
}

#[test]
fn a_renewal_says_why_servers_were_not_told() {
    let machine = Machine::with_secrets();
    for (rules, reasons, told) in [
        (
            r#"case "$call" in docker-compose*) echo bad .env >&2; exit 1 ;; esac"#,
            &["bad .env"][..],
            0,
        ),
        (
            r#"case "$call" in *inspect*nats-1) echo no engine >&2; exit 1 ;; esac"#,
            &["no engine"],
            0,
        ),
        (
            r#"case "$call" in *kill*nats-[01]) echo not running >&2; exit 1 ;; esac"#,
            &["not running", "docker kill failed for nats-0 nats-1"],
            3,
        ),
    ] {
        machine.follow(rules);
        let before = machine.read("secrets/nats-tls/tls.crt");
        let ended = machine.make_secrets(&[]);
        for reason in reasons {
            ended.assert_failure(1, reason);
        }
        ended.assert_failure(1, "NATS servers were not told");
        assert!(ended.stdout.contains("The secrets are in"), "{ended:?}");
        assert_eq!(machine.told(), SERVERS[..told], "{ended:?}");
        assert_ne!(machine.read("secrets/nats-tls/tls.crt"), before);
    }
    let missing = run(machine
        .script("make-secrets.sh")
        .env("COMPOSE", "no-such-compose"));
    missing.assert_failure(1, "no-such-compose");
}

#[test]
fn only_one_script_at_a_time_works_on_the_secrets() {
    let machine = Machine::with_secrets();
    let lock = File::create(machine.path("secrets/private/lock")).unwrap();
    lock.lock().unwrap();
    for name in ["make-secrets.sh", "rotate-nats.sh"] {
        let message = format!("{name}: another make-secrets.sh or rotate-nats.sh");
        run(&mut machine.script(name)).assert_failure(1, &message);
    }
    lock.unlock().unwrap();
    machine.make_secrets(&[]).assert_success();
    machine.rotate_nats().assert_success();
}

#[test]
fn a_name_that_no_certificate_can_have_is_refused_and_forgotten() {
    let machine = Machine::with_secrets();
    let subject = || {
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]);
        run(openssl.arg(machine.path("secrets/edge/tls.crt"))).stdout
    };
    let unchanged = subject();
    let long_label = "a".repeat(64);
    for bad in [
        "300.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1..2.3",
        "::g",
        "1:2:3",
        "host:8080",
        "",
        " ",
        "a b",
        "a..b",
        ".a",
        "a.",
        "-a",
        "a-",
        "a.1",
        "*",
        "a.*",
        "a_b",
        "bücher",
        "a,DNS:b",
        "a\nb",
        &long_label,
    ] {
        machine
            .make_secrets(&["good.example", bad])
            .assert_failure(64, &format!("'{bad}'"));
        machine.make_secrets(&[]).assert_success();
        assert_eq!(subject(), unchanged, "after {bad:?}");
    }
    let good = [
        "ticks.example",
        "*.ticks.example",
        "host-1",
        "4u.example",
        "192.0.2.7",
        "0.255.10.99",
        "2001:db8::7",
        "::ffff:192.0.2.8",
    ];
    machine.make_secrets(&good).assert_success();
    let changed = subject();
    for name in [
        "DNS:*.ticks.example",
        "DNS:host-1",
        "192.0.2.7",
        "2001:DB8:0:0:0:0:0:7",
    ] {
        assert!(changed.contains(name), "no {name}: {changed}");
    }
    // They are remembered.
    machine.make_secrets(&[]).assert_success();
    assert_eq!(subject(), changed);
}

#[test]
fn scripts_find_the_secrets_where_compose_does() {
    let machine = Machine::new();
    let compose = machine.path("compose");
    let other_file = format!(
        "docker-compose --env-file {}",
        machine.path("other").display()
    );
    machine
        .directory
        .write("other", "SECRETS_DIR=./of-another-file\n");
    let make = |environment: &[(&str, &str)]| {
        let mut script = machine.script_without_secrets_dir("make-secrets.sh");
        run(script.envs(environment.iter().copied()))
    };
    for (env_file, environment, expected) in [
        ("", &[][..], "secrets"),
        ("SECRETS_DIR=\n", &[], "secrets"),
        ("# SECRETS_DIR=./no\nSTREAM_USER=x\n", &[], "secrets"),
        ("SECRETS_DIR=./plain\nA=b\n", &[], "plain"),
        ("SECRETS_DIR=./first\nSECRETS_DIR=./last", &[], "last"),
        ("export SECRETS_DIR = \"./quoted\" \n", &[], "quoted"),
        ("SECRETS_DIR='./single'\n", &[], "single"),
        ("SECRETS_DIR=../above\n", &[], "../above"),
        ("SECRETS_DIR=./crlf\r\n", &[], "crlf"),
        (
            "SECRETS_DIR=./no\n",
            &[("SECRETS_DIR", "./of the environment")],
            "of the environment",
        ),
        ("SECRETS_DIR=./no\n", &[("SECRETS_DIR", "")], "secrets"),
        (
            "SECRETS_DIR=./no\n",
            &[("COMPOSE", &*other_file)],
            "of-another-file",
        ),
    ] {
        machine.directory.write("compose/.env", env_file);
        make(environment).assert_success();
        let made = compose.join(expected);
        assert!(made.join("ca.crt").exists(), "{env_file:?} {environment:?}");
        fs::remove_dir_all(made).unwrap();
        // Nothing was made anywhere else.
        let directories = fs::read_dir(&compose).unwrap();
        let directories = directories.filter(|one| one.as_ref().unwrap().path().is_dir());
        assert_eq!(directories.count(), 0, "{env_file:?} {environment:?}");
    }
    for (env_file, environment) in [
        ("SECRETS_DIR=secrets\n", &[][..]),
        ("SECRETS_DIR=~/secrets\n", &[]),
        ("SECRETS_DIR=$HOME/secrets\n", &[]),
        ("SECRETS_DIR=./secrets # ours\n", &[]),
        ("", &[("SECRETS_DIR", "secrets")]),
        ("", &[("SECRETS_DIR", "/a:b")]),
        ("", &[("COMPOSE_ENV_FILES", "other")]),
    ] {
        machine.directory.write("compose/.env", env_file);
        for name in ["make-secrets.sh", "rotate-nats.sh"] {
            let mut script = machine.script_without_secrets_dir(name);
            let ended = run(script.envs(environment.iter().copied()));
            ended.assert_failure(1, "SECRETS_DIR");
        }
    }
}

#[test]
fn every_clock_has_a_login_of_its_own_and_one_that_is_missing_is_added() {
    let machine = Machine::with_secrets();
    let password = |login: &str| machine.read(&format!("secrets/{login}/nats-password"));
    let logins = ["clock-0", "clock-1", "clock-2", "edge"];
    let before = logins.map(password);
    let different: BTreeSet<_> = before.iter().collect();
    assert_eq!(different.len(), logins.len());
    // As in a directory of secrets from before there was a third clock.
    fs::remove_dir_all(machine.path("secrets/clock-2")).unwrap();
    machine.make_secrets(&[]).assert_success();
    let after = logins.map(password);
    for (login, (old, new)) in logins.iter().zip(before.iter().zip(&after)) {
        assert_eq!(old == new, *login != "clock-2", "{login}");
    }
    let users = machine.read("secrets/nats-logins/users.conf");
    for (login, password) in logins.iter().zip(&after) {
        let permissions = login.to_uppercase().replace('-', "_");
        let password = password.trim();
        let line = format!(
            "{{ user: \"{login}\", password: \"{password}\", permissions: ${permissions} }}"
        );
        assert!(users.contains(&line), "no {line} in {users}");
    }
}

#[test]
fn a_secret_that_could_not_be_made_is_made_by_the_next_run() {
    let machine = Machine::with_secrets();
    let files = [
        "edge/cookie-key",
        "clock-1/nats-password",
        "nats-logins/routes.conf",
    ];
    for file in files {
        let path = format!("secrets/{file}");
        fs::remove_file(machine.path(&path)).unwrap();
        machine.directory.write("fake/no-secrets", "");
        let end = machine.make_secrets(&[]);
        end.assert_failure(1, "there is nothing to write to");
        assert!(!machine.path(&path).exists(), "{file}");
        fs::remove_file(machine.path("fake/no-secrets")).unwrap();
        machine.make_secrets(&[]).assert_success();
        assert!(!machine.read(&path).trim().is_empty(), "{file}");
    }
    machine.directory.write("fake/no-secrets", "");
    assert_ne!(machine.rotate_nats().code, Some(0));
    fs::remove_file(machine.path("fake/no-secrets")).unwrap();
    machine.rotate_nats().assert_success();
}

#[test]
fn a_renewal_during_an_interrupted_rotation_keeps_the_old_logins_and_the_new_ones() {
    let machine = Machine::with_secrets();
    machine.follow(CONNECTIONS_UNKNOWN);
    machine.rotate_nats().assert_failure(1, "made valid again");
    machine.follow("");
    machine.make_secrets(&[]).assert_success();
    machine.assert_old_logins_are_valid();
    machine.rotate_nats().assert_success();
}

#[test]
fn a_rotation_gives_everybody_a_new_login() {
    let machine = Machine::with_secrets();
    machine.rotate_nats().assert_success();
    let users = machine.read("secrets/nats-logins/users.conf");
    for (user, is_valid) in [
        ("clock-0", false),
        ("clock-0-b", true),
        ("clock-1", false),
        ("clock-1-b", true),
        ("clock-2", false),
        ("clock-2-b", true),
        ("edge", false),
        ("edge-b", true),
    ] {
        assert_eq!(users.contains(&format!("\"{user}\"")), is_valid, "{users}");
    }
}

#[test]
fn a_rotation_needs_an_answer_to_every_query() {
    let told = r#"[ -e "$FAKE/reads.nats-1" ]"#;
    let last_step = r#"[ "$(cat "$FAKE/reads.nats-1" 2>/dev/null | wc -l)" -ge 3 ]"#;
    for (query, when, message) in [
        ("varz", "true", "nats-1 does not say"),
        ("varz", told, "nats-1 has read its new logins"),
        ("connz", "true", "all 3 clocks are connected"),
        ("connz", last_step, "all 3 clocks are connected"),
        ("routez", "true", "nats-1 is connected to the others"),
        ("ps -q", "true", "no engine"),
        ("State.Running", "true", "no engine"),
    ] {
        let machine = Machine::with_secrets();
        machine.follow(&format!(
            r#"case "$call" in
                *"{query}"*nats-1* | *nats-1*"{query}"*)
                    if {when}; then echo no engine >&2; exit 1; fi
                    ;;
            esac"#
        ));
        machine.rotate_nats().assert_failure(1, message);
    }
}

#[test]
fn a_failed_rotation_makes_the_old_logins_valid_again() {
    let machine = Machine::with_secrets();
    machine.follow(CONNECTIONS_UNKNOWN);
    machine
        .rotate_nats()
        .assert_failure(1, "the old logins are made valid again");
    machine.assert_old_logins_are_valid();
    let told = machine.told();
    assert_eq!(told[told.len() - 3..], SERVERS, "{told:?}");
    // It continues as soon as that is fixed.
    machine.follow("");
    machine.rotate_nats().assert_success();
    assert!(
        !machine
            .read("secrets/nats-logins/users.conf")
            .contains("\"clock-0\"")
    );
}

#[test]
fn neither_an_error_nor_a_signal_ends_a_rollback_early() {
    for (fault, message) in [
        (
            "kill -s TERM \"$PPID\"",
            "the old logins are made valid again",
        ),
        ("exit 1", "could not make nats-0 read its logins again"),
    ] {
        let machine = Machine::with_secrets();
        machine.follow(&format!(
            r#"{CONNECTIONS_UNKNOWN}
            case "$call" in
                "docker kill "*nats-0) if [ -e "$FAKE/broken" ]; then {fault}; fi ;;
            esac"#
        ));
        machine.rotate_nats().assert_failure(1, message);
        machine.assert_old_logins_are_valid();
        let told = machine.told();
        assert_eq!(told[told.len() - 3..], SERVERS, "{told:?}");
    }
    let machine = Machine::with_secrets();
    machine.follow(&format!(
        r#"if [ -e "$FAKE/broken" ]; then rm -rf "$SECRETS_DIR/nats-logins"; fi
        {CONNECTIONS_UNKNOWN}"#
    ));
    machine.rotate_nats().assert_failure(1, "could not write");
    let told = machine.told();
    assert_eq!(told[told.len() - 3..], SERVERS, "{told:?}");
}
