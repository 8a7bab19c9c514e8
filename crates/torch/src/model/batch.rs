//! The rows of a batch as tensors.

use hydrometer_data::batch::Row;
use hydrometer_data::packing::PackedLayout;
use hydrometer_data::passes::Pass;
use hydrometer_data::recipe::Packing;
use hydrometer_data::tokens::TokenizedSplit;
use tch::{Device, Tensor};

/// A batch as tensors: B rows of T columns, with N targets.
pub struct Batch {
    /// `[B, T]` i64. Rows shorter than T are padded with zeros, on which no target depends.
    pub inputs_bt: Tensor,
    /// `[B, T]` i64, only if sequences share rows: the column where each token's sequence starts. A padding token starts at
    /// itself.
    pub starts_bt: Option<Tensor>,
    /// `[N]` i64: positions of the N targets in the flattened `[B·T]`.
    pub positions_n: Tensor,
    /// `[N]` i64: the ids to predict.
    pub labels_n: Tensor,
}

impl Batch {
    /// One sequence per row.
    pub fn new(rows: &[Row], split: &TokenizedSplit, device: Device) -> Self {
        Self::laid_out(&PackedLayout::one_a_row(rows), rows, split, device)
    }

    /// Several sequences per row, of at most `context` inputs. The N targets are those of [`Batch::new`], in the same order.
    pub fn packed(rows: &[Row], split: &TokenizedSplit, context: usize, device: Device) -> Self {
        Self::sharing_rows(&PackedLayout::packed(rows, context), rows, split, device)
    }

    /// The part of a batch that `pass` takes.
    pub fn of_pass(pass: &Pass, packing: Packing, split: &TokenizedSplit, device: Device) -> Self {
        match packing {
            Packing::None => Self::laid_out(&pass.layout, &pass.rows, split, device),
            Packing::Documents => Self::sharing_rows(&pass.layout, &pass.rows, split, device),
        }
    }

    /// The rows of `layout`, with the starts of the sequences that share them.
    fn sharing_rows(layout: &PackedLayout, rows: &[Row], split: &TokenizedSplit, device: Device) -> Self {
        let batch = Self::laid_out(layout, rows, split, device);
        let (height, width) = batch.inputs_bt.size2().expect("inputs are [B, T]");
        let mut starts: Vec<i64> = (0..height).flat_map(|_| 0..width).collect();
        for (row, &(at, start)) in rows.iter().zip(&layout.places) {
            let first = at * width as usize + start;
            starts[first..first + row.inputs()].fill(start as i64);
        }
        let starts_bt = Tensor::from_slice(&starts).view([height, width]).to_device(device);
        Self { starts_bt: Some(starts_bt), ..batch }
    }

    fn laid_out(layout: &PackedLayout, rows: &[Row], split: &TokenizedSplit, device: Device) -> Self {
        let width = split.width(layout.longest);
        let mut inputs = vec![0i64; layout.rows * width];
        let (mut positions, mut labels) = (Vec::new(), Vec::new());
        for (row, &(at, start)) in rows.iter().zip(&layout.places) {
            let at = at * width + start;
            for (slot, &id) in inputs[at..at + row.inputs()].iter_mut().zip(row.sequence.inputs(split).iter()) {
                *slot = i64::from(id);
            }
            positions.extend((at + row.from..at + row.to).map(|position| position as i64));
            labels.extend(row.sequence.labels(split)[row.from..row.to].iter().map(|&id| i64::from(id)));
        }
        Self {
            inputs_bt: Tensor::from_slice(&inputs).view([layout.rows as i64, width as i64]).to_device(device),
            starts_bt: None,
            positions_n: Tensor::from_slice(&positions).to_device(device),
            labels_n: Tensor::from_slice(&labels).to_device(device),
        }
    }
}
