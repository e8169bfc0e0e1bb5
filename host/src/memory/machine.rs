//! How much memory this process may have: the machine's, or the least that a control group above it allows.

use std::{fs, path::Path};

/// Where control groups are, by version, with the name of the file that has the bound.
const GROUPS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// Bytes of memory that this process may have.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &Path| fs::read_to_string(path).ok();
    bound(&own, read).map_or(machine, |bound| bound.min(machine))
}

/// The least bound of the control groups that `own` (the text of `/proc/self/cgroup`) names, and of those around them.
fn bound(own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => GROUPS[0],
            _ if controllers.split(',').any(|controller| controller == "memory") => GROUPS[1],
            _ => continue,
        };
        // Within a container the group's path may be one of outside: then only the root is there.
        for ancestor in Path::new(group.trim_start_matches('/')).ancestors() {
            let text = read(&Path::new(root).join(ancestor).join(file));
            if let Some(bytes) = text.and_then(|text| text.trim().parse::<u64>().ok()) {
                least = Some(least.map_or(bytes, |least| least.min(bytes)));
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let files = |path: &Path| match path.to_str() {
            Some("/sys/fs/cgroup/a/b/memory.max") => Some("max\n".to_owned()),
            Some("/sys/fs/cgroup/a/memory.max") => Some("2000\n".to_owned()),
            Some("/sys/fs/cgroup/memory/c/memory.limit_in_bytes") => Some("3000\n".to_owned()),
            Some("/sys/fs/cgroup/memory/memory.limit_in_bytes") => Some("9223372036854771712\n".to_owned()),
            _ => None,
        };
        for (own, expected) in [
            ("0::/a/b\n", Some(2_000)),
            ("4:memory:/c\n1:cpu:/c\n0::/\n", Some(3_000)),
            ("4:memory:/elsewhere\n", Some(9_223_372_036_854_771_712)),
            ("", None),
            ("nonsense", None),
        ] {
            assert_eq!(bound(own, files), expected, "{own:?}");
        }
    }

    #[test]
    fn there_is_memory() {
        assert!(memory_bytes() > 64 << 20);
    }
}
