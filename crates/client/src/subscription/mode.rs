//! Changes of mode, on the connection in use if there is one. The ticks of the old mode end, and
//! those of the new one begin, with the edge's acknowledgement.

use std::num::NonZeroU32;
use std::time::Duration;

use tickstorm_timebase::{Epoch, Mono};

use super::mover::Mover;
use super::{Link, Subscription};
use crate::alarm_clock::AlarmClock;
use crate::dial::Dial;
use crate::event::Event;
use crate::resume::Resume;

/// The frames for whose time a connection pauses between two SUBSCRIBEs. An edge counts each as
/// ten, and HEARTBEATs take the rest.
const FRAMES_APART: u32 = 15;
/// The frames per second of an edge that does not tell its limit, which is the default.
const FRAME_RATE: u32 = 10;

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    /// Asks the edge for the mode that the program wants, if it is another one and may be asked for
    /// now. Only one change is under way at any time.
    pub(super) fn ask_for_mode(&mut self, link: &mut Link<D::Socket>) {
        let now = self.clock.now();
        if self.mode_due(link).is_none_or(|due| due > now) {
            return;
        }
        let changed = self.wanted_position();
        let (mode, point) = (changed.mode(), changed.point());
        link.connection.change_mode(mode, self.options.ahead, point);
        link.change = Some(changed);
        link.asked_at = now;
    }

    /// Returns when to ask the edge for another mode, if one is wanted.
    pub(super) fn mode_due(&self, link: &Link<D::Socket>) -> Option<Mono> {
        if link.change.is_some() || *self.wanted.borrow() == self.resume.mode() {
            return None;
        }
        let frame_rate = link.frame_rate_limit.map_or(FRAME_RATE, NonZeroU32::get);
        let mut spacing = Duration::from_secs(1) * FRAMES_APART / frame_rate;
        if self.sparing {
            spacing *= 2;
        }
        Some(link.asked_at + spacing)
    }

    /// Continues in the mode that the edge has acknowledged. An attempt to move that has asked for
    /// the old one is made again.
    pub(super) fn handle_mode_accepted(
        &mut self,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        start: Epoch,
    ) {
        if let Some(changed) = link.change.take() {
            self.resume.change(changed);
            self.resume.handle_start(start);
            mover.subscribe_again(self.clock.now());
        }
    }

    /// Returns the position of a new connection, in the mode that the program wants. It takes the
    /// place of the current one when the edge has acknowledged it.
    pub(super) fn wanted_position(&mut self) -> Resume {
        let wanted = *self.wanted.borrow_and_update();
        self.resume.changed_to(wanted, self.present())
    }

    /// Returns the event for a change that was not reported yet.
    pub(super) fn mode_event(&mut self) -> Option<Event> {
        let mode = self.resume.mode();
        let start = self.resume.point()?;
        if std::mem::replace(&mut self.reported, mode) == mode {
            return None;
        }
        Some(Event::ModeChanged { mode, start })
    }

    /// Returns the latest millisecond that has certainly begun by authority time, or `None` if that
    /// is not known.
    fn present(&self) -> Option<Epoch> {
        let estimator = self.estimator.borrow();
        let estimate = estimator.estimate_lateness(self.clock.now())?;
        Some(Epoch::from_ms(estimate.earliest().as_millis()))
    }
}
