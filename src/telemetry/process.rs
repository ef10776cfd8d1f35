//! The process metrics that Prometheus defines for all programs. The values are read from `/proc`
//! for each request to `/metrics`. A value that cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The number of clock ticks per second in `/proc` (`USER_HZ`). Linux uses the same `USER_HZ` on
/// all architectures for which Sidegate is built.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let times = Times::parse(&read("/proc/self/stat"));
        let cpu = times.map(|times| ConstCounter::new(times.cpu));
        let text = "User and system CPU time of the process";
        write(&mut encoder, "process_cpu_seconds", text, cpu)?;
        let start = times.and_then(|times| Some(times.start + boot_time(&read("/proc/stat"))?));
        let text = "Start of the process, in seconds since the Unix epoch";
        let start = start.map(ConstGauge::new);
        write(&mut encoder, "process_start_time_seconds", text, start)?;
        let memory = resident_memory(&read("/proc/self/status")).map(ConstGauge::new);
        let text = "Resident memory of the process";
        write(&mut encoder, "process_resident_memory_bytes", text, memory)?;
        let open = fs::read_dir("/proc/self/fd").ok();
        // One of the descriptors belongs to the folder `/proc/self/fd` itself.
        let open = open.and_then(|open| i64::try_from(open.count().saturating_sub(1)).ok());
        let text = "Open file descriptors of the process";
        write(
            &mut encoder,
            "process_open_fds",
            text,
            open.map(ConstGauge::new),
        )?;
        let max = max_descriptors(&read("/proc/self/limits")).map(ConstGauge::new);
        let text = "Limit of open file descriptors";
        write(&mut encoder, "process_max_fds", text, max)
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: Option<impl EncodeMetric>,
) -> fmt::Result {
    let Some(metric) = metric else {
        return Ok(());
    };
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

/// The times in `/proc/self/stat`, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    /// The user time and the system time of all threads.
    cpu: f64,
    /// The time from the boot of the machine to the start of the process.
    start: f64,
}

impl Times {
    fn parse(text: &str) -> Option<Self> {
        // In `/proc/self/stat`, the name of the program is in parentheses, and the name can contain
        // spaces and parentheses.
        let (_name, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let mut seconds = |skipped| Some(fields.nth(skipped)?.parse::<f64>().ok()? / TICKS);
        // In `/proc/self/stat`, the first field after the name of the program is field 3. The user
        // time is field 14, the system time is field 15, and the start time is field 22
        // (proc_pid_stat(5)).
        let (user, system, start) = (seconds(11)?, seconds(0)?, seconds(6)?);
        let cpu = user + system;
        Some(Self { cpu, start })
    }
}

/// Returns the time at which the machine was booted, in seconds since the Unix epoch.
fn boot_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

fn resident_memory(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: i64 = line?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn max_descriptors(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    // The first number in the line `Max open files` is the current limit. The second number in the
    // line `Max open files` is the largest limit that the process may set.
    line?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 1200 9 9 9";
        let times = Times::parse(stat).unwrap();
        assert_eq!(
            times,
            Times {
                cpu: 3.0,
                start: 12.0
            }
        );
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nx 1\n"), Some(1.7e9));
        let status = "Name:\tx\nVmRSS:\t    2048 kB\n";
        assert_eq!(resident_memory(status), Some(2048 * 1024));
        let limits = "Max processes   5  6  p\nMax open files            1024                 4096";
        assert_eq!(max_descriptors(limits), Some(1024));
    }
}
