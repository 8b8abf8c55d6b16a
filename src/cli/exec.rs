//! `exec`.
use super::args::ExecArgs;
use super::context::Context;
use super::exit::CliError;

pub(super) fn exec(_: &Context, _: ExecArgs) -> Result<u8, CliError> {
    Err(CliError::Usage("not yet".to_owned()))
}
