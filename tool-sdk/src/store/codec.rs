//! Typed keys as bytes, in the same order.

/// A key of type `K`, owned or borrowed: a `&str` stands for a `String`, a `(&str, u64)` for a `(String, u64)`.
pub trait KeyOf<K = Self> {
    /// Appends the key's bytes.
    fn encode(&self, bytes: &mut Vec<u8>);
}

/// A type whose values are keys, ordered as the values are: integers, `bool`, text, bytes, and tuples of these.
pub trait Key: KeyOf<Self> + Sized {
    /// Takes a key off the front of `bytes`; none if there is no such key.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

/// The first parts of a key of type `K`: `()`, `(a,)` and `(a, b)` for an `(A, B)`, or the whole key.
pub trait Prefix<K> {
    /// Appends the bytes with which such keys begin.
    fn encode_prefix(&self, bytes: &mut Vec<u8>);
}

impl<K, Q: KeyOf<K> + ?Sized> KeyOf<K> for &Q {
    fn encode(&self, bytes: &mut Vec<u8>) {
        (**self).encode(bytes);
    }
}

impl<K, Q: Prefix<K> + ?Sized> Prefix<K> for &Q {
    fn encode_prefix(&self, bytes: &mut Vec<u8>) {
        (**self).encode_prefix(bytes);
    }
}

/// A key that has no parts is its own prefix.
macro_rules! whole_prefix {
    ($($borrowed:ty => $key:ty),*) => {$(
        impl Prefix<$key> for $borrowed {
            fn encode_prefix(&self, bytes: &mut Vec<u8>) {
                KeyOf::<$key>::encode(self, bytes);
            }
        }
    )*};
}

whole_prefix! { bool => bool, str => String, String => String, [u8] => Vec<u8>, Vec<u8> => Vec<u8> }

macro_rules! integer_keys {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        whole_prefix! { $unsigned => $unsigned, $signed => $signed }

        impl KeyOf for $unsigned {
            fn encode(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl Key for $unsigned {
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*first))
            }
        }

        impl KeyOf for $signed {
            fn encode(&self, bytes: &mut Vec<u8>) {
                // The sign's bit turned over: negative numbers come first.
                (self.cast_unsigned() ^ (1 << (<$unsigned>::BITS - 1))).encode(bytes);
            }
        }

        impl Key for $signed {
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some((<$unsigned>::decode(bytes)? ^ (1 << (<$unsigned>::BITS - 1))).cast_signed())
            }
        }
    )*};
}

integer_keys! { u8, i8; u16, i16; u32, i32; u64, i64; }

impl KeyOf for bool {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }
}

impl Key for bool {
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

impl KeyOf<Vec<u8>> for [u8] {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self, bytes);
    }
}

impl KeyOf for Vec<u8> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self, bytes);
    }
}

impl Key for Vec<u8> {
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
    if key.contains(&0) {
        for (number, part) in key.split(|byte| *byte == 0).enumerate() {
            if number > 0 {
                bytes.extend_from_slice(&[0, 255]);
            }
            bytes.extend_from_slice(part);
        }
    } else {
        // As most keys are: copied at once, which is faster than looking at each byte.
        bytes.extend_from_slice(key);
    }
    bytes.extend_from_slice(&END);
}

impl KeyOf<String> for str {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), bytes);
    }
}

impl KeyOf for String {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), bytes);
    }
}

impl Key for String {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::decode(bytes)?).ok()
    }
}

macro_rules! tuple_keys {
    ($(($($name:ident $borrowed:ident),*);)*) => {$(
        impl<$($name, $borrowed: KeyOf<$name>),*> KeyOf<($($name,)*)> for ($($borrowed,)*) {
            #[allow(non_snake_case, unused_variables, reason = "one name for type and value; the empty tuple has neither")]
            fn encode(&self, bytes: &mut Vec<u8>) {
                let ($($borrowed,)*) = self;
                $($borrowed.encode(bytes);)*
            }
        }

        impl<$($name: Key),*> Key for ($($name,)*) {
            #[allow(unused_variables, reason = "the empty tuple reads nothing")]
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::decode(bytes)?,)*))
            }
        }
    )*};
}

tuple_keys! { (); (A QA); (A QA, B QB); (A QA, B QB, C QC); (A QA, B QB, C QC, D QD); }

impl<K> Prefix<K> for () {
    fn encode_prefix(&self, _bytes: &mut Vec<u8>) {}
}

macro_rules! tuple_prefixes {
    ($(($($name:ident $borrowed:ident),*) of ($($rest:ident),*);)*) => {$(
        impl<$($name, $borrowed: KeyOf<$name>,)* $($rest),*> Prefix<($($name,)* $($rest,)*)> for ($($borrowed,)*) {
            #[allow(non_snake_case, reason = "one name for type and value")]
            fn encode_prefix(&self, bytes: &mut Vec<u8>) {
                let ($($borrowed,)*) = self;
                $($borrowed.encode(bytes);)*
            }
        }
    )*};
}

tuple_prefixes! {
    (A QA) of (); (A QA) of (B); (A QA) of (B, C); (A QA) of (B, C, D);
    (A QA, B QB) of (); (A QA, B QB) of (C); (A QA, B QB) of (C, D);
    (A QA, B QB, C QC) of (); (A QA, B QB, C QC) of (D);
    (A QA, B QB, C QC, D QD) of ();
}

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
