//! `hydrometer loss`: any objective on tensors from anywhere.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::fs::{is_storage, replace_by_name};
use hydrometer_base::text::number;
use hydrometer_base::{note, say, terminal, user_error};
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::case::Case;
use hydrometer_torch::objective::{Loss, Objective, TEMPERATURES, TEMPERATURES_WORDS, Tail};
use serde_json::json;

use super::eval::precision;
use super::{Output, place};
use crate::experiment::applies;

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
    /// Of student and teacher; target_logprobs are at this temperature already [default: 1].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Multiply value and gradient by temperature².
    #[arg(long)]
    temperature_squared: bool,
    /// The teacher's part of the mixture that jsd compares with [default: 0.5].
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
    /// Weight of hard-ce mixed in [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    lambda: Option<f64>,
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
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// Where loss [N], total [] and the gradients of total go.
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
}

impl LossArgs {
    fn loss(&self) -> Result<Loss> {
        let name = self.objective.as_str();
        let given = [
            ("tail", self.tail.is_some()),
            // Temperature 1 and no hard-ce mixed in are so of every objective.
            ("temperature", self.temperature.is_some_and(|temperature| temperature != 1.0)),
            ("temperature_squared", self.temperature_squared),
            ("beta", self.beta.is_some()),
            ("lambda", self.lambda.is_some_and(|lambda| lambda != 0.0)),
            ("centered", self.centered),
            ("mse_mean", self.mse_mean),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !applies(key, name)) {
            return Err(user_error!("--{} means nothing to {name}; remove it", key.replace('_', "-")));
        }
        let within = |flag: &str, value: f64, ok: bool, wanted: &str| match ok {
            true => Ok(value),
            false => Err(user_error!("--{flag} must be {wanted}, not {}", number(value))),
        };
        let temperature = match self.temperature {
            // Below and above, logits over it and gradients times it leave the range of f32.
            Some(value) if value > 0.0 && value.is_finite() && !TEMPERATURES.contains(&value) => {
                let value = number(value);
                return Err(user_error!("--temperature {value} overflows f32; use {TEMPERATURES_WORDS}"));
            }
            Some(value) => within("temperature", value, TEMPERATURES.contains(&value), TEMPERATURES_WORDS)?,
            None => 1.0,
        };
        let (beta, lambda) = (self.beta.unwrap_or(0.5), self.lambda.unwrap_or(0.0));
        // As near to 0 and 1 as f32 can tell.
        let apart = beta as f32 > 0.0 && (beta as f32) < 1.0;
        let beta = within("beta", beta, apart, "above 0 and below 1, in f32 too")?;
        let lambda = within("lambda", lambda, (0.0..=1.0).contains(&lambda), "from 0 to 1")?;
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
        if let Objective::KlForward { tail: Tail::Metaseq, .. } = objective {
            return Err(user_error!("--tail metaseq is the seed's soft-ce; it is no divergence, use it with soft-ce"));
        }
        Ok(Loss { objective, lambda, temperature_squared: self.temperature_squared })
    }
}

pub fn loss(args: &LossArgs, output: Output) -> Result<ExitCode> {
    let loss = args.loss()?;
    place::file(&args.out, "--out FILE")?;
    let case = Case::read(&args.case, &loss, args.vocab_size, args.precision.kind())?;
    let answer = case.measure(&loss, args.tp as usize)?;
    if let Some(what) = answer.overflow() {
        let case = args.case.display();
        return Err(user_error!("{case}: {what}: its numbers overflow f32 in {}; scale them down", loss.objective.name()));
    }
    replace_by_name(&args.out, |path| Ok(tch::Tensor::write_safetensors(&answer.tensors, path)?))
        .map_err(|error| if is_storage(&error) { error } else { user_error!("{error:#}; choose another --out FILE") })?;
    let seeds = loss.objective.tail() == Some(Tail::Metaseq);
    if seeds {
        note!("tail metaseq: the gradient is p - w, as the seed computes it, not that of the loss it logs");
    }
    let (name, tail) = (loss.objective.name(), loss.objective.tail().map(Tail::name));
    match output {
        Output::Json => terminal::json(&json!({
            "objective": name, "tail": tail, "temperature": loss.objective.temperature(), "lambda": loss.lambda,
            "total": answer.total, "tokens": answer.tokens, "gradient_is_of_the_loss": !seeds, "out": args.out,
        })),
        Output::Human => {
            say!("{} nats a token, the mean of {name} over {} tokens", answer.total, answer.tokens);
            say!("{}", args.out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
