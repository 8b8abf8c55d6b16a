//! What an image and a run say about GPUs in variables: `NVIDIA_DRIVER_CAPABILITIES` and `NVIDIA_VISIBLE_DEVICES`.
//!
//! An image says what it can use; only the user says what it gets.

use super::{Capabilities, CapabilityError};

const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";
const DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// Who said which capabilities a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidBy {
    /// `--gpu-capabilities`.
    Flag,
    /// `-e`.
    Run,
    /// The image.
    Image,
    /// Nobody.
    Default,
}

/// Which capabilities a run has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityWish {
    /// They.
    pub capabilities: Capabilities,
    /// Whose word it is.
    pub said_by: SaidBy,
    /// What of the image's was not understood.
    pub warnings: Vec<String>,
}

/// What to say about `NVIDIA_VISIBLE_DEVICES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// Worth knowing for those who asked for more.
    Note(String),
    /// Not what the user meant.
    Warning(String),
}

/// The flag goes before the run's variables, those before the image's (both `KEY=VALUE`). An unknown word of the user is an error,
/// one of the image a warning: a later driver may know it.
pub fn capabilities(flag: Option<&str>, run: &[String], image: &[String]) -> Result<CapabilityWish, CapabilityError> {
    let users = flag.map(|text| (text, SaidBy::Flag)).or_else(|| Some((value(run, CAPABILITIES)?, SaidBy::Run)));
    if let Some((text, said_by)) = users {
        return Ok(CapabilityWish { capabilities: text.parse()?, said_by, warnings: Vec::new() });
    }
    let Some(text) = value(image, CAPABILITIES) else {
        return Ok(CapabilityWish {
            capabilities: Capabilities::default(),
            said_by: SaidBy::Default,
            warnings: Vec::new(),
        });
    };
    let (mut known, mut warnings) = (Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<Capabilities>() {
            Ok(_) => known.push(word),
            Err(problem) => warnings.push(format!("`{CAPABILITIES}` of the image: {problem}")),
        }
    }
    Ok(CapabilityWish { capabilities: known.join(",").parse()?, said_by: SaidBy::Image, warnings })
}

/// What to say to who did, or did not, ask for GPUs (`asked`) with `--gpus`.
#[must_use]
pub fn visible_devices(asked: bool, run: &[String], image: &[String]) -> Option<Remark> {
    if let Some(wanted) = value(run, DEVICES).filter(|text| wants_any(text)) {
        let text = format!("`-e {DEVICES}={}` gives no GPU\nhint: ask for them with `--gpus`", wanted.escape_debug());
        return Some(Remark::Warning(text)).filter(|_| !asked);
    }
    let wanted = value(image, DEVICES).filter(|text| wants_any(text))?;
    let text =
        format!("the image can use GPUs (`{DEVICES}={}`); none is given without `--gpus`", wanted.escape_debug());
    // The user who took the image's word back knows.
    Some(Remark::Note(text)).filter(|_| !asked && value(run, DEVICES).is_none())
}

fn wants_any(text: &str) -> bool {
    !matches!(text.trim(), "" | "none" | "void")
}

/// The last value of a variable.
fn value<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn the_flag_wins_then_the_run_then_the_image() {
        let image = env(&["NVIDIA_DRIVER_CAPABILITIES=graphics"]);
        let run = env(&["NVIDIA_DRIVER_CAPABILITIES=video", "OTHER=1"]);
        for (flag, run, image, shown, said_by) in [
            (Some("compute"), &run[..], &image[..], "compute", SaidBy::Flag),
            (None, &run, &image, "video", SaidBy::Run),
            (None, &[], &image, "graphics", SaidBy::Image),
            (None, &[], &[], "compute,utility", SaidBy::Default),
        ] {
            let wish = capabilities(flag, run, image).unwrap();
            assert_eq!((wish.capabilities.to_string().as_str(), wish.said_by), (shown, said_by));
        }
    }

    #[test]
    fn unknown_words_are_errors_of_users_and_warnings_of_images() {
        let bad = env(&["NVIDIA_DRIVER_CAPABILITIES=compute,tomorrow"]);
        assert!(capabilities(Some("tomorrow"), &[], &[]).is_err());
        assert!(capabilities(None, &bad, &[]).is_err());
        let wish = capabilities(None, &[], &bad).unwrap();
        assert_eq!(wish.capabilities.to_string(), "compute");
        assert!(
            wish.warnings[0].starts_with("`NVIDIA_DRIVER_CAPABILITIES` of the image: driver capability `tomorrow` is")
        );
        let all = env(&["NVIDIA_DRIVER_CAPABILITIES=all"]);
        assert_eq!(capabilities(None, &[], &all).unwrap().capabilities, Capabilities::all());
    }

    #[test]
    fn variables_give_no_gpus() {
        let all = env(&["NVIDIA_VISIBLE_DEVICES=all"]);
        let none = env(&["NVIDIA_VISIBLE_DEVICES=none"]);
        let Some(Remark::Warning(text)) = visible_devices(false, &all, &[]) else { panic!() };
        assert_eq!(text, "`-e NVIDIA_VISIBLE_DEVICES=all` gives no GPU\nhint: ask for them with `--gpus`");
        let Some(Remark::Note(text)) = visible_devices(false, &[], &all) else { panic!() };
        assert_eq!(text, "the image can use GPUs (`NVIDIA_VISIBLE_DEVICES=all`); none is given without `--gpus`");
        for (asked, run, image) in [
            (true, &all[..], &all[..]),
            (true, &[], &all),
            (false, &none, &all),
            (false, &[], &none),
            (false, &[], &[]),
        ] {
            assert_eq!(visible_devices(asked, run, image), None);
        }
    }
}
