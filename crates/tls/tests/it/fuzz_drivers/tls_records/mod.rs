//! Interprets any bytes as a script of what a client sends to a server, before, during and after
//! the handshake. The client knows its own secrets, so it can seal anything.
//!
//! However the stream is cut, the server must behave the same. It must open exactly what the client
//! has sealed, and nothing that rustls' own server would not read. Errors are final, and memory is
//! bounded.

mod client;
mod fixed;
mod script;

use std::io::Read as _;
use std::sync::Arc;

use rustls::ServerConnection;
use tickstorm_tls::{Handshake, HandshakeError, HandshakeProgress, OpenError, Opened, Session};

use self::client::Client;
use self::script::{Script, Stream};

/// The most bytes that a server accepts before the end of the handshake if clients have no
/// certificates; other servers accept more.
const HANDSHAKE_BYTES_MAX: usize = 18 * 1024;
/// The longest stream that is also passed to the server byte by byte.
const SINGLE_BYTES_MAX: usize = 3_000;

/// The observable behaviour of a server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Transcript {
    answers: Vec<u8>,
    /// The number of bytes that the handshake took.
    handshake_len: Option<usize>,
    plaintext: Vec<u8>,
    /// The peer has closed its side.
    is_closed: bool,
    error: Option<String>,
    /// Whether the server has to replace its keys.
    has_control: bool,
}

/// The settings of a server.
#[derive(Clone, Copy)]
struct Rules {
    has_small_limit: bool,
    replaces_keys: bool,
}

pub(crate) fn run(data: &[u8]) {
    let &[flags, cut, ref script @ ..] = data else {
        return;
    };
    let rules = Rules {
        has_small_limit: flags & 1 == 1,
        replaces_keys: flags & 2 == 2,
    };
    let client = Client::fixed();
    let stream = Script(script).run(client, flags & 4 == 4);
    let bytes = &stream.bytes[..];
    let cut = usize::from(cut);
    let whole = serve(rules, [bytes]);
    check_plaintext(client, &stream, &whole);
    compare_with_rustls(bytes, &whole);
    let (head, tail) = bytes.split_at((cut * 8).min(bytes.len()));
    // A longer handshake may be refused after any piece of it.
    let is_comparable = bytes.len() <= HANDSHAKE_BYTES_MAX;
    for (how, transcript) in [
        ("cut", serve(rules, [head, tail])),
        ("in chunks", serve(rules, bytes.chunks(1 + 7 * cut))),
    ] {
        assert!(
            !is_comparable || transcript == whole,
            "{how}: {transcript:?}, not {whole:?}"
        );
    }
    if bytes.len() <= SINGLE_BYTES_MAX {
        assert_eq!(serve(rules, bytes.chunks(1)), whole, "byte by byte");
    }
}

/// The part of a connection that a server is in.
enum Stage {
    Handshake(Box<Handshake>),
    Session(Box<Session>),
    Failed,
}

fn serve<'a>(rules: Rules, pieces: impl IntoIterator<Item = &'a [u8]>) -> Transcript {
    let records_max = if rules.replaces_keys { 8 } else { u64::MAX };
    let handshake = Handshake::with_records_max(fixed::server_config(), records_max);
    let mut handshake = handshake.expect("a usable configuration");
    if rules.has_small_limit {
        handshake = handshake.without_client_certificate();
    }
    let mut stage = Stage::Handshake(Box::new(handshake));
    let (mut transcript, mut input, mut received) = (Transcript::default(), Vec::new(), 0);
    for piece in pieces {
        received += piece.len();
        stage = match stage {
            Stage::Handshake(handshake) => {
                shake_hands(handshake, piece, received, &mut transcript, &mut input)
            }
            Stage::Session(session) => {
                input.extend_from_slice(piece);
                Stage::Session(session)
            }
            Stage::Failed => return transcript,
        };
        if let Stage::Session(session) = &mut stage {
            open_all(session, &mut input, &mut transcript);
        }
    }
    if let Stage::Session(session) = &mut stage {
        finish(session, &mut transcript);
    }
    transcript
}

fn shake_hands(
    mut handshake: Box<Handshake>,
    piece: &[u8],
    received: usize,
    transcript: &mut Transcript,
    input: &mut Vec<u8>,
) -> Stage {
    match handshake.handle_input(piece, &mut transcript.answers) {
        Ok(HandshakeProgress::InProgress) => {
            // A vector grows to twice what it must hold, and what came after the answer is counted
            // even while it is in that vector.
            let bound = 3 * received.min(4 * HANDSHAKE_BYTES_MAX);
            assert!(
                handshake.buffered() <= bound.max(64),
                "{}",
                handshake.buffered()
            );
            assert!(transcript.answers.len() <= 8 * 1024);
            Stage::Handshake(handshake)
        }
        Ok(HandshakeProgress::Established(established)) => {
            assert!(established.peer_certificate.is_none());
            assert_ended(&mut handshake);
            transcript.handshake_len = Some(received - established.unread.len());
            *input = established.unread;
            Stage::Session(established.session)
        }
        Err(error) => {
            assert_ended(&mut handshake);
            transcript.error = Some(format!("{error:?}"));
            Stage::Failed
        }
    }
}

fn assert_ended(handshake: &mut Handshake) {
    let mut output = Vec::new();
    let more = handshake.handle_input(&Client::fixed().hello, &mut output);
    assert!(matches!(more, Err(HandshakeError::Ended)) && output.is_empty());
}

/// Opens the complete records of the input.
fn open_all(session: &mut Session, input: &mut Vec<u8>, transcript: &mut Transcript) {
    while transcript.error.is_none() && !transcript.is_closed {
        match session.open(input) {
            Ok(Opened::Incomplete) => {
                assert!(input.len() < Session::RECORD_MAX, "{} bytes", input.len());
                break;
            }
            Ok(Opened::Record { record, content }) => {
                assert!(content.end <= record && content.len() <= Session::CONTENT_MAX);
                transcript.plaintext.extend_from_slice(&input[content]);
                input.drain(..record);
            }
            Ok(Opened::Closed) => transcript.is_closed = true,
            Err(error) => transcript.error = Some(format!("{error:?}")),
        }
    }
    session.finish_opening();
}

/// Checks that the end of the input is final, and that the server can still send.
fn finish(session: &mut Session, transcript: &mut Transcript) {
    if transcript.is_closed || transcript.error.is_some() {
        let mut record = [
            23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(session.open(&mut record), Err(OpenError::Closed));
        assert_eq!(session.open(&mut []), Err(OpenError::Closed));
    }
    transcript.has_control = session.has_control();
    let mut output = Vec::new();
    session.seal(b"answer", &mut output).expect("usable keys");
    assert!(!session.has_control() || transcript.is_closed || transcript.error.is_some());
    transcript.answers.extend(output);
}

/// What was opened must be what the client has sealed, up to the first record that is not one of
/// the client's in their order.
fn check_plaintext(client: &Client, stream: &Stream, transcript: &Transcript) {
    let Some(handshake_len) = transcript.handshake_len else {
        assert_eq!(
            transcript.plaintext,
            [],
            "data before the end of the handshake"
        );
        return;
    };
    let (handshake, records) = stream.bytes.split_at(handshake_len);
    assert!(
        with_one_version(handshake).ends_with(client.finished_record()),
        "nobody has finished"
    );
    let same = records
        .iter()
        .zip(&stream.sealed)
        .take_while(|(a, b)| a == b);
    let same = same.count();
    let arrived = stream.ends.iter().take_while(|end| end.record <= same);
    let plaintext_len = arrived.last().map_or(0, |end| end.plaintext);
    let sealed = &stream.plaintext[..plaintext_len];
    if stream.is_proper {
        assert!(
            transcript.plaintext == sealed,
            "other data than the client's"
        );
    } else {
        assert!(sealed.starts_with(&transcript.plaintext), "forged data");
    }
}

/// Returns records with the version that the client gives, since rustls ignores the version of a
/// protected record during a handshake.
fn with_one_version(records: &[u8]) -> Vec<u8> {
    let mut records = records.to_vec();
    let mut rest = &mut records[..];
    while let Some((header, after)) = rest.split_first_chunk_mut::<5>() {
        (header[1], header[2]) = (3, 3);
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        rest = after.get_mut(len..).unwrap_or_default();
    }
    records
}

/// rustls' own server must have read everything that was opened, and have found no error that this
/// one has not.
fn compare_with_rustls(bytes: &[u8], transcript: &Transcript) {
    let mut server = ServerConnection::new(Arc::clone(&fixed::server_config())).expect("usable");
    let (mut plaintext, mut error) = (Vec::new(), None);
    let mut buffer = [0; 1 << 14];
    for mut piece in bytes.chunks(4_096) {
        while !piece.is_empty() && error.is_none() {
            match server.read_tls(&mut piece) {
                // It reads nothing after close_notify.
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return,
            }
            error = server.process_new_packets().err();
            while let Ok(read @ 1..) = server.reader().read(&mut buffer) {
                plaintext.extend_from_slice(&buffer[..read]);
            }
        }
    }
    assert!(
        plaintext.starts_with(&transcript.plaintext),
        "rustls has read other data"
    );
    if transcript.handshake_len.is_some() {
        assert!(
            !server.is_handshaking(),
            "rustls is not established: {error:?}"
        );
    }
    if transcript.error.is_none() {
        // rustls judges a header before its record is complete.
        let is_excused = transcript.is_closed || ends_in_a_judged_header(bytes);
        assert!(error.is_none() || is_excused, "rustls found {error:?}");
        assert!(plaintext == transcript.plaintext, "rustls has read more");
    }
}

/// Returns whether a stream of records ends within a header, or with a part of a record of another
/// version, which RFC 8446 says to ignore (section 5.1).
fn ends_in_a_judged_header(mut bytes: &[u8]) -> bool {
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some(after) = rest.get(len..) else {
            return header[1] != 3;
        };
        bytes = after;
    }
    !bytes.is_empty()
}
