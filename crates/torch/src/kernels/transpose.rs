//! Transposes matrices of 32-bit words by blocks that fit the vector registers.

#[cfg(target_arch = "x86_64")]
use super::simd::has_avx512;

/// Rows and columns of a block.
const BLOCK: usize = 16;

/// Writes the transpose of `from`, whose rows are `from_stride` apart, to `to`, whose rows are `to_stride` apart.
pub fn transpose_words(from: &[u32], from_stride: usize, [rows, columns]: [usize; 2], to: &mut [u32], to_stride: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from_stride >= columns && to_stride >= rows);
    assert!((rows - 1) * from_stride + columns <= from.len() && (columns - 1) * to_stride + rows <= to.len());
    let (whole_rows, whole_columns) = (rows / BLOCK * BLOCK, columns / BLOCK * BLOCK);
    for row in (0..whole_rows).step_by(BLOCK) {
        for column in (0..whole_columns).step_by(BLOCK) {
            let (from, to) = (&from[row * from_stride + column..], &mut to[column * to_stride + row..]);
            #[cfg(target_arch = "x86_64")]
            if has_avx512() {
                assert!(from.len() >= (BLOCK - 1) * from_stride + BLOCK && to.len() >= (BLOCK - 1) * to_stride + BLOCK);
                // SAFETY: the feature was detected, and both blocks lie within their slices.
                unsafe { block_avx512(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) };
                continue;
            }
            plain(from, from_stride, [BLOCK, BLOCK], to, to_stride);
        }
    }
    if whole_columns < columns {
        let (from, to) = (&from[whole_columns..], &mut to[whole_columns * to_stride..]);
        plain(from, from_stride, [rows, columns - whole_columns], to, to_stride);
    }
    if whole_rows < rows {
        plain(
            &from[whole_rows * from_stride..],
            from_stride,
            [rows - whole_rows, whole_columns],
            &mut to[whole_rows..],
            to_stride,
        );
    }
}

fn plain(from: &[u32], from_stride: usize, [rows, columns]: [usize; 2], to: &mut [u32], to_stride: usize) {
    for column in 0..columns {
        for (row, to) in to[column * to_stride..][..rows].iter_mut().enumerate() {
            *to = from[row * from_stride + column];
        }
    }
}

/// # Safety
/// The CPU has AVX-512; 16 rows of 16 words can be read and written at these strides.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn block_avx512(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    // SAFETY: promised by the caller.
    let rows: [__m512i; BLOCK] = std::array::from_fn(|row| unsafe { _mm512_loadu_si512(from.add(row * from_stride).cast()) });
    // Within each quarter of a register: pairs of words of neighbouring rows, then four words of four rows.
    let mut pairs = rows;
    for i in 0..BLOCK / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..BLOCK / 4 {
        for half in 0..2 {
            let (low, high) = (pairs[4 * i + half], pairs[4 * i + 2 + half]);
            fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(low, high);
            fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(low, high);
        }
    }
    // Then the quarters: `fours[4 i + c]` has, in quarter q, column 4 q + c of rows 4 i to 4 i + 3.
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
        for (first, [low, high]) in [(c, even), (4 + c, odd)] {
            // SAFETY: promised by the caller.
            unsafe {
                _mm512_storeu_si512(to.add(first * to_stride).cast(), _mm512_shuffle_i32x4::<0x88>(low, high));
                _mm512_storeu_si512(to.add((first + 8) * to_stride).cast(), _mm512_shuffle_i32x4::<0xdd>(low, high));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definition, for sizes below, at and beyond a block, with rows further apart than they are long.
    #[test]
    fn each_word_goes_to_its_place() {
        for (rows, columns) in [(1, 1), (16, 16), (5, 40), (33, 7), (64, 48), (50, 50)] {
            let (from_stride, to_stride) = (columns + 3, rows + 2);
            let from: Vec<u32> = (0..(rows * from_stride) as u32).collect();
            let mut to = vec![u32::MAX; columns * to_stride];
            transpose_words(&from, from_stride, [rows, columns], &mut to, to_stride);
            for column in 0..columns {
                for row in 0..to_stride {
                    let expected = if row < rows { from[row * from_stride + column] } else { u32::MAX };
                    assert_eq!(to[column * to_stride + row], expected, "{rows} × {columns}: {row}, {column}");
                }
            }
        }
    }
}
