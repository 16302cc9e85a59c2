//! TLS of clients: handshakes, and records that arrive. The frames in them are handled as without
//! TLS.

use tickstorm_tls::{HandshakeProgress, Opened};

use super::Worker;
use crate::generator::channel::{ClientChannel, send_all};
use crate::generator::clients::ClientParts;
use crate::generator::connection_end::ConnectionEnd;

impl Worker {
    /// Handles input of a client that uses TLS, which starts with the kept start of a record.
    pub(super) fn handle_records(&mut self, slot: u32, input: &mut [u8]) {
        match self.clients.channel(slot) {
            Some(ClientChannel::Secured(_)) => self.open(slot, input),
            Some(ClientChannel::Handshake(_)) => self.shake_hands(slot, input),
            Some(ClientChannel::Plain) | None => {}
        }
    }

    /// Continues a handshake, and sends the first frames with its last message.
    fn shake_hands(&mut self, slot: u32, input: &[u8]) {
        let Some(parts) = self.clients.parts_of(slot) else {
            return;
        };
        let ClientParts {
            client,
            socket,
            channel,
            ..
        } = parts;
        let ClientChannel::Handshake(handshake) = channel else {
            return;
        };
        let output = &mut self.sealed;
        output.clear();
        let mut unread = Vec::new();
        match handshake.handle_input(input, output) {
            Ok(HandshakeProgress::InProgress) => {}
            Ok(HandshakeProgress::Established(established)) => {
                let mut session = established.session;
                unread = established.unread;
                self.shared
                    .cipher_suite
                    .get_or_init(|| session.cipher_suite());
                let (bytes, state) = self.greetings.of(client);
                client.state = state;
                if let Err(error) = session.seal(bytes, output) {
                    return self.end(slot, &ConnectionEnd::Seal(error));
                }
                *channel = ClientChannel::Secured(session);
            }
            Err(error) => {
                // The alert is for the edge's log. The reason is reported here.
                let _ = send_all(socket, output);
                return self.end(slot, &ConnectionEnd::Handshake(error));
            }
        }
        if let Err(why) = send_all(socket, output) {
            return self.end(slot, &why);
        }
        if !unread.is_empty() {
            self.open(slot, &mut unread);
        }
    }

    /// Opens the complete records of `input`, handles the frames in them, and keeps the incomplete
    /// record.
    fn open(&mut self, slot: u32, input: &mut [u8]) {
        let Some(ClientChannel::Secured(session)) = self.clients.channel(slot) else {
            return;
        };
        let mut plaintext = std::mem::take(&mut self.plaintext);
        plaintext.clear();
        if let Some(partial) = self.partial_frames.remove(&slot) {
            plaintext.extend_from_slice(&partial);
        }
        let mut at = 0;
        let end = loop {
            match session.open(&mut input[at..]) {
                Ok(Opened::Incomplete) => break None,
                Ok(Opened::Record { record, content }) => {
                    plaintext.extend_from_slice(&input[at..][content]);
                    at += record;
                }
                Ok(Opened::Closed) => break Some(ConnectionEnd::ClosedByEdge),
                Err(error) => break Some(ConnectionEnd::Open(error)),
            }
        };
        self.meter.count_opening();
        if end.is_none() {
            self.keep_partial_input(slot, &input[at..]);
        }
        if !plaintext.is_empty() {
            self.handle_frames(slot, &plaintext);
        }
        self.plaintext = plaintext;
        if let Some(end) = end {
            self.end(slot, &end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tickstorm_command::credentials::ClientCredentials;
    use tickstorm_command::throw_away_certificate::{KeyType, ThrowAwayCertificate};
    use tickstorm_protocol::FrameType;
    use tickstorm_protocol::frame::encode;
    use tickstorm_protocol::message::{Ack, encode_batch};
    use tickstorm_timebase::{Epoch, Mode, Quality, Tick};
    use tickstorm_tls::{Alert, Handshake, HandshakeProgress, Session, server_config};

    use crate::generator::account::Faults;
    use crate::generator::{
        ClientSetup, ClientSources, Generator, GeneratorShared, Greeting, Harvest,
    };
    use crate::machine::now_ns;
    use crate::tls::ClientTls;

    /// The epoch_ms after which the subscription starts.
    const START_MS: i64 = 1_770_091_506_000;
    /// The number of ticks sent, each in its own frame.
    const TICKS: u8 = 60;
    /// Keys last for this many records, so that the server replaces them several times.
    const RECORDS_MAX: u64 = 16;

    fn config(certificate: &ThrowAwayCertificate) -> Arc<ServerConfig> {
        let settings = certificate.edge_settings(false);
        let file = |name| {
            let found = settings.iter().find(|(setting, _)| *setting == name);
            found.map(|(_, file)| file).unwrap()
        };
        let chain = CertificateDer::from_pem_file(file("TLS_CERT_FILE")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("TLS_KEY_FILE")).unwrap();
        Arc::new(server_config(vec![chain], key, None).unwrap())
    }

    fn accept(listener: &TcpListener, config: Arc<ServerConfig>) -> (TcpStream, Session) {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut handshake = Handshake::with_records_max(config, RECORDS_MAX).unwrap();
        let mut bytes = [0; 4_096];
        loop {
            let len = stream.read(&mut bytes).unwrap();
            let mut output = Vec::new();
            let progress = handshake.handle_input(&bytes[..len], &mut output).unwrap();
            stream.write_all(&output).unwrap();
            if let HandshakeProgress::Established(established) = progress {
                return (stream, *established.session);
            }
        }
    }

    fn ack(acked: FrameType) -> Vec<u8> {
        let ack = Ack {
            acked_type: acked.byte().into(),
            start_epoch_ms: START_MS,
            ..Ack::default()
        };
        let mut frame = Vec::new();
        encode(FrameType::Ack, &ack, &mut frame);
        frame
    }

    fn tick(number: u8) -> Vec<u8> {
        let epoch_ms = START_MS + 1_000 * i64::from(number);
        let tick = Tick {
            epoch: Epoch::from_ms(epoch_ms),
            quality: Quality::Normal,
        };
        let mut frame = Vec::new();
        encode_batch(Mode::Second, &[tick], epoch_ms * 1_000, &mut frame);
        frame
    }

    /// Seals frames as an edge may: alone, several in a record, and one over several records.
    fn records(session: &mut Session) -> Vec<u8> {
        let mut sealed = Vec::new();
        let mut frames = [FrameType::Auth, FrameType::Subscribe].map(ack).concat();
        for number in 1..=TICKS {
            frames.extend_from_slice(&tick(number));
            let pieces = match number % 3 {
                0 => continue,
                1 => vec![&frames[..]],
                _ => frames.chunks(11).collect(),
            };
            for piece in pieces {
                session.seal(piece, &mut sealed).unwrap();
            }
            frames.clear();
        }
        session.seal(&frames, &mut sealed).unwrap();
        sealed
    }

    fn setup(addr: SocketAddr, tls: ClientTls) -> ClientSetup {
        ClientSetup {
            addr,
            sources: ClientSources::default(),
            mode: Mode::Second,
            ahead: false,
            lead: Duration::ZERO,
            credentials: ClientCredentials::Password("user".into(), "password".to_owned().into()),
            tls: Some(tls),
            heartbeat: Duration::from_secs(3_600),
            yields: false,
            cpus: Vec::new(),
        }
    }

    /// Connects a client to a server that sends all records in segments of this length and then
    /// close_notify if `close` is set, and returns what the client has seen in the end.
    fn harvest(segment: usize, close: bool) -> Harvest {
        let certificate = ThrowAwayCertificate::new(&["localhost"], KeyType::EcdsaP256).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tls = ClientTls::trusting(&certificate.authority_file()).unwrap();
        let setup = setup(listener.local_addr().unwrap(), tls);
        let config = config(&certificate);
        let server = thread::spawn(move || {
            let (mut stream, mut session) = accept(&listener, config);
            let mut bytes = records(&mut session);
            if close {
                session.seal_alert(Alert::CloseNotify, &mut bytes).unwrap();
            }
            for segment in bytes.chunks(segment) {
                stream.write_all(segment).unwrap();
            }
            // A connection that is closed before its input has been read is reset.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let shared = Arc::<GeneratorShared>::default();
        // The last tick is due now.
        let last_ns = (START_MS + 1_000 * i64::from(TICKS)) * 1_000_000;
        let now_ns = i64::try_from(now_ns()).unwrap();
        shared.set_offset(last_ns - now_ns, 0);
        let mut generator = Generator::start(setup, shared, 1, 1_024, false).unwrap();
        generator.connect(1, Greeting::Pipelined, 1);
        while generator.done() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        let harvest = generator.harvest(None).unwrap();
        server.join().unwrap();
        harvest
    }

    #[test]
    fn every_frame_is_read_however_records_are_split_and_keys_are_replaced() {
        for segment in [1, 2, 7, 100, 1_000_000] {
            let harvest = harvest(segment, true);
            let ends: Vec<_> = harvest.ends.keys().map(|end| end.text.as_str()).collect();
            assert_eq!(ends, ["closed by the edge"], "segments of {segment}");
            let expected = Faults {
                disconnected: 1,
                ..Faults::default()
            };
            assert_eq!(harvest.faults, expected, "segments of {segment}");
            let ticks: u64 = harvest.seen.iter().map(|seen| seen.count).sum();
            assert_eq!(ticks, u64::from(TICKS), "segments of {segment}");
        }
    }

    #[test]
    fn an_end_without_close_notify_is_reported() {
        let harvest = harvest(1_000_000, false);
        let ends: Vec<_> = harvest.ends.keys().map(|end| end.text.as_str()).collect();
        assert_eq!(ends, ["closed by the edge without close_notify"]);
    }
}
