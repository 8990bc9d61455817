//! What each API answers in each state of a group.

use super::*;

/// A group in `state`, with a member of it (or one that was in it) and its generation.
fn in_state(state: &str) -> (Sim, String, i32) {
    let mut sim = Sim::new();
    if state == "Dead" {
        return (sim, "m".to_owned(), 1);
    }
    let (ids, generation) = sim.stable(2);
    let (member, mut generation) = (ids[1].clone(), generation);
    match state {
        "Stable" => {}
        "PreparingRebalance" => {
            sim.join(Join::dynamic().member(&ids[0]));
        }
        "CompletingRebalance" => {
            for id in &ids {
                sim.join(Join::dynamic().member(id));
            }
            // The leader's first join began a rebalance, so both are in the next generation.
            generation += 1;
        }
        "Empty" => {
            sim.leave(&[(&ids[0], None), (&ids[1], None)]);
            generation += 1;
        }
        other => panic!("{other}"),
    }
    assert_eq!(sim.state(), state);
    (sim, member, generation)
}

const STATES: [&str; 5] = ["Dead", "Empty", "PreparingRebalance", "CompletingRebalance", "Stable"];
const UNKNOWN: i16 = ResponseError::UnknownMemberId.code();
const GENERATION: i16 = ResponseError::IllegalGeneration.code();
const REBALANCE: i16 = ResponseError::RebalanceInProgress.code();

#[test]
fn heartbeat() {
    // A member of the generation; of an old generation; an unknown member.
    let expected = [
        [UNKNOWN, UNKNOWN, UNKNOWN],
        [UNKNOWN, UNKNOWN, UNKNOWN],
        [REBALANCE, GENERATION, UNKNOWN],
        [0, GENERATION, UNKNOWN],
        [0, GENERATION, UNKNOWN],
    ];
    for (state, expected) in STATES.into_iter().zip(expected) {
        let (mut sim, member, generation) = in_state(state);
        let codes = [
            sim.heartbeat(&member, generation),
            sim.heartbeat(&member, generation - 1),
            sim.heartbeat("nobody", generation),
        ];
        assert_eq!(codes, expected, "{state}");
    }
}

#[test]
fn sync_group() {
    let expected = [
        [UNKNOWN, UNKNOWN],
        [UNKNOWN, UNKNOWN],
        [GENERATION, UNKNOWN],
        [GENERATION, UNKNOWN],
        [GENERATION, UNKNOWN],
    ];
    for (state, expected) in STATES.into_iter().zip(expected) {
        let (mut sim, member, generation) = in_state(state);
        let tokens = [sim.sync(&member, generation - 1, &[]), sim.sync("nobody", generation, &[])];
        let codes = tokens.map(|token| sim.synced(token).error_code);
        assert_eq!(codes, expected, "{state}");
    }
    let (mut sim, member, generation) = in_state("PreparingRebalance");
    let sync = sim.sync(&member, generation, &[]);
    assert_eq!(sim.synced(sync).error_code, REBALANCE);
}

#[test]
fn sync_group_with_another_protocol() {
    for (kind, name) in [(Some("connect"), None), (None, Some("sticky"))] {
        let (mut sim, member, generation) = in_state("Stable");
        let request = SyncGroupRequest::default()
            .with_group_id(s(GROUP).into())
            .with_member_id(s(&member))
            .with_generation_id(generation)
            .with_protocol_type(kind.map(s))
            .with_protocol_name(name.map(s));
        let Response::Sync(response) = sim.ask(Request::Sync(request)) else { panic!() };
        assert_eq!(response.error_code, code(ResponseError::InconsistentGroupProtocol));
    }
}

#[test]
fn offset_commit() {
    let missing = code(ResponseError::GroupIdNotFound);
    // A member of the generation; of an old one; an unknown member; a consumer of its own.
    let expected = [
        [missing, missing, missing, 0],
        [UNKNOWN, UNKNOWN, UNKNOWN, 0],
        [0, GENERATION, UNKNOWN, UNKNOWN],
        [REBALANCE, GENERATION, UNKNOWN, UNKNOWN],
        [0, GENERATION, UNKNOWN, UNKNOWN],
    ];
    for (state, expected) in STATES.into_iter().zip(expected) {
        let (mut sim, member, generation) = in_state(state);
        let codes = [
            sim.commit_offset(&member, generation, 1),
            sim.commit_offset(&member, generation - 1, 1),
            sim.commit_offset("nobody", generation, 1),
            sim.commit_offset("", -1, 1),
        ];
        assert_eq!(codes, expected, "{state}");
    }
}

#[test]
fn delete_groups() {
    let full = code(ResponseError::NonEmptyGroup);
    let expected = [code(ResponseError::GroupIdNotFound), 0, full, full, full];
    for (state, expected) in STATES.into_iter().zip(expected) {
        let (mut sim, _, _) = in_state(state);
        let request = Request::Delete { groups: vec![s(GROUP).into()] };
        let Response::Delete(response) = sim.ask(request) else { panic!() };
        assert_eq!(response.results[0].error_code, expected, "{state}");
    }
}

#[test]
fn leave_group() {
    for state in STATES {
        let (mut sim, member, _) = in_state(state);
        let codes: Vec<_> = sim
            .leave(&[("nobody", None), (&member, None)])
            .members
            .iter()
            .map(|member| member.error_code)
            .collect();
        let gone = matches!(state, "Dead" | "Empty");
        assert_eq!(codes, [UNKNOWN, if gone { UNKNOWN } else { 0 }], "{state}");
    }
}

#[test]
fn join_group() {
    let (mut sim, _, _) = in_state("Stable");
    let refused = [
        (Join { session_ms: 5_999, ..Join::dynamic() }, ResponseError::InvalidSessionTimeout),
        (Join { session_ms: 1_800_001, ..Join::dynamic() }, ResponseError::InvalidSessionTimeout),
        (Join::dynamic().protocols(&["sticky"]), ResponseError::InconsistentGroupProtocol),
        (Join::dynamic().protocols(&[]), ResponseError::InconsistentGroupProtocol),
        (
            Join { protocol_type: "connect", ..Join::dynamic() },
            ResponseError::InconsistentGroupProtocol,
        ),
        (Join::dynamic().member("nobody"), ResponseError::UnknownMemberId),
    ];
    for (join, error) in refused {
        let token = sim.join(join.clone());
        assert_eq!(sim.joined(token).error_code, code(error), "{join:?}");
    }
    assert_eq!(sim.state(), "Stable");
    let mut sim = Sim::new();
    let token = sim.join(Join::dynamic().member("nobody"));
    assert_eq!(sim.joined(token).error_code, UNKNOWN);
    assert_eq!(sim.state(), "Dead", "only a request without a member id makes a group");
}

#[test]
fn requests_without_a_group_id() {
    let mut sim = Sim::new();
    let invalid = code(ResponseError::InvalidGroupId);
    let Response::Heartbeat(response) = sim.ask(Request::Heartbeat(HeartbeatRequest::default()))
    else {
        panic!()
    };
    assert_eq!(response.error_code, invalid);
    let Response::Sync(response) = sim.ask(Request::Sync(SyncGroupRequest::default())) else {
        panic!()
    };
    assert_eq!(response.error_code, invalid);
    let Response::Leave(response) = sim.ask(Request::Leave(LeaveGroupRequest::default())) else {
        panic!()
    };
    assert_eq!(response.error_code, invalid);
}
