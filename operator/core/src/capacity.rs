//! Capacity: how many client connections a proxy can hold where it runs, by its memory and its open files.

use interlock_crds::{ProxyKind, ServiceClusterSpec};

use crate::protocol::Limits;

/// Open files of one client connection: its own and the one to the endpoint.
const FILES_PER_CLIENT: u64 = 2;
/// Open files for listeners, logs, checks and old sockets that change hands.
const FILES_BESIDE: u64 = 128;
/// Memory of one client connection with TLS: two buffers of 16 KiB, the session, the kernel's share.
const MEMORY_PER_CLIENT: u64 = 64 * 1024;
/// HAProxy sizes itself by its open files, of which it is given no more than 100,000.
const MOST_OF_HAPROXY: u64 = 49_900;
/// What nginx gets for each worker where nothing is said.
const MOST_OF_NGINX: u64 = 4_096;
/// No proxy is of use with fewer.
const FEWEST: u64 = 16;

/// What a cluster's `maxConnections` comes to in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// To be rendered; none: the proxy's own default fits.
    pub max_connections: Option<u32>,
    /// What was asked for and cannot be had, or only at a risk; for people.
    pub complaint: Option<String>,
}

/// Fits a cluster's settings into the limits of one proxy. What is asked for wins over the memory that it may
/// take, and is told; open files cannot be had beyond their limit, because the proxy would not start.
pub fn fit(settings: &ServiceClusterSpec, limits: Limits) -> Capacity {
    let processes = match settings.proxy {
        ProxyKind::Haproxy => 1,
        ProxyKind::Nginx => {
            let asked = settings.nginx.worker_processes.filter(|number| *number > 0).map(u64::from);
            asked.unwrap_or_else(|| u64::from(limits.processors.max(1)))
        }
    };
    let by_files = (limits.files.saturating_sub(FILES_BESIDE) / FILES_PER_CLIENT).max(FEWEST);
    // Half of the memory is for the configuration and for the workers of the reloads before.
    let by_memory = limits.memory.map(|memory| (memory / 2 / MEMORY_PER_CLIENT / processes).max(FEWEST));
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    if let Some(asked) = settings.max_connections {
        let complaint = if u64::from(asked) > by_files {
            Some(format!(
                "maxConnections: {asked} cannot be had with {} open files; {by_files} is used",
                limits.files
            ))
        } else {
            let memory = by_memory.filter(|most| u64::from(asked) > *most);
            memory.map(|most| {
                format!("maxConnections: {asked} may take more memory than the proxy has; {most} is safe")
            })
        };
        return Capacity { max_connections: Some(asked.min(narrow(by_files))), complaint };
    }
    let (most, sizes_itself) = match settings.proxy {
        ProxyKind::Haproxy => (MOST_OF_HAPROXY, by_files),
        ProxyKind::Nginx => (MOST_OF_NGINX, MOST_OF_NGINX),
    };
    let fits = by_files.min(by_memory.unwrap_or(u64::MAX));
    let max_connections = (fits < most.min(sizes_itself)).then(|| narrow(fits));
    Capacity { max_connections, complaint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(proxy: ProxyKind, asked: Option<u32>, memory: Option<u64>, files: u64) -> Capacity {
        let mut settings = ServiceClusterSpec::implicit(proxy);
        settings.max_connections = asked;
        fit(&settings, Limits { memory, files, processors: 2, ipv4_only: false })
    }

    #[test]
    fn the_narrower_of_memory_and_files_counts() {
        use ProxyKind::{Haproxy, Nginx};
        const MIB: u64 = 1024 * 1024;
        for (proxy, memory, files, expected) in [
            // HAProxy looks at its own limit of files.
            (Haproxy, None, 1_024, None),
            (Haproxy, None, 1 << 30, None),
            (Haproxy, Some(128 * MIB), 1 << 30, Some(1_024)),
            (Haproxy, Some(128 * MIB), 1_024, None),
            (Haproxy, Some(64 * 1024 * MIB), 1 << 30, None),
            (Nginx, None, 1_024, Some(448)),
            (Nginx, None, 1 << 30, None),
            (Nginx, Some(128 * MIB), 1 << 30, Some(512)),
            (Nginx, Some(1), 1, Some(16)),
        ] {
            let capacity = fitted(proxy, None, memory, files);
            assert_eq!(capacity.max_connections, expected, "{proxy:?} {memory:?} {files}");
            assert_eq!(capacity.complaint, None);
        }
    }

    #[test]
    fn what_is_asked_for_wins_as_far_as_it_can_be_had_and_is_told() {
        let files = fitted(ProxyKind::Haproxy, Some(20_000), None, 1_024);
        assert_eq!(files.max_connections, Some(448));
        assert!(files.complaint.unwrap().contains("448 is used"));
        let memory = fitted(ProxyKind::Haproxy, Some(20_000), Some(128 * 1024 * 1024), 1 << 20);
        assert_eq!(memory.max_connections, Some(20_000));
        assert!(memory.complaint.unwrap().contains("1024 is safe"));
        let fits = fitted(ProxyKind::Nginx, Some(300), Some(128 * 1024 * 1024), 1 << 20);
        assert_eq!(fits, Capacity { max_connections: Some(300), complaint: None });
    }
}
