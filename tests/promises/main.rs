//! What hydrometer promises, a file a promise.

mod bad_checkpoints_are_refused_by_name;
mod bad_input_is_refused_before_any_work;
mod checkpoints_evaluate_as_in_transformers;
mod checkpoints_survive_export_and_import;
mod claims_are_decided_and_verified;
mod fixtures;
mod interrupted_runs_resume_bit_for_bit;
mod lab;
mod loss_evaluates_tensors_from_anywhere;
mod objectives_equal_the_f64_reference;
mod recomputed_activations_change_no_bit;
mod shards_of_every_family_learn_as_one;
mod shards_train_as_one;
mod sweeps_explain_themselves;
mod the_reference_is_the_formula;
