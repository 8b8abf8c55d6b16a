//! `doctor`: what this machine can do for containers.

use std::fmt::Write;

use super::args::{DoctorArgs, Format};
use super::context::Context;
use super::devices::roots;
use super::exit::{CliError, FOUND_FAILURE};
use super::printer::{print_data, print_json};
use crate::engine::doctor::{Health, Symptom, examine};
use crate::words::printable;

pub(super) fn show(context: &Context, args: &DoctorArgs) -> Result<u8, CliError> {
    let symptoms = examine(&context.settings(None), &roots(&args.driver)?);
    if args.json || args.list.format == Format::Json {
        print_json(&symptoms);
    } else {
        print_data(&symptoms.iter().map(lines).collect::<String>());
    }
    let has_failed = symptoms.iter().any(|symptom| symptom.health == Health::Failed);
    Ok(if has_failed { FOUND_FAILURE } else { 0 })
}

fn lines(symptom: &Symptom) -> String {
    let word = match symptom.health {
        Health::Ok => "ok",
        Health::Warning => "warning",
        Health::Failed => "FAILED",
    };
    let one_line = |text: &str| printable(&text.replace('\n', "; "));
    let mut text = format!("{word:<8} {:<16} {}\n", symptom.name, one_line(&symptom.found));
    if let Some(fix) = &symptom.fix {
        let _ = writeln!(text, "{:<8} {:<16} fix: {}", "", "", one_line(fix));
    }
    text
}
