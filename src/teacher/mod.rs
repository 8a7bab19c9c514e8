//! Who teaches: a trained model's answers, computed once and shared by every arm.

pub mod cache;
mod draws;
pub mod kept;
pub mod teach;
