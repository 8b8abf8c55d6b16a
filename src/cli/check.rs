//! `check`: what is damaged in the store, and what mends it.

use std::fmt::Write;
use std::sync::Arc;

use super::args::{CheckArgs, Format};
use super::context::{Context, block_on};
use super::exit::{CliError, FOUND_DAMAGE};
use super::printer::{print_data, print_json};
use crate::engine::check::{CheckRequest, Finding, FindingState, Tell};
use crate::image::{Observer, Platform};
use crate::words::printable;

pub(super) fn check(context: &Context, args: &CheckArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(Some(&args.registry), printer)?;
    let request = CheckRequest {
        images: args.images.clone(),
        quick: args.quick,
        repair: args.repair,
        platform: Platform::host(),
    };
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let tell: Tell = Arc::new(move |text: &str| printer.say(&printable(text)));
    let findings = block_on(async { Ok(engine.check(request, &observer, tell).await?) })?;
    match args.list.format {
        Format::Json => print_json(&findings),
        Format::Table => print_data(&findings.iter().map(lines).collect::<String>()),
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (damaged, repaired) = (count(FindingState::Damaged), count(FindingState::Repaired));
    let unchecked = count(FindingState::Unchecked);
    printer.say(&match (damaged, repaired, unchecked) {
        (0, 0, 0) => "all is well".to_owned(),
        _ => format!("{damaged} damaged, {repaired} repaired, {unchecked} unchecked"),
    });
    Ok(if damaged + unchecked == 0 { 0 } else { FOUND_DAMAGE })
}

/// A finding as it is shown to people: names and messages of others cannot drive the terminal.
fn lines(finding: &Finding) -> String {
    let Finding { state, kind, name, problem, images, hint } = finding;
    let problem = problem.replace('\n', " ");
    let mut text = format!("{}: {} {} {}", state.word(), kind.word(), printable(name), printable(&problem));
    // An image needs itself.
    if !images.is_empty() && images.as_slice() != std::slice::from_ref(name) {
        let _ = write!(text, " (needed by {})", printable(&images.join(", ")));
    }
    text.push('\n');
    if let Some(hint) = hint {
        let _ = writeln!(text, "  hint: {}", printable(&hint.replace('\n', "; ")));
    }
    text
}
