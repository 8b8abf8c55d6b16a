//! What an image requires of the machine's GPUs: the variables `NVIDIA_REQUIRE_*`.
//!
//! A value is a list of alternatives with spaces between them; one of them must hold. An alternative is a list of constraints with
//! commas between them; all of them must hold. A constraint is `cuda`, `driver`, `arch` (versions) or `brand` (a word), one of `=`,
//! `!=`, `<`, `<=`, `>`, `>=`, and a value. Every variable is checked for every GPU. Facts: libnvidia-container `cli/dsl.c`,
//! nvidia-container-toolkit `internal/requirements`, `internal/config/image`.
//!
//! What the machine does not tell counts as good enough, with a note. Images for CUDA list the drivers that they bring their own
//! compatibility libraries for as alternatives to the version of CUDA.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::Driver;
use super::chosen::ChosenGpu;

const PREFIX: &str = "NVIDIA_REQUIRE_";
const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";
/// Not of GPUs on a PCI bus.
const JETPACK: &str = "NVIDIA_REQUIRE_JETPACK";
/// Longest value that is looked at; that of the CUDA images has 2 kB.
const MAX_BYTES: usize = 64 << 10;

/// The newest CUDA of each branch of drivers (CUDA's release notes, "CUDA driver"; what `nvidia-smi` prints).
const CUDA_OF_BRANCH: &[(u32, (u32, u32))] = &[
    (384, (9, 0)),
    (387, (9, 1)),
    (390, (9, 1)),
    (396, (9, 2)),
    (410, (10, 0)),
    (418, (10, 1)),
    (430, (10, 1)),
    (435, (10, 1)),
    (440, (10, 2)),
    (450, (11, 0)),
    (455, (11, 1)),
    (460, (11, 2)),
    (465, (11, 3)),
    (470, (11, 4)),
    (495, (11, 5)),
    (510, (11, 6)),
    (515, (11, 7)),
    (520, (11, 8)),
    (525, (12, 0)),
    (530, (12, 1)),
    (535, (12, 2)),
    (545, (12, 3)),
    (550, (12, 4)),
    (555, (12, 5)),
    (560, (12, 6)),
    (565, (12, 7)),
    (570, (12, 8)),
    (575, (12, 9)),
    (580, (13, 0)),
    (590, (13, 1)),
];

/// Why a container may not run on these GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequireError {
    /// A constraint that cannot be read.
    #[error(
        "`{}` in the variable `{variable}` is no constraint, expected e.g. `cuda>=12.4`\nhint: \
         `-e {DISABLE}=1` runs without looking at what the image requires",
        constraint.escape_debug()
    )]
    Malformed {
        /// Its variable.
        variable: String,
        /// The text.
        constraint: String,
    },
    /// None of the alternatives holds.
    #[error("the image requires `{}`{others} (`{variable}`), but {machine}\nhint: {hint}", first.escape_debug())]
    Unmet {
        /// Its variable.
        variable: String,
        /// The first of the alternatives.
        first: String,
        /// How many others there are, in words.
        others: String,
        /// What the machine has.
        machine: String,
        /// What can be done.
        hint: String,
    },
}

/// What is known about a GPU and its driver.
#[derive(Debug, Clone, Default)]
struct Facts {
    gpu: Option<String>,
    cuda: Option<(u32, u32)>,
    driver: Option<String>,
    arch: Option<(u32, u32)>,
    brand: Option<String>,
}

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
    Unknown,
}

/// Checks what `env` requires: `KEY=VALUE`, of image and run together, later ones winning. Gives notes about what could not be
/// checked.
pub fn check(env: &[String], driver: Option<&Driver>, gpus: &[ChosenGpu]) -> Result<Vec<String>, RequireError> {
    let requirements = requirements(env);
    let mut facts: Vec<Facts> = gpus.iter().map(|chosen| Facts::of(driver, Some(chosen))).collect();
    if facts.is_empty() {
        facts.push(Facts::of(driver, None));
    }
    let mut notes = Vec::new();
    for (variable, value) in &requirements {
        for facts in &facts {
            let note = one(variable, value, facts)?;
            notes.extend(note.filter(|note| !notes.contains(note)));
        }
    }
    Ok(notes)
}

/// The variables that require something. An old image for CUDA has no such variable, but says which CUDA it is for.
fn requirements(env: &[String]) -> BTreeMap<String, String> {
    let all: BTreeMap<&str, &str> = env.iter().filter_map(|entry| entry.split_once('=')).collect();
    if all.get(DISABLE).is_some_and(|value| matches!(*value, "1" | "t" | "T" | "true" | "True" | "TRUE")) {
        return BTreeMap::new();
    }
    let named = all.iter().filter(|(name, _)| name.starts_with(PREFIX) && !name.starts_with(JETPACK));
    let mut requirements: BTreeMap<String, String> =
        named.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let old = all.get("CUDA_VERSION").filter(|_| !all.contains_key("NVIDIA_REQUIRE_CUDA"));
    if let Some([major, minor, ..]) = old.and_then(|version| numbers(version)).as_deref() {
        requirements.insert("CUDA_VERSION".to_owned(), format!("cuda>={major}.{minor}"));
    }
    requirements
}

/// Checks one variable for one GPU; a note when it cannot be told.
fn one(variable: &str, value: &str, facts: &Facts) -> Result<Option<String>, RequireError> {
    if value.len() > MAX_BYTES {
        return Ok(Some(format!("`{variable}` is not checked: it has more than {MAX_BYTES} bytes")));
    }
    let alternatives: Vec<&str> = value.split(' ').filter(|text| !text.is_empty()).collect();
    let mut unknown = None;
    for alternative in &alternatives {
        match alternative_holds(variable, alternative, facts)? {
            (Verdict::Holds, _) => return Ok(None),
            (Verdict::Unknown, constraint) => unknown = unknown.or(constraint),
            (Verdict::Fails, _) => {}
        }
    }
    match (alternatives.first(), unknown) {
        (None, _) => Ok(None),
        (Some(_), Some(constraint)) => {
            Ok(Some(format!("the image requires `{constraint}`: this machine does not tell, so it is taken to be so")))
        }
        (Some(first), None) => Err(unmet(variable, first, alternatives.len() - 1, facts)),
    }
}

/// Whether all constraints hold, and the first of them that cannot be told.
fn alternative_holds(variable: &str, text: &str, facts: &Facts) -> Result<(Verdict, Option<String>), RequireError> {
    let mut unknown = None;
    for constraint in text.split(',').filter(|constraint| !constraint.is_empty()) {
        let malformed = || RequireError::Malformed { variable: variable.to_owned(), constraint: constraint.to_owned() };
        match holds(constraint, facts).ok_or_else(malformed)? {
            Verdict::Holds => {}
            Verdict::Fails => return Ok((Verdict::Fails, None)),
            Verdict::Unknown => unknown = unknown.or_else(|| Some(constraint.escape_debug().to_string())),
        }
    }
    Ok((if unknown.is_some() { Verdict::Unknown } else { Verdict::Holds }, unknown))
}

/// Whether one constraint holds; `None` when it is none.
fn holds(constraint: &str, facts: &Facts) -> Option<Verdict> {
    let start = constraint.find(['<', '>', '=', '!']).filter(|at| *at > 0)?;
    let (name, rest) = constraint.split_at(start);
    let length = rest.find(|c: char| !"<>=!".contains(c))?;
    let (operator, value) = rest.split_at(length);
    let accepts: fn(Ordering) -> bool = match operator {
        "=" => Ordering::is_eq,
        "!=" => Ordering::is_ne,
        "<" => Ordering::is_lt,
        "<=" => Ordering::is_le,
        ">" => Ordering::is_gt,
        ">=" => Ordering::is_ge,
        _ => return None,
    };
    let pair = |(major, minor): (u32, u32)| vec![major, minor];
    let have = match name.to_ascii_lowercase().as_str() {
        "cuda" => facts.cuda.map(pair),
        "arch" => facts.arch.map(pair),
        "driver" => facts.driver.as_deref().and_then(numbers),
        "brand" if matches!(operator, "=" | "!=") => {
            let Some(brand) = &facts.brand else { return Some(Verdict::Unknown) };
            return Some(verdict(brand.eq_ignore_ascii_case(value) == (operator == "=")));
        }
        "brand" => return None,
        // What later images may ask about.
        _ => return Some(Verdict::Unknown),
    };
    let want = numbers(value)?;
    Some(have.map_or(Verdict::Unknown, |have| verdict(accepts(compare(&have, &want)))))
}

fn verdict(holds: bool) -> Verdict {
    if holds { Verdict::Holds } else { Verdict::Fails }
}

/// `12.4` as numbers; `None` for anything else.
fn numbers(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// Number by number; what is not there is 0.
fn compare(left: &[u32], right: &[u32]) -> Ordering {
    let at = |list: &[u32], place: usize| list.get(place).copied().unwrap_or(0);
    (0..left.len().max(right.len()))
        .map(|place| at(left, place).cmp(&at(right, place)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn unmet(variable: &str, first: &str, others: usize, facts: &Facts) -> RequireError {
    let others = match others {
        0 => String::new(),
        1 => " or one other condition".to_owned(),
        count => format!(" or one of {count} other conditions"),
    };
    let anyway = format!("`-e {DISABLE}=1` tries anyway");
    let hint = match (first.starts_with("cuda"), facts.cuda) {
        (true, Some((major, minor))) => {
            format!("update the driver, or take an image for CUDA {major}.{minor} or older; {anyway}")
        }
        _ => format!("choose other GPUs or another image; {anyway}"),
    };
    RequireError::Unmet {
        variable: variable.to_owned(),
        first: first.to_owned(),
        others,
        machine: facts.to_string(),
        hint,
    }
}

impl Facts {
    fn of(driver: Option<&Driver>, chosen: Option<&ChosenGpu>) -> Self {
        let gpu = chosen.map(|chosen| &chosen.gpu);
        Self {
            gpu: gpu.map(|gpu| format!("GPU {} ({})", gpu.index, gpu.model)),
            cuda: driver.and_then(|driver| driver.cuda.or_else(|| cuda_of_branch(driver.version.major()?))),
            driver: driver.map(|driver| driver.version.to_string()),
            arch: gpu.and_then(|gpu| gpu.compute_capability),
            brand: gpu.and_then(|gpu| gpu.brand.clone()),
        }
    }
}

fn cuda_of_branch(branch: u32) -> Option<(u32, u32)> {
    CUDA_OF_BRANCH.iter().find(|(known, _)| *known == branch).map(|(_, cuda)| *cuda)
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let parts = [
            self.driver.as_ref().map(|driver| format!("driver {driver}")),
            self.cuda.map(|cuda| format!("CUDA {}", version(cuda))),
            self.arch.map(|arch| format!("architecture {}", version(arch))),
            self.brand.as_ref().map(|brand| format!("brand {brand}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "{} has {}", self.gpu.as_deref().unwrap_or("this machine"), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::edits::testing::chosen;
    use super::super::{Platform, Version};
    use super::*;

    fn driver(version: &str) -> Driver {
        Driver { version: Version::new(version), platform: Platform::Linux, cuda: None }
    }

    fn run(env: &[&str], version: &str) -> Result<Vec<String>, RequireError> {
        let env: Vec<String> = env.iter().map(|&entry| entry.to_owned()).collect();
        check(&env, Some(&driver(version)), &[chosen(0, "0000:41:00.0")])
    }

    #[test]
    fn constraints_are_nvidias() {
        // The GPU has architecture 8.0 and brand `nvidia`, the driver CUDA 12.8.
        for (value, good) in [
            ("cuda>=12.8", true),
            ("cuda>=12.9", false),
            ("cuda>12.8", false),
            ("cuda<=12.8,cuda!=12.7", true),
            ("cuda=12.8.0", true),
            ("cuda<13", true),
            ("driver>=570", true),
            ("driver<570.86.10", false),
            ("driver<570.100", true),
            ("arch>=8", true),
            ("arch=7.5", false),
            ("brand=NVIDIA", true),
            ("brand!=nvidia", false),
            ("brand=tesla", false),
            ("cuda>=13.0 brand=tesla,driver>=570,driver<571 brand=nvidia,driver>=570,driver<571", true),
            ("cuda>=13.0 brand=tesla,driver>=570,driver<571 brand=nvidia,driver>=535,driver<536", false),
            ("", true),
            (" ,", true),
        ] {
            let result = run(&[&format!("NVIDIA_REQUIRE_CUDA={value}")], "570.86.10");
            assert_eq!(result.is_ok(), good, "{value}: {result:?}");
            assert!(!good || result.unwrap().is_empty(), "{value}");
        }
    }

    #[test]
    fn an_unmet_requirement_says_what_there_is() {
        let value =
            "NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=525,driver<526";
        assert_eq!(
            run(&[value], "535.104.05").unwrap_err().to_string(),
            "the image requires `cuda>=12.8` or one of 2 other conditions (`NVIDIA_REQUIRE_CUDA`), but GPU 0 (NVIDIA \
             A100-SXM4-40GB) has driver 535.104.05, CUDA 12.2, architecture 8.0, brand nvidia\nhint: update the driver, or \
             take an image for CUDA 12.2 or older; `-e NVIDIA_DISABLE_REQUIRE=1` tries anyway"
        );
        let error = run(&["NVIDIA_REQUIRE_ARCH=arch>=9.0"], "535.104.05").unwrap_err().to_string();
        assert!(
            error.ends_with("hint: choose other GPUs or another image; `-e NVIDIA_DISABLE_REQUIRE=1` tries anyway")
        );
    }

    #[test]
    fn it_can_be_turned_off() {
        for (value, good) in [("1", true), ("true", true), ("0", false), ("", false), ("yes", false)] {
            let disable = format!("NVIDIA_DISABLE_REQUIRE={value}");
            assert_eq!(run(&["NVIDIA_REQUIRE_X=cuda>99", &disable], "570.86.10").is_ok(), good, "{value}");
        }
        // The run's own comes later and wins.
        run(&["NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_REQUIRE_CUDA=cuda>=12"], "570.86.10").unwrap();
    }

    #[test]
    fn what_is_not_known_is_noted() {
        let notes = run(&["NVIDIA_REQUIRE_CUDA=cuda>=99"], "999.10").unwrap();
        assert_eq!(notes, ["the image requires `cuda>=99`: this machine does not tell, so it is taken to be so"]);
        assert!(!run(&["NVIDIA_REQUIRE_FUTURE=planet=earth"], "570.86.10").unwrap().is_empty());
        // What is known to hold needs nobody's word.
        assert!(run(&["NVIDIA_REQUIRE_CUDA=cuda>=99 driver>=500"], "999.10").unwrap().is_empty());
    }

    #[test]
    fn old_images_say_their_version() {
        assert!(run(&["CUDA_VERSION=13.0.1"], "570.86.10").is_err());
        assert!(run(&["CUDA_VERSION=13.0.1", "NVIDIA_REQUIRE_CUDA=cuda>=12"], "570.86.10").is_ok());
        assert!(run(&["CUDA_VERSION=many"], "570.86.10").is_ok());
        assert!(run(&["NVIDIA_REQUIRE_JETPACK=csv-mounts=all"], "570.86.10").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_constraint_is_an_error() {
        for bad in ["cuda", ">=12", "cuda>=", "cuda>=new", "cuda=>12", "brand>tesla", "cuda==12"] {
            let error = run(&[&format!("NVIDIA_REQUIRE_X={bad}")], "570.86.10").unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{bad}` in the variable `NVIDIA_REQUIRE_X` is no constraint")),
                "{error}"
            );
        }
    }
}
