//! From what went wrong inside to what a client is told: the one place where it is decided.

use crate::{
    log::{self, LogError},
    protocol::ResponseError,
    replication::{AppendError, FetchError},
};

/// An error code and, where the API has room for it, a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireError {
    pub(crate) code: ResponseError,
    pub(crate) message: Option<String>,
}

impl WireError {
    /// An error that says what happened in words too.
    pub(crate) fn new(code: ResponseError, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }
}

impl From<ResponseError> for WireError {
    fn from(code: ResponseError) -> Self {
        Self { code, message: None }
    }
}

impl From<&LogError> for WireError {
    fn from(error: &LogError) -> Self {
        let code = match error {
            LogError::Storage(_) | LogError::Corrupt { .. } | LogError::Offline { .. } => {
                ResponseError::KafkaStorageError
            }
            LogError::Closed(_) => ResponseError::NotLeaderOrFollower,
            LogError::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&AppendError> for WireError {
    fn from(error: &AppendError) -> Self {
        use log::AppendError as Log;
        let code = match error {
            AppendError::NotLeader => ResponseError::NotLeaderOrFollower,
            // The one that has clients try again where they are.
            AppendError::NotEnoughReplicas | AppendError::OutOfTurn => {
                ResponseError::NotEnoughReplicas
            }
            AppendError::Log(Log::Log(error)) => return error.into(),
            AppendError::Log(Log::LargerThanSegment { .. }) => ResponseError::RecordListTooLarge,
            AppendError::Log(Log::InvalidProducerEpoch { .. }) => {
                ResponseError::InvalidProducerEpoch
            }
            AppendError::Log(Log::OutOfOrderSequence { .. }) => {
                ResponseError::OutOfOrderSequenceNumber
            }
            AppendError::Log(Log::InvalidTxnState { .. }) => ResponseError::InvalidTxnState,
            AppendError::Log(Log::TransactionCoordinatorFenced { .. }) => {
                ResponseError::TransactionCoordinatorFenced
            }
            AppendError::Log(Log::Damaged(_)) => ResponseError::CorruptMessage,
            AppendError::Log(Log::UnexpectedOffset { .. }) => ResponseError::UnknownServerError,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&FetchError> for WireError {
    fn from(error: &FetchError) -> Self {
        let code = match error {
            FetchError::NotLeader => ResponseError::NotLeaderOrFollower,
            FetchError::UnknownLeaderEpoch => ResponseError::UnknownLeaderEpoch,
            FetchError::FencedLeaderEpoch => ResponseError::FencedLeaderEpoch,
            FetchError::OffsetNotAvailable => ResponseError::OffsetNotAvailable,
            FetchError::Log(error) => return error.into(),
        };
        Self::new(code, error.to_string())
    }
}
