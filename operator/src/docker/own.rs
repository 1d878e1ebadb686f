//! Which container the operator itself runs in, so that it never routes to itself.

use std::collections::BTreeSet;
use std::path::Path;

use interlock_core::model::ContainerId;

use super::Client;

/// The operator's own container on this engine, if it runs in one. Guesses come from the mount table
/// (Docker mounts `/etc/hostname` from the container's folder), the control groups and the host name,
/// and each is verified by the engine, which costs one request for each guess.
pub async fn own_container(client: &Client) -> Option<ContainerId> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let in_container = Path::new("/.dockerenv").exists();
    let guesses = guesses(
        &read("/proc/self/mountinfo"),
        &read("/proc/self/cgroup"),
        if in_container { read("/proc/sys/kernel/hostname") } else { String::new() }.trim(),
    );
    for guess in guesses {
        if let Ok(found) = client.inspect(&guess).await
            && let Some(id) = found.id.and_then(|id| id.parse().ok())
        {
            return Some(id);
        }
    }
    None
}

/// Container ids, best guess first.
fn guesses(mounts: &str, cgroups: &str, hostname: &str) -> Vec<String> {
    let from_mounts = mounts.lines().filter_map(|line| {
        // id parent major:minor root mount-point …
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let known = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&point);
        known.then(|| full_id(root)).flatten()
    });
    let from_cgroups = cgroups.lines().filter(|line| line.contains("docker")).filter_map(full_id);
    let short = (hostname.len() == 12 && hostname.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hostname);
    let mut seen = BTreeSet::new();
    from_mounts
        .chain(from_cgroups)
        .chain(short)
        .map(str::to_owned)
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

/// The last run of exactly 64 hex digits in a path.
fn full_id(path: &str) -> Option<&str> {
    path.split(|c: char| !c.is_ascii_hexdigit()).rfind(|part| part.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "f20aa15eca64ab77a457ec692b17d818b2cbca7d234e58bdf715248a5ae0af68";

    #[test]
    fn the_mount_of_the_host_name_names_the_container() {
        let mounts = format!(
            "1 2 0:3 / / rw - overlay overlay rw\n4 1 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw\n"
        );
        assert_eq!(guesses(&mounts, "", ""), [ID]);
    }

    #[test]
    fn mounts_of_other_containers_on_the_host_are_no_guess() {
        let mounts = format!("4 1 0:9 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw\n");
        assert_eq!(guesses(&mounts, "0::/init.scope\n", "build-host"), Vec::<String>::new());
    }

    #[test]
    fn control_groups_and_a_short_host_name_serve_too() {
        let cgroups = format!(
            "3:cpu:/docker/{ID}\n2:pids:/docker/{ID}\n1:name=systemd:/system.slice/docker-{ID}.scope"
        );
        assert_eq!(guesses("", &cgroups, &ID[..12]), [ID, &ID[..12]]);
    }
}
