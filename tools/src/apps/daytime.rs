//! Daytime (RFC 867): the date and time as one line of text.

use std::time::{Duration, SystemTime};

use syncline_engine::time::Instant;

/// Octets of a line: RFC 3339 in UTC, to the second, and CR LF.
const LINE: usize = 22;

/// Makes the greeting, at most once a second.
#[derive(Debug)]
pub(super) struct Daytime {
    /// The wall clock at [`Instant::ZERO`].
    origin: SystemTime,
    second: u64,
    line: [u8; LINE],
}

impl Daytime {
    pub(super) fn new(origin: SystemTime) -> Self {
        Self { origin, second: u64::MAX, line: [b'\n'; LINE] }
    }

    /// The line for the time `now`.
    pub(super) fn line(&mut self, now: Instant) -> &[u8] {
        let wall = self.origin + Duration::from_nanos(now.nanos());
        let second = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            let mut rest = &mut self.line[..];
            // Years past 9999 do not fit: the line is cut, which a greeting can stand.
            let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let _ =
                std::io::Write::write_fmt(&mut rest, format_args!("{}\r\n", humantime::format_rfc3339_seconds(whole)));
        }
        &self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_second_long() {
        let mut daytime = Daytime::new(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900));
        assert_eq!(daytime.line(Instant::ZERO), b"2023-11-14T22:13:20Z\r\n");
        assert_eq!(daytime.line(Instant::from_millis(99)), b"2023-11-14T22:13:20Z\r\n");
        assert_eq!(daytime.line(Instant::from_millis(100)), b"2023-11-14T22:13:21Z\r\n");
    }
}
