//! Passes (micro-batches): the parts of a batch that one forward and one backward pass take, so that memory does not grow with
//! the batch.
//!
//! A batch is laid out as a whole, then split between rows of its tensors. So each pass has the width of its own longest row, and
//! a batch that fits in one pass is laid out as if there were no passes.

use super::batch::Row;
use super::packing::PackedLayout;
use crate::recipe::Packing;

/// The sequences of one pass, and their positions in its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// In the order of the plan.
    pub rows: Vec<Row>,
    pub layout: PackedLayout,
}

impl Packing {
    /// Splits the batch `rows`, in rows of at most `context` inputs, into passes of at most `tokens` input tokens, padding
    /// included; a pass has at least one row of the tensors. `width` is the padded width of rows of which the longest has the
    /// given number of inputs.
    pub fn passes(self, rows: &[Row], context: usize, tokens: usize, width: impl Fn(usize) -> usize) -> Vec<Pass> {
        let layout = match self {
            Self::None => PackedLayout::one_a_row(rows),
            Self::Documents => PackedLayout::packed(rows, context),
        };
        split(&layout, rows, tokens, width)
    }
}

/// Splits `rows` between consecutive rows of `layout`.
fn split(layout: &PackedLayout, rows: &[Row], tokens: usize, width: impl Fn(usize) -> usize) -> Vec<Pass> {
    let mut filled = vec![0; layout.rows];
    for (row, &(at, start)) in rows.iter().zip(&layout.places) {
        filled[at] = filled[at].max(start + row.inputs());
    }
    let mut passes: Vec<Pass> = Vec::new();
    // The pass of each row of the layout, and the row's position in it.
    let mut places = Vec::with_capacity(filled.len());
    for inputs in filled {
        let fits = |layout: &PackedLayout| width(layout.longest.max(inputs)) * (layout.rows + 1) <= tokens;
        if !passes.last().is_some_and(|pass| fits(&pass.layout)) {
            passes.push(Pass { rows: Vec::new(), layout: PackedLayout { places: Vec::new(), rows: 0, longest: 0 } });
        }
        let index = passes.len() - 1;
        let layout = &mut passes[index].layout;
        places.push((index, layout.rows));
        layout.rows += 1;
        layout.longest = layout.longest.max(inputs);
    }
    for (row, &(at, start)) in rows.iter().zip(&layout.places) {
        let (pass, at) = places[at];
        passes[pass].rows.push(*row);
        passes[pass].layout.places.push((at, start));
    }
    passes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sequences::Sequence;

    fn rows(lengths: &[usize]) -> Vec<Row> {
        let sequence = |(document, &targets)| Sequence { document, start: 0, targets, first: 0 };
        lengths.iter().enumerate().map(sequence).map(Row::whole).collect()
    }

    proptest! {
        /// Oracle: the definition. Each pass is within the bound or has one row, none could take the next pass's first row, and
        /// the targets of all are those of the batch.
        #[test]
        fn passes_are_within_the_bound_and_hold_each_sequence_once(
            lengths in prop::collection::vec(1usize..=40, 1..60),
            tokens in 1usize..400,
        ) {
            let rows = rows(&lengths);
            let width = |longest: usize| longest.next_multiple_of(8);
            for packing in [Packing::None, Packing::Documents] {
                let passes = packing.passes(&rows, 40, tokens, width);
                let size = |pass: &Pass| pass.layout.rows * width(pass.layout.longest);
                prop_assert!(passes.iter().all(|pass| pass.layout.rows == 1 || size(pass) <= tokens));
                for (pass, next) in passes.iter().zip(&passes[1..]) {
                    let first = |place: &(usize, usize)| place.0 == 0;
                    let of_first = next.rows.iter().zip(&next.layout.places).filter(|(_, place)| first(place));
                    let inputs = of_first.map(|(row, &(_, start))| start + row.inputs()).max().unwrap();
                    prop_assert!((pass.layout.rows + 1) * width(pass.layout.longest.max(inputs)) > tokens);
                }
                let mut all: Vec<Row> = passes.iter().flat_map(|pass| pass.rows.clone()).collect();
                all.sort_by_key(|row| row.sequence.document);
                prop_assert_eq!(all, rows.clone());
                for pass in &passes {
                    let ends = pass.rows.iter().zip(&pass.layout.places).map(|(row, &(_, start))| start + row.inputs());
                    prop_assert_eq!(ends.max(), Some(pass.layout.longest));
                    prop_assert!(pass.rows.is_sorted_by_key(|row| row.sequence.document), "in the order of the plan");
                }
            }
        }

        /// Oracle: the layout of the whole batch.
        #[test]
        fn a_batch_that_fits_is_laid_out_as_without_passes(lengths in prop::collection::vec(1usize..=40, 1..60)) {
            let rows = rows(&lengths);
            let layouts = [(Packing::None, PackedLayout::one_a_row(&rows)), (Packing::Documents, PackedLayout::packed(&rows, 40))];
            for (packing, layout) in layouts {
                let passes = packing.passes(&rows, 40, layout.rows * layout.longest, |longest| longest);
                prop_assert_eq!(passes, vec![Pass { rows: rows.clone(), layout }]);
            }
        }
    }

    #[test]
    fn a_rank_without_rows_makes_no_pass() {
        assert_eq!(Packing::None.passes(&[], 8, 8, |longest| longest), []);
        assert_eq!(Packing::Documents.passes(&[], 8, 8, |longest| longest), []);
    }
}
