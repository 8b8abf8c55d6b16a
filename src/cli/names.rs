//! Names for runs that were given none: `adjective-animal-N`.

use crate::store::{Reservation, RunName, Store, StoreError};

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

/// Takes a name that no run has; `random` chooses the words, the number makes it free.
pub(super) fn take_free_name(store: &Store, random: u64) -> Result<Reservation, StoreError> {
    let pick =
        |shift: u32, words: [&'static str; 32]| words[usize::try_from((random >> shift) % 32).unwrap_or_default()];
    let (adjective, animal) = (pick(0, ADJECTIVES), pick(5, ANIMALS));
    let mut number: u64 = 1;
    loop {
        let name = format!("{adjective}-{animal}-{number}").parse();
        match name.map(|name: RunName| store.create_run(&name)) {
            // The words fit the grammar of names.
            Err(_) | Ok(Err(StoreError::RunExists { .. })) => number += 1,
            Ok(taken) => return taken,
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
        let first = take_free_name(&store, 7).unwrap();
        assert_eq!(first.name().as_str(), "cosmic-badger-1");
        assert_eq!(take_free_name(&store, 7).unwrap().name().as_str(), "cosmic-badger-2");
    }
}
