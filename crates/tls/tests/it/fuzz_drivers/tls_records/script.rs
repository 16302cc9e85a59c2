//! [`Script`]: the operations of a client, as any bytes, and the [`Stream`] that results from them.

use super::client::{Client, KEYS};

/// The content types of TLS.
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// The longest content of a record.
const CONTENT_MAX: usize = 1 << 14;
/// The longest stream, in bytes: more than any bound of a server.
const STREAM_MAX: usize = 100_000;
/// How many KeyUpdates any server accepts in a row.
const KEY_UPDATES_PROPER: usize = 16;

/// What a client sends.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) bytes: Vec<u8>,
    /// All records that the client has sealed in their order, without other bytes.
    pub(super) sealed: Vec<u8>,
    /// The data in them.
    pub(super) plaintext: Vec<u8>,
    /// The ends of the records.
    pub(super) ends: Vec<End>,
    /// Whether the client has sealed only data and a few KeyUpdates.
    pub(super) is_proper: bool,
    /// The number of the key in use, and of the records that it has sealed.
    key: usize,
    count: u64,
}

/// The end of a record in [`Stream::sealed`], and that of its data in [`Stream::plaintext`].
pub(super) struct End {
    pub(super) record: usize,
    pub(super) plaintext: usize,
}

impl Stream {
    /// Seals `inner`, which includes the content type and padding, as the next record.
    fn seal(&mut self, client: &Client, inner: &[u8]) {
        let record = client.seal(self.key, self.count, inner);
        self.count += 1;
        self.bytes.extend_from_slice(&record);
        self.sealed.extend_from_slice(&record);
        self.ends.push(End {
            record: self.sealed.len(),
            plaintext: self.plaintext.len(),
        });
    }

    fn seal_data(&mut self, client: &Client, data: &[u8], padding: usize) {
        self.plaintext.extend_from_slice(data);
        self.is_proper &= !data.is_empty() && data.len() + padding <= CONTENT_MAX;
        self.seal(client, &[data, &[DATA][..], &vec![0; padding]].concat());
    }

    /// Seals any bytes. The last one that is not 0 is the content type; what follows is padding.
    fn seal_any(&mut self, client: &Client, inner: &[u8]) {
        let content_type_at = inner.iter().rposition(|byte| *byte != 0);
        if let Some(at) = content_type_at.filter(|at| inner[*at] == DATA) {
            self.plaintext.extend_from_slice(&inner[..at]);
        }
        self.seal(client, inner);
    }

    fn update_key(&mut self, client: &Client, is_requested: bool) {
        self.seal(client, &[24, 0, 0, 1, is_requested.into(), HANDSHAKE]);
        (self.key, self.count) = (self.key + 1, 0);
        self.is_proper &= self.key <= KEY_UPDATES_PROPER;
    }
}

/// Operations, each followed by its operands. Beyond the end, all bytes are 0.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    /// Runs the script, after a proper handshake if the client is to do one first.
    pub(super) fn run(mut self, client: &Client, starts_properly: bool) -> Stream {
        let mut stream = Stream {
            is_proper: true,
            ..Stream::default()
        };
        if starts_properly {
            stream.bytes = [&client.hello[..], &client.finished].concat();
        }
        while !self.0.is_empty() && stream.bytes.len() < STREAM_MAX {
            self.step(client, &mut stream);
        }
        stream
    }

    fn step(&mut self, client: &Client, stream: &mut Stream) {
        match self.byte() % 15 {
            0 => stream.bytes.extend_from_slice(&client.hello),
            1 => stream.bytes.extend_from_slice(&client.finished),
            2 => stream.bytes.extend_from_slice(self.bytes()),
            3 => {
                let (content_type, content) = (self.byte(), self.bytes());
                stream.bytes.extend(plain(content_type, content));
            }
            4 => {
                let data = self.bytes();
                stream.seal_data(client, data, 0);
            }
            5 => {
                let (data, padding) = (self.bytes(), usize::from(self.byte()) * 64);
                stream.seal_data(client, data, padding);
            }
            6 => {
                let (content_type, content) = (self.byte(), self.bytes());
                stream.is_proper = false;
                stream.seal_any(client, &[content, &[content_type]].concat());
            }
            7 => stream.update_key(client, self.0.first().is_some_and(|byte| byte % 2 == 1)),
            8 => {
                let (from_end, change) = (self.number(), self.byte());
                let at = stream.bytes.len().checked_sub(1 + from_end);
                if let Some(byte) = at.and_then(|at| stream.bytes.get_mut(at)) {
                    *byte ^= change;
                }
            }
            9 => {
                let kept = stream.bytes.len().saturating_sub(self.number());
                stream.bytes.truncate(kept);
            }
            10 => {
                let start = stream.bytes.len().saturating_sub(self.number());
                stream.bytes.extend_from_within(start..);
            }
            11 => {
                let fragment = 1 + usize::from(self.byte());
                let message = &client.hello[5..];
                let records = message
                    .chunks(fragment)
                    .flat_map(|part| plain(HANDSHAKE, part));
                stream.bytes.extend(records);
            }
            12 => {
                let (key, count) = (usize::from(self.byte()), u64::from(self.byte()));
                let is_next = (key % KEYS, count) == (stream.key % KEYS, stream.count);
                if !is_next {
                    let content = [self.bytes(), &[DATA]].concat();
                    stream.bytes.extend(client.seal(key, count, &content));
                }
            }
            13 => {
                let len = CONTENT_MAX - 1 + usize::from(self.byte() % 3);
                stream.seal_data(client, &vec![7; len], 0);
            }
            _ => stream.bytes.extend_from_slice(&plain(20, &[1])),
        }
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte());
        self.take(len)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Returns a record that is not protected.
fn plain(content_type: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    [&[content_type, 3, 3, len[0], len[1]], content].concat()
}
