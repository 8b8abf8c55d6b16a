//! `load`: images out of archives and layouts.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use super::args::LoadArgs;
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::print_data;
use crate::image::Observer;
use crate::transport::Input;

pub(super) fn load(context: &Context, args: &LoadArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let input = match args.input.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => Input::Path(path.to_owned()),
        None if io::stdin().is_terminal() => {
            let hint = "hint: name a file with `--input FILE`, or write `dockless load <FILE`";
            return Err(CliError::Usage(format!("standard input is a terminal, expected an archive\n{hint}")));
        }
        None => Input::Stream("standard input", Box::new(io::stdin())),
    };
    let engine = context.engine(None, printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let loaded = block_on(async { Ok(engine.load(input, &observer).await?) })?;
    for image in loaded {
        print_data(&format!("Loaded image: {}\n", image.reference.familiar()));
    }
    Ok(0)
}
