//! Token ids in their own file, 4 bytes each: written while text is tokenised, and read on demand, because a split may be larger
//! than memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hydrometer_base::fs::{PartFile, sha256_file};

/// Largest number of ids kept in memory. A larger split is read from the file on demand.
const IN_MEMORY: usize = 16 << 20;

/// Number of ids read at a time.
const CHUNK: usize = 1 << 16;

/// The ids of a split, in memory or in a file.
#[derive(Clone, Debug)]
pub enum Ids {
    Memory(Vec<u32>),
    File { file: Arc<File>, len: usize },
}

impl Default for Ids {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Ids {
    /// Opens the file at `path`, which holds `len` ids.
    pub fn open(path: &Path, len: usize) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = file.metadata()?.len();
        ensure!(bytes == 4 * len as u64, "{} has {bytes} bytes, not {len} ids", path.display());
        if len > IN_MEMORY {
            return Ok(Self::File { file: Arc::new(file), len });
        }
        let mut buffer = Vec::with_capacity(4 * len);
        BufReader::new(file).read_to_end(&mut buffer)?;
        Ok(Self::Memory(ids(&buffer)))
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Memory(ids) => ids.len(),
            Self::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `more`. Panics if the ids are in a file.
    pub fn extend(&mut self, more: &[u32]) {
        match self {
            Self::Memory(ids) => ids.extend(more),
            Self::File { .. } => panic!("ids in a file are complete"),
        }
    }

    /// All ids in order, read in chunks.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let starts = (0..self.len()).step_by(CHUNK);
        starts.flat_map(|start| self.range(start, self.len().min(start + CHUNK)).into_owned())
    }

    /// Ids `start .. end`. Panics if the disk fails.
    pub fn range(&self, start: usize, end: usize) -> Cow<'_, [u32]> {
        match self {
            Self::Memory(ids) => Cow::Borrowed(&ids[start..end]),
            Self::File { file, .. } => {
                let mut buffer = vec![0; 4 * (end - start)];
                let read = file.read_exact_at(&mut buffer, 4 * start as u64);
                read.unwrap_or_else(|error| panic!("the tokens of the data cannot be read: {error}"));
                Cow::Owned(ids(&buffer))
            }
        }
    }
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// Writes ids to a temporary file, which takes its final name when it is complete; if it never is, the file is removed.
pub struct Writer {
    file: BufWriter<File>,
    part: PartFile,
    path: PathBuf,
    pub len: usize,
}

impl Writer {
    /// Creates the temporary file for `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let part = PartFile::beside(path)?;
        let file = File::create(part.path()).with_context(|| format!("cannot write {}", part.path().display()))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), part, path: path.to_path_buf(), len: 0 })
    }

    /// Appends `ids`.
    pub fn extend(&mut self, ids: &[u32]) -> Result<()> {
        let written = ids.iter().try_for_each(|id| self.file.write_all(&id.to_le_bytes()));
        written.with_context(|| format!("cannot write {}", self.part.path().display()))?;
        self.len += ids.len();
        Ok(())
    }

    /// Renames the file to its final name; returns its SHA-256.
    pub fn finish(mut self) -> Result<String> {
        let flushed = self.file.flush().map_err(anyhow::Error::new).and_then(|()| self.part.finish());
        flushed.with_context(|| format!("cannot write {}", self.path.display()))?;
        sha256_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrometer_base::fs::remove_parts;

    use super::*;

    #[test]
    fn ids_read_from_a_file_equal_those_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ids");
        let all: Vec<u32> = (0..1000).map(|i| i * 7919 % 50_000).collect();
        let mut writer = Writer::create(&path).unwrap();
        all.chunks(77).for_each(|chunk| writer.extend(chunk).unwrap());
        assert_eq!(writer.len, 1000);
        assert!(!path.exists(), "the file appears only when it is complete");
        let killed = folder.path().join("killed");
        std::fs::create_dir(&killed).unwrap();
        // A killed process does not run destructors.
        std::mem::forget(Writer::create(&killed.join("b.ids")).unwrap());
        assert_eq!(std::fs::read_dir(&killed).unwrap().count(), 1);
        remove_parts(&killed, Duration::ZERO);
        assert_eq!(std::fs::read_dir(&killed).unwrap().count(), 0, "the partial file of a killed process is removed");
        writer.finish().unwrap();
        let stored = Ids::File { file: Arc::new(File::open(&path).unwrap()), len: 1000 };
        let memory = Ids::open(&path, 1000).unwrap();
        assert!(matches!(memory, Ids::Memory(_)));
        for (start, end) in [(0, 1000), (17, 18), (500, 500), (990, 1000)] {
            assert_eq!(*stored.range(start, end), all[start..end]);
            assert_eq!(*memory.range(start, end), all[start..end]);
        }
        assert!(Ids::open(&path, 999).is_err());
    }
}
