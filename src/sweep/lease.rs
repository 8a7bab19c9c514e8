//! Who works on a folder, told by files alone: on a shared file system locks may not work and clocks differ.
//!
//! A folder's lease is the one of its files `lease.G.json` with the highest generation G. Whoever finds it given back, or its
//! holder gone, creates the next generation; of several who try, the file system lets one succeed. The highest file is never
//! deleted, so generations only grow, and a holder that sees a higher one than its own has lost.
//!
//! A holder touches its file several times a term. It is gone when its process is seen to have ended, on this machine, or when
//! its file has not changed for a term by the watch of whoever looks: no two clocks are ever compared. A holder that was only
//! asleep finds out before it writes; the journal voids whatever slips through, by the generation that every line bears.

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

/// How long a holder may be silent.
const TERM: Duration = Duration::from_secs(30);
/// A holder is heard of so many times a term.
const BEATS: u32 = 6;
/// How long a holder believes that it is one without looking.
const FRESH: Duration = Duration::from_secs(1);

/// What a lease's file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    /// Absent once it is given back.
    holder: Option<Holder>,
    /// Stays the same when a holder hands the lease to a process it starts.
    nonce: String,
    term_ms: u64,
}

/// A lease that this process holds: given back when dropped, unless it was handed on.
pub struct Lease {
    held: Arc<Held>,
    /// Ends the heartbeat when dropped.
    _heart: mpsc::Sender<()>,
}

struct Held {
    folder: PathBuf,
    generation: u64,
    nonce: String,
    term: Duration,
    lost: AtomicBool,
    /// Milliseconds from `begun` to the last time it was known to be held.
    heard: AtomicU64,
    begun: Instant,
}

/// How a folder looks from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseState {
    Free,
    /// By a process that may be alive; which one is not known where its note cannot be read.
    Held(Option<Holder>),
}

/// Whoever wants a folder's lease, with what was seen of it so far.
pub struct LeaseObserver {
    folder: PathBuf,
    /// The generation, when its file was last touched by its holder's clock, and when that was seen by ours.
    seen: Option<(u64, SystemTime, Instant)>,
}

impl LeaseObserver {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), seen: None }
    }

    /// Who holds the folder.
    pub fn observe(&mut self) -> Result<LeaseState> {
        let Some(generation) = highest(&self.folder)? else { return Ok(LeaseState::Free) };
        let path = path_of(&self.folder, generation);
        // Opened anew, a shared file system tells what is true now.
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

    /// Takes the lease if the folder, which is made where there is none, is free.
    pub fn take(&mut self) -> Result<Option<Lease>> {
        self.take_for(TERM)
    }

    fn take_for(&mut self, term: Duration) -> Result<Option<Lease>> {
        fs::create_dir_all(&self.folder).map_err(|error| uncreated(&self.folder, error))?;
        let before = highest(&self.folder)?;
        if self.observe()? != LeaseState::Free {
            return Ok(None);
        }
        // Where the files are gone, as from a copy without them, the journal still knows generations that are past.
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
        // Someone else may have come and gone since `before`.
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

    /// Waits for the lease until `stop`; `say` hears who holds it, once.
    pub fn wait(&mut self, say: impl Fn(&str), stop: impl Fn() -> bool) -> Result<Option<Lease>> {
        let mut told = false;
        loop {
            if let Some(lease) = self.take()? {
                return Ok(Some(lease));
            }
            if stop() {
                return Ok(None);
            }
            if let (false, LeaseState::Held(holder)) = (told, self.observe()?) {
                say(&format!("{}: waiting for {}", self.folder.display(), by(holder.as_ref())));
                told = true;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// `process 17 on host`.
pub fn by(holder: Option<&Holder>) -> String {
    holder.map_or("another hydrometer".into(), |holder| format!("process {} on {}", holder.pid, holder.host))
}

impl Lease {
    fn begin(folder: &Path, generation: u64, nonce: String, term: Duration) -> Self {
        let folder = folder.to_path_buf();
        let (lost, heard) = (AtomicBool::new(false), AtomicU64::new(0));
        let held = Arc::new(Held { folder, generation, nonce, term, lost, heard, begun: Instant::now() });
        let (heart, stopped) = mpsc::channel::<()>();
        let beating = Arc::clone(&held);
        thread::spawn(move || {
            while stopped.recv_timeout(term / BEATS) == Err(mpsc::RecvTimeoutError::Timeout) {
                let mine = |note: Note| note.holder.is_some_and(|holder| holder.is_me());
                if !beating.verify() || beating.note().is_some_and(|note| !mine(note)) {
                    return;
                }
                // A beat that fails is missed by whoever watches.
                let touch = |file: File| file.set_modified(SystemTime::now());
                let _ = OpenOptions::new().write(true).open(path_of(&beating.folder, beating.generation)).and_then(touch);
            }
        });
        Self { held, _heart: heart }
    }

    /// What a process must be told to take over this lease from the one that starts it.
    pub fn token(&self) -> String {
        format!("{}:{}", self.held.generation, self.held.nonce)
    }

    /// In the started process: makes the lease of `folder` with this token its own. `None` if it has been lost meanwhile.
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

    /// Takes back what was handed on to a process that has ended. Whether nobody else took it meanwhile.
    pub fn reclaim(&mut self) -> Result<bool> {
        if !self.held.verify() {
            return Ok(false);
        }
        let term_ms = self.held.term.as_millis() as u64;
        let note = Note { holder: Some(Holder::me()), nonce: self.held.nonce.clone(), term_ms };
        replace_bytes(&path_of(&self.held.folder, self.held.generation), &serde_json::to_vec(&note)?)?;
        Ok(self.held.verify())
    }

    /// Under which a journal may be written.
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
            // Where it cannot be written, the end of this process tells.
            let _ = replace_bytes(&path, &free);
        }
    }
}

impl Held {
    fn note(&self) -> Option<Note> {
        read(&path_of(&self.folder, self.generation)).filter(|note| note.nonce == self.nonce)
    }

    /// Whether the lease is ours still, by the file system. Once lost it stays lost.
    fn verify(&self) -> bool {
        if self.lost.load(Ordering::Acquire) {
            return false;
        }
        match highest(&self.folder) {
            // A file system that does not answer proves nothing; the watch of others runs.
            Err(_) => true,
            Ok(found) if found == Some(self.generation) && self.note().is_some() => {
                self.heard.store(self.begun.elapsed().as_millis() as u64, Ordering::Release);
                true
            }
            Ok(_) => {
                self.lost.store(true, Ordering::Release);
                false
            }
        }
    }

    /// The same from memory, where that is fresh: nobody takes over from a holder that was heard of lately.
    fn holds(&self) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Acquire));
        let fresh = FRESH.min(self.term / 2);
        if self.begun.elapsed().saturating_sub(heard) > fresh { self.verify() } else { !self.lost.load(Ordering::Acquire) }
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

/// Who holds the lease of `folder`, as far as one look can tell: a holder on another machine counts while it was heard of lately by
/// our clock.
pub fn holder(folder: &Path) -> Option<Holder> {
    let path = path_of(folder, highest(folder).ok()??);
    let note = read(&path)?;
    let age = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?.elapsed().unwrap_or_default();
    note.holder.filter(|holder| !holder.has_ended() && age < Duration::from_millis(note.term_ms))
}

/// Different for every lease, on every machine.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Writes what happened to a job that could not write it itself.
pub fn record(folder: &Path, lease: &Lease, event: &Event) -> Result<()> {
    Journal::append(&folder.join(journal::FILE), lease.fence(), false)?.write(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_record::journal::{Event, Journal};

    /// A lease of `folder` by a process of another machine, silent from now on.
    fn elsewhere(folder: &Path, generation: u64, term_ms: u64) {
        let mut me = serde_json::to_value(Holder::me()).unwrap();
        me["machine"] = "another".into();
        let note = Note { holder: serde_json::from_value(me).unwrap(), nonce: "n".into(), term_ms };
        fs::write(path_of(folder, generation), serde_json::to_vec(&note).unwrap()).unwrap();
    }

    #[test]
    fn of_many_who_try_at_once_one_holds_the_folder_and_the_next_one_after_it() {
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
        assert_eq!(generations(folder.path()).unwrap(), [20], "what is past is deleted");
    }

    #[test]
    fn a_holder_on_another_machine_is_gone_after_a_silent_term_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        elsewhere(folder.path(), 7, 300);
        let (mut watch, begun, mut heard) = (LeaseObserver::new(folder.path()), Instant::now(), Instant::now());
        let lease = loop {
            match watch.take().unwrap() {
                Some(lease) => break lease,
                None if begun.elapsed() < Duration::from_millis(200) => {
                    heard = Instant::now();
                    elsewhere(folder.path(), 7, 300);
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(heard.elapsed() >= Duration::from_millis(300), "{:?} after it was heard of", heard.elapsed());
        assert_eq!(lease.held.generation, 8);
    }

    #[test]
    fn a_holder_that_is_alive_keeps_its_lease_over_many_terms() {
        let folder = tempfile::tempdir().unwrap();
        let term = Duration::from_secs(2);
        let lease = LeaseObserver::new(folder.path()).take_for(term).unwrap().unwrap();
        let (mut watch, begun) = (LeaseObserver::new(folder.path()), Instant::now());
        while begun.elapsed() < 2 * term {
            assert!(watch.take().unwrap().is_none());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(lease.held.holds());
    }

    #[test]
    fn a_holder_that_was_taken_over_stops_writing_and_what_slipped_through_is_void() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let asleep = LeaseObserver::new(folder.path()).take_for(Duration::from_millis(100)).unwrap().unwrap();
        let old = Journal::append(&path, asleep.fence(), false).unwrap();
        old.write(&Event::Progress { done: 1, total: 9 }).unwrap();
        // Its process stands still, so another finds it gone.
        elsewhere(folder.path(), 2, 100);
        let slipped = Journal::append(&path, Fence { generation: 1, holds: Box::new(|| true) }, false).unwrap();
        Journal::append(&path, Fence { generation: 2, holds: Box::new(|| true) }, false)
            .and_then(|journal| journal.write(&Event::Progress { done: 2, total: 9 }))
            .unwrap();
        slipped.write(&Event::Progress { done: 3, total: 9 }).unwrap();
        thread::sleep(Duration::from_millis(60));
        assert!(old.write(&Event::Done).is_err());
        assert!(!asleep.held.holds() && asleep.held.lost.load(Ordering::Acquire));
        drop(asleep);
        assert_eq!(journal::read(&path).unwrap(), [1, 2].map(|done| Event::Progress { done, total: 9 }));
        assert!(read(&path_of(folder.path(), 2)).unwrap().holder.is_some(), "only its own lease is given back");
    }

    #[test]
    fn a_lease_is_handed_to_one_that_has_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let lease = LeaseObserver::new(folder.path()).take().unwrap().unwrap();
        assert!(Lease::adopt(folder.path(), "1:another").unwrap().is_none());
        let adopted = Lease::adopt(folder.path(), &lease.token()).unwrap().unwrap();
        assert!(adopted.held.holds() && lease.held.holds());
        elsewhere(folder.path(), 2, 1000);
        assert!(Lease::adopt(folder.path(), &lease.token()).unwrap().is_none(), "lost meanwhile");
    }
}
