//! Finish reasons of APIs: whether the model ended its answer decides whether the student learns to end there.

use hydrometer_base::text::quoted;

use crate::json::Json;
use crate::line_error::{Kind, LineError};

/// Reasons that mean the model or a stop string ended the answer, in the terms of OpenAI, vLLM, TGI and Anthropic.
const ENDED: [&str; 9] =
    ["stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call", "complete"];
/// Those of them that may mean a stop string.
const STOPPED: [&str; 2] = ["stop", "stop_sequence"];
/// Reasons that mean a length limit.
const CUT: [&str; 5] = ["length", "max_tokens", "max_new_tokens", "max_output_tokens", "model_length"];

/// What a finish reason says about the end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Whether the answer was cut off before the model ended it.
    pub cut: bool,
    /// Whether the model is known to have ended it.
    pub ended: bool,
    /// Whether a stop string may be missing at the end of its text.
    pub stopped: bool,
}

/// Reads the `finish_reason` of `choice` (an OpenAI choice, a vLLM output). Without the key the answer counts as ended; null
/// means an unfinished answer. An answer that was withdrawn or aborted is a [`LineError`].
pub fn of(choice: &Json) -> Result<Finish, LineError> {
    let reason = match choice.given("finish_reason") {
        None => return Ok(Finish { cut: false, ended: false, stopped: false }),
        Some(Json::Null) => return Ok(Finish { cut: true, ended: false, stopped: false }),
        Some(reason) => reason.text("finish_reason")?,
    };
    let is_one_of = |reasons: &[&str]| reasons.iter().any(|one| reason.eq_ignore_ascii_case(one));
    if is_one_of(&ENDED) || is_one_of(&CUT) {
        let stopped = is_one_of(&STOPPED) && choice.given("stop_reason") != Some(&Json::Null);
        return Ok(Finish { cut: is_one_of(&CUT), ended: is_one_of(&ENDED), stopped });
    }
    let what = format!("the answer ends by \"finish_reason\" {}, not where the model ended it", quoted(reason));
    Err(LineError::new(Kind::Refused, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_the_model_ended_get_an_end_token() {
        let finish = |reason: &str| of(&Json::object(&format!("{{{reason}}}")).unwrap());
        let (cut, ended) = (|f: Finish| (f.cut, f.ended), |cut, ended| (cut, ended));
        assert_eq!(finish("").map(cut), Ok(ended(false, false)));
        assert_eq!(finish(r#""finish_reason": null"#).map(cut), Ok(ended(true, false)));
        for reason in ["stop", "eos_token", "STOP", "end_turn", "tool_calls"] {
            assert_eq!(finish(&format!(r#""finish_reason": "{reason}""#)).map(cut), Ok(ended(false, true)), "{reason}");
        }
        for reason in ["length", "LENGTH", "max_tokens"] {
            assert_eq!(finish(&format!(r#""finish_reason": "{reason}""#)).map(cut), Ok(ended(true, false)), "{reason}");
        }
        for reason in ["content_filter", "abort", "error", ""] {
            let damage = finish(&format!(r#""finish_reason": "{reason}""#)).unwrap_err();
            assert!(damage.kind == Kind::Refused && damage.what.contains(&format!("{reason:?}")), "{damage}");
        }
        assert!(finish(r#""finish_reason": "stop""#).unwrap().stopped);
        assert!(!finish(r#""finish_reason": "stop", "stop_reason": null"#).unwrap().stopped);
        assert!(!finish(r#""finish_reason": "eos""#).unwrap().stopped);
    }
}
