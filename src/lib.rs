//! hydrometer answers "distill or finetune?" for language models, with evidence anyone can re-run.
//!
//! The house, in the order the data flows:
//! [`experiment`] says what is asked and [`sweep`] runs it; [`data`] gives every arm the same batches; a [`teacher`] is asked
//! once and its answers are kept; a [`model`], sharded over the ranks of [`dist`], is held to an [`objective`] and stepped by
//! [`train`]; [`eval`] measures it on held-out text; [`record`] writes down what happened, in journals and then in frames.
//! From the frames alone, [`stats`] and [`report`] make tables, plots, pages and verdicts; [`verify`] holds what is committed to
//! them, and what trains to the version of its [`numerics`]. What the program says goes through the [`terminal`].

pub mod cli;
pub mod data;
pub mod dist;
mod error;
pub mod eval;
pub mod experiment;
pub mod guard;
pub mod model;
pub mod numerics;
pub mod objective;
pub mod record;
pub mod report;
pub mod shortage;
pub mod stats;
pub mod sweep;
pub mod teacher;
pub mod terminal;
pub mod text;
pub mod train;
pub mod verify;

pub use error::UserError;
