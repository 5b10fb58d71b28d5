//! What the process and its machine use: processor, memory, descriptors, network. As the kernel's /proc says it.
//!
//! Owns: reading those few files, which never touches a disk, and understanding them, which is pure. A value that can't be
//! had is left out: a scrape never fails for it.

use super::text::Text;

/// What was found. None where the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: Option<f64>,
    started_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    /// Ticks of all processors in each of [`MODES`].
    modes: Option<[u64; MODES.len()]>,
    received_bytes: Option<u64>,
    sent_bytes: Option<u64>,
}

/// Appends what is known now.
pub(super) fn show(text: &mut Text) {
    let usage = look();
    let mut show = |name: &str, help: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.single(name, help, kind, value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    show(
        "process_cpu_seconds_total",
        "Processor time of the hub",
        "counter",
        usage.cpu_seconds,
    );
    show(
        "process_start_time_seconds",
        "When the hub was started, UTC",
        "gauge",
        usage.started_seconds,
    );
    show(
        "process_resident_memory_bytes",
        "Memory of the hub",
        "gauge",
        whole(usage.resident_bytes),
    );
    show(
        "process_open_fds",
        "Open descriptors of the hub",
        "gauge",
        whole(usage.open_fds),
    );
    show(
        "process_max_fds",
        "Descriptors that the hub may have",
        "gauge",
        whole(usage.max_fds),
    );
    show(
        "machine_memory_bytes",
        "Memory of the machine",
        "gauge",
        whole(usage.memory_bytes),
    );
    show(
        "machine_memory_available_bytes",
        "Memory that programs could still have",
        "gauge",
        whole(usage.memory_available_bytes),
    );
    show(
        "machine_network_received_bytes_total",
        "Bytes that came over all networks but loopback",
        "counter",
        whole(usage.received_bytes),
    );
    show(
        "machine_network_sent_bytes_total",
        "Bytes that went over all networks but loopback",
        "counter",
        whole(usage.sent_bytes),
    );
    if let Some(modes) = usage.modes {
        let name = "machine_cpu_seconds_total";
        text.family(
            name,
            "Time of all processors of the machine, by what for",
            "counter",
        );
        for (mode, ticks) in MODES.into_iter().zip(modes) {
            text.line(name, &[("mode", mode)], ticks as f64 / TICKS_PER_SECOND);
        }
    }
}

fn look() -> Usage {
    let stat = read("/proc/self/stat");
    let ticks = stat.as_deref().and_then(cpu_ticks);
    let machine = read("/proc/stat");
    let boot = machine.as_deref().and_then(boot_seconds);
    let memory = read("/proc/meminfo");
    let network = read("/proc/net/dev").as_deref().map(network_bytes);
    Usage {
        cpu_seconds: ticks.map(|(used, _)| used as f64 / TICKS_PER_SECOND),
        started_seconds: ticks
            .zip(boot)
            .map(|((_, started), boot)| boot as f64 + started as f64 / TICKS_PER_SECOND),
        resident_bytes: kib(read("/proc/self/status").as_deref(), "VmRSS:"),
        open_fds: open_fds(),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        memory_bytes: kib(memory.as_deref(), "MemTotal:"),
        memory_available_bytes: kib(memory.as_deref(), "MemAvailable:"),
        modes: machine.as_deref().and_then(modes),
        received_bytes: network.map(|(received, _)| received),
        sent_bytes: network.map(|(_, sent)| sent),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the kernel's own pages: no disk, nothing of the hub's"
)]
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[allow(
    clippy::disallowed_methods,
    reason = "the kernel's own pages: no disk, nothing of the hub's"
)]
fn open_fds() -> Option<u64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}

/// Of proc_pid_stat(5): processor time of user and system, and when the process began after the boot.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    // The name in parentheses may hold anything, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)?.checked_add(field(15)?)?, field(22)?))
}

/// Of proc_stat(5): UTC seconds of the boot.
fn boot_seconds(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// Of proc_stat(5): ticks of all processors together.
fn modes(stat: &str) -> Option<[u64; MODES.len()]> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut ticks = line.split_whitespace().map_while(|ticks| ticks.parse().ok());
    let mut modes = [0; MODES.len()];
    for mode in &mut modes {
        *mode = ticks.next()?;
    }
    Some(modes)
}

/// A line `Name:   123 kB`, in bytes.
fn kib(text: Option<&str>, name: &str) -> Option<u64> {
    let rest = text?.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Of proc_net(5)'s `dev`: received and sent by all interfaces but loopback.
fn network_bytes(text: &str) -> (u64, u64) {
    let of = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        let number = |at: usize| numbers.get(at)?.parse::<u64>().ok();
        (name.trim() != "lo").then_some((number(0)?, number(8)?))
    });
    of.fold((0, 0), |(received, sent), (r, s)| {
        (received.wrapping_add(r), sent.wrapping_add(s))
    })
}

/// In the order of the kernel's line. Guests are in `user` already.
const MODES: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];
/// What the kernel shows times of processes in: USER_HZ is 100 on every architecture that Rust's standard library has.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_pages_are_understood() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 9 0 0 0 700 30 0 0 20 0 8 0 5000 1 2 3";
        assert_eq!(cpu_ticks(stat), Some((730, 5000)));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
        assert_eq!(cpu_ticks("nonsense"), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
        let stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(modes(stat), Some([10, 20, 30, 40, 50, 60, 70, 80]));
        assert_eq!(modes("cpu  10 20\n"), None);
        let memory = "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(kib(Some(memory), "MemAvailable:"), Some(8 << 20));
        assert_eq!(kib(Some(memory), "Swap:"), None);
        let network = "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 100 1 0 0 0 0 0 0 \
                       50 1\n wlan0:7 1 0 0 0 0 0 0 8 1\n";
        assert_eq!(network_bytes(network), (107, 58));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_something() {
        let usage = look();
        assert!(
            usage.resident_bytes.is_some_and(|bytes| bytes > 100_000),
            "{usage:?}"
        );
        assert!(usage.open_fds.is_some_and(|count| count >= 3), "{usage:?}");
        assert!(usage.started_seconds.is_some_and(|at| at > 1e9), "{usage:?}");
        assert!(
            usage.modes.is_some_and(|modes| modes.iter().sum::<u64>() > 0),
            "{usage:?}"
        );
    }
}
