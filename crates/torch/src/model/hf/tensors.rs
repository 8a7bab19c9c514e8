//! The tensors in a checkpoint folder: one safetensors file, or several with an index. Headers are read at once, tensors on
//! demand. Pickled files are never read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::guard::{open_file, read_file};
use hydrometer_base::user_error;
use hydrometer_data::content::recognise_other_kind;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use tch::{Kind, Tensor};

/// Maximum header size in bytes, the limit of safetensors itself.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors of a checkpoint by name.
pub struct Tensors(HashMap<String, Entry>);

struct Entry {
    file: PathBuf,
    info: TensorInfo,
    /// Byte offset of the tensor in the file.
    start: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Tensors {
    /// Reads the headers in `folder` and checks them against the lengths of the files.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        if single.exists() {
            return Ok(Self(header(&single)?));
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.exists() {
            let pickled = folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists();
            let why = if pickled { "; pickled weights are not read: save them again with safe_serialization=True" } else { "" };
            return Err(user_error!("{}: no model.safetensors and no model.safetensors.index.json{why}", folder.display()));
        }
        let text = read_file(&index).map_err(|error| user_error!("{}: {error}", index.display()))?;
        let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| user_error!("{}: {error}", index.display()))?;
        let mut files: HashMap<String, HashMap<String, Entry>> = HashMap::new();
        let mut all = HashMap::new();
        for (name, file) in weight_map {
            if file.contains(['/', '\\']) {
                return Err(user_error!("{}: tensor {name} is in {file:?}, outside the folder", index.display()));
            }
            if !files.contains_key(&file) {
                files.insert(file.clone(), header(&folder.join(&file))?);
            }
            let entry = files.get_mut(&file).and_then(|entries| entries.remove(&name));
            let path = folder.join(&file);
            let lost = || user_error!("{}: tensor {name} is missing, though the index lists it", path.display());
            all.insert(name.clone(), entry.ok_or_else(lost)?);
        }
        Ok(Self(all))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The files that hold the tensors, sorted by name.
    pub fn files(&self) -> Vec<PathBuf> {
        let files: BTreeSet<&PathBuf> = self.0.values().map(|entry| &entry.file).collect();
        files.into_iter().cloned().collect()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// An error unless tensor `name` has this shape and a floating-point type.
    pub fn check(&self, name: &str, shape: &[i64]) -> Result<()> {
        let Entry { file, info, .. } = &self.0[name];
        let found: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        if found != shape {
            return Err(user_error!("{}: tensor {name} has shape {found:?}, but config.json makes it {shape:?}", file.display()));
        }
        kind(info.dtype).map(|_| ()).ok_or_else(|| {
            user_error!("{}: tensor {name} is {:?}; only F64, F32, F16 and BF16 are read", file.display(), info.dtype)
        })
    }

    /// Tensor `name` in f32, on the CPU.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let Entry { file, info, start } = &self.0[name];
        let kind = kind(info.dtype).expect("checked when the checkpoint was opened");
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        let mut read = || -> std::io::Result<()> {
            let mut file = File::open(file)?;
            file.seek(SeekFrom::Start(*start))?;
            file.read_exact(&mut bytes)
        };
        read().map_err(|error| user_error!("{}: tensor {name}: {error}", file.display()))?;
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        Ok(Tensor::from_data_size(&bytes, &shape, kind).to_kind(Kind::Float))
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F64 => Some(Kind::Double),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

/// A key that the JSON object `text` has more than once. JSON parsers silently take the last value.
fn duplicate_key(text: &[u8]) -> Option<String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
            to.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut known, mut repeated) = (HashSet::new(), None);
            while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if known.contains(&key) {
                    repeated = repeated.or(Some(key));
                } else {
                    known.insert(key);
                }
            }
            Ok(repeated)
        }
    }
    serde_json::Deserializer::from_slice(text).deserialize_map(Keys).ok().flatten()
}

/// What kind of file this is, if it is not a safetensors file.
fn recognise(path: &Path, file: &mut File) -> Result<Option<String>> {
    let mut start = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.by_ref().take(1024).read_to_end(&mut start));
    read.map_err(|error| user_error!("{}: {error}", path.display()))?;
    // A truncated safetensors file is recognised by its header.
    Ok(if start.get(8) == Some(&b'{') { None } else { recognise_other_kind(&start) })
}

/// Reads the header of a safetensors file and checks it against the length of the file.
fn header(path: &Path) -> Result<HashMap<String, Entry>> {
    let mistake = |what: String| user_error!("{}: {what}", path.display());
    let mut file = open_file(path).map_err(|error| mistake(error.to_string()))?;
    let length = file.metadata().map_err(|error| mistake(error.to_string()))?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| mistake(format!("truncated: {length} bytes are not a safetensors file")))?;
    let size = u64::from_le_bytes(prefix);
    if size > MAX_HEADER_BYTES {
        let why = recognise(path, &mut file)?.unwrap_or_else(|| "its first 8 bytes are not a header size".into());
        return Err(mistake(format!("not a safetensors file: {why}")));
    }
    if size > length - 8 {
        if let Some(why) = recognise(path, &mut file)? {
            return Err(mistake(format!("not a safetensors file: {why}")));
        }
        return Err(mistake(format!("truncated: the header takes {size} bytes, the file has {length}")));
    }
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text).map_err(|error| mistake(error.to_string()))?;
    if let Some(name) = duplicate_key(&text) {
        return Err(mistake(format!("the header has tensor {name} twice")));
    }
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| mistake(format!("the header: {error}")))?;
    let data = length - 8 - size;
    let mut entries = HashMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name).cloned() else { continue };
        let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if end > data {
            return Err(mistake(format!("truncated: tensor {name} ends at byte {end} of the data, which has {data}")));
        }
        let elements = info.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize() as u64));
        if begin > end || bits != Some((end - begin) * 8) {
            return Err(mistake(format!(
                "tensor {name} has bytes {begin} to {end}, which do not fit its shape {:?}",
                info.shape
            )));
        }
        entries.insert(name, Entry { file: path.to_path_buf(), info, start: 8 + size + begin });
    }
    Ok(entries)
}
