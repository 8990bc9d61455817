//! What is set on one resource.

use std::sync::Arc;

use crate::config::Layer;

type Pair = (Arc<str>, Arc<str>);

/// The keys that are set on a resource, with their values.
///
/// A sorted list, which a change makes anew: a resource has few of them, but a million resources
/// may have some, and each would take a node of a tree, however empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(Arc<[Pair]>);

impl Overrides {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.find(key).ok().map(|at| &*self.0[at].1)
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The keys and their values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, key: Arc<str>, value: Arc<str>) {
        let (at, behind) = match self.find(&key) {
            Ok(at) => (at, at + 1),
            Err(at) => (at, at),
        };
        let pairs = self.0[..at].iter().cloned().chain([(key, value)]);
        self.0 = pairs.chain(self.0[behind..].iter().cloned()).collect();
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Ok(at) = self.find(key) {
            self.0 = self.0[..at].iter().chain(&self.0[at + 1..]).cloned().collect();
        }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| (**held).cmp(key))
    }
}

impl Layer for Overrides {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.keys().map(|key| &**key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in prop::collection::vec(("[a-d]", prop::option::of(0..9)), 0..20)) {
            let (mut overrides, mut model) = (Overrides::default(), BTreeMap::new());
            for (key, value) in steps {
                match value.map(|value: i32| value.to_string()) {
                    Some(value) => {
                        overrides.insert(key.as_str().into(), value.as_str().into());
                        model.insert(key, value);
                    }
                    None => {
                        overrides.remove(&key);
                        model.remove(&key);
                    }
                }
                let pairs = model.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                prop_assert!(overrides.iter().eq(pairs));
                prop_assert!(model.iter().all(|(key, value)| overrides.get(key) == Some(value)));
                prop_assert_eq!(overrides.is_empty(), model.is_empty());
            }
            prop_assert_eq!(overrides.get("e"), None);
        }
    }
}
