//! Errors that the driver reports: Xids, numbered in NVIDIA's public catalogue (<https://docs.nvidia.com/deploy/xid-errors/>).

/// What a number means, in a few words of ours; the best known only.
#[must_use]
pub const fn xid_words(number: u64) -> Option<&'static str> {
    Some(match number {
        13 => "a program's kernel did something illegal, such as access beyond an array",
        31 => "a program accessed memory that is not its own",
        43 => "a program's work was stopped after an error of its own",
        45 => "a program's work was removed, after another error or because the program was ended",
        48 => "memory has an error that cannot be corrected",
        61 => "the GPU's own controller reports an internal problem",
        62 => "the GPU's own controller has halted; the GPU needs a reset",
        63 => "bad memory is set aside from the next reset on",
        64 => "bad memory could not be set aside; the GPU needs a reset",
        74 => "an NVLink connection has failed",
        79 => "the GPU has fallen off the bus",
        92 => "memory errors that were corrected come often",
        94 => "a memory error hit one program, others are not concerned",
        95 => "a memory error hit more than one program; the GPU needs a reset",
        109 => "switching between programs took too long",
        119 => "the GPU's system processor does not answer; the GPU needs a reset",
        120 => "the GPU's system processor has failed; the GPU needs a reset",
        140 => "memory has an error that was not recovered from; the GPU needs a reset",
        143 => "the GPU could not be initialised",
        154 => "the driver says what the GPU now needs: a reset, or a restart of the machine",
        _ => return None,
    })
}

/// Whether the GPU is gone with it, whatever the program does: only 79 says that it cannot be reached.
///
/// After the errors that need a reset (48, 62, 64, 95, 119, 120, 140) a program that is on the GPU gets an error from CUDA and ends
/// by its own decision, perhaps after it has saved what it has; and a MIG device or another GPU of the same run may not be
/// concerned. A GPU that the driver really loses after one of them is told of as lost by NVML itself. 154 names a need and is
/// also reported for needs that a running program does not feel; 143 comes before any program does.
#[must_use]
pub const fn is_lost(number: u64) -> bool {
    number == 79
}
