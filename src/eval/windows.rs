//! Rolling windows over documents: every token is predicted once, with more left context than disjoint sequences would give it.

use hydrometer_data::batch::Row;
use hydrometer_data::sequences::Sequence;
use hydrometer_data::tokens::TokenizedSplit;

/// Windows of at most `context` input tokens, each starting `stride` tokens after the one before. A window counts the targets
/// that no earlier window has. Targets in a document's first window see all that precedes them; all others see more than `context
/// − stride` tokens.
pub fn windows(split: &TokenizedSplit, context: usize, stride: usize) -> Vec<Row> {
    let mut all = Vec::new();
    for document in 0..split.len() {
        let begin = split.offsets[document] as usize;
        let last = split.document(document).len() - 1;
        let (mut start, mut scored) = (0, 0);
        while scored < last {
            let targets = context.min(last - start);
            all.push(Row {
                sequence: Sequence { document, start: begin + start, targets, first: 0 },
                from: scored - start,
                to: targets,
            });
            scored = start + targets;
            start += stride;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_data::sequences::sequences;

    fn split(lengths: &[usize]) -> TokenizedSplit {
        let mut split = TokenizedSplit { offsets: vec![0], ..TokenizedSplit::default() };
        for (index, length) in lengths.iter().enumerate() {
            split.ids.extend(&(0..*length as u32).collect::<Vec<u32>>());
            split.offsets.push(split.ids.len() as u64);
            split.names.push(index.to_string());
        }
        split
    }

    #[test]
    fn every_token_is_predicted_once_with_the_promised_left_context() {
        let split = split(&[2, 17, 40, 33, 9]);
        for (context, stride) in [(8, 8), (8, 3), (8, 1), (16, 5), (64, 64), (64, 7)] {
            let mut seen = vec![0; split.ids.len()];
            for row in windows(&split, context, stride) {
                assert!(row.to <= context && row.to == row.sequence.targets);
                for target in row.from..row.to {
                    let at = row.sequence.start + target + 1;
                    seen[at] += 1;
                    let before = at - split.offsets[row.sequence.document] as usize;
                    assert!(target + 1 >= before.min(context - stride + 1), "{} of {before} tokens", target + 1);
                }
            }
            let firsts: Vec<usize> = split.offsets.iter().map(|&o| o as usize).collect();
            assert!(seen.iter().enumerate().all(|(at, &times)| times == i32::from(!firsts.contains(&at))));
        }
    }

    #[test]
    fn windows_without_overlap_are_the_training_sequences() {
        let split = split(&[2, 17, 40]);
        let whole: Vec<Row> = sequences(&split, 8).into_iter().map(Row::whole).collect();
        assert_eq!(windows(&split, 8, 8), whole);
    }
}
