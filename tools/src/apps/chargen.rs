//! Character generator (RFC 864): rotating lines of 72 printing characters.

const PRINTING: usize = 95;
const LINE: usize = 72;
const CYCLE: usize = PRINTING * (LINE + 2);

/// Octets of one queued message: whole cycles, so that messages join without a seam.
pub(super) const MESSAGE: u32 = CYCLE as u32 * 37;

static TEXT: [u8; CYCLE] = text();

const fn text() -> [u8; CYCLE] {
    let mut out = [0; CYCLE];
    let mut i = 0;
    while i < CYCLE {
        let (line, column) = (i / (LINE + 2), i % (LINE + 2));
        out[i] = match column {
            LINE => b'\r',
            c if c > LINE => b'\n',
            c => b' ' + ((line + c) % PRINTING) as u8,
        };
        i += 1;
    }
    out
}

/// Writes the text from `offset` of a message on.
pub(super) fn fill(offset: u32, out: &mut [u8]) {
    let mut at = offset as usize % CYCLE;
    let mut rest = out;
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut((CYCLE - at).min(rest.len()));
        now.copy_from_slice(&TEXT[at..at + now.len()]);
        (rest, at) = (later, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_rotate_by_one_character() {
        let mut out = vec![0; MESSAGE as usize + 148];
        let (first, second) = out.split_at_mut(MESSAGE as usize);
        fill(0, first);
        fill(0, second);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert!(lines.iter().all(|line| line.len() == 72));
        assert!(lines.windows(2).all(|pair| pair[0][1..] == pair[1][..71]));
        assert!(lines[0].starts_with(" !\"#$"));
    }
}
