//! A compact table of many short strings: each takes its bytes plus 8.

/// Strings in one buffer, by index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StringTable {
    text: String,
    ends: Vec<u64>,
}

impl StringTable {
    pub fn push(&mut self, name: impl AsRef<str>) {
        self.text.push_str(name.as_ref());
        self.ends.push(self.text.len() as u64);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[index] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The concatenated text of all strings, and the end offset of each.
    pub fn parts(&self) -> (&str, &[u64]) {
        (&self.text, &self.ends)
    }

    /// Rebuilds a table from its parts; `None` if they are inconsistent.
    pub fn from_parts(text: String, ends: Vec<u64>) -> Option<Self> {
        let inside = ends.is_sorted() && ends.last().copied().unwrap_or(0) == text.len() as u64;
        let whole = inside && ends.iter().all(|&end| text.is_char_boundary(end as usize));
        whole.then_some(Self { text, ends })
    }
}
