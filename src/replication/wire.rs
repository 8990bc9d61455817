//! Frames of a replica stream between two nodes.
//!
//! A stream carries any number of subscriptions of one follower node with one leader node. Each
//! frame is what the transport delimits; its first byte says what it is, numbers are big-endian.
//! The follower opens the stream and says which version it speaks; the leader answers in the same
//! one or ends the stream.
//!
//! ```text
//! follower  Open         0  version u8, broker epoch i64
//!           Subscribe    1  session u64, topic id 16, partition i32, leader epoch i32, end i64,
//!                           last epoch i32
//!           Acknowledge  2  (session u64, end i64) as often as there is room
//!           Unsubscribe  3  session u64
//!           Credit       4  budget u8, bytes u32
//! leader    Answer       8  session u64, kind u8, epoch i32, offset i64
//!           Push         9  session u64, from i64, high watermark i64, last stable offset i64,
//!                           log start i64, batches up to the end of the frame
//!           Close       10  session u64, refusal u8
//!           Ask         11  budget u8
//! ```
//!
//! Batches are slices: of the buffer that a produce request came in when a frame is sent, of the
//! frame's own when it is read. Nothing is reserved by a number that was read, and a frame that
//! says more or less than it should is refused whole.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use super::{
    Budget,
    subscription::{Answer, Progress, Refusal, Session, Subscribe},
};
use crate::base::{BrokerEpoch, LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

/// The version that this release speaks.
pub const VERSION: u8 = 1;
/// The most subscriptions that one frame acknowledges.
pub const ACKNOWLEDGE_MAX: usize = 4096;
/// What a push takes beside its batches.
pub const PUSH_HEADER_BYTES: usize = 41;

const OPEN: u8 = 0;
const SUBSCRIBE: u8 = 1;
const ACKNOWLEDGE: u8 = 2;
const UNSUBSCRIBE: u8 = 3;
const CREDIT: u8 = 4;
const ANSWER: u8 = 8;
const PUSH: u8 = 9;
const CLOSE: u8 = 10;
const ASK: u8 = 11;

const ACKNOWLEDGED_BYTES: usize = 16;

/// What a follower says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// First on every stream.
    Open {
        /// The registration of the follower's process.
        broker_epoch: BrokerEpoch,
    },
    /// Serve this partition. The broker epoch is the stream's.
    Subscribe(TopicPartition, Subscribe),
    /// Up to where the follower holds the logs of some of its subscriptions.
    Acknowledge(Acknowledged),
    /// A subscription is over.
    Unsubscribe(Session),
    /// So many bytes more may be sent to throttled replicas.
    Credit(Budget, u32),
}

/// What a leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a subscription.
    Answer(Session, Answer),
    /// Batches and progress.
    Push(Pushed),
    /// A subscription is over.
    Close(Session, Refusal),
    /// There is something for throttled replicas, and no credit left.
    Ask(Budget),
}

/// A push as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The subscription.
    pub session: Session,
    /// Where the batches continue the follower's log.
    pub from: Offset,
    /// How far the leader is.
    pub progress: Progress,
    /// The batches, not looked at.
    pub records: Bytes,
}

/// The ends that one frame acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged(Bytes);

/// Why a frame was refused. The stream is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The other node speaks another version.
    #[error(
        "the other node speaks version {0} of the replica streams, this one {VERSION}: upgrade the older"
    )]
    Version(u8),
    /// There is nothing in it.
    #[error("an empty frame")]
    Empty,
    /// There is no such kind of frame.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// It ends too early or too late.
    #[error("a frame of kind {0} has a wrong length")]
    Length(u8),
    /// A code in it has no meaning.
    #[error("a frame of kind {kind} has an unknown code {code}")]
    Code {
        /// The frame's.
        kind: u8,
        /// The code.
        code: u8,
    },
}

impl Acknowledged {
    /// The ends, as many as fit one frame; what is left is the caller's to send in the next.
    #[must_use]
    pub fn collect(ends: &mut impl Iterator<Item = (Session, Offset)>) -> Self {
        let mut bytes = BytesMut::new();
        for (session, end) in ends.take(ACKNOWLEDGE_MAX) {
            bytes.put_u64(session.0);
            bytes.put_i64(end.0);
        }
        Self(bytes.freeze())
    }

    /// The subscriptions and their ends.
    pub fn iter(&self) -> impl Iterator<Item = (Session, Offset)> + '_ {
        self.0.chunks_exact(ACKNOWLEDGED_BYTES).map(|mut entry| {
            let session = Session(entry.get_u64());
            (session, Offset(entry.get_i64()))
        })
    }
}

impl Request {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut frame = BytesMut::with_capacity(64);
        match self {
            Self::Open { broker_epoch } => {
                frame.put_u8(OPEN);
                frame.put_u8(VERSION);
                frame.put_i64(broker_epoch.0);
            }
            Self::Subscribe(at, subscribe) => {
                frame.put_u8(SUBSCRIBE);
                frame.put_u64(subscribe.session.0);
                frame.put_slice(at.topic.0.as_bytes());
                frame.put_i32(at.partition.0);
                frame.put_i32(subscribe.leader_epoch.0);
                frame.put_i64(subscribe.log_end_offset.0);
                frame.put_i32(subscribe.last_epoch.0);
            }
            Self::Acknowledge(Acknowledged(ends)) => {
                frame.put_u8(ACKNOWLEDGE);
                frame.put_slice(ends);
            }
            Self::Unsubscribe(session) => {
                frame.put_u8(UNSUBSCRIBE);
                frame.put_u64(session.0);
            }
            Self::Credit(budget, bytes) => {
                frame.put_u8(CREDIT);
                frame.put_u8(budget_code(*budget));
                frame.put_u32(*bytes);
            }
        }
        frame.freeze()
    }

    /// Reads a frame of a stream that `broker_epoch` opened; before that frame it may be anything.
    ///
    /// # Errors
    /// Where it is no frame that a follower sends.
    pub fn decode(frame: Bytes, broker_epoch: BrokerEpoch) -> Result<Self, WireError> {
        let mut frame = Frame::new(frame)?;
        let request = match frame.kind {
            OPEN => {
                let version = frame.u8()?;
                if version != VERSION {
                    return Err(WireError::Version(version));
                }
                Self::Open { broker_epoch: BrokerEpoch(frame.i64()?) }
            }
            SUBSCRIBE => {
                let session = frame.session()?;
                let topic = TopicId(Uuid::from_u128(frame.u128()?));
                let at = TopicPartition { topic, partition: PartitionIndex(frame.i32()?) };
                let subscribe = Subscribe {
                    session,
                    broker_epoch,
                    leader_epoch: LeaderEpoch(frame.i32()?),
                    log_end_offset: frame.offset()?,
                    last_epoch: LeaderEpoch(frame.i32()?),
                };
                Self::Subscribe(at, subscribe)
            }
            ACKNOWLEDGE => {
                let ends = frame.rest();
                let is_whole = ends.len().is_multiple_of(ACKNOWLEDGED_BYTES);
                if !is_whole || ends.len() > ACKNOWLEDGE_MAX * ACKNOWLEDGED_BYTES {
                    return Err(WireError::Length(ACKNOWLEDGE));
                }
                Self::Acknowledge(Acknowledged(ends))
            }
            UNSUBSCRIBE => Self::Unsubscribe(frame.session()?),
            CREDIT => Self::Credit(budget(CREDIT, frame.u8()?)?, frame.u32()?),
            kind => return Err(WireError::Kind(kind)),
        };
        frame.end()?;
        Ok(request)
    }
}

/// What stands in front of a push's batches. The frame is this and then the batches, in parts of
/// whatever buffers they lie in.
#[must_use]
pub fn push_header(session: Session, from: Offset, progress: Progress) -> Bytes {
    let mut frame = BytesMut::with_capacity(PUSH_HEADER_BYTES);
    frame.put_u8(PUSH);
    frame.put_u64(session.0);
    frame.put_i64(from.0);
    frame.put_i64(progress.high_watermark.0);
    frame.put_i64(progress.last_stable_offset.0);
    frame.put_i64(progress.log_start_offset.0);
    frame.freeze()
}

impl Reply {
    /// The frame, in parts.
    #[must_use]
    pub fn encode(self) -> [Bytes; 2] {
        let mut frame = BytesMut::with_capacity(24);
        match self {
            Self::Answer(session, answer) => {
                let (kind, epoch, offset) = match answer {
                    Answer::Agreed => (0, 0, 0),
                    Answer::Truncate { epoch, end } => (1, epoch.0, end.0),
                    Answer::StartAt(offset) => (2, 0, offset.0),
                    Answer::Refused(refusal) => (3, i32::from(code(refusal)), 0),
                };
                frame.put_u8(ANSWER);
                frame.put_u64(session.0);
                frame.put_u8(kind);
                frame.put_i32(epoch);
                frame.put_i64(offset);
            }
            Self::Push(Pushed { session, from, progress, records }) => {
                return [push_header(session, from, progress), records];
            }
            Self::Close(session, refusal) => {
                frame.put_u8(CLOSE);
                frame.put_u64(session.0);
                frame.put_u8(code(refusal));
            }
            Self::Ask(budget) => {
                frame.put_u8(ASK);
                frame.put_u8(budget_code(budget));
            }
        }
        [frame.freeze(), Bytes::new()]
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// Where it is no frame that a leader sends.
    pub fn decode(frame: Bytes) -> Result<Self, WireError> {
        let mut frame = Frame::new(frame)?;
        let reply = match frame.kind {
            ANSWER => {
                let session = frame.session()?;
                let (kind, epoch, offset) = (frame.u8()?, frame.i32()?, frame.offset()?);
                let answer = match kind {
                    0 => Answer::Agreed,
                    1 => Answer::Truncate { epoch: LeaderEpoch(epoch), end: offset },
                    2 => Answer::StartAt(offset),
                    3 => Answer::Refused(refusal(ANSWER, u8::try_from(epoch).unwrap_or(u8::MAX))?),
                    code => return Err(WireError::Code { kind: ANSWER, code }),
                };
                Self::Answer(session, answer)
            }
            PUSH => {
                let (session, from) = (frame.session()?, frame.offset()?);
                let progress = Progress {
                    high_watermark: frame.offset()?,
                    last_stable_offset: frame.offset()?,
                    log_start_offset: frame.offset()?,
                };
                Self::Push(Pushed { session, from, progress, records: frame.rest() })
            }
            CLOSE => {
                let session = frame.session()?;
                Self::Close(session, refusal(CLOSE, frame.u8()?)?)
            }
            ASK => Self::Ask(budget(ASK, frame.u8()?)?),
            kind => return Err(WireError::Kind(kind)),
        };
        frame.end()?;
        Ok(reply)
    }
}

const REFUSALS: [Refusal; 10] = [
    Refusal::NotLeader,
    Refusal::FencedLeaderEpoch,
    Refusal::UnknownLeaderEpoch,
    Refusal::NotReplica,
    Refusal::Superseded,
    Refusal::LaterEpoch,
    Refusal::OffsetOutOfRange,
    Refusal::Storage,
    Refusal::Behind,
    Refusal::CaughtUp,
];

const fn code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::NotLeader => 0,
        Refusal::FencedLeaderEpoch => 1,
        Refusal::UnknownLeaderEpoch => 2,
        Refusal::NotReplica => 3,
        Refusal::Superseded => 4,
        Refusal::LaterEpoch => 5,
        Refusal::OffsetOutOfRange => 6,
        Refusal::Storage => 7,
        Refusal::Behind => 8,
        Refusal::CaughtUp => 9,
    }
}

fn refusal(kind: u8, code: u8) -> Result<Refusal, WireError> {
    REFUSALS.get(usize::from(code)).copied().ok_or(WireError::Code { kind, code })
}

const fn budget_code(budget: Budget) -> u8 {
    match budget {
        Budget::Operator => 0,
        Budget::Balancer => 1,
    }
}

fn budget(kind: u8, code: u8) -> Result<Budget, WireError> {
    match code {
        0 => Ok(Budget::Operator),
        1 => Ok(Budget::Balancer),
        code => Err(WireError::Code { kind, code }),
    }
}

/// A frame that is being read.
struct Frame {
    kind: u8,
    rest: Bytes,
}

impl Frame {
    fn new(mut frame: Bytes) -> Result<Self, WireError> {
        let kind = frame.try_get_u8().map_err(|_| WireError::Empty)?;
        Ok(Self { kind, rest: frame })
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.rest.try_get_u8().map_err(|_| WireError::Length(self.kind))
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.rest.try_get_u32().map_err(|_| WireError::Length(self.kind))
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.rest.try_get_i32().map_err(|_| WireError::Length(self.kind))
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        self.rest.try_get_i64().map_err(|_| WireError::Length(self.kind))
    }

    fn u128(&mut self) -> Result<u128, WireError> {
        self.rest.try_get_u128().map_err(|_| WireError::Length(self.kind))
    }

    fn offset(&mut self) -> Result<Offset, WireError> {
        self.i64().map(Offset)
    }

    fn session(&mut self) -> Result<Session, WireError> {
        let session = self.rest.try_get_u64().map_err(|_| WireError::Length(self.kind))?;
        Ok(Session(session))
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Length(self.kind)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BROKER: BrokerEpoch = BrokerEpoch(8);

    fn offset() -> impl Strategy<Value = Offset> {
        any::<i64>().prop_map(Offset)
    }

    fn session() -> impl Strategy<Value = Session> {
        any::<u64>().prop_map(Session)
    }

    fn request() -> impl Strategy<Value = Request> {
        let subscribe = (any::<u128>(), any::<[i32; 3]>(), session(), offset());
        let subscribe = subscribe.prop_map(|(topic, numbers, session, log_end_offset)| {
            let topic = TopicId(Uuid::from_u128(topic));
            let at = TopicPartition { topic, partition: PartitionIndex(numbers[0]) };
            let (leader_epoch, last_epoch) = (LeaderEpoch(numbers[1]), LeaderEpoch(numbers[2]));
            let broker_epoch = BROKER;
            Request::Subscribe(
                at,
                Subscribe { session, broker_epoch, leader_epoch, log_end_offset, last_epoch },
            )
        });
        let ends = prop::collection::vec((session(), offset()), 0..20);
        prop_oneof![
            any::<i64>().prop_map(|epoch| Request::Open { broker_epoch: BrokerEpoch(epoch) }),
            subscribe,
            ends.prop_map(|ends| {
                Request::Acknowledge(Acknowledged::collect(&mut ends.into_iter()))
            }),
            session().prop_map(Request::Unsubscribe),
            (budgets(), any::<u32>()).prop_map(|(budget, bytes)| Request::Credit(budget, bytes)),
        ]
    }

    fn budgets() -> impl Strategy<Value = Budget> {
        prop::sample::select(&[Budget::Operator, Budget::Balancer][..])
    }

    fn refused() -> impl Strategy<Value = Refusal> {
        prop::sample::select(&REFUSALS[..])
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let answer = prop_oneof![
            Just(Answer::Agreed),
            (any::<i32>(), offset())
                .prop_map(|(epoch, end)| Answer::Truncate { epoch: LeaderEpoch(epoch), end }),
            offset().prop_map(Answer::StartAt),
            refused().prop_map(Answer::Refused),
        ];
        let numbers = (session(), offset(), offset(), offset(), offset());
        let pushed = (numbers, prop::collection::vec(any::<u8>(), 0..100));
        prop_oneof![
            (session(), answer).prop_map(|(session, answer)| Reply::Answer(session, answer)),
            pushed.prop_map(|((session, from, hw, lso, start), records)| {
                let progress = Progress {
                    high_watermark: hw,
                    last_stable_offset: lso,
                    log_start_offset: start,
                };
                Reply::Push(Pushed { session, from, progress, records: records.into() })
            }),
            (session(), refused()).prop_map(|(session, refusal)| Reply::Close(session, refusal)),
            budgets().prop_map(Reply::Ask),
        ]
    }

    fn joined(parts: &[Bytes]) -> Bytes {
        parts.concat().into()
    }

    proptest! {
        #[test]
        fn requests_are_read_as_they_were_written(request in request()) {
            prop_assert_eq!(Request::decode(request.encode(), BROKER), Ok(request));
        }

        #[test]
        fn replies_are_read_as_they_were_written(reply in reply()) {
            prop_assert_eq!(Reply::decode(joined(&reply.clone().encode())), Ok(reply));
        }

        #[test]
        fn whatever_arrives_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            drop(Reply::decode(bytes.clone()));
            if let Ok(request) = Request::decode(bytes.clone(), BROKER) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }

        #[test]
        fn a_frame_that_was_cut_or_grew_is_refused(request in request(), reply in reply()) {
            let frame = request.encode();
            let is_list = matches!(request, Request::Acknowledge(_));
            for len in (0..frame.len()).filter(|len| !is_list || len % 16 != 1) {
                prop_assert!(Request::decode(frame.slice(..len), BROKER).is_err());
            }
            let longer = joined(&[frame, Bytes::from_static(b"x")]);
            prop_assert!(Request::decode(longer, BROKER).is_err());
            let is_push = matches!(reply, Reply::Push(_));
            let frame = joined(&reply.encode());
            let fixed = if is_push { PUSH_HEADER_BYTES } else { frame.len() };
            for len in 0..fixed {
                prop_assert!(Reply::decode(frame.slice(..len)).is_err());
            }
        }
    }

    #[test]
    fn batches_are_neither_copied_when_sent_nor_when_read() {
        let records = Bytes::from(vec![7; 100]);
        let (session, from, progress) = (Session(1), Offset(2), Progress::default());
        let pushed = Pushed { session, from, progress, records: records.clone() };
        let parts = Reply::Push(pushed).encode();
        assert_eq!(parts[1].as_ptr(), records.as_ptr());
        let frame = joined(&parts);
        let Ok(Reply::Push(read)) = Reply::decode(frame.clone()) else { panic!("no push") };
        assert_eq!(read.records.as_ptr(), frame[PUSH_HEADER_BYTES..].as_ptr());
    }

    #[test]
    fn more_acknowledgements_than_fit_go_into_the_next_frame() {
        let mut ends = (0..ACKNOWLEDGE_MAX as u64 + 1).map(|n| (Session(n), Offset(n as i64)));
        let first = Acknowledged::collect(&mut ends);
        let last = Acknowledged::collect(&mut ends);
        assert_eq!((first.iter().count(), last.iter().count()), (ACKNOWLEDGE_MAX, 1));
        let oversized = [&[ACKNOWLEDGE][..], &first.0, &last.0].concat();
        let refused = Request::decode(oversized.into(), BROKER);
        assert_eq!(refused, Err(WireError::Length(ACKNOWLEDGE)));
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut frame = Request::Open { broker_epoch: BROKER }.encode().to_vec();
        frame[1] = 2;
        assert_eq!(Request::decode(frame.into(), BROKER), Err(WireError::Version(2)));
    }
}
