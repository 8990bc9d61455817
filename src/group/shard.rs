//! The state machine of one partition of `__consumer_offsets`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kafka_protocol::error::ResponseError;
use rand::{Rng, rngs::StdRng};

use super::{
    Config, Request, Response, Str,
    classic::Group,
    committed::CommittedOffsets,
    join,
    state::{Change, State},
    sync,
    timers::{Kind, Timer, Timers},
};
use crate::{
    base::ProducerId,
    coordinator::{Effects, Failure, Now, Record, ReplayError, Shard, Source, Token},
};

/// See the module, and [`group`](super).
#[derive(Debug)]
pub struct GroupShard {
    pub(super) config: Arc<Config>,
    rng: StdRng,
    /// Groups as they are: what `decided` says of them, and what no record says.
    pub(super) groups: BTreeMap<Str, Group>,
    /// What all records make up that have been decided.
    pub(super) decided: State,
    /// What those make up that are committed.
    pub(super) committed: State,
    timers: Timers,
    /// When offsets are looked through for expired ones; `None` until the log is loaded.
    next_expiry: Option<Duration>,
}

/// What is to be continued once its records are committed.
#[derive(Debug)]
pub struct Continuation(pub(super) Step);

/// See [`Continuation`].
#[derive(Debug)]
pub(super) enum Step {
    Assigned(sync::Assignment),
    Replaced(join::Replacement),
}

/// A [`State`] at a moment.
#[derive(Debug, Clone)]
pub struct Checkpoint(pub(super) State);

/// What a group's methods work with beside the group itself.
pub(super) struct Cx<'a> {
    pub(super) config: &'a Config,
    pub(super) timers: &'a mut Timers,
    pub(super) state: &'a mut State,
    rng: &'a mut StdRng,
    pub(super) now: Now,
    pub(super) out: &'a mut Effects<GroupShard>,
}

impl Cx<'_> {
    /// Decides `changes`: applies and appends them, all or none.
    pub(super) fn write(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.state.apply(change);
        }
        let records = changes.iter().map(Change::encode).collect();
        self.out.write(records, Checkpoint(self.state.clone()));
    }

    /// An id that no member has or had: `prefix` and a random UUID, as Kafka makes them.
    pub(super) fn new_member_id(&mut self, prefix: &str) -> Str {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let prefix = &prefix[..prefix.floor_char_boundary(join::MAX_NAME_BYTES)];
        Str::from(format!("{prefix}-{uuid}"))
    }

    /// Fails a JoinGroup.
    pub(super) fn join_error(&mut self, token: Token, member: &str, error: ResponseError) {
        self.out.reply(token, Response::Join(join::error_response(member, error)));
    }

    /// Fails a SyncGroup.
    pub(super) fn sync_error(&mut self, token: Token, error: ResponseError) {
        self.out.reply(token, Response::Sync(sync::error_response(error)));
    }
}

impl GroupShard {
    /// A shard without groups. `rng` makes the ids of members.
    #[must_use]
    pub fn new(config: Arc<Config>, rng: StdRng) -> Self {
        Self {
            config,
            rng,
            groups: BTreeMap::new(),
            decided: State::default(),
            committed: State::default(),
            timers: Timers::default(),
            next_expiry: None,
        }
    }

    /// The groups, and apart from them what their methods need.
    pub(super) fn split<'a>(
        &'a mut self,
        now: Now,
        out: &'a mut Effects<Self>,
    ) -> (&'a mut BTreeMap<Str, Group>, Cx<'a>) {
        let Self { config, rng, groups, decided: state, timers, .. } = self;
        (groups, Cx { config, timers, state, rng, now, out })
    }

    /// Makes the group of `id` from what `decided` says of it, if it says anything.
    fn materialize(&self, id: &Str, now_ms: i64) -> Option<Group> {
        match self.decided.groups.get(id) {
            Some(metadata) => Some(Group::restore(id.clone(), metadata)),
            None => self.decided.offsets.contains_key(id).then(|| Group::new(id.clone(), now_ms)),
        }
    }

    /// Takes a group away that no record names any more.
    pub(super) fn drop_group(
        &mut self,
        id: &Str,
        failure: ResponseError,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        if let Some(mut group) = groups.remove(id) {
            group.fail_waiting(failure, &mut cx);
            cx.timers.cancel_group(id);
        }
    }

    fn start_sessions(&mut self, now: Now, out: &mut Effects<Self>) {
        let (groups, mut cx) = self.split(now, out);
        for group in groups.values_mut() {
            let ids: Vec<_> = group.members.keys().cloned().collect();
            for id in &ids {
                group.restart_session(id, &mut cx);
            }
            // The limit may have been lowered.
            if ids.len() > usize::try_from(cx.config.max_size).unwrap_or(0) {
                group.prepare_rebalance(&mut cx);
            }
        }
    }

    fn timer_expired(&mut self, timer: &Timer, now: Now, out: &mut Effects<Self>) {
        let (groups, mut cx) = self.split(now, out);
        let Some(group) = groups.get_mut(&timer.group) else { return };
        match &timer.kind {
            Kind::Join => group.join_phase_expired(&mut cx),
            Kind::Sync => group.sync_phase_expired(&mut cx),
            Kind::Heartbeat(member) => group.session_expired(member, &mut cx),
        }
    }
}

impl Shard for GroupShard {
    type Request = Request;
    type Response = Response;
    type Continuation = Continuation;
    type Checkpoint = Checkpoint;

    fn replay(&mut self, record: &Record, source: Source) -> Result<(), ReplayError> {
        if let Some(change) = Change::decode(record)? {
            match source.transaction {
                Some((producer, _)) => self.decided.apply_in_transaction(producer, &change),
                None => self.decided.apply(&change),
            }
        }
        Ok(())
    }

    fn replay_end_transaction(&mut self, producer: ProducerId, committed: bool) {
        self.decided.end_transaction(producer, committed);
    }

    fn loaded(&mut self, now: Now, out: &mut Effects<Self>) {
        let ids = self.decided.groups.keys().chain(self.decided.offsets.keys());
        let ids: Vec<_> = ids.cloned().collect();
        for id in ids {
            if let Some(group) = self.materialize(&id, now.wall_ms) {
                self.groups.insert(id, group);
            }
        }
        self.start_sessions(now, out);
        self.next_expiry = Some(now.monotonic + self.config.offsets_retention_check_interval);
    }

    fn handle(&mut self, token: Token, request: Request, now: Now, out: &mut Effects<Self>) {
        match request {
            Request::Join { request, version, client } => {
                self.join(token, &request, version, client, now, out);
            }
            Request::Sync(request) => self.sync(token, &request, now, out),
            Request::Heartbeat(request) => self.heartbeat(token, &request, now, out),
            Request::Leave(request) => self.leave(token, &request, now, out),
            Request::CommitOffsets { request, version } => {
                self.commit_offsets(token, &request, version, now, out);
            }
            Request::FetchOffsets { group, require_stable } => {
                self.fetch_offsets(token, &group, require_stable, out);
            }
            Request::DeleteOffsets(request) => self.delete_offsets(token, &request, now, out),
            Request::Describe { groups, version } => self.describe(token, &groups, version, out),
            Request::List(request) => self.list(token, &request, out),
            Request::Delete { groups } => self.delete_groups(token, groups, now, out),
            Request::TopicsDeleted(topics) => self.topics_deleted(token, &topics, now, out),
            Request::Committed => {
                let committed = CommittedOffsets(self.committed.clone());
                out.reply_now(token, Response::Committed(committed));
            }
        }
    }

    fn expire(&mut self, now: Now, out: &mut Effects<Self>) {
        while let Some(timer) = self.timers.pop_due(now.monotonic) {
            self.timer_expired(&timer, now, out);
        }
        if self.next_expiry.is_some_and(|at| at <= now.monotonic) {
            self.next_expiry = Some(now.monotonic + self.config.offsets_retention_check_interval);
            self.expire_offsets(now, out);
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.timers.next_deadline().into_iter().chain(self.next_expiry).min()
    }

    fn complete(
        &mut self,
        continuation: Continuation,
        result: Result<(), Failure>,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        match continuation.0 {
            Step::Assigned(assignment) => self.assigned(assignment, result, now, out),
            Step::Replaced(replacement) => self.replaced(replacement, result, now, out),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.decided.clone())
    }

    fn committed(&mut self, checkpoint: &Checkpoint) {
        self.committed.clone_from(&checkpoint.0);
    }

    fn revert(
        &mut self,
        checkpoint: &Checkpoint,
        failure: Failure,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let refused = std::mem::replace(&mut self.decided, checkpoint.0.clone());
        // Groups that the refused records made go, those that they deleted come back.
        let gone: Vec<_> =
            self.groups.keys().filter(|id| !self.decided.names(id)).cloned().collect();
        for id in gone {
            self.drop_group(&id, failure, now, out);
        }
        let named = self.decided.groups.keys().chain(self.decided.offsets.keys());
        let back: Vec<_> = named.filter(|id| !refused.names(id)).cloned().collect();
        for id in back {
            if let Some(group) = self.materialize(&id, now.wall_ms) {
                self.groups.insert(id, group);
            }
        }
    }

    fn unload(&mut self, out: &mut Effects<Self>) {
        let now = Now { monotonic: Duration::ZERO, wall_ms: 0 };
        let (groups, mut cx) = self.split(now, out);
        for group in groups.values_mut() {
            group.fail_waiting(ResponseError::NotCoordinator, &mut cx);
        }
        groups.clear();
        self.timers.clear();
        self.next_expiry = None;
    }
}
