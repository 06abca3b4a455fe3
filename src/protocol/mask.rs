//! Unmasking (RFC 6455 section 5.3): byte `i` of a client's payload is XORed with byte `i mod 4` of its key.
//!
//! The widest implementation that the processor has is chosen once, at the first use. Each is held
//! against a one-line twin by the tests below.

use std::sync::OnceLock;

/// Below this many bytes the call through a pointer and the wide registers cost more than they save.
const SMALL_BYTES: usize = 64;

/// An instruction set to unmask with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Words of 8 bytes, on every processor.
    Scalar,
    /// 16 bytes at a time, on every x86-64.
    Sse2,
    /// 32 bytes at a time, on x86-64 since about 2013.
    Avx2,
    /// 64 bytes at a time, AVX-512 F and BW.
    Avx512,
    /// 16 bytes at a time, on every aarch64.
    Neon,
}

impl Kind {
    /// Every kind, the narrowest first within an architecture.
    pub const ALL: [Kind; 5] = [Kind::Scalar, Kind::Sse2, Kind::Avx2, Kind::Avx512, Kind::Neon];

    /// The name in the start banner.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Scalar => "scalar",
            Kind::Sse2 => "sse2",
            Kind::Avx2 => "avx2",
            Kind::Avx512 => "avx512",
            Kind::Neon => "neon",
        }
    }
}

/// Unmasks for one [`Kind`]; whoever holds one runs on a processor that has its instructions.
#[derive(Clone, Copy, Debug)]
pub struct Implementation {
    kind: Kind,
    xor: Xor,
}

/// `xor(source, target, len, key)` writes `len` bytes of `source`, XORed with the repeated bytes of `key`
/// in memory order, to `target`.
///
/// # Safety
///
/// - `source` is valid for reads and `target` for writes of `len` bytes.
/// - `source == target`, or the two do not overlap.
/// - The processor has the instructions that the function was compiled for.
type Xor = unsafe fn(source: *const u8, target: *mut u8, len: usize, key: u32);

impl Implementation {
    /// The implementation of `kind`, if this processor has its instructions.
    pub fn new(kind: Kind) -> Option<Self> {
        let xor: Xor = match kind {
            Kind::Scalar => xor_scalar,
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => x86_64::xor_sse2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 if is_x86_feature_detected!("avx2") => x86_64::xor_avx2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") => {
                x86_64::xor_avx512
            }
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => aarch64::xor_neon,
            _ => return None,
        };
        Some(Implementation { kind, xor })
    }

    /// Every implementation that runs on this processor, the fastest last.
    pub fn available() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().filter_map(Self::new)
    }

    /// The implementation that [`unmask`] and [`append_unmasked`] use.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Implementation> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::new(detect()).expect("what was detected is available"))
    }

    /// Its kind.
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// As [`unmask`], by this implementation whatever the length.
    pub fn unmask(self, bytes: &mut [u8], key: [u8; 4], offset: usize) {
        let target = bytes.as_mut_ptr();
        // SAFETY: both pointers are the one slice, valid for its length; holding an `Implementation`
        // proves that the processor has the instructions.
        unsafe { (self.xor)(target, target, bytes.len(), rotate(key, offset)) }
    }

    /// As [`append_unmasked`], by this implementation whatever the length.
    pub fn append_unmasked(self, source: &[u8], key: [u8; 4], offset: usize, out: &mut Vec<u8>) {
        // SAFETY: holding an `Implementation` proves that the processor has the instructions.
        unsafe { append_with(self.xor, source, rotate(key, offset), out) }
    }
}

/// The widest kind that this processor has.
pub fn detect() -> Kind {
    Implementation::available().last().expect("the scalar one is always available").kind
}

/// The kind in use, for the start banner.
pub fn kind() -> Kind {
    Implementation::chosen().kind
}

/// Unmasks `bytes`, which begin at byte `offset` of their payload, in place.
#[inline]
pub fn unmask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    if bytes.len() < SMALL_BYTES {
        let target = bytes.as_mut_ptr();
        // SAFETY: both pointers are the one slice, valid for its length.
        unsafe { xor_words(target, target, bytes.len(), rotate(key, offset)) }
    } else {
        Implementation::chosen().unmask(bytes, key, offset);
    }
}

/// Appends `source`, which begins at byte `offset` of its payload, to `out`, unmasked.
#[inline]
pub fn append_unmasked(source: &[u8], key: [u8; 4], offset: usize, out: &mut Vec<u8>) {
    if source.len() < SMALL_BYTES {
        // SAFETY: the scalar implementation needs no special instructions.
        unsafe { append_with(xor_scalar, source, rotate(key, offset), out) }
    } else {
        Implementation::chosen().append_unmasked(source, key, offset, out);
    }
}

/// The key for bytes from `offset` on, its bytes in memory order.
#[inline]
fn rotate(key: [u8; 4], offset: usize) -> u32 {
    u32::from_le_bytes(key).rotate_right(8 * (offset as u32 % 4)).to_le()
}

/// Appends `source` to `out` through `xor`.
///
/// # Safety
///
/// The processor has the instructions that `xor` was compiled for.
#[inline]
unsafe fn append_with(xor: Xor, source: &[u8], key: u32, out: &mut Vec<u8>) {
    out.reserve(source.len());
    let target = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: `reserve` left room for `source.len()` bytes at `target`; `out` is borrowed exclusively, so
    // `source` is no part of it; the caller vouches for the instructions. Then those bytes are written.
    unsafe {
        xor(source.as_ptr(), target, source.len(), key);
        out.set_len(out.len() + source.len());
    }
}

/// [`xor_words`] as something to point at.
///
/// # Safety
///
/// As [`Xor`]; no special instructions.
unsafe fn xor_scalar(source: *const u8, target: *mut u8, len: usize, key: u32) {
    // SAFETY: the caller's contract is the same.
    unsafe { xor_words(source, target, len, key) }
}

/// Eight bytes at a time, then four, then one.
///
/// # Safety
///
/// As [`Xor`]; no special instructions.
#[inline(always)]
unsafe fn xor_words(source: *const u8, target: *mut u8, len: usize, key: u32) {
    let wide = u64::from(key) << 32 | u64::from(key);
    let mut at = 0;
    while len - at >= 8 {
        // SAFETY: `at + 8 <= len`, and both are valid for `len` bytes; the accesses are unaligned ones.
        unsafe {
            let word = source.add(at).cast::<u64>().read_unaligned();
            target.add(at).cast::<u64>().write_unaligned(word ^ wide);
        }
        at += 8;
    }
    if len - at >= 4 {
        // SAFETY: `at + 4 <= len`, as above.
        unsafe {
            let word = source.add(at).cast::<u32>().read_unaligned();
            target.add(at).cast::<u32>().write_unaligned(word ^ key);
        }
        at += 4;
    }
    // `at` is a multiple of 4, so the key is not rotated here.
    for (index, key) in key.to_ne_bytes().into_iter().take(len - at).enumerate() {
        // SAFETY: `at + index < len`, as above.
        unsafe { target.add(at + index).write(source.add(at + index).read() ^ key) };
    }
}

/// A register of bytes.
///
/// # Safety
///
/// `BYTES` is the register's size and a multiple of 4.
unsafe trait Vector: Copy {
    const BYTES: usize;

    /// The four bytes of `key` over and over.
    ///
    /// # Safety
    ///
    /// The processor has the register's instructions.
    unsafe fn repeat(key: u32) -> Self;

    /// XORs `BYTES` bytes of `source` with `self` into `target`.
    ///
    /// # Safety
    ///
    /// `source` is valid for reads and `target` for writes of `BYTES` bytes, at any alignment; the
    /// processor has the register's instructions.
    unsafe fn xor(self, source: *const u8, target: *mut u8);
}

/// Four registers at a time, then one, then [`xor_words`].
///
/// # Safety
///
/// As [`Xor`], and the processor has the instructions of `V`.
#[inline(always)]
unsafe fn xor_vectors<V: Vector>(source: *const u8, target: *mut u8, len: usize, key: u32) {
    let mut at = 0;
    // SAFETY: every access ends at or before `at + n <= len`, where both are valid; `at` is a multiple of
    // 4, so the key is not rotated; the caller vouches for the instructions.
    unsafe {
        let wide = V::repeat(key);
        while len - at >= 4 * V::BYTES {
            wide.xor(source.add(at), target.add(at));
            wide.xor(source.add(at + V::BYTES), target.add(at + V::BYTES));
            wide.xor(source.add(at + 2 * V::BYTES), target.add(at + 2 * V::BYTES));
            wide.xor(source.add(at + 3 * V::BYTES), target.add(at + 3 * V::BYTES));
            at += 4 * V::BYTES;
        }
        while len - at >= V::BYTES {
            wide.xor(source.add(at), target.add(at));
            at += V::BYTES;
        }
        xor_words(source.add(at), target.add(at), len - at, key);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::{Vector, xor_vectors};
    use std::arch::x86_64::*;

    // SAFETY: 16 bytes.
    unsafe impl Vector for __m128i {
        const BYTES: usize = 16;

        #[inline(always)]
        unsafe fn repeat(key: u32) -> Self {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { _mm_set1_epi32(key as i32) }
        }

        #[inline(always)]
        unsafe fn xor(self, source: *const u8, target: *mut u8) {
            // SAFETY: the caller's contract; these loads and stores are unaligned ones.
            unsafe { _mm_storeu_si128(target.cast(), _mm_xor_si128(_mm_loadu_si128(source.cast()), self)) }
        }
    }

    // SAFETY: 32 bytes.
    unsafe impl Vector for __m256i {
        const BYTES: usize = 32;

        #[inline(always)]
        unsafe fn repeat(key: u32) -> Self {
            // SAFETY: the caller vouches for AVX2.
            unsafe { _mm256_set1_epi32(key as i32) }
        }

        #[inline(always)]
        unsafe fn xor(self, source: *const u8, target: *mut u8) {
            // SAFETY: the caller's contract; these loads and stores are unaligned ones.
            unsafe {
                _mm256_storeu_si256(target.cast(), _mm256_xor_si256(_mm256_loadu_si256(source.cast()), self))
            }
        }
    }

    // SAFETY: 64 bytes.
    unsafe impl Vector for __m512i {
        const BYTES: usize = 64;

        #[inline(always)]
        unsafe fn repeat(key: u32) -> Self {
            // SAFETY: the caller vouches for AVX-512 F.
            unsafe { _mm512_set1_epi32(key as i32) }
        }

        #[inline(always)]
        unsafe fn xor(self, source: *const u8, target: *mut u8) {
            // SAFETY: the caller's contract; these loads and stores are unaligned ones.
            unsafe {
                _mm512_storeu_si512(target.cast(), _mm512_xor_si512(_mm512_loadu_si512(source.cast()), self))
            }
        }
    }

    /// # Safety
    ///
    /// As [`super::Xor`]; SSE2 is part of x86-64.
    pub(super) unsafe fn xor_sse2(source: *const u8, target: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller's contract is the same.
        unsafe { xor_vectors::<__m128i>(source, target, len, key) }
    }

    /// # Safety
    ///
    /// As [`super::Xor`], on a processor with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn xor_avx2(source: *const u8, target: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller's contract is the same.
        unsafe { xor_vectors::<__m256i>(source, target, len, key) }
    }

    /// # Safety
    ///
    /// As [`super::Xor`], on a processor with AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn xor_avx512(source: *const u8, target: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller's contract; what is left after whole registers is one masked access, which
        // touches only the bytes whose bit is set.
        unsafe {
            let whole = len - len % 64;
            xor_vectors::<__m512i>(source, target, whole, key);
            if whole < len {
                let mask = (1 << (len - whole)) - 1;
                let bytes = _mm512_maskz_loadu_epi8(mask, source.add(whole).cast());
                let bytes = _mm512_xor_si512(bytes, _mm512_set1_epi32(key as i32));
                _mm512_mask_storeu_epi8(target.add(whole).cast(), mask, bytes);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::{Vector, xor_vectors};
    use std::arch::aarch64::*;

    // SAFETY: 16 bytes.
    unsafe impl Vector for uint8x16_t {
        const BYTES: usize = 16;

        #[inline(always)]
        unsafe fn repeat(key: u32) -> Self {
            // SAFETY: NEON is part of aarch64.
            unsafe { vreinterpretq_u8_u32(vdupq_n_u32(key)) }
        }

        #[inline(always)]
        unsafe fn xor(self, source: *const u8, target: *mut u8) {
            // SAFETY: the caller's contract; these loads and stores need no alignment.
            unsafe { vst1q_u8(target, veorq_u8(vld1q_u8(source), self)) }
        }
    }

    /// # Safety
    ///
    /// As [`super::Xor`]; NEON is part of aarch64.
    pub(super) unsafe fn xor_neon(source: *const u8, target: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller's contract is the same.
        unsafe { xor_vectors::<uint8x16_t>(source, target, len, key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::RngSeed};

    /// The definition.
    fn naive(bytes: &[u8], key: [u8; 4], offset: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(index, byte)| byte ^ key[(offset + index) % 4]).collect()
    }

    /// Holds every implementation, and the dispatch, to [`naive`] on the `len` bytes at `start` of a
    /// larger buffer, whose other bytes must not change.
    fn check(buffer: &[u8], start: usize, len: usize, key: [u8; 4], offset: usize) {
        let range = start..start + len;
        let mut expected = buffer.to_vec();
        expected[range.clone()].copy_from_slice(&naive(&buffer[range.clone()], key, offset));

        let mut bytes = buffer.to_vec();
        unmask(&mut bytes[range.clone()], key, offset);
        assert_eq!(bytes, expected, "dispatch, {range:?}, offset {offset}");

        let mut appended = buffer[..start].to_vec();
        append_unmasked(&buffer[range.clone()], key, offset, &mut appended);
        assert_eq!(
            appended[start..],
            expected[range.clone()],
            "dispatch appends, {range:?}, offset {offset}"
        );
        assert_eq!(appended[..start], buffer[..start]);

        for implementation in Implementation::available() {
            let name = implementation.kind().as_str();
            let mut bytes = buffer.to_vec();
            implementation.unmask(&mut bytes[range.clone()], key, offset);
            assert_eq!(bytes, expected, "{name}, {range:?}, offset {offset}");

            let mut appended = buffer[..start].to_vec();
            implementation.append_unmasked(&buffer[range.clone()], key, offset, &mut appended);
            assert_eq!(appended[start..], expected[range.clone()], "{name} appends, {range:?}");
            assert_eq!(appended[..start], buffer[..start]);
        }
    }

    #[test]
    fn every_length_up_to_several_registers_is_unmasked_exactly() {
        let buffer: Vec<u8> = (0..700_u32).map(|index| (index * 7 + 3) as u8).collect();
        for len in 0..600 {
            check(&buffer, len % 67, len, [0x37, 0xfa, 0x21, 0x3d], len % 5);
        }
    }

    #[test]
    fn the_example_of_rfc_6455_reads_hello() {
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&bytes, b"Hello");
    }

    #[test]
    fn the_widest_available_kind_is_chosen() {
        assert_eq!(kind(), detect());
        assert!(Implementation::new(kind()).is_some());
        assert!(Implementation::available().any(|implementation| implementation.kind() == Kind::Scalar));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500,
            rng_seed: RngSeed::Fixed(0x6d61_736b),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_implementation_agrees_with_the_definition(
            buffer in prop::collection::vec(any::<u8>(), 1..2048),
            start in any::<prop::sample::Index>(),
            end in any::<prop::sample::Index>(),
            key in any::<[u8; 4]>(),
            offset in any::<usize>(),
        ) {
            let (a, b) = (start.index(buffer.len() + 1), end.index(buffer.len() + 1));
            // The definition adds the index to the offset.
            check(&buffer, a.min(b), a.abs_diff(b), key, offset / 2);
        }

        #[test]
        fn unmasking_piece_by_piece_equals_unmasking_at_once(
            bytes in prop::collection::vec(any::<u8>(), 0..512),
            split in any::<prop::sample::Index>(),
            key in any::<[u8; 4]>(),
        ) {
            let split = split.index(bytes.len() + 1);
            let expected = naive(&bytes, key, 0);
            let mut pieces = bytes.clone();
            unmask(&mut pieces[..split], key, 0);
            unmask(&mut pieces[split..], key, split);
            prop_assert_eq!(pieces, expected);
        }
    }
}
