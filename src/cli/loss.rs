//! `hydrometer loss`: evaluates an objective on tensors from a file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::fs::{is_storage, replace_by_name};
use hydrometer_base::user_error;
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::case::Case;
use hydrometer_torch::objective::{Estimator, Loss, Objective, Tail};
use serde_json::json;
use toml_edit::Value;

use super::eval::precision;
use super::{Output, place, terminal};
use crate::experiment::keys::{self, Settings};
use crate::experiment::source::{Setting, SourceSpan};
use crate::{note, say};

#[derive(Args, Debug)]
pub struct LossArgs {
    /// A safetensors file: logits [N,V], or hidden [N,d] and weight [V,d]; target_ids [N,k] with target_logprobs or
    /// target_logits [N,k], or teacher_logits [N,V]; labels [N]; optional mask [N].
    #[arg(long, value_name = "IN.safetensors")]
    case: PathBuf,
    /// The objective.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Objective::NAMES))]
    objective: String,
    /// hard-ce: the fraction of the target that is spread evenly over all ids [default: 0].
    #[arg(long, value_name = "EPSILON", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// How to treat the teacher's probability mass outside the listed ids [default: raw for soft-ce, bucket for the KLs].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Tail::ALL.map(Tail::name)))]
    tail: Option<String>,
    /// Temperature of student and teacher. target_logprobs must already be at this temperature [default: 1].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Multiply the loss and its gradient by temperature².
    #[arg(long)]
    temperature_squared: bool,
    /// jsd: the teacher's weight in the mixture [default: 0.5].
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
    /// kl-forward, kl-reverse: the share of its first distribution that is mixed into its second [default: 0].
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    skew: Option<f64>,
    /// kl-reverse: how it is computed from ids that the student drew, the labels [default: from all target ids].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(keys::ESTIMATORS))]
    estimator: Option<String>,
    /// Weight of hard-ce in the loss [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    lambda: Option<f64>,
    /// logit-mse: subtract from both sides the mean over the compared ids.
    #[arg(long)]
    centered: bool,
    /// Squared errors: divide by the number of compared ids.
    #[arg(long)]
    mse_mean: bool,
    /// Vocabulary size, if the file's vocabulary is padded: ids beyond it get no probability.
    #[arg(long, value_name = "V")]
    vocab_size: Option<i64>,
    /// Number of vocabulary shards.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    tp: u32,
    /// Number format to which logits, hidden states and weight are rounded first.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// The file to write: loss [N], total [], and the gradients of total.
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
}

impl LossArgs {
    fn loss(&self) -> Result<Loss> {
        // Temperature 1 and lambda 0 are valid for every objective, even for those without these settings.
        let temperature = self.temperature.filter(|temperature| *temperature != 1.0);
        let lambda = self.lambda.filter(|lambda| *lambda != 0.0);
        let given = [
            (&keys::OBJECTIVE, Some(Value::from(&self.objective))),
            (&keys::LABEL_SMOOTHING, self.label_smoothing.map(Value::from)),
            (&keys::TAIL, self.tail.as_ref().map(Value::from)),
            (&keys::TEMPERATURE, temperature.map(Value::from)),
            (&keys::TEMPERATURE_SQUARED, self.temperature_squared.then_some(true.into())),
            (&keys::BETA, self.beta.map(Value::from)),
            (&keys::SKEW, self.skew.map(Value::from)),
            (&keys::ESTIMATOR, self.estimator.as_ref().map(Value::from)),
            (&keys::LAMBDA, lambda.map(Value::from)),
            (&keys::CENTERED, self.centered.then_some(true.into())),
            (&keys::MSE_MEAN, self.mse_mean.then_some(true.into())),
        ];
        let given = given.into_iter().filter_map(|(key, value)| Some((key.name.to_string(), Setting::of_flag(value?))));
        let mut settings: Settings = given.collect();
        settings.check_objective(&self.objective)?;
        // Nothing is trained with the loss, so questionable settings are allowed.
        settings.overlay([(keys::ON_PURPOSE.name.to_string(), Setting::of_flag(true))]);
        settings.loss(&SourceSpan(String::new()))
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
    let (metaseq, estimator) = (loss.objective.tail() == Some(Tail::Metaseq), loss.objective.estimator());
    if metaseq {
        note!("tail metaseq: the gradient is p - w, as metaseq computes it, not the gradient of the loss that metaseq logs");
    }
    let (name, tail) = (loss.objective.name(), loss.objective.tail().map(Tail::name));
    match output {
        Output::Json => terminal::json(&json!({
            "objective": name, "tail": tail, "temperature": loss.objective.temperature(), "lambda": loss.lambda,
            "estimator": estimator.map(Estimator::name),
            "total": answer.total, "tokens": answer.tokens, "gradient_is_of_the_loss": loss.objective.gradient_is_of_the_loss(), "out": args.out,
        })),
        Output::Human => {
            say!("{} nats per token, the mean of {name} over {} tokens", answer.total, answer.tokens);
            say!("{}", args.out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
