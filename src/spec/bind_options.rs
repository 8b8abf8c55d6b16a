//! Options of a bind mount, by which `-v` and `--mount type=bind` say the same things.
//!
//! libcontainer 0.7 ignores propagation; the supervisor sees to it between creation and start. `exec`, `suid` and `dev`
//! are flags of the mount, which libcontainer sets on the uppermost one only: the forms with an `r` reach those below.

use std::fmt;

use super::error::MountProblem;

/// Whether mounts that are made later, on the machine or in the container, are seen on the other side. `private` and
/// `rprivate` are one: nothing of a container's tree is shared unless it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Neither side sees the other's.
    #[default]
    Private,
    /// The container sees the machine's, in the mount itself.
    Slave,
    /// The container sees the machine's, in all mounts below too.
    RecursiveSlave,
    /// Both see each other's, in the mount itself.
    Shared,
    /// Both see each other's, in all mounts below too.
    RecursiveShared,
}

impl Propagation {
    /// The option's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "rprivate",
            Self::Slave => "slave",
            Self::RecursiveSlave => "rslave",
            Self::Shared => "shared",
            Self::RecursiveShared => "rshared",
        }
    }

    /// Whether the container's mounts get to the machine.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::RecursiveShared)
    }

    /// Whether it holds for what is mounted below, too.
    #[must_use]
    pub const fn is_recursive(self) -> bool {
        matches!(self, Self::RecursiveShared | Self::RecursiveSlave)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "private" | "rprivate" => Self::Private,
            "slave" => Self::Slave,
            "rslave" => Self::RecursiveSlave,
            "shared" => Self::Shared,
            "rshared" => Self::RecursiveShared,
            _ => return None,
        })
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is said about one bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(super) struct BindOptions {
    pub(super) read_only: bool,
    /// Whether read-only reaches what is mounted below.
    pub(super) read_only_below: bool,
    /// Whether what is mounted below the source comes along.
    pub(super) recursive: bool,
    pub(super) propagation: Propagation,
    pub(super) relabel: bool,
    /// Whether its files belong to the container's users as they stand on the disk.
    pub(super) is_mapped: bool,
    /// Whether it is the run's own, not something of the user's.
    pub(super) is_of_run: bool,
    /// `exec` or `noexec` and their like, in the order they were given.
    attributes: Vec<&'static str>,
    /// What was given, each with what it is about.
    given: Vec<(&'static str, String)>,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            read_only_below: true,
            recursive: true,
            propagation: Propagation::Private,
            relabel: false,
            is_mapped: false,
            is_of_run: false,
            attributes: Vec::new(),
            given: Vec::new(),
        }
    }
}

impl BindOptions {
    /// Nothing special.
    pub(super) fn plain(read_only: bool) -> Self {
        Self { read_only, ..Self::default() }
    }

    /// Takes one word.
    pub(super) fn apply(&mut self, option: &str) -> Result<(), MountProblem> {
        const EXPECTED: &str = "`ro`, `rw`, `z`, `Z`, `idmap`, `bind`, `rbind`, `nocopy`, `exec`, `noexec`, `suid`, `nosuid`, `dev`, `nodev`, or a propagation such as `rslave`";
        if let Some(propagation) = Propagation::parse(option) {
            self.note("propagation", option)?;
            self.propagation = propagation;
            return Ok(());
        }
        match option {
            "ro" | "rw" => {
                self.note("access", option)?;
                self.read_only = option == "ro";
            }
            "bind" | "rbind" => {
                self.note("recursion", option)?;
                self.recursive = option == "rbind";
            }
            "z" | "Z" => self.relabel = true,
            "idmap" => self.is_mapped = true,
            "nocopy" | "cached" | "delegated" | "consistent" => {}
            "copy" | "U" | "O" | "sync" | "async" | "dirsync" | "nosymfollow" | "unbindable" | "runbindable" => {
                return Err(MountProblem::Unsupported(option.to_owned()));
            }
            _ if option.starts_with("idmap=") => return Err(MountProblem::Unsupported(option.to_owned())),
            _ => {
                let Some((about, attribute)) = attribute(option) else {
                    return Err(MountProblem::Unknown { option: option.to_owned(), expected: EXPECTED });
                };
                self.note(about, option)?;
                if !self.attributes.contains(&attribute) {
                    self.attributes.push(attribute);
                }
            }
        }
        Ok(())
    }

    /// Remembers an option; two of a kind that differ are a mistake.
    pub(super) fn note(&mut self, about: &'static str, option: &str) -> Result<(), MountProblem> {
        match self.given.iter().find(|(kind, _)| *kind == about) {
            Some((_, before)) if before != option => Err(MountProblem::Conflict(before.clone(), option.to_owned())),
            Some(_) => Ok(()),
            None => {
                self.given.push((about, option.to_owned()));
                Ok(())
            }
        }
    }

    /// The options as the runtime knows them; propagation is `propagation`, whatever was asked for.
    pub(super) fn in_spec(&self, propagation: Propagation) -> Vec<String> {
        let mut options = vec![if self.recursive { "rbind" } else { "bind" }, propagation.as_str()];
        if self.read_only {
            // `ro` alone leaves what is mounted below the source writable; `rro` reaches it (Linux 5.12).
            options.push("ro");
            options.extend((self.recursive && self.read_only_below).then_some("rro"));
        }
        for &attribute in &self.attributes {
            options.extend(match attribute {
                "noexec" if self.recursive => &["noexec", "rnoexec"][..],
                "nosuid" if self.recursive => &["nosuid", "rnosuid"],
                "nodev" if self.recursive => &["nodev", "rnodev"],
                "noexec" => &["noexec"],
                "nosuid" => &["nosuid"],
                "nodev" => &["nodev"],
                // Without the `r` it would be left as the source's mount has it.
                "exec" => &["rexec"],
                "suid" => &["rsuid"],
                _ => &["rdev"],
            });
        }
        options.extend(self.is_mapped.then_some("idmap"));
        options.into_iter().map(str::to_owned).collect()
    }
}

/// What an attribute is about, and its name.
fn attribute(option: &str) -> Option<(&'static str, &'static str)> {
    Some(match option {
        "exec" => ("exec", "exec"),
        "noexec" => ("exec", "noexec"),
        "suid" => ("suid", "suid"),
        "nosuid" => ("suid", "nosuid"),
        "dev" => ("dev", "dev"),
        "nodev" => ("dev", "nodev"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BindOptions, MountProblem> {
        let mut options = BindOptions::default();
        text.split(',').try_for_each(|option| options.apply(option)).map(|()| options)
    }

    #[test]
    fn options_in_the_runtimes_words() {
        for (text, expected) in [
            ("rw", "rbind rprivate"),
            ("ro", "rbind rprivate ro rro"),
            ("bind,ro", "bind rprivate ro"),
            ("noexec,nosuid", "rbind rprivate noexec rnoexec nosuid rnosuid"),
            ("bind,nodev,exec", "bind rprivate nodev rexec"),
            ("rslave,z,nocopy", "rbind rprivate"),
            ("ro,bind,idmap", "bind rprivate ro idmap"),
        ] {
            assert_eq!(read(text).unwrap().in_spec(Propagation::Private).join(" "), expected, "{text}");
        }
        assert_eq!(read("rshared").unwrap().propagation, Propagation::RecursiveShared);
        assert_eq!(read("private").unwrap().propagation, Propagation::Private);
    }

    #[test]
    fn two_of_a_kind_are_a_mistake() {
        for text in ["ro,rw", "rslave,shared", "exec,noexec", "bind,rbind", "dev,nodev", "suid,nosuid"] {
            assert!(matches!(read(text), Err(MountProblem::Conflict(..))), "{text}");
        }
        assert!(read("ro,ro,z,Z").is_ok());
        for text in ["U", "O", "copy", "idmap=uids=0-1-2", "nosymfollow", "unbindable"] {
            assert!(matches!(read(text), Err(MountProblem::Unsupported(_))), "{text}");
        }
    }
}
