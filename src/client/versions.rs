//! Which version of each API a connection uses.

use kafka_protocol::{
    messages::{ApiKey, ApiVersionsResponse},
    protocol::VersionRange,
};

/// What a broker said it serves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    /// Sorted by API key.
    ranges: Vec<(i16, VersionRange)>,
}

impl Versions {
    /// The newest version in `ours` that the broker serves too.
    pub(crate) fn choose(&self, api: ApiKey, ours: VersionRange) -> Option<i16> {
        let found = self.ranges.binary_search_by_key(&(api as i16), |(key, _)| *key).ok()?;
        let shared = self.ranges[found].1.intersect(&ours);
        (!shared.is_empty()).then_some(shared.max)
    }
}

impl From<&ApiVersionsResponse> for Versions {
    fn from(response: &ApiVersionsResponse) -> Self {
        let mut ranges: Vec<_> = response
            .api_keys
            .iter()
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        ranges.sort_unstable_by_key(|(key, _)| *key);
        Self { ranges }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;

    use super::*;

    #[test]
    fn the_newest_shared_version_is_chosen() {
        let served = |key: i16, min, max| {
            ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
        };
        let response = ApiVersionsResponse::default().with_api_keys(vec![
            served(3, 0, 13),
            served(0, 3, 5),
            served(1, 16, 18),
        ]);
        let versions = Versions::from(&response);
        let ours = |min, max| VersionRange { min, max };
        assert_eq!(versions.choose(ApiKey::Metadata, ours(0, 12)), Some(12));
        assert_eq!(versions.choose(ApiKey::Produce, ours(3, 13)), Some(5));
        assert_eq!(versions.choose(ApiKey::Fetch, ours(4, 12)), None);
        assert_eq!(versions.choose(ApiKey::Heartbeat, ours(0, 4)), None);
    }
}
