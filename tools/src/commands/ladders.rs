//! The ladders of a run's first connections.

use crate::trace::ladder::{self, Style};
use crate::watch::SharedWatch;

/// Segments shown of one connection.
const SEGMENTS_MAX: usize = 200;

/// Shows the first `connections_max` of all workers on stderr: stdout may belong to the report.
pub(super) fn show(watches: &[SharedWatch], connections_max: usize) {
    let ladders = |watch: &SharedWatch| watch.lock().book.as_ref().map(|book| book.ladders()).unwrap_or_default();
    let mut ladders: Vec<_> = watches.iter().flat_map(ladders).collect();
    ladders.sort_by_key(|ladder| ladder.began_ns);
    let style = Style { ascii: !Style::locale_is_utf8(), segments_max: SEGMENTS_MAX };
    for (index, ladder) in ladders.iter().take(connections_max).enumerate() {
        eprintln!("{}", ladder::connection(ladder, index + 1, style));
    }
}
