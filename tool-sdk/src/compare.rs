//! Comparing bytes, eight at once. The C library of a component's target goes byte by byte, and keys of a store have long beginnings in common: a quarter of the time of a
//! tool that works with many keys went there.
#![cfg_attr(target_arch = "wasm32", allow(unsafe_code, reason = "the C library's own name, and its pointers"))]

/// Bytes that are compared at once.
const WORD: usize = size_of::<u64>();

/// The order of two byte strings of the same length, as C has it: below 0, 0, or above.
fn compare(a: &[u8], b: &[u8]) -> i32 {
    let (a_words, a_rest) = a.as_chunks::<WORD>();
    let (b_words, b_rest) = b.as_chunks::<WORD>();
    for (a, b) in a_words.iter().zip(b_words) {
        // As numbers, since a comparison of bytes would come here again.
        if u64::from_ne_bytes(*a) != u64::from_ne_bytes(*b) {
            // The first byte is the one that counts most.
            return if u64::from_be_bytes(*a) < u64::from_be_bytes(*b) { -1 } else { 1 };
        }
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        if a != b {
            return i32::from(*a) - i32::from(*b);
        }
    }
    0
}

/// What compilers call for `<`, `==` and `cmp` of bytes and texts.
///
/// # Safety
/// Both pointers are to `bytes` bytes, as in C.
#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    if bytes == 0 {
        return 0;
    }
    // SAFETY: the caller's word is the same.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, bytes), std::slice::from_raw_parts(b, bytes)) };
    compare(a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::compare;

    proptest! {
        #[test]
        fn the_order_is_that_of_bytes(mut a in prop::collection::vec(0_u8..3, 0..40), at in any::<prop::sample::Index>(), byte: u8) {
            let b = a.clone();
            prop_assert_eq!(compare(&a, &b), 0);
            if !a.is_empty() {
                let place = at.index(a.len());
                a[place] = byte;
            }
            prop_assert_eq!(compare(&a, &b).cmp(&0), a.cmp(&b));
        }
    }
}
