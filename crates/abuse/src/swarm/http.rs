//! [`AnswerStatus`]: whether the admin port has granted what a connection asked for.

/// The length of the start of an answer, up to its status code.
const START_LEN: usize = b"HTTP/1.1 200".len();

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its status is below 400.
    Granted,
    /// Its status is 400 or above, or it is not an answer in HTTP.
    Refused,
}

/// The start of an answer, which may arrive in pieces. One connection carries one request.
#[derive(Debug, Default)]
pub(super) struct AnswerStatus {
    start: Vec<u8>,
    is_taken: bool,
}

impl AnswerStatus {
    /// Takes input. What follows the status code is ignored.
    pub(super) fn handle_input(&mut self, bytes: &[u8]) {
        let missing = START_LEN - self.start.len();
        self.start.extend(bytes.iter().take(missing));
    }

    /// Returns the verdict once, as soon as it is known.
    pub(super) fn take(&mut self) -> Option<Verdict> {
        if self.is_taken || self.start.len() < START_LEN {
            return None;
        }
        self.is_taken = true;
        let is_granted =
            self.start.starts_with(b"HTTP/1.") && matches!(self.start[9], b'1' | b'2' | b'3');
        Some(match is_granted {
            true => Verdict::Granted,
            false => Verdict::Refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(answer: &[u8], piece: usize) -> Vec<Verdict> {
        let mut status = AnswerStatus::default();
        let mut found = Vec::new();
        for bytes in answer.chunks(piece) {
            status.handle_input(bytes);
            found.extend(status.take());
        }
        found
    }

    #[test]
    fn an_answer_in_any_pieces_has_one_verdict() {
        for piece in 1..40 {
            let granted = b"HTTP/1.1 204 No Content\r\nHTTP/1.1 403\r\n";
            assert_eq!(verdicts(granted, piece), [Verdict::Granted], "{piece}");
            let refused = b"HTTP/1.1 403 Forbidden\r\n\r\n";
            assert_eq!(verdicts(refused, piece), [Verdict::Refused], "{piece}");
        }
        assert_eq!(verdicts(b"HTTP/1.1 20", 1), []);
        assert_eq!(verdicts(b"SSH-2.0-OpenSSH", 4), [Verdict::Refused]);
    }
}
