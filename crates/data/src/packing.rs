//! Packing: how the sequences of a batch are laid out in its rows, one per row or several.
//!
//! A layout only moves inputs. The plan decides which targets a batch has and in which order; with or without packing, every
//! update learns from the same targets.

use super::batch::Row;
use crate::recipe::Packing;

/// The position of each sequence of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// Row and first column of each sequence, in the order of the plan.
    pub places: Vec<(usize, usize)>,
    pub rows: usize,
    /// Number of columns of the longest row.
    pub longest: usize,
}

impl PackedLayout {
    /// One row for each of `rows`.
    pub fn one_a_row(rows: &[Row]) -> Self {
        let longest = rows.iter().map(Row::inputs).max().unwrap_or(1);
        Self { places: (0..rows.len()).map(|row| (row, 0)).collect(), rows: rows.len(), longest }
    }

    /// Rows of at most `context` inputs, by first-fit decreasing: longest sequence first (ties in plan order), each into the
    /// first row with room for it. That uses at most 11/9 of the optimal number of rows, plus one (Johnson 1973).
    ///
    /// The attention cost of a token grows with the length of its row, however short its sequence. Rows of twice the longest
    /// sequence are filled about as well as longer ones, so no row is longer than that.
    pub fn packed(rows: &[Row], context: usize) -> Self {
        let capacity = context.min(2 * rows.iter().map(Row::inputs).max().unwrap_or(1));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(rows[index].inputs()));
        let (mut places, mut filled) = (vec![(0, 0); rows.len()], Vec::<usize>::new());
        for index in order {
            let inputs = rows[index].inputs();
            let row = filled.iter().position(|taken| taken + inputs <= capacity).unwrap_or_else(|| {
                filled.push(0);
                filled.len() - 1
            });
            places[index] = (row, filled[row]);
            filled[row] += inputs;
        }
        Self { places, rows: filled.len(), longest: filled.into_iter().max().unwrap_or(1) }
    }
}

impl Packing {
    /// The part of a batch for data-parallel rank `rank` of `size`, a contiguous range of the plan. Every rank gets the same
    /// number of rows or, if sequences share rows, of inputs, to within half a sequence at either end.
    pub fn share(self, rows: &[Row], rank: usize, size: usize) -> &[Row] {
        match self {
            Self::None => rows.chunks(rows.len().div_ceil(size).max(1)).nth(rank).unwrap_or(&[]),
            Self::Documents => {
                let total: usize = rows.iter().map(Row::inputs).sum();
                // A sequence belongs to the rank in whose range of inputs its midpoint lies.
                let ranks = rows.iter().scan(0, |before, row| {
                    let twice_the_middle = 2 * *before + row.inputs();
                    *before += row.inputs();
                    Some(twice_the_middle * size / (2 * total))
                });
                let ranks: Vec<usize> = ranks.collect();
                &rows[ranks.partition_point(|&of| of < rank)..ranks.partition_point(|&of| of <= rank)]
            }
        }
    }
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
        #[test]
        fn every_input_has_its_own_position_within_the_context(lengths in prop::collection::vec(1usize..=40, 1..60)) {
            let rows = rows(&lengths);
            let layout = PackedLayout::packed(&rows, 40);
            let capacity = rows.iter().map(|row| 2 * row.inputs()).max().unwrap().min(40);
            let mut taken = vec![[false; 40]; layout.rows];
            for (row, &(at, start)) in rows.iter().zip(&layout.places) {
                for place in &mut taken[at][start..start + row.inputs()] {
                    prop_assert!(!std::mem::replace(place, true), "two inputs at one position");
                }
            }
            // Rows are filled from the start, and no two rows would fit into one.
            let filled: Vec<usize> = taken.iter().map(|row| row.iter().filter(|&&taken| taken).count()).collect();
            for (row, &filled) in taken.iter().zip(&filled) {
                prop_assert!(row[..filled].iter().all(|&taken| taken));
            }
            prop_assert_eq!(filled.iter().max().copied(), Some(layout.longest));
            prop_assert!(filled.iter().enumerate().all(|(row, &a)| filled[..row].iter().all(|&b| a + b > capacity)));
            prop_assert_eq!(&layout, &PackedLayout::packed(&rows, 40));
        }

        #[test]
        fn shares_are_consecutive_rows_with_about_equal_numbers_of_inputs(
            lengths in prop::collection::vec(1usize..=40, 1..60),
            size in 1usize..6,
        ) {
            let rows = rows(&lengths);
            for packing in [Packing::None, Packing::Documents] {
                let shares: Vec<&[Row]> = (0..size).map(|rank| packing.share(&rows, rank, size)).collect();
                prop_assert_eq!(shares.concat(), rows.clone(), "{:?}", packing);
                let part = lengths.iter().sum::<usize>() as f64 / size as f64;
                for share in shares {
                    let held = share.iter().map(Row::inputs).sum::<usize>() as f64;
                    prop_assert!(packing == Packing::None || (held - part).abs() <= 40.0, "{} of {}", held, part);
                }
            }
        }
    }

    #[test]
    fn short_sequences_fill_up_the_rows_of_long_ones() {
        let layout = PackedLayout::packed(&rows(&[3, 10, 4, 6, 5, 2]), 10);
        assert_eq!(layout, PackedLayout { places: vec![(2, 5), (0, 0), (1, 6), (1, 0), (2, 0), (2, 8)], rows: 3, longest: 10 });
    }

    #[test]
    fn rows_are_no_longer_than_two_of_the_longest_sequence() {
        let layout = PackedLayout::packed(&rows(&[3; 9]), 1000);
        assert_eq!((layout.rows, layout.longest), (5, 6));
    }

    #[test]
    fn a_sequence_longer_than_the_context_gets_its_own_row() {
        let layout = PackedLayout::packed(&rows(&[3, 12, 4]), 10);
        assert_eq!(layout, PackedLayout { places: vec![(1, 4), (0, 0), (1, 0)], rows: 2, longest: 12 });
    }
}
