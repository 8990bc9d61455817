//! What makes the node ready, and not ready again.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::directories::Directory;
use crate::{log::LogDirectory, observability::Readiness};

/// The quorum has a leader.
pub(super) const QUORUM: &str = "quorum";
/// The logs are open.
pub(super) const RECOVERY: &str = "log recovery";
/// Some log directory works.
pub(super) const DIRECTORIES: &str = "log directories";
/// The controller knows this node and lets it lead.
pub(super) const REGISTRATION: &str = "registration";
/// Clients are listened to.
pub(super) const SERVING: &str = "serving";

/// Says whether the quorum has a leader, until it ends; where it has none for this node, with the
/// leader's `refusal` if there was one.
pub(super) async fn follow_quorum<T>(
    mut status: watch::Receiver<T>,
    has_leader: impl Fn(&T) -> bool,
    mut refusal: watch::Receiver<Option<String>>,
    readiness: Readiness,
) {
    let mut said = None;
    loop {
        let state = if has_leader(&status.borrow_and_update()) {
            Ok(())
        } else {
            let refused = refusal.borrow_and_update().clone();
            Err(refused.unwrap_or_else(|| "no leader is known".to_owned()))
        };
        if said.as_ref() != Some(&state) {
            readiness.set(QUORUM, state.clone());
            said = Some(state);
        }
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    return readiness.set(QUORUM, Err("the quorum has stopped".to_owned()));
                }
            }
            Ok(()) = refusal.changed() => {}
        }
    }
}

/// Says when the last log directory has failed.
pub(super) fn follow_directories(directories: &[Directory], readiness: &Readiness) {
    let all: Arc<[Weak<LogDirectory>]> =
        directories.iter().map(|directory| Arc::downgrade(&directory.log)).collect();
    readiness.set(DIRECTORIES, Ok(()));
    for directory in directories {
        let (all, readiness) = (Arc::clone(&all), readiness.clone());
        directory.log.on_offline(move |error| {
            let works = |directory: &LogDirectory| directory.failure().is_none();
            if !all.iter().filter_map(Weak::upgrade).any(|directory| works(&directory)) {
                let reason = format!("{error}: {}", error.remedy());
                readiness.set(DIRECTORIES, Err(reason));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reason(readiness: &Readiness, wanted: Option<&str>) {
        let found = || readiness.conditions()[0].reason.clone();
        while found().as_deref() != wanted {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_quorum_that_loses_its_leader_makes_the_node_not_ready_until_it_has_one_again() {
        let (leader, status) = watch::channel(false);
        let readiness = Readiness::new(&[QUORUM]);
        let (refused, refusal) = watch::channel(None);
        let has_leader = |has_leader: &bool| *has_leader;
        tokio::spawn(follow_quorum(status, has_leader, refusal, readiness.clone()));
        reason(&readiness, Some("no leader is known")).await;
        refused.send_replace(Some("it was removed".to_owned()));
        reason(&readiness, Some("it was removed")).await;
        refused.send_replace(None);
        reason(&readiness, Some("no leader is known")).await;
        leader.send_replace(true);
        reason(&readiness, None).await;
        assert!(readiness.is_ready());
        leader.send_replace(false);
        reason(&readiness, Some("no leader is known")).await;
        leader.send_replace(true);
        reason(&readiness, None).await;
        drop(leader);
        reason(&readiness, Some("the quorum has stopped")).await;
    }
}
