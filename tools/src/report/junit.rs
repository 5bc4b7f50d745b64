//! A verdict as test results, in the form that CI systems read: JUnit's XML.

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use super::model::{Report, Verdict};
use super::verdict;

/// One test for the verdict, one for each threshold and each criterion. What the target did wrong is a failure; what
/// makes the figures worthless is an error.
pub fn render(report: &Report) -> String {
    let name = format!("syncline {}", report.command);
    let mut suite = TestSuite::new(name.clone());
    let seconds: f64 = report.phases.iter().map(|phase| phase.seconds).sum();
    suite.set_time(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default());
    for (key, value) in [
        ("version", Some(report.version.clone())),
        ("started_at", report.started_at.clone()),
        ("seed", report.seed.map(|seed| seed.to_string())),
        ("achieved_cps", report.blocks.rate.achieved_cps.map(|rate| rate.to_string())),
    ] {
        if let Some(value) = value {
            suite.add_property(Property::new(key, value));
        }
    }
    suite.add_test_case(verdict_case(report));
    for threshold in &report.thresholds {
        let class = format!("{name}.threshold");
        let expr = threshold.expr.clone();
        let broken = || verdict::broken(threshold);
        suite.add_test_case(case(&class, expr, threshold.pass, broken));
    }
    for criterion in &report.criteria {
        let class = format!("{name}.criterion");
        let expr = format!("{}<{}", criterion.name, criterion.limit);
        let unfulfilled = || verdict::unfulfilled(criterion);
        suite.add_test_case(case(&class, expr, criterion.pass, unfulfilled));
    }
    let mut whole = quick_junit::Report::new(name);
    whole.add_test_suite(suite);
    // Nothing that a report says keeps XML from being written: what it cannot hold is left out.
    whole.to_string().unwrap_or_default()
}

fn case(class: &str, name: String, pass: Option<bool>, broken: impl Fn() -> String) -> TestCase {
    let status = match pass {
        Some(true) => TestCaseStatus::success(),
        Some(false) => refusal(NonSuccessKind::Failure, "broken", broken()),
        None => refusal(NonSuccessKind::Error, "not_measured", format!("{name} was not measured")),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

fn verdict_case(report: &Report) -> TestCase {
    let reasons = || {
        let name = report.verdict.name();
        if report.reasons.is_empty() { name.to_owned() } else { format!("{name}: {}", report.reasons.join("; ")) }
    };
    let status = match report.verdict {
        Verdict::Failed => refusal(NonSuccessKind::Failure, report.verdict.name(), reasons()),
        Verdict::GeneratorLimited | Verdict::Inconclusive => {
            refusal(NonSuccessKind::Error, report.verdict.name(), reasons())
        }
        Verdict::Valid | Verdict::Ceiling if report.partial => refusal(NonSuccessKind::Error, "interrupted", reasons()),
        Verdict::Valid | Verdict::Ceiling => TestCaseStatus::success(),
    };
    let mut case = TestCase::new("verdict", status);
    case.set_classname(format!("syncline {}", report.command));
    case.set_system_out(super::text::render(report));
    case
}

fn refusal(kind: NonSuccessKind, what: &str, message: String) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(what).set_message(message);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Threshold;
    use crate::report::model::CriterionResult;

    fn judged(verdict: Verdict) -> Report {
        let mut report = Report::new("load");
        report.verdict = verdict;
        report.reasons = vec!["a < b & \"c\"\u{1}".into()];
        let json = serde_json::to_value(&report).unwrap();
        let thresholds = ["connections.completed>5", "held_back<1"].map(|expr| expr.parse::<Threshold>().unwrap());
        report.thresholds = thresholds.iter().map(|threshold| threshold.evaluate(&json)).collect();
        report.thresholds[0].pass = Some(false);
        report.criteria =
            vec![CriterionResult { name: "rate_deviation".into(), limit: 0.05, value: Some(0.01), pass: Some(true) }];
        report
    }

    #[test]
    fn what_failed_and_what_cannot_be_told_are_kept_apart() {
        let xml = render(&judged(Verdict::Failed));
        assert!(xml.contains("tests=\"4\" ") && xml.contains("failures=\"2\" errors=\"1\""), "{xml}");
        assert!(xml.contains("message=\"failed: a &lt; b &amp; &quot;c&quot;\""), "{xml}");
        assert!(xml.contains("name=\"rate_deviation&lt;0.05\" classname=\"syncline load.criterion\""), "{xml}");
        let xml = render(&judged(Verdict::GeneratorLimited));
        assert!(xml.contains("failures=\"1\" errors=\"2\""), "{xml}");
        let xml = render(&Report { verdict: Verdict::Valid, ..Report::new("load") });
        assert!(xml.contains("tests=\"1\" ") && xml.contains("failures=\"0\" errors=\"0\""), "{xml}");
    }
}
