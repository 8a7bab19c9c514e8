//! What is learned from: documents, their tokens, and the batches every arm sees alike.

pub mod batch;
pub mod corpus;
pub mod sequences;
pub mod tokenizer;
pub mod tokens;
