//! Evaluates an objective on tensors from a safetensors file, checked one by one, with any number of vocabulary shards, so that
//! anyone can compare our mathematics with theirs.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow};
use hydrometer_base::user_error;
use tch::{Device, Kind, Tensor};

use super::head::Head;
use super::targets::{Ids, Targets, Teacher};
use super::{Loss, Objective, Tail};
use crate::dist::c10d::Store;
use crate::dist::{Mesh, ProcessGroup, part};

/// Rounding tolerance: how far the sum of a row's teacher probabilities may exceed one.
const MASS_TOLERANCE: f64 = 1e-3;

/// The N' unmasked tokens of a file, over V ids.
pub struct Case {
    student: Student,
    /// Indices `[N']` i64 of the file's rows that are not masked, and the number of all rows.
    kept: Tensor,
    rows: i64,
    /// Number of ids, and of columns in the file; columns beyond the ids are padding.
    vocab_size: i64,
    columns: i64,
    targets: Targets,
}

enum Student {
    /// `[N', V]`
    Logits(Tensor),
    /// `[N', d]` and `[V, d]`
    Hidden(Tensor, Tensor),
}

/// The result of [`Case::measure`]. Tensors are f32 on the CPU.
pub struct Answer {
    /// Mean loss over the unmasked tokens, in nats for losses of that unit.
    pub total: f64,
    pub tokens: i64,
    /// `loss [N]`, `total []`, and the gradients of total: `grad_logits [N, V]`, or `grad_hidden [N, d]` and `grad_weight [V,
    /// d]`. Masked rows and padding are zero.
    pub tensors: Vec<(&'static str, Tensor)>,
}

impl Answer {
    /// Describes the first result that is not finite.
    pub fn overflow(&self) -> Option<String> {
        let found = self.tensors.iter().find_map(|(name, tensor)| {
            let bad = tensor.isfinite().logical_not().flatten(0, -1);
            let first =
                (bad.numel() > 0 && bad.any().int64_value(&[]) != 0).then(|| bad.to_kind(Kind::Int).argmax(None, false))?;
            let (first, width) = (first.int64_value(&[]), tensor.size().get(1).copied().unwrap_or(1).max(1));
            let at = if tensor.dim() == 0 { String::new() } else { format!(" of row {}", first / width) };
            Some(format!("{name}{at} would be {}", tensor.flatten(0, -1).double_value(&[first])))
        });
        found.or_else(|| (!self.total.is_finite()).then(|| format!("total would be {}", self.total)))
    }
}

/// The tensors of a file by name.
struct File<'a> {
    path: &'a Path,
    tensors: BTreeMap<String, Tensor>,
}

impl File<'_> {
    fn error(&self, what: String) -> anyhow::Error {
        user_error!("{}: {what}", self.path.display())
    }

    /// Tensor `name`, if the file has it. An error unless it has `shape` (−1 matches any size) and integers or floats as
    /// required.
    fn get(&self, name: &str, shape: &[i64], whole_numbers: bool) -> Result<Option<Tensor>> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let found = tensor.size();
        if found.len() != shape.len() || found.iter().zip(shape).any(|(f, s)| *s >= 0 && f != s) {
            let wanted: Vec<String> = shape.iter().map(|n| if *n < 0 { "any".into() } else { n.to_string() }).collect();
            return Err(self.error(format!("{name} is {found:?}, but [{}] is wanted", wanted.join(", "))));
        }
        let is_float = matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        if is_float == whole_numbers {
            let wanted = if whole_numbers { "whole numbers (i64)" } else { "floating-point numbers" };
            return Err(self.error(format!("{name} holds {:?}, but {wanted} are wanted", tensor.kind())));
        }
        Ok(Some(tensor.to_kind(if whole_numbers { Kind::Int64 } else { tensor.kind() })))
    }

    /// An error that names the first entry of `tensor` where `bad` is true.
    fn refuse(&self, name: &str, tensor: &Tensor, bad: &Tensor, rows: &Tensor, why: &str) -> Result<()> {
        let bad = bad.flatten(0, -1);
        if bad.numel() == 0 || bad.any().int64_value(&[]) == 0 {
            return Ok(());
        }
        let first = bad.to_kind(Kind::Int).argmax(None, false).int64_value(&[]);
        let width = tensor.size().get(1).copied().unwrap_or(1).max(1);
        let row = rows.int64_value(&[first / width]);
        let at = if tensor.dim() == 1 { format!("[{row}]") } else { format!("[{row}, {}]", first % width) };
        let value = tensor.flatten(0, -1).double_value(&[first]);
        Err(self.error(format!("{name}{at} is {value}, {why}")))
    }
}

impl Case {
    /// Reads `path` for `loss`. `vocab_size` is the number of ids if the file's vocabulary is padded. Logits, hidden states and
    /// weight are rounded to `kind`. With bf16 hidden states and weight, products are summed in f32 and the gradient of the
    /// logits is rounded to bf16 before its products, as in training. Everything else is computed in f32 and f64.
    pub fn read(path: &Path, loss: &Loss, vocab_size: Option<i64>, kind: Kind) -> Result<Self> {
        let tensors = Tensor::read_safetensors(path)
            .map_err(|error| user_error!("{}: cannot be read as safetensors, or is cut short: {error}", path.display()))?;
        let file = File { path, tensors: tensors.into_iter().collect() };
        const KNOWN: [&str; 9] =
            ["logits", "hidden", "weight", "target_ids", "target_logprobs", "target_logits", "teacher_logits", "labels", "mask"];
        if let Some(name) = file.tensors.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(file.error(format!("unknown tensor {name:?}; known are {}", KNOWN.join(", "))));
        }
        let logits = file.get("logits", &[-1, -1], false)?;
        let hidden = file.get("hidden", &[-1, -1], false)?;
        let (rows, columns) = match (&logits, &hidden) {
            (Some(logits), None) => (logits.size()[0], logits.size()[1]),
            (None, Some(hidden)) => {
                let missing = || file.error("hidden needs weight [V, d] beside it".into());
                let weight = file.get("weight", &[-1, hidden.size()[1]], false)?.ok_or_else(missing)?;
                (hidden.size()[0], weight.size()[0])
            }
            (Some(_), Some(_)) => return Err(file.error("both logits and hidden are given; keep one".into())),
            (None, None) => return Err(file.error("needs logits [N, V], or hidden [N, d] and weight [V, d]".into())),
        };
        let vocab_size = vocab_size.unwrap_or(columns);
        if rows == 0 || columns == 0 {
            return Err(file.error(format!("there are {rows} tokens over {columns} ids: nothing to measure")));
        }
        if !(1..=columns).contains(&vocab_size) {
            return Err(file.error(format!("a vocabulary of {vocab_size} does not fit the {columns} ids of the file")));
        }

        let kept = match file.get("mask", &[rows], true)? {
            None => Tensor::arange(rows, (Kind::Int64, Device::Cpu)),
            Some(mask) => mask.ne(0).nonzero().squeeze_dim(1),
        };
        if kept.numel() == 0 {
            return Err(file.error("mask is 0 for every token: nothing to measure".into()));
        }
        let rows_of = |t: Tensor| t.index_select(0, &kept);
        let finite = |name: &str, t: Tensor, rows: &Tensor| -> Result<Tensor> {
            file.refuse(name, &t, &t.isfinite().logical_not(), rows, "not a finite number")?;
            Ok(t)
        };
        let rounded = |t: Tensor| t.to_kind(kind);
        let student = match (logits, hidden) {
            (Some(logits), _) => {
                let logits = rows_of(logits).narrow(1, 0, vocab_size);
                Student::Logits(rounded(finite("logits", logits, &kept)?).to_kind(Kind::Float))
            }
            (_, hidden) => {
                let weight = file.get("weight", &[columns, -1], false)?.expect("seen above").narrow(0, 0, vocab_size);
                let every = Tensor::arange(vocab_size, (Kind::Int64, Device::Cpu));
                let hidden = finite("hidden", rows_of(hidden.expect("seen above")), &kept)?;
                Student::Hidden(rounded(hidden), rounded(finite("weight", weight, &every)?))
            }
        };

        let in_vocabulary = |name: &str, ids: Tensor| -> Result<Tensor> {
            let outside = ids.lt(0).logical_or(&ids.ge(vocab_size));
            file.refuse(name, &ids, &outside, &kept, &format!("outside the vocabulary of {vocab_size}"))?;
            Ok(ids)
        };
        let labels_n = match file.get("labels", &[rows], true)? {
            Some(labels) => in_vocabulary("labels", rows_of(labels))?,
            None if !loss.objective.needs_teacher() || loss.lambda > 0.0 || loss.objective.estimator().is_some() => {
                return Err(file.error("labels [N] are missing, which cross-entropy on labels and estimators need".into()));
            }
            None => kept.zeros_like(),
        };
        let teacher = if loss.objective.needs_teacher() {
            Some(read_teacher(&file, loss, [rows, columns, vocab_size], &kept, &labels_n, &in_vocabulary)?)
        } else {
            None
        };
        Ok(Self { student, kept, rows, vocab_size, columns, targets: Targets { labels_n, teacher } })
    }

    /// Loss and gradients on `tp` vocabulary shards, one thread each.
    pub fn measure(&self, loss: &Loss, tp: usize) -> Result<Answer> {
        if self.vocab_size < tp as i64 {
            return Err(user_error!("a vocabulary of {} cannot be cut into {tp} shards; lower --tp", self.vocab_size));
        }
        let store = Store::in_process();
        let shards: Vec<Result<Vec<Tensor>>> = thread::scope(|scope| {
            let ranks: Vec<_> = (0..tp)
                .map(|rank| {
                    let (store, mine) = (store.clone(), self.part(loss, rank, tp));
                    scope.spawn(move || mine.measure(&Mesh::join(&store, rank, tp, 1, Device::Cpu)?.tp))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|_| Err(anyhow!("a shard panicked")))).collect()
        });
        let shards = shards.into_iter().collect::<Result<Vec<_>>>()?;
        // Concatenates the vocabulary shards and fills the padding with zeros.
        let of_ids = |index: usize, dim: i64| {
            let parts: Vec<&Tensor> = shards.iter().map(|shard| &shard[index]).collect();
            let padding = self.columns - self.vocab_size;
            let pad = if dim == 0 { vec![0, 0, 0, padding] } else { vec![0, padding] };
            Tensor::cat(&parts, dim).to_kind(Kind::Float).constant_pad_nd(pad)
        };
        let loss_n = &shards[0][0];
        let total = loss_n.mean(Kind::Double).double_value(&[]);
        let mut tensors = vec![("loss", self.all_rows(loss_n)), ("total", Tensor::from(total as f32))];
        match &self.student {
            Student::Logits(_) => tensors.push(("grad_logits", self.all_rows(&of_ids(1, 1)))),
            Student::Hidden(..) => {
                tensors.push(("grad_hidden", self.all_rows(&shards[0][1])));
                tensors.push(("grad_weight", of_ids(2, 0)));
            }
        }
        Ok(Answer { total, tokens: self.kept.numel() as i64, tensors })
    }

    /// Scatters the rows of unmasked tokens into all rows, with zeros for masked ones, in f32.
    fn all_rows(&self, kept: &Tensor) -> Tensor {
        let mut shape = kept.size();
        shape[0] = self.rows;
        Tensor::zeros(&shape, (Kind::Float, Device::Cpu)).index_copy(0, &self.kept, &kept.to_kind(Kind::Float))
    }

    /// The part that shard `rank` of `size` sees.
    fn part(&self, loss: &Loss, rank: usize, size: usize) -> Part {
        let (start, width) = part(self.vocab_size, rank, size);
        let columns = |t: &Tensor| t.narrow(1, start, width).contiguous();
        let teacher = self.targets.teacher.as_ref().map(|teacher| {
            let all = matches!(teacher.ids, Ids::All);
            let mine = |t: &Tensor| if all { columns(t) } else { t.shallow_clone() };
            Teacher {
                ids: teacher.ids.share(),
                logprobs_nk: teacher.logprobs_nk.as_ref().map(mine),
                logits_nk: teacher.logits_nk.as_ref().map(mine),
            }
        });
        Part {
            loss: *loss,
            student: match &self.student {
                Student::Logits(logits) => Student::Logits(columns(logits)),
                Student::Hidden(hidden, weight) => {
                    Student::Hidden(hidden.shallow_clone(), weight.narrow(0, start, width).contiguous())
                }
            },
            start,
            vocab_size: self.vocab_size,
            targets: Targets { labels_n: self.targets.labels_n.shallow_clone(), teacher },
        }
    }
}

/// A vocabulary shard of a case.
struct Part {
    loss: Loss,
    student: Student,
    /// First id of the shard.
    start: i64,
    vocab_size: i64,
    targets: Targets,
}

impl Part {
    /// Losses `[N']`, then the gradient of this shard's logits, or those of the hidden states and this shard's weight.
    fn measure(&self, tp: &ProcessGroup) -> Result<Vec<Tensor>> {
        let head = |weight_vd| Head { weight_vd, vocab_start: self.start, vocab_size: self.vocab_size, tp };
        Ok(match &self.student {
            Student::Logits(z_nv) => {
                let scale = 1.0 / z_nv.size()[0] as f64;
                let (measured, gradient) = head(z_nv).loss_and_logit_gradient(&self.loss, z_nv, &self.targets, scale)?;
                vec![measured.loss_n(), gradient]
            }
            Student::Hidden(hidden_nd, weight_vd) => {
                let scale = 1.0 / hidden_nd.size()[0] as f64;
                let gradient_vd = weight_vd.zeros_like().to_kind(Kind::Float);
                let (measured, d_hidden) =
                    head(weight_vd).loss_and_gradients(&self.loss, hidden_nd, &self.targets, scale, &gradient_vd)?;
                vec![measured.loss_n(), d_hidden, gradient_vd]
            }
        })
    }
}

/// Reads the teacher targets of the unmasked tokens: for listed ids, or for all of them.
fn read_teacher(
    file: &File,
    loss: &Loss,
    [rows, columns, vocab_size]: [i64; 3],
    kept: &Tensor,
    labels_n: &Tensor,
    in_vocabulary: &impl Fn(&str, Tensor) -> Result<Tensor>,
) -> Result<Teacher> {
    let name = loss.objective.name();
    let rows_of = |t: Tensor| t.index_select(0, kept);
    let dense = file.get("teacher_logits", &[rows, columns], false)?.map(|t| rows_of(t).narrow(1, 0, vocab_size));
    let dense = dense.map(|t| t.to_kind(Kind::Double));
    if let Some(dense) = &dense {
        file.refuse("teacher_logits", dense, &dense.isfinite().logical_not(), kept, "not a finite number")?;
    }
    let temperature = loss.objective.temperature().unwrap_or(1.0);
    let dense_logprobs = dense.as_ref().map(|dense| (dense / temperature).log_softmax(-1, Kind::Double));
    let Some(ids) = file.get("target_ids", &[rows, -1], true)? else {
        let Some(dense) = dense else {
            return Err(file.error(format!("{name} needs target_ids [N, k], or teacher_logits [N, V]")));
        };
        if loss.objective.estimator().is_some() {
            let drawn_n1 = labels_n.unsqueeze(1);
            let logprobs = dense_logprobs.map(|all| all.gather(1, &drawn_n1, false));
            return Ok(Teacher { ids: Ids::distinct(drawn_n1), logprobs_nk: logprobs, logits_nk: None });
        }
        return Ok(Teacher { ids: Ids::All, logprobs_nk: dense_logprobs, logits_nk: Some(dense) });
    };
    let k = ids.size()[1];
    if k == 0 {
        return Err(file.error("target_ids lists no ids (k = 0)".into()));
    }
    let ids = in_vocabulary("target_ids", rows_of(ids))?;
    if let Some(estimator) = loss.objective.estimator() {
        let wanted =
            format!("estimator {} needs target_ids [N, 1], the ids that the student drew: those of labels", estimator.name());
        if k != 1 {
            return Err(file.error(format!("{wanted}; there are {k} per token")));
        }
        file.refuse("target_ids", &ids, &ids.not_equal_tensor(&labels_n.unsqueeze(1)), kept, &format!("but {wanted}"))?;
    }
    let given = |name: &str| -> Result<Option<Tensor>> {
        let Some(values) = file.get(name, &[rows, k], false)? else { return Ok(None) };
        let values = rows_of(values).to_kind(Kind::Double);
        let bad = values.isnan().logical_or(&values.eq(f64::INFINITY));
        file.refuse(name, &values, &bad, kept, "which is not a value that a teacher can give")?;
        Ok(Some(values))
    };
    let at_ids = |all: &Option<Tensor>| all.as_ref().map(|all| all.gather(1, &ids, false));
    let logits = given("target_logits")?.or_else(|| at_ids(&dense));
    let logprobs = given("target_logprobs")?.or_else(|| at_ids(&dense_logprobs));
    if loss.objective.compares_logits() {
        if logits.is_none() {
            return Err(file.error(format!("{name} needs target_logits [N, k] beside target_ids")));
        }
        return Ok(Teacher::listed(ids, None, logits));
    }
    let Some(logprobs) = logprobs else {
        return Err(file.error(format!("{name} needs target_logprobs [N, k] beside target_ids (at the temperature asked for)")));
    };
    let teacher = Teacher::listed(ids, Some(logprobs), None);
    let merged = teacher.logprobs_nk.as_ref().expect("given above");
    let mass = merged.exp().sum_dim_intlist(-1, false, Kind::Double);
    let why = "the sum of a row's weights: log-probabilities must sum to at most 1";
    file.refuse("the mass of target_logprobs", &mass, &mass.gt(1.0 + MASS_TOLERANCE), kept, why)?;
    if loss.objective.tail() == Some(Tail::Sampled) {
        let why = "but the weights of draws (tail sampled) must sum to 1";
        file.refuse("the mass of target_logprobs", &mass, &mass.lt(1.0 - MASS_TOLERANCE), kept, why)?;
    }
    if matches!(loss.objective, Objective::KlReverse { skew: 0.0, .. } | Objective::SampledKl { .. }) {
        // A repeated id carries no weight of its own by construction.
        let first = match &teacher.ids {
            Ids::Listed { first_nk: Some(first), .. } => first.shallow_clone(),
            _ => merged.ones_like().to_kind(Kind::Bool),
        };
        let nothing = merged.eq(f64::NEG_INFINITY).logical_and(&first);
        let why = "where kl-reverse is infinite: the student gives every id some weight";
        file.refuse("target_logprobs", merged, &nothing, kept, why)?;
    }
    Ok(teacher)
}
