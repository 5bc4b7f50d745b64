//! Captures that are damaged, cut short or made of nothing but chance: something is said of each, and nothing panics.

use syncline::trace::ladder::{self, Style};
use syncline::trace::{self};

/// A small generator of chance, so that a failure can be repeated (Marsaglia 2003, xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// The records of a pcap as enhanced packet blocks of a pcapng (draft-ietf-opsawg-pcapng §4.3).
fn pcapng(pcap: &[u8]) -> Vec<u8> {
    let word = |value: u32| value.to_le_bytes();
    let mut out = Vec::new();
    let block = |out: &mut Vec<u8>, kind: u32, body: &[u8]| {
        let len = 12 + body.len().next_multiple_of(4) as u32;
        out.extend(word(kind));
        out.extend(word(len));
        out.extend(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(word(len));
    };
    block(&mut out, 0x0a0d_0d0a, &[&word(0x1a2b_3c4d)[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    // Ethernet, no snap length, if_tsresol 9.
    block(&mut out, 1, &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &[9, 0, 1, 0, 9, 0, 0, 0], &[0; 4]].concat());
    let at = |from: usize| u32::from_le_bytes(pcap[from..from + 4].try_into().unwrap());
    let mut from = 24;
    while from < pcap.len() {
        let (stamp, kept) = (u64::from(at(from)) * 1_000_000_000 + u64::from(at(from + 4)), at(from + 8) as usize);
        let head = [0, (stamp >> 32) as u32, stamp as u32, at(from + 8), at(from + 12)].map(word).concat();
        block(&mut out, 6, &[&head[..], &pcap[from + 16..from + 16 + kept]].concat());
        from += 16 + kept;
    }
    out
}

fn show(octets: &[u8]) -> Option<(usize, Option<String>)> {
    let trace = trace::read("test", octets, None, 10).ok()?;
    let text = ladder::render(&trace, Style { ascii: true, segments_max: 20 });
    assert!(!text.is_empty() && serde_json::to_string(&trace).is_ok());
    Some((trace.connections.len(), trace.damage))
}

#[test]
fn both_formats_tell_the_same() {
    let pcap = super::ordinary().pcap();
    let text = |octets: &[u8]| {
        let trace = trace::read("test", octets, None, 10).unwrap();
        assert_eq!(trace.damage, None);
        ladder::render(&trace, Style { ascii: false, segments_max: 200 })
    };
    assert_eq!(text(&pcap), text(&pcapng(&pcap)));
}

#[test]
fn a_capture_cut_anywhere_is_shown_up_to_there() {
    let pcap = super::ordinary().pcap();
    for file in [pcapng(&pcap), pcap] {
        let (_, damage) = show(&file).unwrap();
        assert_eq!(damage, None);
        let mut damaged = 0;
        for kept in 0..file.len() {
            damaged += usize::from(show(&file[..kept]).is_some_and(|(_, damage)| damage.is_some()));
        }
        assert!(damaged > file.len() / 2, "{damaged} of {}", file.len());
    }
}

#[test]
fn chance_makes_nothing_panic() {
    let pcap = super::ordinary().pcap();
    let mut chance = Chance(0x5eed);
    let mut shown = 0;
    for file in [pcapng(&pcap), pcap] {
        for _ in 0..3_000 {
            let mut mutant = file.clone();
            for _ in 0..1 + chance.below(12) {
                let at = chance.below(mutant.len());
                mutant[at] = match chance.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => mutant[at] ^ 1 << chance.below(8),
                    _ => chance.below(256) as u8,
                };
            }
            shown += usize::from(show(&mutant).is_some_and(|(connections, _)| connections > 0));
        }
        let noise: Vec<u8> = (0..4_096).map(|_| chance.below(256) as u8).collect();
        assert_eq!(show(&noise), None);
    }
    assert!(shown > 3_000, "{shown} mutants still had a connection in them");
}

#[test]
fn what_is_no_capture_is_refused() {
    for file in [&b""[..], b"x", b"hello, this is a letter and no capture at all"] {
        let error = trace::read("test", file, None, 10).unwrap_err().to_string();
        assert!(error == "it is empty" || error == "it is neither pcap nor pcapng", "{error}");
    }
}
