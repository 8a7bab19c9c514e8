//! What is learned from: files of many formats, their examples, their tokens, and the batches every arm sees alike.

pub mod agreement;
pub mod answers;
pub mod batch;
pub(crate) mod content;
pub mod corpus;
pub(crate) mod cure;
pub mod damage;
pub mod encode;
pub mod ends;
pub mod example;
pub mod format;
pub mod ids;
pub mod import;
pub(crate) mod json;
mod json_file;
pub mod lines;
pub mod names;
pub mod packing;
mod paragraphs;
pub mod sequences;
pub mod special;
pub mod spelling;
pub mod survey;
mod table;
pub mod tokenizer;
pub mod tokens;
pub mod vocabulary;
