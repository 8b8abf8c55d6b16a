//! `tag`: one more name for an image.

use super::args::TagArgs;
use super::context::Context;
use super::exit::CliError;
use crate::image::{Descriptor, image_name};

pub(super) fn tag(context: &Context, args: &TagArgs) -> Result<u8, CliError> {
    let target = image_name(&args.target)?;
    if target.digest().is_some() {
        let hint = "hint: leave `@…` away; an image has its digest already";
        return Err(CliError::Usage(format!("`{target}` has a digest, which is no name to be given\n{hint}")));
    }
    let store = context.store()?;
    let _kept = store.shared()?;
    let image = store.find(&args.source)?;
    // What another tool noted about the name is not true of the new one.
    let descriptor = Descriptor { annotations: std::collections::BTreeMap::new(), ..image.descriptor };
    store.tag(&target, &descriptor)?;
    Ok(0)
}
