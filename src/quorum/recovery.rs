//! A quorum of one survivor, after the majority of the voters is lost for good.
//!
//! Works on the store of a node that does not run. The survivor becomes the sole voter under a peer
//! id that the lost voters cannot have given to anybody, so that messages of the former quorum are
//! for nobody in the new one, and messages of its peers are refused. It keeps its image and every
//! entry after it: whether those were committed is not known any more, and an acknowledged change
//! may be among them. Changes of the configuration among them are blanked: they name lost peers.

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, EntryType, HardState};

use super::{
    identity::{Configuration, Identity, Member, next_life},
    store::{Loaded, Point, Recovered, Store, StoreError},
};

/// How far the term leaps, beyond the elections that the lost voters may have held. Only what
/// people see needs this: messages are told apart by their peers.
const TERMS_APART: u64 = 1_000;

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was never used.
    #[error("the metadata store was never used: there is nothing to recover from")]
    Unused,
    /// The node joined, and received nothing yet.
    #[error("this node has not received any of the cluster's metadata: recover from another one")]
    Empty,
    /// There is no majority to lose.
    #[error("this node is the only voter: start it")]
    SoleVoter,
    /// The text does not say what is to be lost.
    #[error("the confirmation does not fit what this node holds now; it would be {wanted:?}")]
    NotConfirmed {
        /// What to pass.
        wanted: String,
    },
}

/// What a survivor holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// Who it is.
    pub identity: Identity,
    /// Its term.
    pub term: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// Index of the last entry.
    pub last_index: u64,
    /// Last index that it knows to be committed.
    pub commit: u64,
    /// Last index in its image.
    pub applied: u64,
    /// The configuration that it knows.
    pub configuration: Configuration,
}

impl Survey {
    /// The text that confirms a recovery from what was shown, and from nothing else.
    #[must_use]
    pub fn confirmation(&self) -> String {
        let Self { identity, last_term, last_index, .. } = self;
        format!("lose-all-after-{last_index}-of-term-{last_term}-in-{}", identity.cluster_id)
    }

    /// Those that vote, of both halves of the configuration.
    #[must_use]
    pub fn voters(&self) -> Vec<(u64, Member)> {
        let members = self.configuration.members.iter().map(|(peer, member)| (*peer, *member));
        members.filter(|(peer, _)| self.configuration.is_voter(*peer)).collect()
    }
}

/// Looks at a survivor's store.
///
/// # Errors
/// Where nothing can be recovered from it.
pub fn survey(store: &dyn Store) -> Result<Survey, RecoverError> {
    look_at(&store.load()?)
}

fn look_at(loaded: &Loaded) -> Result<Survey, RecoverError> {
    let identity = loaded.identity.ok_or(RecoverError::Unused)?;
    let applied = &loaded.applied;
    if applied.index == 0 {
        return Err(RecoverError::Empty);
    }
    if applied.configuration.is_sole_voter(identity.peer_id) {
        return Err(RecoverError::SoleVoter);
    }
    let last = loaded.tail.last().map(|entry| (entry.term, entry.index));
    let (last_term, last_index) = last.unwrap_or((applied.term, applied.index));
    Ok(Survey {
        identity,
        term: loaded.hard_state.term,
        last_term,
        last_index,
        commit: loaded.hard_state.commit.max(applied.index),
        applied: applied.index,
        configuration: applied.configuration.clone(),
    })
}

/// Makes the survivor the sole voter. `confirmation` is [`Survey::confirmation`].
///
/// # Errors
/// Where it is not confirmed, or the store fails; after the latter it must not be used again before
/// it is opened anew.
pub fn recover(store: &dyn Store, confirmation: &str) -> Result<Identity, RecoverError> {
    let loaded = store.load()?;
    let survey = look_at(&loaded)?;
    let wanted = survey.confirmation();
    if confirmation != wanted {
        return Err(RecoverError::NotConfirmed { wanted });
    }
    let highest = survey.configuration.last_peer_id.max(survey.identity.peer_id);
    let identity = Identity { peer_id: next_life(highest), ..survey.identity };
    let voters = BTreeMap::from([(identity.peer_id, identity.member)]);
    let term = survey.term.max(survey.last_term) + TERMS_APART;
    store.recover(&Recovered {
        identity,
        hard_state: HardState { term, commit: survey.commit, ..HardState::default() },
        point: Point { configuration: Configuration::of_voters(voters), ..loaded.applied },
        tail: loaded.tail.into_iter().map(without_change).collect(),
    })?;
    Ok(identity)
}

fn without_change(entry: Entry) -> Entry {
    if entry.get_entry_type() == EntryType::EntryNormal {
        return entry;
    }
    Entry { index: entry.index, term: entry.term, ..Entry::default() }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        base::{ClusterId, DirectoryId, NodeId},
        quorum::{
            Core, CoreConfig, life_of,
            store::{MemStore, Write},
        },
    };

    fn survivor() -> MemStore {
        let member = |id: u32| Member {
            node_id: NodeId(id),
            directory_id: DirectoryId(Uuid::from_u128(id.into())),
        };
        let voters: BTreeMap<_, _> = (1..=3).map(|id| (u64::from(id), member(id))).collect();
        let cluster_id = ClusterId(Uuid::from_u128(9));
        let identity = Identity { cluster_id, member: member(1), peer_id: 1 };
        let store = MemStore::new();
        store.initialize(identity, Some(Configuration::of_voters(voters))).unwrap();
        let mut change = Entry { index: 3, term: 4, data: "?".into(), ..Entry::default() };
        change.set_entry_type(EntryType::EntryConfChangeV2);
        let entry = |index| Entry { index, term: 4, data: "kept".into(), ..Entry::default() };
        let hard_state = HardState { term: 5, vote: 2, commit: 3, ..HardState::default() };
        let entries = vec![entry(2), change, entry(4)];
        let hard_state = Some(hard_state);
        store.persist(&[Write { hard_state, entries, ..Write::default() }]).unwrap();
        store
    }

    #[test]
    fn a_survivor_leads_alone_and_commits_all_it_has_but_changes_of_the_voters() {
        let store = survivor();
        let survey = survey(&store).unwrap();
        assert_eq!((survey.last_term, survey.last_index, survey.commit), (4, 4, 3));
        assert_eq!(survey.voters().len(), 3);
        let identity = recover(&store, &survey.confirmation()).unwrap();
        assert_eq!(life_of(identity.peer_id), life_of(survey.identity.peer_id) + 1);

        let loaded = store.load().unwrap();
        let mut core = Core::new(CoreConfig::new(identity.peer_id, 1), &loaded).unwrap();
        assert!(core.is_leader() && core.term() > 5);
        let mut applied = Vec::new();
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                break;
            }
            assert!(effects.messages.is_empty());
            store.persist(&effects.writes).unwrap();
            if let Some(last) = effects.writes.last() {
                core.persisted(last.number);
            }
            for apply in effects.applies {
                let crate::quorum::core::Apply::Entry(entry) = apply else { panic!("{apply:?}") };
                core.applied(entry.index);
                applied.push((entry.index, entry.data, entry.configuration.is_some()));
            }
        }
        let empty = bytes::Bytes::new;
        let expected = [(2, "kept".into(), false), (3, empty(), false), (4, "kept".into(), false)];
        assert_eq!(applied[..3], expected);
        assert_eq!(applied[3..], [(5, empty(), false)]);
        // Only once: from then on it is started.
        let again = super::survey(&store);
        assert!(matches!(again, Err(RecoverError::SoleVoter)), "{again:?}");
    }

    #[test]
    fn nothing_is_given_up_without_the_text_that_says_so() {
        let store = survivor();
        let before = store.load().unwrap();
        let wanted = survey(&store).unwrap().confirmation();
        for wrong in ["", "yes", &wanted[1..]] {
            let refused = recover(&store, wrong).unwrap_err();
            assert!(refused.to_string().contains(&wanted), "{refused}");
        }
        assert_eq!(store.load().unwrap(), before);
        assert!(matches!(survey(&MemStore::new()), Err(RecoverError::Unused)));
    }
}
