//! Static members (KIP-345, KIP-814).

use super::*;

/// A stable group of static members `a` and `b`; their ids by instance, and the leader's instance.
fn stable(sim: &mut Sim) -> (BTreeMap<&'static str, String>, &'static str) {
    let tokens = ["a", "b"].map(|instance| (instance, sim.join(Join::fixed(instance))));
    sim.advance(10_000);
    let joined = tokens.map(|(instance, token)| (instance, sim.joined(token)));
    let ids: BTreeMap<_, _> =
        joined.iter().map(|(instance, join)| (*instance, join.member_id.to_string())).collect();
    let leader = joined.iter().find(|(_, join)| join.leader == join.member_id).unwrap().0;
    let assignments: Vec<_> = ids.iter().map(|(of, id)| (id.as_str(), *of)).collect();
    let sync = sim.sync(&ids[leader], 1, &assignments);
    assert_eq!(sim.synced(sync).error_code, 0);
    for id in ids.values() {
        let sync = sim.sync(id, 1, &[]);
        sim.synced(sync);
    }
    (ids, leader)
}

#[test]
fn a_restarted_member_gets_its_assignment_back_without_a_rebalance() {
    let mut sim = Sim::new();
    let (ids, leader) = stable(&mut sim);
    let follower = if leader == "a" { "b" } else { "a" };
    let join = sim.join(Join::fixed(follower));
    let joined = sim.joined(join);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert!(!joined.skip_assignment);
    assert_ne!(*joined.member_id, *ids[follower]);
    assert_eq!(sim.state(), "Stable");
    let sync = sim.sync(&joined.member_id, 1, &[]);
    assert_eq!(sim.synced(sync).assignment, follower);
    sim.restart();
    assert_eq!(sim.heartbeat(&joined.member_id, 1), 0, "the new id was committed");
}

#[test]
fn a_restarted_leader_is_told_to_skip_the_assignment() {
    let mut sim = Sim::new();
    let (_, leader) = stable(&mut sim);
    let join = sim.join(Join::fixed(leader));
    let joined = sim.joined(join);
    assert!(joined.skip_assignment);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 2);
}

#[test]
fn a_restarted_leader_that_cannot_skip_is_not_told_it_leads() {
    let mut sim = Sim::new();
    let (ids, leader) = stable(&mut sim);
    let join = sim.join(Join { version: 8, ..Join::fixed(leader) });
    let joined = sim.joined(join);
    assert_eq!(*joined.leader, *ids[leader], "its former id");
    assert!(joined.members.is_empty());
}

#[test]
fn the_former_self_is_fenced() {
    let mut sim = Sim::new();
    let (ids, leader) = stable(&mut sim);
    let other = if leader == "a" { "b" } else { "a" };
    let join = sim.join(Join::fixed(other));
    sim.joined(join);
    let request = HeartbeatRequest::default()
        .with_group_id(s(GROUP).into())
        .with_member_id(s(&ids[other]))
        .with_group_instance_id(Some(s(other)))
        .with_generation_id(1);
    let Response::Heartbeat(response) = sim.ask(Request::Heartbeat(request)) else { panic!() };
    assert_eq!(response.error_code, code(ResponseError::FencedInstanceId));
    let rejoin = sim.join(Join::fixed(other).member(&ids[other]));
    assert_eq!(sim.joined(rejoin).error_code, code(ResponseError::FencedInstanceId));
    let left = sim.leave(&[(&ids[other], Some(other))]);
    assert_eq!(left.members[0].error_code, code(ResponseError::FencedInstanceId));
}

#[test]
fn a_replacement_that_is_refused_leaves_the_former_self_in_place() {
    let mut sim = Sim::new();
    let (ids, leader) = stable(&mut sim);
    sim.hold = true;
    let join = sim.join(Join::fixed(leader));
    sim.refuse();
    assert_eq!(sim.joined(join).error_code, code(ResponseError::CoordinatorNotAvailable));
    assert_eq!(sim.heartbeat(&ids[leader], 1), 0);
    assert_eq!(sim.state(), "Stable");
}

#[test]
fn a_static_member_stays_in_over_a_rebalance_it_misses() {
    let mut sim = Sim::new();
    let (ids, leader) = stable(&mut sim);
    let other = if leader == "a" { "b" } else { "a" };
    let long = Join { rebalance_ms: 8_000, session_ms: 30_000, ..Join::fixed(leader) };
    let join = sim.join(long.member(&ids[leader]));
    // `other` keeps its session and does not rejoin. The group waits as long as it asked for.
    for _ in 0..12 {
        sim.advance(5_000);
        sim.heartbeat(&ids[other], 1);
    }
    let joined = sim.joined(join);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2));
}

#[test]
fn an_administrator_removes_static_members_by_instance() {
    let mut sim = Sim::new();
    stable(&mut sim);
    let left = sim.leave(&[("", Some("a")), ("", Some("nobody")), ("nobody", None)]);
    let codes: Vec<_> = left.members.iter().map(|member| member.error_code).collect();
    let unknown = code(ResponseError::UnknownMemberId);
    assert_eq!(codes, [0, unknown, unknown]);
    assert_eq!(sim.state(), "PreparingRebalance");
}

#[test]
fn a_replacement_with_another_protocol_rebalances() {
    let mut sim = Sim::new();
    let both = ["range", "roundrobin"];
    let reverse = ["roundrobin", "range"];
    let a = sim.join(Join::fixed("a").protocols(&both));
    sim.advance(3_000);
    let id = sim.joined(a).member_id.to_string();
    let sync = sim.sync(&id, 1, &[(&id, "x")]);
    sim.synced(sync);
    let again = sim.join(Join::fixed("a").protocols(&reverse));
    let joined = sim.joined(again);
    assert_eq!(joined.generation_id, 2);
    assert_eq!(&*joined.protocol_name.unwrap(), "roundrobin");
}
