//! The JSON Schema of reports, from the types themselves and what is written above their fields.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;

use super::model::Report;

/// The schema of [`Report`] (draft 2020-12), ending with a line feed.
pub fn json() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(RecursiveTransform(plain_words));
    let mut schema = settings.into_generator().into_root_schema_for::<Report>();
    schema.insert("title".into(), format!("Report of Syncline, {}", super::SCHEMA).into());
    if let Some(name) = schema.pointer_mut("/properties/schema").and_then(serde_json::Value::as_object_mut) {
        name.insert("const".into(), super::SCHEMA.into());
    }
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// Links of the source mean nothing to a reader of the schema.
fn plain_words(schema: &mut Schema) {
    if let Some(serde_json::Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("[`", "`").replace("`]", "`");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use serde_json::Value;

    use super::*;
    use crate::report::model::{
        CriterionResult, IntervalReport, PhaseReport, Raw, SearchReport, SearchStep, Shard, Spread, StageReport,
        SupplyReport, SynCache, SynCookies, TargetReport, ThresholdResult, TransferReport, WorkerReport,
    };

    #[test]
    fn the_page_is_the_schema() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/result.schema.json");
        if env::var_os("SYNCLINE_UPDATE_DOCS").is_some() {
            return fs::write(path, json()).unwrap();
        }
        assert!(
            fs::read_to_string(path).is_ok_and(|page| page == json()),
            "docs/result.schema.json is out of date: SYNCLINE_UPDATE_DOCS=1 cargo test -p syncline page_is_the_schema"
        );
    }

    /// A report in which nothing is left out.
    fn full() -> Report {
        let mut report = Report::new("load");
        report.blocks.workers = vec![WorkerReport::default()];
        report.blocks.packets.dropped = [("bad_checksum".to_owned(), 1)].into();
        report.blocks.latency_us.connect.p99 = Some(5);
        report.thresholds = vec![ThresholdResult { expr: "held_back<1".into(), value: Some(0.0), pass: Some(true) }];
        report.criteria = vec![CriterionResult::default()];
        report.phases = vec![PhaseReport::default()];
        report.intervals = vec![IntervalReport { spread: Some(Spread::default()), ..IntervalReport::default() }];
        report.targets = vec![TargetReport::default()];
        report.search = Some(SearchReport { steps: vec![SearchStep::default()], ..SearchReport::default() });
        report.stages = vec![StageReport::default()];
        report.supply = Some(SupplyReport::default());
        report.transfers = vec![TransferReport::default()];
        report.merged_from = vec![Shard::default()];
        (report.syn_cookies, report.syn_cache) = (Some(SynCookies::default()), Some(SynCache::default()));
        report.raw = Some(Raw::default());
        report.server = Some(Box::new(Report::new("serve")));
        report
    }

    #[test]
    fn reports_are_what_it_says_and_others_are_not() {
        let schema = jsonschema::validator_for(&serde_json::from_str(&json()).unwrap()).unwrap();
        for report in [Report::new("load"), full()] {
            let value = serde_json::to_value(&report).unwrap();
            let errors: Vec<_> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:?}");
            for (field, wrong) in
                [("schema", Value::from("other/1")), ("verdict", "good".into()), ("partial", Value::Null)]
            {
                let mut value = value.clone();
                value[field] = wrong;
                assert!(!schema.is_valid(&value), "{field}");
            }
            let mut value = value.clone();
            value.as_object_mut().unwrap().remove("verdict");
            assert!(!schema.is_valid(&value));
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema: Value = serde_json::from_str(&json()).unwrap();
        let types = schema["$defs"].as_object().unwrap().iter().map(|(name, schema)| (name.as_str(), schema));
        let mut fields = 0;
        for (name, schema) in types.chain([("Report", &schema)]) {
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                fields += 1;
                assert!(schema["description"].is_string(), "{name}.{field}");
            }
        }
        assert!(fields > 150, "{fields}");
        assert!(!json().contains("[`"));
    }
}
