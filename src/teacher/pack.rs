//! Packs the targets of a sequence into bits: ids in as many bits as the vocabulary needs, logprobs as differences from one to
//! the next lower.
//!
//! The logprobs of a token are sorted, so a difference is a small number that shrinks with the rank. It is written in units of
//! [`UNIT`] as an adaptive Rice code (Rice & Plaunt 1971; the parameter follows the running mean, as in JPEG-LS). That takes
//! about 12 bits, rather than the 16 of a half-precision number, which would be off by 2⁻⁹ near ln p = −10. Absolute values are
//! rounded, not differences, so errors do not accumulate.

use anyhow::{Result, ensure};

/// Nats per unit: a logprob is off by at most half a unit.
pub const UNIT: f64 = 1.0 / (1 << 15) as f64;
/// Represents −∞, and everything more than 2¹⁶ nats below 0.
const NEVER: u32 = u32::MAX;
/// A quotient of this length is an escape: the value follows in 32 bits.
const ESCAPE: u32 = 24;

/// Number of bits of an id below `vocab_size`.
pub fn id_bits(vocab_size: usize) -> u32 {
    usize::BITS - vocab_size.saturating_sub(1).leading_zeros()
}

/// Bits in the order they are written, least significant first, padded to whole bytes at the end.
#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
    pending: u64,
    filled: u32,
}

impl Writer {
    /// Writes the lowest `count` bits of `value`, at most 32.
    fn bits(&mut self, value: u32, count: u32) {
        self.pending |= u64::from(value) << self.filled;
        self.filled += count;
        while self.filled >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.filled -= 8;
        }
    }

    /// Writes `id` in `bits` bits.
    pub fn id(&mut self, id: u32, bits: u32) {
        self.bits(id, bits);
    }

    /// Writes the logprobs of one token, highest first.
    pub fn logprobs(&mut self, logprobs: impl IntoIterator<Item = f32>) {
        let (mut rice, mut before) = (Rice::default(), 0);
        for logprob in logprobs {
            let depth = depth(logprob);
            match depth {
                NEVER => self.escaped(NEVER),
                _ => {
                    let step = depth.saturating_sub(before);
                    let k = rice.parameter();
                    match step >> k {
                        quotient if quotient < ESCAPE => {
                            self.bits((1 << quotient) - 1, quotient + 1);
                            self.bits(step & ((1 << k) - 1), k);
                        }
                        _ => self.escaped(step),
                    }
                    rice.update(step);
                    before += step;
                }
            }
        }
    }

    fn escaped(&mut self, value: u32) {
        self.bits((1 << ESCAPE) - 1, ESCAPE);
        self.bits(value, 32);
    }

    /// Pads to a byte boundary; returns its offset.
    pub fn align(&mut self) -> u64 {
        if self.filled > 0 {
            self.bytes.push(self.pending as u8);
            (self.pending, self.filled) = (0, 0);
        }
        self.bytes.len() as u64
    }
}

/// Reads what a [`Writer`] wrote.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    pending: u64,
    filled: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, pending: 0, filled: 0 }
    }

    /// Fills the buffer to at least 32 bits, with zeros beyond the end.
    fn fill(&mut self) {
        while self.filled < 32 {
            self.pending |= u64::from(self.bytes.get(self.at).copied().unwrap_or(0)) << self.filled;
            self.at += 1;
            self.filled += 8;
        }
    }

    fn bits(&mut self, count: u32) -> u32 {
        self.fill();
        let value = (self.pending & ((1u64 << count) - 1)) as u32;
        self.pending >>= count;
        self.filled -= count;
        value
    }

    /// Reads an id of `bits` bits.
    pub fn id(&mut self, bits: u32) -> u32 {
        self.bits(bits)
    }

    /// Reads the `count` logprobs of one token.
    pub fn logprobs(&mut self, count: usize, mut each: impl FnMut(f32)) {
        let (mut rice, mut depth) = (Rice::default(), 0u32);
        for _ in 0..count {
            self.fill();
            let quotient = self.pending.trailing_ones().min(ESCAPE);
            let step = if quotient == ESCAPE {
                self.bits(ESCAPE);
                self.bits(32)
            } else {
                self.bits(quotient + 1);
                let k = rice.parameter();
                quotient << k | self.bits(k)
            };
            if step == NEVER {
                each(f32::NEG_INFINITY);
                continue;
            }
            rice.update(step);
            depth = depth.saturating_add(step);
            each((f64::from(depth) * -UNIT) as f32);
        }
    }

    /// An error if more was read than there was.
    pub fn check(&self) -> Result<()> {
        ensure!(self.at - (self.filled / 8) as usize <= self.bytes.len(), "the packed targets end early");
        Ok(())
    }
}

/// A logprob as units below 0.
fn depth(logprob: f32) -> u32 {
    let units = (f64::from(logprob) / -UNIT).round();
    if units < f64::from(1u32 << 31) { units.max(0.0) as u32 } else { NEVER }
}

/// The parameter of the next Rice code, from a running mean of the differences so far.
struct Rice(u64);

impl Default for Rice {
    /// Half a nat: the first differences of a token are its largest.
    fn default() -> Self {
        Self(4 << 14)
    }
}

impl Rice {
    /// About log₂ of the mean.
    fn parameter(&self) -> u32 {
        (63 - (self.0 / 4).max(1).leading_zeros()).min(24)
    }

    fn update(&mut self, step: u32) {
        self.0 = self.0 - self.0 / 4 + u64::from(step);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_targets_are_read_back_within_half_a_unit(
            tokens in prop::collection::vec(prop::collection::vec((-40f32..0.0, any::<u32>()), 0..70), 0..9),
            bits in 1u32..=32,
        ) {
            let mut writer = Writer::default();
            let mut expected = Vec::new();
            for token in &tokens {
                let ids: Vec<u32> = token.iter().map(|(_, id)| (u64::from(*id) & ((1u64 << bits) - 1)) as u32).collect();
                let mut logprobs: Vec<f32> = token.iter().map(|(logprob, _)| *logprob).collect();
                logprobs.sort_by(|a, b| b.total_cmp(a));
                if let Some(last) = logprobs.last_mut() { *last = f32::NEG_INFINITY; }
                ids.iter().for_each(|&id| writer.id(id, bits));
                writer.logprobs(logprobs.iter().copied());
                expected.push((ids, logprobs));
            }
            writer.align();
            let mut reader = Reader::new(&writer.bytes);
            for (ids, logprobs) in expected {
                prop_assert_eq!(ids.iter().map(|_| reader.id(bits)).collect::<Vec<_>>(), ids);
                let mut read = Vec::new();
                reader.logprobs(logprobs.len(), |logprob| read.push(logprob));
                for (read, written) in read.into_iter().zip(logprobs) {
                    let off = f64::from((read - written).abs());
                    prop_assert!(read == written || off <= UNIT / 2.0 + 4e-6, "{} for {}", read, written);
                }
            }
            prop_assert!(reader.check().is_ok());
        }
    }

    #[test]
    fn numbers_outside_the_range_of_logprobs_are_clamped() {
        let mut writer = Writer::default();
        writer.logprobs([1e-6, -0.0, -1e4, -1e30, f32::NEG_INFINITY]);
        writer.align();
        let mut read = Vec::new();
        Reader::new(&writer.bytes).logprobs(5, |logprob| read.push(logprob));
        assert_eq!(read, [0.0, 0.0, -1e4, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn ids_have_the_bits_of_the_largest_id() {
        assert_eq!([2, 2048, 2049, 49_152, 65_536, 151_936].map(id_bits), [1, 11, 12, 16, 16, 18]);
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let mut writer = Writer::default();
        (0..10).for_each(|_| writer.id(7, 16));
        writer.align();
        let mut reader = Reader::new(&writer.bytes[..19]);
        assert_eq!((0..9).map(|_| reader.id(16)).sum::<u32>(), 63);
        reader.id(16);
        assert!(reader.check().is_err());
    }
}
