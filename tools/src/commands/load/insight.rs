//! What a run tells of single connections: ladders, frames, the comparison with the server's account.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use syncline_engine::device::pcap::{PcapConfig, PcapWriter};
use syncline_engine::time::Instant;

use crate::cli::LoadArgs;
use crate::commands::ladders;
use crate::error::{Error, Result};
use crate::report::Report;
use crate::report::insight::{FlightConnection, FlightReport};
use crate::watch::account::{Account, Hearer};
use crate::watch::flight::{Recording, Why};
use crate::watch::reconcile::reconcile;
use crate::watch::{Book, Flight, Ledger, SharedWatch, Watch};

/// How long what is on its way at the end may take to arrive, before accounts are compared.
const SETTLE: Duration = Duration::from_millis(250);

/// What was asked for, opened while that may still be done.
#[derive(Debug)]
pub(super) struct Insight {
    watches: Vec<SharedWatch>,
    flight: Option<(PathBuf, File, usize)>,
    hearer: Option<Hearer>,
    trace: usize,
}

impl Insight {
    /// Of `workers`; `None` if nothing of the kind is asked for.
    ///
    /// # Errors
    /// Exit 3 if a file cannot be written, or nobody answers at the server's socket.
    pub(super) fn open(args: &LoadArgs, workers: usize) -> Result<Option<Self>> {
        let trace = args.device.trace as usize;
        let wanted = args.flight_recorder.map(|wanted| wanted as usize);
        if trace == 0 && wanted.is_none() && args.server_report.is_none() {
            return Ok(None);
        }
        let file = &args.flight_file;
        let open = |wanted| {
            let cannot =
                |error| Error::environment(format!("cannot write {}", file.display()), error, "check --flight-file");
            Ok::<_, Error>((file.clone(), File::create(file).map_err(cannot)?, wanted))
        };
        let flight = wanted.map(open).transpose()?;
        let hearer = args.server_report.as_deref().map(Hearer::open).transpose()?;
        let watch = || {
            let ledger = hearer.is_some().then(Ledger::default);
            SharedWatch::new(Watch::new((trace > 0).then(|| Book::new(trace)), wanted.map(Flight::new), ledger))
        };
        let watches = (0..workers).map(|_| watch()).collect();
        Ok(Some(Self { watches, flight, hearer, trace }))
    }

    /// The watches, one for each worker.
    pub(super) fn watches(&self) -> &[SharedWatch] {
        &self.watches
    }

    /// Adds what came of it to the report, and shows the ladders.
    ///
    /// # Errors
    /// Exit 3 if a file cannot be written or the server's account not be read.
    pub(super) fn finish(self, report: &mut Report) -> Result<()> {
        if let Some((path, file, wanted)) = self.flight {
            report.flight = Some(write_flight(&self.watches, path, file, wanted));
        }
        if let Some(hearer) = self.hearer {
            thread::sleep(SETTLE);
            let heard = hearer.hear()?;
            let here = Account::of(&self.watches, true);
            let local = |watch: &SharedWatch| {
                let watch = watch.lock();
                watch.local_failures + watch.ledger.as_ref().map_or(0, |ledger| ledger.failed_unseen)
            };
            report.reconciliation = Some(reconcile(&here, &heard, self.watches.iter().map(local).sum()));
        }
        ladders::show(&self.watches, self.trace);
        Ok(())
    }
}

/// Writes the frames of all workers' recordings, oldest first.
fn write_flight(watches: &[SharedWatch], path: PathBuf, file: File, wanted: usize) -> FlightReport {
    let mut report = FlightReport { file: path.display().to_string(), ..FlightReport::default() };
    let (mut failed, mut slow): (Vec<Recording>, Vec<Recording>) = (Vec::new(), Vec::new());
    for watch in watches {
        let watch = watch.lock();
        let Some(flight) = &watch.flight else { continue };
        report.failed += flight.failed_seen;
        report.unrecorded += flight.unrecorded;
        report.failed_unrecorded += flight.failed_unrecorded;
        for recording in flight.recordings() {
            if matches!(recording.why, Some(Why::Failed(_))) { &mut failed } else { &mut slow }.push(recording.clone());
        }
    }
    let began = |recording: &Recording| recording.frames().next().map_or(u64::MAX, |first| first.at_ns);
    failed.sort_by_key(began);
    slow.sort_by_key(|recording| match recording.why {
        Some(Why::Slow(_, micros)) => u32::MAX - micros,
        _ => u32::MAX,
    });
    failed.truncate(wanted);
    slow.truncate(wanted);
    let kept = || failed.iter().chain(&slow);
    report.connections = kept().map(told).collect();
    let mut frames: Vec<_> = kept().flat_map(Recording::frames).collect();
    frames.sort_by_key(|frame| frame.at_ns);
    let mut writer = PcapWriter::new(file, PcapConfig::default());
    for frame in frames {
        writer.record_cut(Instant::from_nanos(frame.at_ns), frame.octets(), frame.len);
    }
    writer.flush();
    if let Some(error) = writer.error() {
        eprintln!("syncline: {} is not whole: {error}", path.display());
    }
    report
}

fn told(recording: &Recording) -> FlightConnection {
    let (failed, slow, micros) = match recording.why {
        Some(Why::Failed(cause)) => (Some(cause.name().to_owned()), None, None),
        Some(Why::Slow(stage, micros)) => (None, Some(stage.to_owned()), Some(u64::from(micros))),
        None => (None, None, None),
    };
    FlightConnection {
        local: recording.ends.local.to_string(),
        remote: recording.ends.remote.to_string(),
        failed,
        slow,
        micros,
        frames: recording.frames().count() as u64,
        frames_missed: recording.missed,
    }
}
