//! `hydrometer loss`: any objective on tensors from anywhere.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use tch::Kind;

use super::Output;
use crate::objective::case::Case;
use crate::objective::{Loss, Objective, Tail};
use crate::record::store::replace_by_name;
use crate::user_error;

#[derive(Args, Debug)]
pub struct LossArgs {
    /// A safetensors file: logits [N,V], or hidden [N,d] and weight [V,d]; target_ids [N,k] with target_logprobs or
    /// target_logits [N,k], or teacher_logits [N,V]; labels [N]; optional mask [N].
    #[arg(long, value_name = "IN.safetensors")]
    case: PathBuf,
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Objective::NAMES))]
    objective: String,
    /// What becomes of the teacher's mass outside its ids [default: raw for soft-ce, bucket for kl-forward].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Tail::ALL.map(Tail::name)))]
    tail: Option<String>,
    /// Of student and teacher; target_logprobs are at this temperature already.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Multiply value and gradient by temperature².
    #[arg(long)]
    temperature_squared: bool,
    /// The teacher's part of the mixture that jsd compares with.
    #[arg(long, default_value_t = 0.5)]
    beta: f64,
    /// Weight of hard-ce mixed in.
    #[arg(long, default_value_t = 0.0)]
    lambda: f64,
    /// logit-mse: remove the mean over the ids compared from both sides.
    #[arg(long)]
    centered: bool,
    /// Squared errors: divide by the number of ids compared.
    #[arg(long)]
    mse_mean: bool,
    /// Ids, where the file's vocabulary is padded: what is beyond takes no probability.
    #[arg(long, value_name = "V")]
    vocab_size: Option<i64>,
    /// Vocabulary shards.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    tp: u32,
    /// Number format that logits, hidden states and weight are rounded to first.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionArg,
    /// Where loss [N], total [] and the gradients of total go.
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArg {
    F32,
    Bf16,
}

impl LossArgs {
    fn loss(&self) -> Result<Loss> {
        let name = self.objective.as_str();
        let positive = |flag: &str, value: f64, ok: bool, wanted: &str| {
            if value.is_finite() && ok { Ok(value) } else { Err(user_error!("--{flag} must be {wanted}, not {value}")) }
        };
        let temperature = positive("temperature", self.temperature, self.temperature > 0.0, "above 0")?;
        let beta = positive("beta", self.beta, self.beta > 0.0 && self.beta < 1.0, "above 0 and below 1")?;
        let lambda = positive("lambda", self.lambda, (0.0..=1.0).contains(&self.lambda), "from 0 to 1")?;
        let tail = |default: Tail| Tail::ALL.into_iter().find(|t| Some(t.name()) == self.tail.as_deref()).unwrap_or(default);
        let objective = match name {
            "hard-ce" => Objective::HardCe,
            "soft-ce" => Objective::SoftCe { tail: tail(Tail::Raw), temperature },
            "kl-forward" => Objective::KlForward { tail: tail(Tail::Bucket), temperature },
            "kl-reverse" => Objective::KlReverse { temperature },
            "jsd" => Objective::Jsd { beta, temperature },
            "logit-mse" => Objective::LogitMse { centered: self.centered, mse_mean: self.mse_mean },
            _ => Objective::LogprobMse { mse_mean: self.mse_mean, temperature },
        };
        if let (Some(tail), None) = (&self.tail, objective.tail()) {
            return Err(user_error!("--tail {tail} means nothing to {name}; remove it"));
        }
        if temperature != 1.0 && objective.temperature() == 1.0 {
            return Err(user_error!("--temperature means nothing to {name}; remove it"));
        }
        if let Objective::KlForward { tail: Tail::Metaseq, .. } = objective {
            return Err(user_error!("--tail metaseq is the seed's soft-ce; it is no divergence, use it with soft-ce"));
        }
        Ok(Loss { objective, lambda, temperature_squared: self.temperature_squared })
    }
}

pub fn loss(args: &LossArgs, output: Output) -> Result<ExitCode> {
    let loss = args.loss()?;
    let kind = match args.precision {
        PrecisionArg::F32 => Kind::Float,
        PrecisionArg::Bf16 => Kind::BFloat16,
    };
    let case = Case::read(&args.case, &loss, args.vocab_size, kind)?;
    let answer = case.measure(&loss, args.tp as usize)?;
    replace_by_name(&args.out, |path| Ok(tch::Tensor::write_safetensors(&answer.tensors, path)?))
        .map_err(|error| user_error!("{error:#}; choose another --out"))?;
    let seeds = loss.objective.tail() == Some(Tail::Metaseq);
    if seeds {
        eprintln!("tail metaseq: the gradient is p - w, as the seed computes it, not that of the loss it logs");
    }
    let (name, tail) = (loss.objective.name(), loss.objective.tail().map(Tail::name));
    match output {
        Output::Json => println!(
            "{:#}",
            json!({
                "objective": name, "tail": tail, "temperature": loss.objective.temperature(), "lambda": loss.lambda,
                "total": answer.total, "tokens": answer.tokens, "gradient_is_of_the_loss": !seeds, "out": args.out,
            })
        ),
        Output::Human => {
            println!("{} nats a token, the mean of {name} over {} tokens", answer.total, answer.tokens);
            println!("{}", args.out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
