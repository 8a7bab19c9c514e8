//! hydrometer answers "distill or finetune?" for language models, with evidence anyone can re-run.
//!
//! The crates and modules, each of which may import only those before it (a test enforces this):
//!
//! 1. `hydrometer-base`: errors, files, text, units, the version of the arithmetic;
//! 2. [`data`]: file formats, tokenizers, examples, sequences and the plan of batches;
//! 3. [`score`]: scores of generated text against references;
//! 4. [`record`]: journals, Parquet frames, provenance and their export;
//! 5. [`report`], with its [`stats`] and [`verify`]: tables, plots, pages and verdicts from the frames alone;
//! 6. [`dist`], [`model`], [`objective`] and [`generate`]: process groups, sharded decoders, loss functions and generation, on libtorch;
//! 7. [`teacher`]: top-k logprobs from checkpoints, files and endpoints, cached;
//! 8. [`eval`]: perplexity and fidelity on held-out text;
//! 9. [`train`]: recipes, the training loop, checkpoints;
//! 10. [`experiment`]: the TOML file, resolved into the runs it means;
//! 11. [`sweep`]: scheduling, leases, workers, and frames built from journals;
//! 12. [`cli`]: one file per subcommand.

pub mod cli;
pub mod eval;
pub mod experiment;
pub mod sweep;
pub mod teacher;
pub mod train;

pub use hydrometer_base::{UserError, guard, numerics, shortage, text};
pub use hydrometer_data as data;
pub use hydrometer_record as record;
pub use hydrometer_report as report;
pub use hydrometer_report::{stats, verify};
pub use hydrometer_score as score;
pub use hydrometer_torch::{dist, generate, model, objective};
