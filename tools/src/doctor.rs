//! What this host, and a device of it, can do, and the command that mends what is missing.

mod device;
mod host;
mod trial;

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::{Exit, Result};
use crate::net::IfName;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but slower or with limits.
    Warn,
    /// Nothing works without it.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// The command, or the step, that mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), mend: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn missing(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, status: Status::Missing, detail: detail.into(), mend: Some(mend.into()) }
    }
}

/// All that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The host.
    pub host: Vec<Finding>,
    /// The device, if one was asked about.
    pub device: Vec<Finding>,
}

/// Looks at the host, and at `dev` in the calling thread's network namespace.
///
/// # Errors
/// Exit 3 if there is no such device.
pub fn examine(dev: Option<&IfName>) -> Result<Findings> {
    let device = dev.map_or_else(|| Ok(Vec::new()), device::examine)?;
    Ok(Findings { host: host::examine().into_iter().chain([trial::test_bed()]).collect(), device })
}

impl Findings {
    /// 3 if something essential is missing.
    pub fn exit(&self) -> Exit {
        let missing = self.all().any(|finding| finding.status == Status::Missing);
        if missing { Exit::Environment } else { Exit::Success }
    }

    fn all(&self) -> impl Iterator<Item = &Finding> {
        self.host.iter().chain(&self.device)
    }

    /// A line each, and the mend below what needs one.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for finding in self.all() {
            let status = match finding.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Missing => "missing",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{status:8}{:16}{}", finding.name, finding.detail);
            if let Some(mend) = &finding.mend {
                let _ = writeln!(out, "{:24}mend: {mend}", "");
            }
        }
        let count = |status| self.all().filter(|finding| finding.status == status).count();
        let _ = match (count(Status::Missing), count(Status::Warn)) {
            (0, 0) => writeln!(out, "\neverything is there"),
            (0, warnings) => writeln!(out, "\nready, with {warnings} remarks"),
            (missing, _) => writeln!(out, "\nnot ready: {missing} missing"),
        };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_missing_is_exit_3() {
        let mut findings = Findings { host: vec![Finding::ok("kernel", "6.12")], device: Vec::new() };
        assert_eq!(findings.exit(), Exit::Success);
        findings.host.push(Finding::warn("THP", "never", "enable it"));
        assert_eq!(findings.exit(), Exit::Success);
        findings.device.push(Finding::missing("driver", "none", "use another"));
        assert_eq!(findings.exit(), Exit::Environment);
        assert!(findings.render().ends_with("mend: use another\n\nnot ready: 1 missing\n"), "{}", findings.render());
    }

    #[test]
    fn a_device_that_is_not_there_is_exit_3() {
        let error = examine(Some(&"no-such-if".parse().unwrap())).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        assert!(error.to_string().contains("no-such-if"), "{error}");
    }
}
