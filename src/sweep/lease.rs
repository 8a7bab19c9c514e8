//! Leases: which process may work on a folder. They use plain files only, because on a shared file system locks may not work and
//! clocks differ.
//!
//! A folder's lease is the one of its files `lease.G.json` with the highest generation G. A process that finds it released or
//! expired creates the file of the next generation; if several try, the file system lets exactly one succeed. The highest file is
//! never deleted, so generations only grow, and a holder that sees a generation higher than its own has lost the lease.
//!
//! A holder touches its file several times per term. The lease expires when the holder's process is known to have ended (on this
//! machine), or when an observer has seen the file unchanged for one term of the observer's own clock: clocks of two machines are
//! never compared. A holder that was merely suspended notices the loss before it writes. Should a write get through nevertheless,
//! the journal discards it, because every line carries the generation it was written under.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hydrometer_base::fs::{replace_bytes, uncreated};
use hydrometer_record::journal::{self, Event, Fence, Journal};
use serde::{Deserialize, Serialize};

use super::holder::Holder;

/// A lease expires when its holder has been silent for this long.
const TERM: Duration = Duration::from_secs(30);
/// Heartbeats per term.
const HEARTBEATS: u32 = 6;
/// How long a holder relies on its last check of the file system.
const VERIFIED_FOR: Duration = Duration::from_secs(1);

/// The contents of a lease file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    /// Absent once the lease is released.
    holder: Option<Holder>,
    /// Unchanged when a holder passes the lease on to a process it starts.
    nonce: String,
    term_ms: u64,
}

/// A lease that this process holds. Dropping it releases the lease, unless another process has adopted it.
pub struct Lease {
    held: Arc<Held>,
    /// Dropping it ends the heartbeat thread.
    _heartbeat: mpsc::Sender<()>,
}

struct Held {
    folder: PathBuf,
    generation: u64,
    nonce: String,
    term: Duration,
    lost: AtomicBool,
    /// Milliseconds from `begun` to the last successful check that the lease is held.
    verified_at: AtomicU64,
    begun: Instant,
}

/// The state of a folder's lease as another process sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseState {
    Free,
    /// Held by a process that may be alive; `None` if the lease file cannot be read.
    Held(Option<Holder>),
}

/// Observes a folder's lease over time, so that it can tell when the lease expires.
pub struct LeaseObserver {
    folder: PathBuf,
    /// The generation, the modification time of its file (the holder's clock), and when we first saw that time (our clock).
    seen: Option<(u64, SystemTime, Instant)>,
}

impl LeaseObserver {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), seen: None }
    }

    /// Looks at the lease once. An expired lease counts as free.
    pub fn observe(&mut self) -> Result<LeaseState> {
        let Some(generation) = highest(&self.folder)? else { return Ok(LeaseState::Free) };
        let path = path_of(&self.folder, generation);
        // On a shared file system, opening the file again bypasses cached attributes.
        let touched = File::open(&path).and_then(|file| file.metadata()).and_then(|metadata| metadata.modified());
        let note = read(&path);
        if note.as_ref().is_some_and(|note| note.holder.as_ref().is_none_or(Holder::has_ended)) {
            return Ok(LeaseState::Free);
        }
        let term = note.as_ref().map_or(TERM, |note| Duration::from_millis(note.term_ms));
        let touched = touched.unwrap_or(UNIX_EPOCH);
        match self.seen {
            Some((known, before, since)) if (known, before) == (generation, touched) => {
                if since.elapsed() > term {
                    return Ok(LeaseState::Free);
                }
            }
            _ => self.seen = Some((generation, touched, Instant::now())),
        }
        Ok(LeaseState::Held(note.and_then(|note| note.holder)))
    }

    /// Takes the lease if it is free; `None` if it is not. Creates the folder if necessary.
    pub fn take(&mut self) -> Result<Option<Lease>> {
        self.take_for(TERM)
    }

    fn take_for(&mut self, term: Duration) -> Result<Option<Lease>> {
        fs::create_dir_all(&self.folder).map_err(|error| uncreated(&self.folder, error))?;
        let before = highest(&self.folder)?;
        if self.observe()? != LeaseState::Free {
            return Ok(None);
        }
        // If the lease files are missing (in a copy without them, say), the journal still records earlier generations.
        let past = match before {
            Some(before) => before,
            None => journal::last_generation(&self.folder.join(journal::FILE))?,
        };
        let (generation, folder) = (past + 1, &self.folder);
        let path = path_of(folder, generation);
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            opened => opened.with_context(|| format!("cannot create {}", path.display()))?,
        };
        let note = Note { holder: Some(Holder::me()), nonce: nonce(), term_ms: term.as_millis() as u64 };
        let written = serde_json::to_vec(&note).map_err(anyhow::Error::from);
        let written =
            written.and_then(|bytes| Ok(file.write_all(&bytes)?)).with_context(|| format!("cannot write {}", path.display()));
        written.inspect_err(|_| drop(fs::remove_file(&path)))?;
        // Another process may have taken and released the lease since `before`.
        if highest(&self.folder)? != Some(generation) {
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        for older in generations(&self.folder)?.into_iter().filter(|&older| older < generation) {
            let _ = fs::remove_file(path_of(&self.folder, older));
        }
        self.seen = None;
        Ok(Some(Lease::begin(&self.folder, generation, note.nonce, term)))
    }

    /// Waits for the lease; `None` if `stop` returned true first. Calls `log` once with a sentence that names the holder.
    pub fn wait(&mut self, log: impl Fn(&str), stop: impl Fn() -> bool) -> Result<Option<Lease>> {
        let mut logged = false;
        loop {
            if let Some(lease) = self.take()? {
                return Ok(Some(lease));
            }
            if stop() {
                return Ok(None);
            }
            if let (false, LeaseState::Held(holder)) = (logged, self.observe()?) {
                log(&format!("{}: waiting for {}", self.folder.display(), holder_name(holder.as_ref())));
                logged = true;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// `process 17 on host`.
pub fn holder_name(holder: Option<&Holder>) -> String {
    holder.map_or("another hydrometer".into(), |holder| format!("process {} on {}", holder.pid, holder.host))
}

impl Lease {
    fn begin(folder: &Path, generation: u64, nonce: String, term: Duration) -> Self {
        let folder = folder.to_path_buf();
        let (lost, verified_at) = (AtomicBool::new(false), AtomicU64::new(0));
        let held = Arc::new(Held { folder, generation, nonce, term, lost, verified_at, begun: Instant::now() });
        let (heart, stopped) = mpsc::channel::<()>();
        let beating = Arc::clone(&held);
        thread::spawn(move || {
            while stopped.recv_timeout(term / HEARTBEATS) == Err(mpsc::RecvTimeoutError::Timeout) {
                let mine = |note: Note| note.holder.is_some_and(|holder| holder.is_me());
                if !beating.verify() || beating.note().is_some_and(|note| !mine(note)) {
                    return;
                }
                // A failed heartbeat needs no handling here: observers notice that it is missing.
                let touch = |file: File| file.set_modified(SystemTime::now());
                let _ = OpenOptions::new().write(true).open(path_of(&beating.folder, beating.generation)).and_then(touch);
            }
        });
        Self { held, _heartbeat: heart }
    }

    /// The token with which a child process can [adopt](Lease::adopt) this lease.
    pub fn token(&self) -> String {
        format!("{}:{}", self.held.generation, self.held.nonce)
    }

    /// In a child process: takes over the lease of `folder` that has this token from the parent. `None` if it has been lost.
    pub fn adopt(folder: &Path, token: &str) -> Result<Option<Self>> {
        let (generation, nonce) = token.split_once(':').context("a lease's token")?;
        let generation = generation.parse().context("a lease's generation")?;
        let path = path_of(folder, generation);
        let Some(note) = read(&path).filter(|note| note.nonce == nonce && note.holder.is_some()) else { return Ok(None) };
        let term = Duration::from_millis(note.term_ms);
        replace_bytes(&path, &serde_json::to_vec(&Note { holder: Some(Holder::me()), ..note.clone() })?)?;
        let lease = Self::begin(folder, generation, note.nonce, term);
        Ok(lease.held.verify().then_some(lease))
    }

    /// Takes the lease back from a child process that has ended. Returns false if another process has taken it meanwhile.
    pub fn reclaim(&mut self) -> Result<bool> {
        if !self.held.verify() {
            return Ok(false);
        }
        let term_ms = self.held.term.as_millis() as u64;
        let note = Note { holder: Some(Holder::me()), nonce: self.held.nonce.clone(), term_ms };
        replace_bytes(&path_of(&self.held.folder, self.held.generation), &serde_json::to_vec(&note)?)?;
        Ok(self.held.verify())
    }

    /// The fence under which this lease's holder may write a journal.
    pub fn fence(&self) -> Fence {
        let held = Arc::clone(&self.held);
        Fence { generation: held.generation, holds: Box::new(move || held.holds()) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(note) = self.held.note() else { return };
        if note.holder.as_ref().is_some_and(Holder::is_me) && self.held.verify() {
            let path = path_of(&self.held.folder, self.held.generation);
            let free = serde_json::to_vec(&Note { holder: None, ..note }).unwrap_or_default();
            // If this cannot be written, observers see that this process has ended.
            let _ = replace_bytes(&path, &free);
        }
    }
}

impl Held {
    fn note(&self) -> Option<Note> {
        read(&path_of(&self.folder, self.generation)).filter(|note| note.nonce == self.nonce)
    }

    /// Checks on the file system that the lease is still ours. Once lost, it stays lost.
    fn verify(&self) -> bool {
        if self.lost.load(Ordering::Acquire) {
            return false;
        }
        match highest(&self.folder) {
            // An unreadable file system proves nothing; if the heartbeat fails too, the lease expires for observers.
            Err(_) => true,
            Ok(found) if found == Some(self.generation) && self.note().is_some() => {
                self.verified_at.store(self.begun.elapsed().as_millis() as u64, Ordering::Release);
                true
            }
            Ok(_) => {
                self.lost.store(true, Ordering::Release);
                false
            }
        }
    }

    /// Like [`Self::verify`], but relies on a recent check: the lease cannot have expired so soon after it.
    fn holds(&self) -> bool {
        let verified_at = Duration::from_millis(self.verified_at.load(Ordering::Acquire));
        let fresh = VERIFIED_FOR.min(self.term / 2);
        if self.begun.elapsed().saturating_sub(verified_at) > fresh { self.verify() } else { !self.lost.load(Ordering::Acquire) }
    }
}

fn path_of(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("lease.{generation}.json"))
}

fn read(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn generations(folder: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let generation = |name: &str| name.strip_prefix("lease.")?.strip_suffix(".json")?.parse().ok();
    Ok(entries.flatten().filter_map(|entry| generation(&entry.file_name().to_string_lossy())).collect())
}

fn highest(folder: &Path) -> Result<Option<u64>> {
    Ok(generations(folder)?.into_iter().max())
}

/// The holder of the lease of `folder`, as far as a single look can tell. A holder on another machine counts if the file's
/// modification time is less than a term ago by our clock.
pub fn holder(folder: &Path) -> Option<Holder> {
    let path = path_of(folder, highest(folder).ok()??);
    let note = read(&path)?;
    let age = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?.elapsed().unwrap_or_default();
    note.holder.filter(|holder| !holder.has_ended() && age < Duration::from_millis(note.term_ms))
}

/// A random number, so that leases on different machines do not collide.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Appends `event` to the journal in `folder`, for a job that could not write it itself.
pub fn record(folder: &Path, lease: &Lease, event: &Event) -> Result<()> {
    Journal::append(&folder.join(journal::FILE), lease.fence(), false)?.write(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_record::journal::{Event, Journal};

    /// Writes a lease of `folder` held by a process on another machine, which sends no heartbeats.
    fn write_foreign_lease(folder: &Path, generation: u64, term_ms: u64) {
        let mut me = serde_json::to_value(Holder::me()).unwrap();
        me["machine"] = "another".into();
        let note = Note { holder: serde_json::from_value(me).unwrap(), nonce: "n".into(), term_ms };
        fs::write(path_of(folder, generation), serde_json::to_vec(&note).unwrap()).unwrap();
    }

    #[test]
    fn of_many_concurrent_attempts_exactly_one_takes_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        for round in 1..=20 {
            let leases: Vec<Lease> = thread::scope(|scope| {
                let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| LeaseObserver::new(folder.path()).take().unwrap())).collect();
                tries.into_iter().filter_map(|handle| handle.join().unwrap()).collect()
            });
            assert_eq!(leases.len(), 1, "in round {round}");
            assert!(holder(folder.path()).is_some_and(|holder| holder.is_me()));
        }
        assert_eq!(holder(folder.path()), None);
        assert_eq!(generations(folder.path()).unwrap(), [20], "older lease files are deleted");
    }

    #[test]
    fn a_lease_held_on_another_machine_expires_after_a_silent_term_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        write_foreign_lease(folder.path(), 7, 300);
        let (mut observer, begun, mut last_beat) = (LeaseObserver::new(folder.path()), Instant::now(), Instant::now());
        let lease = loop {
            match observer.take().unwrap() {
                Some(lease) => break lease,
                None if begun.elapsed() < Duration::from_millis(200) => {
                    last_beat = Instant::now();
                    write_foreign_lease(folder.path(), 7, 300);
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(last_beat.elapsed() >= Duration::from_millis(300), "{:?} after the last heartbeat", last_beat.elapsed());
        assert_eq!(lease.held.generation, 8);
    }

    #[test]
    fn a_holder_that_is_alive_keeps_its_lease_over_many_terms() {
        let folder = tempfile::tempdir().unwrap();
        let term = Duration::from_secs(2);
        let lease = LeaseObserver::new(folder.path()).take_for(term).unwrap().unwrap();
        let (mut observer, begun) = (LeaseObserver::new(folder.path()), Instant::now());
        while begun.elapsed() < 2 * term {
            assert!(observer.take().unwrap().is_none());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(lease.held.holds());
    }

    #[test]
    fn a_holder_that_was_taken_over_stops_writing_and_its_late_writes_are_void() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let suspended = LeaseObserver::new(folder.path()).take_for(Duration::from_millis(100)).unwrap().unwrap();
        let old = Journal::append(&path, suspended.fence(), false).unwrap();
        old.write(&Event::Progress { done: 1, total: 9 }).unwrap();
        // Its process is suspended, so another process takes over.
        write_foreign_lease(folder.path(), 2, 100);
        let late = Journal::append(&path, Fence { generation: 1, holds: Box::new(|| true) }, false).unwrap();
        Journal::append(&path, Fence { generation: 2, holds: Box::new(|| true) }, false)
            .and_then(|journal| journal.write(&Event::Progress { done: 2, total: 9 }))
            .unwrap();
        late.write(&Event::Progress { done: 3, total: 9 }).unwrap();
        thread::sleep(Duration::from_millis(60));
        assert!(old.write(&Event::Done).is_err());
        assert!(!suspended.held.holds() && suspended.held.lost.load(Ordering::Acquire));
        drop(suspended);
        assert_eq!(journal::read(&path).unwrap(), [1, 2].map(|done| Event::Progress { done, total: 9 }));
        assert!(read(&path_of(folder.path(), 2)).unwrap().holder.is_some(), "it releases only its own lease");
    }

    #[test]
    fn a_process_with_the_token_of_a_lease_adopts_it() {
        let folder = tempfile::tempdir().unwrap();
        let lease = LeaseObserver::new(folder.path()).take().unwrap().unwrap();
        assert!(Lease::adopt(folder.path(), "1:another").unwrap().is_none());
        let adopted = Lease::adopt(folder.path(), &lease.token()).unwrap().unwrap();
        assert!(adopted.held.holds() && lease.held.holds());
        write_foreign_lease(folder.path(), 2, 1000);
        assert!(Lease::adopt(folder.path(), &lease.token()).unwrap().is_none(), "the lease was lost meanwhile");
    }
}
