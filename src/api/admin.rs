//! CreateTopics, DeleteTopics and CreatePartitions: passed on to the controller, which answers each
//! topic by itself. Where it gives no answer, every topic is answered with the reason.
//!
//! References: KIP-4, KIP-195, KIP-464 (defaults), KIP-516 (deletion by id), KIP-599.

use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
    create_partitions_response::CreatePartitionsTopicResult,
    create_topics_response::CreatableTopicResult, delete_topics_request::DeleteTopicState,
    delete_topics_response::DeletableTopicResult,
};

use super::{Context, error::WireError};
use crate::{controller, protocol::ResponseError};

/// Why there is no answer of the kind that was asked for.
pub(super) fn failure(result: Result<controller::Response, WireError>) -> WireError {
    result.err().unwrap_or_else(|| ResponseError::UnknownServerError.into())
}

/// CreateTopics 2–7.
pub(super) async fn create_topics(
    context: &Context,
    request: CreateTopicsRequest,
    _version: i16,
) -> CreateTopicsResponse {
    let names: Vec<TopicName> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let timeout_ms = request.timeout_ms;
    let asked = controller::Request::CreateTopics(request);
    match context.ask_controller(asked, timeout_ms).await {
        Ok(controller::Response::CreateTopics(response)) => response,
        other => {
            let error = failure(other);
            let topics = names.into_iter().map(|name| {
                CreatableTopicResult::default()
                    .with_name(name)
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.clone().map(Into::into))
            });
            CreateTopicsResponse::default().with_topics(topics.collect())
        }
    }
}

/// DeleteTopics 1–6.
pub(super) async fn delete_topics(
    context: &Context,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let named = request.topic_names.iter().cloned();
    let named = named.map(|name| DeleteTopicState::default().with_name(Some(name)));
    let topics: Vec<DeleteTopicState> = request.topics.iter().cloned().chain(named).collect();
    let result = if context.broker_config().delete_topic_enable {
        let timeout_ms = request.timeout_ms;
        context.ask_controller(controller::Request::DeleteTopics(request), timeout_ms).await
    } else {
        Err(deletion_disabled(version))
    };
    match result {
        Ok(controller::Response::DeleteTopics(response)) => response,
        other => {
            let error = failure(other);
            let responses = topics.into_iter().map(|topic| {
                DeletableTopicResult::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.topic_id)
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.clone().map(Into::into))
            });
            DeleteTopicsResponse::default().with_responses(responses.collect())
        }
    }
}

/// Clients of before version 3 do not know the code that says so.
fn deletion_disabled(version: i16) -> WireError {
    let code = if version < 3 {
        ResponseError::InvalidRequest
    } else {
        ResponseError::TopicDeletionDisabled
    };
    WireError::new(code, "Topics cannot be deleted: delete.topic.enable is false.")
}

/// CreatePartitions 0–3.
pub(super) async fn create_partitions(
    context: &Context,
    request: CreatePartitionsRequest,
    _version: i16,
) -> CreatePartitionsResponse {
    let names: Vec<TopicName> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let timeout_ms = request.timeout_ms;
    let asked = controller::Request::CreatePartitions(request);
    match context.ask_controller(asked, timeout_ms).await {
        Ok(controller::Response::CreatePartitions(response)) => response,
        other => {
            let error = failure(other);
            let results = names.into_iter().map(|name| {
                CreatePartitionsTopicResult::default()
                    .with_name(name)
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.clone().map(Into::into))
            });
            CreatePartitionsResponse::default().with_results(results.collect())
        }
    }
}
