//! Asks the controller about the ISRs of the partitions that this node leads: one request at a time,
//! for all that have gathered meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use futures::future::BoxFuture;
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Partition, Partitions, isr_request,
    leader::{AlterError, AlterPartition},
};
use crate::base::{BrokerEpoch, TopicPartition};

/// The most partitions that one request names.
const REQUEST_MAX: usize = 1_000;

/// Takes a question to the controller; none where it gave no answer in time.
pub type AskController<'a> = &'a (
        dyn Fn(AlterPartitionRequest) -> BoxFuture<'static, Option<AlterPartitionResponse>>
            + Send
            + Sync
    );

/// The newest question of each partition that has one.
#[derive(Debug, Default)]
pub(super) struct IsrQuestions {
    waiting: Mutex<BTreeMap<TopicPartition, Question>>,
    wake: Notify,
}

#[derive(Debug)]
struct Question {
    asked: AlterPartition,
    /// One that is deleted meanwhile has no question.
    partition: Weak<Partition>,
}

impl IsrQuestions {
    /// A partition has a question, which takes the place of any that it had before.
    pub(super) fn ask(&self, partition: &Arc<Partition>, asked: AlterPartition) {
        let question = Question { asked, partition: Arc::downgrade(partition) };
        self.waiting.lock().insert(partition.id(), question);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<(TopicPartition, Question)> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < REQUEST_MAX
            && let Some(question) = waiting.pop_first()
        {
            taken.push(question);
        }
        taken
    }
}

impl Partitions {
    /// Asks what the partitions want to know, until it is dropped.
    pub async fn ask_controller(&self, ask: AskController<'_>) {
        let questions = &self.shared.questions;
        loop {
            let taken = questions.take();
            if taken.is_empty() {
                questions.wake.notified().await;
                continue;
            }
            let broker_epoch = self.broker_epoch().unwrap_or(BrokerEpoch(-1));
            let asked: Vec<_> = taken.iter().map(|(id, question)| (*id, &question.asked)).collect();
            let response = ask(isr_request::request(self.shared.node, broker_epoch, &asked)).await;
            for (id, question) in taken {
                let answer = match &response {
                    Some(response) => isr_request::answer(response, id),
                    None => Err(AlterError::Unanswered),
                };
                if let Some(partition) = question.partition.upgrade() {
                    partition.altered(&question.asked, answer);
                }
            }
        }
    }
}
