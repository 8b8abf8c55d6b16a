//! Names for runs that were given none: `adjective-animal-N`.

use crate::store::{RunName, Store};

const ADJECTIVES: [&str; 32] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clever", "cosmic", "crisp", "eager", "fair", "fleet", "gentle",
    "grand", "happy", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry", "noble", "plain", "proud",
    "quick", "quiet", "rapid", "sharp", "steady", "sunny", "witty",
];

const ANIMALS: [&str; 32] = [
    "badger", "bear", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "ferret", "finch", "fox",
    "gecko", "heron", "ibex", "jackal", "koala", "lemur", "lynx", "marten", "mole", "newt", "otter", "owl", "panda",
    "puffin", "raven", "seal", "stork", "tapir", "wolf", "yak",
];

/// A name that no run has; `random` chooses the words, the number makes it free. Another process may be faster to take
/// it, which the creation of the run then tells.
pub(super) fn free_name(store: &Store, random: u64) -> RunName {
    let pick =
        |shift: u32, words: [&'static str; 32]| words[usize::try_from((random >> shift) % 32).unwrap_or_default()];
    let (adjective, animal) = (pick(0, ADJECTIVES), pick(5, ANIMALS));
    let mut number: u64 = 1;
    loop {
        match format!("{adjective}-{animal}-{number}").parse() {
            Ok(name) if !store.has_run(&name) => return name,
            _ => number += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = free_name(&store, 7);
        assert_eq!(first.as_str(), "cosmic-badger-1");
        let _run = store.create_run(&first).unwrap();
        assert_eq!(free_name(&store, 7).as_str(), "cosmic-badger-2");
    }
}
