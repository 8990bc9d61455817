//! A partition of an internal topic, as a coordinator keeps its records in it.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{Acks, AppendError, FetchError, FetchWait, Isolation, Partition, Source};
use crate::{
    base::{LeaderEpoch, Offset},
    coordinator::{self, BoxFuture, ReadError, ShardLog},
    log::{self, LogError, Origin},
};

/// One leadership of this node over a partition of an internal topic.
#[derive(Debug)]
pub struct InternalLog {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
}

impl InternalLog {
    /// The leadership of `partition` in `leader_epoch`.
    #[must_use]
    pub const fn new(partition: Arc<Partition>, leader_epoch: LeaderEpoch) -> Self {
        Self { partition, leader_epoch }
    }

    fn check(&self) -> Result<(), ReadError> {
        if self.partition.leader_epoch() == Some(self.leader_epoch) {
            Ok(())
        } else {
            Err(ReadError::NotLeader)
        }
    }

    /// Waits until the replica has taken up the role that the metadata gave it.
    async fn settle(&self) {
        let wait = FetchWait::missing(i64::MAX);
        let _guard = self.partition.wait(Arc::clone(&wait));
        while self.partition.is_changing() {
            wait.ready().await;
        }
    }

    async fn read_once(&self, from: Offset, max_bytes: usize) -> Result<Option<Bytes>, ReadError> {
        self.check()?;
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        let fetched =
            self.partition.fetch(from, max_bytes, true, Isolation::ReadUncommitted, Source::Leader);
        let fetched = fetched.map_err(|error| match error {
            FetchError::Log(_) => ReadError::Storage,
            _ => ReadError::NotLeader,
        })?;
        let Some(slice) = fetched.records else {
            let end = self.partition.log().log_end_offset();
            // Compaction may have removed all that was left to read.
            return Ok((fetched.high_watermark >= end).then(Bytes::new));
        };
        let read = move || {
            let mut bytes = vec![0; slice.len_bytes as usize];
            slice.read_at(0, &mut bytes).map(|()| Bytes::from(bytes))
        };
        match self.partition.blocking().run(read).await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            _ => Err(ReadError::Storage),
        }
    }
}

impl ShardLog for InternalLog {
    fn append(&self, batch: Bytes) -> BoxFuture<'_, Result<(), coordinator::AppendError>> {
        Box::pin(async move {
            self.check().map_err(|_| coordinator::AppendError::NotLeader)?;
            let limit = self.partition.config().max_message_bytes;
            if i64::try_from(batch.len()).unwrap_or(i64::MAX) > i64::from(limit) {
                return Err(coordinator::AppendError::TooLarge);
            }
            let bytes = batch.len();
            let outcome = self.partition.append(vec![batch], bytes, Acks::All, Origin::Coordinator);
            match outcome.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(AppendError::NotEnoughReplicas)) => {
                    Err(coordinator::AppendError::NotEnoughReplicas)
                }
                Ok(Err(AppendError::Log(log::AppendError::LargerThanSegment { .. }))) => {
                    Err(coordinator::AppendError::TooLarge)
                }
                Ok(Err(AppendError::Log(_))) => Err(coordinator::AppendError::Storage),
                Ok(Err(AppendError::NotLeader | AppendError::OutOfTurn)) | Err(_) => {
                    Err(coordinator::AppendError::OutcomeUnknown)
                }
            }
        })
    }

    fn extent(&self) -> BoxFuture<'_, Result<Range<Offset>, ReadError>> {
        Box::pin(async move {
            self.settle().await;
            self.check()?;
            let log = self.partition.log();
            Ok(log.log_start_offset()..log.log_end_offset())
        })
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        Box::pin(async move {
            let wait = FetchWait::missing(1);
            let _guard = self.partition.wait(Arc::clone(&wait));
            loop {
                if let Some(bytes) = self.read_once(from, max_bytes).await? {
                    return Ok(bytes);
                }
                wait.ready().await;
                wait.reset(1);
            }
        })
    }
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        Self::Log(error.into())
    }
}
