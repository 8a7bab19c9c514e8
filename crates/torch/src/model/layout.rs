//! The layout of token ids in rows: the position of each token, and which tokens it may attend to.

use std::cell::OnceCell;

use tch::{Kind, Tensor};

use super::rotary::Rotary;

/// Token ids in rows: one sequence per row, or several packed one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[B, T]` i64.
    pub ids_bt: &'a Tensor,
    /// `[B, T]` i64, only if sequences share rows: the column where each token's sequence starts.
    pub starts_bt: Option<&'a Tensor>,
}

/// One sequence per row.
impl<'a> From<&'a Tensor> for Tokens<'a> {
    fn from(ids_bt: &'a Tensor) -> Self {
        Self { ids_bt, starts_bt: None }
    }
}

/// What all blocks of a pass share. Unless sequences share rows, a token's position is its column, and attention is plain causal.
pub struct AttentionLayout {
    /// `[B, T]` i64, only if sequences share rows: distance of each token from the start of its sequence.
    pub positions_bt: Option<Tensor>,
    /// Tables for the positions of the tokens, only if positions are rotary.
    pub rotary: Option<Rotary>,
    /// `[B, T]` i64, only if sequences share rows: the column where each token's sequence starts.
    pub starts_bt: Option<Tensor>,
    /// Made for the first block that needs it.
    mask_b1tt: OnceCell<Option<Tensor>>,
}

impl AttentionLayout {
    /// The layout of `tokens`, with `rotary` positions if there are any.
    pub fn new(tokens: Tokens, rotary: Option<&Rotary>) -> Self {
        let length = tokens.ids_bt.size()[1];
        let starts_bt = tokens.starts_bt.map(Tensor::shallow_clone);
        let positions_bt =
            starts_bt.as_ref().map(|starts_bt| Tensor::arange(length, (Kind::Int64, starts_bt.device())) - starts_bt);
        let rotary = rotary.map(|rotary| positions_bt.as_ref().map_or_else(|| rotary.first(length), |at| rotary.at(at)));
        Self { positions_bt, rotary, starts_bt, mask_b1tt: OnceCell::new() }
    }

    /// A mask for attention in `kind`, `[B, 1, T, T]`, only if sequences share rows: 0 where a token may attend (to its sequence, up
    /// to itself), −∞ elsewhere.
    pub fn mask_b1tt(&self, kind: Kind) -> Option<&Tensor> {
        self.mask_b1tt.get_or_init(|| self.starts_bt.as_ref().map(|starts_bt| mask(starts_bt, kind))).as_ref()
    }
}

/// The attention mask. Sequences are contiguous: a token attends to the columns from the start of its sequence up to its own.
fn mask(starts_bt: &Tensor, kind: Kind) -> Tensor {
    let (batch, length) = starts_bt.size2().expect("starts are [B, T]");
    // CUDA's kernel copies the mask in every block unless its rows begin at multiples of 8 numbers.
    let columns = Tensor::arange((length + 7) / 8 * 8, (Kind::Int64, starts_bt.device()));
    let own = columns.narrow(0, 0, length).unsqueeze(1);
    let outside = columns.lt_tensor(&starts_bt.unsqueeze(-1)).logical_or_(&columns.gt_tensor(&own));
    let mut mask_btt = Tensor::zeros([batch, length, columns.size()[0]], (kind, starts_bt.device()));
    mask_btt.masked_fill_(&outside, f64::NEG_INFINITY).narrow(2, 0, length).unsqueeze(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_attends_to_its_own_sequence_up_to_itself() {
        // Sequences of 2 and 3 tokens, and one of padding; a row with one sequence.
        let starts_bt = Tensor::from_slice(&[0i64, 0, 2, 2, 2, 5, 0, 0, 0, 0, 0, 0]).view([2, 6]);
        let ids_bt = starts_bt.zeros_like();
        let layout = AttentionLayout::new(Tokens { ids_bt: &ids_bt, starts_bt: Some(&starts_bt) }, None);
        let positions = Vec::<Vec<i64>>::try_from(layout.positions_bt.as_ref().unwrap()).unwrap();
        assert_eq!(positions, [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]);
        let mask_b1tt = layout.mask_b1tt(Kind::Float).unwrap();
        assert_eq!(mask_b1tt.size(), [2, 1, 6, 6]);
        let open: Vec<Vec<i64>> = Vec::try_from(mask_b1tt.get(0).get(0).eq(0.0).to_kind(Kind::Int64)).unwrap();
        assert_eq!(
            open,
            [
                [1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [0, 0, 1, 0, 0, 0],
                [0, 0, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 0],
                [0, 0, 0, 0, 0, 1]
            ]
        );
        let causal = Tensor::ones([6, 6], (Kind::Float, ids_bt.device())).tril(0);
        assert_eq!(mask_b1tt.get(1).get(0).eq(0.0).to_kind(Kind::Float), causal);
    }
}
