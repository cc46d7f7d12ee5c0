//! Unmasking (RFC 6455 §5.3).

/// XORs `payload` with `key`, whose byte `phase % 4` meets the first byte of the payload.
pub fn unmask(payload: &mut [u8], mut key: [u8; 4], phase: usize) {
    key.rotate_left(phase % 4);
    // Sixteen bytes at a time is what the compiler turns into vector instructions, at any alignment.
    let wide = u128::from_ne_bytes([key; 4].as_flattened().try_into().unwrap_or_default());
    let (blocks, tail) = payload.as_chunks_mut::<16>();
    for block in blocks {
        *block = (u128::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (index, byte) in tail.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_split_equals_the_byte_at_a_time(
            payload in prop::collection::vec(any::<u8>(), 0..200), key: [u8; 4], cut: prop::sample::Index,
        ) {
            let expected: Vec<u8> = payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let cut = cut.index(payload.len() + 1);
            let mut unmasked = payload;
            let (front, back) = unmasked.split_at_mut(cut);
            unmask(front, key, 0);
            unmask(back, key, cut);
            prop_assert_eq!(unmasked, expected);
        }
    }
}
