//! The tunables, and those of them that segments and timers ask for in the engine's own units.

use core::ops::Deref;
use core::time::Duration;

use crate::config::{Ecn, TcpConfig};

/// A worker's [`TcpConfig`]. Its times are turned into whole numbers once: a [`Duration`] takes a multiplication and a
/// division each time it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Tunables {
    given: TcpConfig,
    /// Smallest, first and largest RTO, microseconds.
    pub(crate) rto_min_us: u32,
    pub(crate) rto_initial_us: u32,
    pub(crate) rto_max_us: u32,
    /// Delay of acknowledgements and life of FIN-WAIT-2, milliseconds, at least one.
    pub(crate) ack_delay_ms: u32,
    pub(crate) fin_wait_2_ms: u32,
    /// Segments after which an acknowledgement goes out at once (RFC 9293 §3.8.6.3, RFC 5681 §4.2).
    pub(crate) ack_every: u8,
    /// Shift of the windows we send: as configured, or the least that lets the window field hold the largest window (RFC
    /// 7323 §2.3).
    pub(crate) receive_scale: u8,
    /// The window in our SYN or SYN-ACK, which is never scaled (RFC 7323 §2.2).
    pub(crate) syn_window: u16,
    /// We take timestamps, SACK and window scaling.
    pub(crate) takes_offer: bool,
    /// Our SYN offers timestamps, SACK and window scaling, and no ECN.
    pub(crate) usual_offer: bool,
}

impl From<TcpConfig> for Tunables {
    fn from(given: TcpConfig) -> Self {
        let takes_offer = given.timestamps && given.sack && given.window_scaling;
        Self {
            rto_min_us: micros(given.rto_min),
            rto_initial_us: micros(given.rto_initial),
            rto_max_us: micros(given.rto_max),
            ack_delay_ms: given.ack_delay.as_millis().max(1) as u32,
            fin_wait_2_ms: given.fin_wait_2.as_millis().max(1) as u32,
            ack_every: if given.ack_delay.is_zero() { 1 } else { 2 },
            receive_scale: given.window_scale.unwrap_or(least_scale(given.receive_window)),
            //= RFC 7323 2.2-MUST-3
            syn_window: given.receive_window.min(u16::MAX.into()) as u16,
            takes_offer,
            usual_offer: takes_offer && given.ecn != Ecn::On,
            given,
        }
    }
}

impl Tunables {
    /// The one tunable that may change while connections are there; it is not among those kept in other units.
    pub(crate) fn set_user_timeout(&mut self, limit: Option<Duration>) {
        self.given.user_timeout = limit;
    }
}

impl Deref for Tunables {
    type Target = TcpConfig;

    #[inline]
    fn deref(&self) -> &TcpConfig {
        &self.given
    }
}

/// The least shift that lets 16 bits hold `window`.
fn least_scale(window: u32) -> u8 {
    (u32::BITS - window.leading_zeros()).saturating_sub(u16::BITS) as u8
}

/// Microseconds of a duration that the configuration has checked to be short.
fn micros(duration: Duration) -> u32 {
    const SECONDS_MAX: u64 = u32::MAX as u64 / 1_000_000 - 1;
    duration.as_secs().min(SECONDS_MAX) as u32 * 1_000_000 + duration.subsec_micros()
}
