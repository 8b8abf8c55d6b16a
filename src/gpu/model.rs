//! What cards are called and sold as: which card a short name means, and how much memory is on its box. Pure.
//!
//! The driver says `NVIDIA A100-SXM4-40GB`, people say `A100`, `a100-40gb`, `A100 SXM`. A name is taken apart into words.
//! Words of the maker (`NVIDIA`, `Tesla`) mean nothing; words of the form (`SXM4`, `PCIe`, `80GB`) must be there when they are
//! asked for and may be there when they are not; all others say which model it is and must be the same, so that
//! `A10` is no `A100`, `T4` no `T400` and `RTX 3080` no `RTX 3080 Ti`.

use std::fmt;

use crate::image::ByteSize;

/// Words that tell nothing.
const MAKER_WORDS: [&str; 9] =
    ["nvidia", "corporation", "tesla", "geforce", "quadro", "grid", "generation", "edition", "gpu"];
/// Families that may be left away: `4090`, `A6000`.
const FAMILY_WORDS: [&str; 3] = ["rtx", "gtx", "gt"];
/// How a card is built, not which one it is.
const FORM_WORDS: [&str; 15] = [
    "pcie",
    "sxm",
    "nvl",
    "dgxs",
    "fhhl",
    "hbm2",
    "hbm2e",
    "hbm3",
    "hbm3e",
    "active",
    "pascal",
    "blackwell",
    "server",
    "workstation",
    "ac",
];
/// Words that are written onto a number without a space: `3080ti`, `6000ada`, `h100nvl`.
const GLUED_ENDS: [&str; 8] = ["ti", "super", "ada", "nvl", "pcie", "laptop", "blackwell", "sxm"];
/// Sizes in GB that cards are sold with. What the driver reports is up to 8 % less: error correction takes a sixteenth of
/// GDDR, the driver and its firmware a little of the rest (T4: 15360 MiB, A10: 23028, H100: 81559, H200: 143771).
const SOLD_GB: [u64; 34] = [
    1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 20, 22, 24, 32, 40, 48, 64, 72, 80, 94, 96, 120, 128, 141, 144, 180, 186, 192,
    256, 270, 279, 288, 384,
];
/// How much less than what it is sold with a card reports at most, in per cent.
const MAX_KEPT_BACK_PERCENT: u64 = 8;

/// A model as it is asked for: `V100`, `RTX 4090`, `A100-80GB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    text: String,
    words: Words,
}

impl ModelName {
    /// `None` for a text that names no model (`NVIDIA`, `80GB`, nothing).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let words = Words::of(text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!words.model.is_empty() && text.len() <= 100).then_some(Self { text, words })
    }

    /// Whether a card is one, from what the driver calls it and what it is sold with, if that is known.
    #[must_use]
    pub fn matches(&self, model: &str, gigabytes: Option<u64>) -> bool {
        let card = Words::of(model);
        let (asked, mut there) = (self.words.model.as_slice(), card.model.as_slice());
        while let [first, rest @ ..] = there {
            if there.len() <= asked.len() || !FAMILY_WORDS.contains(&first.as_str()) {
                break;
            }
            there = rest;
        }
        asked == there
            && self.words.form.iter().all(|word| card.has_form(word))
            && self.words.gigabytes.is_none_or(|asked| card.gigabytes.or(gigabytes) == Some(asked))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// A name taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Words {
    model: Vec<String>,
    form: Vec<String>,
    gigabytes: Option<u64>,
}

impl Words {
    fn of(text: &str) -> Self {
        let mut words = Self::default();
        let lower = text.to_ascii_lowercase();
        for word in lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
            words.add(word);
        }
        words
    }

    fn add(&mut self, word: &str) {
        if let Some((first, second)) = unglued(word) {
            self.add(first);
            self.add(second);
        } else if let Some(gigabytes) = size_word(word) {
            self.gigabytes = Some(gigabytes);
        } else if is_form(word) {
            self.form.push(word.to_owned());
        } else if !MAKER_WORDS.contains(&word) {
            self.model.push(word.to_owned());
        }
    }

    /// `sxm` asks for any SXM, `sxm4` for that.
    fn has_form(&self, asked: &str) -> bool {
        self.form.iter().any(|word| word == asked || asked == "sxm" && word.starts_with("sxm"))
    }
}

/// `rtx4090` is `rtx` and `4090`, `6000ada` is `6000` and `ada`.
fn unglued(word: &str) -> Option<(&str, &str)> {
    let has_number = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    let starts_like_a_model =
        |rest: &str| rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'a');
    let family = FAMILY_WORDS.into_iter().chain(["geforce", "tesla", "quadro", "nvidia"]).find_map(|family| {
        let rest = word.strip_prefix(family)?;
        (starts_like_a_model(rest) && has_number(rest)).then(|| word.split_at(family.len()))
    });
    family.or_else(|| {
        let rest = GLUED_ENDS.into_iter().find_map(|end| word.strip_suffix(end))?;
        (rest.len() > 1 && rest.ends_with(|c: char| c.is_ascii_digit())).then(|| word.split_at(rest.len()))
    })
}

fn is_form(word: &str) -> bool {
    let numbered = |prefix: &str| word.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u8>().is_ok());
    // A virtual GPU's size and kind: `GRID T4-16Q`.
    let virtual_kind = word.strip_suffix(['q', 'c', 'a', 'b']).is_some_and(|rest| rest.parse::<u8>().is_ok());
    FORM_WORDS.contains(&word) || numbered("sxm") || virtual_kind
}

/// `80gb`, and `144g` as in `GH200 144G HBM3e`.
fn size_word(word: &str) -> Option<u64> {
    word.strip_suffix("gb").or(word.strip_suffix('g'))?.parse().ok()
}

/// How many GB a card is sold with: what its name says, else the least usual size that what it reports fits into.
#[must_use]
pub fn sold_gigabytes(model: &str, reported: Option<ByteSize>) -> Option<u64> {
    // The number in the name of a Grace Hopper is the memory of its processor.
    let named = Words::of(model).gigabytes.filter(|_| !model.contains("GH200"));
    named.or_else(|| reported.map(nominal_gigabytes))
}

/// What is called GB on the box is GiB.
#[must_use]
pub fn nominal_gigabytes(reported: ByteSize) -> u64 {
    const GIB: u64 = 1 << 30;
    let fits = |sold: &u64| reported.0 <= sold * GIB && reported.0 >= sold * GIB / 100 * (100 - MAX_KEPT_BACK_PERCENT);
    SOLD_GB.into_iter().find(fits).unwrap_or_else(|| reported.0.div_ceil(GIB))
}

/// Whether a card that is sold with so many GB has the memory that is asked for. `16GB` and `16GiB` are the same here: nobody
/// who asks for either wants to miss the card of that size.
#[must_use]
pub fn has_memory(gigabytes: u64, asked: ByteSize) -> bool {
    let is_binary = asked.0.is_multiple_of(1 << 20);
    let unit = if is_binary { 1 << 30 } else { 1_000_000_000 };
    u128::from(gigabytes) * unit >= u128::from(asked.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as the drivers give them, what they report in MiB, and what is on the box.
    const CARDS: &[(&str, u64, u64)] = &[
        ("Tesla K80", 11441, 12),
        ("Tesla M60", 7618, 8),
        ("Tesla P4", 7611, 8),
        ("Tesla P40", 22919, 24),
        ("Tesla P100-PCIE-16GB", 16280, 16),
        ("Tesla P100-PCIE-12GB", 12198, 12),
        ("Tesla V100-SXM2-16GB", 16160, 16),
        ("Tesla V100-SXM2-32GB", 32510, 32),
        ("Tesla V100S-PCIE-32GB", 32510, 32),
        ("Tesla T4", 15360, 16),
        ("NVIDIA T400 4GB", 3904, 4),
        ("NVIDIA T1000 8GB", 8192, 8),
        ("Quadro RTX 6000", 23040, 24),
        ("NVIDIA TITAN V", 12066, 12),
        ("NVIDIA TITAN RTX", 24220, 24),
        ("GeForce GTX 1080 Ti", 11178, 11),
        ("NVIDIA GeForce RTX 2080 Ti", 11019, 11),
        ("NVIDIA GeForce RTX 3080", 10018, 10),
        ("NVIDIA GeForce RTX 3080 Ti", 12288, 12),
        ("NVIDIA GeForce RTX 3090", 24268, 24),
        ("NVIDIA GeForce RTX 4080 SUPER", 16376, 16),
        ("NVIDIA GeForce RTX 4090", 24564, 24),
        ("NVIDIA GeForce RTX 4090 D", 24564, 24),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, 16),
        ("NVIDIA GeForce RTX 5090", 32607, 32),
        ("NVIDIA RTX A2000 12GB", 12282, 12),
        ("NVIDIA RTX A4000", 16376, 16),
        ("NVIDIA RTX A6000", 49140, 48),
        ("NVIDIA RTX 4000 Ada Generation", 20475, 20),
        ("NVIDIA RTX 6000 Ada Generation", 46068, 48),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, 96),
        ("NVIDIA A2", 15356, 16),
        ("NVIDIA A10", 23028, 24),
        ("NVIDIA A10G", 23028, 24),
        ("NVIDIA A16", 15356, 16),
        ("NVIDIA A30", 24258, 24),
        ("NVIDIA A40", 46068, 48),
        ("NVIDIA A100-SXM4-40GB", 40960, 40),
        ("NVIDIA A100-PCIE-40GB", 40536, 40),
        ("NVIDIA A100-SXM4-80GB", 81920, 80),
        ("NVIDIA A100 80GB PCIe", 81920, 80),
        ("NVIDIA A800-SXM4-80GB", 81920, 80),
        ("NVIDIA L4", 23034, 24),
        ("NVIDIA L40", 46068, 48),
        ("NVIDIA L40S", 46068, 48),
        ("NVIDIA H20", 97871, 96),
        ("NVIDIA H100 PCIe", 81559, 80),
        ("NVIDIA H100 80GB HBM3", 81559, 80),
        ("NVIDIA H100 NVL", 95830, 94),
        ("NVIDIA H200", 143_771, 141),
        ("NVIDIA H200 NVL", 143_771, 141),
        ("NVIDIA GH200 480GB", 97871, 96),
        ("NVIDIA B200", 183_359, 180),
        ("NVIDIA B300 SXM6 AC", 275_040, 270),
        ("GRID T4-16Q", 16384, 16),
    ];

    #[test]
    fn short_names_mean_their_cards_and_no_others() {
        for (asked, meant) in [
            ("V100", &["Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"][..]),
            ("v100-sxm2", &["Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"]),
            ("V100-32GB", &["Tesla V100-SXM2-32GB"]),
            ("V100S", &["Tesla V100S-PCIE-32GB"]),
            ("K80", &["Tesla K80"]),
            ("tesla k80", &["Tesla K80"]),
            ("P4", &["Tesla P4"]),
            ("P100", &["Tesla P100-PCIE-16GB", "Tesla P100-PCIE-12GB"]),
            ("T4", &["Tesla T4", "GRID T4-16Q"]),
            ("NVIDIA T4", &["Tesla T4", "GRID T4-16Q"]),
            ("T400", &["NVIDIA T400 4GB"]),
            ("A2", &["NVIDIA A2"]),
            ("A10", &["NVIDIA A10"]),
            ("A10G", &["NVIDIA A10G"]),
            ("A16", &["NVIDIA A16"]),
            ("A40", &["NVIDIA A40"]),
            (
                "A100",
                &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"],
            ),
            ("a100-80gb", &["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"]),
            ("A100 PCIe 80GB", &["NVIDIA A100 80GB PCIe"]),
            ("A100 SXM", &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"]),
            ("A100-SXM4-40GB", &["NVIDIA A100-SXM4-40GB"]),
            ("L4", &["NVIDIA L4"]),
            ("L40", &["NVIDIA L40"]),
            ("L40S", &["NVIDIA L40S"]),
            ("H20", &["NVIDIA H20"]),
            ("H100", &["NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL"]),
            ("H100 80GB", &["NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3"]),
            ("H100NVL", &["NVIDIA H100 NVL"]),
            ("H200", &["NVIDIA H200", "NVIDIA H200 NVL"]),
            ("GH200", &["NVIDIA GH200 480GB"]),
            ("B200", &["NVIDIA B200"]),
            ("B300", &["NVIDIA B300 SXM6 AC"]),
            ("RTX 4090", &["NVIDIA GeForce RTX 4090"]),
            ("rtx4090", &["NVIDIA GeForce RTX 4090"]),
            ("rtx-4090", &["NVIDIA GeForce RTX 4090"]),
            ("GeForce RTX 4090", &["NVIDIA GeForce RTX 4090"]),
            ("4090", &["NVIDIA GeForce RTX 4090"]),
            ("RTX 4090 D", &["NVIDIA GeForce RTX 4090 D"]),
            ("RTX4090 Laptop", &["NVIDIA GeForce RTX 4090 Laptop GPU"]),
            ("RTX 3080", &["NVIDIA GeForce RTX 3080"]),
            ("rtx3080ti", &["NVIDIA GeForce RTX 3080 Ti"]),
            ("3080 Ti", &["NVIDIA GeForce RTX 3080 Ti"]),
            ("RTX4080Super", &["NVIDIA GeForce RTX 4080 SUPER"]),
            ("GTX 1080", &[]),
            ("1080Ti", &["GeForce GTX 1080 Ti"]),
            ("A4000", &["NVIDIA RTX A4000"]),
            ("A6000", &["NVIDIA RTX A6000"]),
            ("RTXA6000", &["NVIDIA RTX A6000"]),
            ("RTX A6000", &["NVIDIA RTX A6000"]),
            ("RTX 6000", &["Quadro RTX 6000"]),
            ("RTX6000Ada", &["NVIDIA RTX 6000 Ada Generation"]),
            ("RTX PRO 6000", &["NVIDIA RTX PRO 6000 Blackwell Server Edition"]),
            ("TITAN RTX", &["NVIDIA TITAN RTX"]),
            ("Titan V", &["NVIDIA TITAN V"]),
            ("RTX", &[]),
            ("A1", &[]),
            ("100", &[]),
        ] {
            let name = ModelName::new(asked).unwrap();
            let hit =
                |(card, mib, _): &&(&str, u64, u64)| name.matches(card, Some(nominal_gigabytes(ByteSize(mib << 20))));
            let found: Vec<&str> = CARDS.iter().filter(hit).map(|(card, ..)| *card).collect();
            assert_eq!(found, meant, "{asked}");
        }
    }

    #[test]
    fn each_card_is_meant_by_its_full_name() {
        for (card, ..) in CARDS {
            assert!(ModelName::new(card).unwrap().matches(card, None), "{card}");
        }
    }

    #[test]
    fn what_names_no_model() {
        for text in ["", "  ", "NVIDIA", "80GB", "GeForce GPU", "-", "PCIe", &"x".repeat(200)] {
            assert_eq!(ModelName::new(text), None, "{text}");
        }
        assert_eq!(ModelName::new(" RTX   4090 ").unwrap().to_string(), "RTX 4090");
    }

    #[test]
    fn memory_is_what_is_on_the_box() {
        for (card, mib, sold) in CARDS {
            assert_eq!(nominal_gigabytes(ByteSize(mib << 20)), *sold, "{card}");
            assert_eq!(sold_gigabytes(card, Some(ByteSize(mib << 20))), Some(*sold), "{card}");
        }
        // Without NVML the name may still tell.
        assert_eq!(sold_gigabytes("NVIDIA A100-SXM4-40GB", None), Some(40));
        assert_eq!(sold_gigabytes("NVIDIA GH200 480GB", None), None);
        assert_eq!(sold_gigabytes("Tesla T4", None), None);
        assert_eq!(nominal_gigabytes(ByteSize(17 << 30)), 17);
        assert_eq!((nominal_gigabytes(ByteSize(0)), nominal_gigabytes(ByteSize(u64::MAX))), (0, 1 << 34));
    }

    #[test]
    fn both_dialects_of_a_size_mean_the_card_of_that_size() {
        for (sold, asked, enough) in [
            (16, "16GB", true),
            (16, "16GiB", true),
            (16, "15GB", true),
            (16, "16.5GB", false),
            (16, "17GB", false),
            (141, "141GB", true),
            (141, "144GB", false),
            (80, "80000MB", true),
            (80, "81920MiB", true),
        ] {
            assert_eq!(has_memory(sold, ByteSize::from_workflow(asked).unwrap()), enough, "{sold} for {asked}");
        }
    }
}
