//! What is learned from: files of many formats, their examples, their tokens, and the batches every arm sees alike.

pub mod answers;
pub mod batch;
pub mod corpus;
pub mod damage;
pub mod encode;
pub mod ends;
pub mod example;
pub mod format;
pub mod ids;
pub mod import;
pub(crate) mod json;
pub mod lines;
pub mod names;
pub mod packing;
pub mod sequences;
pub mod special;
pub mod tokenizer;
pub mod tokens;
pub mod vocabulary;
