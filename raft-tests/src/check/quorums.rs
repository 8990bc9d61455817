//! Who decides in a configuration, and whether two configurations could decide apart.

use std::collections::BTreeSet;

use ottla::quorum::Configuration;

/// Whether `peers` hold a majority of each half of the configuration.
pub(super) fn decides(configuration: &Configuration, peers: &BTreeSet<u64>) -> bool {
    let roles = &configuration.conf_state;
    has_majority(&roles.voters, peers)
        && (roles.voters_outgoing.is_empty() || has_majority(&roles.voters_outgoing, peers))
}

fn has_majority(voters: &[u64], peers: &BTreeSet<u64>) -> bool {
    voters.iter().filter(|id| peers.contains(id)).count() > voters.len() / 2
}

/// Whether every quorum of one shares a peer with every quorum of the other: they have a half in
/// common, but for one voter.
pub(super) fn overlap(one: &Configuration, other: &Configuration) -> bool {
    let halves = |configuration: &Configuration| -> Vec<BTreeSet<u64>> {
        let roles = &configuration.conf_state;
        [&roles.voters, &roles.voters_outgoing]
            .into_iter()
            .filter(|half| !half.is_empty())
            .map(|half| half.iter().copied().collect())
            .collect()
    };
    let (ours, theirs) = (halves(one), halves(other));
    ours.iter().any(|a| theirs.iter().any(|b| a.symmetric_difference(b).count() <= 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(voters: &[u64], outgoing: &[u64]) -> Configuration {
        let mut configuration = Configuration::default();
        configuration.conf_state.set_voters(voters.to_vec());
        configuration.conf_state.set_voters_outgoing(outgoing.to_vec());
        configuration
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let both = joint(&[1, 2, 3], &[3, 4, 5]);
        assert!(decides(&both, &BTreeSet::from([1, 3, 4])));
        assert!(!decides(&both, &BTreeSet::from([1, 2, 3])));
        assert!(!decides(&joint(&[1, 2], &[]), &BTreeSet::from([1])));
    }

    #[test]
    fn only_single_and_joint_steps_overlap() {
        let (abc, cde) = (joint(&[1, 2, 3], &[]), joint(&[3, 4, 5], &[]));
        assert!(!overlap(&abc, &cde));
        assert!(!overlap(&abc, &joint(&[1, 2, 3, 4, 5], &[])));
        assert!(overlap(&abc, &joint(&[1, 2, 3, 4], &[])));
        assert!(overlap(&abc, &joint(&[3, 4, 5], &[1, 2, 3])));
        assert!(overlap(&joint(&[3, 4, 5], &[1, 2, 3]), &cde));
    }
}
