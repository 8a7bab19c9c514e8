//! The process that holds a lease, and whether it is still alive.

use std::{fs, process};

use serde::{Deserialize, Serialize};

/// A process, described so that processes on other machines can recognise it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub pid: u32,
    /// When it started, in ticks since boot, because process ids are reused.
    started: Option<u64>,
    /// Boot id and process-id namespace; absent if the system does not report them. Process ids are comparable only if both are
    /// equal.
    machine: Option<String>,
}

impl Holder {
    /// This process.
    pub fn me() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_string());
        let namespace = fs::read_link("/proc/self/ns/pid").ok();
        let machine = read("/proc/sys/kernel/random/boot_id").zip(namespace);
        Self {
            host: read("/proc/sys/kernel/hostname").unwrap_or_default(),
            pid: process::id(),
            started: started(process::id()),
            machine: machine.map(|(boot, namespace)| format!("{boot} {}", namespace.display())),
        }
    }

    /// Whether the process is known to have ended. Always false for a process on another machine.
    pub fn has_ended(&self) -> bool {
        self.machine.is_some() && self.machine == Self::me().machine && started(self.pid) != self.started
    }

    pub fn is_me(&self) -> bool {
        *self == Self::me()
    }
}

/// When process `pid` of this machine started; `None` once it has ended, even if its parent has not yet waited for it (a zombie).
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the command in parentheses, may contain spaces and parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if ["Z", "X"].contains(fields.first()?) { None } else { fields.get(19)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_as_ended_once_it_is_a_zombie_or_its_id_is_reused() {
        let me = Holder::me();
        assert!(me.is_me() && !me.has_ended());
        let mut child = process::Command::new("sleep").arg("100").spawn().unwrap();
        let other = Holder { pid: child.id(), started: started(child.id()), ..me.clone() };
        assert!(!other.has_ended() && !other.is_me());
        child.kill().unwrap();
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(other.has_ended(), "a zombie has ended");
        child.wait().unwrap();
        assert!(other.has_ended());
        assert!(Holder { started: Some(1), ..me.clone() }.has_ended(), "its id was reused");
        assert!(!Holder { machine: Some("elsewhere".into()), ..other }.has_ended(), "nothing is known about other machines");
    }
}
