//! Members that come, go, vanish and change their minds.

use super::*;

#[test]
fn members_that_join_within_the_delay_share_the_first_generation() {
    let mut sim = Sim::new();
    let (a, join_a) = sim.enter(Join::dynamic());
    sim.advance(2_000);
    let (b, join_b) = sim.enter(Join::dynamic());
    sim.advance(2_999);
    assert!(sim.poll(join_a).is_none(), "a member that came late extends the delay");
    sim.advance(4_000);
    let (a_joined, b_joined) = (sim.joined(join_a), sim.joined(join_b));
    assert_eq!((a_joined.generation_id, b_joined.generation_id), (1, 1));
    assert_eq!(a_joined.leader, b_joined.leader);
    let leader_sees = if *a_joined.leader == *a { &a_joined } else { &b_joined };
    let follower_sees = if *a_joined.leader == *a { &b_joined } else { &a_joined };
    let mut seen: Vec<_> = leader_sees.members.iter().map(|m| m.member_id.to_string()).collect();
    seen.sort();
    let mut all = vec![a, b];
    all.sort();
    assert_eq!(seen, all);
    assert!(follower_sees.members.is_empty());
    assert_eq!(leader_sees.members[0].metadata, subscription(&["t"]));
}

#[test]
fn followers_get_their_assignment_once_the_leaders_is_committed() {
    let mut sim = Sim::new();
    let entered: Vec<_> = (0..2).map(|_| sim.enter(Join::dynamic())).collect();
    sim.advance(10_000);
    let joined = entered.iter().map(|(_, token)| sim.joined(*token)).collect::<Vec<_>>();
    let leader = joined[0].leader.to_string();
    let follower = entered.iter().map(|(id, _)| id).find(|id| **id != leader).unwrap().clone();
    let follower_sync = sim.sync(&follower, 1, &[]);
    sim.hold = true;
    let leader_sync = sim.sync(&leader, 1, &[(&follower, "b"), (&leader, "a")]);
    assert!(sim.poll(follower_sync).is_none());
    assert_eq!(sim.state(), "CompletingRebalance");
    sim.commit();
    assert_eq!(sim.state(), "Stable");
    assert_eq!(sim.synced(follower_sync).assignment, "b");
    assert_eq!(sim.synced(leader_sync).assignment, "a");
}

#[test]
fn an_assignment_that_is_refused_begins_another_rebalance() {
    let mut sim = Sim::new();
    let (a, join) = sim.enter(Join::dynamic());
    sim.advance(3_000);
    sim.joined(join);
    sim.hold = true;
    let sync = sim.sync(&a, 1, &[(&a, "x")]);
    sim.refuse();
    assert_eq!(sim.synced(sync).error_code, code(ResponseError::CoordinatorNotAvailable));
    assert_eq!(sim.state(), "PreparingRebalance");
    sim.hold = false;
    let join = sim.join(Join::dynamic().member(&a));
    assert_eq!(sim.joined(join).generation_id, 2);
}

#[test]
fn a_newcomer_makes_the_others_rejoin() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    let (c, join_c) = sim.enter(Join::dynamic());
    assert_eq!(sim.heartbeat(&ids[0], generation), code(ResponseError::RebalanceInProgress));
    let rejoin: Vec<_> = ids.iter().map(|id| sim.join(Join::dynamic().member(id))).collect();
    assert_eq!(sim.joined(join_c).generation_id, generation + 1);
    for token in rejoin {
        assert_eq!(sim.joined(token).generation_id, generation + 1);
    }
    assert_eq!(sim.heartbeat(&ids[0], generation), code(ResponseError::IllegalGeneration));
    assert_eq!(sim.heartbeat(&c, generation + 1), 0);
}

#[test]
fn dynamic_members_that_do_not_rejoin_in_time_are_out() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    let rejoin = sim.join(Join::dynamic().member(&ids[0]));
    for _ in 0..12 {
        sim.advance(5_000);
        if sim.state() == "PreparingRebalance" {
            sim.heartbeat(&ids[1], generation);
        }
    }
    let joined = sim.joined(rejoin);
    assert_eq!(joined.generation_id, generation + 1);
    assert_eq!(joined.members.len(), 1);
    assert_eq!(sim.heartbeat(&ids[1], generation + 1), code(ResponseError::UnknownMemberId));
}

#[test]
fn a_silent_member_loses_its_session() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    sim.advance(9_000);
    assert_eq!(sim.heartbeat(&ids[0], generation), 0);
    sim.advance(1_001);
    assert_eq!(sim.heartbeat(&ids[0], generation), code(ResponseError::RebalanceInProgress));
    let join = sim.join(Join::dynamic().member(&ids[0]));
    assert_eq!(sim.joined(join).members.len(), 1);
}

#[test]
fn a_group_whose_last_member_leaves_is_empty_in_a_new_generation() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(1);
    assert_eq!(sim.leave(&[(&ids[0], None)]).members[0].error_code, 0);
    assert_eq!(sim.state(), "Empty");
    assert_eq!(sim.shard().groups[GROUP].generation, generation + 1);
    sim.restart();
    assert_eq!(sim.state(), "Empty");
    assert_eq!(sim.shard().groups[GROUP].generation, generation + 1);
}

#[test]
fn the_protocol_with_most_votes_that_all_support_is_chosen() {
    let mut sim = Sim::new();
    let supports: [&[&'static str]; 3] = [
        &["cooperative-sticky", "range"],
        &["range", "cooperative-sticky", "roundrobin"],
        &["roundrobin", "cooperative-sticky", "range"],
    ];
    let tokens: Vec<_> =
        supports.iter().map(|names| sim.enter(Join::dynamic().protocols(names)).1).collect();
    sim.advance(20_000);
    for token in tokens {
        // Votes: cooperative-sticky 2 (the third cannot have roundrobin), range 1.
        assert_eq!(&*sim.joined(token).protocol_name.unwrap(), "cooperative-sticky");
    }
}

#[test]
fn a_cooperative_member_rebalances_again_with_what_it_gave_up() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    // In cooperative mode a member that has to revoke rejoins with changed metadata (KIP-429).
    let mut changed = Join::dynamic().member(&ids[1]);
    changed.protocols = vec![("range", subscription(&["t", "u"]))];
    let follower = sim.join(changed.clone());
    assert!(sim.poll(follower).is_none());
    assert_eq!(sim.heartbeat(&ids[0], generation), code(ResponseError::RebalanceInProgress));
    // Until it rejoins a member may commit what it still owns.
    assert_eq!(sim.commit_offset(&ids[0], generation, 5), 0);
    let leader = sim.join(Join::dynamic().member(&ids[0]));
    let leader = sim.joined(leader);
    assert_eq!(leader.generation_id, generation + 1);
    let seen = leader.members.iter().find(|m| *m.member_id == *ids[1]).unwrap();
    assert_eq!(seen.metadata, subscription(&["t", "u"]));
    assert_eq!(sim.joined(follower).generation_id, generation + 1);
    // The same JoinGroup once more, as after a lost answer: the same generation.
    let again = sim.join(changed);
    assert_eq!(sim.joined(again).generation_id, generation + 1);
}

#[test]
fn a_follower_that_rejoins_unchanged_disturbs_nobody_but_the_leader_does() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    let follower = sim.join(Join::dynamic().member(&ids[1]));
    assert_eq!(sim.joined(follower).generation_id, generation);
    assert_eq!(sim.state(), "Stable");
    let leader = sim.join(Join::dynamic().member(&ids[0]));
    assert!(sim.poll(leader).is_none());
    assert_eq!(sim.state(), "PreparingRebalance");
}

#[test]
fn members_that_never_sync_are_removed() {
    let mut sim = Sim::new();
    let entered: Vec<_> = (0..2).map(|_| sim.enter(Join::dynamic())).collect();
    sim.advance(6_000);
    let joined: Vec<_> = entered.iter().map(|(_, token)| sim.joined(*token)).collect();
    let leader = joined[0].leader.to_string();
    let other = entered.iter().map(|(id, _)| id).find(|id| **id != leader).unwrap().clone();
    let sync = sim.sync(&leader, 1, &[]);
    sim.synced(sync);
    for _ in 0..12 {
        sim.advance(5_000);
        sim.heartbeat(&leader, 1);
        sim.heartbeat(&other, 1);
    }
    assert_eq!(sim.heartbeat(&other, 1), code(ResponseError::UnknownMemberId));
    assert_eq!(sim.heartbeat(&leader, 1), code(ResponseError::RebalanceInProgress));
}

#[test]
fn those_who_wait_for_an_assignment_are_told_to_rejoin_when_a_rebalance_begins() {
    let mut sim = Sim::new();
    let entered: Vec<_> = (0..2).map(|_| sim.enter(Join::dynamic())).collect();
    sim.advance(6_000);
    let joined: Vec<_> = entered.iter().map(|(_, token)| sim.joined(*token)).collect();
    let leader = joined[0].leader.to_string();
    let other = entered.iter().map(|(id, _)| id).find(|id| **id != leader).unwrap().clone();
    let sync = sim.sync(&other, 1, &[]);
    sim.enter(Join::dynamic());
    assert_eq!(sim.synced(sync).error_code, code(ResponseError::RebalanceInProgress));
}

#[test]
fn an_id_that_was_handed_out_holds_the_rebalance_until_its_session_ends() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(1);
    let first = sim.join(Join::dynamic());
    assert_eq!(sim.joined(first).error_code, code(ResponseError::MemberIdRequired));
    let join = sim.join(Join::dynamic().member(&ids[0]));
    assert!(sim.poll(join).is_none(), "the pending member may still come");
    sim.advance(10_000);
    assert_eq!(sim.joined(join).generation_id, generation + 1);
}

#[test]
fn before_version_4_a_member_is_in_with_its_first_request() {
    let mut sim = Sim::new();
    let join = sim.join(Join { version: 3, ..Join::dynamic() });
    assert!(sim.poll(join).is_none());
    sim.advance(3_000);
    let joined = sim.joined(join);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert!(joined.member_id.starts_with("client-"));
}

#[test]
fn a_new_member_that_vanished_while_it_waited_is_removed_in_the_end() {
    let mut sim =
        Sim::with(Config { new_member_join_timeout: Duration::from_secs(20), ..Config::default() });
    let (ids, generation) = sim.stable(1);
    let (_, newcomer) = sim.enter(Join::dynamic());
    for _ in 0..4 {
        sim.advance(5_000);
        sim.heartbeat(&ids[0], generation);
    }
    assert_eq!(sim.joined(newcomer).error_code, code(ResponseError::UnknownMemberId));
    let join = sim.join(Join::dynamic().member(&ids[0]));
    assert_eq!(sim.joined(join).members.len(), 1);
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut sim = Sim::with(Config { max_size: 2, ..Config::default() });
    let (ids, _) = sim.stable(2);
    let third = sim.join(Join::dynamic());
    assert_eq!(sim.joined(third).error_code, code(ResponseError::GroupMaxSizeReached));
    assert_eq!(sim.state(), "Stable");
    let known = sim.join(Join::dynamic().member(&ids[1]));
    assert_eq!(sim.joined(known).error_code, 0);
}

#[test]
fn waiting_members_are_sent_elsewhere_when_leadership_ends() {
    let mut sim = Sim::new();
    let (_, join) = sim.enter(Join::dynamic());
    sim.resign();
    assert_eq!(sim.joined(join).error_code, code(ResponseError::NotCoordinator));
}

#[test]
fn a_group_comes_back_with_its_members_after_a_restart() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(2);
    sim.restart();
    assert_eq!(sim.state(), "Stable");
    for id in &ids {
        assert_eq!(sim.heartbeat(id, generation), 0);
        let sync = sim.sync(id, generation, &[]);
        assert_eq!(sim.synced(sync).assignment, "parts");
    }
    sim.advance(10_000);
    assert_eq!(sim.state(), "Empty", "sessions count again from the restart");
}
