//! Exports a teacher cache: in the format that metaseq's distillation tasks read, or as a Parquet table.

use std::io::Write;

use anyhow::{Context, Result};
use hydrometer_base::user_error;
use hydrometer_data::batch::Row;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokenizer;
use hydrometer_data::tokens::TokenizedSplit;
use polars::prelude::*;
use polars_io::prelude::{ParquetCompression, ParquetWriter};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tokenizers::Tokenizer;

use super::block::Answers;
use super::cache::Cache;

/// Number of targets per row group.
const GROUP: usize = 1 << 16;

/// Calls `each` for every document of `split` that `cache` covers completely: its name, its tokens, and the teacher targets of
/// all of them but the first.
fn documents(
    cache: &Cache,
    split: &TokenizedSplit,
    context: usize,
    mut each: impl FnMut(&str, &[u32], &Answers) -> Result<()>,
) -> Result<()> {
    let all = sequences(split, context);
    for group in all.chunk_by(|a, b| a.document == b.document) {
        if !group.iter().all(|sequence| cache.contains(&sequence.key(split))) {
            continue;
        }
        let mut answers = Answers::default();
        for &sequence in group {
            answers.append(cache.read(&Row::whole(sequence), split)?);
        }
        let document = group[0].document;
        each(split.names.get(document), &split.document(document), &answers)?;
    }
    Ok(())
}

/// One JSON object per document: `src`, the text of its first token; `tgt`, the text of the others; for each of those, in
/// `top_logprobs`, an object from the top-k tokens to their `token_id` and `logprob_score`, best first (metaseq's training
/// format); and, beyond that format, `id` and the `token_ids` of the whole document.
pub fn metaseq_jsonl(
    cache: &Cache,
    split: &TokenizedSplit,
    context: usize,
    tokenizer: &Tokenizer,
    to: &mut impl Write,
) -> Result<()> {
    if cache.title.kept.top_k == 0 {
        return Err(user_error!("the cache holds only draws, which metaseq's format cannot express; export parquet"));
    }
    let text = |ids: &[u32]| tokenizer::decode(tokenizer, ids, true);
    documents(cache, split, context, |name, ids, answers| {
        let k = cache.title.kept.top_k;
        let tokens = answers.ids.chunks(k).zip(answers.logprobs.chunks(k));
        let top_logprobs = tokens.map(|(ids, logprobs)| Scores { ids, logprobs, tokenizer }).collect();
        let line = Line { id: name, src: text(&ids[..1])?, tgt: text(&ids[1..])?, token_ids: ids, top_logprobs };
        serde_json::to_writer(&mut *to, &line)?;
        to.write_all(b"\n").context("cannot write the export")
    })
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    src: String,
    tgt: String,
    token_ids: &'a [u32],
    top_logprobs: Vec<Scores<'a>>,
}

/// The top-k tokens of one target, best first.
struct Scores<'a> {
    ids: &'a [u32],
    logprobs: &'a [f32],
    tokenizer: &'a Tokenizer,
}

#[derive(Serialize)]
struct Score {
    token_id: u32,
    logprob_score: f32,
}

impl Serialize for Scores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.ids.len()))?;
        for (&token_id, &logprob_score) in self.ids.iter().zip(self.logprobs) {
            // As spelled in the vocabulary: the texts of tokens that are parts of characters would not be distinct.
            let token = self.tokenizer.id_to_token(token_id).unwrap_or_else(|| format!("<{token_id}>"));
            map.serialize_entry(&token, &Score { token_id, logprob_score })?;
        }
        map.end()
    }
}

/// One row per target: `document`, `position` in it, its `token`; the top-k `ids` with their `logprobs` at τ = 1, `lse` at each
/// stored temperature, `draws` at each draw temperature.
pub fn parquet<'a>(
    cache: &Cache,
    texts: impl Iterator<Item = (&'a TokenizedSplit, usize)>,
    to: &mut (impl Write + Send),
) -> Result<()> {
    let mut rows = Rows::default();
    let schema = rows.frame(cache)?.schema().as_ref().clone();
    let mut writer = ParquetWriter::new(to).with_compression(ParquetCompression::Zstd(None)).batched(&schema)?;
    for (split, context) in texts {
        documents(cache, split, context, |name, ids, answers| {
            for (position, &token) in ids.iter().enumerate().skip(1) {
                rows.documents.push(name.to_string());
                rows.positions.push(position as u32);
                rows.tokens.push(token);
            }
            rows.answers.append(answers.clone());
            if rows.tokens.len() >= GROUP {
                writer.write_batch(&std::mem::take(&mut rows).frame(cache)?)?;
            }
            Ok(())
        })?;
    }
    writer.write_batch(&rows.frame(cache)?)?;
    writer.finish()?;
    Ok(())
}

#[derive(Default)]
struct Rows {
    documents: Vec<String>,
    positions: Vec<u32>,
    tokens: Vec<u32>,
    answers: Answers,
}

impl Rows {
    fn frame(&self, cache: &Cache) -> PolarsResult<DataFrame> {
        let kept = &cache.title.kept;
        let height = self.tokens.len();
        let integers = |name: &str, all: &[u32], each: usize| {
            let mut list = ListPrimitiveChunkedBuilder::<UInt32Type>::new(name.into(), height, all.len(), DataType::UInt32);
            all.chunks(each.max(1)).for_each(|row| list.append_slice(row));
            list.finish().into_column()
        };
        let floats = |name: &str, all: &[f32], each: usize| {
            let mut list = ListPrimitiveChunkedBuilder::<Float32Type>::new(name.into(), height, all.len(), DataType::Float32);
            all.chunks(each.max(1)).for_each(|row| list.append_slice(row));
            list.finish().into_column()
        };
        let mut columns = vec![
            Column::new("document".into(), &self.documents),
            Column::new("position".into(), &self.positions),
            Column::new("token".into(), &self.tokens),
        ];
        if kept.top_k > 0 {
            columns.push(integers("ids", &self.answers.ids, kept.top_k));
            columns.push(floats("logprobs", &self.answers.logprobs, kept.top_k));
            columns.push(floats("lse", &self.answers.lse, kept.temperatures.len()));
        }
        if kept.draws > 0 {
            columns.push(integers("draws", &self.answers.draws, kept.drawn()));
        }
        DataFrame::new(height, columns)
    }
}
