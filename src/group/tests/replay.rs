//! Whatever happens, the log says what was promised: random requests, refusals and crashes.

use proptest::prelude::*;
use rand::RngExt;

use super::*;
use crate::{base::HashMap, group::state::State};

const GROUPS: [&str; 2] = [GROUP, "other"];
const TOPICS: [&str; 2] = ["t", "u"];

/// What a random client did and was told.
#[derive(Default)]
struct Model {
    /// Acknowledged offsets by group and topic.
    acknowledged: HashMap<(usize, usize), i64>,
    /// Offsets that may or may not have been kept.
    unsure: HashMap<(usize, usize), Vec<i64>>,
    waiting: Vec<(Token, usize, usize, i64)>,
    deletions: Vec<(Token, usize)>,
    /// Members that are known to the clients, with the last generation they were told.
    members: Vec<(String, i32)>,
    joins: Vec<Token>,
    next_offset: i64,
}

impl Model {
    /// Reads the answers that have come.
    fn collect(&mut self, sim: &mut Sim) {
        let mut waiting = vec![];
        for (token, group, topic, offset) in std::mem::take(&mut self.waiting) {
            match sim.poll(token) {
                None => waiting.push((token, group, topic, offset)),
                Some(Ok(Response::CommitOffsets(response))) => {
                    if response.topics[0].partitions[0].error_code == 0 {
                        self.acknowledged.insert((group, topic), offset);
                    }
                }
                Some(_) => {}
            }
        }
        self.waiting = waiting;
        self.deletions.retain(|(token, group)| match sim.poll(*token) {
            None => true,
            Some(Ok(Response::Delete(response))) if response.results[0].error_code == 0 => {
                self.acknowledged.retain(|(of, _), _| of != group);
                false
            }
            Some(_) => false,
        });
        let mut joins = vec![];
        for token in std::mem::take(&mut self.joins) {
            match sim.poll(token) {
                None => joins.push(token),
                Some(Ok(Response::Join(response))) => {
                    if !response.member_id.is_empty() {
                        let id = response.member_id.to_string();
                        self.members.push((id, response.generation_id));
                    }
                }
                Some(_) => {}
            }
        }
        self.joins = joins;
    }

    fn step(&mut self, sim: &mut Sim, rng: &mut StdRng) {
        let (group, topic) = (rng.random_range(0..2), rng.random_range(0..2));
        let member = match self.members.len() {
            0 => None,
            count => Some(self.members[rng.random_range(count.saturating_sub(4)..count)].clone()),
        };
        match rng.random_range(0..20) {
            0..=4 => {
                self.next_offset += 1;
                let (id, generation) = match &member {
                    Some((id, generation)) if group == 0 => (id.as_str(), *generation),
                    _ => ("", -1),
                };
                let offset = self.next_offset;
                let request =
                    Sim::commit_request(GROUPS[group], id, generation, TOPICS[topic], offset);
                let token = sim.send(request);
                self.waiting.push((token, group, topic, offset));
                self.unsure.entry((group, topic)).or_default().push(offset);
            }
            5..=7 => self.joins.push(sim.join(Join::dynamic())),
            8..=10 => {
                if let Some((id, _)) = &member {
                    self.joins.push(sim.join(Join::dynamic().member(id)));
                }
            }
            11 => {
                let instance = if rng.random() { "a" } else { "b" };
                self.joins.push(sim.join(Join::fixed(instance)));
            }
            12..=13 => {
                if let Some((id, generation)) = &member {
                    sim.sync(id, *generation, &[(id, "x")]);
                }
            }
            14 => {
                if let Some((id, _)) = &member {
                    sim.leave_quietly(id);
                }
            }
            15 => {
                let request = Request::Delete { groups: vec![s(GROUPS[group]).into()] };
                self.deletions.push((sim.send(request), group));
                self.unsure.entry((group, 0)).or_default().push(-1);
                self.unsure.entry((group, 1)).or_default().push(-1);
            }
            _ => sim.advance(rng.random_range(1..6_000)),
        }
    }

    /// No acknowledged offset is lost, and none goes back behind it.
    fn check_offsets(&self, sim: &mut Sim) {
        for (group, name) in GROUPS.iter().enumerate() {
            for (topic, topic_name) in TOPICS.iter().enumerate() {
                let found = sim.fetch(name, topic_name);
                let empty = vec![];
                let unsure = self.unsure.get(&(group, topic)).unwrap_or(&empty);
                match self.acknowledged.get(&(group, topic)) {
                    Some(acknowledged) => {
                        let later = unsure.iter().rev().take_while(|of| *of != acknowledged);
                        let allowed =
                            found == *acknowledged || later.into_iter().any(|o| *o == found);
                        assert!(allowed, "{name} {topic_name}: {found}, had {acknowledged}");
                    }
                    None => assert!(found == -1 || unsure.contains(&found)),
                }
            }
        }
    }
}

impl Sim {
    fn leave_quietly(&mut self, id: &str) {
        let member = MemberIdentity::default().with_member_id(s(id));
        let request =
            LeaveGroupRequest::default().with_group_id(s(GROUP).into()).with_members(vec![member]);
        self.send(Request::Leave(request));
    }

    /// Appends part of what is decided, then loses the rest with the process.
    fn crash(&mut self, keep: usize) {
        let now = self.now();
        let mut kept = 0;
        let (pipeline, log) = (self.pipeline.as_mut().unwrap(), &mut self.log);
        while kept < keep
            && let Some((records, _)) = pipeline.take_batch()
        {
            // A batch is in the log whole or not at all; its outcome may not be heard of.
            log.extend_from_slice(records);
            kept += 1;
            if kept < keep {
                pipeline.committed(now);
            }
        }
        let replies = pipeline.take_replies();
        self.take(replies);
        self.restart();
    }

    fn replayed(&self) -> State {
        let mut shard = GroupShard::new(Arc::clone(&self.config), StdRng::seed_from_u64(0));
        for record in &self.log {
            shard.replay(record, Source { transaction: None }).unwrap();
        }
        shard.decided
    }

    fn check_invariants(&self, generations: &mut HashMap<String, i32>) {
        let shard = self.shard();
        assert_eq!(self.replayed(), shard.committed, "the log and the committed state differ");
        for (id, group) in &shard.groups {
            assert!(shard.decided.names(id), "{id} is named by no record");
            let awaiting =
                group.members.values().filter(|member| member.awaiting_join.is_some()).count();
            assert_eq!(awaiting, group.awaiting_joins());
            let is_empty = group.state.name() == "Empty";
            assert!(!is_empty || group.members.is_empty(), "{group:?}");
            assert!(group.leader.as_ref().is_none_or(|of| group.members.contains_key(of)));
            assert!(group.static_members.values().all(|of| group.members.contains_key(of)));
            let last = generations.entry(id.to_string()).or_insert(group.generation);
            assert!(*last <= group.generation, "the generation of {id} went back");
            *last = group.generation;
        }
        generations.retain(|id, _| shard.groups.contains_key(id.as_str()));
        let named = shard.decided.groups.keys().chain(shard.decided.offsets.keys());
        assert!(named.into_iter().all(|id| shard.groups.contains_key(id)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_acknowledged_is_lost(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::with(Config { initial_rebalance_delay_ms: 100, ..Config::default() });
        let mut model = Model::default();
        let mut generations = HashMap::default();
        for _ in 0..200 {
            sim.hold = rng.random_bool(0.5);
            model.step(&mut sim, &mut rng);
            match rng.random_range(0..40) {
                0 => {
                    // A generation that was not committed may be given again after a crash.
                    generations.clear();
                    sim.crash(rng.random_range(0..3));
                    model.collect(&mut sim);
                    model.waiting.clear();
                    model.deletions.clear();
                    model.joins.clear();
                }
                1 if sim.pipeline().pending_bytes() > 0 => {
                    generations.clear();
                    sim.refuse();
                }
                2..=8 => sim.commit(),
                _ => {}
            }
            model.collect(&mut sim);
            sim.check_invariants(&mut generations);
        }
        sim.commit();
        model.collect(&mut sim);
        model.check_offsets(&mut sim);
        sim.restart();
        model.check_offsets(&mut sim);
        prop_assert_eq!(&sim.replayed(), &sim.shard().decided);
    }
}
