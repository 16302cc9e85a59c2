//! Whatever happens to a shard's clients, in any order: what each gets is whole frames, and ticks
//! without gap or duplicate.

use proptest::prelude::*;

use super::*;

/// What may happen.
#[derive(Clone, Debug)]
enum Happening {
    Connect,
    Auth(prop::sample::Index),
    Subscribe {
        who: prop::sample::Index,
        minute: bool,
        ahead: bool,
        /// Seconds before or after now.
        resume: Option<i64>,
    },
    Beat(prop::sample::Index),
    /// From now on its socket takes so many bytes.
    Narrow(prop::sample::Index, usize),
    Read(prop::sample::Index, usize),
    Leave(prop::sample::Index),
    Break(prop::sample::Index),
    Pass(u64),
    Stall(u64),
    /// What each call takes, in microseconds.
    Cost(u64),
    TimerIsFast(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let who = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Happening::Connect),
        4 => who().prop_map(Happening::Auth),
        6 => (who(), any::<bool>(), any::<bool>(), prop::option::of(-700_i64..20)).prop_map(
            |(who, minute, ahead, resume)| Happening::Subscribe { who, minute, ahead, resume }
        ),
        2 => who().prop_map(Happening::Beat),
        2 => (who(), 0_usize..200).prop_map(|(who, room)| Happening::Narrow(who, room)),
        3 => (who(), 1_usize..5_000).prop_map(|(who, most)| Happening::Read(who, most)),
        1 => who().prop_map(Happening::Leave),
        1 => who().prop_map(Happening::Break),
        6 => (1_u64..3_000).prop_map(Happening::Pass),
        1 => (1_u64..30_000).prop_map(Happening::Stall),
        1 => (0_u64..2_000).prop_map(Happening::Cost),
        1 => any::<bool>().prop_map(Happening::TimerIsFast),
    ]
}

impl Sim {
    fn happen(&mut self, happening: &Happening, clients: &mut Vec<RawFd>) {
        let pick = |who: &prop::sample::Index| {
            (!clients.is_empty()).then(|| clients[who.index(clients.len())])
        };
        match happening {
            Happening::Connect => {
                let client = self.script.connect();
                clients.push(client);
            }
            Happening::Auth(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_sends(client, &auth("pass"));
                }
            }
            Happening::Subscribe {
                who,
                minute,
                ahead,
                resume,
            } => {
                if let Some(client) = pick(who) {
                    let mode = if *minute { Mode::Minute } else { Mode::Second };
                    let now_ms = self.authority.time_at(self.now()).as_millis();
                    let point = resume.map(|seconds| now_ms + seconds * 1_000);
                    let bytes = subscribe(mode, *ahead, point);
                    self.script.client_sends(client, &bytes);
                }
            }
            Happening::Beat(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_sends(client, &heartbeat(1));
                }
            }
            Happening::Narrow(who, room) => {
                if let Some(client) = pick(who) {
                    self.script.on(client).room = Some(*room);
                }
            }
            Happening::Read(who, most) => {
                if let Some(client) = pick(who) {
                    self.script.client_reads(client, *most);
                }
            }
            Happening::Leave(who) => {
                if let Some(client) = pick(who) {
                    self.script.client_ends(client);
                }
            }
            Happening::Break(who) => {
                if let Some(client) = pick(who) {
                    self.script.breaks(client, nix::errno::Errno::ECONNRESET);
                }
            }
            Happening::Pass(ms) => self.run_for(Duration::from_millis(*ms)),
            Happening::Stall(ms) => self.stand_still(Duration::from_millis(*ms)),
            Happening::TimerIsFast(is_fast) => self.script.scene().timer_is_fast = *is_fast,
            Happening::Cost(us) => self.script.scene().cost = Duration::from_micros(*us),
        }
    }
}

/// Whether a client's stream is what a subscription promises: after each ACK of SUBSCRIBE every
/// tick of its mode, from
/// `start_epoch_ms` on.
fn judge(frames: &[RawFrame]) -> Result<(), TestCaseError> {
    let mut last = None;
    let mut period = None;
    for frame in frames {
        match frame.kind {
            ACK => {
                let ack: Ack = frame.decode();
                if ack.acked_type == 2 {
                    last = Some(ack.start_epoch_ms);
                    period = None;
                }
            }
            DATA_BATCH => {
                let batch: DataBatch = frame.decode();
                for tick in batch.ticks {
                    let this = if tick.mode == 0 { 1_000 } else { 60_000 };
                    prop_assert_eq!(*period.get_or_insert(this), this, "one mode");
                    let before = last.expect("no tick before an ACK");
                    let next = (before.div_euclid(this) + 1) * this;
                    prop_assert_eq!(tick.epoch_ms, next, "after {}", before);
                    last = Some(tick.epoch_ms);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_client_gets_whole_frames_and_every_tick_once(
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut settings = settings();
        settings.limits.frame_rate = 1_000;
        settings.feeds.behind_max = 8;
        let mut sim = Sim::new(settings);
        let mut clients = Vec::new();
        for happening in &happenings {
            sim.happen(happening, &mut clients);
        }
        sim.script.scene().cost = Duration::ZERO;
        sim.run_for(MS);
        for client in &clients {
            let mut bytes = sim.script.on(*client).sent.clone();
            let frames: Vec<_> = std::iter::from_fn(|| RawFrame::take(&mut bytes)).collect();
            judge(&frames)?;
        }
        // Whoever is still there goes on getting what is due.
        for client in &clients {
            sim.script.client_reads(*client, 100_000_000);
        }
        sim.run_for(2 * SECOND);
        for client in &clients {
            let frames = sim.frames(*client);
            judge(&frames)?;
            let socket = sim.script.on(*client);
            prop_assert!(socket.is_closed || socket.sent.is_empty(), "half a frame is left");
        }
    }
}
