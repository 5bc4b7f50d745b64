//! Tokens in requests: a number that names a connection, whatever is done to its addresses.
//!
//! A message that begins with a token is named by a tag of its own, so that it can be written again:
//!
//! ```text
//!  31   30..t              t-1..0
//! ┌───┬──────────────────┬────────────────────┐
//! │ 1 │ number of request │ number of template │
//! └───┴──────────────────┴────────────────────┘
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use crate::watch::ledger::{TOKEN_BYTES, write_token};

/// What tells a tag with a token from others.
const MARK: u32 = 1 << 31;

/// Templates at most: above them would be no room for the tags of requests without a token.
const TEMPLATES_MAX: usize = 1 << 10;

/// One worker's tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    /// What distinguishes this run and this worker.
    prefix: u64,
    template_bits: u32,
    issued: u32,
}

impl Tokens {
    /// Tokens of worker `worker` in a run with `seed`; `None` with too many templates.
    pub(super) fn new(seed: u64, worker: u32, templates: usize) -> Option<Self> {
        let template_bits = templates.max(2).next_power_of_two().trailing_zeros();
        // A search makes several runs in one process.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = (seed ^ seed >> 32).wrapping_add(RUNS.fetch_add(1, Ordering::Relaxed));
        let prefix = (run & 0xff_ffff) << 40 | u64::from(worker & 0xff) << 32;
        (templates <= TEMPLATES_MAX).then_some(Self { prefix, template_bits, issued: 0 })
    }

    /// The tag of the next request, which is made from `template`.
    pub(super) fn issue(&mut self, template: usize) -> u32 {
        self.issued = self.issued.wrapping_add(1);
        MARK | (self.issued << self.template_bits & !MARK) | template as u32
    }

    /// The template of a tag with a token; `None` of another.
    #[inline]
    pub(super) fn template(&self, tag: u32) -> Option<usize> {
        (tag & MARK != 0).then_some((tag & ((1 << self.template_bits) - 1)) as usize)
    }

    /// Writes what of the token, which begins at `token_at` of the message, falls into `out`, its octets from `offset` on.
    pub(super) fn write(&self, tag: u32, token_at: u64, offset: u64, out: &mut [u8]) {
        let token = write_token(self.prefix | u64::from((tag & !MARK) >> self.template_bits));
        let (from, to) = (token_at.max(offset), (token_at + TOKEN_BYTES as u64).min(offset + out.len() as u64));
        if from < to {
            let part = (from - token_at) as usize..(to - token_at) as usize;
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&token[part]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_alike_in_whatever_pieces() {
        let mut tokens = Tokens::new(0x1234_5678_9abc_def0, 3, 5).unwrap();
        let tags: Vec<_> = (0..5).map(|template| tokens.issue(template)).collect();
        let whole = |tag| {
            let mut out = [b'.'; 40];
            tokens.write(tag, 7, 0, &mut out);
            out
        };
        for (template, &tag) in tags.iter().enumerate() {
            assert_eq!(tokens.template(tag), Some(template));
            assert!(
                whole(tag)[7..].starts_with(b"SYN~") && whole(tag)[27..] == [b'.'; 13] && whole(tag)[..7] == [b'.'; 7]
            );
            for cut in 0..40 {
                let mut out = [b'.'; 40];
                let (head, tail) = out.split_at_mut(cut);
                tokens.write(tag, 7, 0, head);
                tokens.write(tag, 7, cut as u64, tail);
                assert_eq!(out, whole(tag), "{cut}");
            }
        }
        assert_ne!(whole(tags[0]), whole(tags[1]));
        assert_eq!(tokens.template(77), None);
        assert!(Tokens::new(0, 0, TEMPLATES_MAX + 1).is_none());
    }
}
