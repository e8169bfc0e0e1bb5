//! Typed keys as bytes, in the same order.

/// A type whose values are keys, ordered as the values are: integers, `bool`, text, bytes, and tuples of these.
pub trait Key: Sized {
    /// Appends the key's bytes.
    fn encode(&self, bytes: &mut Vec<u8>);

    /// Takes a key off the front of `bytes`; none if there is no such key.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! integer_keys {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        impl Key for $unsigned {
            fn encode(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*first))
            }
        }

        impl Key for $signed {
            fn encode(&self, bytes: &mut Vec<u8>) {
                // The sign's bit turned over: negative numbers come first.
                (self.cast_unsigned() ^ (1 << (<$unsigned>::BITS - 1))).encode(bytes);
            }

            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some((<$unsigned>::decode(bytes)? ^ (1 << (<$unsigned>::BITS - 1))).cast_signed())
            }
        }
    )*};
}

integer_keys! { u8, i8; u16, i16; u32, i32; u64, i64; }

impl Key for bool {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        match u8::decode(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Ends a text or byte key. A zero byte within is followed by 255, so that the end is less than anything that goes on.
const END: [u8; 2] = [0, 0];

impl Key for Vec<u8> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self, bytes);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut decoded = Self::new();
        loop {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            if *first != 0 {
                decoded.push(*first);
                continue;
            }
            let (second, rest) = bytes.split_first()?;
            *bytes = rest;
            match second {
                0 => return Some(decoded),
                255 => decoded.push(0),
                _ => return None,
            }
        }
    }
}

pub(super) fn encode_bytes(key: &[u8], bytes: &mut Vec<u8>) {
    for byte in key {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(255);
        }
    }
    bytes.extend_from_slice(&END);
}

impl Key for String {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), bytes);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::decode(bytes)?).ok()
    }
}

macro_rules! tuple_keys {
    ($(($($name:ident),*);)*) => {$(
        impl<$($name: Key),*> Key for ($($name,)*) {
            #[allow(non_snake_case, unused_variables, reason = "one name for type and value; the empty tuple has neither")]
            fn encode(&self, bytes: &mut Vec<u8>) {
                let ($($name,)*) = self;
                $($name.encode(bytes);)*
            }

            #[allow(unused_variables, reason = "the empty tuple reads nothing")]
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::decode(bytes)?,)*))
            }
        }
    )*};
}

tuple_keys! { (); (A); (A, B); (A, B, C); (A, B, C, D); }

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(key: &impl Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        bytes
    }

    fn holds<K: Key + Ord + std::fmt::Debug + Clone>(mut keys: Vec<K>) {
        keys.sort();
        for pair in keys.windows(2) {
            assert!(encoded(&pair[0]) < encoded(&pair[1]), "{pair:?}");
        }
        for key in keys {
            assert_eq!(K::decode(&mut &*encoded(&key)), Some(key));
        }
    }

    #[test]
    fn keys_keep_their_order_and_come_back() {
        holds(vec![i64::MIN, -2, -1, 0, 1, i64::MAX]);
        holds(vec![0_u32, 1, 255, 256, u32::MAX]);
        holds(["", "a", "a\0", "a\0b", "a\u{1}", "aa", "b"].map(str::to_owned).into());
        holds(vec![vec![], vec![0], vec![0, 0], vec![0, 255], vec![1], vec![255]]);
        holds(vec![
            ("a".to_owned(), 2_u64, true),
            ("a".into(), 2, false),
            ("a\0".into(), 1, true),
            ("b".into(), 0, false),
        ]);
    }

    #[test]
    fn what_is_no_key_is_none() {
        assert_eq!(u64::decode(&mut &[1, 2][..]), None);
        assert_eq!(String::decode(&mut &[97][..]), None);
        assert_eq!(String::decode(&mut &[255, 0, 0][..]), None);
        assert_eq!(bool::decode(&mut &[2][..]), None);
        assert_eq!(Vec::<u8>::decode(&mut &[0, 7][..]), None);
    }
}
