//! Appending as the leader: whoever finds nobody writing writes for all who ask meanwhile.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Acks, AppendError, Appended, Inner, Partition, role::Role};
use crate::{
    base::{LeaderEpoch, Offset, Planted},
    config::{TimestampType, TopicConfig},
    log::{self, Origin, StampedHeader},
    replication::{
        Bug,
        leader::Leader,
        waiting::{Reply, Until},
    },
};

/// For how long after a refusal further batches of the same producer may still arrive that it sent
/// before it heard of it.
const IN_FLIGHT_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct PendingAppend {
    batches: Vec<Bytes>,
    request_bytes: usize,
    acks: Acks,
    origin: Origin,
    reply: Reply,
}

/// What became of one write.
struct Written {
    appended: Appended,
    end: Offset,
    headers: Vec<StampedHeader>,
}

type Outcomes = Vec<(PendingAppend, Result<Written, AppendError>)>;

impl Partition {
    /// Appends validated batches in the order of the calls. Returns at once; the outcome comes when
    /// `acks` is satisfied. They may be slices of a request of `request_bytes`. The caller sets the
    /// deadline by giving up the receiver.
    pub fn append(
        self: &Arc<Self>,
        batches: Vec<Bytes>,
        request_bytes: usize,
        acks: Acks,
        origin: Origin,
    ) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (reply, outcome) = oneshot::channel();
        let mut inner = self.inner.lock();
        let refusal = match inner.role.leader() {
            None => Some(AppendError::NotLeader),
            Some(leader) if acks == Acks::All && !leader.has_min_isr() => {
                Some(AppendError::NotEnoughReplicas)
            }
            Some(_) => None,
        };
        if let Some(error) = refusal {
            inner.refused_ms = self.shared.now_ms();
            drop(reply.send(Err(error)));
            return outcome;
        }
        inner.pending.push_back(PendingAppend { batches, request_bytes, acks, origin, reply });
        if inner.writing || inner.held {
            return outcome;
        }
        inner.writing = true;
        drop(inner);
        self.append_pending();
        outcome
    }

    /// Writes what is pending, for everybody who asked meanwhile too.
    pub(super) fn append_pending(self: &Arc<Self>) {
        loop {
            let (pending, leader_epoch, after_refusal, config) = {
                let mut inner = self.inner.lock();
                if inner.pending.is_empty() || inner.held {
                    inner.writing = false;
                    return self.change_role(inner);
                }
                let leader_epoch = inner.role.leader().map(Leader::leader_epoch);
                let since_ms = self.shared.now_ms().saturating_sub(inner.refused_ms);
                let pending = std::mem::take(&mut inner.pending);
                (pending, leader_epoch, since_ms < IN_FLIGHT_MS, Arc::clone(&inner.config))
            };
            let outcomes = self.write_all(pending, leader_epoch, after_refusal, &config);
            let mut inner = self.inner.lock();
            for (append, outcome) in outcomes {
                inner.settle(append, outcome, leader_epoch);
            }
            self.count_own(&mut inner);
        }
    }

    fn write_all(
        &self,
        pending: VecDeque<PendingAppend>,
        leader_epoch: Option<LeaderEpoch>,
        after_refusal: bool,
        config: &TopicConfig,
    ) -> Outcomes {
        let write = |mut append: PendingAppend| {
            if after_refusal && append.origin == Origin::Client {
                append.origin = Origin::ClientAfterRefusal;
            }
            let outcome = match leader_epoch {
                Some(epoch) => self.write(&append, epoch, config),
                None => Err(AppendError::NotLeader),
            };
            (append, outcome)
        };
        pending.into_iter().map(write).collect()
    }

    fn write(
        &self,
        append: &PendingAppend,
        leader_epoch: LeaderEpoch,
        config: &TopicConfig,
    ) -> Result<Written, AppendError> {
        let now_ms = self.shared.clock.wall_ms();
        let stamped = config.message_timestamp_type == TimestampType::LogAppendTime;
        let how = log::Append {
            origin: append.origin,
            leader_epoch,
            log_append_time_ms: stamped.then_some(now_ms),
            now_ms,
        };
        let written = self.log().append_stamped(&append.batches, how);
        let (appended, headers) = written.map_err(|error| match error {
            // An answer that would have the producer think that records are lost, and then, as
            // librdkafka does, begin anew with all that it has not heard of, in every partition.
            log::AppendError::OutOfOrderSequence { .. }
                if append.origin == Origin::ClientAfterRefusal =>
            {
                AppendError::OutOfTurn
            }
            error => error.into(),
        })?;
        let outcome = Appended {
            base_offset: appended.first_offset,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: appended.log_start_offset,
        };
        Ok(Written { appended: outcome, end: appended.last_offset.plus(1), headers })
    }

    /// Counts what this replica holds by now towards the high watermark, and has it flushed and sent
    /// on.
    pub(super) fn count_own(self: &Arc<Self>, inner: &mut Inner) {
        let now_ms = self.shared.now_ms();
        let Role::Leading(leading) = &mut inner.role else { return };
        let end = self.log().log_end_offset();
        let mistaken = Planted::of_process(&Bug::ALL).is(Bug::AcknowledgeBeforeFlush);
        let unflushed = inner.config.flush_messages > 1 || mistaken;
        let acknowledged = if unflushed { end } else { inner.flushed };
        leading.core.handle_appended(end, now_ms);
        leading.core.handle_own_acknowledged(acknowledged, now_ms);
        self.lead_on(inner);
        inner.writes.complete(inner.flushed, inner.high_watermark);
        self.flush_if_due(inner);
    }
}

impl Inner {
    fn settle(
        &mut self,
        append: PendingAppend,
        outcome: Result<Written, AppendError>,
        epoch: Option<LeaderEpoch>,
    ) {
        let Written { appended, end, headers } = match outcome {
            Ok(written) => written,
            Err(error) => return drop(append.reply.send(Err(error))),
        };
        let bytes: usize = append.batches.iter().map(Bytes::len).sum();
        self.uncommitted_bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
        let leads_on = self.role.leader().map(Leader::leader_epoch) == epoch;
        if let (true, Role::Leading(leading)) = (leads_on, &mut self.role) {
            leading.keep(&headers, &append.batches, append.request_bytes);
        }
        let until = match append.acks {
            Acks::None => return drop(append.reply.send(Ok(appended))),
            Acks::Leader if self.config.flush_messages > 1 => {
                return drop(append.reply.send(Ok(appended)));
            }
            _ if !leads_on => return drop(append.reply.send(Err(AppendError::NotLeader))),
            Acks::Leader => Until::Flushed,
            Acks::All => Until::Committed,
        };
        self.writes.push(end, until, appended, append.reply);
    }

    /// The high watermark rose.
    pub(super) fn handle_committed(&mut self) {
        self.writes.complete(self.flushed, self.high_watermark);
        // More than what was committed where only part of it was: a fetch that wakes early looks
        // again and goes on waiting.
        self.fetches.handle_bytes(std::mem::take(&mut self.uncommitted_bytes).max(1));
    }
}
