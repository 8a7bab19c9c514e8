//! The objective of an arm, from named settings: keys of the experiment file, or flags of `hydrometer loss`.

use anyhow::Result;
use hydrometer_base::suggest::unknown;
use hydrometer_base::user_error;
use hydrometer_torch::objective::{Estimator, Loss, Objective, Tail};

use super::{
    BETA, CENTERED, ESTIMATOR, LABEL_SMOOTHING, LAMBDA, MSE_MEAN, OBJECTIVE, ON_PURPOSE, SKEW, Settings, TAIL, TEMPERATURE,
    TEMPERATURE_SQUARED,
};
use crate::experiment::source::{Setting, SourceSpan};

/// metaseq's modes and the objective that each corresponds to.
pub const MODES: [(&str, &str); 3] =
    [("hard_labels_distillation", "hard-ce"), ("logprobs_distillation", "soft-ce"), ("logits_distillation", "logit-mse")];

/// How kl-reverse on text that the student writes can be computed.
pub const ESTIMATORS: [&str; 6] = ["exact", "top-k", "k1", "k2", "k3", "k3-as-loss"];

/// The names that [`objective_name`] accepts.
pub fn known_names() -> Vec<&'static str> {
    Objective::NAMES.into_iter().chain(MODES.map(|(mode, _)| mode)).collect()
}

/// The objective that `setting` names, directly or by metaseq's mode.
pub fn objective_name(setting: &Setting) -> Result<&str> {
    let name = OBJECTIVE.text(setting)?;
    if let Some((_, objective)) = MODES.iter().find(|(mode, _)| *mode == name) {
        return Ok(objective);
    }
    let known = known_names();
    if known.contains(&name) { Ok(name) } else { Err(user_error!("{}: {}", setting.at.0, unknown("objective", name, &known))) }
}

impl Settings {
    /// The loss of an arm with these settings. `of` is the arm's place in the file, for messages.
    pub fn loss(&self, of: &SourceSpan) -> Result<Loss> {
        let named = self.get(&OBJECTIVE).ok_or_else(|| {
            let known = Objective::NAMES.join(", ");
            user_error!("{}: this method has no objective; add e.g. objective = \"hard-ce\" (known are {known})", of.0)
        })?;
        let (temperature, mse_mean) = (self.number(&TEMPERATURE)?, self.flag(&MSE_MEAN)?);
        let skew = self.number(&SKEW)?;
        let objective = match objective_name(named)? {
            "hard-ce" => Objective::HardCe { label_smoothing: self.number(&LABEL_SMOOTHING)? },
            "soft-ce" => Objective::SoftCe { tail: self.tail(Tail::Raw)?, temperature },
            "kl-forward" => Objective::KlForward { tail: self.tail(Tail::Bucket)?, temperature, skew },
            "kl-reverse" => match self.estimator()? {
                Some(estimator) => Objective::SampledKl { estimator, temperature },
                None => Objective::KlReverse { tail: self.tail(Tail::Bucket)?, temperature, skew },
            },
            "jsd" => Objective::Jsd { beta: self.beta()?, temperature },
            "logit-mse" => Objective::LogitMse { centered: self.flag(&CENTERED)?, mse_mean },
            _ if !self.flag(&ON_PURPOSE)? => {
                let at = &named.at.0;
                return Err(user_error!(
                    "{at}: logprob-mse rarely converges; add on_purpose = true if it is what you study, or use logit-mse"
                ));
            }
            _ => Objective::LogprobMse { mse_mean, temperature },
        };
        if let (Some(why), Some(tail)) = (objective.undefined(), self.get(&TAIL)) {
            return Err(user_error!("{} {why}", tail.subject_with_value(TAIL.name)));
        }
        Ok(Loss { objective, lambda: self.number(&LAMBDA)?, temperature_squared: self.flag(&TEMPERATURE_SQUARED)? })
    }

    /// The estimator of a loss on ids that the student drew; `None` if the loss is summed over the teacher's ids.
    fn estimator(&self) -> Result<Option<Estimator>> {
        let Some(setting) = self.get(&ESTIMATOR) else { return Ok(None) };
        let name = ESTIMATOR.choice(setting, |name| ESTIMATORS.into_iter().find(|known| *known == name))?;
        if name == "k3" {
            return Err(user_error!(
                "{}, differentiated as a loss, descends KL(teacher ‖ student), not kl-reverse; ask for that as \"k3-as-loss\", or use \"k2\"",
                setting.subject_with_value(ESTIMATOR.name)
            ));
        }
        let estimator = Estimator::named(name);
        let stray = [&TAIL, &SKEW].into_iter().find_map(|key| Some((key, self.get(key)?)));
        match (estimator, stray) {
            (Some(estimator), Some((key, stray))) => Err(user_error!(
                "{} does not apply to estimator {}, which compares the drawn id alone; remove it",
                stray.subject(key.name),
                estimator.name()
            )),
            _ => Ok(estimator),
        }
    }

    /// An error if a setting is about text that the student writes, but the arm has none of it.
    pub fn check_writer(&self) -> Result<()> {
        self.get(&ESTIMATOR).map_or(Ok(()), |setting| {
            Err(user_error!(
                "{} needs ids that the student drew, writer = \"student\", which no experiment has yet; remove it",
                setting.subject_with_value(ESTIMATOR.name)
            ))
        })
    }

    fn tail(&self, default: Tail) -> Result<Tail> {
        self.get(&TAIL).map_or(Ok(default), |setting| TAIL.choice(setting, Tail::named))
    }

    fn beta(&self) -> Result<f64> {
        let beta = self.number(&BETA)?;
        match self.get(&BETA) {
            // Equal to 1 in f32.
            Some(setting) if beta as f32 == 1.0 => Err(setting.wrong(BETA.name, "above 0 and below 1, in f32 too")),
            _ => Ok(beta),
        }
    }
}
