//! The state machine of the simulation: keys and values, and a digest of them.

use std::{collections::BTreeMap, hash::BuildHasher as _};

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

/// A payload sets one key: the bytes up to the first '=' name it; no value removes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kv {
    pairs: BTreeMap<Bytes, Bytes>,
    /// Of all pairs, whatever their order of arrival.
    digest: u64,
}

/// A digest that is the same in every run.
pub(crate) fn digest_of(value: impl std::hash::Hash) -> u64 {
    FxBuildHasher.hash_one(value)
}

impl Kv {
    pub(crate) fn load(pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> Self {
        let mut kv = Self::default();
        for (key, value) in pairs {
            kv.set(key, Some(value));
        }
        kv
    }

    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn apply(&mut self, payload: &Bytes) -> Option<(Bytes, Option<Bytes>)> {
        let at = payload.iter().position(|b| *b == b'=')?;
        let (key, value) = (payload.slice(..at), payload.slice(at + 1..));
        let value = Some(value).filter(|v| !v.is_empty());
        self.set(key.clone(), value.clone());
        Some((key, value))
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let old = match &value {
            Some(value) => self.pairs.insert(key.clone(), value.clone()),
            None => self.pairs.remove(&key),
        };
        if let Some(old) = old {
            self.digest = self.digest.wrapping_sub(digest_of((&key, old)));
        }
        if let Some(value) = value {
            self.digest = self.digest.wrapping_add(digest_of((&key, value)));
        }
    }
}
