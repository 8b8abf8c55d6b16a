//! What a run makes of its GPUs, from what they were seen doing.

use std::collections::BTreeMap;

use super::inventory::GpuUuid;
use super::watch::WatchEvent;
use crate::image::ByteSize;
use crate::store::GpuUsage;

/// Highest and mean values over a run. There are as many as the run has GPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UsagePeaks(BTreeMap<GpuUuid, Peaks>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Peaks {
    percent_max: u32,
    percent_sum: u64,
    /// Samples that had one; MIG devices have none.
    percent_count: u32,
    memory: Option<ByteSize>,
}

impl UsagePeaks {
    /// Counts a sample; other events say nothing of usage.
    pub fn add(&mut self, event: &WatchEvent) {
        let WatchEvent::Sample { uuid, utilisation } = event else { return };
        let peaks = self.0.entry(uuid.clone()).or_default();
        if let Some(percent) = utilisation.compute_percent {
            peaks.percent_max = peaks.percent_max.max(percent);
            peaks.percent_sum += u64::from(percent);
            peaks.percent_count += 1;
        }
        peaks.memory = peaks.memory.max(utilisation.memory_used);
    }

    /// What to record, in the order of the UUIDs.
    #[must_use]
    pub fn usage(&self) -> Vec<GpuUsage> {
        self.0.iter().map(|(uuid, peaks)| peaks.usage(uuid)).collect()
    }
}

impl Peaks {
    fn usage(self, uuid: &GpuUuid) -> GpuUsage {
        #[expect(clippy::cast_precision_loss, reason = "a sum of per cents over years of seconds is below 2^53")]
        let sum = self.percent_sum as f64;
        // To a tenth: more would pretend to be known.
        let mean = (sum / f64::from(self.percent_count) * 10.0).round() / 10.0;
        let has_percent = self.percent_count > 0;
        GpuUsage {
            uuid: uuid.to_string(),
            compute_percent_max: has_percent.then_some(self.percent_max),
            compute_percent_mean: has_percent.then_some(mean),
            memory_peak: self.memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inventory::Utilisation;
    use super::*;

    fn sample(uuid: &str, compute_percent: Option<u32>, memory: Option<u64>) -> WatchEvent {
        let utilisation = Utilisation { compute_percent, memory_used: memory.map(ByteSize) };
        WatchEvent::Sample { uuid: uuid.parse().unwrap(), utilisation }
    }

    #[test]
    fn peaks_and_means_are_kept_for_each_gpu() {
        let mut peaks = UsagePeaks::default();
        for event in [
            sample("GPU-2", Some(0), Some(5)),
            sample("GPU-1", Some(100), Some(3)),
            sample("GPU-2", Some(50), Some(9)),
            sample("GPU-2", Some(51), None),
            sample("MIG-1", None, Some(7)),
            WatchEvent::Xid { uuid: "GPU-3".parse().unwrap(), number: 31 },
        ] {
            peaks.add(&event);
        }
        let row = |usage: GpuUsage| {
            (usage.uuid, usage.compute_percent_max, usage.compute_percent_mean, usage.memory_peak.map(|peak| peak.0))
        };
        let rows: Vec<_> = peaks.usage().into_iter().map(row).collect();
        let expected = [
            ("GPU-1".to_owned(), Some(100), Some(100.0), Some(3)),
            ("GPU-2".to_owned(), Some(51), Some(33.7), Some(9)),
            ("MIG-1".to_owned(), None, None, Some(7)),
        ];
        assert_eq!(rows, expected);
    }
}
